//! What handlers wait for and run beside their connections, and how an abort of those reaches it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::registry::Registry;
use crate::registry::table::AbortReason;
use crate::task::abort::{AbortSignal, Host, Request};
use crate::task::threads::{Limits, Threads};
use crate::task::wait::Wakeup;

/// The most threads on which the handlers of one process of a server run things side by side.
const THREADS: usize = 1024;

/// The waits of the handlers of this process that an abort of their connection does not end by itself.
pub(super) struct Waits {
    aborts: Mutex<Aborts>,
    threads: Threads,
    /// In a child that has no accept loop: whether its thread for aborts runs.
    is_watched: AtomicBool,
}

#[derive(Debug, Default)]
struct Aborts {
    /// By the numbers of the requests; with the slots of their connections.
    of: HashMap<u64, (u32, Arc<AbortSignal>)>,
    /// The deadline has come: what begins to wait is aborted at once.
    over: Option<AbortReason>,
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
            .of
            .get(&id)
            .map(|(_, abort)| Arc::clone(abort));
        if let Some(abort) = abort {
            abort.abort(reason.text());
        }
    }

    /// Aborts what waits now, and what will.
    pub(super) fn abort_all(&self, reason: AbortReason) {
        let all: Vec<_> = {
            let mut aborts = self.aborts();
            aborts.over = Some(reason);
            aborts
                .of
                .values()
                .map(|(_, abort)| Arc::clone(abort))
                .collect()
        };
        for abort in all {
            abort.abort(reason.text());
        }
    }

    fn aborts(&self) -> MutexGuard<'_, Aborts> {
        // A map is whole after any panic of its own methods, and no other code runs under this lock.
        self.aborts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Ends the threads on which handlers have run something, and joins them if none `is_stuck`.
    pub(crate) fn finish_threads(&self, is_stuck: bool) {
        self.waits.threads.finish(is_stuck);
    }

    /// Why the connection of a request was aborted, if it was.
    fn reason_of(&self, id: u64, slot: u32) -> Option<AbortReason> {
        let slot = self.slot(slot.checked_sub(1)?);
        slot.abort_reason().filter(|_| slot.id() == id)
    }

    /// Has a thread look for aborts that another process has noted: the parent of this one, which has the
    /// accept loop.
    fn watch_parent(self: &Arc<Self>) {
        if self.waits.is_watched.swap(true, Relaxed) {
            return;
        }
        let registry = Arc::clone(self);
        let watch = move |wakeup: Wakeup| {
            // The process ends with its handler. Where waiting fails, the drain deadline kills it.
            while wakeup.wait(&[], None).is_ok() {
                let waits: Vec<_> = {
                    let aborts = registry.waits.aborts();
                    aborts
                        .of
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
        // As above, where there can be no thread.
        let _ = thread.stack_size(64 * 1024).spawn(move || watch(wakeup));
    }
}

impl Host for Registry {
    fn watch(self: Arc<Self>, request: Request, abort: &Arc<AbortSignal>) {
        let Request { id, slot } = request;
        let over = {
            let mut aborts = self.waits.aborts();
            aborts.of.insert(id, (slot, Arc::clone(abort)));
            aborts.over
        };
        if self.lifecycle.processes().is_child() {
            self.watch_parent();
        }
        // Whoever aborts it notes why first, and looks for what waits then.
        if let Some(reason) = over.or_else(|| self.reason_of(id, slot)) {
            abort.abort(reason.text());
        }
    }

    fn forget(&self, request: Request) {
        self.waits.aborts().of.remove(&request.id);
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
