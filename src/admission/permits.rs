//! Places under the limit on live requests, and waiting for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::Admission;

/// Places under the limit on live requests, returned on drop.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(super) admission: Arc<Admission>,
    pub(super) count: u64,
    /// Nothing has been accepted for them yet.
    pub(super) ahead: bool,
}

/// Places, and in the upper half how many of them were taken ahead: those count towards the limit,
/// and are no live requests.
pub(super) const fn packed(count: u64, ahead: bool) -> u64 {
    if ahead { count << 32 | count } else { count }
}

/// How many requests are live.
pub(super) const fn live(packed: u64) -> u64 {
    taken(packed) - (packed >> 32)
}

/// How many places were taken.
pub(super) const fn taken(packed: u64) -> u64 {
    packed & u32::MAX as u64
}

impl Permits {
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Adds the permits of another.
    pub(crate) fn join(&mut self, mut other: Self) {
        debug_assert!(!self.ahead && !other.ahead, "nothing is accepted yet");
        self.count += std::mem::take(&mut other.count);
    }

    /// Keeps `count` places and returns the rest.
    pub(crate) fn keep(&mut self, count: u64) {
        debug_assert!(count <= self.count, "kept {count} of {}", self.count);
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.admission
            .return_permits(rest, packed(rest, self.ahead), self.ahead);
    }

    /// Notes that `count` requests were accepted, and returns the places of the others.
    pub(crate) fn settle(&mut self, count: u64) {
        debug_assert!(count <= self.count, "settled {count} of {}", self.count);
        let before = packed(self.count, std::mem::take(&mut self.ahead));
        let rest = std::mem::replace(&mut self.count, count) - count;
        self.admission.return_permits(rest, before - count, true);
    }

    /// Moves `count` permits to a value of their own.
    pub(crate) fn split(&mut self, count: u64) -> Self {
        debug_assert!(count <= self.count, "split {count} of {}", self.count);
        self.count -= count;
        Self {
            admission: Arc::clone(&self.admission),
            count,
            ahead: self.ahead,
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        let count = self.count;
        self.admission
            .return_permits(count, packed(count, self.ahead), self.ahead);
    }
}

pub(super) const SHARED_BIT: usize = 63;

/// Says that this process waits for room. Its own places, returned after that, ring for others
/// only.
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
