//! A relay on the library, as the manual has it: a coroutine for each direction.
//!
//! `library_proxy copy|large|polled epoll|uring SERVER`: with `io::copy`, with buffers of 64 KiB, or with one future for both
//! directions.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::future::poll_fn;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::task::{Context as Cx, Poll, ready};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_peers::announce;
use socketserver::model::Driver;
use socketserver::net::{ReadHalf, TcpConnection, WriteHalf};
use socketserver::{Connection, Coroutines, HandlerError, Server, Tcp, task};

const PATIENCE: Duration = Duration::from_secs(5);
const LARGE: usize = 64 * 1024;
const POLLED: usize = 8 * 1024;

type Pass = fn(ReadHalf<'_>, WriteHalf<'_>) -> io::Result<()>;

fn main() -> Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [how, driver, server] = &*args else {
        bail!("three arguments are needed: how, the driver and the server");
    };
    let addr = server.parse().context("the address of the server")?;
    let driver = match driver.as_str() {
        "uring" => Driver::Uring,
        _ => Driver::Epoll,
    };
    match how.as_str() {
        "copy" => serve(driver, move |client| relay(client, addr, copy)),
        "large" => serve(driver, move |client| relay(client, addr, copy_large)),
        "polled" => serve(driver, move |client| relay_polled(client, addr)),
        _ => bail!("the first argument is how: copy, large or polled"),
    }
}

fn serve(
    driver: Driver,
    relay: impl Fn(&mut TcpConnection) -> Result<(), HandlerError> + Send + Sync + 'static,
) -> Result<()> {
    // SAFETY: the handler leaves thread-locals alone.
    let model = unsafe { Coroutines::new() }.workers(1).driver(driver);
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(relay)?;
    Ok(())
}

fn relay(client: &mut TcpConnection, addr: SocketAddr, pass: Pass) -> Result<(), HandlerError> {
    let mut upstream = TcpConnection::connect(addr, PATIENCE)?;
    let (from_upstream, to_upstream) = upstream.halves()?;
    let (from_client, to_client) = client.halves()?;
    task::scope(|scope| {
        let back = scope.spawn(|| pass(from_upstream, to_client))?;
        let there = pass(from_client, to_upstream);
        let back = back.join().map_err(|_| "a panic")?;
        Ok(there.and(back)?)
    })
}

fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown()
}

fn copy_large(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    // `io::copy` uses the buffer of a `BufReader` that is larger than its own.
    io::copy(&mut BufReader::with_capacity(LARGE, from), &mut to)?;
    to.shutdown()
}

fn relay_polled(client: &mut TcpConnection, addr: SocketAddr) -> Result<(), HandlerError> {
    let mut upstream = TcpConnection::connect(addr, PATIENCE)?;
    let (from_upstream, to_upstream) = upstream.halves()?;
    let (from_client, to_client) = client.halves()?;
    let mut there = Direction::new(from_client, to_upstream);
    let mut back = Direction::new(from_upstream, to_client);
    Ok(task::block_on(poll_fn(|cx| {
        let (there, back) = (there.poll(cx)?, back.poll(cx)?);
        ready!(there);
        ready!(back);
        Poll::Ready(Ok::<_, io::Error>(()))
    }))??)
}

/// One direction of a relay, with what has been read and not written.
struct Direction<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    is_over: bool,
}

impl<'a> Direction<'a> {
    fn new(from: ReadHalf<'a>, to: WriteHalf<'a>) -> Self {
        Self {
            from,
            to,
            buf: vec![0; POLLED],
            start: 0,
            end: 0,
            is_over: false,
        }
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        while !self.is_over {
            if self.start == self.end {
                (self.start, self.end) = (0, ready!(self.from.poll_read(cx, &mut self.buf))?);
                if self.end == 0 {
                    self.is_over = true;
                    self.to.shutdown()?;
                    break;
                }
            }
            self.start += ready!(self.to.poll_write(cx, &self.buf[self.start..self.end]))?;
        }
        Poll::Ready(Ok(()))
    }
}
