//! The bytes between a connection and the state of HTTP/2, which outlives each call of the connection's handler.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use socketserver::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h2::meter::Meter;

/// How many bytes wait in each direction at most.
const CAPACITY: usize = 64 * 1024;

/// How many bytes are received at once.
const CHUNK: usize = 16 * 1024;

/// Both directions. The state of HTTP/2 has one copy, the loop that moves the bytes has the other; both belong to
/// one task, so a direction that cannot go on needs no waker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(Arc<Mutex<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    /// Room for input, of which `filled` bytes have come, and `taken` of them were read.
    input: Vec<u8>,
    filled: usize,
    taken: usize,
    ended: bool,
    output: Vec<u8>,
    sent: usize,
    /// How many bytes were ever sent.
    total: u64,
    meter: Meter,
}

impl Pipe {
    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bytes wait to be sent.
    pub(crate) fn has_output(&self) -> bool {
        let buffers = self.buffers();
        buffers.sent < buffers.output.len()
    }

    /// Returns how many bytes were sent since the connection began.
    pub(crate) fn total(&self) -> u64 {
        self.buffers().total
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.buffers().ended
    }

    /// Frees the memory of a connection that waits long.
    pub(crate) fn release(&self) {
        let buffers = &mut *self.buffers();
        if buffers.taken == buffers.filled {
            (buffers.input, buffers.filled, buffers.taken) = (Vec::new(), 0, 0);
        }
        if buffers.sent == buffers.output.len() {
            (buffers.output, buffers.sent) = (Vec::new(), 0);
        }
    }

    /// Receives what has come. Returns whether anything has, or the end.
    ///
    /// # Errors
    ///
    /// Receiving has failed, or the client sends frames that only cost work.
    pub(crate) fn receive<C: Connection>(
        &self,
        conn: &mut C,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let buffers = &mut *self.buffers();
        if buffers.taken == buffers.filled {
            (buffers.filled, buffers.taken) = (0, 0);
        }
        let start = buffers.filled;
        if buffers.ended || start >= CAPACITY {
            return Ok(false);
        }
        // Once it is there, room stays: to fill it with zeros takes longer than many a request.
        let end = start + CHUNK;
        if buffers.input.len() < end {
            buffers.input.resize(end, 0);
        }
        let Poll::Ready(received) = conn.poll_read(cx, &mut buffers.input[start..end]) else {
            return Ok(false);
        };
        let count = received?;
        buffers.filled += count;
        buffers.ended = count == 0;
        buffers.meter.note(&buffers.input[start..buffers.filled])?;
        Ok(true)
    }

    /// Sends what waits. Returns whether anything was sent.
    ///
    /// # Errors
    ///
    /// Sending has failed.
    pub(crate) fn send<C: Connection>(
        &self,
        conn: &mut C,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let buffers = &mut *self.buffers();
        let before = buffers.sent;
        while buffers.sent < buffers.output.len() {
            match conn.poll_write(cx, &buffers.output[buffers.sent..]) {
                Poll::Ready(count) => {
                    let count = count?;
                    buffers.sent += count;
                    buffers.total += count as u64;
                }
                Poll::Pending => return Ok(buffers.sent > before),
            }
        }
        let moved = buffers.sent > before;
        buffers.output.clear();
        buffers.sent = 0;
        Ok(moved)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let buffers = &mut *self.buffers();
        let waiting = &buffers.input[buffers.taken..buffers.filled];
        if waiting.is_empty() && !buffers.ended {
            return Poll::Pending;
        }
        let count = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..count]);
        buffers.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let buffers = &mut *self.buffers();
        let room = CAPACITY.saturating_sub(buffers.output.len());
        if room == 0 {
            return Poll::Pending;
        }
        let count = buf.len().min(room);
        buffers.output.extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
