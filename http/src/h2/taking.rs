//! Whether a client goes on taking output, while a response waits for room.
//!
//! The kernel reports room only after the client has taken much, and a response gets it only after those before it. A
//! client that took less is reading all the same, which the count of unsent bytes shows. Only the task of the
//! connection can look at that; it does while a response asks.

use std::time::{Duration, Instant};

/// What the looks at the output of a connection have seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taking {
    /// How many bytes were ever sent, and how many of them the client has not taken.
    total: u64,
    unsent: u64,
    /// Whether there was output that the kernel had not taken.
    waits: bool,
    /// When a look has last found that the client has taken something since the one before.
    moved: Option<Instant>,
    looked: Option<Instant>,
}

impl Taking {
    /// Notes a look. `waits`: whether there is output that the kernel has not taken.
    pub(crate) fn note(&mut self, total: u64, unsent: u64, waits: bool, now: Instant) {
        // The kernel takes more where it has room, as answers to frames that the client sends meanwhile; and what it has
        // sent at once is no progress of what waits.
        let has_taken = self.unsent > 0 && total.saturating_sub(unsent) > self.taken();
        if has_taken || self.waits && total > self.total {
            self.moved = Some(now);
        }
        (self.total, self.unsent, self.looked) = (total, unsent, Some(now));
        self.waits = waits;
    }

    /// How many bytes the client has taken.
    const fn taken(&self) -> u64 {
        self.total.saturating_sub(self.unsent)
    }
}

/// For how long a client has taken nothing that lies before the next frame of a response.
#[derive(Debug)]
pub(crate) struct Stuck {
    since: Instant,
    /// How many bytes of others may lie before the response, and where it is on in any case.
    others: u64,
    end: Option<u64>,
}

impl Stuck {
    pub(crate) const fn new(others: u64, now: Instant) -> Self {
        Self {
            since: now,
            others,
            end: None,
        }
    }

    /// Returns how long that was at the last look.
    pub(crate) fn at(&mut self, seen: &Taking) -> Duration {
        let Some(looked) = seen.looked.filter(|looked| *looked >= self.since) else {
            return Duration::ZERO;
        };
        let end = *self.end.get_or_insert(seen.total + self.others);
        if seen.taken() < end {
            self.since = seen.moved.map_or(self.since, |moved| moved.max(self.since));
        }
        looked.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest that a response is found stuck. A look a second sees the total and the unsent bytes.
    fn stuck(looks: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let start = Instant::now();
        let (mut taking, mut stuck) = (Taking::default(), Stuck::new(1000, start));
        let times = (1..).map(|second| start + Duration::from_secs(second));
        let waits = looks.into_iter().zip(times).map(|((total, unsent), now)| {
            taking.note(total, unsent, false, now);
            stuck.at(&taking).as_secs()
        });
        waits.max().unwrap_or_default()
    }

    #[test]
    fn takes_a_little() {
        // The first look has nothing to compare with.
        assert_eq!(stuck((0..60).map(|at| (5000, 3000 - at))), 1);
        assert_eq!(stuck((0..60).map(|at| (5000 + at, 3000))), 1);
        assert_eq!(stuck((0..60).map(|at| (5000, 3000 - at / 10))), 10);
    }

    #[test]
    fn takes_nothing() {
        assert_eq!(stuck([(5000, 3000); 60]), 60);
    }

    #[test]
    fn takes_nothing_and_sends() {
        // Answers lie behind what it does not take.
        assert_eq!(stuck((0..60).map(|at| (5000 + at, 3000 + at))), 60);
    }

    #[test]
    fn takes_what_is_not_known() {
        let now = Instant::now();
        let mut taking = Taking::default();
        taking.note(5000, 0, true, now);
        taking.note(5001, 0, true, now);
        assert_eq!(taking.moved, Some(now));
    }

    #[test]
    fn has_taken_all() {
        assert_eq!(stuck([(5000, 0); 60]), 60);
        // Short answers, which it takes at once.
        assert_eq!(stuck((0..60).map(|at| (5000 + at, 0))), 60);
    }

    #[test]
    fn takes_others_alone() {
        let looks = (0..60).map(|at| (5000 + 100 * at, 1));
        assert_eq!(stuck(looks), 49);
    }

    #[test]
    fn nobody_has_looked() {
        let now = Instant::now();
        let mut old = Taking::default();
        assert_eq!(Stuck::new(0, now).at(&old), Duration::ZERO);
        old.note(5000, 3000, false, now);
        let later = now + Duration::from_secs(60);
        assert_eq!(Stuck::new(0, later).at(&old), Duration::ZERO);
    }
}
