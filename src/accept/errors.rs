//! The accept loop's reaction to errors: a table of error classes, and a delay that grows.

use std::io;
use std::time::{Duration, Instant};

use crate::observe::hooks::Reaction;

/// The class of an error of accept(2), recvmmsg(2), fork(2) or pthread_create(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// No connection or datagram is waiting.
    Nothing,
    /// A signal has interrupted the call.
    Interrupted,
    /// The error concerns one connection or datagram, which is gone.
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
        // ECONNABORTED, EPROTO, EPERM (a firewall), the network errors, and ECONNREFUSED for a
        // datagram that was sent before: the next call concerns another connection or datagram.
        // Unknown errors are in this class too, so that they do not close a listener.
        Some(_) => Class::Request,
        None if err.kind() == io::ErrorKind::WouldBlock => Class::Nothing,
        None if err.kind() == io::ErrorKind::Interrupted => Class::Interrupted,
        None if err.kind() == io::ErrorKind::OutOfMemory => Class::Exhausted,
        // A custom transport has ended.
        None if err.kind() == io::ErrorKind::UnexpectedEof => Class::Fatal,
        None => Class::Request,
    }
}

const DELAY_MIN: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_secs(1);

/// The pause after a resource was exhausted: 5 ms, doubled at each failure up to 1 s, until an
/// attempt succeeds.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    delay: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Begins a pause, longer than the last one.
    pub(crate) fn begin(&mut self) -> Reaction {
        self.delay = (self.delay * 2).clamp(DELAY_MIN, DELAY_MAX);
        self.until = Some(Instant::now() + self.delay);
        Reaction::Retry(self.delay)
    }

    /// Ends the pause because a resource may be free again. The next pause is longer all the same.
    pub(crate) const fn interrupt(&mut self) {
        self.until = None;
    }

    /// Resets the pause after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The rest of the pause at `now`; `None` outside a pause.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until?
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }
}

/// A pause of one listener, or of dispatching.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    pub(crate) backoff: Backoff,
    /// The count of releases before the attempt that failed. Once the count is higher, another
    /// attempt may succeed.
    releases: u64,
    /// How many times in a row the listener was ready and yielded nothing.
    pub(crate) empty: u32,
    /// The last turn of the listener has ended because nothing waited.
    pub(crate) drained: bool,
}

impl Pause {
    /// Begins a pause because a resource was exhausted; `releases` is the count of releases before
    /// the attempt.
    pub(crate) fn begin(&mut self, releases: u64) -> Reaction {
        self.releases = releases;
        self.backoff.begin()
    }

    /// Ends the pause if this process has released something since. Resources that another process
    /// frees, or that are not counted, are found when the pause is over.
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
