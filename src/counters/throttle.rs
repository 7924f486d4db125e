//! A throttle for reports: one a second, over all processes of a server.

use crate::sys::memory::shareable;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SECOND: u64 = 1_000_000_000;

/// Lets one report a second pass, from any process, and counts the reports that it holds back. Lies
/// in shared memory; all zero at first.
#[derive(Debug, Default)]
pub(crate) struct ThrottlePage {
    /// When the next report may pass, in nanoseconds since the server's origin.
    next: AtomicU64,
    held_back: AtomicU64,
}

shareable!(ThrottlePage { next, held_back });

impl ThrottlePage {
    /// Returns the number of reports held back since the last one that passed, if this one may pass
    /// at `now_nanos`, in nanoseconds since the server's origin.
    pub(crate) fn pass(&self, now_nanos: u64) -> Option<u64> {
        let next = self.next.load(Relaxed);
        let later = now_nanos.saturating_add(SECOND);
        // If two processes report at the same moment, one of them changes the time, and passes.
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
        // Another thread has read its clock earlier.
        assert_eq!(throttle.pass(7), None);
        assert_eq!(throttle.pass(2 * SECOND + 5), Some(1));
    }

    #[test]
    fn one_of_several_reports_at_the_same_moment_passes() {
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
