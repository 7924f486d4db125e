//! Eight threads: fed through a bounded channel by one that accepts, or each accepting for itself.

use std::env;
use std::net::TcpListener;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};
use bench_peers::{Handler, announce};

const THREADS: usize = 8;

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    let feed = env::args().nth(2);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce("tcp", listener.local_addr()?);
    match feed.as_deref() {
        Some("channel") => channel(&listener, handler),
        Some("accept") => accept(&listener, handler),
        _ => bail!("the second argument says how threads are fed: channel or accept"),
    }
}

fn channel(listener: &TcpListener, handler: Handler) -> Result<()> {
    let (feed, connections) = sync_channel(THREADS);
    let connections = Arc::new(Mutex::new(connections));
    for _ in 0..THREADS {
        let connections = Arc::clone(&connections);
        thread::spawn(move || {
            loop {
                let next = connections.lock().map(|connections| connections.recv());
                let Ok(Ok(mut stream)) = next else { return };
                // A client that is gone is no failure of the server.
                let _ = handler.serve(&mut stream);
            }
        });
    }
    loop {
        let (stream, _) = listener.accept()?;
        feed.send(stream).context("every thread has ended")?;
    }
}

fn accept(listener: &TcpListener, handler: Handler) -> Result<()> {
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = handler.serve(&mut stream);
                }
            });
        }
    });
    bail!("accepting failed in every thread")
}
