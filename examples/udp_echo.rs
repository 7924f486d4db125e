//! Sends every UDP datagram back to its sender, one after the other. The handler suits every
//! datagram transport.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use socketserver::Datagram;
use socketserver::python::UdpServer;

pub(crate) fn echo(datagram: &mut impl Datagram) {
    datagram.echo();
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = UdpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(echo)?;
    Ok(())
}
