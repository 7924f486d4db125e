//! Echo on tokio, a task for each connection.
//!
//! `tokio_echo once|echo|mixed tcp|unix BUFFER [multi]`: on the current-thread runtime, or on the multi-thread one with as many
//! workers as it chooses, which is one for each processor that the process may use. With `mixed offload` messages compute on
//! the threads for blocking work.

use std::env;
use std::io;

use anyhow::Result;
use bench_peers::{Cost, Handler, Listener, MESSAGE, WAIT, compute, size_from_args};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

fn main() -> Result<()> {
    let (handler, size) = (Handler::from_args()?, size_from_args()?);
    let mut builder = match env::args().nth(4).as_deref() {
        Some("multi") => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build()?;
    // The accept loop is a task like the others: what `block_on` runs is woken across threads.
    runtime.block_on(async move { tokio::spawn(accept(handler, size)).await? })
}

async fn accept(handler: Handler, size: usize) -> Result<()> {
    match Listener::from_args()? {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(serve(stream, handler, size));
            }
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(serve(stream, handler, size));
            }
        }
    }
}

async fn serve<S>(mut stream: S, handler: Handler, size: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if handler == Handler::Mixed {
        return serve_mixed(stream).await;
    }
    let mut buf = vec![0; size];
    loop {
        let count = stream.read(&mut buf).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..count]).await?;
        if handler == Handler::Once {
            return Ok(());
        }
    }
}

async fn serve_mixed<S>(mut stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offload = env::args().nth(4).as_deref() == Some("offload");
    let mut message = [0; MESSAGE];
    // Its failure is the end of the connection.
    while stream.read_exact(&mut message).await.is_ok() {
        match Cost::of(&message) {
            Cost::Nothing => {}
            Cost::Compute if offload => spawn_blocking(compute).await?,
            Cost::Compute => compute(),
            Cost::Wait => sleep(WAIT).await,
        }
        stream.write_all(&message).await?;
    }
    Ok(())
}
