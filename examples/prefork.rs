//! Four worker processes share one TCP listener, each with a pool of eight threads. A worker that
//! dies is replaced.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::process;

use socketserver::{Connection, Prefork, Server, Tcp, ThreadPool};

pub(crate) fn answer(conn: &mut impl Connection) -> io::Result<()> {
    let line = format!("connection {} in process {}\n", conn.id(), process::id());
    conn.write_all(line.as_bytes())
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = Server::<Tcp>::builder()
        .model(Prefork::new(4, ThreadPool::new(8)))
        .on_accept_error(|err| eprintln!("{err}"))
        .on_ready(|| eprintln!("all workers accept"))
        .bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(answer)?;
    Ok(())
}
