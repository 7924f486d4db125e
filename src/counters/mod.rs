//! The counters of a server, in memory that all its processes share.

mod throttle;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::counters::throttle::ThrottlePage;
use crate::lifecycle::Lifecycle;
use crate::sys::memory::{SharedMemory, shareable};

/// The counts of a server since it was bound, over all of its processes.
///
/// Each accepted connection or datagram is counted in exactly one of `refused`, `completed` and
/// `failed` when it ends, except if its worker process was killed.
///
/// # Examples
///
/// ```
/// use socketserver::python::ThreadingTcpServer;
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
/// let totals = guard.handle().totals();
/// println!("{} accepted, {} failed", totals.accepted, totals.failed);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Connections and datagrams that were accepted.
    pub accepted: u64,
    /// Connections and datagrams that were refused, by the access rules, a limit or the `verify` hook.
    pub refused: u64,
    /// The refused ones that the access rules do not admit.
    pub not_allowed: u64,
    /// The refused ones that came beyond `max_connections`.
    pub over_limit: u64,
    /// The refused ones whose address had reached its limit.
    pub over_address: u64,
    /// The refused ones whose user had reached its limit.
    pub over_user: u64,
    /// The refused ones that came faster than the rate.
    pub over_rate: u64,
    /// Connections that were shed to make room for others.
    pub shed: u64,
    /// Bytes that handlers have received, over connections that have ended.
    pub received: u64,
    /// Bytes that handlers have sent, over connections that have ended.
    pub sent: u64,
    /// Connections and datagrams whose handler and close both succeeded.
    pub completed: u64,
    /// Connections and datagrams whose handler failed or panicked, or whose reply could not be
    /// delivered.
    pub failed: u64,
    /// Connections that were aborted because a deadline had passed. Each is also counted in
    /// `completed` or `failed`, by the result of its handler.
    pub timed_out: u64,
    /// Connections that a stop has ended while their clients were known to have sent more than the
    /// handlers have read.
    pub crossed: u64,
    /// Failures of accept loops: to accept, to wait, to start a thread, to fork, and so on; see
    /// [`AcceptError`](crate::observe::AcceptError).
    pub accept_errors: u64,
}

/// How a call of a handler has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The handler has succeeded, and the connection ends.
    Completed,
    /// The handler has failed, and the connection ends.
    Failed,
    /// The handler has returned `Next::Park`: the connection goes on.
    Parked,
    /// The server has refused the client that a PROXY header names, and has counted that.
    Refused,
}

/// The atomics behind [`Totals`], and the throttles of reports. All zero at first.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) not_allowed: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) over_address: AtomicU64,
    pub(crate) over_user: AtomicU64,
    pub(crate) over_rate: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) crossed: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// Connections and datagrams that were aborted at the drain deadline.
    aborted: AtomicU64,
    accept_errors_throttle: ThrottlePage,
    failures_throttle: ThrottlePage,
}

shareable!(Counts {
    accepted,
    refused,
    not_allowed,
    over_limit,
    over_address,
    over_user,
    over_rate,
    shed,
    received,
    sent,
    completed,
    failed,
    timed_out,
    crossed,
    accept_errors,
    aborted,
    accept_errors_throttle,
    failures_throttle
});

/// Owns the counts of a server, and the throttles of its reports.
#[derive(Debug)]
pub(crate) struct Counters {
    lifecycle: Arc<Lifecycle>,
    page: SharedMemory<Counts>,
}

impl Counters {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>) -> io::Result<Self> {
        let page = SharedMemory::new(1)?;
        Ok(Self { lifecycle, page })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.page[0]
    }

    /// Counts connections or datagrams that have ended; nothing for `Parked` and `Refused`.
    pub(crate) fn tally(&self, ended: Ended, requests: u64) {
        if requests == 0 {
            return;
        }
        let counter = match ended {
            Ended::Completed => &self.counts().completed,
            Ended::Failed => &self.counts().failed,
            Ended::Parked | Ended::Refused => return,
        };
        counter.fetch_add(requests, Relaxed);
    }

    pub(crate) fn count_aborted(&self, requests: u64) {
        self.counts().aborted.fetch_add(requests, Relaxed);
    }

    pub(crate) fn aborted_count(&self) -> u64 {
        self.counts().aborted.load(Relaxed)
    }

    /// Returns the number of accept errors that were held back, if one may be reported now.
    pub(crate) fn pass_accept_error(&self) -> Option<u64> {
        let throttle = &self.counts().accept_errors_throttle;
        throttle.pass(self.lifecycle.nanos())
    }

    /// As [`pass_accept_error`](Self::pass_accept_error), for failures of handlers.
    pub(crate) fn pass_failure(&self) -> Option<u64> {
        let throttle = &self.counts().failures_throttle;
        throttle.pass(self.lifecycle.nanos())
    }

    pub(crate) fn totals(&self) -> Totals {
        let Counts {
            accepted,
            refused,
            not_allowed,
            over_limit,
            over_address,
            over_user,
            over_rate,
            shed,
            received,
            sent,
            completed,
            failed,
            timed_out,
            crossed,
            accept_errors,
            ..
        } = self.counts();
        let load = |count: &AtomicU64| count.load(Relaxed);
        Totals {
            accepted: load(accepted),
            refused: load(refused),
            not_allowed: load(not_allowed),
            over_limit: load(over_limit),
            over_address: load(over_address),
            over_user: load(over_user),
            over_rate: load(over_rate),
            shed: load(shed),
            received: load(received),
            sent: load(sent),
            completed: load(completed),
            failed: load(failed),
            timed_out: load(timed_out),
            crossed: load(crossed),
            accept_errors: load(accept_errors),
        }
    }
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
