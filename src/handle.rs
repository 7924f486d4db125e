//! A handle to a server: stop it, and see what it does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::admission::policy::Limits;
use crate::counters::Totals;
use crate::lifecycle::State;
use crate::registry::info::ConnectionInfo;
use crate::shared::Shared;

/// Stops a server and observes it, from any thread, any handler, any signal handler, and any
/// process that the server forked. Works before, during and after serving.
///
/// # Examples
///
/// ```
/// use socketserver::python::TcpServer;
///
/// let server = TcpServer::bind("127.0.0.1:0")?;
/// let handle = server.handle();
/// handle.shutdown();
/// // It was stopped before it began, so it returns at once.
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

    /// Asks the server to stop, as described at [`Server`](crate::Server): it drains for at most
    /// its drain timeout.
    ///
    /// Returns at once: the server has ended when `serve_forever` returns. May be called again; the
    /// earliest deadline counts. Async-signal-safe (signal-safety(7)): an atomic store, a clock
    /// read and a write(2).
    pub fn shutdown(&self) {
        self.shared.lifecycle.shutdown();
    }

    /// As [`shutdown`](Self::shutdown), with a drain of at most `drain` and no time as a lame duck;
    /// zero aborts every request at once. Idle connections get the end of the stream even then.
    pub fn shutdown_within(&self, drain: Duration) {
        self.shared.lifecycle.stop(drain);
    }

    /// Asks the process that calls to stop, and no other: a worker of [`Prefork`](crate::Prefork)
    /// accepts nothing more, drains for at most the drain timeout, and is replaced at once; a child
    /// of [`Forking`](crate::Forking) is told that the server is stopping, and ends with its request.
    /// Anywhere else it is [`shutdown`](Self::shutdown).
    ///
    /// For handlers of signals that reach one process of a server, such as those of memory guards.
    /// Async-signal-safe.
    pub fn retire(&self) {
        self.shared.lifecycle.retire();
    }

    /// Whether the server has been asked to stop, or the process that calls.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.lifecycle.stopping()
    }

    /// Where the server is between its start and its end.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.lifecycle.state()
    }

    /// Waits until the server is at `state` or further, for `timeout` at most; says whether it is.
    /// In a coroutine the others of its worker run meanwhile, and an abort ends the wait.
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

    /// Stops accepting until [`resume`](Self::resume), in all processes of the server: who comes
    /// waits in the kernel's queue, as long as that has room; but for one that each process may be
    /// taking at this moment. Live requests and parked connections
    /// go on. A stop serves the queue all the same. Async-signal-safe, as
    /// [`shutdown`](Self::shutdown).
    pub fn pause(&self) {
        self.shared.lifecycle.set_paused(true);
    }

    /// Goes on accepting. Async-signal-safe.
    pub fn resume(&self) {
        self.shared.lifecycle.set_paused(false);
    }

    /// Whether accepting is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.lifecycle.is_paused()
    }

    /// The addresses that the server was bound to, with real ports.
    #[must_use]
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// How many requests are being served, wait for a thread or are parked, in all processes of the
    /// server. Async-signal-safe.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.shared.admission.live()
    }

    /// The live connections of all processes of the server, in the order in which they were accepted.
    /// Datagrams are none.
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

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.admission.limits().get()
    }

    /// Changes the limits, in all processes of the server, for what comes from now on: no live
    /// connection is aborted.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: a limit of zero, a message that is too long, or a `max_connections` beyond
    /// what the server was built with and beyond 16,384.
    pub fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        self.shared.admission.set_limits(limits)
    }

    /// Cuts one connection, by its number, in whatever process it is: its handler's reads and writes
    /// fail with `TimedOut`. Says whether there is one. Returns before it has ended.
    pub fn abort(&self, id: u64) -> bool {
        self.shared.registry.request_abort(id)
    }

    /// What the server has done since it was bound, in all its processes.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.counters.totals()
    }
}
