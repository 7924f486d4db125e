//! Greets every TCP client, each on a thread of its own.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::Write;

use socketserver::python::ThreadingTcpServer;

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    eprintln!("listening on {}", server.urls().join(" and "));
    server.serve_forever(|conn| conn.write_all(b"hello world\n"))?;
    Ok(())
}
