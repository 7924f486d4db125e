//! A proxy for any protocol: passes on both directions at once, and the end of each. The servers
//! take turns. `proxy [ADDRESS [SERVER]...]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::time::Duration;

use socketserver::net::{Dialed, Relay, TcpConnection};
use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, HandlerError};

pub(crate) fn relay(client: &mut impl Connection, servers: &[String]) -> Result<(), HandlerError> {
    let mut server = dial(client.id() as usize, servers)?;
    Ok(Relay::new().run(client, &mut server).result()?)
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
