//! Places under the limit on live requests, and waiting for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::state::Shared;

/// Places under the limit on live requests, returned on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
    count: u64,
    /// Nothing has been accepted for them yet.
    ahead: bool,
}

/// Places, and in the upper half how many of them were taken ahead: those count towards the limit,
/// and are no live requests.
const fn packed(count: u64, ahead: bool) -> u64 {
    if ahead { count << 32 | count } else { count }
}

/// How many requests are live.
pub(crate) const fn live(packed: u64) -> u64 {
    taken(packed) - (packed >> 32)
}

/// How many places were taken.
const fn taken(packed: u64) -> u64 {
    packed & u32::MAX as u64
}

impl Lease {
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Adds the places of another lease.
    pub(crate) fn join(&mut self, mut other: Self) {
        debug_assert!(!self.ahead && !other.ahead, "nothing is accepted yet");
        self.count += std::mem::take(&mut other.count);
    }

    /// Keeps `count` places and returns the rest.
    pub(crate) fn keep(&mut self, count: u64) {
        debug_assert!(count <= self.count, "kept {count} of {}", self.count);
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.shared
            .return_places(rest, packed(rest, self.ahead), self.ahead);
    }

    /// Notes that `count` requests were accepted, and returns the places of the others.
    pub(crate) fn settle(&mut self, count: u64) {
        debug_assert!(count <= self.count, "settled {count} of {}", self.count);
        let before = packed(self.count, std::mem::take(&mut self.ahead));
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.shared.return_places(rest, before - count, true);
    }

    /// Moves `count` places to a lease of their own.
    pub(crate) fn split(&mut self, count: u64) -> Self {
        debug_assert!(count <= self.count, "split {count} of {}", self.count);
        self.count -= count;
        Self {
            shared: Arc::clone(&self.shared),
            count,
            ahead: self.ahead,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let count = self.count;
        self.shared
            .return_places(count, packed(count, self.ahead), self.ahead);
    }
}

const SHARED_BIT: usize = 63;

/// Says that this process waits for room. Its own places, returned after that, ring for others
/// only.
#[must_use]
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    bit: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.bit != 1 << SHARED_BIT {
            self.shared
                .page()
                .waiting
                .fetch_and(!self.bit, Ordering::SeqCst);
        }
    }
}

impl Shared {
    /// The live requests of all processes.
    pub(crate) fn live(&self) -> u64 {
        self.places().map(live).sum()
    }

    /// The places that are taken, in all processes. For a moment it may be more than the limit, by
    /// what someone is about to find too many.
    fn taken(&self) -> u64 {
        self.places().map(taken).sum()
    }

    /// What each process has taken.
    fn places(&self) -> impl Iterator<Item = u64> {
        let workers = self.workers.get().into_iter();
        let live = workers.flat_map(|slots| slots.iter().map(|slot| &slot.live));
        live.chain([&self.page().live])
            .map(|live| live.load(Ordering::SeqCst))
    }

    /// The live requests of this process, and the places that it has taken ahead.
    pub(crate) fn live_here(&self) -> u64 {
        taken(self.own_live().load(Ordering::SeqCst))
    }

    /// Where this process counts its live requests: one place for each process, so that nothing is
    /// left of one that is killed.
    fn own_live(&self) -> &AtomicU64 {
        self.worker.get().map_or_else(
            || &self.page().live,
            |worker| &worker.slots[worker.index].live,
        )
    }

    /// Takes up to `want` places under the limit, ahead of the requests; the lease may be for none.
    ///
    /// They are counted first and what is too many given back, so that several processes never have
    /// more than the limit together; both may find that they are too many, and try again.
    pub(crate) fn lease(self: &Arc<Self>, want: u64) -> Lease {
        let want = want.min(self.process_max.saturating_sub(self.live_here()));
        self.own_live()
            .fetch_add(packed(want, true), Ordering::SeqCst);
        let max = self.page().limits.max_connections();
        let excess = self.taken().saturating_sub(max).min(want);
        self.return_places(excess, packed(excess, true), true);
        Lease {
            shared: Arc::clone(self),
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
            let too_fast = limits.has_rate() && !self.closing() && !self.token_due().is_zero();
            too_fast || self.is_full() && !limits.sheds()
        };
        let paused = self.is_paused() && !self.closing();
        !paused && !self.is_full_here() && (limits.refuses() || !waits())
    }

    /// Takes up to `want` tokens of the rate.
    pub(crate) fn take_tokens(&self, want: u64) -> u64 {
        let limits = &self.page().limits;
        if !limits.has_rate() || self.closing() {
            return want;
        }
        limits.take_tokens(want, self.nanos())
    }

    /// How long until there is a token of the rate.
    pub(crate) fn token_due(&self) -> Duration {
        self.page().limits.token_due(self.nanos())
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts `packed` off; wakes those who wait for room if there are places among it. An accept
    /// that has failed gives back the places which it had taken `ahead`, and nothing else that may
    /// be missing.
    fn return_places(&self, count: u64, packed: u64, ahead: bool) {
        if packed > 0 {
            self.own_live().fetch_sub(packed, Ordering::SeqCst);
        }
        match (count, ahead) {
            (0, _) => {}
            (_, true) => self.wake_waiting(),
            (_, false) => self.release(),
        }
    }

    /// Returns the place of a request whose lease is lost: it will never end.
    #[cfg(feature = "coroutines")]
    pub(crate) fn give_up_one(&self) {
        self.return_places(1, 1, false);
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
            shared: self,
            bit: self.waiting_bit(),
        };
        self.page().waiting.fetch_or(waiting.bit, Ordering::SeqCst);
        waiting
    }

    /// The bit of this process among those that wait. Workers beyond the first 63 share one that is
    /// never cleared.
    fn waiting_bit(&self) -> u64 {
        1 << self
            .worker
            .get()
            .map_or(0, |worker| worker.index.min(SHARED_BIT))
    }

    /// Wakes those who wait for room, if any.
    fn wake_waiting(&self) {
        let waiting = &self.page().waiting;
        // The plain load keeps the common case, nobody waiting, free of a write.
        if waiting.load(Ordering::SeqCst) != 0 && waiting.swap(0, Ordering::SeqCst) != 0 {
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::tests::shared;

    #[test]
    fn leases_never_exceed_the_limit_and_come_back() {
        let shared = shared(3);
        let mut two = shared.lease(2);
        let mut rest = shared.lease(5);
        assert_eq!((two.count(), rest.count(), shared.taken()), (2, 1, 3));
        assert!(shared.is_full() && !shared.takes());
        assert_eq!(shared.lease(1).count(), 0);
        assert_eq!(shared.live(), 0, "nothing is accepted yet");
        two.settle(1);
        rest.settle(1);
        assert_eq!((shared.live(), shared.taken()), (2, 2));
        let ahead = shared.lease(1);
        assert_eq!((shared.live(), shared.taken()), (2, 3));
        assert_eq!(shared.releases(), 0, "nothing has ended yet");
        drop(ahead);
        assert_eq!(
            shared.releases(),
            0,
            "a place that was taken ahead is not all that is missing"
        );
        drop((two, rest));
        assert_eq!((shared.live(), shared.taken()), (0, 0));
        assert_eq!(shared.releases(), 2);
    }
}
