//! Reloads: who has asked for one, who carries it out, and whether it is over.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use crate::sys::memory::shareable;

/// The reloads of a server, in the memory that its processes share. Each word is the number of the last one: all zero at
/// first.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    asked: AtomicU32,
    /// Known to the service manager, so that a worker process may carry it out. Without workers it stays zero.
    announced: AtomicU32,
    taken: AtomicU32,
    done: AtomicU32,
}

shareable!(Reloads {
    asked,
    announced,
    taken,
    done
});

impl Reloads {
    /// Asks for a reload. Async-signal-safe.
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, SeqCst);
    }

    /// Whether everything that was asked for is announced.
    pub(super) fn is_announced(&self) -> bool {
        self.announced.load(SeqCst) == self.asked.load(SeqCst)
    }

    /// Announces everything that was asked for.
    pub(super) fn announce(&self) {
        self.announced.store(self.asked.load(SeqCst), SeqCst);
    }

    /// Whether everything that was announced is over.
    pub(super) fn is_over(&self) -> bool {
        self.done.load(SeqCst) == self.announced.load(SeqCst)
    }

    /// Takes everything that was asked for, or in a worker process announced, unless a reload goes on. The caller has
    /// to carry it out.
    pub(super) fn take(&self, is_worker: bool) -> Option<u32> {
        let due = match is_worker {
            true => self.announced.load(SeqCst),
            false => self.asked.load(SeqCst),
        };
        let done = self.done.load(SeqCst);
        // The plain loads spare the common case a write.
        if due == done {
            return None;
        }
        let taken = self.taken.compare_exchange(done, due, SeqCst, SeqCst);
        taken.is_ok().then_some(due)
    }

    /// Ends a reload that was taken.
    pub(super) fn finish(&self, taken: u32) {
        self.done.store(taken, SeqCst);
    }

    /// Lets another process take what a process that has ended may have taken.
    pub(super) fn give_back(&self) {
        self.taken.store(self.done.load(SeqCst), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reload_is_carried_out_at_a_time_and_answers_all_requests_before_it() {
        let reloads = Reloads::default();
        assert_eq!(reloads.take(false), None);
        reloads.ask();
        reloads.ask();
        let first = reloads.take(false).unwrap();
        assert_eq!(reloads.take(false), None, "it goes on");
        reloads.ask();
        assert_eq!(reloads.take(false), None, "it still goes on");
        reloads.finish(first);
        let second = reloads.take(false).unwrap();
        reloads.finish(second);
        assert_eq!((first, second), (2, 3));
        assert_eq!(reloads.take(false), None);
    }

    #[test]
    fn a_worker_takes_what_was_announced_and_another_one_takes_what_it_leaves() {
        let reloads = Reloads::default();
        reloads.ask();
        assert!(!reloads.is_announced() && reloads.is_over());
        assert_eq!(reloads.take(true), None);
        reloads.announce();
        assert!(reloads.is_announced() && !reloads.is_over());
        assert_eq!(reloads.take(true), Some(1));
        assert_eq!(reloads.take(true), None);
        reloads.give_back();
        assert_eq!(reloads.take(true), Some(1));
        reloads.finish(1);
        reloads.give_back();
        assert!(reloads.is_over());
        assert_eq!(reloads.take(true), None);
    }
}
