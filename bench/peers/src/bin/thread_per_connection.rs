//! `std::thread::spawn` for each connection.

use std::net::TcpListener;
use std::thread;

use anyhow::Result;
use bench_peers::{Handler, announce};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce("tcp", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept()?;
        // A client that is gone is no failure of the server.
        thread::spawn(move || handler.serve(&mut stream));
    }
}
