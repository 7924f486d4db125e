//! What a server counts, in memory that all its processes share.

mod throttle;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::counters::throttle::ThrottlePage;
use crate::lifecycle::Lifecycle;
use crate::sys::memory::{SharedMemory, shareable};

/// Counts of a server since it was bound, over all of its processes.
///
/// Each request that was accepted ends up in exactly one of `refused`, `completed` and `failed`,
/// except where a worker process was killed while it served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Requests taken from the listeners.
    pub accepted: u64,
    /// Requests that were turned away: by the `verify` hook, or by a limit.
    pub refused: u64,
    /// Those of them that came beyond `max_connections`.
    pub over_limit: u64,
    /// Those of them whose address had as many connections as it may.
    pub over_address: u64,
    /// Those of them that came faster than the rate.
    pub over_rate: u64,
    /// Connections that were aborted to make room for others.
    pub shed: u64,
    /// Bytes that handlers have received over connections that have ended.
    pub received: u64,
    /// Bytes that handlers have sent over connections that have ended.
    pub sent: u64,
    /// Requests whose handler and close both succeeded.
    pub completed: u64,
    /// Requests whose handler failed or panicked, or whose reply could not be delivered.
    pub failed: u64,
    /// Connections that were aborted because a deadline had passed; each is `completed` or `failed` too,
    /// as its handler says.
    pub timed_out: u64,
    /// Connections that a stop has ended while their clients had sent more than their handlers have
    /// read, as far as that was seen.
    pub crossed: u64,
    /// Failures to accept, to start a thread or to fork; each is retried.
    pub accept_errors: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    Failed,
    /// It has not: its handler wants to be called again.
    Parked,
}

/// The atomics behind [`Totals`], and what else is counted. All zero when made.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) over_address: AtomicU64,
    pub(crate) over_rate: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) crossed: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// Requests that the drain deadline has aborted.
    aborted: AtomicU64,
    accept_errors_throttle: ThrottlePage,
    failures_throttle: ThrottlePage,
}

shareable!(Counts {
    accepted,
    refused,
    over_limit,
    over_address,
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

/// Owns what is counted, and what of it is reported.
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

    /// Counts requests that have ended.
    pub(crate) fn tally(&self, ended: Ended, requests: u64) {
        if requests == 0 {
            return;
        }
        let counter = match ended {
            Ended::Completed => &self.counts().completed,
            Ended::Failed => &self.counts().failed,
            Ended::Parked => return,
        };
        counter.fetch_add(requests, Relaxed);
    }

    pub(crate) fn count_aborted(&self, requests: u64) {
        self.counts().aborted.fetch_add(requests, Relaxed);
    }

    pub(crate) fn aborted_count(&self) -> u64 {
        self.counts().aborted.load(Relaxed)
    }

    /// `Some` with the number of accept errors that were held back, if one may be reported now.
    pub(crate) fn pass_accept_error(&self) -> Option<u64> {
        let throttle = &self.counts().accept_errors_throttle;
        throttle.pass(self.lifecycle.nanos())
    }

    /// As [`pass_accept_error`](Self::pass_accept_error), for failed requests.
    pub(crate) fn pass_failure(&self) -> Option<u64> {
        let throttle = &self.counts().failures_throttle;
        throttle.pass(self.lifecycle.nanos())
    }

    pub(crate) fn totals(&self) -> Totals {
        let Counts {
            accepted,
            refused,
            over_limit,
            over_address,
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
            over_limit: load(over_limit),
            over_address: load(over_address),
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

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
