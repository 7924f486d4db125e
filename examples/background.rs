//! Serves on a thread while `main` reads standard input: each line prints the number of clients so
//! far, and the end of input stops the server.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::error::Error;
use std::io::{self, Write};

use socketserver::model::Model;
use socketserver::python::ThreadingTcpServer;
use socketserver::{Connection, Server, Tcp};

fn greet(conn: &mut impl Connection) -> io::Result<()> {
    conn.write_all(b"who are you?\n")?;
    let mut name = String::new();
    conn.read_line_max(&mut name, 80)?;
    conn.write_all(format!("hello {name}").as_bytes())
}

pub(crate) fn serve_until_end_of_input<M: Model>(
    server: Server<Tcp, M>,
) -> Result<(), Box<dyn Error>> {
    // The drop of the guard stops the server, even after an early return.
    let guard = server.spawn(greet)?;
    let handle = guard.handle().clone();
    for line in io::stdin().lines() {
        line?;
        writeln!(io::stdout(), "{} came", handle.totals().accepted)?;
    }
    let report = guard.stop()?;
    let served = handle.totals().completed;
    writeln!(io::stdout(), "{served} served, {} aborted", report.aborted)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1);
    let server = ThreadingTcpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    serve_until_end_of_input(server)
}
