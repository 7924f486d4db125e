//! The TLS of one connection between its two directions: the state of rustls, decrypted input, and
//! encrypted output. The methods that process bytes do not wait.

use std::io::{self, Read, Write};
use std::task::{self, Poll, Waker, ready};

use crate::buffers;
use crate::net::Connection;
use crate::task::wait::on_deep_stack;
use crate::tls::files::invalid;

/// The state of rustls, and what it has told.
pub(super) struct Session {
    pub(super) rustls: rustls::Connection,
    /// How many bytes of plain text rustls holds.
    unread: usize,
    /// Plain text that rustls holds no longer; it comes first.
    pub(super) gathered: Vec<u8>,
    end: End,
    /// The peer has sent something.
    begun: bool,
    pub(super) outgoing: Outgoing,
    /// Only close_notify is still to be sent.
    pub(super) output_ends: bool,
    /// Polls for the turn to send.
    pub(super) poller: Option<Waker>,
}

/// Whether, and how, the peer has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// With close_notify.
    Closed,
    /// Without.
    Truncated,
}

/// Encrypted bytes that rustls holds no longer, and that are not sent yet.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// How many bytes of plain text a pending poll has encrypted.
    pub(super) accepted: usize,
}

/// The plain text of one record (RFC 8446, section 5.1).
pub(super) const RECORD: usize = 16 * 1024;

impl Session {
    pub(super) fn new(rustls: rustls::Connection) -> Self {
        Self {
            rustls,
            unread: 0,
            gathered: Vec::new(),
            end: End::Open,
            begun: false,
            outgoing: Outgoing::default(),
            output_ends: false,
            poller: None,
        }
    }

    /// Whether a read returns at once.
    pub(super) const fn has_input(&self) -> bool {
        self.unread > 0 || !self.gathered.is_empty() || self.has_ended()
    }

    /// Whether the peer has ended its stream.
    pub(super) const fn has_ended(&self) -> bool {
        !matches!(self.end, End::Open)
    }

    /// Takes plain text, or the end of the stream; `None` if more must be received first.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.gathered.is_empty() {
            let count = self.gathered.len().min(buf.len());
            buf[..count].copy_from_slice(&self.gathered[..count]);
            self.gathered.drain(..count);
            return Some(Ok(count));
        }
        if self.unread > 0 {
            let taken = self.rustls.reader().read(buf);
            self.unread -= taken.as_ref().map_or(self.unread, |count| *count);
            return Some(taken);
        }
        match self.end {
            End::Open => None,
            End::Closed => Some(Ok(0)),
            End::Truncated => Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer has ended the stream without close_notify",
            ))),
        }
    }

    /// Takes all plain text out of rustls.
    pub(super) fn gather(&mut self) -> io::Result<()> {
        let held = self.gathered.len();
        self.gathered.resize(held + self.unread, 0);
        self.unread = 0;
        self.rustls.reader().read_exact(&mut self.gathered[held..])
    }

    /// Puts plain text back in front of the rest.
    pub(super) fn put_back(&mut self, plain: &[u8]) {
        self.gathered.splice(..0, plain.iter().copied());
    }

    /// Decrypts input of the connection below, until there is plain text. Waits for input if there
    /// is none.
    pub(super) fn receive<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        let input = below.fill_buf()?;
        let (count, fed) = self.feed(input);
        below.consume(count);
        fed
    }

    /// As [`receive`](Self::receive); sends the alert that says why it fails.
    pub(super) fn receive_or_alert<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        self.receive(below).inspect_err(|_| {
            // The peer may have gone.
            let _ = self.send(below).and_then(|()| below.flush());
        })
    }

    /// Decrypts `input`, until there is plain text. Returns how many bytes that took. Empty input is
    /// the end of the stream.
    pub(super) fn feed(&mut self, input: &[u8]) -> (usize, io::Result<()>) {
        if self.rustls.is_handshaking() {
            return on_deep_stack(|| self.process(input));
        }
        self.process(input)
    }

    fn process(&mut self, input: &[u8]) -> (usize, io::Result<()>) {
        let is_first = !std::mem::replace(&mut self.begun, true);
        if is_first && input.first().is_some_and(|kind| !is_record(*kind)) {
            return (input.len(), Err(not_tls(input)));
        }
        let mut rest = input;
        loop {
            let count = match self.rustls.read_tls(&mut rest) {
                Ok(count) => count,
                Err(err) => return (input.len(), Err(err)),
            };
            let state = match self.rustls.process_new_packets() {
                Ok(state) => state,
                Err(err) => return (input.len(), Err(failure(err))),
            };
            self.unread = state.plaintext_bytes_to_read();
            if state.peer_has_closed() {
                self.end = End::Closed;
            } else if input.is_empty() {
                self.end = End::Truncated;
            }
            if rest.is_empty() || count == 0 || self.unread > 0 {
                return (input.len() - rest.len(), Ok(()));
            }
        }
    }

    /// Decrypts all of `input`. Empty input is the end of the stream.
    pub(super) fn digest(&mut self, mut input: &[u8]) -> io::Result<()> {
        loop {
            let (count, fed) = self.feed(input);
            fed?;
            input = &input[count..];
            if input.is_empty() || self.has_ended() {
                return Ok(());
            }
            self.gather()?;
        }
    }

    /// Moves what rustls has encrypted into `outgoing`.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        while self.rustls.wants_write() {
            self.rustls.write_tls(&mut self.outgoing.bytes)?;
        }
        Ok(())
    }

    /// Takes what is encrypted and not sent.
    pub(super) fn take_output(&mut self) -> io::Result<Outgoing> {
        self.seal()?;
        Ok(std::mem::take(&mut self.outgoing))
    }

    /// As [`encrypt`], unless the output has ended.
    pub(super) fn encrypt(&mut self, buf: &[u8], bytes: &mut Vec<u8>) -> io::Result<usize> {
        if self.output_ends {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the output of the TLS connection has ended",
            ));
        }
        encrypt(&mut self.rustls, buf, bytes)
    }

    /// Sends what rustls has encrypted, a record at a time.
    pub(super) fn send(&mut self, below: &mut impl Write) -> io::Result<()> {
        self.outgoing.send(below)?;
        while self.rustls.wants_write() {
            self.rustls.write_tls(below)?;
        }
        Ok(())
    }

    /// Sends the messages of a handshake together.
    pub(super) fn send_flight<C: Connection>(&mut self, below: &mut C) -> io::Result<()> {
        self.seal()?;
        if self.outgoing.bytes.is_empty() {
            return Ok(());
        }
        self.outgoing.send(below)?;
        below.flush()
    }
}

impl Outgoing {
    pub(super) fn send(&mut self, below: &mut impl Write) -> io::Result<()> {
        while !self.bytes.is_empty() {
            let count = below.write(&self.bytes)?;
            self.bytes.drain(..count);
        }
        // Most connections are idle most of the time.
        self.bytes = Vec::new();
        Ok(())
    }

    pub(super) fn poll_send(
        &mut self,
        mut poll_write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let count = ready!(poll_write(&self.bytes))?;
            self.bytes.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts `buf` by `encrypt`, unless an earlier poll has, and sends all of it.
    pub(super) fn poll_write(
        &mut self,
        buf: &[u8],
        encrypt: impl FnOnce(&[u8], &mut Vec<u8>) -> io::Result<usize>,
        mut poll_write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.accepted == 0 {
            ready!(self.poll_send(&mut poll_write))?;
            self.accepted = encrypt(buf, &mut self.bytes)?;
        }
        ready!(self.poll_send(poll_write))?;
        let accepted = std::mem::take(&mut self.accepted);
        Poll::Ready(Ok(accepted.min(buf.len())))
    }
}

/// Encrypts as much of `buf` as a record holds. What rustls has to say otherwise comes first.
pub(super) fn encrypt(
    rustls: &mut rustls::Connection,
    buf: &[u8],
    bytes: &mut Vec<u8>,
) -> io::Result<usize> {
    let count = rustls.writer().write(&buf[..buf.len().min(RECORD)])?;
    while rustls.wants_write() {
        rustls.write_tls(bytes)?;
    }
    Ok(count)
}

/// Receives by `poll_read` into a buffer of the pool, and lets `digest` have it.
pub(super) fn poll_input(
    cx: &mut task::Context<'_>,
    poll_read: impl FnOnce(&mut task::Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
    digest: impl FnOnce(&[u8]) -> io::Result<()>,
) -> Poll<io::Result<()>> {
    let mut raw = buffers::take();
    let polled = poll_read(cx, &mut raw);
    let digested = polled.map(|received| received.and_then(|count| digest(&raw[..count])));
    buffers::give(raw);
    digested
}

/// The error of a connection, from one of rustls.
pub(super) fn failure(err: rustls::Error) -> io::Error {
    use rustls::{CertificateError, Error};
    // webpki has no text for it.
    if let Error::InvalidCertificate(CertificateError::Other(other)) = &err
        && other.to_string() == "CaUsedAsEndEntity"
    {
        return invalid(
            "invalid peer certificate: it is that of an authority, which no peer may use for itself; let the \
             authority issue one for the peer"
                .to_owned(),
        );
    }
    invalid(err.to_string())
}

/// Ignores that bytes were not sent in time: they are kept.
pub(super) fn unless_late(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(err) if err.kind() == io::ErrorKind::TimedOut => Ok(()),
        sent => sent,
    }
}

/// Ignores that a peer which is gone could not be told so.
pub(super) fn unless_gone(sent: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    match sent {
        Err(err) if matches!(err.kind(), BrokenPipe | ConnectionReset | NotConnected) => Ok(()),
        sent => sent,
    }
}

/// Whether a byte begins a record (RFC 8446, section 5.1).
const fn is_record(kind: u8) -> bool {
    matches!(kind, 0x14..=0x18)
}

/// The error about a peer that does not speak TLS at all, such as a browser with an http URL.
fn not_tls(input: &[u8]) -> io::Error {
    let start = String::from_utf8_lossy(&input[..input.len().min(16)]);
    let start = start.escape_debug();
    invalid(format!(
        "the peer does not speak TLS: its first bytes are \"{start}\""
    ))
}
