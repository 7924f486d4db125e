//! `std::thread::spawn` for each connection.

use std::thread;

use anyhow::Result;
use bench_peers::{Handler, Listener};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    match Listener::from_args()? {
        Listener::Tcp(listener) => loop {
            let (mut stream, _) = listener.accept()?;
            // A client that is gone is no failure of the server.
            thread::spawn(move || handler.serve(&mut stream));
        },
        Listener::Unix(listener) => loop {
            let (mut stream, _) = listener.accept()?;
            thread::spawn(move || handler.serve(&mut stream));
        },
    }
}
