//! A session that outlives its thread: a client sends its name, then lines. It has a thread of the
//! pool only while a line is answered; in between, the server keeps its name and a count.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, Write};

use socketserver::net::TcpConnection;
use socketserver::{Connection, Next, Server, Tcp, ThreadPool, per_connection};

/// The longest line that a client may send, in bytes, and how many it may send before it logs in.
const LINE_MAX: usize = 1024;
const TRIES: u32 = 3;

#[derive(Default)]
pub(crate) struct Session {
    /// Empty before the login.
    name: String,
    lines: u32,
}

pub(crate) fn answer(conn: &mut TcpConnection, session: &mut Session) -> io::Result<Next> {
    let mut line = String::new();
    if conn.read_line_max(&mut line, LINE_MAX)? == 0 {
        return Ok(Next::Close);
    }
    let line = line.trim_end();
    session.lines += 1;
    let Session { name, lines } = session;
    if !name.is_empty() {
        writeln!(conn, "{name}, line {lines}: {line}")?;
    } else if let Some(new) = line.strip_prefix("login ") {
        writeln!(conn, "hello, {new}")?;
        (*name, *lines) = (new.to_owned(), 0);
    } else {
        writeln!(conn, "say: login NAME")?;
        if *lines == TRIES {
            return Ok(Next::Close);
        }
    }
    Ok(Next::Park)
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let builder = Server::<Tcp>::builder().model(ThreadPool::new(4));
    let server = builder.bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(per_connection(Session::default, answer))?;
    Ok(())
}
