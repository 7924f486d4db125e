//! The library itself, without the command line tool: a plain `Server<Tcp>` with the handler of the peers.
//!
//! `library once|echo|mixed MODEL`; under `coroutines+offload`, which is for `mixed`, messages compute on other threads.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::io;

use anyhow::{Result, bail};
use bench_peers::{Handler, announce, compute, serve_mixed};
use socketserver::model::{Driver, Model};
use socketserver::net::TcpConnection;
use socketserver::{Coroutines, Forking, Prefork, Sequential, Server, Tcp, ThreadPool, Threading};

/// As many processes as no scenario has connections.
const CHILDREN: usize = 200;

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    let echo = move |conn: &mut TcpConnection| handler.serve(conn);
    let offloading =
        |conn: &mut TcpConnection| serve_mixed(conn, || socketserver::task::offload(compute));
    match env::args().nth(2).as_deref() {
        Some("sequential") => serve(echo, Sequential::default()),
        Some("threading") => serve(echo, Threading::default()),
        Some("pool") => serve(echo, ThreadPool::new(8)),
        Some("pool of 200") => serve(echo, ThreadPool::new(200)),
        Some("forking") => serve(echo, Forking::default().max_children(CHILDREN)),
        Some("prefork:coroutines") => serve(echo, Prefork::new(4, coroutines(Driver::Epoll))),
        Some("coroutines+epoll") => serve(echo, coroutines(Driver::Epoll)),
        Some("coroutines+uring") => serve(echo, coroutines(Driver::Uring)),
        Some("coroutines+offload") => serve(offloading, coroutines(Driver::Epoll)),
        _ => bail!("the second argument is the model, in lower case"),
    }
}

fn coroutines(driver: Driver) -> Coroutines {
    // SAFETY: the handler leaves thread-locals alone.
    unsafe { Coroutines::new() }.workers(1).driver(driver)
}

fn serve<M: Model>(
    handler: impl Fn(&mut TcpConnection) -> io::Result<()> + Send + Sync + 'static,
    model: M,
) -> Result<()> {
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(handler)?;
    Ok(())
}
