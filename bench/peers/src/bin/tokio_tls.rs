//! Echo over TLS on tokio's current-thread runtime, a task for each connection.
//!
//! `tokio_tls echo tcp BUFFER`

use std::io;

use anyhow::Result;
use bench_peers::{listen_tls, size_from_args, tls_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::spawn(accept()).await? })
}

async fn accept() -> Result<()> {
    let size = size_from_args()?;
    let acceptor = TlsAcceptor::from(tls_config()?);
    let listener = listen_tls()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(acceptor.clone(), stream, size));
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, size: usize) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut buf = vec![0; size];
    loop {
        let count = stream.read(&mut buf).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buf[..count]).await?;
        stream.flush().await?;
    }
}
