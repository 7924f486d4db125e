//! Permits under the limit on live connections and datagrams, and the registration of waiters.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::Admission;

/// A number of permits, returned on drop. A permit allows one live connection or datagram.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(super) admission: Arc<Admission>,
    pub(super) count: u64,
    /// The permits are reserved: no connection was accepted for them yet.
    pub(super) reserved: bool,
}

/// Packs a count: all permits in the lower half, the reserved ones of them in the upper. Reserved
/// permits count towards the limit, but not as live.
pub(super) const fn packed(count: u64, reserved: bool) -> u64 {
    if reserved { count << 32 | count } else { count }
}

/// How many permits of a packed count are live.
pub(super) const fn live(packed: u64) -> u64 {
    taken(packed) - (packed >> 32)
}

/// How many permits of a packed count are taken.
pub(super) const fn taken(packed: u64) -> u64 {
    packed & u32::MAX as u64
}

impl Permits {
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Adds the permits of `other`.
    pub(crate) fn join(&mut self, mut other: Self) {
        debug_assert!(
            !self.reserved && !other.reserved,
            "reserved permits cannot be joined"
        );
        self.count += std::mem::take(&mut other.count);
    }

    /// Keeps `count` permits and returns the rest.
    pub(crate) fn keep(&mut self, count: u64) {
        debug_assert!(count <= self.count, "kept {count} of {}", self.count);
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.admission
            .return_permits(rest, packed(rest, self.reserved), self.reserved);
    }

    /// Turns `count` reserved permits into live ones, after as many accepts, and returns the rest.
    pub(crate) fn settle(&mut self, count: u64) {
        debug_assert!(count <= self.count, "settled {count} of {}", self.count);
        let before = packed(self.count, std::mem::take(&mut self.reserved));
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.admission.return_permits(rest, before - count, true);
    }

    /// Splits off `count` permits.
    pub(crate) fn split(&mut self, count: u64) -> Self {
        debug_assert!(count <= self.count, "split {count} of {}", self.count);
        self.count -= count;
        Self {
            admission: Arc::clone(&self.admission),
            count,
            reserved: self.reserved,
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        let count = self.count;
        self.admission
            .return_permits(count, packed(count, self.reserved), self.reserved);
    }
}

/// The bit of every worker that has none of its own.
pub(super) const SHARED_BIT: usize = 63;

/// The registration of this process as a waiter for room, removed on drop.
#[must_use]
pub(crate) struct Waiting<'a> {
    pub(super) admission: &'a Admission,
    pub(super) bit: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.bit != 1 << SHARED_BIT {
            self.admission
                .page()
                .waiting
                .fetch_and(!self.bit, Ordering::SeqCst);
        }
    }
}
