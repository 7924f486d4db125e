//! Relaying: two connections that pass on what the other one receives, in both directions at the same time.

use std::io;
use std::mem::take;
use std::net::Shutdown;
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant};

use crate::buffers;
use crate::net::{Connection, Dialed, SeqpacketConnection};
use crate::registry::context::Context;
use crate::registry::table::Activity;
use crate::sys::clock::Millis;
use crate::task::timeout::timeout;
use crate::task::wait::{after, until};

/// Relays between a client's connection and one to a server, in both directions at the same time, until both have
/// ended.
///
/// The end of one direction is passed on while the other one goes on (half-close). A connection that is reset, or that
/// ends without the end of its protocol, [resets](Connection::reset) the other one, so that the peer does not take a
/// part for the whole. A client that is reset after the end of its stream resets the server, whose answer nobody
/// awaits; a server that is reset after its end takes no more, and what it has sent reaches the client. Where one side
/// is slow to receive, the relay stops to receive from the other side: it holds a few KiB for each direction, and no
/// memory for buffers while it is idle. It needs no thread and no coroutine besides the one that calls.
///
/// # Deadlines
///
/// Those of the client's connection apply to the relay: it is idle when neither side has sent for that time, and what
/// the server sends is no first byte of the client. A stop ends the input of the client after the
/// [`idle_grace`](crate::Builder::idle_grace), if the server was the last to send; then the server gets the end of the
/// stream, and may send what is left. The server's side has the [write timeout](Self::write_timeout).
///
/// # Examples
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::time::Duration;
/// use socketserver::net::{Relay, TcpConnection};
/// use socketserver::python::ThreadingTcpServer;
///
/// let server = ThreadingTcpServer::bind("127.0.0.1:0")?;
/// let address = server.local_addrs()[0].socket_addr().expect("an internet address");
/// let server = server.spawn(|conn| conn.write_all(b"hello world\n"))?;
///
/// let proxy = ThreadingTcpServer::bind("127.0.0.1:0")?;
/// let front = proxy.local_addrs()[0].socket_addr().expect("an internet address");
/// let proxy = proxy.spawn(move |client| {
///     let mut server = TcpConnection::connect(address, Duration::from_secs(5))?;
///     Relay::new().run(client, &mut server).result()
/// })?;
///
/// let mut client = TcpConnection::connect(front, Duration::from_secs(5))?;
/// let mut greeting = String::new();
/// client.read_to_string(&mut greeting)?;
/// assert_eq!(greeting, "hello world\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Relay {
    write_timeout: Option<Duration>,
}

/// How a relay has ended: [`Relay::run`].
///
/// # Examples
///
/// ```
/// use std::io;
/// use socketserver::Connection;
/// use socketserver::net::Relay;
///
/// fn relay(client: &mut impl Connection, server: &mut impl Connection) -> io::Result<()> {
///     let relayed = Relay::new().run(client, server);
///     println!("{} bytes there, {} bytes back", relayed.there(), relayed.back());
///     relayed.result()
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Relayed {
    there: u64,
    back: u64,
    result: io::Result<()>,
}

impl Relayed {
    /// Returns how many bytes of the client the server's connection has taken.
    #[must_use]
    pub const fn there(&self) -> u64 {
        self.there
    }

    /// Returns how many bytes of the server the client's connection has taken.
    #[must_use]
    pub const fn back(&self) -> u64 {
        self.back
    }

    /// Returns the error that has ended the relay, if any.
    ///
    /// # Errors
    ///
    /// - `TimedOut`: the server has aborted the client's connection, or the write timeout has passed.
    /// - `ConnectionReset`, `BrokenPipe`, `UnexpectedEof`: one of the connections has ended too early.
    /// - `InvalidInput`: the write timeout is zero.
    /// - else as the reads and writes of the connections. The text says which one.
    pub fn result(self) -> io::Result<()> {
        self.result
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

impl Relay {
    /// Returns the options, with their defaults.
    pub const fn new() -> Self {
        Self {
            write_timeout: Some(Duration::from_secs(30)),
        }
    }

    /// Sets how long the server may take nothing while there is output for it. Default: 30 s. `None`: no limit.
    pub const fn write_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Relays until both directions have ended, or one of the connections has failed. The connections are not closed.
    pub fn run(&self, client: &mut impl Connection, server: &mut impl Connection) -> Relayed {
        // The end of a layer's stream is written, and not polled.
        let limited = server.set_write_timeout(self.write_timeout);
        match limited {
            Ok(()) => self.relay(Bytes(client), Bytes(server)),
            Err(err) => Relayed {
                there: 0,
                back: 0,
                result: Err(err),
            },
        }
    }

    /// As [`run`](Self::run), for connections of messages. Each message is passed on whole.
    pub fn run_messages(
        &self,
        client: &mut SeqpacketConnection,
        server: &mut Dialed<SeqpacketConnection>,
    ) -> Relayed {
        self.relay(Messages(client), Messages(&server.0))
    }

    fn relay(&self, mut client: impl Side, mut server: impl Side) -> Relayed {
        let mut relaying = Relaying {
            write_timeout: self.write_timeout,
            ..Relaying::default()
        };
        let result = relaying.run(&mut client, &mut server);
        let cut = relaying.is_cut || result.is_err();
        if cut {
            // A connection that cannot be reset has failed already.
            let _ = client.reset();
            let _ = server.reset();
        }
        let Relaying { there, back, .. } = relaying;
        Relayed {
            there: there.moved,
            back: back.moved,
            result: result.and_then(|()| relaying.failed.map_or(Ok(()), Err)),
        }
    }
}

/// What was received from one side and not yet sent to the other.
#[derive(Default)]
struct Held {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// There is something to send, perhaps an empty message.
    is_full: bool,
}

/// One end of a relay.
trait Side {
    fn context(&self) -> &Context;

    /// Receives into `held`, which is empty. Returns `false` at the end of the input.
    fn poll_take(
        &mut self,
        cx: &mut task::Context<'_>,
        held: &mut Held,
        large: bool,
    ) -> Poll<io::Result<bool>>;

    /// Sends some of `held`. Returns how many bytes.
    fn poll_put(&mut self, cx: &mut task::Context<'_>, held: &mut Held) -> Poll<io::Result<usize>>;

    /// Polls for a failure, once the input has ended.
    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error>;

    /// Sends the end of the stream.
    fn end(&mut self) -> io::Result<()>;

    fn reset(&mut self) -> io::Result<()>;

    fn unsent(&self) -> Option<u64>;
}

struct Bytes<'a, C>(&'a mut C);

struct Messages<'a>(&'a SeqpacketConnection);

impl<C: Connection> Side for Bytes<'_, C> {
    fn context(&self) -> &Context {
        self.0.context()
    }

    fn poll_take(
        &mut self,
        cx: &mut task::Context<'_>,
        held: &mut Held,
        large: bool,
    ) -> Poll<io::Result<bool>> {
        let mut buffer = if large {
            buffers::take_large()
        } else {
            buffers::take()
        };
        match self.0.poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(count)) if count > 0 => {
                held.fill(buffer, count);
                Poll::Ready(Ok(true))
            }
            other => {
                buffers::give(buffer);
                other.map(|ended| ended.map(|_| false))
            }
        }
    }

    fn poll_put(&mut self, cx: &mut task::Context<'_>, held: &mut Held) -> Poll<io::Result<usize>> {
        let count = ready!(self.0.poll_write(cx, &held.buffer[held.start..held.end]))?;
        held.start += count;
        if held.start == held.end {
            held.is_full = false;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        self.0.poll_failed(cx)
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.reset()
    }

    fn unsent(&self) -> Option<u64> {
        self.0.unsent()
    }
}

impl Side for Messages<'_> {
    fn context(&self) -> &Context {
        crate::net::Accepted::context(self.0)
    }

    fn poll_take(
        &mut self,
        cx: &mut task::Context<'_>,
        held: &mut Held,
        _: bool,
    ) -> Poll<io::Result<bool>> {
        let message = ready!(self.0.poll_recv_whole(cx))?;
        let comes = message.is_some();
        if let Some(message) = message {
            let length = message.len();
            held.fill(message, length);
        }
        Poll::Ready(Ok(comes))
    }

    fn poll_put(&mut self, cx: &mut task::Context<'_>, held: &mut Held) -> Poll<io::Result<usize>> {
        ready!(self.0.poll_send(cx, &held.buffer))?;
        held.is_full = false;
        Poll::Ready(Ok(held.buffer.len()))
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        self.0.poll_failed(cx)
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Unix sockets have no reset.
    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn unsent(&self) -> Option<u64> {
        self.0.unsent_bytes()
    }
}

impl Held {
    fn fill(&mut self, buffer: Box<[u8]>, count: usize) {
        *self = Self {
            buffer,
            start: 0,
            end: count,
            is_full: true,
        };
    }

    /// Returns the buffer to the pool.
    fn release(&mut self) {
        if !self.buffer.is_empty() {
            buffers::give(take(&mut self.buffer));
        }
    }
}

/// One direction of a relay.
#[derive(Default)]
struct Direction {
    held: Held,
    moved: u64,
    /// How many receives in a row have filled their buffer.
    full: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The end of the stream was passed on.
    Ended,
    /// The receiver takes no more.
    Broken,
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Input,
    Room,
    /// Nothing: it has passed on a lot, and lets the other direction go on.
    Turn,
    /// Nothing: it is over.
    Nothing,
}

/// One of the two directions.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// From the client to the server.
    There,
    Back,
}

/// Which side has failed.
enum Fault {
    Source(io::Error),
    Target(io::Error),
}

/// How many buffers a direction passes on before it lets the other one go on.
const TURN: u32 = 16;

/// After this many full buffers, a direction receives into large ones.
const MANY: u8 = 4;

impl Direction {
    /// Passes on what has arrived, until it would wait. `is_cut`: the end of the input is that of a connection that was
    /// reset.
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
        is_cut: bool,
    ) -> Result<Waits, Fault> {
        if self.state != State::Open {
            return Ok(Waits::Nothing);
        }
        for _ in 0..TURN {
            while self.held.is_full {
                match to.poll_put(cx, &mut self.held) {
                    Poll::Ready(sent) => self.moved += sent.map_err(Fault::Target)? as u64,
                    Poll::Pending => return Ok(Waits::Room),
                }
            }
            self.held.release();
            let large = self.full >= MANY;
            match from.poll_take(cx, &mut self.held, large) {
                Poll::Ready(Ok(true)) => {
                    let filled = self.held.end == self.held.buffer.len();
                    self.full = if filled {
                        self.full.saturating_add(1)
                    } else {
                        self.full / 2
                    };
                }
                Poll::Ready(Ok(false)) if is_cut => {
                    return Err(Fault::Source(io::ErrorKind::ConnectionReset.into()));
                }
                Poll::Ready(Ok(false)) => return self.end(to).map(|()| Waits::Nothing),
                Poll::Ready(Err(err)) => return Err(Fault::Source(err)),
                Poll::Pending => return Ok(Waits::Input),
            }
        }
        Ok(Waits::Turn)
    }

    /// Passes on the end of the stream.
    fn end(&mut self, to: &mut impl Side) -> Result<(), Fault> {
        self.state = State::Ended;
        to.end().map_err(Fault::Target)
    }
}

/// A relay that runs.
#[derive(Default)]
struct Relaying {
    there: Direction,
    back: Direction,
    write_timeout: Option<Duration>,
    /// The client was the last to send, so the server owes an answer.
    asked: bool,
    /// Since when the relay has waited for the client's first byte.
    first_byte: Option<Millis>,
    /// The activity that the relay has stored for the client.
    marked: Option<Activity>,
    stuck: Option<Stuck>,
    /// When the grace of the idle relay is over, because its server stops.
    grace: Option<Instant>,
    /// The grace is over.
    is_ending: bool,
    /// The first error of a receiver that takes no more.
    failed: Option<io::Error>,
    /// A receiver was reset.
    is_cut: bool,
}

/// The server takes nothing.
struct Stuck {
    since: Instant,
    /// How many bytes it had taken in all, and how many of those were in the kernel.
    moved: u64,
    unsent: Option<u64>,
}

/// Why a wait has ended.
enum Step {
    /// Both directions are over.
    Over,
    /// There is an earlier deadline.
    Sooner(Instant),
}

impl Relaying {
    fn run(&mut self, client: &mut impl Side, server: &mut impl Side) -> io::Result<()> {
        let mut deadline: Option<Instant> = None;
        loop {
            let mut wait = || until(|cx| self.poll(cx, client, server, deadline));
            let step = match deadline {
                Some(at) => timeout(at.saturating_duration_since(Instant::now()), wait),
                None => wait(),
            };
            let is_due = deadline.is_some_and(|at| at <= Instant::now());
            deadline = match step {
                Ok(Ok(Step::Over)) => return Ok(()),
                Ok(Ok(Step::Sooner(at))) => Some(at),
                Err(err) if is_due && err.kind() == io::ErrorKind::TimedOut => {
                    self.expire(server)?;
                    None
                }
                Ok(Err(err)) | Err(err) => return Err(err),
            };
        }
    }

    /// Passes on what has arrived in both directions. Ready at the end, and where the wait needs an earlier deadline
    /// than `deadline`.
    fn poll(
        &mut self,
        cx: &mut task::Context<'_>,
        client: &mut impl Side,
        server: &mut impl Side,
        deadline: Option<Instant>,
    ) -> Poll<io::Result<Step>> {
        self.unmark(client.context());
        let (there, back) = loop {
            let moved = [self.there.moved, self.back.moved];
            let there = self.there.poll(cx, client, server, self.is_cut);
            let there = self.judge(there, Way::There)?;
            let back = self.back.poll(cx, server, client, self.is_cut);
            let back = self.judge(back, Way::Back)?;
            if [self.there.moved, self.back.moved] != moved {
                self.asked = self.back.moved == moved[1];
                (self.grace, self.is_ending) = (None, false);
            }
            self.poll_failed(cx, client, server)?;
            let [one, other] = [self.there.state, self.back.state];
            if one != State::Open && other != State::Open {
                return Poll::Ready(Ok(Step::Over));
            }
            if self.is_ending && there == Waits::Input {
                // The client has sent nothing until now. The server may send what is left.
                client.context().end();
                self.is_ending = false;
                let ended = self.there.end(server);
                self.judge(ended.map(|()| Waits::Nothing), Way::There)?;
            } else if there != Waits::Turn && back != Waits::Turn {
                break (there, back);
            }
        };
        let at = self.mark(there, back, client.context(), server);
        match at.filter(|at| deadline.is_none_or(|deadline| *at < deadline)) {
            Some(at) => Poll::Ready(Ok(Step::Sooner(at))),
            None => Poll::Pending,
        }
    }

    /// Ends the direction that is open, once the other one is over and its source has failed: that takes no more.
    fn poll_failed(
        &mut self,
        cx: &mut task::Context<'_>,
        client: &mut impl Side,
        server: &mut impl Side,
    ) -> io::Result<()> {
        let [there, back] = [self.there.state, self.back.state].map(|state| state == State::Open);
        if back && !there {
            if let Poll::Ready(err) = client.poll_failed(cx) {
                // It has the whole input, and its answer is lost.
                let _ = server.reset();
                self.judge(Err(Fault::Target(err)), Way::Back)?;
            }
        } else if there && !back {
            if let Poll::Ready(err) = server.poll_failed(cx) {
                self.judge(Err(Fault::Target(err)), Way::There)?;
            }
        }
        Ok(())
    }

    /// Ends the relay if a side has failed that should have sent more. A side that takes no more ends its direction
    /// alone: it may have sent what is still to be received.
    fn judge(&mut self, polled: Result<Waits, Fault>, way: Way) -> io::Result<Waits> {
        let (direction, source, target) = match way {
            Way::There => (&mut self.there, "client", "server"),
            Way::Back => (&mut self.back, "server", "client"),
        };
        let named =
            |side: &str, err: io::Error| io::Error::new(err.kind(), format!("the {side}: {err}"));
        match polled {
            Ok(waits) => Ok(waits),
            Err(Fault::Source(err)) => Err(named(source, err)),
            Err(Fault::Target(err)) => {
                // The error was reported once: a receive would return the end of the stream.
                self.is_cut |= err.kind() == io::ErrorKind::ConnectionReset;
                direction.state = State::Broken;
                direction.held = Held::default();
                self.failed.get_or_insert_with(|| named(target, err));
                Ok(Waits::Nothing)
            }
        }
    }

    /// Stores what the relay waits for, and returns the deadline of the wait.
    fn mark(
        &mut self,
        there: Waits,
        back: Waits,
        client: &Context,
        server: &impl Side,
    ) -> Option<Instant> {
        let waits_for_room = there == Waits::Room || back == Waits::Room;
        let owes_nothing = !self.asked || back == Waits::Nothing;
        if !waits_for_room && there == Waits::Input && owes_nothing {
            let grace = client.begin_idle();
            self.marked = Some(Activity::Idle);
            self.grace = self.grace.or_else(|| after(grace));
        } else if !waits_for_room && there == Waits::Nothing {
            // No receive waits for the client, and the relay may be idle all the same.
            client.enter(Activity::Reading);
            self.marked = Some(Activity::Reading);
        }
        if there == Waits::Input {
            // What the server sends is no byte of the client.
            client.await_first_byte(&mut self.first_byte);
        }
        let moved = self.there.moved;
        if there != Waits::Room
            || self
                .stuck
                .as_ref()
                .is_some_and(|stuck| stuck.moved != moved)
        {
            self.stuck = None;
        }
        if there == Waits::Room && self.stuck.is_none() && self.write_timeout.is_some() {
            self.stuck = Some(Stuck {
                since: Instant::now(),
                moved,
                unsent: server.unsent(),
            });
        }
        self.grace.into_iter().chain(self.stuck_until()).min()
    }

    fn stuck_until(&self) -> Option<Instant> {
        self.stuck.as_ref()?.since.checked_add(self.write_timeout?)
    }

    /// Takes back what [`mark`](Self::mark) has stored.
    fn unmark(&mut self, client: &Context) {
        match self.marked.take() {
            Some(Activity::Idle) => client.end_idle(0),
            Some(activity) => client.leave(activity, 0),
            None => {}
        }
    }

    /// Acts on a deadline that has passed.
    fn expire(&mut self, server: &impl Side) -> io::Result<()> {
        let now = Instant::now();
        self.is_ending = self.grace.take_if(|grace| *grace <= now).is_some();
        if self.stuck_until().is_none_or(|until| now < until) {
            return Ok(());
        }
        let left = server.unsent();
        let stuck = self.stuck.as_mut().filter(|stuck| {
            left.zip(stuck.unsent)
                .is_some_and(|(left, before)| left < before)
        });
        match stuck {
            Some(stuck) => {
                (stuck.since, stuck.unsent) = (now, left);
                Ok(())
            }
            None => {
                let text = "the server took no output within the write timeout";
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}
