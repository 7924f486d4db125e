//! A proxy for any protocol: passes on both directions at once, and the end of each. The servers
//! take turns. `proxy [ADDRESS [SERVER]...]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, BufReader};
use std::time::Duration;

use socketserver::net::{Dialed, ReadHalf, TcpConnection, WriteHalf};
use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, HandlerError, task};

pub(crate) fn relay(client: &mut impl Connection, servers: &[String]) -> Result<(), HandlerError> {
    let mut server = dial(client.id() as usize, servers)?;
    let (from_server, to_server) = server.halves()?;
    let (from_client, to_client) = client.halves()?;
    task::scope(|scope| {
        let back = scope.spawn(|| pass(from_server, to_client))?;
        let there = pass(from_client, to_server);
        let back = back.join().map_err(|_| "a panic")?;
        Ok(there.and(back)?)
    })
}

/// Connects to the server whose turn it is, or to the next one that can be reached.
fn dial(turn: usize, servers: &[String]) -> Result<Dialed<TcpConnection>, HandlerError> {
    let mut dialed = Err("there are no servers".into());
    for place in turn..turn + servers.len() {
        let server = servers[place % servers.len()].clone();
        dialed = TcpConnection::connect(server, Duration::from_secs(5)).map_err(Into::into);
        if dialed.is_ok() {
            break;
        }
    }
    dialed
}

/// Passes one direction on. While `to` is slow, there are 64 KiB here, and the rest waits in `from`.
fn pass(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let copied = io::copy(&mut from, &mut to);
    // After a failure too, so that the other direction ends.
    let ended = to.shutdown();
    copied.and(ended)
}

fn main() -> Result<(), socketserver::Error> {
    let mut args = std::env::args().skip(1);
    let addr = args.next();
    let servers: Vec<String> = args.collect();
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(move |client| relay(client, &servers))?;
    Ok(())
}
