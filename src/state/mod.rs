//! What the parts of one server share: the stop, the counters, and the requests that are being
//! served.
//!
//! [`Page`] lies in memory that forked children share with their parent, so a stop asked for
//! anywhere is seen everywhere and the totals are those of all processes. Everything else here
//! belongs to one process.

mod addresses;
mod context;
pub(crate) mod deadlines;
mod lease;
pub(crate) mod limits;
pub(crate) mod phase;
mod session;
pub(crate) mod table;
mod throttle;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::address::Address;
use crate::limits::Limits;
use crate::sys::bell::Bell;
use crate::sys::memory::{Shareable, SharedMemory};

use addresses::{Addresses, Entry};
use context::Cuttable;
pub(crate) use context::Listed;
pub use context::{Context, Cut};
use deadlines::Deadlines;
pub(crate) use lease::{Lease, live};
use limits::LimitsPage;
use phase::Stop;
use table::{Free, Slot, Table};
use throttle::ThrottlePage;

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
    /// Connections that were cut to make room for others.
    pub shed: u64,
    /// Bytes that handlers have received over connections that have ended.
    pub received: u64,
    /// Bytes that handlers have sent over connections that have ended.
    pub sent: u64,
    /// Requests whose handler and close both succeeded.
    pub completed: u64,
    /// Requests whose handler failed or panicked, or whose reply could not be delivered.
    pub failed: u64,
    /// Connections that were cut because a deadline had passed; each is `completed` or `failed` too,
    /// as its handler says.
    pub timed_out: u64,
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

/// The state that all processes of a server share. All zero when made.
#[derive(Debug, Default)]
pub(crate) struct Page {
    stop: Stop,
    /// Where it is, as a number of [`State`](phase::State).
    state: AtomicU32,
    /// Non-zero while nothing is accepted.
    paused: AtomicU32,
    /// The places of [`Lease`]s, packed, but for those of worker processes.
    live: AtomicU64,
    /// Which processes wait for a place to be returned, a bit each.
    waiting: AtomicU64,
    last_id: AtomicU64,
    /// Requests that the drain deadline has cut.
    cut: AtomicU64,
    /// How often a connection was asked to be cut.
    cuts_asked: AtomicU64,
    /// The number of the connection that was chosen last to make room for another.
    shed: AtomicU64,
    /// Non-zero once serving has failed in one of the processes.
    failed: AtomicU64,
    accept_errors_throttle: ThrottlePage,
    failures_throttle: ThrottlePage,
    pub(crate) limits: LimitsPage,
    pub(crate) counts: Counts,
}

/// The atomics behind [`Totals`].
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
    pub(crate) accept_errors: AtomicU64,
}

/// What a builder sets and all parts of a server read.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) limits: Limits,
    /// Whether the process's limit on descriptors was to be raised.
    pub(crate) raise_descriptors: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) lame_duck: Duration,
    pub(crate) deadlines: Deadlines,
    pub(crate) client_speaks_first: bool,
}

/// See the module's documentation.
pub(crate) struct Shared {
    page: SharedMemory<Page>,
    /// What this process counts for its parent, so that the parent can return its leases when it
    /// dies. Only in a worker.
    worker: OnceLock<Worker>,
    /// What all workers count. In a server with worker processes.
    workers: OnceLock<Arc<SharedMemory<WorkerSlot>>>,
    bell: Bell,
    origin: Instant,
    options: Options,
    /// How many requests this process has descriptors for.
    process_max: u64,
    addresses: Vec<Address>,
    table: Table,
    /// How many connections each address has.
    counted: Addresses,
    /// The stop of this process alone.
    retirement: Stop,
    /// The process that forks others for the server; zero before.
    parent: AtomicU32,
    /// How many connections this process has in the table.
    listed: AtomicU64,
    /// How often something was freed in this process.
    releases: AtomicU64,
    /// The live requests of this process that can be cut. Weak: a request owns its socket, and
    /// closes it when it ends.
    cuttable: Mutex<Cuttable>,
}

/// Memory that a worker shares with its parent, and which of its elements is this worker's.
#[derive(Debug)]
struct Worker {
    slots: Arc<SharedMemory<WorkerSlot>>,
    index: usize,
}

/// How many slots each worker has: one for the process that serves, and one for another that still
/// drains, or takes its place.
pub(crate) const SLOTS_OF_WORKER: usize = 2;

/// What the parent of a worker process knows of it.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// As in [`Page`].
    pub(crate) live: AtomicU64,
    /// Non-zero once the worker accepts requests.
    pub(crate) ready: AtomicU32,
    /// Non-zero once the worker has served one.
    pub(crate) served: AtomicU32,
    /// Non-zero once the worker is to end, and another one to take its place.
    pub(crate) leaving: AtomicU32,
}

#[expect(unsafe_code, reason = "a promise about plain atomics, see the trait")]
// SAFETY: atomic integers only.
unsafe impl Shareable for Page {}
#[expect(unsafe_code, reason = "a promise about plain atomics, see the trait")]
// SAFETY: atomic integers only.
unsafe impl Shareable for WorkerSlot {}
#[expect(unsafe_code, reason = "a promise about plain atomics, see the trait")]
// SAFETY: atomic integers only.
unsafe impl Shareable for Slot {}
#[expect(unsafe_code, reason = "a promise about plain atomics, see the trait")]
// SAFETY: atomic integers only.
unsafe impl Shareable for Free {}
#[expect(unsafe_code, reason = "a promise about plain atomics, see the trait")]
// SAFETY: atomic integers only.
unsafe impl Shareable for Entry {}

/// How many requests a process has descriptors for, one for each: what another worker process can
/// take is left to it. A few are kept for everything else; where that needs more, accepting pauses
/// as at any exhaustion.
fn process_max() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors - (descriptors / 8).min(64)
}

/// How many connections can be listed at once: those that are allowed, and more, should the limit be
/// raised. Memory that is not used costs nothing.
fn table_size(max_connections: u64) -> usize {
    max_connections.clamp(TABLE_MIN, TABLE_MAX) as usize
}

const TABLE_MIN: u64 = 16 * 1024;
const TABLE_MAX: u64 = 1024 * 1024;

impl Shared {
    pub(crate) fn new(options: Options, addresses: Vec<Address>) -> io::Result<Self> {
        let capacity = table_size(options.limits.max_connections);
        let page = SharedMemory::<Page>::new(1)?;
        page[0].limits.set(&options.limits);
        Ok(Self {
            table: Table::new(capacity)?,
            counted: Addresses::new(capacity)?,
            retirement: Stop::default(),
            parent: AtomicU32::new(0),
            listed: AtomicU64::new(0),
            releases: AtomicU64::new(0),
            page,
            worker: OnceLock::new(),
            workers: OnceLock::new(),
            bell: Bell::new()?,
            origin: Instant::now(),
            options,
            process_max: process_max(),
            addresses,
            cuttable: Mutex::default(),
        })
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.page().counts
    }

    pub(crate) fn limits(&self) -> &LimitsPage {
        &self.page().limits
    }

    /// Changes the limits, for all processes.
    pub(crate) fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        limits.check(self.table.capacity() as u64)?;
        self.limits().set(limits);
        // There may be more room.
        self.bell.ring();
        Ok(())
    }

    /// Gets ready for worker processes.
    pub(crate) fn share(&self, slots: &Arc<SharedMemory<WorkerSlot>>) -> io::Result<()> {
        let first = self.workers.set(Arc::clone(slots));
        debug_assert!(first.is_ok(), "serving consumes a server");
        self.counted.share()
    }

    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) const fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether a connection waits for its first byte before its handler is called.
    pub(crate) const fn client_speaks_first(&self) -> bool {
        self.options.client_speaks_first
    }

    pub(crate) const fn drain_timeout(&self) -> Duration {
        self.options.drain_timeout
    }

    /// Makes this process account for its leases in a slot that its parent reads.
    pub(crate) fn become_worker(&self, slots: Arc<SharedMemory<WorkerSlot>>, index: usize) {
        // The parent has, but in tests.
        let _ = self.workers.set(Arc::clone(&slots));
        let first = self.worker.set(Worker { slots, index });
        debug_assert!(first.is_ok(), "a worker does not fork workers");
        self.note_parent();
        // It was asked to before it was one.
        if self.retires() {
            self.ask_for_successor();
        }
    }

    /// Notes that this process forks others for the server: what is forked from now on is a worker
    /// or a child of it.
    pub(crate) fn note_parent(&self) {
        self.parent.store(std::process::id(), Ordering::SeqCst);
    }

    /// Whether this process was forked by one that serves, and is not a worker yet or never.
    /// Async-signal-safe.
    pub(crate) fn is_child(&self) -> bool {
        let parent = self.parent.load(Ordering::SeqCst);
        parent != 0 && parent != std::process::id()
    }

    /// Asks the parent of this worker process for one that takes its place. The caller rings.
    fn ask_for_successor(&self) {
        if let Some(worker) = self.worker.get() {
            worker.slots[worker.index]
                .leaving
                .store(1, Ordering::SeqCst);
        }
    }

    /// Tells the parent of this worker process, if it is one, that requests are accepted.
    pub(crate) fn acknowledge(&self) -> bool {
        let Some(worker) = self.worker.get() else {
            return false;
        };
        worker.slots[worker.index].ready.store(1, Ordering::SeqCst);
        self.bell.ring();
        true
    }

    /// What tells this process's connections from those of others: 0 but in a worker.
    pub(crate) fn worker_number(&self) -> u16 {
        self.worker
            .get()
            .map_or(0, |worker| worker.index as u16 + 1)
    }

    pub(crate) fn is_worker(&self) -> bool {
        self.worker.get().is_some()
    }

    /// Returns what a dead worker held: its leases, and its places in the table of connections.
    pub(crate) fn bury(&self, slots: &[WorkerSlot], index: usize) {
        self.unlist_worker(index);
        let slot = &slots[index];
        slot.ready.store(0, Ordering::SeqCst);
        slot.served.store(0, Ordering::SeqCst);
        slot.leaving.store(0, Ordering::SeqCst);
        slot.live.store(0, Ordering::SeqCst);
        self.release();
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
        counter.fetch_add(requests, Ordering::Relaxed);
    }

    /// Notes, for the parent of a worker process, that a handler has come to its end.
    pub(crate) fn note_served(&self) {
        if let Some(worker) = self.worker.get() {
            worker.slots[worker.index]
                .served
                .store(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_cut(&self, requests: u64) {
        self.page().cut.fetch_add(requests, Ordering::Relaxed);
    }

    /// Notes, for the parent of a worker process, that serving has failed.
    pub(crate) fn fail(&self) {
        self.page().failed.store(1, Ordering::SeqCst);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.page().failed.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn cut_count(&self) -> u64 {
        self.page().cut.load(Ordering::Relaxed)
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
            accept_errors,
        } = self.counts();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
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
            accept_errors: load(accept_errors),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Shared");
        debug
            .field("page", self.page())
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::limits::AtLimit;

    pub(crate) fn shared(max: u64) -> Arc<Shared> {
        let options = Options {
            limits: Limits {
                max_connections: max,
                per_address: None,
                rate: None,
                at_limit: AtLimit::Wait,
            },
            raise_descriptors: false,
            drain_timeout: Duration::from_secs(9),
            lame_duck: Duration::ZERO,
            deadlines: Deadlines::default(),
            client_speaks_first: false,
        };
        Arc::new(Shared::new(options, Vec::new()).unwrap())
    }

    #[test]
    fn an_earlier_deadline_wins() {
        let shared = shared(1);
        assert_eq!((shared.stopping(), shared.drain_left()), (false, None));
        shared.stop(Duration::from_secs(100));
        shared.stop(Duration::from_secs(50));
        shared.stop(Duration::MAX);
        let left = shared.drain_left().unwrap();
        assert!(
            left <= Duration::from_secs(50) && left > Duration::from_secs(40),
            "{left:?}"
        );
        shared.stop(Duration::ZERO);
        assert_eq!(shared.drain_left(), Some(Duration::ZERO));
    }

    #[test]
    fn the_leases_of_a_dead_worker_come_back() {
        let shared = shared(10);
        let slots = Arc::new(SharedMemory::<WorkerSlot>::new(2).unwrap());
        shared.become_worker(Arc::clone(&slots), 1);
        let mut lease = shared.lease(4);
        lease.settle(4);
        assert_eq!(
            (
                slots[0].live.load(Ordering::SeqCst),
                slots[1].live.load(Ordering::SeqCst)
            ),
            (0, 4)
        );
        std::mem::forget(lease);
        shared.bury(&slots, 1);
        assert_eq!(shared.live(), 0);
    }
}
