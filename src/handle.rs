//! A handle to a server, which stops and observes it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::admission::access::Access;
use crate::admission::policy::Limits;
use crate::counters::Totals;
use crate::lifecycle::State;
use crate::registry::info::ConnectionInfo;
use crate::shared::Shared;

/// A handle that stops and observes a server, from any thread, handler, signal handler, and process
/// that the server forked.
///
/// A handle works before, during and after serving. Clones refer to the same server.
///
/// # Examples
///
/// ```
/// use socketserver::python::TcpServer;
///
/// let server = TcpServer::bind("127.0.0.1:0")?;
/// let handle = server.handle();
/// handle.shutdown();
/// // The server was stopped before it began, so it returns at once.
/// let report = server.serve_forever(|_conn| ())?;
/// assert_eq!(report.aborted, 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerHandle {
    shared: Shared,
    addresses: Arc<[Address]>,
}

impl ServerHandle {
    pub(crate) const fn new(shared: Shared, addresses: Arc<[Address]>) -> Self {
        Self { shared, addresses }
    }

    /// Stops the server, as [`Server`](crate::Server) describes: with its lame duck, idle grace and
    /// drain timeout.
    ///
    /// Returns at once; the server has ended when `serve_forever` returns. Further calls are
    /// allowed, and the earliest deadline counts. Async-signal-safe (signal-safety(7)): it reads
    /// the clock, updates atomics, and calls write(2).
    pub fn shutdown(&self) {
        self.shared.lifecycle.shutdown();
    }

    /// Stops the server as [`shutdown`](Self::shutdown) does, but without a lame duck, and with a
    /// drain timeout of `drain`.
    ///
    /// Zero aborts live connections at once. If some connections are idle at the drain deadline,
    /// they get the end of the stream instead, and the abort comes 250 ms later. Async-signal-safe.
    pub fn shutdown_within(&self, drain: Duration) {
        self.shared.lifecycle.stop(drain);
    }

    /// Stops the calling process only.
    ///
    /// A worker of [`Prefork`](crate::Prefork) stops accepting, drains for at most the drain
    /// timeout, and is replaced at once; while its own predecessor still drains, it goes on accepting,
    /// and stops when that has ended. In a child of [`Forking`](crate::Forking),
    /// [`Accepted::stopping`](crate::net::Accepted::stopping) becomes true, and the child ends with
    /// its connection. In any other process this is [`shutdown`](Self::shutdown).
    ///
    /// It is for handlers of signals that reach one process of a server, such as the signal of a
    /// memory guard. Async-signal-safe.
    pub fn retire(&self) {
        self.shared.lifecycle.retire();
    }

    /// Returns whether the server, or the calling process of it, has been asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.lifecycle.stopping()
    }

    /// Returns the time until the drain deadline, zero once that has passed; `None` unless the server has been asked to
    /// stop. It is for work that goes on beside the connections, and after the last one.
    #[must_use]
    pub fn drain_left(&self) -> Option<Duration> {
        self.shared.lifecycle.drain_left()
    }

    /// Returns the phase that the server is in, between its start and its end.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.lifecycle.state()
    }

    /// Waits until the server has reached `state`, for at most `timeout`, and returns whether it
    /// has.
    ///
    /// A coroutine that waits is suspended, and an abort ends its wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::observe::State;
    /// use socketserver::python::ThreadingTcpServer;
    ///
    /// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
    /// assert!(guard.handle().wait_for(State::Running, Duration::from_secs(5)));
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[must_use]
    pub fn wait_for(&self, state: State, timeout: Duration) -> bool {
        self.shared.lifecycle.wait_for(state, timeout)
    }

    /// Stops accepting until [`resume`](Self::resume), in all processes of the server.
    ///
    /// New clients wait in the backlog, as long as it has room; an accept that is in progress may
    /// still complete. Live connections, parked ones included, go on. A stop serves the backlog
    /// even while the server is paused. Async-signal-safe.
    pub fn pause(&self) {
        self.shared.lifecycle.set_paused(true);
    }

    /// Accepts again after [`pause`](Self::pause). Async-signal-safe.
    pub fn resume(&self) {
        self.shared.lifecycle.set_paused(false);
    }

    /// Returns whether accepting is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.lifecycle.is_paused()
    }

    /// Returns the addresses that the server was bound to, with the ports that the kernel has
    /// chosen for port 0.
    #[must_use]
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns how many connections and datagrams are live (served, queued for a thread, or parked)
    /// in all processes of the server. Async-signal-safe.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.shared.admission.live()
    }

    /// Returns the live connections of all processes of the server, in the order in which they were
    /// accepted. Datagrams are not listed.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::python::ThreadingTcpServer;
    ///
    /// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
    /// for connection in guard.handle().connections() {
    ///     println!("{connection}");
    /// }
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.registry.connections()
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.admission.limits().get()
    }

    /// Changes the limits in all processes of the server. Live connections stay.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: a limit is zero, the refusal message is too long, or `max_connections` is
    ///   more than the server has slots for: as many as it was built with, at least 16,384 and at
    ///   most 1,048,576.
    pub fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        self.shared.admission.set_limits(limits)
    }

    /// Changes which peers may connect, in all processes of the server: when the call has returned,
    /// every process judges new connections and datagrams by these rules. Live connections stay.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: there are more rules than [`Access::NETWORKS_MAX`] or [`Access::USERS_MAX`].
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::access::Access;
    /// use socketserver::python::ThreadingTcpServer;
    ///
    /// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
    /// let denied = "203.0.113.0/24".parse().unwrap();
    /// guard.handle().set_access(&Access::new().deny([denied])).unwrap();
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_access(&self, access: &Access) -> io::Result<()> {
        self.shared.admission.set_access(access)
    }

    /// Asks the server to call the hook [`on_reload`](crate::Builder::on_reload), if it has one.
    /// Async-signal-safe.
    pub fn request_reload(&self) {
        self.shared.lifecycle.request_reload();
    }

    /// Aborts the connection whose number is `id`, in any process of the server, and returns
    /// whether there is one.
    ///
    /// The handler's reads and writes fail with `TimedOut`. The call returns before the connection
    /// has ended.
    pub fn abort(&self, id: u64) -> bool {
        self.shared.registry.request_abort(id)
    }

    /// Returns the counts of the server since it was bound, over all its processes.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.counters.totals()
    }
}
