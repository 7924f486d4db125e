//! What may come in: the limits, the permits under them, the rate, and how many connections each
//! address has.

pub(crate) mod addresses;
pub(crate) mod limits;
pub(crate) mod permits;
pub(crate) mod policy;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::lifecycle::Lifecycle;
use crate::lifecycle::processes::WorkerSlot;
use crate::sys::memory::{SharedMemory, shareable};

use addresses::Addresses;
use limits::LimitsPage;
use permits::{Permits, SHARED_BIT, Waiting, live, packed, taken};
use policy::Limits;

/// What all processes of a server share. All zero when made.
#[derive(Debug, Default)]
struct Page {
    /// The counts of [`Permits`], packed, but for those of worker processes.
    live: AtomicU64,
    /// Which processes wait for a place to be returned, a bit each.
    waiting: AtomicU64,
    limits: LimitsPage,
}

shareable!(Page {
    live,
    waiting,
    limits
});

/// How many requests a process has descriptors for, one for each: what another worker process can
/// take is left to it. A few are kept for everything else; where that needs more, accepting pauses
/// as at any exhaustion.
fn process_max() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors - (descriptors / 8).min(64)
}

/// Owns what may come in, and wakes those that wait for room.
#[derive(Debug)]
pub(crate) struct Admission {
    lifecycle: Arc<Lifecycle>,
    page: SharedMemory<Page>,
    /// How many connections each address has.
    addresses: Addresses,
    /// How many requests this process has descriptors for.
    process_max: u64,
    /// How many connections there can be, whatever the limit.
    capacity: usize,
    /// How often something was freed in this process.
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
            addresses: Addresses::new(capacity)?,
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
        // There may be more room.
        self.lifecycle.wakeup_event().wake();
        Ok(())
    }

    pub(crate) const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The live requests of all processes.
    pub(crate) fn live(&self) -> u64 {
        self.places().map(live).sum()
    }

    /// The live requests of all worker processes.
    pub(crate) fn live_in_workers(&self) -> u64 {
        self.permits_of_workers().map(live).sum()
    }

    /// The places that are taken, in all processes. For a moment it may be more than the limit, by
    /// what someone is about to find too many.
    fn taken(&self) -> u64 {
        self.places().map(taken).sum()
    }

    /// What each process has taken.
    fn places(&self) -> impl Iterator<Item = u64> {
        let own = self.page().live.load(Ordering::SeqCst);
        self.permits_of_workers().chain([own])
    }

    fn permits_of_workers(&self) -> impl Iterator<Item = u64> {
        let slots = self.lifecycle.processes().slots().iter();
        slots.map(|slot| slot.live().load(Ordering::SeqCst))
    }

    /// The live requests of this process, and the places that it has taken ahead.
    pub(crate) fn live_here(&self) -> u64 {
        taken(self.own_live().load(Ordering::SeqCst))
    }

    /// Where this process counts its live requests: one place for each process, so that nothing is
    /// left of one that is killed.
    fn own_live(&self) -> &AtomicU64 {
        let own = self.lifecycle.processes().own();
        own.map_or_else(|| &self.page().live, WorkerSlot::live)
    }

    /// Takes up to `want` places under the limit, before anything is accepted for them; there may be none.
    ///
    /// They are counted first and what is too many given back, so that several processes never have
    /// more than the limit together; both may find that they are too many, and try again.
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
            ahead: want > excess,
        }
    }

    /// Whether as many requests are live as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.taken() >= self.page().limits.max_connections()
    }

    /// Whether this process has as many requests as it has descriptors for.
    pub(crate) fn is_full_here(&self) -> bool {
        self.live_here() >= self.process_max
    }

    /// Whether the limits let another request be accepted now, be it to be refused.
    pub(crate) fn takes(&self) -> bool {
        let limits = &self.page().limits;
        let waits = || {
            // A stop takes what is in the queue, however fast it came.
            let too_fast =
                limits.has_rate() && !self.lifecycle.closing() && !self.token_due().is_zero();
            too_fast || self.is_full() && !limits.sheds()
        };
        let paused = self.lifecycle.is_paused() && !self.lifecycle.closing();
        !paused && !self.is_full_here() && (limits.refuses() || !waits())
    }

    /// Takes up to `want` tokens of the rate.
    pub(crate) fn take_tokens(&self, want: u64) -> u64 {
        let limits = &self.page().limits;
        if !limits.has_rate() || self.lifecycle.closing() {
            return want;
        }
        limits.take_tokens(want, self.lifecycle.nanos())
    }

    /// How long until there is a token of the rate.
    pub(crate) fn token_due(&self) -> Duration {
        self.page().limits.token_due(self.lifecycle.nanos())
    }

    /// Counts `packed` off; wakes those who wait for room if there are places among it. An accept
    /// that has failed gives back the places which it had taken `ahead`, and nothing else that may
    /// be missing.
    pub(super) fn return_permits(&self, count: u64, packed: u64, ahead: bool) {
        if packed > 0 {
            self.own_live().fetch_sub(packed, Ordering::SeqCst);
        }
        match (count, ahead) {
            (0, _) => {}
            (_, true) => self.wake_waiting(),
            (_, false) => self.release(),
        }
    }

    /// Returns the place of a request whose permit is lost: it will never end.
    #[cfg(feature = "coroutines")]
    pub(crate) fn give_up_one(&self) {
        self.return_permits(1, 1, false);
    }

    /// Notes that something was freed in this process, by a request or a thread that has ended, and
    /// wakes those who wait for room.
    pub(crate) fn release(&self) {
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.wake_waiting();
    }

    /// How often something was freed in this process.
    pub(crate) fn releases(&self) -> u64 {
        self.releases.load(Ordering::SeqCst)
    }

    /// Says that this process is about to wait for room, until the returned value is dropped. The
    /// caller must look for room once more after this call, before it waits: SeqCst on both sides
    /// makes one of the two see the other.
    pub(crate) fn announce_waiting(&self) -> Waiting<'_> {
        let waiting = Waiting {
            admission: self,
            bit: self.waiting_bit(),
        };
        self.page().waiting.fetch_or(waiting.bit, Ordering::SeqCst);
        waiting
    }

    /// The bit of this process among those that wait. Workers beyond the first 63 share one that is
    /// never cleared.
    fn waiting_bit(&self) -> u64 {
        let number = self.lifecycle.processes().number();
        1 << usize::from(number.saturating_sub(1)).min(SHARED_BIT)
    }

    /// Wakes those who wait for room, if any.
    fn wake_waiting(&self) {
        let waiting = &self.page().waiting;
        // The plain load keeps the common case, nobody waiting, free of a write.
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
        assert!(admission.is_full() && !admission.takes());
        assert_eq!(admission.reserve(1).count(), 0);
        assert_eq!(admission.live(), 0, "nothing is accepted yet");
        two.settle(1);
        rest.settle(1);
        assert_eq!((admission.live(), admission.taken()), (2, 2));
        let ahead = admission.reserve(1);
        assert_eq!((admission.live(), admission.taken()), (2, 3));
        assert_eq!(admission.releases(), 0, "nothing has ended yet");
        drop(ahead);
        assert_eq!(
            admission.releases(),
            0,
            "a place that was taken ahead is not all that is missing"
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
