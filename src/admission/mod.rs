//! Admission: who may connect, the limits of a server, the permits under them, the rate, and how
//! many connections each peer has.

pub(crate) mod access;
pub(crate) mod limits;
mod lock;
pub(crate) mod peers;
pub(crate) mod permits;
pub(crate) mod policy;
pub(crate) mod rules;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::lifecycle::Lifecycle;
use crate::lifecycle::processes::WorkerSlot;
use crate::sys::memory::{SharedMemory, shareable};

use access::Access;
use limits::LimitsPage;
use lock::Lock;
use peers::{Peer, Peers};
use permits::{Permits, SHARED_BIT, Waiting, live, packed, taken};
use policy::Limits;
use rules::Rules;

/// The admission state that all processes of a server share. All zero at first.
#[derive(Debug, Default)]
struct Page {
    /// The packed count of [`Permits`] of every process that is not a worker.
    live: AtomicU64,
    /// The processes that wait for a permit to be returned, one bit each.
    waiting: AtomicU64,
    limits: LimitsPage,
}

shareable!(Page {
    live,
    waiting,
    limits
});

/// How many connections a process has descriptors for, at one descriptor each. A process that has
/// as many leaves further ones to other workers. An eighth of the descriptors, 64 at most, is kept
/// for everything else; if that is too few, accepting pauses as after any exhaustion.
fn process_max() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors - (descriptors / 8).min(64)
}

/// Owns the limits and the permits of a server, and wakes accept loops that wait for a permit.
#[derive(Debug)]
pub(crate) struct Admission {
    lifecycle: Arc<Lifecycle>,
    page: SharedMemory<Page>,
    rules: Rules,
    peers: Peers,
    /// Held while the rules or the peers are changed.
    lock: Lock,
    /// How many connections this process has descriptors for.
    process_max: u64,
    /// The most that `max_connections` can be set to.
    capacity: usize,
    /// How many times this process has released a resource.
    releases: AtomicU64,
}

impl Admission {
    pub(crate) fn new(
        lifecycle: Arc<Lifecycle>,
        limits: &Limits,
        capacity: usize,
    ) -> io::Result<Self> {
        let page = SharedMemory::<Page>::new(1)?;
        page[0].limits.set(limits);
        Ok(Self {
            lifecycle,
            page,
            rules: Rules::new()?,
            peers: Peers::new(capacity)?,
            lock: Lock::default(),
            process_max: process_max(),
            capacity,
            releases: AtomicU64::new(0),
        })
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }

    pub(crate) fn limits(&self) -> &LimitsPage {
        &self.page().limits
    }

    /// Changes the limits, for all processes.
    pub(crate) fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        limits.check(self.capacity as u64)?;
        self.limits().set(limits);
        // The new limits may admit a connection that waits.
        self.lifecycle.wakeup_event().wake();
        Ok(())
    }

    /// Prepares for processes that are forked from now on.
    pub(crate) fn share(&self) -> io::Result<()> {
        self.lock.share()
    }

    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Changes the access rules, for all processes.
    pub(crate) fn set_access(&self, access: &Access) -> io::Result<()> {
        access.check()?;
        self.rules.set(&self.lock, access);
        Ok(())
    }

    /// Counts a connection, unless its peer has `limit` connections already. Returns whether it
    /// was counted, which `mark` says then.
    pub(crate) fn enter(&self, peer: Peer, limit: u64, mark: &AtomicU32) -> bool {
        self.peers.enter(&self.lock, peer, limit, mark)
    }

    /// Counts the end of a connection, if it was counted.
    pub(crate) fn leave(&self, mark: &AtomicU32) {
        self.peers.leave(&self.lock, mark);
    }

    /// How many connections and datagrams are live, in all processes.
    pub(crate) fn live(&self) -> u64 {
        self.packed_counts().map(live).sum()
    }

    /// How many connections and datagrams are live in worker processes.
    pub(crate) fn live_in_workers(&self) -> u64 {
        self.permits_of_workers().map(live).sum()
    }

    /// How many permits are taken, in all processes. The sum may exceed the limit for a moment,
    /// until a process has returned the excess of a reservation.
    fn taken(&self) -> u64 {
        self.packed_counts().map(taken).sum()
    }

    /// The packed permits of each process.
    fn packed_counts(&self) -> impl Iterator<Item = u64> {
        let own = self.page().live.load(Ordering::SeqCst);
        self.permits_of_workers().chain([own])
    }

    fn permits_of_workers(&self) -> impl Iterator<Item = u64> {
        let slots = self.lifecycle.processes().slots().iter();
        slots.map(|slot| slot.live().load(Ordering::SeqCst))
    }

    /// How many permits this process has taken: live and reserved ones.
    pub(crate) fn live_here(&self) -> u64 {
        taken(self.own_live().load(Ordering::SeqCst))
    }

    /// The packed count of this process. A worker has a count of its own, which its parent clears
    /// when the worker was killed.
    fn own_live(&self) -> &AtomicU64 {
        let own = self.lifecycle.processes().own();
        own.map_or_else(|| &self.page().live, WorkerSlot::live)
    }

    /// Reserves up to `want` permits, before a connection is accepted for each; possibly none.
    ///
    /// The permits are counted first, and the excess is returned, so that several processes
    /// together never hold more than the limit. Two processes that reserve at the same time may
    /// both get none, and try again.
    pub(crate) fn reserve(self: &Arc<Self>, want: u64) -> Permits {
        let want = want.min(self.process_max.saturating_sub(self.live_here()));
        self.own_live()
            .fetch_add(packed(want, true), Ordering::SeqCst);
        let max = self.page().limits.max_connections();
        let excess = self.taken().saturating_sub(max).min(want);
        self.return_permits(excess, packed(excess, true), true);
        Permits {
            admission: Arc::clone(self),
            count: want - excess,
            reserved: want > excess,
        }
    }

    /// Whether every permit under the limit is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.taken() >= self.page().limits.max_connections()
    }

    /// Whether this process has as many connections as it has descriptors for.
    pub(crate) fn is_full_here(&self) -> bool {
        self.live_here() >= self.process_max
    }

    /// Whether the limits allow an accept now, even if only to refuse the connection.
    pub(crate) fn may_accept(&self) -> bool {
        let limits = &self.page().limits;
        let waits = || {
            // The rate does not hold for the backlog of a stop.
            let too_fast =
                limits.has_rate() && !self.lifecycle.closing() && !self.token_due().is_zero();
            too_fast || self.is_full() && !limits.sheds()
        };
        let paused = self.lifecycle.is_paused() && !self.lifecycle.closing();
        !paused && !self.is_full_here() && (limits.refuses() || !waits())
    }

    /// Takes up to `want` tokens of the rate, and returns how many.
    pub(crate) fn take_tokens(&self, want: u64) -> u64 {
        let limits = &self.page().limits;
        if !limits.has_rate() || self.lifecycle.closing() {
            return want;
        }
        limits.take_tokens(want, self.lifecycle.nanos())
    }

    /// The time until the rate has a token.
    pub(crate) fn token_due(&self) -> Duration {
        self.page().limits.token_due(self.lifecycle.nanos())
    }

    /// Subtracts `packed` from the count of this process, and wakes waiting accept loops if `count`
    /// permits are free again. A `reserved` permit was used for no connection, so its return frees
    /// no other resource and counts as no release.
    pub(super) fn return_permits(&self, count: u64, packed: u64, reserved: bool) {
        if packed > 0 {
            self.own_live().fetch_sub(packed, Ordering::SeqCst);
        }
        match (count, reserved) {
            (0, _) => {}
            (_, true) => self.wake_waiting(),
            (_, false) => self.release(),
        }
    }

    /// Returns the permit of a connection that will never end, because its worker has failed.
    #[cfg(feature = "coroutines")]
    pub(crate) fn return_lost_permit(&self) {
        self.return_permits(1, 1, false);
    }

    /// Counts a release in this process, by a connection or a thread that has ended, and wakes
    /// waiting accept loops.
    pub(crate) fn release(&self) {
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.wake_waiting();
    }

    /// How many times this process has released a resource.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.load(Ordering::SeqCst)
    }

    /// Registers this process as a waiter for room, until the returned value is dropped.
    ///
    /// The caller checks for room again after this call, before it waits; a releaser checks for
    /// waiters after its release. SeqCst on both sides makes one of the two see the other.
    pub(crate) fn announce_waiting(&self) -> Waiting<'_> {
        let waiting = Waiting {
            admission: self,
            bit: self.waiting_bit(),
        };
        self.page().waiting.fetch_or(waiting.bit, Ordering::SeqCst);
        waiting
    }

    /// The bit of this process in `waiting`. Workers beyond the first 63 share a bit, which no
    /// waiter clears.
    fn waiting_bit(&self) -> u64 {
        let number = self.lifecycle.processes().number();
        1 << usize::from(number.saturating_sub(1)).min(SHARED_BIT)
    }

    /// Wakes the accept loops that wait for room, if there are any.
    fn wake_waiting(&self) {
        let waiting = &self.page().waiting;
        // The plain load spares the common case without waiters a write.
        if waiting.load(Ordering::SeqCst) != 0 && waiting.swap(0, Ordering::SeqCst) != 0 {
            self.lifecycle.wakeup_event().wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::policy::AtLimit;
    use crate::lifecycle::Times;

    fn admission(max_connections: u64) -> Arc<Admission> {
        let lifecycle = Lifecycle::new(Times::default()).unwrap();
        let limits = Limits {
            max_connections,
            per_address: None,
            per_user: None,
            rate: None,
            at_limit: AtLimit::Wait,
        };
        Arc::new(Admission::new(Arc::new(lifecycle), &limits, 8).unwrap())
    }

    #[test]
    fn permits_never_exceed_the_limit_and_come_back() {
        let admission = admission(3);
        let mut two = admission.reserve(2);
        let mut rest = admission.reserve(5);
        assert_eq!((two.count(), rest.count(), admission.taken()), (2, 1, 3));
        assert!(admission.is_full() && !admission.may_accept());
        assert_eq!(admission.reserve(1).count(), 0);
        assert_eq!(admission.live(), 0, "reserved permits are not live");
        two.settle(1);
        rest.settle(1);
        assert_eq!((admission.live(), admission.taken()), (2, 2));
        let reserved = admission.reserve(1);
        assert_eq!((admission.live(), admission.taken()), (2, 3));
        assert_eq!(admission.releases(), 0, "no connection has ended");
        drop(reserved);
        assert_eq!(
            admission.releases(),
            0,
            "the return of a reserved permit is no release"
        );
        drop((two, rest));
        assert_eq!((admission.live(), admission.taken()), (0, 0));
        assert_eq!(admission.releases(), 2);
    }

    #[test]
    fn the_permits_of_a_dead_worker_come_back() {
        let admission = admission(10);
        admission.lifecycle.processes().make_slots(1).unwrap();
        admission.lifecycle.become_worker(1);
        let slots = admission.lifecycle.processes().slots();
        let mut permits = admission.reserve(4);
        permits.settle(4);
        assert_eq!(
            (
                slots[0].live().load(Ordering::SeqCst),
                slots[1].live().load(Ordering::SeqCst)
            ),
            (0, 4)
        );
        std::mem::forget(permits);
        slots[1].clear();
        assert_eq!(admission.live(), 0);
    }
}
