//! Sending a response on a connection of HTTP/1.

use std::cell::RefCell;
use std::io::{self, Write};

use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{Method, Response, StatusCode, Version};
use socketserver::Connection;

use crate::date;
use crate::h1::{Exchange, WRITE_BUFFER};
use crate::head::has_token;
use crate::response::{BodyWriter, Content, Kind, Sink, copy, too_short};

/// A body of so many bytes is copied behind its head, so that both leave in one segment.
const COPIED_MAX: usize = 16 * 1024;

/// A response of so many bytes is gathered with others before it is sent.
const GATHERED_MAX: usize = 1024;

/// A file of so many bytes is read behind its head. Of a larger one the copy costs more than the system calls of sendfile(2).
const READ_WITH_HEAD: u64 = 8 * 1024;

/// How large the memory is that a thread keeps for its next response.
const SCRATCH_MAX: usize = 64 * 1024;

/// How many bytes of a reader are read at once.
const READ_AT_ONCE: usize = 64 * 1024;

/// What sending a response has come to.
pub(crate) struct Sent {
    /// Another request can follow.
    pub(crate) keeps_alive: bool,
    /// The connection belongs to this protocol now.
    pub(crate) upgrade: Option<Upgrade>,
}

type Upgrade = Box<dyn FnOnce(&mut dyn Connection) -> io::Result<()> + Send>;

/// How the content of a response is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// The status or the method forbids content.
    None,
    Length(u64),
    Chunked,
    /// The end of the stream is the end of the content.
    Close,
}

/// Sends a response, and counts the bytes of its content.
///
/// # Errors
///
/// The client has gone, or the content has failed; the connection is then to be aborted.
pub(crate) fn send<C: Connection>(
    conn: &mut C,
    exchange: &Exchange,
    response: Response<Content>,
    bytes: &mut u64,
) -> io::Result<Sent> {
    let (parts, content) = response.into_parts();
    let framing = framing_of(&parts, &content, exchange);
    let upgrades = matches!(content.0, Kind::Upgrade(_));
    let keeps_alive = exchange.keeps_alive
        && framing != Framing::Close
        && !upgrades
        && !has_token(&parts.headers, "close");
    let upgrade = SCRATCH.with(|scratch| {
        let mut head = scratch.take();
        head.clear();
        write_head(&mut head, &parts, framing, keeps_alive, upgrades, exchange);
        let result = send_content(conn, &mut head, framing, content, exchange, bytes);
        if head.capacity() <= SCRATCH_MAX {
            scratch.replace(head);
        }
        result
    })?;
    Ok(Sent {
        keeps_alive,
        upgrade,
    })
}

thread_local! {
    /// The memory of heads.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn framing_of(parts: &Parts, content: &Content, exchange: &Exchange) -> Framing {
    if matches!(content.0, Kind::Upgrade(_)) {
        return Framing::None;
    }
    let length = content.length();
    let status = parts.status;
    match length {
        // RFC 9110, section 9.3.6: the client takes whatever follows for the bytes of a tunnel.
        _ if exchange.method == Method::CONNECT && status.is_success() => Framing::Close,
        _ if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => {
            Framing::None
        }
        // Section 15.3.6.
        _ if status == StatusCode::RESET_CONTENT => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None if exchange.version == Version::HTTP_11 => Framing::Chunked,
        None => Framing::Close,
    }
}

fn write_head(
    head: &mut Vec<u8>,
    parts: &Parts,
    framing: Framing,
    keeps_alive: bool,
    upgrades: bool,
    exchange: &Exchange,
) {
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(parts.status.as_str().as_bytes());
    head.push(b' ');
    let reason = parts.status.canonical_reason().unwrap_or_default();
    head.extend_from_slice(reason.as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        // The server alone decides about framing and the connection. The answer to HEAD may name a length.
        let is_own = name == TRANSFER_ENCODING
            || name == CONNECTION
            || name == CONTENT_LENGTH && !(exchange.is_head() && framing == Framing::Chunked);
        if !is_own {
            write_field(head, name.as_str(), value.as_bytes());
        }
    }
    match framing {
        Framing::Length(length) => {
            head.extend_from_slice(b"content-length: ");
            head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        Framing::Chunked if !exchange.is_head() => {
            head.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        _ => {}
    }
    if upgrades {
        if parts.headers.contains_key(UPGRADE) {
            head.extend_from_slice(b"connection: upgrade\r\n");
        }
    } else if !keeps_alive {
        head.extend_from_slice(b"connection: close\r\n");
    } else if exchange.version == Version::HTTP_10 {
        head.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !parts.headers.contains_key(DATE) {
        date::now(|date| write_field(head, "date", date.as_bytes()));
    }
    head.extend_from_slice(b"\r\n");
}

fn write_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// Sends the head with the content behind it.
fn send_content<C: Connection>(
    conn: &mut C,
    head: &mut Vec<u8>,
    framing: Framing,
    content: Content,
    exchange: &Exchange,
    sent: &mut u64,
) -> io::Result<Option<Upgrade>> {
    let is_silent = matches!(framing, Framing::None | Framing::Length(0)) || exchange.is_head();
    match content.0 {
        Kind::Upgrade(upgrade) => {
            conn.write_all(head)?;
            conn.flush()?;
            return Ok(Some(upgrade));
        }
        _ if is_silent => conn.write_all(head)?,
        Kind::Bytes(bytes) => {
            if bytes.len() <= COPIED_MAX {
                head.extend_from_slice(&bytes);
                send_whole(conn, head)?;
            } else {
                conn.write_all(head)?;
                conn.write_all(&bytes)?;
            }
            *sent = bytes.len() as u64;
        }
        Kind::File(range) if range.length <= READ_WITH_HEAD => {
            range.append_to(head)?;
            send_whole(conn, head)?;
            *sent = range.length;
        }
        Kind::File(range) => {
            conn.write_all(head)?;
            *sent = conn.send_file(&range.file, range.offset, range.length)?;
            if *sent < range.length {
                return Err(too_short());
            }
        }
        Kind::Reader { reader, length } => {
            conn.write_all(head)?;
            let mut sink = Chunks {
                conn,
                framing,
                bytes: sent,
            };
            copy(reader, length, READ_AT_ONCE, |piece| sink.send(piece))?;
            sink.end(&HeaderMap::new())?;
        }
        Kind::Stream(stream) => {
            conn.write_all(head)?;
            let mut sink = Chunks {
                conn,
                framing,
                bytes: sent,
            };
            let mut out = BodyWriter::new(&mut sink);
            stream(&mut out)?;
            out.send_pending()?;
            let trailers = std::mem::take(&mut out.trailers);
            sink.end(&trailers)?;
        }
    }
    Ok(None)
}

/// Sends a response. A short response waits in the buffer for the responses behind it; copying a longer one there would
/// cost more than the call that sends it.
fn send_whole<C: Connection>(conn: &mut C, response: &[u8]) -> io::Result<()> {
    if response.len() <= GATHERED_MAX {
        return conn.write_all(response);
    }
    conn.set_write_buffer(0)?;
    conn.write_all(response)?;
    conn.set_write_buffer(WRITE_BUFFER)
}

/// Writes a chunk, which must not be empty: that would be the end (RFC 9112, section 7.1).
pub(crate) fn write_chunk(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(out, "{:x}\r\n", bytes.len())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

/// Sends content piece by piece.
struct Chunks<'a, C> {
    conn: &'a mut C,
    framing: Framing,
    bytes: &'a mut u64,
}

impl<C: Connection> Sink for Chunks<'_, C> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.framing {
            Framing::Chunked => write_chunk(self.conn, bytes)?,
            _ => self.conn.write_all(bytes)?,
        }
        *self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.conn.flush()
    }

    fn stopping(&self) -> bool {
        self.conn.stopping()
    }

    fn peer_gone(&mut self) -> bool {
        self.conn.peer_gone()
    }
}

impl<C: Connection> Chunks<'_, C> {
    /// Sends the end of the content.
    fn end(self, trailers: &HeaderMap) -> io::Result<()> {
        if self.framing != Framing::Chunked {
            return Ok(());
        }
        let mut end = b"0\r\n".to_vec();
        for (name, value) in trailers {
            if ![TRANSFER_ENCODING, CONTENT_LENGTH, TRAILER].contains(name) {
                write_field(&mut end, name.as_str(), value.as_bytes());
            }
        }
        end.extend_from_slice(b"\r\n");
        self.conn.write_all(&end)
    }
}

impl Exchange {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}
