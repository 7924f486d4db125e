//! A proxy for protocols of lines: passes each line of a client to another server, and its answer
//! back. `proxy [ADDRESS [SERVER]]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::time::Duration;

use socketserver::net::TcpConnection;
use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, HandlerError};

pub(crate) fn relay(client: &mut impl Connection, server: &str) -> Result<(), HandlerError> {
    // A dialed connection blocks as a client's does.
    let mut server = TcpConnection::connect(server.to_owned(), Duration::from_secs(5))?;
    while pass_line(client, &mut server)? && pass_line(&mut server, client)? {}
    Ok(())
}

/// Passes one line on. Returns whether there was one.
fn pass_line(from: &mut impl Connection, to: &mut impl Connection) -> io::Result<bool> {
    let mut line = String::new();
    let length = from.read_line_max(&mut line, 4096)?;
    to.write_all(line.as_bytes())?;
    Ok(length > 0)
}

fn main() -> Result<(), socketserver::Error> {
    let (addr, server) = (std::env::args().nth(1), std::env::args().nth(2));
    let upstream = server.unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(move |client| relay(client, &upstream))?;
    Ok(())
}
