//! Lines that clients can cause without end: so many a second, from all processes of a server together.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::log::say;
use crate::shared::{Words, now};

/// Milliseconds.
const SECOND: u64 = 1000;

/// Lets so many lines a second pass, and holds the count of what did not. Made before the server forks.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// How long a line takes of its second.
    interval: u64,
    /// How much time lines may take at once.
    burst: u64,
    /// When the last line that has passed is paid for, on the clock of [`now`], and what is to be reported.
    words: Words,
}

impl Throttle {
    /// One line a second.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Self::of(1)
    }

    /// So many lines a second, and as many at once after a quiet time.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub(crate) fn of(lines: u64) -> rustix::io::Result<Self> {
        Ok(Self {
            interval: SECOND / lines,
            burst: SECOND,
            words: Words::new(2)?,
        })
    }

    fn paid(&self) -> &AtomicU64 {
        &self.words[0]
    }

    fn held(&self) -> &AtomicU64 {
        &self.words[1]
    }

    /// Whether a line may pass now.
    pub(crate) fn passes(&self) -> bool {
        self.passes_at(now())
    }

    fn passes_at(&self, now: u64) -> bool {
        let one_more = |paid| self.one_more(paid, now);
        self.paid().fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// When one more line is paid for, if it may pass.
    fn one_more(&self, paid: u64, now: u64) -> Option<u64> {
        let paid = paid.max(now) + self.interval;
        (paid <= now + self.burst).then_some(paid)
    }

    /// Counts what is to be reported.
    pub(crate) fn hold(&self, count: u64) {
        self.held().fetch_add(count, Relaxed);
    }

    /// Takes the count, to report it, if there is one and a line may pass now.
    pub(crate) fn take(&self) -> Option<u64> {
        let is_due = self.held().load(Relaxed) > 0 && self.passes();
        let count = is_due.then(|| self.held().swap(0, Relaxed));
        count.filter(|count| *count > 0)
    }

    /// Writes a line, with the number of those that were held back before it, or holds it back. Returns which.
    pub(crate) fn say(&self, line: fmt::Arguments<'_>) -> bool {
        self.hold(1);
        let count = self.take();
        match count {
            None => {}
            Some(1) => say(line),
            Some(count) => say(format_args!(
                "{line} ({} more since the last report)",
                count - 1
            )),
        }
        count.is_some()
    }
}

/// A trouble that comes and goes: a line says that it has come, once a second at most and twice at once, and another one that it
/// has gone. Made before the server forks.
#[derive(Debug)]
pub(crate) struct Trouble {
    throttle: Throttle,
    /// Whether the last line says that it has come.
    said: Words,
}

impl Trouble {
    /// # Errors
    ///
    /// As mmap(2).
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let mut throttle = Throttle::new()?;
        throttle.burst = 2 * SECOND;
        let said = Words::new(1)?;
        Ok(Self { throttle, said })
    }

    /// Writes a line that it has come, unless the last line says so.
    pub(crate) fn has_come(&self, line: fmt::Arguments<'_>) {
        if self.said[0].load(Relaxed) != 0 {
            self.throttle.hold(1);
        } else if self.throttle.say(line) {
            self.said[0].store(1, Relaxed);
        }
    }

    /// Whether a line is to say that it has gone: the last one says that it has come, and another one that it has come
    /// again could follow at once.
    pub(crate) fn has_gone(&self) -> bool {
        self.has_gone_at(now())
    }

    fn has_gone_at(&self, now: u64) -> bool {
        let (said, paid) = (&self.said[0], self.throttle.paid());
        said.load(Relaxed) != 0
            && self.throttle.one_more(paid.load(Relaxed), now).is_some()
            && said.swap(0, Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a hundred lines pass at a time.
    fn passed(throttle: &Throttle, now: u64) -> usize {
        (0..100).filter(|_| throttle.passes_at(now)).count()
    }

    #[test]
    fn so_many_lines_pass_in_a_second() {
        let one = Throttle::new().unwrap();
        assert_eq!(
            [5, 1004, 1005, 9000].map(|at| passed(&one, at)),
            [1, 0, 1, 1]
        );
        // Another thread has read its clock earlier.
        assert_eq!(passed(&one, 8000), 0);
        let ten = Throttle::of(10).unwrap();
        assert_eq!(
            [0, 99, 100, 500, 9000].map(|at| passed(&ten, at)),
            [10, 0, 1, 4, 10]
        );
    }

    #[test]
    fn what_has_gone_could_be_said_to_come_again() {
        let trouble = Trouble::new().unwrap();
        assert!(!trouble.has_gone_at(5), "it has not come");
        for (at, gone) in [(5, true), (100, false), (1004, false), (1005, true)] {
            if trouble.said[0].load(Relaxed) == 0 {
                assert!(trouble.throttle.passes_at(at), "{at}");
                trouble.said[0].store(1, Relaxed);
            }
            assert_eq!(trouble.has_gone_at(at), gone, "{at}");
        }
    }

    #[test]
    fn what_is_held_is_taken_once() {
        let throttle = Throttle::new().unwrap();
        assert_eq!(throttle.take(), None);
        throttle.hold(2);
        throttle.hold(3);
        assert_eq!(throttle.take(), Some(5));
        assert_eq!(throttle.take(), None);
        throttle.hold(1);
        assert_eq!(throttle.held().load(Relaxed), 1);
    }
}
