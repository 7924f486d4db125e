//! The abort of a handler: ends, from any thread, its waits and those of the closures that it has spawned.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::sys::poll::Directions;
use crate::task::signal::Signal;
use crate::task::threads::Threads;

/// The connection or datagram of a handler, as its host identifies it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandlerId {
    pub(crate) id: u64,
    /// The registry slot plus one, or zero; only the host interprets it.
    pub(crate) slot: u32,
}

/// The server that runs a handler and can abort its connection or datagram.
pub(crate) trait Host: Send + Sync {
    /// Registers `abort`, to be fired when the connection or datagram is aborted; fires it at once if that
    /// has happened already.
    fn watch(self: Arc<Self>, handler: HandlerId, abort: &Arc<AbortSignal>);

    /// Removes the registration of [`watch`](Self::watch).
    fn forget(&self, handler: HandlerId);

    /// Notes that no future polls the connection in these directions any more: a wait in which one has polled it
    /// has ended.
    fn end_polls(&self, handler: HandlerId, polled: Directions);

    /// Returns the threads that run the scopes of handlers that are not coroutines.
    fn threads(&self) -> &Threads;
}

/// Whether a handler was aborted, and the tasks that an abort interrupts.
#[derive(Default)]
pub(crate) struct AbortSignal {
    why: OnceLock<&'static str>,
    tasks: Mutex<Vec<Arc<Signal>>>,
}

impl AbortSignal {
    /// Fires: ends the current and all later waits of the tasks.
    pub(crate) fn abort(&self, why: &'static str) {
        // Only the first reason is stored.
        let _ = self.why.set(why);
        // `interrupt` must not run under the lock.
        let tasks = self.tasks().clone();
        for task in tasks {
            task.interrupt();
        }
    }

    /// Returns the reason if the handler was aborted.
    pub(crate) fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// Adds a task to those that an abort interrupts. The caller checks [`why`](Self::why) afterwards, so
    /// that an earlier abort is not missed.
    pub(crate) fn join(&self, task: &Arc<Signal>) {
        self.tasks().push(Arc::clone(task));
    }

    /// Removes a task that [`join`](Self::join) has added.
    pub(crate) fn leave(&self, task: &Arc<Signal>) {
        let mut tasks = self.tasks();
        if let Some(index) = tasks.iter().position(|other| Arc::ptr_eq(other, task)) {
            tasks.swap_remove(index);
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Arc<Signal>>> {
        // Poisoning is ignored: a panic cannot leave the vector inconsistent.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AbortSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortSignal")
            .field("why", &self.why())
            .field("tasks", &self.tasks().len())
            .finish()
    }
}
