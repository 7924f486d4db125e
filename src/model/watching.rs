//! Child processes without a pidfd, because none could be opened when they were forked: opening is
//! tried again.

use std::io;
use std::time::{Duration, Instant};

use crate::accept::errors::Backoff;
use crate::sys::child::Child;

/// When to try again.
#[derive(Debug, Default)]
pub(super) struct Watching(Backoff);

impl Watching {
    /// Opens the missing pidfds of `children`, if a retry is due.
    ///
    /// # Errors
    ///
    /// A pidfd could not be opened; the next retry comes after [`due`](Self::due).
    pub(super) fn retry<'a>(
        &mut self,
        mut children: impl Iterator<Item = &'a mut Child>,
        now: Instant,
    ) -> io::Result<()> {
        if self.due(now).is_some() {
            return Ok(());
        }
        let watched = children.try_for_each(Child::watch);
        match &watched {
            Ok(()) => self.0.reset(),
            Err(_) => {
                self.0.begin();
            }
        }
        watched
    }

    /// Returns how long until the next retry; `None` while every child has a pidfd.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        self.0.left(now)
    }

    /// Retries at the next call: a child has ended and its descriptor is free.
    pub(super) const fn retry_now(&mut self) {
        self.0.interrupt();
    }
}
