//! Connected stream sockets: reading, writing, and a close that loses no reply.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::marker::PhantomData;
use std::mem::take;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::buffers;
use crate::net::{Accepted, Connection, Managed, Waits};
use crate::registry::context::{Abort, Context};
use crate::registry::table::{AbortReason, Activity};
use crate::sys::poll::Interest;
use crate::sys::sockopt;
use crate::task::wait::{Source, after, complete_shared};

/// A connection that a stream transport `T` accepted.
///
/// Its methods are those of [`Connection`], [`Accepted`], [`BufRead`] and [`Write`], and those here
/// that only some transports have. The descriptor ([`AsFd`]) is in blocking mode.
///
/// # Dropping
///
/// When the handler has returned, the server closes the connection in good order: it sends buffered
/// output and the end of the stream. If the handler left input unread, the server then receives and
/// discards input for up to 2 s or 256 KiB, because close(2) with unread input resets the
/// connection, which can destroy the reply on its way (RFC 9112 section 9.6). If the peer may begin
/// to send only later, the handler can [`shutdown`](Connection::shutdown) the writing side and read
/// to the end itself.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read, Write};
/// use socketserver::net::TcpConnection;
/// use socketserver::{Server, Tcp, Threading};
///
/// fn echo(conn: &mut TcpConnection) -> io::Result<()> {
///     let mut buf = [0; 1024];
///     loop {
///         match conn.read(&mut buf)? {
///             0 => return Ok(()),
///             count => conn.write_all(&buf[..count])?,
///         }
///     }
/// }
///
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Stream<T> {
    socket: Arc<Connected>,
    input: Input,
    output: Output,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// The coroutine's registration for events of the socket.
    source: Source,
    context: Context,
    /// The server stops, so this message is the last one.
    is_last: bool,
    transport: PhantomData<fn() -> T>,
}

/// The socket, shared with the registry, which may abort it, and with writers.
struct Connected {
    socket: Socket,
    peer: Address,
    /// Set before the socket is shut down at the drain deadline: later failures are reported as a
    /// timeout.
    abort: AtomicBool,
}

/// Writes to a connection from outside its handler: from another handler or another thread.
/// [`Stream::writer`] makes one.
///
/// Each write is sent at once and bypasses the connection's own write buffer. Two writers do not
/// interleave within one write if the kernel takes it as a whole. A write fails once the connection
/// is closed, and with `TimedOut` if the peer takes nothing for a second. A writer keeps the
/// descriptor open, but the peer sees the end of the connection all the same.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use std::sync::Mutex;
/// use socketserver::net::Writer;
/// use socketserver::{Server, Tcp, Threading};
///
/// static CLIENTS: Mutex<Vec<Writer>> = Mutex::new(Vec::new());
///
/// let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
/// let guard = server.spawn(|conn| CLIENTS.lock().unwrap().push(conn.writer()))?;
///
/// // Copies, so that the lock is free while a client is slow to read.
/// let clients = CLIENTS.lock().unwrap().clone();
/// for mut client in clients {
///     // The client may have gone.
///     let _ = client.write_all(b"news\n");
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Writer(Arc<Connected>);

/// How long a [`Writer`] waits for a peer that takes nothing.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1);

/// Received bytes that were not yet read. Without such bytes there is no buffer.
#[derive(Default)]
pub(super) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The peer has ended its side of the stream.
    ended: bool,
    /// The bytes are a part of a request, and the connection waits for the rest.
    partial: bool,
    /// The last message was larger than [`SMALL`]: the next one is received into a buffer of
    /// [`BULK`].
    bulk: bool,
    /// A wrapper around this connection holds input that its handler has not read.
    left: bool,
}

/// Written bytes that were not yet sent.
#[derive(Default)]
struct Output {
    pending: Vec<u8>,
    capacity: usize,
}

/// The largest message that a wait without a buffer receives at once, and the buffer for larger
/// ones.
const SMALL: usize = 1024;
const BULK: usize = 16 * 1024;

/// How long a close receives unread input, and how many bytes at most.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

impl<T: 'static> Stream<T> {
    pub(crate) fn new(socket: Socket, peer: &SockAddr, mut context: Context) -> Self {
        let socket = Arc::new(Connected {
            socket,
            peer: Address::from_sock_addr(peer),
            abort: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&socket);
        context.register(weak);
        // Nobody shuts down a connection that was made from here.
        let source = if context.is_detached() {
            Source::watching_abort()
        } else {
            Source::default()
        };
        Self {
            socket,
            input: Input::default(),
            output: Output::default(),
            read_timeout: None,
            write_timeout: None,
            source,
            context,
            is_last: false,
            transport: PhantomData,
        }
    }

    /// Returns a writer for use outside the handler: for a chat, or for subscriptions. See
    /// [`Writer`]; `examples/chat.rs` is a whole program.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.socket))
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket.socket
    }

    /// Sends the part of `data` that the kernel takes, past the buffer. Waits until it takes some.
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        let sent = self.transmit(data, SendFlags::empty());
        sent.map_err(|err| self.cause(err))
    }

    fn transmit(&self, data: &[u8], more: SendFlags) -> io::Result<usize> {
        self.context.enter(Activity::Writing);
        let sent = self.transmit_now(data, more);
        self.context
            .leave(Activity::Writing, *sent.as_ref().unwrap_or(&0));
        sent
    }

    fn transmit_now(&self, data: &[u8], more: SendFlags) -> io::Result<usize> {
        // NOSIGNAL: a peer that is gone is an error, whatever the process does with SIGPIPE.
        // DONTWAIT: the slot counts each part that the kernel takes; a blocking call would return
        // only after all of it.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more;
        let attempt = || send(self.socket(), data, flags).map(|count| (count, false));
        let deadline = || after(self.write_timeout);
        self.source
            .complete(self.as_fd(), Interest::Write, deadline, attempt)
    }

    /// Receives what has arrived, past the buffer. Waits until something has.
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.context.enter(Activity::Reading);
        let received = self.source.receive(self.as_fd(), buf, self.read_timeout);
        self.context
            .leave(Activity::Reading, *received.as_ref().unwrap_or(&0));
        received.map_err(|err| self.cause(err))
    }

    fn send_pending(&mut self) -> io::Result<()> {
        self.send_all_pending(SendFlags::empty())
    }

    fn send_all_pending(&mut self, more: SendFlags) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.output.pending.len() {
                break Ok(());
            }
            match self.transmit(&self.output.pending[sent..], more) {
                Ok(count) => sent += count,
                Err(err) => break Err(self.cause(err)),
            }
        };
        self.output.pending.drain(..sent);
        result
    }

    fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Buffered output is sent before the connection waits for an answer to it.
        self.send_pending()?;
        let count = self.recv(buf)?;
        if !buf.is_empty() {
            self.note(count)?;
        }
        Ok(count)
    }

    /// Receives into a new buffer; this connection has none.
    fn receive_input(&mut self) -> io::Result<()> {
        self.send_pending()?;
        self.context.enter(Activity::Reading);
        let received = self.source.receive_pooled(self.as_fd(), self.read_timeout);
        let count = received.as_ref().map_or(0, |(_, count)| *count);
        self.context.leave(Activity::Reading, count);
        let (buffer, count) = received.map_err(|err| self.cause(err))?;
        self.input.fill(buffer, count);
        self.note(count)
    }

    /// Waits for a message while the connection is idle, or until the server ends the connection.
    fn await_message(&mut self) -> io::Result<()> {
        if self.is_last {
            // A message that has arrived is answered; the last answer leaves with the end of the
            // stream.
            return self.gather(&|_| true).map(drop);
        }
        self.send_pending()?;
        self.output.pending = Vec::new();
        let grace = self.context.begin_idle();
        let limit = self.read_timeout.into_iter().chain(grace).min();
        let received = if self.input.bulk {
            let mut buffer = vec![0; BULK].into_boxed_slice();
            let count = self.source.receive(self.as_fd(), &mut buffer, limit);
            count.map(|count| (buffer, count))
        } else {
            self.source.receive_pooled(self.as_fd(), limit)
        };
        let received = received.map(|(buffer, count)| {
            self.input.bulk = count > SMALL;
            self.input.fill(buffer, count);
            count
        });
        let over = match &received {
            Ok(count) => *count == 0 && self.context.is_ended(),
            Err(err) => {
                let grace_over = grace.is_some() && limit == grace;
                grace_over && err.kind() == io::ErrorKind::TimedOut || self.context.is_ended()
            }
        };
        if over {
            self.context.end();
        }
        self.context.end_idle(self.input.bytes().len());
        match received {
            // A message that has arrived all the same is answered.
            _ if over => self.gather(&|_| true).map(drop),
            Ok(count) => self.note(count),
            Err(err) => Err(self.cause(err)),
        }
    }

    /// Notes what a receive into a buffer with room says about the connection.
    fn note(&mut self, count: usize) -> io::Result<()> {
        if let Some(abort) = self.abort_error().filter(|_| count == 0) {
            return Err(abort);
        }
        self.input.ended |= count == 0;
        Ok(())
    }

    /// The error of every read and write after the server has aborted the connection. A read would
    /// otherwise see an ordinary end of the input.
    fn abort_error(&self) -> Option<io::Error> {
        let reason = self.context.abort_reason();
        let drained = || self.socket.abort.load(Ordering::SeqCst);
        let reason = reason.or_else(|| drained().then_some(AbortReason::Drain))?;
        Some(io::Error::new(io::ErrorKind::TimedOut, reason.text()))
    }

    /// The error that a handler sees. If the server has aborted the connection, that is the cause:
    /// a peer that sends to it gets a reset, which would hide the abort.
    fn cause(&self, err: io::Error) -> io::Error {
        self.abort_error().unwrap_or(err)
    }

    /// Receives and discards input until the peer ends its side too, within bounds, so that the
    /// close does not reset the connection. Waits only if the peer has begun to send: the handler
    /// has left input `unread`, or more has arrived. Returns whether more had arrived.
    fn linger(&mut self, unread: bool) -> bool {
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        let more = match recv(self.socket(), &mut scratch, RecvFlags::DONTWAIT) {
            Ok((count, _)) if count > 0 => count,
            Err(Errno::AGAIN) if unread => 0,
            // The common case: the peer waits for the end of the stream, or has closed.
            _ => return false,
        };
        left -= more;
        let deadline = Instant::now() + LINGER_TIME;
        while left > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            self.read_timeout = Some(wait);
            match self.recv(&mut scratch) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => break,
            }
        }
        more > 0
    }
}

impl<T: 'static> Accepted for Stream<T> {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        self.socket.peer.clone()
    }
}

impl<T: 'static> Managed for Stream<T> {
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        self.send_pending()?;
        let has_input = !self.input.is_empty() && !self.input.partial;
        if has_input || self.input.ended {
            return Ok(Waits::Ready);
        }
        // A connection that waits long holds no buffers.
        if self.input.is_empty() {
            self.input.release();
        }
        self.output.pending = Vec::new();
        self.source.release(self.socket.socket.as_fd());
        Ok(Waits::For(self.socket.socket.as_fd()))
    }

    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        while !self.input.ended && self.input.make_room() {
            let room = &mut self.input.buffer[self.input.end..];
            match recv(&self.socket.socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    self.input.end += count;
                    self.context.gathered(count);
                    self.note(count)?;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(self.cause(err.into())),
            }
        }
        let full = self.input.bytes().len() == self.input.buffer.len();
        let is_empty = self.input.is_empty();
        let whole = self.input.ended || !is_empty && (full || is_whole(self.input.bytes()));
        self.input.partial = !whole && !is_empty;
        Ok(whole)
    }

    fn leave_unread(&mut self) {
        self.input.left = true;
    }

    fn close(&mut self) -> io::Result<()> {
        // MORE: the end of the stream follows in the same segment. A client that checks for the end
        // before it sends again finds it.
        let sent = self.send_all_pending(SendFlags::MORE);
        let unread = !self.input.is_empty() || self.input.left;
        let ended = self.input.ended && !self.context.is_ended();
        let mut more = false;
        // If the peer has ended its side too, no more arrives, and close(2) ends the stream in good
        // order.
        if sent.is_err() || !ended || Arc::strong_count(&self.socket) > 1 {
            // shutdown(2) ends the stream now, even if a writer or another process holds a copy of
            // the descriptor.
            let shut_down = self.socket().shutdown(Shutdown::Write);
            more = shut_down.is_ok() && !self.input.ended && self.linger(unread);
        }
        if unread || more {
            self.context.note_crossing();
        }
        sent
    }

    fn refuse_with(&mut self, message: &[u8]) {
        if !message.is_empty() {
            // The part that fits into the send buffer: all of it in a new socket.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = send(self.socket(), message, flags);
        }
        self.refuse();
    }

    fn refuse(&mut self) {
        // Sends the end of the stream and receives the client's first bytes, so that close(2) does
        // not reset the connection. Both fail if the peer is gone.
        let _ = self.socket().shutdown(Shutdown::Write);
        let unread = recv(self.socket(), &mut [0; 4096], RecvFlags::DONTWAIT);
        if unread.is_ok_and(|(count, _)| count > 0) {
            self.context.note_crossing();
        }
    }

    fn has_input(&self) -> bool {
        !self.input.is_empty() && !self.input.partial || self.socket.has_input()
    }
}

impl<T: 'static> BufRead for Stream<T> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() && !self.input.ended {
            self.input.release();
            self.receive_input()?;
        }
        Ok(self.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }
}

impl<T: 'static> Connection for Stream<T> {
    fn next_message(&mut self) -> io::Result<bool> {
        self.context.end_request();
        if self.input.is_empty() && !self.input.ended {
            self.input.release();
            self.await_message()?;
        }
        let comes = !self.input.is_empty();
        if comes {
            self.context.begin_request();
            self.is_last = self.context.stopping();
        }
        Ok(comes)
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        self.output.capacity = capacity;
        self.send_pending()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.read_timeout = not_zero(timeout)?;
        Ok(())
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.write_timeout = not_zero(timeout)?;
        Ok(())
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.send_pending()?;
        self.socket().shutdown(how)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::from_sock_addr(&self.socket().local_addr()?))
    }
}

/// The kernel takes zero as "no timeout" (socket(7)).
fn not_zero(timeout: Option<Duration>) -> io::Result<Option<Duration>> {
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timeout of zero",
        ));
    }
    Ok(timeout)
}

impl<T: 'static> Read for Stream<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return self.receive(buf);
        }
        Ok(self.input.take(buf))
    }
}

impl<T: 'static> Write for Stream<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.output.pending.len() + buf.len() > self.output.capacity {
            self.send_pending()?;
            if buf.len() >= self.output.capacity {
                return self.send(buf);
            }
        }
        self.output.pending.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()
    }
}

impl<T> AsFd for Stream<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket.as_fd()
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            socket,
            input,
            output,
            context,
            ..
        } = self;
        f.debug_struct("Stream")
            .field("id", &context.id())
            .field("peer", &socket.peer)
            .field("fd", &socket.socket)
            .field("unread", &input.bytes().len())
            .field("unsent", &output.pending.len())
            .finish()
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Connected { socket, .. } = &*self.0;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let deadline = || Some(Instant::now() + WRITER_TIMEOUT);
        let unsent = Cell::new(None);
        let attempt = || {
            let sent = send(socket, buf, flags);
            if sent == Err(Errno::AGAIN) {
                unsent.set(self.0.unsent());
            }
            sent
        };
        loop {
            let sent = complete_shared(socket.as_fd(), Interest::Write, deadline, attempt);
            let timed_out = |err: &io::Error| err.kind() == io::ErrorKind::TimedOut;
            // The kernel reports room only after the peer has taken much: a peer that took less is
            // reading all the same.
            let took = |(before, now)| now < before;
            let progress = || unsent.get().zip(self.0.unsent()).is_some_and(took);
            if !sent.as_ref().is_err_and(timed_out) || !progress() {
                return sent;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(&self.0.socket).finish()
    }
}

impl Abort for Connected {
    fn abort(&self) {
        // Blocked and later reads end, writes fail. ENOTCONN: the peer has closed already.
        self.abort.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn peer(&self) -> Address {
        self.peer.clone()
    }

    fn has_input(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(&self.socket, &mut [0], flags).is_ok_and(|(count, _)| count > 0)
    }

    fn end_input(&self) {
        // Input that has arrived can still be received. ENOTCONN: the peer has closed already.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    fn unsent(&self) -> Option<u64> {
        sockopt::unsent(self.socket.as_fd()).ok()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, count: usize) {
        let left = self.bytes().len();
        assert!(count <= left, "consume({count}) with {left} bytes buffered");
        self.start += count;
    }

    /// Copies buffered bytes into `buf` and returns how many.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = self.bytes().len().min(buf.len());
        buf[..count].copy_from_slice(&self.bytes()[..count]);
        self.start += count;
        count
    }

    /// Makes room behind the buffered bytes. Returns whether there is any.
    fn make_room(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.fill(buffers::take(), 0);
        }
        if self.start > 0 && self.end == self.buffer.len() {
            self.buffer.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.end < self.buffer.len()
    }

    pub(super) fn fill(&mut self, buffer: Box<[u8]>, count: usize) {
        (self.buffer, self.start, self.end) = (buffer, 0, count);
    }

    /// Returns the buffer to the pool, once all of it has been read.
    pub(super) fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if !self.buffer.is_empty() {
            buffers::give(take(&mut self.buffer));
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
    }
}
