//! Handlers of the library under coroutines that wait in different ways, to see what an idle connection takes.
//!
//! `idle lines|stack|park epoll|uring [tls]`: `lines` waits in a read through the connection's own buffer, `stack` in a read
//! into 4 KiB on its stack, `park` has given its stack back.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::io;

use anyhow::{Result, bail};
use bench_load::certificate_files;
use bench_peers::announce;
use socketserver::model::Driver;
use socketserver::net::{Bind, Connection, Transport};
use socketserver::tls::TlsConfig;
use socketserver::{Coroutines, IntoOutcome, Next, Server, Tcp};

/// The longest line that is taken.
const LINE: usize = 1024;

fn main() -> Result<()> {
    let tcp = Tcp::bind("127.0.0.1:0")?;
    if env::args().nth(3).as_deref() != Some("tls") {
        return serve_on("tcp", tcp);
    }
    let (certificate, key) = certificate_files()?;
    let tls = TlsConfig::builder().certificate(certificate, key).build()?;
    serve_on("tls", tls.listen(tcp))
}

fn serve_on<T: Transport<Accepted: Connection>>(scheme: &str, listeners: Vec<T>) -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("lines") => serve(scheme, listeners, lines),
        Some("stack") => serve(scheme, listeners, stack),
        Some("park") => serve(scheme, listeners, park),
        _ => bail!("the first argument is the way to wait: lines, stack or park"),
    }
}

fn serve<T: Transport, O: IntoOutcome + 'static>(
    scheme: &str,
    listeners: Vec<T>,
    handler: fn(&mut T::Accepted) -> io::Result<O>,
) -> Result<()>
where
    io::Result<O>: IntoOutcome,
{
    let driver = match env::args().nth(2).as_deref() {
        Some("epoll") => Driver::Epoll,
        Some("uring") => Driver::Uring,
        _ => bail!("the second argument is the driver: epoll or uring"),
    };
    // SAFETY: the handlers leave thread-locals alone.
    let model = unsafe { Coroutines::new() }.workers(1).driver(driver);
    let server = Server::<T>::builder()
        .model(model)
        .max_connections(12_000)
        .listen(listeners)
        .build()?;
    for addr in server.local_addrs() {
        announce(scheme, addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(handler)?;
    Ok(())
}

fn lines(conn: &mut impl Connection) -> io::Result<()> {
    let mut line = String::new();
    while conn.read_line_max(&mut line, LINE)? > 0 {
        conn.write_all(line.as_bytes())?;
        line = String::new();
    }
    Ok(())
}

fn stack(conn: &mut impl Connection) -> io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match conn.read(&mut buf)? {
            0 => return Ok(()),
            count => conn.write_all(&buf[..count])?,
        }
    }
}

fn park(conn: &mut impl Connection) -> io::Result<Next> {
    let mut line = String::new();
    if conn.read_line_max(&mut line, LINE)? == 0 {
        return Ok(Next::Close);
    }
    conn.write_all(line.as_bytes())?;
    Ok(Next::Park)
}
