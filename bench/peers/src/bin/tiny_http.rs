//! A page of "hello world" with tiny_http, and as many threads as it takes to keep one processor busy.

use std::sync::Arc;
use std::thread;

use anyhow::{Result, anyhow};
use bench_peers::listen_tcp;
use tiny_http::{Header, Response, Server};

/// The threads that answer; tiny_http has one more for each connection.
const THREADS: usize = 4;

fn main() -> Result<()> {
    let listener = listen_tcp()?;
    let server = Server::from_listener(listener, None).map_err(|err| anyhow!("{err}"))?;
    let server = Arc::new(server);
    let plain: Header = "Content-Type: text/plain"
        .parse()
        .map_err(|()| anyhow!("a header"))?;
    let answering = (0..THREADS).map(|_| {
        let (server, plain) = (Arc::clone(&server), plain.clone());
        thread::spawn(move || {
            for request in server.incoming_requests() {
                let page = Response::from_string("hello world\n").with_header(plain.clone());
                let _ = request.respond(page);
            }
        })
    });
    for thread in answering.collect::<Vec<_>>() {
        let _ = thread.join();
    }
    Ok(())
}
