//! The processes of a server: which one this process is, and what the parent knows of each worker.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys::memory::{SharedMemory, shareable};

/// How many slots each worker has: one for the process that serves, and one for its predecessor,
/// which may still drain.
pub(crate) const SLOTS_OF_WORKER: usize = 2;

/// The memory that a worker process shares with its parent. All zero at first.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    /// The permits of the worker, packed as in [`Admission`](crate::admission::Admission).
    live: AtomicU64,
    /// Non-zero once the worker accepts.
    ready: AtomicU32,
    /// Non-zero once a handler of the worker has returned.
    served: AtomicU32,
    /// Non-zero once the worker was asked to retire.
    leaving: AtomicU32,
    /// Non-zero while the predecessor of the worker drains, so that there is no slot for a successor.
    follows: AtomicU32,
    /// When the worker's accept loop last turned, in nanoseconds since the server was created; zero before.
    beat: AtomicU64,
}

shareable!(WorkerSlot {
    live,
    ready,
    served,
    leaving,
    follows,
    beat
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

    /// Whether the worker retires, and needs a successor. Until its own predecessor has ended it goes on accepting.
    pub(crate) fn is_leaving(&self) -> bool {
        self.was_asked_to_leave() && self.follows.load(Ordering::SeqCst) == 0
    }

    /// Whether the worker was asked to retire, be it about to or not.
    pub(crate) fn was_asked_to_leave(&self) -> bool {
        self.leaving.load(Ordering::SeqCst) != 0
    }

    /// Stores whether the predecessor of the worker drains. The caller sends the wake-up event.
    pub(crate) fn set_follows(&self, follows: bool) {
        self.follows.store(u32::from(follows), Ordering::SeqCst);
    }

    /// Stores that the worker's accept loop turns at this time.
    pub(crate) fn note_beat(&self, nanos: u64) {
        self.beat.store(nanos, Ordering::Relaxed);
    }

    /// Returns whether the worker's accept loop has turned since this time.
    pub(crate) fn has_beaten_since(&self, nanos: u64) -> bool {
        let beat = self.beat.load(Ordering::Relaxed);
        beat > 0 && beat >= nanos
    }

    /// Clears the slot after its process has ended.
    pub(crate) fn clear(&self) {
        self.beat.store(0, Ordering::SeqCst);
        self.ready.store(0, Ordering::SeqCst);
        self.served.store(0, Ordering::SeqCst);
        self.leaving.store(0, Ordering::SeqCst);
        self.live.store(0, Ordering::SeqCst);
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// The index of this process's slot. Set only in a worker.
    own: OnceLock<usize>,
    /// The slots of all workers. Set only in a server with worker processes.
    slots: OnceLock<SharedMemory<WorkerSlot>>,
    /// The pid of the process that forks for the server; zero before it serves.
    parent: AtomicU32,
}

impl Processes {
    /// Creates the slots of `workers` worker processes.
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

    /// The number of this process: the index of its slot plus one in a worker, 0 elsewhere.
    pub(crate) fn number(&self) -> u16 {
        self.own.get().map_or(0, |index| *index as u16 + 1)
    }

    pub(crate) fn is_worker(&self) -> bool {
        self.own.get().is_some()
    }

    /// Stores that this process forks for the server: a process that it forks from now on is a
    /// worker or a child.
    pub(crate) fn note_parent(&self) {
        self.parent.store(std::process::id(), Ordering::SeqCst);
    }

    /// Whether a serving process has forked this process, which is no worker, or not yet.
    /// Async-signal-safe.
    pub(crate) fn is_child(&self) -> bool {
        let parent = self.parent.load(Ordering::SeqCst);
        parent != 0 && parent != std::process::id()
    }

    /// Asks the parent of this worker process for a successor. The caller sends the wake-up event.
    pub(super) fn ask_for_successor(&self) {
        if let Some(own) = self.own() {
            own.leaving.store(1, Ordering::SeqCst);
        }
    }

    /// Stores that this process accepts. Returns whether it is a worker.
    pub(super) fn note_ready(&self) -> bool {
        let own = self.own();
        own.inspect(|own| own.ready.store(1, Ordering::SeqCst))
            .is_some()
    }

    /// Stores that a handler of this worker process has returned, for its parent.
    pub(crate) fn note_served(&self) {
        if let Some(own) = self.own() {
            own.served.store(1, Ordering::Relaxed);
        }
    }
}
