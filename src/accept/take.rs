//! One listener's turn: reserve permits, accept, admit, dispatch.

use std::io;
use std::mem::take;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::accept::errors::{Class, classify};
use crate::accept::mode::Mode;
use crate::connection::parking::Parking;
use crate::net::{AcceptBatch, Transport};
use crate::observe::hooks::{Reaction, Step};
use crate::sys::poll::Interest;

/// How many accept calls in a row one listener gets before the other listeners, the children and
/// the stop have their turn.
const TURN_MAX: usize = 16;

/// How long dispatching a batch may take before the next batch is smaller.
const PATIENCE: Duration = Duration::from_millis(1);

/// How many times in a row a listener may be ready and yield nothing before it is paused. Another
/// process is faster now and then; but a socket that is shut down, or an error that stays, must not
/// keep a processor busy.
const EMPTY_MAX: u32 = 64;

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Accepts from one listener and dispatches to the model, until nothing waits or there is no
    /// room.
    pub(super) fn accept_from(&mut self, index: usize, by_edge: bool) -> Reaction {
        let (mut accepted_any, mut drained) = (false, false);
        self.accepting[index].drained = false;
        for _ in 0..TURN_MAX {
            let listener = &self.serving.listeners[index];
            let batch = listener.batch().max(1);
            let want = self
                .model
                .room()
                .min(self.batch_max.min(batch))
                .min(self.mode.room());
            let releases = self.shared.admission.releases();
            let left = self.shared.lifecycle.drain_left();
            let late = left.is_some_and(|left| left.is_zero());
            if want == 0 || !self.batch.requests.is_empty() || late || self.has_unwatched() {
                return Reaction::Continue;
            }
            let Some(reservation) = self.reserve(want as u64, index) else {
                // Another process may have accepted the connection that an edge has reported.
                if by_edge && self.has_waiting(index) == Some(false) {
                    self.sources[index].exhaust(Interest::Read);
                }
                if self.shared.admission.limits().refuses() {
                    // A server that refuses waits for no room, so the listener stays ready: the
                    // turn counts as empty.
                    break;
                }
                return Reaction::Continue;
            };
            let listener = &self.serving.listeners[index];
            let mut accepted = |request| self.batch.requests.push_back(request);
            let mut into = AcceptBatch::new(&mut accepted, reservation.room(), &self.shared);
            let result = listener.accept(&mut into);
            let accepted = self.batch.requests.len();
            if reservation.settle(accepted as u64, self) && accepted > 0 {
                accepted_any = true;
                self.accepting[index].backoff.reset();
                self.admit();
                if self.serving.service.hooks.client_speaks_first {
                    self.park_new();
                }
                self.dispatch_timed(accepted, batch);
            }
            match result {
                Ok(()) if accepted > 0 => {}
                Ok(()) => drained = true,
                Err(err) => match classify(&err) {
                    Class::Nothing => drained = true,
                    Class::Interrupted => {}
                    Class::Request => {
                        self.report(Step::Accept, Reaction::Continue, err, Some(index));
                    }
                    Class::Exhausted => {
                        let reaction = self.accepting[index].begin(releases);
                        self.report(Step::Accept, reaction, err, Some(index));
                        return reaction;
                    }
                    Class::Fatal => {
                        self.report(Step::Accept, Reaction::Abandon, err, Some(index));
                        return Reaction::Abandon;
                    }
                },
            }
            if drained {
                self.accepting[index].drained = true;
                self.sources[index].exhaust(Interest::Read);
                break;
            }
        }
        // An edge is reported once, so it cannot keep a processor busy.
        if accepted_any || drained && by_edge {
            self.accepting[index].empty = 0;
            return Reaction::Continue;
        }
        self.count_empty(index)
    }

    /// Counts that a listener was ready and has yielded nothing; pauses it after too many such
    /// turns in a row.
    fn count_empty(&mut self, index: usize) -> Reaction {
        let releases = self.shared.admission.releases();
        let pause = &mut self.accepting[index];
        pause.empty += 1;
        if pause.empty < EMPTY_MAX {
            return Reaction::Continue;
        }
        pause.empty = 0;
        pause.begin(releases)
    }

    /// Dispatches the batch, and sets the size of the next one by the time that this takes.
    fn dispatch_timed(&mut self, accepted: usize, batch: usize) {
        if batch == 1 {
            return self.dispatch();
        }
        let start = Instant::now();
        self.dispatch();
        let quick = start.elapsed() < PATIENCE;
        self.batch_max = if quick {
            batch.min(self.batch_max.max(2 * accepted))
        } else {
            1
        };
    }

    /// Counts the batch, and refuses the entries that limits, the transport or the `verify` hook do
    /// not admit. A client whom a proxy is to name is judged later (`Service::open`).
    fn admit(&mut self) {
        let mut requests = take(&mut self.batch.requests);
        let accepted = requests.len() as u64;
        let counts = self.shared.counters.counts();
        counts.accepted.fetch_add(accepted, Relaxed);
        requests.retain_mut(|request| {
            self.serving.service.emit_accepted(request);
            self.serving.service.admit(request)
        });
        let admitted = requests.len() as u64;
        self.batch.requests = requests;
        self.batch.permits.keep(admitted);
        self.mode.note(accepted as usize, admitted as usize);
    }

    /// Parks the new connections of the batch until their first byte, if the mode allows it.
    fn park_new(&mut self) {
        if !self.mode.parks_new() {
            return;
        }
        for _ in 0..self.batch.requests.len() {
            let Some(job) = self.batch.next_job(self.serving) else {
                return;
            };
            self.park_again(job);
        }
    }

    /// How many connections are parked, where the loop is to serve one.
    fn count_parked(&self) -> usize {
        let parking = match self.mode {
            Mode::One(_) => self.serving.service.parking(),
            Mode::Serving | Mode::Backlog { .. } | Mode::Draining => None,
        };
        parking.map_or(0, Parking::count)
    }

    /// Dispatches the batch to the model. Entries that the model could not take stay for the next
    /// turn.
    pub(super) fn dispatch(&mut self) {
        let is_paused = || self.dispatching.backoff.left(Instant::now()).is_some();
        if self.batch.requests.is_empty() || is_paused() {
            return;
        }
        let releases = self.shared.admission.releases();
        if let Some(keeper) = self
            .keeper
            .as_ref()
            .filter(|_| self.shared.registry.registered() > 0)
        {
            keeper.wake();
        }
        let parked = self.count_parked();
        let dispatched = self.model.dispatch(&mut self.batch, self.serving);
        if self.count_parked() > parked {
            self.mode.note_unserved();
        }
        match dispatched {
            Ok(()) => self.dispatching.backoff.reset(),
            // The process has other threads now, so a fork would fail after any pause.
            Err(err) if err.kind() == io::ErrorKind::Unsupported => self.fatal = Some(err),
            Err(err) => {
                let reaction = self.dispatching.begin(releases);
                self.report(Step::Dispatch, reaction, err, None);
            }
        }
    }
}
