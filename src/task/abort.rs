//! What ends the waits of a handler, and of all that runs beside it, from another thread.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::task::signal::Signal;
use crate::task::threads::Threads;

/// The request of a handler, as its host knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    /// Where the host keeps it; it is the host that knows what this means.
    pub(crate) slot: u32,
}

/// Who runs handlers, and aborts their requests.
pub(crate) trait Host: Send + Sync {
    /// Has `abort` told once the request is aborted; at once if it has been.
    fn watch(self: Arc<Self>, request: Request, abort: &Arc<AbortSignal>);

    /// Ends that.
    fn forget(&self, request: Request);

    /// Runs what handlers do side by side, where no coroutine does.
    fn threads(&self) -> &Threads;
}

/// Whether a request was aborted, and which tasks wait for it.
#[derive(Default)]
pub(crate) struct AbortSignal {
    why: OnceLock<&'static str>,
    tasks: Mutex<Vec<Arc<Signal>>>,
}

impl AbortSignal {
    /// Ends the waits of all tasks, now and from now on.
    pub(crate) fn abort(&self, why: &'static str) {
        // The first reason stays.
        let _ = self.why.set(why);
        // No code of others runs under the lock.
        let tasks = self.tasks().clone();
        for task in tasks {
            task.interrupt();
        }
    }

    /// Why the waits fail, if they do.
    pub(crate) fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// Interrupts this task too. The caller looks at [`why`](Self::why) after that.
    pub(crate) fn join(&self, task: &Arc<Signal>) {
        self.tasks().push(Arc::clone(task));
    }

    /// Ends that.
    pub(crate) fn leave(&self, task: &Arc<Signal>) {
        let mut tasks = self.tasks();
        if let Some(place) = tasks.iter().position(|other| Arc::ptr_eq(other, task)) {
            tasks.swap_remove(place);
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Arc<Signal>>> {
        // A vector is whole after any panic of its own methods.
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
