//! A session that several tasks use at the same time: the handler, its halves, and writers.
//!
//! Its lock is held while bytes are processed, and never while a task waits. Records must leave in the
//! order in which they were encrypted, so a task takes its turn before it encrypts, and keeps it until they
//! have left. A task that reads takes no turn: what the protocol has to say, such as the answer to a key
//! update, or an alert, leaves with the next write or the end.

use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::net::turns::{Turn, Turns};
use crate::net::{Connection, Writer, WriterSide};
use crate::tls::session::{Outgoing, RECORD, Session, poll_input, unless_gone, unless_late};

/// A session behind a lock.
pub(super) struct Shared {
    session: Mutex<Session>,
    turns: Turns,
}

/// The turn to encrypt and to send.
pub(super) struct Sending<'a> {
    shared: &'a Shared,
    turn: Option<Turn<'a>>,
}

impl Shared {
    pub(super) fn new(session: Session) -> Arc<Self> {
        Arc::new(Self {
            session: Mutex::new(session),
            turns: Turns::default(),
        })
    }

    /// Returns the session without a lock, unless there are writers.
    pub(super) fn sole(this: &mut Arc<Self>) -> Option<&mut Session> {
        let session = &mut Arc::get_mut(this)?.session;
        Some(session.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Session> {
        // A panic within rustls fails the connection, not the process.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn, for `limit` at most.
    pub(super) fn begin(&self, limit: Option<Duration>) -> io::Result<Sending<'_>> {
        self.turns.take(limit).map(|turn| self.sending(turn))
    }

    /// Takes the turn if it is free.
    pub(super) fn try_begin(&self) -> Option<Sending<'_>> {
        self.turns.try_take().map(|turn| self.sending(turn))
    }

    /// Takes the turn, or wakes the task of `cx` once it is free.
    pub(super) fn poll_begin(&self, cx: &Context<'_>) -> Poll<Sending<'_>> {
        if let Some(sending) = self.try_begin() {
            return Poll::Ready(sending);
        }
        self.lock().poller = Some(cx.waker().clone());
        // The turn may have ended in between.
        self.try_begin().map_or(Poll::Pending, Poll::Ready)
    }

    const fn sending<'a>(&'a self, turn: Turn<'a>) -> Sending<'a> {
        Sending {
            shared: self,
            turn: Some(turn),
        }
    }

    /// Reads plain text, for which it waits.
    pub(super) fn read(&self, below: &mut impl BufRead, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(taken) = self.lock().take(buf) {
                return taken;
            }
            let input = below.fill_buf()?;
            let (count, fed) = self.lock().feed(input);
            below.consume(count);
            fed?;
        }
    }

    /// As [`read`](Self::read), with polls.
    pub(super) fn poll_read<C: Connection>(
        &self,
        below: &mut C,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(sending) = self.unsent() {
            let sent = sending.poll_send(|bytes| below.poll_write(cx, bytes));
            if let Poll::Ready(Err(err)) = sent {
                return Poll::Ready(Err(err));
            }
        }
        loop {
            if let Some(taken) = self.lock().take(buf) {
                return Poll::Ready(taken);
            }
            let receive = |cx: &mut Context<'_>, raw: &mut [u8]| below.poll_read(cx, raw);
            ready!(poll_input(cx, receive, |raw| self.lock().digest(raw)))?;
        }
    }

    /// Takes the turn to send what the handler could not send in time, if there is something, and if the turn is
    /// free; the holder of the turn sends that first.
    pub(super) fn unsent(&self) -> Option<Sending<'_>> {
        let is_empty = self.lock().outgoing.bytes.is_empty();
        if is_empty { None } else { self.try_begin() }
    }

    /// Writes all of `buf` for the handler in one turn, a record at a time. What is not sent in time is kept, and
    /// the next write continues with it.
    pub(super) fn write(
        &self,
        below: &mut impl Write,
        buf: &[u8],
        limit: Option<Duration>,
    ) -> io::Result<usize> {
        let sending = self.begin(limit)?;
        self.lock().outgoing.accepted = 0;
        let (count, sent) = sending.write(below, buf)?;
        unless_late(sent).map(|()| count)
    }

    /// Ends the output. A writer that has the turn finishes its record, and then fails.
    pub(super) fn finish(&self, below: &mut impl Write, limit: Option<Duration>) -> io::Result<()> {
        self.lock().output_ends = true;
        let sending = self.begin(limit)?;
        sending.send(below)?;
        self.lock().rustls.send_close_notify();
        unless_gone(sending.send(below))
    }
}

impl Sending<'_> {
    /// Sends all that is encrypted.
    pub(super) fn send(&self, below: &mut impl Write) -> io::Result<()> {
        self.with_output(|_, outgoing| outgoing.send(below))?
    }

    /// Writes all of `buf`, a record at a time. Returns how many bytes were encrypted, and whether all of them
    /// were sent.
    ///
    /// # Errors
    ///
    /// Nothing of `buf` was encrypted: earlier bytes could not be sent, or the output has ended.
    pub(super) fn write(
        &self,
        below: &mut impl Write,
        buf: &[u8],
    ) -> io::Result<(usize, io::Result<()>)> {
        self.with_output(|shared, outgoing| {
            outgoing.send(below)?;
            let mut count = 0;
            let sent = buf.chunks(RECORD).try_for_each(|record| {
                count += shared.lock().encrypt(record, &mut outgoing.bytes)?;
                outgoing.send(below)
            });
            match sent {
                Err(err) if count == 0 => Err(err),
                sent => Ok((count, sent)),
            }
        })?
    }

    /// As [`send`](Self::send), with a `poll_write` that polls the connection below.
    pub(super) fn poll_send(
        &self,
        poll_write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        self.with_output(|_, outgoing| outgoing.poll_send(poll_write))?
    }

    /// Encrypts `buf`, unless an earlier poll has, and sends all that is encrypted.
    pub(super) fn poll_write(
        &self,
        buf: &[u8],
        poll_write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.with_output(|shared, outgoing| {
            let encrypt = |buf: &[u8], bytes: &mut Vec<u8>| shared.lock().encrypt(buf, bytes);
            outgoing.poll_write(buf, encrypt, poll_write)
        })?
    }

    /// Lends what is encrypted, without the lock.
    fn with_output<R>(&self, work: impl FnOnce(&Shared, &mut Outgoing) -> R) -> io::Result<R> {
        let mut outgoing = self.shared.lock().take_output()?;
        let result = work(self.shared, &mut outgoing);
        self.shared.lock().outgoing = outgoing;
        Ok(result)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.turn = None;
        let poller = self.shared.lock().poller.take();
        if let Some(poller) = poller {
            poller.wake();
        }
    }
}

/// What a [`Writer`] over TLS writes to.
#[derive(Clone)]
pub(super) struct TlsWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) below: Writer,
    pub(super) limit: Option<Duration>,
}

impl Write for TlsWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let sending = self.shared.begin(self.limit)?;
        let (count, sent) = sending.write(&mut self.below, buf)?;
        sent.map(|()| count)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        // A write is whole.
        self.write(buf).map(drop)
    }

    /// Sends what a write has left that was not sent in time.
    fn flush(&mut self) -> io::Result<()> {
        self.shared.begin(self.limit)?.send(&mut self.below)
    }
}

impl WriterSide for TlsWriter {
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_write_timeout(timeout)?;
        self.limit = timeout;
        Ok(())
    }
}
