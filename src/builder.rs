//! The options of a server, with their defaults and reasons.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::accept::dispatch::Model;
use crate::admission::access::Access;
use crate::admission::policy::{AtLimit, Limits, Rate};
use crate::error::{Error, Tried};
use crate::handle::ServerHandle;
use crate::lifecycle::{State, Times};
use crate::model::sequential::Sequential;
use crate::net::{Bind, Transport};
use crate::observe::events::Observer;
use crate::observe::hooks::{AcceptError, Failure, Hooks, Reloading, Stall};
use crate::registry::deadlines::{Deadlines, MinRate};
use crate::server::Server;
use crate::shared::{Options, share};

/// The options of a [`Server`].
///
/// The options of a listener belong to its transport ([`Tcp::options`](crate::Tcp::options) and so
/// on), the options of a model to the model.
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
    /// The handle for the reload hook, once there is a server.
    handle: Arc<OnceLock<ServerHandle>>,
    options: Options,
}

/// How many descriptors the default of `max_connections` leaves to the rest of the process.
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
            handle: Arc::default(),
            options: Options {
                limits: Limits {
                    max_connections: default_max_connections(),
                    per_address: None,
                    per_user: None,
                    rate: None,
                    at_limit: AtLimit::Wait,
                },
                access: Access::new(),
                raise_descriptors: false,
                times: Times::default(),
                deadlines: Deadlines::default(),
            },
        }
    }

    /// Sets the model: where handlers run. Default: the default value of the server's own model
    /// type.
    pub fn model<N: Model>(self, model: N) -> Builder<T, N> {
        let Self {
            listeners,
            model: _,
            hooks,
            handle,
            options,
        } = self;
        Builder {
            listeners,
            model,
            hooks,
            handle,
            options,
        }
    }

    /// Adds listeners. A server may have several; [`Either`](crate::net::Either) makes one type of
    /// two transports.
    pub fn listen(mut self, listeners: impl IntoIterator<Item = T>) -> Self {
        self.listeners.extend(listeners);
        self
    }

    /// Sets how many connections and datagrams may be live at once, in all threads and processes.
    ///
    /// A process also accepts no more than it has descriptors for. See [`at_limit`](Self::at_limit)
    /// for connections beyond the limit. Default: 10,240, or 64 fewer than the soft limit on
    /// descriptors (`RLIMIT_NOFILE`), if that is less.
    ///
    /// [`ServerHandle::set_limits`](crate::ServerHandle::set_limits) changes this limit and the
    /// next four while the server serves.
    pub const fn max_connections(mut self, connections: u64) -> Self {
        self.options.limits.max_connections = connections;
        self
    }

    /// Sets how many connections one IPv4 address, or one IPv6 network of 64 bits, may have at
    /// once; see [`Limits::per_address`]. Behind a [trusted proxy](crate::proxied) that is the
    /// address of the client. Default: no limit.
    pub fn max_per_address(mut self, connections: impl Into<Option<u64>>) -> Self {
        self.options.limits.per_address = connections.into();
        self
    }

    /// Sets how many connections one user may have at once over Unix stream and seqpacket sockets; see
    /// [`Limits::per_user`]. Default: no limit.
    pub fn max_per_user(mut self, connections: impl Into<Option<u64>>) -> Self {
        self.options.limits.per_user = connections.into();
        self
    }

    /// Sets how fast new connections or datagrams are accepted. Default: no limit.
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.options.limits.rate = rate.into();
        self
    }

    /// Sets what happens to connections and datagrams beyond
    /// [`max_connections`](Self::max_connections) or [`rate`](Self::rate). Default:
    /// [`AtLimit::Wait`].
    pub fn at_limit(mut self, policy: AtLimit) -> Self {
        self.options.limits.at_limit = policy;
        self
    }

    /// Sets which peers may connect: see [`Access`]. Default: all.
    ///
    /// [`ServerHandle::set_access`](crate::ServerHandle::set_access) changes the rules while the
    /// server serves.
    pub fn access(mut self, access: Access) -> Self {
        self.options.access = access;
        self
    }

    /// Sets whether building the server raises the soft limit on descriptors (`RLIMIT_NOFILE`,
    /// getrlimit(2)), as far as [`max_connections`](Self::max_connections) needs and the hard limit
    /// allows.
    ///
    /// The limit holds for the whole process and the children that it starts later. Default: false.
    pub const fn raise_descriptor_limit(mut self, on: bool) -> Self {
        self.options.raise_descriptors = on;
        self
    }

    /// Sets how long a stop waits for live connections before it aborts them.
    ///
    /// Default: 25 s, which is within the 30 s that Kubernetes allows by default.
    pub const fn drain_timeout(mut self, limit: Duration) -> Self {
        self.options.times.drain = limit;
        self
    }

    /// Sets how long a server goes on accepting after it was asked to stop.
    ///
    /// Meanwhile a load balancer can learn that the server is about to end: from a health check
    /// that reads [`ServerHandle::state`](crate::ServerHandle::state) or
    /// [`Accepted::stopping`](crate::net::Accepted::stopping). The drain timeout begins afterwards.
    /// Default: zero. Kubernetes needs 5 s to 15 s before it sends no more connections.
    pub const fn lame_duck(mut self, time: Duration) -> Self {
        self.options.times.lame_duck = time;
        self
    }

    /// Sets how long idle connections stay open in a stop, so that a request which is on its way is
    /// still answered.
    ///
    /// A connection is idle while it is parked, or while its handler waits in
    /// [`Connection::next_message`](crate::Connection::next_message). The grace begins when the
    /// server has stopped accepting. A request that arrives during the grace is handled, with
    /// [`Accepted::stopping`](crate::net::Accepted::stopping) set, and its connection is closed
    /// afterwards. When the grace is over, idle connections get the end of the stream, and their
    /// sessions finish; this is no abort. The drain deadline ends the grace in any case. `None`:
    /// until the drain deadline. Zero: no grace. Default: 1 s.
    ///
    /// The grace ends early where idle connections keep other clients out:
    ///
    /// - for all of them, when clients wait in the backlog and the server is full:
    ///   [`max_connections`](Self::max_connections) are live, or the process has no descriptors
    ///   left;
    /// - for connections that hold a thread or a process, when clients wait for one.
    ///
    /// A connection that waits in `next_message` stays for at least 50 ms after its last answer.
    pub fn idle_grace(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.options.times.idle_grace = time.into();
        self
    }

    /// Sets how long a connection may wait for its client's first byte. `None`: no limit. Default:
    /// 10 s.
    ///
    /// This deadline and the following ones hold in every model, while a handler runs and while the
    /// connection is parked. When a deadline has passed, the handler's reads and writes fail with
    /// `TimedOut`; a parked connection is closed. A deadline is never early. It is late by at most
    /// 20 ms and a 64th of the shortest limit that is set (2 ms at least, 1 s at most). Deadlines
    /// cost no system call for each read or write. Datagrams have no deadlines.
    pub fn first_byte_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.first_byte = limit.into();
        self
    }

    /// Sets how long the handshake of a transport may take. `None`: no limit. Default: 5 s.
    ///
    /// It applies to transports that call
    /// [`Context::begin_handshake`](crate::net::Context::begin_handshake), such as `Tls`, and to the
    /// header of [`Proxied`](crate::proxied::Proxied); `Tcp` and `UnixStream` have no handshake.
    pub fn handshake_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.handshake = limit.into();
        self
    }

    /// Sets how long a client that has sent something may then be silent. `None`: no limit.
    /// Default: 60 s.
    ///
    /// The time counts while a handler waits in a read or in
    /// [`next_message`](crate::Connection::next_message), and while the connection is parked
    /// ([`Next::Park`](crate::Next::Park)). Each read begins it anew, and so does output that the kernel takes.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.idle = limit.into();
        self
    }

    /// Sets how long a handler may take for one request. `None`, the default: no limit.
    ///
    /// A request begins when the handler is called, or when
    /// [`next_message`](crate::Connection::next_message) returns `true`. It ends when the handler
    /// returns, or calls `next_message` again. With [`whole_request`](Self::whole_request) it
    /// begins with the first byte. The deadline does not interrupt computation: the next read or
    /// write fails.
    pub fn request_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.request = limit.into();
        self
    }

    /// Sets how long a write may wait while the peer takes nothing. `None`: no limit. Default: 30
    /// s.
    ///
    /// The time counts from the last moment at which the peer took bytes, as the kernel shows it to
    /// the sender (`SIOCOUTQ`: tcp(7), unix(7)), and is late by up to a tenth of the limit and 20 ms. A
    /// peer that reads slowly may seem to take nothing for a while: a TCP receiver with a closed
    /// window opens it only when a part of its buffer is free. See docs/operations.md for the
    /// slowest rate that the default tolerates.
    pub fn write_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.write = limit.into();
        self
    }

    /// Sets how long a connection may be open. `None`, the default: no limit.
    pub fn lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.deadlines.lifetime = limit.into();
        self
    }

    /// Sets how many bytes a second a client must send while a handler waits for them. Default: no
    /// minimum.
    ///
    /// The rate is the average over one request ([`request_timeout`](Self::request_timeout)): the
    /// bytes received, divided by the time that the handler has waited in reads. It is enforced
    /// once the handler has waited for `grace` in all. It ends clients that send a byte now and
    /// then, which the idle timeout does not.
    ///
    /// A handler that reads requests in a loop calls
    /// [`next_message`](crate::Connection::next_message) between them: the pause there does not
    /// count. Without that call the pauses count as waiting.
    pub const fn min_rate(mut self, bytes_per_second: u64, grace: Duration) -> Self {
        self.options.deadlines.min_rate = Some(MinRate {
            bytes_per_second,
            grace,
        });
        self
    }

    /// Sets whether a new connection is parked until its first byte has come. Default: false.
    ///
    /// Until then the connection has no thread, no process and no stack, and the
    /// [`first_byte_timeout`](Self::first_byte_timeout) applies. Do not use it for protocols in
    /// which the server speaks first: the handler would not be called. It has no effect on
    /// datagrams.
    pub const fn client_speaks_first(mut self, on: bool) -> Self {
        self.hooks.client_speaks_first = on;
        self
    }

    /// Parks a connection until a whole request has come, as `hook` judges. Default: none.
    ///
    /// The hook receives the input that was received and not yet read, each time more comes, and
    /// returns whether the request is whole. The server calls the handler when the hook returns
    /// `true`, when 8 KiB have come, or when the client has ended its stream. The hook runs on the
    /// accepting thread, and on the thread of a handler that parks.
    ///
    /// Clients that send slowly then hold no thread of a pool, and the deadlines of connections end
    /// them: [`request_timeout`](Self::request_timeout) counts from the first byte. When a handler
    /// returns [`Next::Park`](crate::Next::Park) after each request, the hook judges the next
    /// request too; but under [`Forking`](crate::Forking) the child calls the handler again at the
    /// first byte. A stop closes connections with an incomplete request when the idle grace is
    /// over. This option includes [`client_speaks_first`](Self::client_speaks_first), and has no
    /// effect on datagrams.
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

    /// Calls `hook` for each connection or datagram before it is served; `false` closes it
    /// unserved.
    ///
    /// The hook runs on the accepting thread; behind a [trusted proxy](crate::proxied) where the
    /// handler runs, once the header has named the client. A panic of the hook is a failure of the connection.
    /// Default: all are served. (Python's `verify_request`.)
    #[doc(alias = "verify_request")]
    pub fn verify(mut self, hook: impl Fn(&T::Accepted) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.verify = Some(Box::new(hook));
        self
    }

    /// Adds an observer, which receives every event. A server may have several. Default: none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.hooks.observers.push(Box::new(observer));
        self
    }

    /// Calls `hook` for each connection or datagram that failed, in the process and on the thread
    /// where it ran. Default: failures are only counted. (Python's `handle_error`.)
    #[doc(alias = "handle_error")]
    pub fn on_error(mut self, hook: impl Fn(&Failure<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.error = Some(Box::new(hook));
        self
    }

    /// Calls `hook` for failures of the accept loop: accept(2) failed, a thread or a process could
    /// not be started, and so on; see [`Step`](crate::observe::Step).
    ///
    /// Repeated failures to accept and to dispatch are reported at most once a second, in all
    /// processes together. Default: failures are only counted.
    pub fn on_accept_error(mut self, hook: impl Fn(&AcceptError) + Send + Sync + 'static) -> Self {
        self.hooks.accept_error = Some(Box::new(hook));
        self
    }

    /// Calls `hook` when a coroutine has kept its worker busy for 100 ms, so that the worker's
    /// other coroutines could not run; once for each such stall.
    ///
    /// Only the model `Coroutines` calls the hook, from a watchdog thread, which sleeps while all
    /// workers wait. Default: no hook, and no watchdog.
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.hooks.stall = Some(Box::new(hook));
        self
    }

    /// Calls `hook` once, when the server accepts; with worker processes, when every worker
    /// accepts.
    pub fn on_ready(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.ready = Some(Box::new(hook));
        self
    }

    /// Calls `hook` after [`ServerHandle::request_reload`](crate::ServerHandle::request_reload), in
    /// one process of the server: for programs that read their configuration again at SIGHUP.
    ///
    /// The hook runs on the accepting thread of the first process that sees the request, before
    /// this thread accepts again, and receives a handle, to set limits and access rules. It runs
    /// once for several requests that come together, and never beside itself; if its worker process
    /// dies meanwhile, another one runs it again. Default: none.
    /// [`systemd::Notifier`](crate::systemd::Notifier) notifies the service manager before and after
    /// it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use socketserver::access::{Access, Network};
    /// use socketserver::{Server, Tcp, Threading};
    ///
    /// fn denied() -> Result<Access, Box<dyn std::error::Error>> {
    ///     let list = std::fs::read_to_string("/etc/denied")?;
    ///     Ok(Access::new().deny(Network::list(&list)?))
    /// }
    ///
    /// let server = Server::<Tcp, Threading>::builder()
    ///     .access(denied()?)
    ///     .on_reload(|server| match denied() {
    ///         Ok(access) => server.set_access(&access).unwrap_or_default(),
    ///         Err(err) => eprintln!("{err}; the old rules stay in force"),
    ///     })
    ///     .bind("127.0.0.1:0")?;
    /// // A signal handler may call this.
    /// server.handle().request_reload();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_reload(mut self, hook: impl Fn(&ServerHandle) + Send + Sync + 'static) -> Self {
        let handle = Arc::clone(&self.handle);
        self.hooks.reload = Some(Box::new(move || {
            let _ = handle.get().map(&hook);
        }));
        self
    }

    /// Calls `hook` when a reload begins, and when it has ended, in the process that serves or, with
    /// worker processes, in their supervisor.
    pub(crate) fn on_reloading(mut self, hook: impl Fn(Reloading) + Send + Sync + 'static) -> Self {
        self.hooks.reloading = Some(Box::new(hook));
        self
    }

    /// Calls `hook` when [`Server::handle_request`] has timed out. (Python's `handle_timeout`.)
    #[doc(alias = "handle_timeout")]
    pub fn on_timeout(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.timeout = Some(Box::new(hook));
        self
    }

    /// Calls `hook` from the accept loop each time that the loop has woken up, and at least once in
    /// each `period`.
    ///
    /// With worker processes, each worker calls the hook. A stop ends the calls. Default: none, and
    /// an idle server does not wake up. (Python's `service_actions`, with the period of its poll.)
    #[doc(alias = "poll_interval")]
    pub fn service_actions(
        mut self,
        period: Duration,
        hook: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        self.hooks.service_actions = Some((period, Box::new(hook)));
        self
    }

    /// Calls `hook` from the accept loop: once in each `period`, of 1 ms at least, with the server's state, and at once when
    /// the state has changed. For a watchdog: a loop that hangs calls nothing.
    ///
    /// Under [`Sequential`] a handler holds the loop. With worker processes their supervisor calls
    /// the hook; the calls of each period need a worker whose accept loop has turned within the last two periods.
    /// The calls go on until a stop has drained. Default: none.
    /// [`systemd::Notifier`](crate::systemd::Notifier) sets it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs;
    /// use std::time::Duration;
    /// use socketserver::{Server, Tcp};
    ///
    /// // Another program checks the time of the file.
    /// let builder = Server::<Tcp>::builder().heartbeat(Duration::from_secs(10), |state| {
    ///     let _ = fs::write("/run/service/alive", state.to_string());
    /// });
    /// ```
    pub fn heartbeat(
        mut self,
        period: Duration,
        hook: impl Fn(State) + Send + Sync + 'static,
    ) -> Self {
        let period = period.max(Duration::from_millis(1));
        self.hooks.heartbeat = Some((period, Box::new(hook)));
        self
    }

    /// Binds `addr` with the transport's default options, adds its listeners, and builds the
    /// server.
    ///
    /// # Errors
    ///
    /// - The address cannot be bound. Nothing stays bound.
    /// - As [`build`](Self::build).
    pub fn bind<A>(self, addr: A) -> Result<Server<T, M>, Error>
    where
        T: Bind<A>,
    {
        let listeners = T::bind(addr)?;
        self.listen(listeners).build()
    }

    /// Builds the server from its listeners and options.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the server has no listener, a limit is zero, the refusal message is too
    ///   long, or there are too many access rules.
    /// - The soft limit on descriptors cannot be raised.
    /// - The system has no memory or no descriptor left.
    pub fn build(self) -> Result<Server<T, M>, Error> {
        let Self {
            listeners,
            model,
            hooks,
            handle,
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
        let checked = limits.and_then(|()| options.access.check());
        checked.tried(|| "build a server".to_owned())?;
        if options.raise_descriptors {
            let raised = raise_descriptors(options.limits.max_connections);
            raised.tried(|| "raise the limit on descriptors".to_owned())?;
        }
        let shared = share(&options).tried(|| "allocate the server's shared memory".to_owned())?;
        let server = Server::new(listeners, model, hooks, shared)?;
        // A builder builds one server.
        let _ = handle.set(server.handle());
        Ok(server)
    }
}

impl<T: Transport, M: Model> Server<T, M> {
    /// Binds `addr` with the default options of the transport, the model and the server. See
    /// [`builder`](Self::builder) for other options.
    ///
    /// # Errors
    ///
    /// As [`Builder::bind`].
    pub fn bind<A>(addr: A) -> Result<Self, Error>
    where
        T: Bind<A>,
        M: Default,
    {
        Self::builder().bind(addr)
    }

    /// Returns a builder with default options.
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
