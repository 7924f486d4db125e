//! The accept loop that one writes by hand: one thread, one connection after the other.

use anyhow::Result;
use bench_peers::{Handler, listen_tcp};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    let listener = listen_tcp()?;
    loop {
        let (mut stream, _) = listener.accept()?;
        // A client that is gone is no failure of the server.
        let _ = handler.serve(&mut stream);
    }
}
