//! A web server with one page, on a pool of eight threads. None of them waits for a slow client:
//! the server calls the handler with whole requests, within a limit and a timeout.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::io::{self, ErrorKind};
use std::time::Duration;

use socketserver::{Connection, Server, Tcp, ThreadPool};

/// Reads a request line and its headers. Returns the requested path.
fn read_request(conn: &mut impl Connection) -> io::Result<String> {
    let (mut head, mut start) = (String::new(), 0);
    while conn.read_line_max(&mut head, 8192 - start)? > 0 {
        if head[start..].trim_end().is_empty() {
            let path = head.split(' ').nth(1).ok_or(ErrorKind::InvalidData)?;
            return Ok(path.to_owned());
        }
        start = head.len();
    }
    Err(ErrorKind::UnexpectedEof.into())
}

/// Returns whether the empty line after the headers has arrived.
fn is_whole(input: &[u8]) -> bool {
    input.windows(4).any(|end| end == b"\r\n\r\n")
}

pub(crate) fn hello(conn: &mut impl Connection) -> io::Result<()> {
    let (status, page) = match read_request(conn) {
        Ok(path) if path == "/" => ("200 OK", "hello world\n"),
        Ok(_) => ("404 Not Found", "there is only /\n"),
        Err(err) if err.kind() == ErrorKind::InvalidData => {
            ("400 Bad Request", "no HTTP, or too much\n")
        }
        Err(err) => return Err(err),
    };
    // The buffer joins the pieces that `write!` writes.
    conn.set_write_buffer(1024)?;
    write!(
        conn,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len()
    )
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = Server::<Tcp>::builder()
        .model(ThreadPool::new(8))
        .whole_request(is_whole)
        .request_timeout(Duration::from_secs(20))
        .bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server.serve_forever(hello)?;
    Ok(())
}
