//! One report a second, over all processes of a server.

use crate::sys::memory::shareable;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SECOND: u64 = 1_000_000_000;

/// Lets one report pass in a second, whatever process it comes from, and counts the others. Lies in
/// memory that processes share: all zero at first.
#[derive(Debug, Default)]
pub(crate) struct ThrottlePage {
    /// From when on the next report may pass, in nanoseconds.
    next: AtomicU64,
    held_back: AtomicU64,
}

shareable!(ThrottlePage { next, held_back });

impl ThrottlePage {
    /// `Some` with the number of reports that were held back since the last one, if this one may
    /// pass at `now_nanos`, which all processes count from the same moment.
    pub(crate) fn pass(&self, now_nanos: u64) -> Option<u64> {
        let next = self.next.load(Relaxed);
        let later = now_nanos.saturating_add(SECOND);
        // Another process may pass at the same moment: one of the two changes the time.
        let passes = now_nanos >= next
            && self
                .next
                .compare_exchange(next, later, Relaxed, Relaxed)
                .is_ok();
        if passes {
            return Some(self.held_back.swap(0, Relaxed));
        }
        self.held_back.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_a_second_counts_those_it_held_back() {
        let throttle = ThrottlePage::default();
        assert_eq!(throttle.pass(5), Some(0));
        assert_eq!(throttle.pass(6), None);
        assert_eq!(throttle.pass(SECOND + 4), None);
        assert_eq!(throttle.pass(SECOND + 5), Some(2));
        // A clock that another thread has read earlier.
        assert_eq!(throttle.pass(7), None);
        assert_eq!(throttle.pass(2 * SECOND + 5), Some(1));
    }

    #[test]
    fn one_of_those_that_come_at_the_same_moment_passes() {
        let throttle = ThrottlePage::default();
        let passed = || u64::from(throttle.pass(0).is_some());
        let total: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(passed)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 1);
        assert_eq!(throttle.pass(SECOND), Some(7));
    }
}
