//! The accept loop that one writes by hand: one thread, one connection after the other.

use std::net::TcpListener;

use anyhow::Result;
use bench_peers::{Handler, announce};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce("tcp", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept()?;
        // A client that is gone is no failure of the server.
        let _ = handler.serve(&mut stream);
    }
}
