//! A transport over another one: TCP with a layer on each connection that counts bytes. Sends each
//! line back, after the counts so far.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, Write};

use socketserver::net::TcpConnection;
use socketserver::net::{Layer, Layered, LayeredConnection};
use socketserver::{Connection, Next, Server, Tcp, Threading};

/// The byte counts of one connection.
#[derive(Default)]
pub(crate) struct Counter {
    received: u64,
    sent: u64,
}

impl<C: Connection> Layer<C> for Counter {
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        let count = below.read(buf)?;
        self.received += count as u64;
        Ok(count)
    }

    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        let count = below.write(buf)?;
        self.sent += count as u64;
        Ok(count)
    }
}

pub(crate) type CountedTcp = Layered<Tcp, Counter>;
pub(crate) type CountedConnection = LayeredConnection<TcpConnection, Counter>;

/// Called for each line: a silent client holds no thread.
pub(crate) fn echo(conn: &mut CountedConnection) -> io::Result<Next> {
    let mut line = String::new();
    if conn.read_line_max(&mut line, 4096)? == 0 {
        return Ok(Next::Close);
    }
    let Counter { received, sent } = conn.layer();
    let counts = format!("{received} received, {sent} sent: ");
    conn.write_all((counts + &line).as_bytes())?;
    Ok(Next::Park)
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("127.0.0.1:8000");
    let server = Server::<CountedTcp, Threading>::bind(addr)?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(echo)?;
    Ok(())
}
