//! The registry as the host of handlers: an abort of a connection ends the handler's other waits, and those of
//! its scopes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::registry::Registry;
use crate::registry::table::{AbortReason, Activity};
use crate::sys::clock::Millis;
use crate::sys::poll::Directions;
use crate::task::abort::{AbortSignal, HandlerId, Host};
use crate::task::threads::{Limits, Threads};
use crate::task::wait::Wakeup;

/// The most threads for the scopes of handlers, in one process of a server.
const THREADS: usize = 1024;

/// The abort signals of this process's handlers, for waits that shutting down the socket does not end, and the
/// threads of their scopes.
pub(super) struct Waits {
    aborts: Mutex<Aborts>,
    threads: Threads,
    /// In a child without an accept loop: whether the thread that watches for aborts runs.
    is_watched: AtomicBool,
}

#[derive(Debug, Default)]
struct Aborts {
    /// By the number of the connection or datagram; with its registry slot plus one.
    signals: HashMap<u64, (u32, Arc<AbortSignal>)>,
    /// Why all handlers were aborted, if they were: a new signal fires at once.
    all: Option<AbortReason>,
}

impl Default for Waits {
    fn default() -> Self {
        let limits = Limits {
            threads: THREADS,
            queue: 0,
            keep_alive: Some(Duration::from_secs(10)),
            stack_size: None,
        };
        Self {
            aborts: Mutex::default(),
            threads: Threads::new(limits, || {}),
            is_watched: AtomicBool::new(false),
        }
    }
}

impl Waits {
    pub(super) fn abort(&self, id: u64, reason: AbortReason) {
        let abort = self
            .aborts()
            .signals
            .get(&id)
            .map(|(_, abort)| Arc::clone(abort));
        if let Some(abort) = abort {
            abort.abort(reason.text());
        }
    }

    /// Aborts all handlers: their current waits and later ones.
    pub(super) fn abort_all(&self, reason: AbortReason) {
        let all: Vec<_> = {
            let mut aborts = self.aborts();
            aborts.all = Some(reason);
            aborts
                .signals
                .values()
                .map(|(_, abort)| Arc::clone(abort))
                .collect()
        };
        for abort in all {
            abort.abort(reason.text());
        }
    }

    fn aborts(&self) -> MutexGuard<'_, Aborts> {
        // Poisoning is ignored: no user code runs under this lock, and a panic cannot leave the map inconsistent.
        self.aborts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Ends the threads of the handlers' scopes, and joins them unless a handler `is_stuck`.
    pub(crate) fn finish_threads(&self, is_stuck: bool) {
        self.waits.threads.finish(is_stuck);
    }

    /// Returns why a connection or datagram was aborted, if it was.
    fn reason_of(&self, id: u64, slot: u32) -> Option<AbortReason> {
        let slot = self.slot(slot.checked_sub(1)?);
        slot.abort_reason().filter(|_| slot.id() == id)
    }

    /// Starts a thread that watches for aborts by the parent process, which has the accept loop. The parent
    /// notes them in the shared slots and fires the wake-up event.
    fn watch_parent(self: &Arc<Self>) {
        if self.waits.is_watched.swap(true, Relaxed) {
            return;
        }
        let registry = Arc::clone(self);
        let watch = move |wakeup: Wakeup| {
            // The process ends with its handler. If waiting fails, the parent kills it at the drain deadline.
            while wakeup.wait(Vec::new(), None).is_ok() {
                let waits: Vec<_> = {
                    let aborts = registry.waits.aborts();
                    aborts
                        .signals
                        .iter()
                        .map(|(id, (slot, _))| (*id, *slot))
                        .collect()
                };
                for (id, slot) in waits {
                    if let Some(reason) = registry.reason_of(id, slot) {
                        registry.waits.abort(id, reason);
                    }
                }
            }
        };
        let Ok(wakeup) = Wakeup::new(self.lifecycle.wakeup_event(), None) else {
            return;
        };
        let thread = thread::Builder::new().name("socketserver-abort".to_owned());
        // If the thread cannot start, the parent kills this process at the drain deadline.
        let _ = thread.stack_size(64 * 1024).spawn(move || watch(wakeup));
    }
}

impl Host for Registry {
    fn watch(self: Arc<Self>, handler: HandlerId, abort: &Arc<AbortSignal>) {
        let HandlerId { id, slot } = handler;
        let all = {
            let mut aborts = self.waits.aborts();
            aborts.signals.insert(id, (slot, Arc::clone(abort)));
            aborts.all
        };
        if self.lifecycle.processes().is_child() {
            self.watch_parent();
        }
        // An abort stores its reason, then looks for the signal; this code stores the signal, then looks for
        // the reason.
        if let Some(reason) = all.or_else(|| self.reason_of(id, slot)) {
            abort.abort(reason.text());
        }
    }

    fn forget(&self, handler: HandlerId) {
        self.waits.aborts().signals.remove(&handler.id);
    }

    fn end_polls(&self, handler: HandlerId, polled: Directions) {
        let Some(index) = handler.slot.checked_sub(1) else {
            return;
        };
        let (slot, now) = (self.slot(index), Millis::now());
        if slot.id() == handler.id {
            if polled.read && slot.activity().0 == Activity::Reading {
                slot.enter(Activity::Running, now);
            }
            if polled.write {
                slot.leave_write();
            }
        }
    }

    fn threads(&self) -> &Threads {
        &self.waits.threads
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits")
            .field("aborts", &self.aborts())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::context::tests::registered;
    use crate::sys::poll::Interest;

    #[test]
    fn a_write_goes_on_waiting_in_the_next_wait() {
        let (shared, context) = registered();
        let slot = context.slot().unwrap();
        let end_polls = || {
            let polled = Directions::default().with(Interest::Write);
            shared.registry.end_polls(context.handler_id(), polled);
            assert_eq!(slot.writing(), None, "the handler runs");
        };
        let long_ago = Millis(Millis::now().0 - 1000);
        slot.begin_write(long_ago);
        for _ in 0..2 {
            end_polls();
            context.begin_write();
            assert_eq!(slot.writing(), Some(long_ago));
        }
        end_polls();
        context.end_write(1);
        context.begin_write();
        assert!(slot.writing() > Some(long_ago), "something has moved");
    }
}
