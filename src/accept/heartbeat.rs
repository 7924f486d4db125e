//! The heartbeat of an accept loop, or of the supervisor of several.

use std::time::{Duration, Instant};

use crate::lifecycle::processes::WorkerSlot;
use crate::lifecycle::{Lifecycle, State};
use crate::observe::hooks::{self, Hooks};

/// When a loop beats next, and what it has shown.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// `None` before the first beat.
    due: Option<Instant>,
    state: Option<State>,
}

impl Heartbeat {
    /// Beats if the server has another state or a period is over. In a worker process the beat is a store for the
    /// supervisor, elsewhere a call of the hook; in a supervisor, which has slots, only if a worker has beaten.
    pub(crate) fn beat<R>(&mut self, hooks: &Hooks<R>, lifecycle: &Lifecycle, now: Instant) {
        let Some((period, hook)) = &hooks.heartbeat else {
            return;
        };
        let is_due = self.due.is_none_or(|due| due <= now);
        if is_due {
            self.due = now.checked_add(*period);
        }
        let processes = lifecycle.processes();
        if let Some(own) = processes.own() {
            if is_due {
                own.note_beat(lifecycle.nanos());
            }
            return;
        }
        let state = lifecycle.state();
        if self.state.replace(state) != Some(state) {
            // The panic hook has reported a panic of the hook.
            let _ = hooks::call(|| hook(state));
        }
        let long_ago = lifecycle
            .nanos()
            .saturating_sub(nanos(*period).saturating_mul(2));
        let slots = processes.slots();
        // A worker that leaves accepts nothing more; in a stop, all do.
        let counts = |slot: &&WorkerSlot| lifecycle.closing() || !slot.is_leaving();
        let is_alive = slots.is_empty()
            || slots
                .iter()
                .filter(counts)
                .any(|slot| slot.has_beaten_since(long_ago));
        if is_due && is_alive {
            // As above.
            let _ = hooks::call(|| hook(state));
        }
    }

    /// Returns when the loop beats next; `None` without a hook.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
