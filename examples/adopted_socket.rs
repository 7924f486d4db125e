//! Serves on a TCP listener that is its standard input, as systemd passes it with
//! `StandardInput=socket`. With an address, binds a listener instead.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::AsFd;

use socketserver::Tcp;
use socketserver::net::Bind;
use socketserver::python::ThreadingTcpServer;

pub(crate) fn listeners(addr: Option<String>) -> Result<Vec<Tcp>, Box<dyn Error>> {
    Ok(match addr {
        Some(addr) => Tcp::bind(addr)?,
        None => vec![Tcp::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?],
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let listeners = listeners(std::env::args().nth(1))?;
    let server = ThreadingTcpServer::builder().listen(listeners).build()?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(|conn| conn.write_all(b"hello world\n"))?;
    Ok(())
}
