//! A relay on tokio's current-thread runtime: a task for each connection, and `copy_bidirectional`.
//!
//! `tokio_proxy copy|large SERVER`: with its own buffers of 8 KiB, or with buffers of 64 KiB.

use std::env;
use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bench_peers::listen_tcp;
use tokio::io::{copy_bidirectional, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const LARGE: usize = 64 * 1024;

fn main() -> Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [how, server] = &*args else {
        bail!("two arguments are needed: copy or large, and the server");
    };
    let addr = server.parse().context("the address of the server")?;
    let is_large = how == "large";
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move { tokio::spawn(accept(addr, is_large)).await? })
}

async fn accept(addr: SocketAddr, is_large: bool) -> Result<()> {
    let listener = listen_tcp()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(relay(client, addr, is_large));
    }
}

async fn relay(mut client: TcpStream, addr: SocketAddr, is_large: bool) -> io::Result<()> {
    let mut upstream = TcpStream::connect(addr).await?;
    upstream.set_nodelay(true)?;
    if is_large {
        copy_bidirectional_with_sizes(&mut client, &mut upstream, LARGE, LARGE).await?;
    } else {
        copy_bidirectional(&mut client, &mut upstream).await?;
    }
    Ok(())
}
