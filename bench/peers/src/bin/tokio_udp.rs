//! UDP echo on tokio's current-thread runtime: `recv_from` and `send_to` in turn.

use anyhow::Result;
use bench_peers::announce;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

fn main() -> Result<()> {
    Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(serve())
}

async fn serve() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    announce("udp", socket.local_addr()?);
    let mut buf = vec![0; 65_536];
    loop {
        let (count, peer) = socket.recv_from(&mut buf).await?;
        socket.send_to(&buf[..count], peer).await?;
    }
}
