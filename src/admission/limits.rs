//! The limits in force, in memory that all processes of a server share.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use crate::admission::policy::{AtLimit, Limits, Rate};
use crate::sys::memory::shareable;

const WORDS: usize = AtLimit::MESSAGE_MAX / 8;

/// See the module's documentation. Zero means no limit.
#[derive(Debug, Default)]
pub(crate) struct LimitsPage {
    max_connections: AtomicU64,
    per_address: AtomicU64,
    per_user: AtomicU64,
    /// The interval between two connections at the rate, in nanoseconds.
    interval: AtomicU64,
    burst: AtomicU64,
    /// When the token bucket will be full again, in nanoseconds since the server's origin.
    full_at: AtomicU64,
    at_limit: AtomicU32,
    /// Odd while the message is being changed.
    version: AtomicU32,
    message_len: AtomicU32,
    message: [AtomicU64; WORDS],
}

shareable!(LimitsPage {
    max_connections,
    per_address,
    per_user,
    interval,
    burst,
    full_at,
    at_limit,
    version,
    message_len,
    message
});

const WAIT: u32 = 0;
const REFUSE: u32 = 1;
const REFUSE_WITH: u32 = 2;
const SHED: u32 = 3;

/// How many times the message is read while a writer changes it. A write takes less than a
/// microsecond, unless the writer was killed.
const MESSAGE_READS: usize = 1000;

impl LimitsPage {
    pub(crate) fn set(&self, limits: &Limits) {
        if let AtLimit::RefuseWith(message) = &limits.at_limit {
            self.set_message(message);
        }
        let rate = limits.rate;
        let interval = rate.map_or(0, |rate| nanos(rate.interval));
        self.burst
            .store(rate.map_or(0, |rate| u64::from(rate.burst)), Relaxed);
        self.interval.store(interval, Relaxed);
        self.per_address
            .store(limits.per_address.unwrap_or_default(), Relaxed);
        self.per_user
            .store(limits.per_user.unwrap_or_default(), Relaxed);
        let at_limit = match limits.at_limit {
            AtLimit::Wait => WAIT,
            AtLimit::Refuse => REFUSE,
            AtLimit::RefuseWith(_) => REFUSE_WITH,
            AtLimit::ShedOldestIdle => SHED,
        };
        self.at_limit.store(at_limit, Release);
        self.max_connections.store(limits.max_connections, SeqCst);
    }

    pub(crate) fn get(&self) -> Limits {
        let interval = self.interval.load(Relaxed);
        let rate = Rate {
            interval: Duration::from_nanos(interval),
            burst: self.burst.load(Relaxed) as u32,
        };
        Limits {
            max_connections: self.max_connections(),
            per_address: self.per_address(),
            per_user: self.per_user(),
            rate: (interval != 0).then_some(rate),
            at_limit: match self.at_limit.load(Acquire) {
                WAIT => AtLimit::Wait,
                REFUSE => AtLimit::Refuse,
                REFUSE_WITH => AtLimit::RefuseWith(self.message()),
                _ => AtLimit::ShedOldestIdle,
            },
        }
    }

    pub(crate) fn max_connections(&self) -> u64 {
        self.max_connections.load(SeqCst)
    }

    pub(crate) fn per_address(&self) -> Option<u64> {
        Some(self.per_address.load(Relaxed)).filter(|limit| *limit > 0)
    }

    pub(crate) fn per_user(&self) -> Option<u64> {
        Some(self.per_user.load(Relaxed)).filter(|limit| *limit > 0)
    }

    pub(crate) fn refuses(&self) -> bool {
        matches!(self.at_limit.load(Acquire), REFUSE | REFUSE_WITH)
    }

    pub(crate) fn sheds(&self) -> bool {
        self.at_limit.load(Acquire) == SHED
    }

    /// The message to peers that are refused; empty if there is none.
    pub(crate) fn refusal(&self) -> Vec<u8> {
        if self.at_limit.load(Acquire) == REFUSE_WITH {
            self.message()
        } else {
            Vec::new()
        }
    }

    pub(crate) fn has_rate(&self) -> bool {
        self.interval.load(Relaxed) != 0
    }

    /// Takes up to `want` tokens of the rate at `now`, in nanoseconds since the origin. Returns how
    /// many.
    pub(crate) fn take_tokens(&self, want: u64, now: u64) -> u64 {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return want;
        }
        let room = interval.saturating_mul(self.burst.load(Relaxed));
        let grant = |full_at: u64| {
            let left = room.saturating_sub(full_at.saturating_sub(now));
            want.min(left / interval)
        };
        let update = |full_at: u64| {
            Some(
                full_at
                    .max(now)
                    .saturating_add(grant(full_at).saturating_mul(interval)),
            )
        };
        let (Ok(before) | Err(before)) = self.full_at.fetch_update(AcqRel, Acquire, update);
        grant(before)
    }

    /// Returns tokens that no connection has used.
    pub(crate) fn return_tokens(&self, count: u64) {
        let back = count.saturating_mul(self.interval.load(Relaxed));
        if back > 0 {
            let update = |full_at: u64| Some(full_at.saturating_sub(back));
            let _ = self.full_at.fetch_update(AcqRel, Acquire, update);
        }
    }

    /// The time until the rate has a token; zero if it has one.
    pub(crate) fn token_due(&self, now: u64) -> Duration {
        let interval = self.interval.load(Relaxed);
        let room = interval.saturating_mul(self.burst.load(Relaxed));
        let taken = self.full_at.load(Acquire).saturating_sub(now);
        Duration::from_nanos(taken.saturating_add(interval).saturating_sub(room))
    }

    fn set_message(&self, message: &[u8]) {
        let begin = |version: u32| Some((version | 1).wrapping_add(version & 1) | 1);
        let (Ok(before) | Err(before)) = self.version.fetch_update(AcqRel, Acquire, begin);
        self.message_len.store(message.len() as u32, Relaxed);
        for (word, bytes) in self.message.iter().zip(message.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Relaxed);
        }
        self.version.store((before | 1).wrapping_add(1), Release);
    }

    fn message(&self) -> Vec<u8> {
        for _ in 0..MESSAGE_READS {
            let version = self.version.load(Acquire);
            let len = self.message_len.load(Relaxed) as usize;
            let words = self
                .message
                .iter()
                .flat_map(|word| word.load(Relaxed).to_ne_bytes());
            let message: Vec<u8> = words.take(len).collect();
            std::sync::atomic::fence(Acquire);
            if version & 1 == 0 && self.version.load(Relaxed) == version {
                return message;
            }
            std::hint::spin_loop();
        }
        Vec::new()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_connections: 7,
            per_address: Some(2),
            per_user: Some(3),
            rate: Some(Rate::per(10, Duration::from_nanos(1000)).burst(3)),
            at_limit: AtLimit::RefuseWith(b"a message of more than one word".to_vec()),
        }
    }

    #[test]
    fn the_limits_that_were_set_are_in_force() {
        let page = LimitsPage::default();
        page.set(&limits());
        assert_eq!(page.get(), limits());
        assert_eq!(page.refusal(), b"a message of more than one word");
        let other = Limits {
            rate: None,
            per_address: None,
            per_user: None,
            at_limit: AtLimit::ShedOldestIdle,
            ..limits()
        };
        page.set(&other);
        assert_eq!((page.get(), page.refusal()), (other, Vec::new()));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let page = LimitsPage::default();
        page.set(&limits());
        assert_eq!(page.take_tokens(5, 1000), 3);
        assert_eq!(page.take_tokens(1, 1000), 0);
        assert_eq!(page.token_due(1000), Duration::from_nanos(100));
        assert_eq!(page.take_tokens(5, 1099), 0);
        assert_eq!(page.take_tokens(5, 1100), 1);
        page.return_tokens(1);
        assert_eq!(page.token_due(1100), Duration::ZERO);
        assert_eq!(page.take_tokens(5, 1350), 3);
        // A quiet time fills the bucket to its burst.
        assert_eq!(page.take_tokens(9, 1_000_000), 3);
    }
}
