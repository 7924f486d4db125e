//! UDP or Unix datagram echo on tokio's current-thread runtime: `recv_from` and `send_to` in turn.
//!
//! `tokio_packets udp|unix`
#![expect(
    unsafe_code,
    reason = "tokio watches a descriptor with a promise that it stays open"
)]

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram};

use anyhow::{Result, bail};
use bench_peers::announce;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

const SIZE: usize = 65_536;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    match env::args().nth(1).as_deref() {
        Some("udp") => runtime.block_on(udp()),
        Some("unix") => runtime.block_on(unix()),
        _ => bail!("the argument is the transport: udp or unix"),
    }
}

async fn udp() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    announce("udp", socket.local_addr()?);
    let mut buf = vec![0; SIZE];
    loop {
        let (count, peer) = socket.recv_from(&mut buf).await?;
        socket.send_to(&buf[..count], peer).await?;
    }
}

/// tokio sends to paths only, so what answers a name is a socket of the standard library that tokio watches.
async fn unix() -> Result<()> {
    let name = format!("bench-tokio-{}", std::process::id());
    let socket = StdUnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_nonblocking(true)?;
    // SAFETY: the socket is owned by what watches it, so its descriptor stays the same and open.
    let socket = unsafe { AsyncFd::register(socket) }?;
    eprintln!("listening on unixgram:@{name}");
    let mut buf = vec![0; SIZE];
    loop {
        let receive = |socket: &StdUnixDatagram| socket.recv_from(&mut buf);
        let (count, peer) = socket.async_io(Interest::READABLE, receive).await?;
        let send = |socket: &StdUnixDatagram| socket.send_to_addr(&buf[..count], &peer);
        socket.async_io(Interest::WRITABLE, send).await?;
    }
}
