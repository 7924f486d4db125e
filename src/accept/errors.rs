//! What to do about an error of the acceptor: the table and the growing delay.

use std::io;
use std::time::{Duration, Instant};

use crate::observe::hooks::Reaction;

/// What an error of accept(2), recvmmsg(2), fork(2) or of a thread's creation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing is waiting.
    Nothing,
    /// A signal came first.
    Interrupted,
    /// The error is that of one request, and gone with it.
    Request,
    /// Descriptors, memory, threads or processes are exhausted.
    Exhausted,
    /// The listener is broken.
    Fatal,
}

/// Classifies by accept(2), "ERRORS" and "Linux accept() passes already-pending network errors";
/// recv(2); fork(2).
pub(crate) fn classify(err: &io::Error) -> Class {
    match err.raw_os_error() {
        Some(libc::EAGAIN) => Class::Nothing,
        Some(libc::EINTR) => Class::Interrupted,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Class::Exhausted,
        Some(libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK) => Class::Fatal,
        // ECONNABORTED, EPROTO, EPERM (a firewall), the network errors, and those of datagrams that
        // were sent before (ECONNREFUSED): the next call speaks of another request. Unknown ones
        // too: a listener is not given up lightly.
        Some(_) => Class::Request,
        None if err.kind() == io::ErrorKind::WouldBlock => Class::Nothing,
        None if err.kind() == io::ErrorKind::Interrupted => Class::Interrupted,
        None if err.kind() == io::ErrorKind::OutOfMemory => Class::Exhausted,
        // A transport of the user's own that has ended.
        None if err.kind() == io::ErrorKind::UnexpectedEof => Class::Fatal,
        None => Class::Request,
    }
}

const DELAY_MIN: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_secs(1);

/// The pause after something was exhausted: 5 ms, doubling up to 1 s until something succeeds.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    delay: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Begins a pause, longer than the one before.
    pub(crate) fn begin(&mut self) -> Reaction {
        self.delay = (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX);
        self.until = Some(Instant::now() + self.delay);
        Reaction::Retry(self.delay)
    }

    /// Ends the pause because something may have become free. The next one is longer still.
    pub(crate) const fn interrupt(&mut self) {
        self.until = None;
    }

    /// Forgets it all after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// What is left of the pause at `now`, if one is on.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until?
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }
}

/// What keeps a listener from being accepted from for a while.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    pub(crate) backoff: Backoff,
    /// How often something had been freed before the attempt that failed. Once it is more often,
    /// another attempt may succeed.
    releases: u64,
    /// How often in a row it was ready and yielded nothing.
    pub(crate) fruitless: u32,
}

impl Pause {
    /// Begins, because something was exhausted; `releases` is how often something had been freed
    /// before it was tried.
    pub(crate) fn begin(&mut self, releases: u64) -> Reaction {
        self.releases = releases;
        self.backoff.begin()
    }

    /// Ends if something has been freed since, in this process. What others free, or what nobody
    /// counts, is found when the pause is over.
    pub(crate) const fn end_if_released(&mut self, releases: u64) {
        if self.releases != releases {
            self.backoff.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(errno: i32, class: Class) {
        assert_eq!(
            classify(&io::Error::from_raw_os_error(errno)),
            class,
            "errno {errno}"
        );
    }

    #[test]
    fn every_row_of_the_table() {
        check(libc::EAGAIN, Class::Nothing);
        check(libc::EINTR, Class::Interrupted);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            check(errno, Class::Exhausted);
        }
        for errno in [libc::EBADF, libc::EFAULT, libc::EINVAL, libc::ENOTSOCK] {
            check(errno, Class::Fatal);
        }
        let one_request = [
            libc::ECONNABORTED,
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EPROTO,
            libc::EPERM,
            libc::ENETDOWN,
            libc::ENOPROTOOPT,
            libc::EHOSTDOWN,
            libc::ENONET,
            libc::EHOSTUNREACH,
            libc::EOPNOTSUPP,
            libc::ENETUNREACH,
            libc::ETIMEDOUT,
        ];
        for errno in one_request {
            check(errno, Class::Request);
        }
    }

    #[test]
    fn the_pause_doubles_to_a_second_and_starts_anew() {
        let mut backoff = Backoff::default();
        let before = Instant::now();
        assert_eq!(backoff.left(before), None);
        let pauses: Vec<_> = (0..10).map(|_| backoff.begin()).collect();
        let expected = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000];
        assert_eq!(
            pauses,
            expected.map(|ms| Reaction::Retry(Duration::from_millis(ms)))
        );
        assert!(backoff.left(before).is_some());
        backoff.interrupt();
        assert_eq!(backoff.left(Instant::now()), None);
        assert_eq!(backoff.begin(), Reaction::Retry(DELAY_MAX));
        backoff.reset();
        assert_eq!(backoff.begin(), Reaction::Retry(DELAY_MIN));
    }
}
