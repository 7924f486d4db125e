//! A connected stream socket, of whatever transport: reading, writing, and an end that loses no
//! reply.

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
use crate::registry::context::{Context, Cut};
use crate::registry::table::{Activity, CutReason};
use crate::spare;
use crate::sys::poll::Interest;
use crate::sys::sockopt;
use crate::task::wait::{Source, after, complete_shared};
use crate::transport::{Connection, Managed, Request, Waits};

/// A connection that a stream transport `T` accepted.
///
/// Its methods are those of [`Connection`] and [`Request`], of [`BufRead`] and [`Write`]; what only
/// one transport has is here. The descriptor ([`AsFd`]) is in blocking mode.
///
/// # Dropping
///
/// The server closes a connection in good order when its handler has returned: buffered output is
/// sent, the peer is told, and if the handler left input unread, what still comes is taken for up
/// to 2 s or 256 KiB, because closing over it would reset the connection and destroy the reply on
/// its way (RFC 9112 section 9.6). A handler whose peer may begin to send only later can
/// [`shutdown`](Connection::shutdown) the writing side and read to the end itself.
pub struct Stream<T> {
    socket: Arc<Connected>,
    input: Input,
    output: Output,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Where a coroutine waits for the socket.
    source: Source,
    context: Context,
    /// The server stops after this message.
    is_last: bool,
    transport: PhantomData<fn() -> T>,
}

/// The socket itself, shared with whoever may cut it, or write to it.
struct Connected {
    socket: Socket,
    peer: Address,
    /// Set before the socket is shut down at the drain deadline: what fails then has run out of
    /// time.
    cut: AtomicBool,
}

/// Writes to a connection from elsewhere: another handler, another thread. Made by
/// [`Stream::writer`].
///
/// Each write is sent at once, past the connection's own write buffer. Several writers do not mix
/// within one write, as long as the kernel takes it whole. Writing fails once the connection is
/// closed, and with `TimedOut` where the peer takes nothing for a second; a writer does not keep
/// the connection open for its peer, but its descriptor.
#[derive(Clone)]
pub struct Writer(Arc<Connected>);

/// How long a [`Writer`] waits for a peer that takes nothing.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that were received and not yet read. Has no buffer when there are none.
#[derive(Default)]
pub(super) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The peer has said that it sends no more.
    ended: bool,
    /// It is a part of a request, of which more is waited for.
    partial: bool,
    /// The last message was no small one: the next one is received at once.
    bulk: bool,
    /// A connection that wraps this one has taken input that its handler has left.
    left: bool,
}

/// Bytes that were written and not yet sent.
#[derive(Default)]
struct Output {
    pending: Vec<u8>,
    capacity: usize,
}

/// A message that a wait without a buffer can take at once, and the buffer of a wait for a larger one.
const SMALL: usize = 1024;
const BULK: usize = 16 * 1024;

/// How long, and how much, a close takes of what the handler left unread.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

impl<T: 'static> Stream<T> {
    pub(crate) fn new(socket: Socket, peer: &SockAddr, mut context: Context) -> Self {
        let socket = Arc::new(Connected {
            socket,
            peer: Address::from_sock_addr(peer),
            cut: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&socket);
        context.on_cut(weak);
        // Nobody shuts down a connection that was made from here.
        let source = if context.is_detached() {
            Source::apart()
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

    /// A way to write to this connection from elsewhere, for what other clients do: a chat, a
    /// subscription.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::io::{self, Write};
    /// use std::sync::Mutex;
    /// use socketserver::{Connection, Request, TcpConnection, ThreadingTcpServer, Writer};
    ///
    /// static CLIENTS: Mutex<BTreeMap<u64, Writer>> = Mutex::new(BTreeMap::new());
    ///
    /// fn relay(conn: &mut TcpConnection) -> io::Result<()> {
    ///     let mut line = String::new();
    ///     while conn.next_message()? {
    ///         conn.read_line_max(&mut line, 1024)?;
    ///         // Copied, so that nobody waits for the lock while a client is slow to read.
    ///         let clients: Vec<_> = CLIENTS.lock().unwrap().values().cloned().collect();
    ///         for mut client in clients {
    ///             // One that is gone is removed by its own handler.
    ///             let _ = client.write_all(line.as_bytes());
    ///         }
    ///         line.clear();
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|conn| {
    ///     CLIENTS.lock().unwrap().insert(conn.id(), conn.writer());
    ///     let relayed = relay(conn);
    ///     CLIENTS.lock().unwrap().remove(&conn.id());
    ///     relayed
    /// })?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.socket))
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket.socket
    }

    /// Sends of `data` what the kernel takes, without the buffer. Waits until it takes some.
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
        // NOSIGNAL: a peer that is gone is an error, whatever the process does with SIGPIPE. DONTWAIT:
        // each part that the kernel takes is noted; a call that waits would say nothing before all
        // of it is taken.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more;
        let attempt = || send(self.socket(), data, flags).map(|count| (count, false));
        let deadline = || after(self.write_timeout);
        self.source
            .complete(self.as_fd(), Interest::Write, deadline, attempt)
    }

    /// Receives what is there, without the buffer. Waits until something is.
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
        // Who waits for an answer must have asked the question.
        self.send_pending()?;
        let count = self.recv(buf)?;
        if !buf.is_empty() {
            self.note(count)?;
        }
        Ok(count)
    }

    /// Receives into a buffer of this connection, which has none.
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

    /// Waits for a message while the connection is idle, until the server ends that.
    fn await_message(&mut self) -> io::Result<()> {
        if self.is_last {
            // One that has come is answered; the last answer leaves with the end of the stream.
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
            // What has come all the same is answered.
            _ if over => self.gather(&|_| true).map(drop),
            Ok(count) => self.note(count),
            Err(err) => Err(self.cause(err)),
        }
    }

    /// Notes what receiving into a buffer with room says of the connection.
    fn note(&mut self, count: usize) -> io::Result<()> {
        if let Some(cut) = self.cut_off().filter(|_| count == 0) {
            return Err(cut);
        }
        self.input.ended |= count == 0;
        Ok(())
    }

    /// What is said if the server has cut the connection. Without it, the cut would look like the
    /// end of the input.
    fn cut_off(&self) -> Option<io::Error> {
        let reason = self.context.cut_reason();
        let drained = || self.socket.cut.load(Ordering::SeqCst);
        let reason = reason.or_else(|| drained().then_some(CutReason::Drain))?;
        Some(io::Error::new(io::ErrorKind::TimedOut, reason.text()))
    }

    /// Why a call has failed. A peer that sends to a connection which the server has cut resets it.
    fn cause(&self, err: io::Error) -> io::Error {
        self.cut_off().unwrap_or(err)
    }

    /// Takes what the peer still sends until it ends too, within bounds, so that the close resets
    /// nothing.
    fn linger(&mut self) {
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        // The common case: the peer waits for our end, or has closed, and nothing is unread. Who
        // sends more than the handler wanted has begun to, and may go on.
        match recv(self.socket(), &mut scratch, RecvFlags::DONTWAIT) {
            Ok((count, _)) if count > 0 => left -= count,
            Err(Errno::AGAIN) if !self.input.is_empty() || self.input.left => {}
            _ => return,
        }
        self.context.note_crossing();
        let deadline = Instant::now() + LINGER_TIME;
        while left > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return;
            }
            self.read_timeout = Some(wait);
            match self.recv(&mut scratch) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }
}

impl<T: 'static> Request for Stream<T> {
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
        // Who waits for long holds no memory that it does not need.
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
        // MORE: the end of the stream follows, in the same segment: a client that looks for it before it
        // sends again finds it.
        let sent = self.send_all_pending(SendFlags::MORE);
        let ended = self.input.ended && !self.context.is_ended();
        // Where the peer has ended too, the descriptor's end is the stream's, and nothing is unread.
        if sent.is_ok() && ended && Arc::strong_count(&self.socket) == 1 {
            return Ok(());
        }
        // The end of the stream reaches the peer now, even where a writer, or another process,
        // holds a copy of the descriptor.
        let told = self.socket().shutdown(Shutdown::Write);
        if told.is_ok() && !self.input.ended {
            self.linger();
        }
        sent
    }

    fn refuse_with(&mut self, message: &[u8]) {
        if !message.is_empty() {
            // As much as there is room for, which is all of it in a socket that is new.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = send(self.socket(), message, flags);
        }
        self.refuse();
    }

    fn refuse(&mut self) {
        // The end of the stream, and no reset over the first bytes of a request. Both may fail: the
        // peer is gone.
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

/// The kernel would take zero as "no timeout" (socket(7)).
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
            // The kernel has room only once the peer has taken much: it reads all the same.
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

impl Cut for Connected {
    fn cut(&self) {
        // Blocked and later reads end, writes fail; ENOTCONN says that the peer was faster.
        self.cut.store(true, Ordering::SeqCst);
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
        // What is there can still be received. ENOTCONN says that the peer was faster.
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

    /// Copies what there is and fits, and says how much.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = self.bytes().len().min(buf.len());
        buf[..count].copy_from_slice(&self.bytes()[..count]);
        self.start += count;
        count
    }

    /// Makes room for more behind what is there; says whether there is some.
    fn make_room(&mut self) -> bool {
        if self.buffer.is_empty() {
            self.fill(spare::take(), 0);
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

    /// Gives the buffer back, once all of it has been read.
    pub(super) fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if !self.buffer.is_empty() {
            spare::give(take(&mut self.buffer));
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
    }
}
