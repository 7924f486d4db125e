//! Which of a server's processes this one is, and what its parent knows of each worker.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys::memory::{SharedMemory, shareable};

/// How many slots each worker has: one for the process that serves, and one for another that still
/// drains, or takes its place.
pub(crate) const SLOTS_OF_WORKER: usize = 2;

/// Memory that a worker process shares with its parent, all zero at first.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// The permits of the worker, packed as [`Admission`](crate::admission::Admission) has them.
    live: AtomicU64,
    /// Non-zero once the worker accepts connections.
    ready: AtomicU32,
    /// Non-zero once the worker has served one.
    served: AtomicU32,
    /// Non-zero once the worker is to end, and another one to take its place.
    leaving: AtomicU32,
}

shareable!(WorkerSlot {
    live,
    ready,
    served,
    leaving
});

impl WorkerSlot {
    pub(crate) const fn live(&self) -> &AtomicU64 {
        &self.live
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst) != 0
    }

    /// Forgets the process that it was for, which has ended.
    pub(crate) fn clear(&self) {
        self.ready.store(0, Ordering::SeqCst);
        self.served.store(0, Ordering::SeqCst);
        self.leaving.store(0, Ordering::SeqCst);
        self.live.store(0, Ordering::SeqCst);
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// Which slot is that of this process. Only in a worker.
    own: OnceLock<usize>,
    /// Those of all workers. In a server with worker processes.
    slots: OnceLock<SharedMemory<WorkerSlot>>,
    /// The process that forks others for the server; zero before.
    parent: AtomicU32,
}

impl Processes {
    /// Makes slots for as many worker processes.
    pub(crate) fn make_slots(&self, workers: usize) -> io::Result<()> {
        let first = self
            .slots
            .set(SharedMemory::new(SLOTS_OF_WORKER * workers)?);
        debug_assert!(first.is_ok(), "serving consumes a server");
        Ok(())
    }

    /// Makes this process the worker whose slot is `index`.
    pub(super) fn become_worker(&self, index: usize) {
        let first = self.own.set(index);
        debug_assert!(first.is_ok(), "a worker does not fork workers");
        self.note_parent();
    }

    /// The slots of all workers.
    pub(crate) fn slots(&self) -> &[WorkerSlot] {
        self.slots.get().map_or(&[], |slots| slots)
    }

    /// The slot of this process, if it is a worker.
    pub(crate) fn own(&self) -> Option<&WorkerSlot> {
        Some(&self.slots()[*self.own.get()?])
    }

    /// What tells this process from others: 0 but in a worker.
    pub(crate) fn number(&self) -> u16 {
        self.own.get().map_or(0, |index| *index as u16 + 1)
    }

    pub(crate) fn is_worker(&self) -> bool {
        self.own.get().is_some()
    }

    /// Notes that this process forks others for the server: what is forked from now on is a worker
    /// or a child of it.
    pub(crate) fn note_parent(&self) {
        self.parent.store(std::process::id(), Ordering::SeqCst);
    }

    /// Whether this process was forked by one that serves, and is not a worker yet or never.
    /// Async-signal-safe.
    pub(crate) fn is_child(&self) -> bool {
        let parent = self.parent.load(Ordering::SeqCst);
        parent != 0 && parent != std::process::id()
    }

    /// Asks the parent of this worker process for one that takes its place. The caller rings.
    pub(super) fn ask_for_successor(&self) {
        if let Some(own) = self.own() {
            own.leaving.store(1, Ordering::SeqCst);
        }
    }

    /// Notes that this process accepts connections. Says whether it is a worker.
    pub(super) fn note_ready(&self) -> bool {
        let own = self.own();
        own.inspect(|own| own.ready.store(1, Ordering::SeqCst))
            .is_some()
    }

    /// Notes, for the parent of a worker process, that a handler has come to its end.
    pub(crate) fn note_served(&self) {
        if let Some(own) = self.own() {
            own.served.store(1, Ordering::Relaxed);
        }
    }
}
