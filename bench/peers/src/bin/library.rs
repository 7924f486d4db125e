//! The library itself, without the command line tool: a plain `Server<Tcp>` with the handler of the peers.

use std::env;

use anyhow::{Result, bail};
use bench_peers::{Handler, announce};
use socketserver::{Model, Sequential, Server, Tcp, ThreadPool, Threading};

fn main() -> Result<()> {
    let handler = Handler::from_args()?;
    match env::args().nth(2).as_deref() {
        Some("sequential") => serve(handler, Sequential::default()),
        Some("threading") => serve(handler, Threading::default()),
        Some("pool") => serve(handler, ThreadPool::new(8)),
        _ => bail!("the second argument is the model: sequential, threading or pool"),
    }
}

fn serve<M: Model>(handler: Handler, model: M) -> Result<()> {
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    server.serve_forever(move |conn| handler.serve(conn))?;
    Ok(())
}
