//! A page of "hello world" with the library: reads a head line by line, answers, and goes on until the client ends.
//!
//! `library_http threading|coroutines+epoll|coroutines+uring`
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::io::{self, Write};

use anyhow::{Result, bail};
use bench_peers::announce;
use socketserver::model::{Driver, Model};
use socketserver::net::TcpConnection;
use socketserver::{Connection, Coroutines, Server, Tcp, Threading};

/// The longest head that is taken.
const HEAD: usize = 8192;

const PAGE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("threading") => serve(Threading::default()),
        Some("coroutines+epoll") => serve(coroutines(Driver::Epoll)),
        Some("coroutines+uring") => serve(coroutines(Driver::Uring)),
        _ => bail!("the argument is the model, in lower case"),
    }
}

fn coroutines(driver: Driver) -> Coroutines {
    // SAFETY: the handler leaves thread-locals alone.
    unsafe { Coroutines::new() }.workers(1).driver(driver)
}

fn serve<M: Model>(model: M) -> Result<()> {
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(hello)?;
    Ok(())
}

fn hello(conn: &mut TcpConnection) -> io::Result<()> {
    let mut head = Vec::new();
    while read_head(conn, &mut head)? {
        let mut words = head.split(|byte| *byte == b' ');
        let answer = match words.nth(1) {
            Some(b"/") => PAGE,
            _ => NOT_FOUND,
        };
        conn.write_all(answer.as_bytes())?;
        head.clear();
    }
    Ok(())
}

/// Reads up to the empty line. Says whether there was a request at all.
fn read_head(conn: &mut TcpConnection, head: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let start = head.len();
        if conn.read_until_max(b'\n', head, HEAD.saturating_sub(start))? == 0 {
            return Ok(false);
        }
        if head[start..] == *b"\r\n" {
            return Ok(true);
        }
    }
}
