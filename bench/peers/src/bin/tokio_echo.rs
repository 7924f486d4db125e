//! Echo on tokio, a task for each connection.
//!
//! `tokio_echo once|echo tcp|unix BUFFER [multi]`: on the current-thread runtime, or on the multi-thread one with as many
//! workers as it chooses, which is one for each processor that the process may use.

use std::env;
use std::io;

use anyhow::Result;
use bench_peers::{Handler, Listener, size_from_args};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;

fn main() -> Result<()> {
    let (handler, size) = (Handler::from_args()?, size_from_args()?);
    let mut builder = match env::args().nth(4).as_deref() {
        Some("multi") => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    let runtime = builder.enable_io().build()?;
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
