//! The sending direction of a stream.

use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::task::{self, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::net::connection::copy_file;
use crate::net::halves::WriteSide;
use crate::net::link::{FLAGS, Link, Timeout};
use crate::sys::poll::Interest;
use crate::sys::sendfile::Unblocked;
use crate::task::wait::after;

/// The state of the sending direction.
#[derive(Default)]
pub(super) struct Sending {
    /// Written bytes that were not yet sent.
    pub(super) pending: Vec<u8>,
    pub(super) capacity: usize,
    pub(super) timeout: Timeout,
}

/// Sends to a stream.
pub(super) struct Sender<'a> {
    pub(super) link: &'a Link,
    pub(super) state: &'a mut Sending,
}

/// Waits for the turn to send, if the connection has writers.
fn turn(link: &Link, limit: Timeout) -> io::Result<impl Sized + use<'_>> {
    let turn = link.socket.turn(limit.get());
    turn.map_err(|err| link.cause(err))
}

impl Sender<'_> {
    /// Sends the part of `data` that the kernel takes. Waits until it takes some.
    fn transmit(&self, data: &[u8], more: SendFlags) -> io::Result<usize> {
        let fd = self.link.fd();
        let sent = self.complete(|| send(fd, data, FLAGS | more));
        sent.map_err(|err| self.link.cause(err))
    }

    /// Repeats an attempt to send until the kernel takes some. The error is that of the attempt.
    fn complete(
        &self,
        mut attempt: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let Link {
            source, context, ..
        } = self.link;
        let attempt = || attempt().map(|count| (count, false));
        // Most writes do not wait.
        let deadline = || {
            context.begin_write();
            after(self.state.timeout.get())
        };
        let sent = source.complete(self.link.fd(), Interest::Write, deadline, attempt);
        context.end_write(*sent.as_ref().unwrap_or(&0));
        sent
    }

    /// Sends what is buffered, with these flags too.
    pub(super) fn send_pending(&mut self, more: SendFlags) -> io::Result<()> {
        if self.state.pending.is_empty() {
            return Ok(());
        }
        let link = self.link;
        let _turn = turn(link, self.state.timeout)?;
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

    /// Writes `data`, or if not `all` of it, a part. A turn covers what is sent: nothing of others comes between the
    /// parts of one piece, because a piece that is not buffered is sent to its end.
    fn put(&mut self, mut data: &[u8], all: bool) -> io::Result<usize> {
        let count = data.len();
        if self.state.pending.len() + count > self.state.capacity {
            let link = self.link;
            let _turn = turn(link, self.state.timeout)?;
            self.send_pending_in_turn(SendFlags::empty())?;
            if count >= self.state.capacity {
                while !data.is_empty() {
                    let sent = self.transmit(data, SendFlags::empty())?;
                    data = &data[sent..];
                    if !all {
                        break;
                    }
                }
                return Ok(count - data.len());
            }
        }
        self.state.pending.extend_from_slice(data);
        Ok(count)
    }

    /// Sends a part of a file, as [`Connection::send_file`](crate::Connection::send_file) says.
    pub(super) fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        let link = self.link;
        let _turn = turn(link, self.state.timeout)?;
        // MORE: the file follows in the same segment.
        let more = if length > 0 {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        self.send_pending_in_turn(more)?;
        let mut sent = 0;
        let Err(err) = self.transmit_file(file, offset, length, &mut sent) else {
            return Ok(sent);
        };
        if !matches!(
            Errno::from_io_error(&err),
            Some(Errno::INVAL | Errno::NOSYS)
        ) {
            return Err(self.link.cause(err));
        }
        let (offset, length) = (offset.saturating_add(sent), length - sent);
        let copied = copy_file(file, offset, length, |mut data| {
            while !data.is_empty() {
                data = &data[self.transmit(data, SendFlags::empty())?..];
            }
            Ok(())
        });
        Ok(sent + copied?)
    }

    /// Sends with sendfile(2), and adds to `sent`, until the end of the part or of the file.
    fn transmit_file(
        &self,
        file: &File,
        offset: u64,
        length: u64,
        sent: &mut u64,
    ) -> io::Result<()> {
        let socket = Unblocked::begin(self.link.fd())?;
        while *sent < length {
            let (at, left) = (offset.saturating_add(*sent), length - *sent);
            match self.complete(|| socket.send(file.as_fd(), at, left))? {
                0 => break,
                count => *sent += count as u64,
            }
        }
        Ok(())
    }

    fn poll_send(&self, cx: &task::Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.link.poll_send(cx, data);
        sent.map_err(|err| self.link.cause(err))
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
        self.put(buf, false)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.put(buf, true).map(drop)
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
        self.state.timeout = Timeout::new(timeout)?;
        Ok(())
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.flush()?;
        self.link.socket.socket.shutdown(Shutdown::Write)
    }
}
