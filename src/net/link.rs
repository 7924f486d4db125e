//! The socket of a connection, which its two directions, the registry and writers share.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::net::turns::{Turn, Turns};
use crate::registry::context::{Abort, Context};
use crate::registry::table::AbortReason;
use crate::sys::poll::{Interest, has_failed};
use crate::sys::{self, sockopt};
use crate::task::wait::Source;

/// NOSIGNAL: a peer that is gone is an error, whatever the process does with SIGPIPE. DONTWAIT: the slot counts
/// each part that the kernel takes; a blocking call would return only after all of it.
pub(super) const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// What both directions of a connection use.
pub(super) struct Link {
    pub(super) socket: Arc<Connected>,
    /// The registration for events of the socket.
    pub(super) source: Source,
    pub(super) context: Context,
}

/// The socket, shared with the registry, which may abort it, and with writers.
pub(super) struct Connected {
    pub(super) socket: Socket,
    pub(super) peer: Address,
    /// What arrives on it.
    input: Input,
    /// Set before the socket is shut down at the drain deadline: later failures are reported as a
    /// timeout.
    abort: AtomicBool,
    /// Whose turn it is to write, once there are writers.
    turns: OnceLock<Box<Turns>>,
}

/// What arrives on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    Bytes,
    /// Messages with boundaries.
    Messages,
}

impl Link {
    /// Registers a new connection with its server.
    pub(super) fn new(socket: Socket, peer: &SockAddr, input: Input, mut context: Context) -> Self {
        let socket = Arc::new(Connected {
            socket,
            peer: Address::from_sock_addr(peer),
            input,
            abort: AtomicBool::new(false),
            turns: OnceLock::new(),
        });
        let weak = Arc::downgrade(&socket);
        context.register(weak);
        // The server shuts down accepted connections alone: an abort of the handler must end the waits of a dialed one.
        let source = if context.is_detached() {
            Source::watching_abort()
        } else {
            Source::default()
        };
        Self {
            socket,
            source,
            context,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.socket.as_fd()
    }

    /// The error of every read and write after the server has aborted the connection. A read would
    /// otherwise see an ordinary end of the input.
    pub(super) fn abort_error(&self) -> Option<io::Error> {
        let reason = self.context.abort_reason();
        let drained = || self.socket.abort.load(Ordering::SeqCst);
        let reason = reason.or_else(|| drained().then_some(AbortReason::Drain))?;
        Some(io::Error::new(io::ErrorKind::TimedOut, reason.text()))
    }

    /// The error that a handler sees. If the server has aborted the connection, that is the cause:
    /// a peer that sends to it gets a reset, which would hide the abort.
    pub(super) fn cause(&self, err: io::Error) -> io::Error {
        self.abort_error().unwrap_or(err)
    }

    /// Receives what has arrived, in a future, as [`Connection::poll_read`](crate::Connection::poll_read) says. `counted`
    /// returns how many bytes that is.
    pub(super) fn poll_receive<R>(
        &self,
        cx: &task::Context<'_>,
        attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
        counted: impl FnOnce(&io::Result<R>) -> usize,
    ) -> Poll<io::Result<R>> {
        let (fd, interest) = (self.fd(), Interest::Read);
        let Poll::Ready(received) = self.source.poll_complete(cx.waker(), fd, interest, attempt)
        else {
            self.context.begin_poll_read();
            return Poll::Pending;
        };
        self.context.end_poll_read(counted(&received));
        Poll::Ready(received.map_err(|err| self.cause(err)))
    }

    /// Sends what the kernel takes, in a future, as [`Connection::poll_write`](crate::Connection::poll_write) says. The
    /// error is that of the call.
    pub(super) fn poll_send(&self, cx: &task::Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let fd = self.fd();
        let attempt = || send(fd, data, FLAGS).map(|count| (count, false));
        let interest = Interest::Write;
        let Poll::Ready(sent) = self.source.poll_complete(cx.waker(), fd, interest, attempt) else {
            self.context.begin_poll_write();
            return Poll::Pending;
        };
        self.context.end_poll_write(*sent.as_ref().unwrap_or(&0));
        Poll::Ready(sent)
    }

    /// Polls for a failure, as [`Connection::poll_failed`](crate::Connection::poll_failed) says.
    pub(super) fn poll_failed(&self, cx: &task::Context<'_>) -> Poll<io::Error> {
        let fd = self.fd();
        loop {
            self.source.exhaust(Interest::Read);
            if has_failed(fd) {
                break;
            }
            if let Err(err) = ready!(self.source.poll_failure(cx.waker(), fd)) {
                return Poll::Ready(err);
            }
        }
        let failure = self.socket.socket.take_error().ok().flatten();
        let failure = failure.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
        Poll::Ready(self.cause(failure))
    }
}

impl Connected {
    /// From now on, whole writes take turns.
    pub(super) fn share(&self) {
        let _ = self.turns.get_or_init(Box::default);
    }

    /// Waits for the turn to write, for `limit` at most, if the socket has several writers.
    pub(super) fn turn(&self, limit: Option<Duration>) -> io::Result<Option<Turn<'_>>> {
        self.turns.get().map(|turns| turns.take(limit)).transpose()
    }
}

/// How long a read or a write may wait, in nanoseconds; zero for no limit. Each connection has two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timeout(pub(super) u64);

impl Timeout {
    pub(super) fn new(timeout: Option<Duration>) -> io::Result<Self> {
        // The kernel takes zero as "no timeout" (socket(7)).
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a timeout of zero",
            ));
        }
        let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self(timeout.map_or(0, nanos)))
    }

    pub(super) fn get(self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_nanos(self.0))
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
        match self.input {
            Input::Bytes => {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                recv(&self.socket, &mut [0], flags).is_ok_and(|(count, _)| count > 0)
            }
            // A message may be empty.
            Input::Messages => {
                let peeked = sys::message::peek(self.socket.as_fd());
                peeked.is_ok_and(|message| message.is_some())
            }
        }
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
