//! Connections whose messages keep their boundaries: receiving, sending, and a close that loses no reply.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::send;
use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::net::link::{FLAGS, Input, Link, Timeout};
use crate::net::unix_stream::Credentials;
use crate::net::{Accepted, Managed, Waits};
use crate::registry::context::{Abort, Context};
use crate::registry::table::Activity;
use crate::sys::poll::Interest;
use crate::sys::{self, message, sockopt};
use crate::task::wait::after;

/// A connection that [`UnixSeqpacket`](crate::UnixSeqpacket) accepted: it carries messages, each whole or not at
/// all.
///
/// It is no [`Connection`](crate::Connection): a `Read` may return a part of what was sent, and a `Write` may send a
/// part. [`recv`](Self::recv) and [`send`](Self::send) block a thread and suspend a coroutine; they take `&self`,
/// so the closures of a [`task::scope`](crate::task::scope()) receive and send at the same time.
///
/// # Messages
///
/// A message is at most as long as the sender's buffer allows: on Linux its `SO_SNDBUF` less 32 bytes, 212,960 by
/// default. It may be empty: the receiver tells it from the end of the stream. Linux reports no `MSG_EOR`, and
/// ignores that of a sender. The kernel closes descriptors that a message carries (unix(7), `SCM_RIGHTS`).
///
/// # Dropping
///
/// When the handler has returned, the server ends the stream. If the handler left messages unreceived, the server
/// then receives and discards messages for up to 2 s or 256 KiB, because close(2) with such messages makes the
/// client's next call fail with `ECONNRESET`, before it has received the reply.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use socketserver::net::{SeqpacketConnection, UnixAddress};
/// use socketserver::{Server, Threading, UnixSeqpacket};
///
/// fn echo(conn: &mut SeqpacketConnection) -> io::Result<()> {
///     let mut buf = [0; 4096];
///     while conn.next_message()? {
///         if let Some(message) = conn.recv(&mut buf)? {
///             conn.send(message)?;
///         }
///     }
///     Ok(())
/// }
///
/// let name = UnixAddress::Abstract(b"socketserver-doc-echo".to_vec());
/// let guard = Server::<UnixSeqpacket, Threading>::bind(name.clone())?.spawn(echo)?;
///
/// let client = SeqpacketConnection::connect(name, Duration::from_secs(5))?;
/// client.send(b"one")?;
/// client.send(b"")?;
/// let mut buf = [0; 100];
/// assert_eq!(client.recv(&mut buf)?.as_deref(), Some(&b"one"[..]));
/// assert_eq!(client.recv(&mut buf)?.map(|message| message.len()), Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SeqpacketConnection {
    link: Link,
    read_timeout: Limit,
    write_timeout: Limit,
    /// The peer has ended its side of the stream.
    ended: AtomicBool,
    /// The server stops, so this message is the last one.
    is_last: bool,
}

/// A [`Timeout`] that several tasks use.
#[derive(Default)]
struct Limit(AtomicU64);

impl Limit {
    fn set(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.store(Timeout::new(timeout)?.0, Ordering::Relaxed);
        Ok(())
    }

    fn get(&self) -> Option<Duration> {
        Timeout(self.0.load(Ordering::Relaxed)).get()
    }
}

/// How long a close receives messages, and how many bytes at most.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

impl SeqpacketConnection {
    /// Takes a connected socket.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
        message::mark(socket.as_fd())
    }

    /// Takes a connected socket that was [prepared](Self::prepare).
    pub(crate) fn new(socket: Socket, peer: &SockAddr, context: Context) -> Self {
        Self {
            link: Link::new(socket, peer, Input::Messages, context),
            read_timeout: Limit::default(),
            write_timeout: Limit::default(),
            ended: AtomicBool::new(false),
            is_last: false,
        }
    }

    fn socket(&self) -> &Socket {
        &self.link.socket.socket
    }

    /// Receives the next message into `buf`, and returns it; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: the message is longer than `buf`. The text has both lengths. The message is lost; the next
    ///   call receives the one after it.
    /// - `TimedOut`: the read timeout has passed, or the server has aborted the connection.
    /// - `ConnectionReset`: the peer has closed the connection without receiving all that was sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use socketserver::net::SeqpacketConnection;
    ///
    /// /// Returns the sum of the numbers that the client sends, one a message.
    /// fn sum(conn: &SeqpacketConnection) -> io::Result<u64> {
    ///     let (mut sum, mut buf) = (0, [0; 8]);
    ///     while let Some(message) = conn.recv(&mut buf)? {
    ///         let number = <[u8; 8]>::try_from(&*message).map_err(io::Error::other)?;
    ///         sum += u64::from_le_bytes(number);
    ///     }
    ///     Ok(sum)
    /// }
    /// ```
    pub fn recv<'b>(&self, buf: &'b mut [u8]) -> io::Result<Option<&'b mut [u8]>> {
        let received = self.receive(buf, self.read_timeout.get())?;
        let length = self.whole(received, buf.len())?;
        Ok(length.map(|length| &mut buf[..length]))
    }

    /// Polls for a message, in a future that [`task::block_on`](crate::task::block_on()) waits for: to wait for the
    /// connection and for something else at the same time.
    ///
    /// Returns `Ready` with the length of the message in `buf`, `None` at the end of the stream. The rest is as for
    /// [`Connection::poll_read`](crate::Connection::poll_read).
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the caller is not within `block_on`.
    /// - else as [`recv`](Self::recv).
    pub fn poll_recv(
        &self,
        cx: &mut task::Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        let fd = self.link.fd();
        let attempt = || message::receive(fd, buf).map(|length| (length, false));
        let received = ready!(self.link.poll_receive(cx, attempt, counted))?;
        Poll::Ready(self.whole(received, buf.len()))
    }

    /// Polls for a message of any length, as [`poll_recv`](Self::poll_recv) does.
    pub(super) fn poll_recv_whole(
        &self,
        cx: &task::Context<'_>,
    ) -> Poll<io::Result<Option<Box<[u8]>>>> {
        let fd = self.link.fd();
        let attempt = || {
            let Some(length) = message::peek(fd)? else {
                return Ok((None, false));
            };
            let mut buf = vec![0; length].into_boxed_slice();
            let received = message::receive(fd, &mut buf)?;
            Ok((received.map(|_| buf), false))
        };
        let counted = |received: &io::Result<Option<Box<[u8]>>>| {
            let message = received.as_ref().ok().and_then(Option::as_ref);
            message.map_or(0, |message| message.len().max(1))
        };
        let message = ready!(self.link.poll_receive(cx, attempt, counted))?;
        if message.is_none() {
            self.note_end()?;
        }
        Poll::Ready(Ok(message))
    }

    /// Polls for a failure, as [`Connection::poll_failed`](crate::Connection::poll_failed) does.
    pub(super) fn poll_failed(&self, cx: &task::Context<'_>) -> Poll<io::Error> {
        self.link.poll_failed(cx)
    }

    /// How many bytes of output the peer has not received.
    pub(super) fn unsent_bytes(&self) -> Option<u64> {
        sockopt::unsent(self.link.fd()).ok()
    }

    /// Checks that a message has fit into a buffer, and notes the end of the stream.
    fn whole(&self, received: Option<usize>, room: usize) -> io::Result<Option<usize>> {
        match received {
            None => self.note_end()?,
            Some(length) if length > room => {
                let what =
                    format!("a message of {length} bytes is longer than the buffer of {room}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            Some(_) => {}
        }
        Ok(received)
    }

    /// Receives a message, and returns its length. Waits until one comes.
    fn receive(&self, buf: &mut [u8], limit: Option<Duration>) -> io::Result<Option<usize>> {
        let Link {
            source, context, ..
        } = &self.link;
        let fd = self.link.fd();
        let attempt = || message::receive(fd, buf).map(|length| (length, false));
        context.enter(Activity::Reading);
        let received = source.complete(fd, Interest::Read, || after(limit), attempt);
        context.leave(Activity::Reading, counted(&received));
        received.map_err(|err| self.link.cause(err))
    }

    /// Notes that the stream has ended.
    fn note_end(&self) -> io::Result<()> {
        self.link.abort_error().map_or(Ok(()), Err)?;
        self.ended.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Sends a message, whole; an empty one too. Waits while the peer is slow to receive. Messages of several
    /// tasks do not mix.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the message is longer than the send buffer allows. The text has both sizes;
    ///   [`send_buffer`](crate::net::UnixOptions::send_buffer) sets that of accepted connections.
    /// - `BrokenPipe`: the peer has closed the connection, or receives no more.
    /// - `TimedOut`: the write timeout has passed, or the server has aborted the connection.
    /// - `ConnectionReset`: the peer has closed the connection without receiving all that was sent.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let Link {
            source, context, ..
        } = &self.link;
        let fd = self.link.fd();
        let attempt = || send(fd, message, FLAGS).map(|count| (count, false));
        // Most messages do not wait.
        let deadline = || {
            context.begin_write();
            after(self.write_timeout.get())
        };
        let sent = source.complete(fd, Interest::Write, deadline, attempt);
        context.end_write(*sent.as_ref().unwrap_or(&0));
        sent.map_or_else(|err| Err(self.unsent(err, message.len())), |_| Ok(()))
    }

    /// Polls for room to send a message: the counterpart of [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the caller is not within `block_on`.
    /// - else as [`send`](Self::send).
    pub fn poll_send(&self, cx: &mut task::Context<'_>, message: &[u8]) -> Poll<io::Result<()>> {
        let sent = self.link.poll_send(cx, message);
        sent.map(|sent| match sent {
            Ok(_) => Ok(()),
            Err(err) => Err(self.unsent(err, message.len())),
        })
    }

    /// The error of a message that was not sent.
    fn unsent(&self, err: io::Error, length: usize) -> io::Error {
        if err.raw_os_error() == Some(libc::EMSGSIZE) {
            self.too_long(length)
        } else {
            self.link.cause(err)
        }
    }

    fn too_long(&self, length: usize) -> io::Error {
        let buffer = self.socket().send_buffer_size().unwrap_or_default();
        let what = format!(
            "a message of {length} bytes does not fit into the send buffer (SO_SNDBUF) of {buffer} bytes"
        );
        io::Error::new(io::ErrorKind::InvalidInput, what)
    }

    /// Waits between two messages for the next one. Returns `false` at the end of the stream, and when the server
    /// has ended the connection because it stops. Call it before each message, the first one too.
    ///
    /// The idle timeout, the request timeout and a stop apply as they do for
    /// [`Connection::next_message`](crate::Connection::next_message), with one difference: a last answer and the end of
    /// the stream do not leave together. A client that sends between the two gets no answer to that message.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn next_message(&mut self) -> io::Result<bool> {
        self.link.context.end_request();
        let comes = !self.has_ended() && self.await_message()?;
        if comes {
            self.link.context.begin_request();
            self.is_last = self.link.context.stopping();
        }
        Ok(comes)
    }

    /// Waits for a message while the connection is idle, or until the server ends the connection.
    fn await_message(&self) -> io::Result<bool> {
        if self.is_last {
            return Ok(self.has_input());
        }
        let Link {
            source, context, ..
        } = &self.link;
        let fd = self.link.fd();
        let grace = context.begin_idle();
        let limit = self.read_timeout.get().into_iter().chain(grace).min();
        let attempt = || message::peek(fd).map(|length| (length, false));
        let peeked = source.complete(fd, Interest::Read, || after(limit), attempt);
        let over = match &peeked {
            Ok(message) => message.is_none() && context.is_ended(),
            Err(err) => {
                let grace_over = grace.is_some() && limit == grace;
                grace_over && err.kind() == io::ErrorKind::TimedOut || context.is_ended()
            }
        };
        if over {
            context.end();
        }
        context.end_idle(0);
        match peeked {
            // A message that has arrived all the same is answered.
            _ if over => Ok(self.has_input()),
            Ok(Some(_)) => Ok(true),
            Ok(None) => self.note_end().map(|()| false),
            Err(err) => Err(self.link.cause(err)),
        }
    }

    /// Makes a [`recv`](Self::recv) that waits longer than `timeout` fail with `TimedOut`. Default: `None`, which
    /// waits forever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.read_timeout.set(timeout)
    }

    /// Makes a [`send`](Self::send) that waits longer than `timeout` fail with `TimedOut`. Default: `None`, which
    /// waits forever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.write_timeout.set(timeout)
    }

    /// Ends one direction of the connection, or both. After `Shutdown::Write` the peer gets what was sent, then the
    /// end of the stream; receiving still works.
    ///
    /// # Errors
    ///
    /// `NotConnected`: the peer has closed the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket().shutdown(how)
    }

    /// Returns whether the peer has ended its side of the connection, this end no longer receives, or the connection
    /// has failed. Never waits, and receives nothing.
    ///
    /// As [`Connection::peer_gone`](crate::Connection::peer_gone).
    #[must_use]
    pub fn peer_gone(&self) -> bool {
        sys::poll::is_hung_up(self.link.fd())
    }

    /// Returns the address of this end of the connection.
    ///
    /// # Errors
    ///
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::from_sock_addr(&self.socket().local_addr()?))
    }

    /// Receives and discards messages until the peer ends its side too, within bounds. Waits only if the handler
    /// has left a message. Returns whether it has.
    fn linger(&self) -> bool {
        let Ok(Some(length)) = message::receive(self.link.fd(), &mut []) else {
            return false;
        };
        let mut left = LINGER_BYTES.saturating_sub(length);
        let deadline = Instant::now() + LINGER_TIME;
        while left > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            match self.receive(&mut [], Some(wait)) {
                // An empty message costs too.
                Ok(Some(length)) => left = left.saturating_sub(length.max(1)),
                _ => break,
            }
        }
        true
    }
}

/// How many bytes a receive counts for. A client that sends an empty message is not silent: it counts as a byte.
fn counted(received: &io::Result<Option<usize>>) -> usize {
    let length = received.as_ref().ok().copied().flatten();
    length.map_or(0, |length| length.max(1))
}

impl Accepted for SeqpacketConnection {
    fn context(&self) -> &Context {
        &self.link.context
    }

    fn peer(&self) -> Address {
        self.link.socket.peer.clone()
    }

    fn peer_credentials(&self) -> io::Result<Credentials> {
        Credentials::of(self.as_fd())
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        sockopt::peer_groups(self.as_fd())
    }
}

impl Managed for SeqpacketConnection {
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        if self.has_ended() {
            return Ok(Waits::Ready);
        }
        self.link.source.release(self.link.fd());
        Ok(Waits::For(self.link.fd()))
    }

    fn has_input(&self) -> bool {
        self.link.socket.has_input()
    }

    fn close(&mut self) -> io::Result<()> {
        // shutdown(2) ends the stream now, even if another process holds a copy of the descriptor.
        let shut_down = self.socket().shutdown(Shutdown::Write);
        if shut_down.is_ok() && !self.has_ended() && self.linger() {
            self.link.context.note_crossing();
        }
        Ok(())
    }

    fn refuse_with(&mut self, message: &[u8]) {
        if !message.is_empty() {
            // It fits into the send buffer of a new socket.
            let _ = send(self.socket(), message, FLAGS);
        }
        self.refuse();
    }

    fn refuse(&mut self) {
        // Sends the end of the stream and receives the client's first message, so that close(2) does not reset
        // the connection. Both fail if the peer is gone.
        let _ = self.socket().shutdown(Shutdown::Write);
        let unread = message::receive(self.link.fd(), &mut []);
        if unread.is_ok_and(|message| message.is_some()) {
            self.link.context.note_crossing();
        }
    }
}

impl AsFd for SeqpacketConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.fd()
    }
}

impl fmt::Debug for SeqpacketConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeqpacketConnection")
            .field("id", &self.link.context.id())
            .field("peer", &self.link.socket.peer)
            .field("fd", &self.link.socket.socket)
            .finish()
    }
}
