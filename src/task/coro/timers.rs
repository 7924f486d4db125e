//! The deadlines of coroutines. A coroutine that sets a later deadline leaves its entry in place; the worker moves
//! the entry when it expires too early. So a deadline before each read costs nearly nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A queue of entries, the earliest first; each names the coroutine that it wakes.
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

    /// Returns the time of the first entry.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes and returns the first entry if it has expired.
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
    fn entries_expire_in_order_and_not_before_their_time() {
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
