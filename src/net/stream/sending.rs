//! The sending direction of a stream.

use std::io::{self, Write};
use std::net::Shutdown;
use std::task::{self, Poll, ready};
use std::time::Duration;

use rustix::net::{SendFlags, send};

use crate::net::halves::WriteSide;
use crate::net::stream::{Link, not_zero};
use crate::sys::poll::Interest;
use crate::task::wait::after;

/// The state of the sending direction.
#[derive(Default)]
pub(super) struct Sending {
    /// Written bytes that were not yet sent.
    pub(super) pending: Vec<u8>,
    pub(super) capacity: usize,
    pub(super) timeout: Option<Duration>,
}

/// Sends to a stream.
pub(super) struct Sender<'a> {
    pub(super) link: &'a Link,
    pub(super) state: &'a mut Sending,
}

/// NOSIGNAL: a peer that is gone is an error, whatever the process does with SIGPIPE. DONTWAIT: the slot counts
/// each part that the kernel takes; a blocking call would return only after all of it.
pub(super) const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

impl Sender<'_> {
    /// Sends the part of `data` that the kernel takes. Waits until it takes some.
    fn transmit(&self, data: &[u8], more: SendFlags) -> io::Result<usize> {
        let Link {
            source, context, ..
        } = self.link;
        let fd = self.link.fd();
        let attempt = || send(fd, data, FLAGS | more).map(|count| (count, false));
        let deadline = || after(self.state.timeout);
        context.begin_write();
        let sent = source.complete(fd, Interest::Write, deadline, attempt);
        context.end_write(*sent.as_ref().unwrap_or(&0));
        sent.map_err(|err| self.link.cause(err))
    }

    /// Sends what is buffered, with these flags too.
    pub(super) fn send_pending(&mut self, more: SendFlags) -> io::Result<()> {
        if self.state.pending.is_empty() {
            return Ok(());
        }
        let _turn = self.link.socket.turn()?;
        self.send_pending_in_turn(more)
    }

    fn send_pending_in_turn(&mut self, more: SendFlags) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.state.pending.len() {
                break Ok(());
            }
            match self.transmit(&self.state.pending[sent..], more) {
                Ok(count) => sent += count,
                Err(err) => break Err(err),
            }
        };
        self.state.pending.drain(..sent);
        result
    }

    /// As [`Write::write`]; the caller has the turn.
    fn write_in_turn(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.state.pending.len() + buf.len() > self.state.capacity {
            self.send_pending_in_turn(SendFlags::empty())?;
            if buf.len() >= self.state.capacity {
                return self.transmit(buf, SendFlags::empty());
            }
        }
        self.state.pending.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn poll_send(&self, cx: &task::Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Link {
            source, context, ..
        } = self.link;
        let fd = self.link.fd();
        let attempt = || send(fd, data, FLAGS).map(|count| (count, false));
        let Poll::Ready(sent) = source.poll_complete(cx.waker(), fd, Interest::Write, attempt)
        else {
            context.begin_poll_write();
            return Poll::Pending;
        };
        context.end_write(*sent.as_ref().unwrap_or(&0));
        Poll::Ready(sent.map_err(|err| self.link.cause(err)))
    }

    /// Sends what is buffered, as [`poll_write`](WriteSide::poll_write) does.
    pub(super) fn poll_send_pending(&mut self, cx: &task::Context<'_>) -> Poll<io::Result<()>> {
        while !self.state.pending.is_empty() {
            let count = ready!(self.poll_send(cx, &self.state.pending))?;
            self.state.pending.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _turn = self.link.socket.turn()?;
        self.write_in_turn(buf)
    }

    fn write_all(&mut self, mut buf: &[u8]) -> io::Result<()> {
        let _turn = self.link.socket.turn()?;
        while !buf.is_empty() {
            let count = self.write_in_turn(buf)?;
            buf = &buf[count..];
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending(SendFlags::empty())
    }
}

impl WriteSide for Sender<'_> {
    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send_pending(cx))?;
        self.poll_send(cx, buf)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.state.timeout = not_zero(timeout)?;
        Ok(())
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.flush()?;
        self.link.socket.socket.shutdown(Shutdown::Write)
    }
}
