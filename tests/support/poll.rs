//! Waiting for what raises no event: the one place where a test looks again and again.
//!
//! All else is told to the test, by a channel, a gate, an observer, a state or a pidfd. What is left
//! is in the kernel alone: the descriptors and children that /proc shows of another process, and
//! whether a port whose server was killed still takes connections in.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The time between two looks, so that a look does not take the processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is what is waited for, and fails when the time is over.
#[track_caller]
pub(crate) fn poll_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    let (_keep, never) = channel::<()>();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        let _ = never.recv_timeout(PAUSE);
    }
}
