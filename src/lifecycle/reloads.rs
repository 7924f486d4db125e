//! Reloads: who has asked for one, who carries it out, and whether it is over.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::sys::memory::shareable;

/// The reloads of a server, in the memory that its processes share. Each word is the number of the last one: all zero at
/// first.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    asked: AtomicU32,
    /// Known to the service manager, so that a worker process may carry it out. Without workers it stays zero.
    announced: AtomicU32,
    /// A [`Taken`].
    taken: AtomicU64,
    done: AtomicU32,
}

/// The last reload that was taken, and by which process: the [number](super::processes::Processes::number) of a worker,
/// else 0.
#[derive(Clone, Copy, Debug)]
struct Taken {
    reload: u32,
    by: u16,
}

impl Taken {
    const fn unpack(word: u64) -> Self {
        Self {
            reload: word as u32,
            by: (word >> 32) as u16,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.by) << 32 | u64::from(self.reload)
    }
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

    /// Takes everything that was asked for, or in a worker process announced, unless a reload goes on. `process` is the
    /// number of a worker, else 0. The caller has to carry it out.
    pub(super) fn take(&self, process: u16) -> Option<u32> {
        let due = match process {
            0 => self.asked.load(SeqCst),
            _ => self.announced.load(SeqCst),
        };
        let done = self.done.load(SeqCst);
        // The plain loads spare the common case a write.
        if due == done {
            return None;
        }
        let before = self.taken.load(SeqCst);
        let is_free = Taken::unpack(before).reload == done;
        (is_free && self.replace(before, due, process)).then_some(due)
    }

    /// Ends a reload that was taken.
    pub(super) fn finish(&self, taken: u32) {
        self.done.store(taken, SeqCst);
    }

    /// Lets another process take what a worker that has ended had taken and not finished.
    pub(super) fn give_back(&self, worker: u16) {
        let before = self.taken.load(SeqCst);
        if Taken::unpack(before).by == worker {
            // A failure means that another process has taken the next one.
            self.replace(before, self.done.load(SeqCst), 0);
        }
    }

    fn replace(&self, before: u64, reload: u32, by: u16) -> bool {
        let taken = Taken { reload, by }.pack();
        let replaced = self.taken.compare_exchange(before, taken, SeqCst, SeqCst);
        replaced.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reload_is_carried_out_at_a_time_and_answers_all_requests_before_it() {
        let reloads = Reloads::default();
        assert_eq!(reloads.take(0), None);
        reloads.ask();
        reloads.ask();
        let first = reloads.take(0).unwrap();
        assert_eq!(reloads.take(0), None, "it goes on");
        reloads.ask();
        assert_eq!(reloads.take(0), None, "it still goes on");
        reloads.finish(first);
        let second = reloads.take(0).unwrap();
        reloads.finish(second);
        assert_eq!((first, second), (2, 3));
        assert_eq!(reloads.take(0), None);
    }

    #[test]
    fn a_worker_takes_what_was_announced_and_another_one_takes_what_it_leaves() {
        let reloads = Reloads::default();
        reloads.ask();
        assert!(!reloads.is_announced() && reloads.is_over());
        assert_eq!(reloads.take(3), None);
        reloads.announce();
        assert!(reloads.is_announced() && !reloads.is_over());
        assert_eq!(reloads.take(3), Some(1));
        assert_eq!(reloads.take(3), None);
        reloads.give_back(3);
        assert_eq!(reloads.take(3), Some(1));
        reloads.finish(1);
        reloads.give_back(3);
        assert!(reloads.is_over());
        assert_eq!(reloads.take(3), None);
    }
    #[test]
    fn the_end_of_a_worker_gives_back_no_reload_of_another_one() {
        let reloads = Reloads::default();
        reloads.ask();
        reloads.announce();
        assert_eq!(reloads.take(1), Some(1));
        reloads.give_back(2);
        assert_eq!(reloads.take(3), None, "the first one carries it out");
        reloads.finish(1);
        reloads.ask();
        reloads.announce();
        assert_eq!(reloads.take(3), Some(2));
        reloads.give_back(1);
        assert_eq!(reloads.take(2), None);
    }
}
