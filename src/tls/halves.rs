//! The two directions of a TLS connection at the same time. The session is behind a lock, which is
//! held while bytes are processed, and never while a half waits.
//!
//! What the reading half has to say, such as an alert, leaves with the next write of the other half.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffers::BUFFER;
use crate::net::{ReadHalf, ReadSide, WriteHalf, WriteSide};
use crate::tls::session::{Outgoing, Session, encrypt, poll_input, unless_gone, unless_late};

/// The session, which both halves use.
#[derive(Clone)]
struct Shared<'a>(Arc<Mutex<&'a mut Session>>);

impl<'a> Shared<'a> {
    fn lock(&self) -> MutexGuard<'_, &'a mut Session> {
        // A panic within rustls fails the connection, not the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reading<'a> {
    session: Shared<'a>,
    below: ReadHalf<'a>,
    /// Plain text that was not read yet, from `start`.
    plain: Vec<u8>,
    start: usize,
}

struct Writing<'a> {
    session: Shared<'a>,
    below: WriteHalf<'a>,
    outgoing: Outgoing,
}

/// Divides a session between the halves of the connection below.
pub(super) fn halves<'a>(
    session: &'a mut Session,
    below: (ReadHalf<'a>, WriteHalf<'a>),
) -> (ReadHalf<'a>, WriteHalf<'a>) {
    let outgoing = std::mem::take(&mut session.outgoing);
    let session = Shared(Arc::new(Mutex::new(session)));
    let reading = Reading {
        session: session.clone(),
        below: below.0,
        plain: Vec::new(),
        start: 0,
    };
    let writing = Writing {
        session,
        below: below.1,
        outgoing,
    };
    (ReadHalf::new(reading), WriteHalf::new(writing))
}

impl Reading<'_> {
    fn held(&self) -> &[u8] {
        &self.plain[self.start..]
    }

    /// Reads past the own buffer.
    fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(taken) = self.session.lock().take(buf) {
                return taken;
            }
            let input = self.below.fill_buf()?;
            let (count, fed) = self.session.lock().feed(input);
            self.below.consume(count);
            fed?;
        }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.held().is_empty() {
            return self.receive(buf);
        }
        let count = self.held().read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Reading<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.held().is_empty() {
            self.start = 0;
            let mut plain = std::mem::take(&mut self.plain);
            plain.resize(BUFFER, 0);
            let count = self.receive(&mut plain)?;
            plain.truncate(count);
            self.plain = plain;
        }
        Ok(self.held())
    }

    fn consume(&mut self, count: usize) {
        assert!(
            count <= self.held().len(),
            "only what is buffered is consumed"
        );
        self.start += count;
    }
}

impl ReadSide for Reading<'_> {
    fn next_message(&mut self) -> io::Result<bool> {
        let has_input = !self.held().is_empty() || self.session.lock().has_input();
        if !has_input {
            self.plain = Vec::new();
            self.start = 0;
            if !self.below.next_message()? {
                return Ok(false);
            }
        }
        Ok(!self.fill_buf()?.is_empty())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() || !self.held().is_empty() {
            return Poll::Ready(self.read(buf));
        }
        let Self { session, below, .. } = self;
        loop {
            if let Some(taken) = session.lock().take(buf) {
                return Poll::Ready(taken);
            }
            let receive = |cx: &mut Context<'_>, raw: &mut [u8]| below.poll_read(cx, raw);
            ready!(poll_input(cx, receive, |raw| session.lock().digest(raw)))?;
        }
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_read_timeout(timeout)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.session.lock().put_back(self.held());
    }
}

impl Writing<'_> {
    /// Takes what rustls has encrypted, and sends it.
    fn send(&mut self) -> io::Result<()> {
        {
            let mut session = self.session.lock();
            while session.rustls.wants_write() {
                session.rustls.write_tls(&mut self.outgoing.bytes)?;
            }
        }
        self.outgoing.send(&mut self.below)
    }
}

impl Write for Writing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing.send(&mut self.below)?;
        let Self {
            session, outgoing, ..
        } = self;
        let count = encrypt(&mut session.lock().rustls, buf, &mut outgoing.bytes)?;
        // What is not sent in time is kept, and the next write continues with it.
        unless_late(outgoing.send(&mut self.below))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.below.flush()
    }
}

impl WriteSide for Writing<'_> {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self {
            session,
            below,
            outgoing,
        } = self;
        let encrypt =
            |buf: &[u8], bytes: &mut Vec<u8>| encrypt(&mut session.lock().rustls, buf, bytes);
        outgoing.poll_write(buf, encrypt, |bytes| below.poll_write(cx, bytes))
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_write_timeout(timeout)
    }

    /// Sends what is buffered, close_notify, and the end of the stream.
    fn shutdown(&mut self) -> io::Result<()> {
        self.send()?;
        self.session.lock().rustls.send_close_notify();
        unless_gone(self.send())?;
        self.below.shutdown()
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let outgoing = std::mem::take(&mut self.outgoing);
        self.session.lock().outgoing = outgoing;
    }
}
