//! Collects log lines: prints each datagram that arrives at a Unix socket as a numbered line.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, Write};

use socketserver::python::UnixDatagramServer;
use socketserver::{Datagram, UnixDatagram};

pub(crate) fn log(datagram: &mut impl Datagram) -> io::Result<()> {
    let text = String::from_utf8_lossy(datagram.packet());
    writeln!(io::stdout(), "{:04} {}", datagram.id(), text.trim_end())
}

fn main() -> Result<(), socketserver::Error> {
    let path = std::env::args().nth(1);
    // Every user who may write to the socket's file may log.
    let socket = UnixDatagram::options()
        .mode(0o666)
        .bind(path.as_deref().unwrap_or("/tmp/log.sock"))?;
    let server = UnixDatagramServer::builder().listen([socket]).build()?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(log)?;
    Ok(())
}
