//! Sessions: the value that a handler keeps with its connection from one call to the next.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A session of any type.
pub(crate) type AnySession = Box<dyn Any + Send>;

/// The slot of a connection's session while its handler does not run. Empty for handlers without
/// sessions.
///
/// One thread at a time has the connection, and hands it on under a lock, so relaxed loads and
/// stores are enough for the flags.
#[derive(Debug, Default)]
pub(crate) struct SessionSlot {
    session: Mutex<Option<AnySession>>,
    /// Whether the slot has a session, readable without the lock.
    kept: AtomicBool,
    /// The server has ended the connection: only `finish` is left to be called.
    over: AtomicBool,
}

impl SessionSlot {
    pub(super) const fn new() -> Self {
        Self {
            session: Mutex::new(None),
            kept: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    pub(crate) fn keep(&self, session: AnySession) {
        *self.session() = Some(session);
        self.kept.store(true, Relaxed);
    }

    pub(crate) fn take(&self) -> Option<AnySession> {
        if !self.kept.swap(false, Relaxed) {
            return None;
        }
        self.session().take()
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }

    /// Marks the session so that only `finish` is called. Returns whether there is a session.
    pub(crate) fn end(&self) -> bool {
        let kept = self.is_kept();
        if kept {
            self.over.store(true, Relaxed);
        }
        kept
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn session(&self) -> MutexGuard<'_, Option<AnySession>> {
        // A panic leaves the option whole.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionSlot {
    /// Drops the session of an aborted connection. Its destructor is user code, and may run on the
    /// accepting thread, so a panic in it is caught; the panic hook has reported it.
    fn drop(&mut self) {
        if let Some(session) = self.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
        }
    }
}
