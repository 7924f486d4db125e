//! Deadlines of coroutines. One entry for each at most, moved only when
//! it comes up too early, so that setting a deadline before each read costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Entries sorted by when they come up; each names the coroutine that it wakes.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }
}

impl<K: Ord> Timers<K> {
    pub(crate) fn push(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    /// When the first entry comes up.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out the first entry if it has come up.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        if self.first()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn entries_come_up_in_order_and_not_before() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for ms in [30, 10, 20] {
            timers.push(at(ms), ms);
        }
        assert_eq!(timers.first(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(
            (timers.pop(at(25)), timers.pop(at(25)), timers.pop(at(25))),
            (Some(10), Some(20), None)
        );
        assert_eq!(timers.first(), Some(at(30)));
    }
}
