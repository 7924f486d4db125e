//! The library itself, without the command line tool: a plain `Server<Tcp>` with the handler of the peers.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;

use anyhow::{Result, bail};
use bench_peers::{Handler, announce};
use socketserver::{Coroutines, Driver, Model, Sequential, Server, Tcp, ThreadPool, Threading};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    match env::args().nth(2).as_deref() {
        Some("sequential") => serve(handler, Sequential::default()),
        Some("threading") => serve(handler, Threading::default()),
        Some("pool") => serve(handler, ThreadPool::new(8)),
        Some("coroutines+epoll") => serve(handler, coroutines(Driver::Epoll)),
        Some("coroutines+uring") => serve(handler, coroutines(Driver::Uring)),
        _ => bail!("the second argument is the model, in lower case"),
    }
}

fn coroutines(driver: Driver) -> Coroutines {
    // SAFETY: the handler leaves thread-locals alone.
    unsafe { Coroutines::new() }.workers(1).driver(driver)
}

fn serve<M: Model>(handler: Handler, model: M) -> Result<()> {
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(move |conn| handler.serve(conn))?;
    Ok(())
}
