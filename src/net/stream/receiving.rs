//! The receiving direction of a stream.

use std::io::{self, BufRead, Read};
use std::os::fd::BorrowedFd;
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::address::Address;
use crate::net::halves::ReadSide;
use crate::net::input::Input;
use crate::net::link::{Link, Timeout};
use crate::registry::table::Activity;
use crate::sys::sockopt;

/// The state of the receiving direction.
#[derive(Default)]
pub(super) struct Receiving {
    pub(super) input: Input,
    pub(super) timeout: Timeout,
    /// The peer has ended its side of the stream.
    pub(super) ended: bool,
    /// The buffered bytes are a part of a request, and the connection waits for the rest.
    pub(super) partial: bool,
    /// The last message was larger than [`SMALL`]: the next one is received into a buffer of
    /// [`BULK`].
    bulk: bool,
    /// A wrapper around this connection holds input that its handler has not read.
    pub(super) left: bool,
    /// The server stops, so this message is the last one.
    pub(super) is_last: bool,
    /// The connection ends with a reset.
    pub(super) is_reset: bool,
}

/// The largest message that a wait without a buffer receives at once, and the buffer for larger
/// ones.
const SMALL: usize = 1024;
const BULK: usize = 16 * 1024;

/// How long a close receives unread input while the peer takes none of the output, and how many bytes at most.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// How often a close looks whether the kernel has sent all output.
const LINGER_LOOK: Duration = Duration::from_millis(100);

/// Whether a peer goes on taking output, as a close sees it.
struct Taking<'a> {
    fd: BorrowedFd<'a>,
    unsent: u64,
    deadline: Instant,
}

impl<'a> Taking<'a> {
    fn new(fd: BorrowedFd<'a>) -> Self {
        Self {
            fd,
            unsent: sockopt::unsent(fd).unwrap_or_default(),
            deadline: Instant::now() + LINGER_TIME,
        }
    }

    fn is_due(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// How long the close goes on waiting: [`LINGER_TIME`] anew each time that the peer has taken some output in the
    /// last one, so that a peer that takes its reply slowly gets all of it.
    fn left(&mut self) -> Option<Duration> {
        if self.is_due() {
            let before = self.unsent;
            self.unsent = sockopt::unsent(self.fd).unwrap_or_default();
            if self.unsent == 0 || self.unsent >= before {
                return None;
            }
            self.deadline = Instant::now() + LINGER_TIME;
        }
        Some(self.deadline.saturating_duration_since(Instant::now()))
    }
}

impl Receiving {
    /// Returns whether there is nothing to read without a wait.
    pub(super) const fn must_wait(&self) -> bool {
        self.input.is_empty() && !self.ended
    }

    /// Returns whether there is input that the handler has not read, and that it can be called for.
    pub(super) const fn has_input(&self) -> bool {
        !self.input.is_empty() && !self.partial
    }
}

/// Receives from a stream.
pub(super) struct Receiver<'a> {
    pub(super) link: &'a Link,
    pub(super) state: &'a mut Receiving,
}

impl Receiver<'_> {
    /// Receives what has arrived, past the buffer. Waits until something has.
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let Link {
            source, context, ..
        } = self.link;
        context.enter(Activity::Reading);
        let received = source.receive(self.link.fd(), buf, self.state.timeout.get());
        context.leave(Activity::Reading, *received.as_ref().unwrap_or(&0));
        received.map_err(|err| self.link.cause(err))
    }

    /// Receives into a new buffer; this connection has none.
    fn receive_input(&mut self) -> io::Result<()> {
        let Link {
            source, context, ..
        } = self.link;
        context.enter(Activity::Reading);
        let received = source.receive_pooled(self.link.fd(), self.state.timeout.get());
        let count = received.as_ref().map_or(0, |(_, count)| *count);
        context.leave(Activity::Reading, count);
        let (buffer, count) = received.map_err(|err| self.link.cause(err))?;
        self.state.input.fill(buffer, count);
        self.note(count)
    }

    /// Waits for a message while the connection is idle, or until the server ends the connection.
    fn await_message(&mut self) -> io::Result<()> {
        if self.state.is_last {
            // A message that has arrived is answered; the last answer leaves with the end of the
            // stream.
            return self.gather(&|_| true).map(drop);
        }
        let Link {
            source, context, ..
        } = self.link;
        let fd = self.link.fd();
        let grace = context.begin_idle();
        let limit = self.state.timeout.get().into_iter().chain(grace).min();
        let received = if self.state.bulk {
            let mut buffer = vec![0; BULK].into_boxed_slice();
            let count = source.receive(fd, &mut buffer, limit);
            count.map(|count| (buffer, count))
        } else {
            source.receive_pooled(fd, limit)
        };
        let received = received.map(|(buffer, count)| {
            self.state.bulk = count > SMALL;
            self.state.input.fill(buffer, count);
            count
        });
        let over = match &received {
            Ok(count) => *count == 0 && context.is_ended(),
            Err(err) => {
                let grace_over = grace.is_some() && limit == grace;
                grace_over && err.kind() == io::ErrorKind::TimedOut || context.is_ended()
            }
        };
        if over {
            context.end();
        }
        context.end_idle(self.state.input.bytes().len());
        match received {
            // A message that has arrived all the same is answered.
            _ if over => self.gather(&|_| true).map(drop),
            Ok(count) => self.note(count),
            Err(err) => Err(self.link.cause(err)),
        }
    }

    /// Notes what a receive into a buffer with room says about the connection.
    fn note(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            self.link.abort_error().map_or(Ok(()), Err)?;
            self.state.ended = true;
        }
        Ok(())
    }

    /// Receives waiting input, without blocking, as [`Managed::gather`](crate::net::Managed::gather) does.
    pub(super) fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        while !self.state.ended && self.state.input.make_room() {
            match recv(self.link.fd(), self.state.input.room(), RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    self.state.input.add(count);
                    self.link.context.gathered(count);
                    self.note(count)?;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(self.link.cause(err.into())),
            }
        }
        let input = &self.state.input;
        let is_empty = input.is_empty();
        let whole = self.state.ended || !is_empty && (input.is_full() || is_whole(input.bytes()));
        self.state.partial = !whole && !is_empty;
        Ok(whole)
    }

    /// Waits while the kernel holds output that it has not sent, and the peer takes some of it: input that came after
    /// close(2) would destroy what is left. Returns what is received meanwhile. Does not wait where that would hold up
    /// other clients, or a stop.
    fn await_sending(&self, scratch: &mut [u8]) -> rustix::io::Result<usize> {
        let Link {
            socket,
            source,
            context,
        } = self.link;
        let fd = self.link.fd();
        if matches!(socket.peer, Address::Unix(_)) || context.waits_hold_others() {
            return Err(Errno::AGAIN);
        }
        let mut taking = Taking::new(fd);
        while !context.stopping() && sockopt::waiting(fd).is_ok_and(|waiting| waiting > 0) {
            let Some(left) = taking.left() else { break };
            match source.receive(fd, scratch, Some(left.min(LINGER_LOOK))) {
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {}
                received => return received.map_err(|_| Errno::CONNRESET),
            }
        }
        Err(Errno::AGAIN)
    }

    /// Receives and discards input until the peer ends its side too, within bounds, so that the
    /// close does not reset the connection, which would destroy output on its way. Waits only if the peer has begun to send: the handler
    /// has left input `unread`, or more has arrived. Returns whether more had arrived.
    pub(super) fn linger(&mut self, unread: bool) -> bool {
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        let first = match recv(self.link.fd(), &mut scratch, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) if !unread => self.await_sending(&mut scratch),
            received => received.map(|(count, _)| count),
        };
        let more = match first {
            Ok(count) if count > 0 => count,
            Err(Errno::AGAIN) if unread => 0,
            // The common case: the peer waits for the end of the stream, or has closed.
            _ => return false,
        };
        left -= more;
        let link = self.link;
        let mut taking = Taking::new(link.fd());
        while left > 0 {
            let Some(wait) = taking.left() else { break };
            self.state.timeout = Timeout::new(Some(wait)).unwrap_or_default();
            match self.recv(&mut scratch) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                Err(err) if err.kind() == io::ErrorKind::TimedOut && taking.is_due() => {}
                _ => break,
            }
        }
        more > 0
    }
}

impl Read for Receiver<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.state.input.is_empty() {
            return Ok(self.state.input.take(buf));
        }
        let count = self.recv(buf)?;
        if !buf.is_empty() {
            self.note(count)?;
        }
        Ok(count)
    }
}

impl BufRead for Receiver<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.state.must_wait() {
            self.state.input.release();
            self.receive_input()?;
        }
        Ok(self.state.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        self.state.input.consume(count);
    }
}

impl ReadSide for Receiver<'_> {
    fn next_message(&mut self) -> io::Result<bool> {
        self.link.context.end_request();
        if self.state.must_wait() {
            self.state.input.release();
            // What it receives begins the request.
            self.await_message()?;
        } else if !self.state.input.is_empty() {
            self.link.context.begin_request();
        }
        let comes = !self.state.input.is_empty();
        if comes {
            self.state.is_last = self.link.context.stopping();
        }
        Ok(comes)
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.state.input.is_empty() || buf.is_empty() {
            return Poll::Ready(Ok(self.state.input.take(buf)));
        }
        self.state.input.release();
        let fd = self.link.fd();
        let len = buf.len();
        let attempt = || {
            let (count, _) = recv(fd, &mut *buf, RecvFlags::DONTWAIT)?;
            // A short count means that the socket is exhausted (epoll(7), question 9).
            Ok((count, count < len))
        };
        let counted = |received: &io::Result<usize>| *received.as_ref().unwrap_or(&0);
        let count = ready!(self.link.poll_receive(cx, attempt, counted))?;
        self.note(count)?;
        Poll::Ready(Ok(count))
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.state.timeout = Timeout::new(timeout)?;
        Ok(())
    }
}
