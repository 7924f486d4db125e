//! Echo on may's coroutines: one for each connection, one worker thread.
//!
//! `may_echo once|echo tcp|unix BUFFER`
#![expect(
    unsafe_code,
    reason = "may takes a listener by its descriptor, and spawns with a promise"
)]

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd};

use anyhow::Result;
use bench_peers::{Handler, Listener, size_from_args};
use may::net::TcpListener;
use may::os::unix::net::UnixListener;

fn main() -> Result<()> {
    let (handler, size) = (Handler::from_args()?, size_from_args()?);
    may::config().set_workers(1);
    let listener = Listener::from_args()?;
    // SAFETY: nothing here relies on thread-locals, and the stack is deep enough for a loop with its buffer on the heap.
    let accepting = unsafe { may::coroutine::spawn(move || accept(listener, handler, size)) };
    match accepting.join() {
        Ok(result) => result,
        Err(_) => anyhow::bail!("the accept loop panicked"),
    }
}

fn accept(listener: Listener, handler: Handler, size: usize) -> Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            // SAFETY: the descriptor has just been given up.
            let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
            loop {
                let (stream, _) = listener.accept()?;
                // SAFETY: as in `main`.
                unsafe { may::coroutine::spawn(move || serve(stream, handler, size)) };
            }
        }
        Listener::Unix(listener) => {
            // SAFETY: the descriptor has just been given up.
            let listener = unsafe { UnixListener::from_raw_fd(listener.into_raw_fd()) };
            loop {
                let (stream, _) = listener.accept()?;
                // SAFETY: as in `main`.
                unsafe { may::coroutine::spawn(move || serve(stream, handler, size)) };
            }
        }
    }
}

fn serve(mut stream: impl Read + Write, handler: Handler, size: usize) -> io::Result<()> {
    let mut buf = vec![0; size];
    loop {
        let count = stream.read(&mut buf)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..count])?;
        if handler == Handler::Once {
            return Ok(());
        }
    }
}
