//! Stops without breaking off an answer: a client that sends `stop` ends the server. A client that
//! was asked for a line has a second to send it, and answers have two to finish.
//! `ServerHandle::shutdown` may also be called from a signal handler.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, Error, Server, ServerHandle, Tcp};

fn shout(conn: &mut impl Connection, server: &ServerHandle) -> io::Result<()> {
    let mut line = String::new();
    // A client that was asked for a line gets its answer; a server that stops asks for no other.
    while !conn.stopping() {
        conn.write_all(b"your line?\n")?;
        if !conn.next_message()? {
            break;
        }
        conn.read_line_max(&mut line, 4096)?;
        match &*line {
            "stop\n" => server.shutdown(),
            _ => conn.write_all(line.to_uppercase().as_bytes())?,
        }
        line.clear();
    }
    Ok(())
}

pub(crate) fn serve<M: Model>(server: Server<Tcp, M>) -> Result<(), Error> {
    let handle = server.handle();
    let stop = handle.clone();
    let report = server.serve_forever(move |conn| shout(conn, &stop))?;
    let clients = handle.totals().accepted;
    eprintln!("{} of {clients} clients were aborted", report.aborted);
    Ok(())
}

fn main() -> Result<(), Error> {
    let addr = std::env::args().nth(1);
    let server = ThreadingTcpServer::builder()
        .drain_timeout(Duration::from_secs(2))
        .bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    serve(server)
}
