//! Waiting for changes without an event: the one place where a test polls.
//!
//! All other changes reach the test through a channel, a gate, an observer, a state or a pidfd.
//! Some are in the kernel alone: the descriptors and children of another process in /proc, and
//! whether a port whose server was killed still accepts connections.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The time between two polls, so that polling does not take the processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `check` until it returns a value. Fails at the deadline.
#[track_caller]
pub(crate) fn poll_until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    let (_keep, never) = channel::<()>();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        let _ = never.recv_timeout(PAUSE);
    }
}
