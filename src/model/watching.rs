//! Children that could not be watched when they were forked, because no pidfd was to be had: it is
//! tried again.

use std::io;
use std::time::{Duration, Instant};

use crate::accept::errors::Backoff;
use crate::sys::child::Child;

/// When to try again.
#[derive(Debug, Default)]
pub(super) struct Watching(Backoff);

impl Watching {
    /// Tries again for those of `children` that are not watched, if it is time to.
    ///
    /// # Errors
    ///
    /// Why one is still not watched; it is tried again after [`due`](Self::due).
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

    /// How long until it is tried again; `None` while all are watched.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        self.0.left(now)
    }

    /// Tries again at once: a child has ended, and its descriptor is free.
    pub(super) const fn hurry(&mut self) {
        self.0.interrupt();
    }
}
