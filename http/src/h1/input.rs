//! The body of a request on a connection of HTTP/1.

use std::io;

use http::HeaderMap;
use socketserver::net::Address;
use socketserver::{Connection, task};

use crate::body::{Bounds, Source, status_of};
use crate::config::Limits;
use crate::h1::chunked::Chunked;
use crate::head::Framing;

/// How much of a body that the handler has not read the server receives and discards.
const DISCARD_MAX: u64 = 256 * 1024;

/// What is left of a body.
#[derive(Debug)]
enum Left {
    Nothing,
    Length(u64),
    Chunked(Chunked),
}

/// How far a body has been read.
#[derive(Debug)]
pub(crate) struct Progress {
    left: Left,
    pub(crate) bounds: Bounds,
    /// The client waits for `100 Continue`.
    pub(crate) expects: bool,
    trailers: HeaderMap,
}

impl Progress {
    pub(crate) fn new(framing: Framing, expects: bool, limits: &Limits) -> Self {
        let left = match framing {
            Framing::Empty => Left::Nothing,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunked(Chunked::new(limits.head_bytes)),
        };
        Self {
            left,
            bounds: Bounds::new(limits),
            expects,
            trailers: HeaderMap::new(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        match &self.left {
            Left::Nothing => true,
            Left::Length(left) => *left == 0,
            Left::Chunked(chunked) => chunked.is_done(),
        }
    }

    /// Whether another request can follow: the rest of the body is known to come, and is not long.
    pub(crate) fn can_continue(&self) -> bool {
        self.bounds.failed.is_none()
            && !self.expects
            && match &self.left {
                Left::Length(left) => *left <= DISCARD_MAX,
                Left::Nothing | Left::Chunked(_) => true,
            }
    }

    /// Receives and discards the rest of the body. Returns whether it has ended.
    pub(crate) fn discard<C: Connection>(&mut self, conn: &mut C) -> bool {
        if self.is_done() {
            return true;
        }
        let mut scratch = [0; 4096];
        self.bounds.limit = self.bounds.received.saturating_add(DISCARD_MAX);
        while !self.is_done() {
            match self.read(conn, &mut scratch) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn read<C: Connection>(&mut self, conn: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        self.bounds.check()?;
        if self.is_done() || buf.is_empty() {
            return Ok(0);
        }
        let read = self.try_read(conn, buf);
        if let Err(err) = &read {
            self.bounds.failed = Some(status_of(err));
        }
        read
    }

    fn try_read<C: Connection>(&mut self, conn: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        if let Left::Length(left) = &self.left {
            self.bounds.check_room(*left)?;
        }
        if std::mem::take(&mut self.expects) {
            conn.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            conn.flush()?;
        }
        // One limit for all that it takes: a layer, or the framing of a chunk, may need several receives.
        let patience = self.bounds.patience();
        if patience.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let count = match &mut self.left {
            Left::Nothing => 0,
            Left::Length(left) => {
                let max = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                let count = task::timeout(patience, || conn.read(&mut buf[..max]))?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count as u64;
                count
            }
            Left::Chunked(chunked) => {
                task::timeout(patience, || chunked.read(conn, buf, &mut self.trailers))?
            }
        };
        self.bounds.count(count)?;
        Ok(count)
    }
}

/// The body of a request, while its handler runs.
pub(crate) struct Input<'a, C> {
    pub(crate) conn: &'a mut C,
    pub(crate) progress: &'a mut Progress,
}

impl<C: Connection> Source for Input<'_, C> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.progress.read(self.conn, buf)
    }

    fn size(&self) -> Option<u64> {
        match &self.progress.left {
            Left::Nothing => Some(0),
            Left::Length(left) => Some(*left),
            Left::Chunked(chunked) => chunked.is_done().then_some(0),
        }
    }

    fn set_limit(&mut self, bytes: u64) {
        self.progress.bounds.limit = bytes;
    }

    fn trailers(&self) -> &HeaderMap {
        &self.progress.trailers
    }

    fn id(&self) -> u64 {
        self.conn.id()
    }

    fn peer(&self) -> Address {
        self.conn.peer()
    }

    fn stopping(&self) -> bool {
        self.conn.stopping()
    }

    fn peer_gone(&mut self) -> bool {
        self.conn.peer_gone()
    }
}
