//! What stays of a connection while it is parked.

use std::time::{Duration, Instant};

use crate::h2::H2;

/// The state of a connection between two calls of its handler.
#[derive(Debug)]
pub(crate) struct Session<S> {
    /// The beginning of a head whose rest has not come.
    pub(crate) head: Vec<u8>,
    /// Since when the connection waits for a request, or for the rest of a head.
    pub(crate) since: Option<Instant>,
    pub(crate) requests: u32,
    /// The session of the program's handler.
    pub(crate) state: S,
    /// The connection speaks HTTP/2.
    pub(crate) h2: Option<Box<H2>>,
}

impl<S: Default> Default for Session<S> {
    fn default() -> Self {
        Self {
            head: Vec::new(),
            since: None,
            requests: 0,
            state: S::default(),
            h2: None,
        }
    }
}

impl<S> Session<S> {
    /// What is left of a time limit that began with the wait.
    pub(crate) fn left(&mut self, limit: Duration) -> Duration {
        let since = *self.since.get_or_insert_with(Instant::now);
        limit.saturating_sub(since.elapsed())
    }
}
