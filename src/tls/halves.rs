//! The two directions of a TLS connection at the same time.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::buffers::BUFFER;
use crate::net::{ReadHalf, ReadSide, WriteHalf, WriteSide};
use crate::tls::session::poll_input;
use crate::tls::shared::Shared;

struct Reading<'a> {
    session: Arc<Shared>,
    below: ReadHalf<'a>,
    /// Plain text that was not read yet, from `start`.
    plain: Vec<u8>,
    start: usize,
}

struct Writing<'a> {
    session: Arc<Shared>,
    below: WriteHalf<'a>,
    limit: Option<Duration>,
}

/// Divides a session between the halves of the connection below. `limit` is that of a write.
pub(super) fn halves<'a>(
    session: &Arc<Shared>,
    below: (ReadHalf<'a>, WriteHalf<'a>),
    limit: Option<Duration>,
) -> (ReadHalf<'a>, WriteHalf<'a>) {
    let reading = Reading {
        session: Arc::clone(session),
        below: below.0,
        plain: Vec::new(),
        start: 0,
    };
    let writing = Writing {
        session: Arc::clone(session),
        below: below.1,
        limit,
    };
    (ReadHalf::new(reading), WriteHalf::new(writing))
}

impl Reading<'_> {
    fn held(&self) -> &[u8] {
        &self.plain[self.start..]
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.held().is_empty() {
            return self.session.read(&mut self.below, buf);
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
            let count = self.session.read(&mut self.below, &mut plain)?;
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

impl Write for Writing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.session.write(&mut self.below, buf, self.limit)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.session.begin(self.limit)?.send(&mut self.below)?;
        self.below.flush()
    }
}

impl WriteSide for Writing<'_> {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sending = ready!(self.session.poll_begin(cx));
        sending.poll_write(buf, |bytes| self.below.poll_write(cx, bytes))
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_write_timeout(timeout)?;
        self.limit = timeout;
        Ok(())
    }

    /// Sends what is buffered, close_notify, and the end of the stream.
    fn shutdown(&mut self) -> io::Result<()> {
        self.session.finish(&mut self.below, self.limit)?;
        self.below.shutdown()
    }
}
