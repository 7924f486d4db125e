//! Writing to a socket from outside its connection's handler.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::send;

use crate::net::link::{Connected, FLAGS, Timeout};
use crate::net::writer::WriterSide;
use crate::registry::context::{Abort, WriterContext};
use crate::registry::table::AbortReason;
use crate::sys::poll::Interest;
use crate::task::wait::{after, complete_shared};

/// What a [`Writer`](crate::net::Writer) of a stream writes to. It keeps the descriptor open.
#[derive(Clone)]
pub(super) struct SocketWriter {
    socket: Arc<Connected>,
    /// Absent for a dialed connection.
    context: Option<WriterContext>,
    timeout: Timeout,
}

/// How many times a write that waits checks for progress within its deadline.
const CHECKS: u32 = 16;

impl SocketWriter {
    pub(super) fn new(socket: &Arc<Connected>, context: Option<WriterContext>) -> Self {
        socket.share();
        Self {
            socket: Arc::clone(socket),
            context,
            timeout: Timeout::default(),
        }
    }

    /// Sends what the kernel takes. The caller has the turn.
    fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let of_server = self.context.as_ref().and_then(WriterContext::write_timeout);
        let own = self.timeout.get();
        let limit = own.into_iter().chain(of_server).min();
        let unsent = Cell::new(None);
        let attempt = || {
            let sent = send(&self.socket.socket, buf, FLAGS);
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

impl Write for SocketWriter {
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

impl WriterSide for SocketWriter {
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = Timeout::new(timeout)?;
        Ok(())
    }
}
