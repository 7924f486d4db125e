//! The library over TLS: a plain `Server<Tls<Tcp>>` with the handler of the peers.
//!
//! `library_tls MODEL tcp BUFFER`; in a pool, connections are parked between messages, so that they hold no threads.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::io::{self, Read, Write};

use anyhow::{Result, bail};
use bench_load::certificate_files;
use bench_peers::{announce, echo, size_from_args};
use socketserver::model::{Driver, Model};
use socketserver::net::{Bind, TcpConnection};
use socketserver::tls::{Tls, TlsConfig, TlsConnection};
use socketserver::{Coroutines, IntoOutcome, Next, Server, Tcp, ThreadPool, Threading};

const MAX_CONNECTIONS: u64 = 12_000;

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("threading") => serve(Threading::default(), echo),
        Some("pool") => serve(ThreadPool::new(8), echo_once),
        Some("coroutines+epoll") => serve(coroutines(Driver::Epoll), echo),
        Some("coroutines+uring") => serve(coroutines(Driver::Uring), echo),
        _ => bail!("the first argument is the model, in lower case"),
    }
}

fn coroutines(driver: Driver) -> Coroutines {
    // SAFETY: the handler leaves thread-locals alone.
    unsafe { Coroutines::new() }.workers(1).driver(driver)
}

type Conn = TlsConnection<TcpConnection>;

/// Sends back what has come, or ends.
fn echo_once(conn: &mut Conn, size: usize) -> io::Result<Next> {
    let mut buf = vec![0; size];
    match conn.read(&mut buf)? {
        0 => Ok(Next::Close),
        count => conn.write_all(&buf[..count]).map(|()| Next::Park),
    }
}

fn serve<M: Model, O: 'static>(
    model: M,
    handler: fn(&mut Conn, usize) -> io::Result<O>,
) -> Result<()>
where
    io::Result<O>: IntoOutcome,
{
    let size = size_from_args()?;
    let (certificate, key) = certificate_files()?;
    let tls = TlsConfig::builder().certificate(certificate, key).build()?;
    let server = Server::<Tls<Tcp>>::builder()
        .model(model)
        .max_connections(MAX_CONNECTIONS)
        .listen(tls.listen(Tcp::bind("127.0.0.1:0")?))
        .build()?;
    for addr in server.local_addrs() {
        announce("tls", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(move |conn: &mut Conn| handler(conn, size))?;
    Ok(())
}
