//! Every option of a server, its default and its reason.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::accept::dispatch::Model;
use crate::admission::policy::{AtLimit, Limits, Rate};
use crate::error::{Error, Tried};
use crate::lifecycle::Times;
use crate::model::sequential::Sequential;
use crate::net::{Bind, Transport};
use crate::observe::events::Observer;
use crate::observe::hooks::{AcceptError, Failure, Hooks, Stall};
use crate::registry::deadlines::{Deadlines, MinRate};
use crate::server::Server;
use crate::shared::{Options, share};

/// Options of a [`Server`]. Those of a listener belong to its transport:
/// [`Tcp::options`](crate::Tcp::options) and its like; those of a model to the model.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use socketserver::net::Bind;
/// use socketserver::{Server, Tcp, ThreadPool};
///
/// let server = Server::<Tcp>::builder()
///     .model(ThreadPool::new(8))
///     .max_connections(1000)
///     .drain_timeout(Duration::from_secs(5))
///     .verify(|conn| conn.peer_addr().ip().is_loopback())
///     .on_error(|failure| {
///         if !failure.is_disconnect() {
///             eprintln!("{failure}");
///         }
///     })
///     .listen(Tcp::options().backlog(100).bind("127.0.0.1:0")?)
///     .build()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Builder<T: Transport, M = Sequential> {
    listeners: Vec<T>,
    model: M,
    hooks: Hooks<T::Accepted>,
    options: Options,
}

/// What the default of `max_connections` leaves of the descriptor limit to everything else in the
/// process.
const DESCRIPTORS_KEPT: u64 = 64;

impl<T: Transport, M: Model> Builder<T, M> {
    pub(crate) fn new() -> Self
    where
        M: Default,
    {
        Self {
            listeners: Vec::new(),
            model: M::default(),
            hooks: Hooks::default(),
            options: Options {
                limits: Limits {
                    max_connections: default_max_connections(),
                    per_address: None,
                    rate: None,
                    at_limit: AtLimit::Wait,
                },
                raise_descriptors: false,
                times: Times::default(),
                deadlines: Deadlines::default(),
            },
        }
    }

    /// Where requests run. Default: the default of the server's own model type.
    pub fn model<N: Model>(self, model: N) -> Builder<T, N> {
        let Self {
            listeners,
            model: _,
            hooks,
            options,
        } = self;
        Builder {
            listeners,
            model,
            hooks,
            options,
        }
    }

    /// Adds listeners. Several may feed one server; [`Either`](crate::net::Either) makes one type of two
    /// transports.
    pub fn listen(mut self, listeners: impl IntoIterator<Item = T>) -> Self {
        self.listeners.extend(listeners);
        self
    }

    /// How many requests may be live at once, in all threads and processes; each process also takes
    /// no more than it has descriptors for. What becomes of further ones is said by
    /// [`at_limit`](Self::at_limit). Default: 10,240, or 64 fewer than the process may have
    /// descriptors (`RLIMIT_NOFILE`), if that is less.
    ///
    /// This limit and the next three can be changed while the server serves:
    /// [`ServerHandle::set_limits`](crate::ServerHandle::set_limits).
    pub const fn max_connections(mut self, requests: u64) -> Self {
        self.options.limits.max_connections = requests;
        self
    }

    /// How many connections one IPv4 address, or one IPv6 network of 64 bits, may have at once; see
    /// [`Limits::per_address`]. Default: no limit.
    pub fn max_per_address(mut self, connections: impl Into<Option<u64>>) -> Self {
        self.options.limits.per_address = connections.into();
        self
    }

    /// How fast new connections or datagrams are taken. Default: as fast as they come.
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.options.limits.rate = rate.into();
        self
    }

    /// What becomes of those that come beyond [`max_connections`](Self::max_connections) or
    /// [`rate`](Self::rate). Default: they wait.
    pub fn at_limit(mut self, policy: AtLimit) -> Self {
        self.options.limits.at_limit = policy;
        self
    }

    /// Whether building the server raises this process's soft limit on descriptors
    /// (`RLIMIT_NOFILE`) as far as [`max_connections`](Self::max_connections) needs it and the hard
    /// limit allows. It is the whole process's, and its children's. Default: false.
    pub const fn raise_descriptor_limit(mut self, on: bool) -> Self {
        self.options.raise_descriptors = on;
        self
    }

    /// How long a stop waits for live requests before it aborts them. Default: 25 s, within the 30 s
    /// that service managers and Kubernetes give.
    pub const fn drain_timeout(mut self, limit: Duration) -> Self {
        self.options.times.drain = limit;
        self
    }

    /// How long a server that was asked to stop goes on accepting: load balancers notice meanwhile
    /// that it is about to go ([`ServerHandle::state`](crate::ServerHandle::state),
    /// [`Accepted::stopping`](crate::net::Accepted::stopping)). The drain begins after it. Default: not at
    /// all. Kubernetes takes 5 s to 15 s to send no more.
    pub const fn lame_duck(mut self, time: Duration) -> Self {
        self.options.times.lame_duck = time;
        self
    }

    /// How long idle connections stay in a stop, from when nothing more is accepted: those that are
    /// parked or between messages ([`Connection::next_message`](crate::Connection::next_message)), so
    /// that a request which is on its way is answered. What comes meanwhile is handled, with [`Accepted::stopping`](crate::net::Accepted::stopping), and its connection closed
    /// afterwards. Then those that are left get the end of the stream, which is no abort, and sessions
    /// finish. `None`: until the drain deadline, which ends the grace in any case. Zero: not at all.
    /// Default: 1 s.
    ///
    /// Nobody has a grace while others wait to be accepted, and all of
    /// [`max_connections`](Self::max_connections) are there. Handlers between messages have none while
    /// others wait for their threads or processes; but each is left alone for 50 ms after its last
    /// answer.
    pub fn idle_grace(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.options.times.idle_grace = time.into();
        self
    }

    /// How long a connection may wait for its client's first byte; `None`: for ever. Default: 10 s.
    ///
    /// This and the other deadlines of connections hold in every model, whether a handler reads or
    /// the connection is parked. When one has passed, the handler's reads and writes fail with
    /// `TimedOut`; a parked connection is closed. A deadline is never early, and late by 10 ms or
    /// by a 64th of the shortest one, whichever is more. None costs a system call. Datagrams have
    /// none.
    pub fn first_byte_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.first_byte = limit.into();
        self
    }

    /// How long a transport that shakes hands may take for it
    /// ([`Context::begin_handshake`](crate::net::Context::begin_handshake)); `None`: for ever. Default:
    /// 5 s. The transports of this crate have no handshake of their own.
    pub fn handshake_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.handshake = limit.into();
        self
    }

    /// How long a connection that has spoken before may be silent while its handler reads, or while
    /// it is parked ([`Next::Park`](crate::Next::Park)); `None`: for ever. Default: 60 s.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.idle = limit.into();
        self
    }

    /// How long a handler may take for a connection until it returns, or parks it; `None`: for ever,
    /// the default. Computing is not interrupted: the next read or write fails.
    pub fn request_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.request = limit.into();
        self
    }

    /// How long a write may wait for a peer that takes nothing; `None`: for ever. Default: 30 s.
    ///
    /// It runs from the last moment at which the peer took something, as the system shows it to the
    /// sender (`SIOCOUTQ`: tcp(7), unix(7)), and is late by a 64th, twice. The system hides slow readers
    /// for a while: a TCP receiver whose window is closed opens it only when a part of its buffer is
    /// free. See docs/operations.md for the rate that the default leaves alone.
    pub fn write_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.write = limit.into();
        self
    }

    /// How long a connection may be open; `None`: for ever, the default.
    pub fn lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.lifetime = limit.into();
        self
    }

    /// How many bytes a second a client must send while a handler waits for them, on the average
    /// since the handler was called, once it has waited for `grace` in all. Default: none.
    ///
    /// It ends clients that send a byte now and then, which no idle timeout does. Only for handlers
    /// that return after each request: in one that reads requests in a loop, the pauses between them
    /// count.
    pub const fn min_rate(mut self, bytes_per_second: u64, grace: Duration) -> Self {
        self.options.deadlines.min_rate = Some(MinRate {
            bytes_per_second,
            grace,
        });
        self
    }

    /// Whether a new connection is parked until its first byte has come: until then it has no
    /// thread, no process and no stack, and the [`first_byte_timeout`](Self::first_byte_timeout)
    /// applies. Not for protocols whose server speaks first: its handler would never be called. Datagrams have
    /// been spoken already. Default: false.
    pub const fn client_speaks_first(mut self, on: bool) -> Self {
        self.hooks.client_speaks_first = on;
        self
    }

    /// Lets a connection wait without a thread until a whole request has come: `hook` is asked of what
    /// has been received and not yet read, as often as more comes. The handler is called once it says
    /// yes, or once 8 KiB have come, or the client has said that it sends no more.
    ///
    /// Clients that send slowly then hold no thread of a pool, however many there are; the deadlines
    /// of connections end them: [`request_timeout`](Self::request_timeout) counts from the first
    /// byte. A handler that returns [`Next::Park`](crate::Next::Park) after each request gives the
    /// next one the same treatment. A stop closes those of which a part has come when
    /// the grace of idle connections is over. Includes
    /// [`client_speaks_first`](Self::client_speaks_first). Datagrams are whole. Asked on the accepting thread, and when a handler parks. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::{Server, Tcp, ThreadPool};
    ///
    /// let server = Server::<Tcp>::builder()
    ///     .model(ThreadPool::new(8))
    ///     .whole_request(|input| input.windows(4).any(|end| end == b"\r\n\r\n"))
    ///     .bind("127.0.0.1:0")?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn whole_request(mut self, hook: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.whole = Some(Box::new(hook));
        self.hooks.client_speaks_first = true;
        self
    }

    /// Asked of each request before it is served, on the accepting thread; `false` closes it
    /// unserved. A panic is a failed request. Default: all are served. (Python's `verify_request`.)
    #[doc(alias = "verify_request")]
    pub fn verify(mut self, hook: impl Fn(&T::Accepted) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.verify = Some(Box::new(hook));
        self
    }

    /// Told of everything that happens. May be called several times. Default: nobody, which costs a
    /// branch.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.hooks.observers.push(Box::new(observer));
        self
    }

    /// Told of each request that failed, where it ran. Default: only counted. (Python's
    /// `handle_error`.)
    #[doc(alias = "handle_error")]
    pub fn on_error(mut self, hook: impl Fn(&Failure<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.error = Some(Box::new(hook));
        self
    }

    /// Told when accepting failed or a request could not be sent on its way, at most once a second.
    /// Default: only counted.
    pub fn on_accept_error(mut self, hook: impl Fn(&AcceptError) + Send + Sync + 'static) -> Self {
        self.hooks.accept_error = Some(Box::new(hook));
        self
    }

    /// Told when a coroutine has kept its worker busy for 100 ms, so that no other one of it could
    /// run; once for each time. Default: nobody looks. Only the model `Coroutines` calls it, from a
    /// thread of its own, which sleeps while all workers wait.
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.hooks.stall = Some(Box::new(hook));
        self
    }

    /// Called once when requests are being accepted; with worker processes, when each of them has
    /// said so.
    pub fn on_ready(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.ready = Some(Box::new(hook));
        self
    }

    /// Called when [`Server::handle_request`] has waited in vain. (Python's `handle_timeout`.)
    #[doc(alias = "handle_timeout")]
    pub fn on_timeout(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.timeout = Some(Box::new(hook));
        self
    }

    /// Called by the accept loop after each turn in which something happened, and at least once in
    /// each `period`; under a model with worker processes, in each worker. Default: none, and an
    /// idle server does not wake up. (Python's `service_actions`, with the period of its poll.)
    #[doc(alias = "poll_interval")]
    pub fn service_actions(
        mut self,
        period: Duration,
        hook: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.hooks.service_actions = Some((period, Box::new(hook)));
        self
    }

    /// Binds `addr` with the transport's default options, adds it, and builds the server.
    ///
    /// # Errors
    ///
    /// What was tried, on what, and why it failed. Nothing stays bound.
    pub fn bind<A>(self, addr: A) -> Result<Server<T, M>, Error>
    where
        T: Bind<A>,
    {
        let listeners = T::bind(addr)?;
        self.listen(listeners).build()
    }

    /// Builds the server.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: there is no listener, or room for no connection.
    /// - the system has no memory or no descriptor left.
    pub fn build(self) -> Result<Server<T, M>, Error> {
        let Self {
            listeners,
            model,
            hooks,
            options,
        } = self;
        let invalid = |what| {
            Error::new(
                "build a server",
                io::Error::new(io::ErrorKind::InvalidInput, what),
            )
        };
        if listeners.is_empty() {
            return Err(invalid("it has no listener")
                .with_remedy("bind an address, or add listeners with `listen`"));
        }
        let limits = options.limits.check(u64::MAX);
        limits.tried(|| "build a server".to_owned())?;
        if options.raise_descriptors {
            let raised = raise_descriptors(options.limits.max_connections);
            raised.tried(|| "raise the limit on descriptors".to_owned())?;
        }
        let shared =
            share(&options).tried(|| "allocate what a server's processes share".to_owned())?;
        Server::new(listeners, model, hooks, shared)
    }
}

impl<T: Transport, M: Model> Server<T, M> {
    /// Binds `addr` with the default options of the transport and of the model. See
    /// [`builder`](Self::builder) for more.
    ///
    /// # Errors
    ///
    /// What was tried, on what, and why it failed. Nothing stays bound.
    pub fn bind<A>(addr: A) -> Result<Self, Error>
    where
        T: Bind<A>,
        M: Default,
    {
        Self::builder().bind(addr)
    }

    /// Options for a server, beginning with the default of each.
    pub fn builder() -> Builder<T, M>
    where
        M: Default,
    {
        Builder::new()
    }
}

fn raise_descriptors(max_connections: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let needed = max_connections.saturating_add(DESCRIPTORS_KEPT);
    let possible = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    if possible > current {
        let raised = Rlimit {
            current: Some(possible),
            ..limit
        };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(())
}

fn default_max_connections() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors
        .saturating_sub(DESCRIPTORS_KEPT)
        .clamp(1, 10_240)
}
