//! Sessions: the value that a handler keeps with its connection from one call to the next.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::clock::Millis;

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
    /// When the handler wants to be called again although its parked connection has no input: the lower half of the
    /// time, and zero if never.
    alarm: AtomicU32,
}

impl SessionSlot {
    pub(super) const fn new() -> Self {
        Self {
            session: Mutex::new(None),
            kept: AtomicBool::new(false),
            over: AtomicBool::new(false),
            alarm: AtomicU32::new(0),
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

    /// Stores after which time the handler wants to be called again, if its parked connection has no input before:
    /// after 24 days at the latest.
    pub(crate) fn set_alarm(&self, duration: Option<Duration>) {
        let at = duration.map_or(0, |duration| {
            let rounded = duration.as_micros().div_ceil(1000);
            let delay = rounded.min(i32::MAX as u128) as u64;
            // Zero means that there is none.
            ((Millis::now().0 + delay) as u32).max(1)
        });
        self.alarm.store(at, Relaxed);
    }

    /// When the handler wants to be called again.
    pub(crate) fn alarm_at(&self) -> Option<Millis> {
        let alarm = self.alarm.load(Relaxed);
        let now = Millis::now().0;
        let left = alarm.wrapping_sub(now as u32) as i32;
        let at = now.saturating_add_signed(i64::from(left));
        (alarm != 0).then_some(Millis(at))
    }

    /// The time until the handler wants to be called again.
    pub(crate) fn alarm(&self) -> Option<Duration> {
        let left = self.alarm_at()?.since(Millis::now());
        Some(Duration::from_millis(left))
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
