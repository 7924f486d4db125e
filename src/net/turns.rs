//! Turns to write to a connection that has several writers.

use std::io;
use std::pin::pin;
use std::time::Duration;

use async_lock::{Mutex, MutexGuard};

use crate::task::timeout::timeout;
use crate::task::wait::until;

/// Whose turn it is to write. A turn may last as long as the peer is slow.
#[derive(Default)]
pub(crate) struct Turns(Mutex<()>);

/// A turn, which ends when it is dropped.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

impl Turns {
    /// Takes the turn if it is free.
    pub(crate) fn try_take(&self) -> Option<Turn<'_>> {
        self.0.try_lock()
    }

    /// Waits for the turn, for `limit` at most.
    ///
    /// # Errors
    ///
    /// - `TimedOut`: the limit has passed.
    /// - else as [`until`].
    pub(crate) fn take(&self, limit: Option<Duration>) -> io::Result<Turn<'_>> {
        if let Some(turn) = self.try_take() {
            return Ok(turn);
        }
        let mut turn = pin!(self.0.lock());
        let mut wait = || until(|cx| turn.as_mut().poll(cx));
        match limit {
            Some(limit) => timeout(limit, wait),
            None => wait(),
        }
    }
}
