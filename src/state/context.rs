//! What a request knows of its server, and how the server reaches it to cut it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::address::Address;
use crate::state::Shared;

/// Something that ends a request's input and output from another thread.
pub trait Cut: Send + Sync {
    /// Makes the blocked and all later reads and writes of the request fail or end. Called at the
    /// drain deadline.
    fn cut(&self);

    /// Who sent the request.
    fn peer(&self) -> Address;
}

/// The requests of a process that can be cut.
#[derive(Default)]
pub(super) struct Cuttable {
    /// With who sent them, by their numbers.
    requests: HashMap<u64, Weak<dyn Cut>>,
    /// The deadline has come: what is registered now is cut at once.
    over: bool,
}

/// What a request knows of its server. A transport puts one into each request that it makes.
#[derive(Debug)]
pub struct Context {
    pub(super) id: u64,
    /// Absent for a connection that was not accepted.
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) cuttable: bool,
    /// When the timer that looks at this request comes up, in nanoseconds since `Shared::origin`;
    /// zero without one.
    pub(super) timer: AtomicU64,
}

impl Context {
    /// What a connection out knows: nothing.
    pub(crate) const fn detached() -> Self {
        Self {
            id: 0,
            shared: None,
            cuttable: false,
            timer: AtomicU64::new(0),
        }
    }

    /// The number of the request: unique and ascending within its server, over all of its
    /// processes, from 1. 0 for a connection that was made, not accepted.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether the server has been asked to stop.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.stopping())
    }

    /// Whether no timer is set that will still come up.
    pub(crate) fn timer_came_up(&self, now: Instant) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| self.timer.load(Ordering::Relaxed) <= shared.nanos(now))
    }

    /// Notes when the timer that was set will come up.
    pub(crate) fn set_timer(&self, at: Instant) {
        if let Some(shared) = &self.shared {
            self.timer.store(shared.nanos(at), Ordering::Relaxed);
        }
    }

    /// Lets the server cut this request when its drain deadline has passed, and name its peer
    /// meanwhile.
    pub fn on_cut(&mut self, cut: Weak<dyn Cut>) {
        if let Some(shared) = &self.shared {
            self.cuttable = true;
            let over = {
                let mut cuttable = shared.cuttable();
                cuttable.requests.insert(self.id, Weak::clone(&cut));
                cuttable.over
            };
            if let Some(late) = cut.upgrade().filter(|_| over) {
                shared.count_cut(1);
                late.cut();
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.cuttable) {
            shared.cuttable().requests.remove(&self.id);
        }
    }
}

impl Shared {
    /// Who sent a request of this process that can be cut.
    #[cfg(feature = "coroutines")]
    pub(crate) fn peer(&self, id: u64) -> Option<Address> {
        self.cuttable()
            .requests
            .get(&id)
            .and_then(Weak::upgrade)
            .map(|request| request.peer())
    }

    /// Cuts every live request of this process that can be cut, and counts them.
    pub(crate) fn cut_all(&self) -> u64 {
        let cuttable: Vec<_> = {
            let mut cuttable = self.cuttable();
            cuttable.over = true;
            cuttable
                .requests
                .values()
                .filter_map(Weak::upgrade)
                .collect()
        };
        // Counted first: what is cut may end, and its server report, before this thread goes on.
        self.count_cut(cuttable.len() as u64);
        for request in &cuttable {
            request.cut();
        }
        cuttable.len() as u64
    }

    fn cuttable(&self) -> MutexGuard<'_, Cuttable> {
        // A map is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.cuttable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
