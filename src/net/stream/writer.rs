//! Writing to a connection from outside its handler.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::net::link::{Connected, Timeout};
use crate::registry::context::{Abort, WriterContext};
use crate::registry::table::AbortReason;
use crate::sys::poll::Interest;
use crate::task::wait::{after, complete_shared};

/// Writes to a connection from outside its handler: from another handler or another thread.
/// [`Stream::writer`](crate::net::Stream::writer) makes one.
///
/// Each write is sent at once and bypasses the connection's own write buffer. A whole
/// [`write_all`](Write::write_all) of one writer does not interleave with those of other writers, nor with
/// those of the handler; what the handler sends by `poll_write`, or has buffered when it calls `poll_read`, does
/// not wait for its turn. A [`Layer`](crate::net::Layer) decides how many writes it makes of one. A writer keeps the
/// descriptor open, but the peer sees the end of the connection all the same, and later writes fail.
///
/// # Slow readers
///
/// A write waits as long as the peer takes anything. Once the peer has taken nothing for the server's
/// [write timeout](crate::Builder::write_timeout) (default: 30 s), the server aborts the connection, and the
/// write fails with `TimedOut`. [`set_write_timeout`](Self::set_write_timeout) sets a shorter limit that aborts
/// nothing, [`task::timeout`](crate::task::timeout()) one for the whole write. A write that has failed may have
/// sent a part. What a writer moves keeps its connection from being idle.
///
/// For many clients, of which some are slow, give each a bounded queue, and let its own handler write:
/// `examples/chat.rs`.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use std::sync::Mutex;
/// use socketserver::net::Writer;
/// use socketserver::{Server, Tcp, Threading};
///
/// static CLIENTS: Mutex<Vec<Writer>> = Mutex::new(Vec::new());
///
/// let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
/// let guard = server.spawn(|conn| CLIENTS.lock().unwrap().push(conn.writer()))?;
///
/// // Copies, so that the lock is free while a client is slow to read.
/// let clients = CLIENTS.lock().unwrap().clone();
/// for mut client in clients {
///     // The client may have gone.
///     let _ = client.write_all(b"news\n");
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Writer {
    socket: Arc<Connected>,
    /// Absent for a dialed connection.
    context: Option<WriterContext>,
    timeout: Timeout,
}

/// How many times a write that waits checks for progress within its deadline.
const CHECKS: u32 = 16;

impl Writer {
    pub(super) fn new(socket: &Arc<Connected>, context: Option<WriterContext>) -> Self {
        socket.share();
        Self {
            socket: Arc::clone(socket),
            context,
            timeout: Timeout::default(),
        }
    }

    /// Makes a write of this writer, but not of its clones, fail with `TimedOut` when it has waited longer than
    /// `timeout` for its turn, or for the peer to take anything. The connection is not aborted. Default: `None`, the server's write
    /// timeout alone.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = Timeout::new(timeout)?;
        Ok(())
    }

    /// Sends what the kernel takes. The caller has the turn.
    fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let of_server = self.context.as_ref().and_then(WriterContext::write_timeout);
        let own = self.timeout.get();
        let limit = own.into_iter().chain(of_server).min();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let unsent = Cell::new(None);
        let attempt = || {
            let sent = send(&self.socket.socket, buf, flags);
            if sent == Err(Errno::AGAIN) && unsent.get().is_none() {
                unsent.set(self.socket.unsent());
            }
            sent
        };
        let mut progress = Instant::now();
        loop {
            let check = limit.map(|limit| limit / CHECKS);
            let due = after(check);
            let fd = self.socket.socket.as_fd();
            let sent = complete_shared(fd, Interest::Write, || due, attempt);
            let is_check = |err: &io::Error| err.kind() == io::ErrorKind::TimedOut;
            let now = Instant::now();
            if !sent.as_ref().is_err_and(is_check) || due.is_none_or(|due| now < due) {
                return sent;
            }
            // The kernel reports room only after the peer has taken much: a peer that took less is
            // reading all the same.
            let left = self.socket.unsent();
            if unsent
                .get()
                .zip(left)
                .is_some_and(|(before, left)| left < before)
            {
                progress = now;
                if let Some(context) = &self.context {
                    context.push();
                }
            }
            unsent.set(left);
            let waited = now.saturating_duration_since(progress);
            if own.is_some_and(|own| waited >= own) {
                return sent;
            }
            if let Some(context) = self
                .context
                .as_ref()
                .filter(|_| of_server.is_some_and(|limit| waited >= limit))
            {
                context.abort();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    AbortReason::Write.text(),
                ));
            }
        }
    }

    fn send_and_note(&self, buf: &[u8]) -> io::Result<usize> {
        let count = self.send(buf)?;
        if let Some(context) = &self.context {
            context.push();
        }
        Ok(count)
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _turn = self.socket.turn(self.timeout.get())?;
        self.send_and_note(buf)
    }

    fn write_all(&mut self, mut buf: &[u8]) -> io::Result<()> {
        let _turn = self.socket.turn(self.timeout.get())?;
        while !buf.is_empty() {
            let count = self.send_and_note(buf)?;
            buf = &buf[count..];
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("socket", &self.socket.socket)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
