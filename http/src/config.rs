//! Limits and time limits of requests.

use std::time::Duration;

/// How long a connection waits for its next request where that holds up no other connection, before it parks.
/// Clients that send one request after the other are faster than that, and parking costs twice as much.
pub(crate) const LINGER: Duration = Duration::from_millis(100);

/// What a request may take at most. [`Http`](crate::Http) sets each.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) headers: usize,
    pub(crate) target_bytes: usize,
    pub(crate) body_bytes: u64,
    pub(crate) requests: u32,
    pub(crate) streams: u32,
    pub(crate) head_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 * 1024,
            headers: 100,
            target_bytes: 8 * 1024,
            body_bytes: 2 * 1024 * 1024,
            requests: 10_000,
            streams: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            request_timeout: None,
        }
    }
}
