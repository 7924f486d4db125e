//! Taking from a listener: reserve a permit, accept, admit, dispatch.

use std::io;
use std::mem::take;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::accept::errors::{Class, classify};
use crate::net::{AcceptBatch, Managed, Transport};
use crate::observe::hooks::{Reaction, Step};
use crate::sys::poll::Interest;

/// How many times one listener is asked in a row before the others, the children and the stop get
/// their turn.
const TURN_MAX: usize = 16;

/// How long a batch may take to be served before the next one is smaller.
const PATIENCE: Duration = Duration::from_millis(1);

/// How often in a row a listener may be ready and yield nothing before it is paused: another
/// process is faster now and then, but a socket that is shut down, or an error that does not go
/// away, must not keep a processor busy.
const FRUITLESS_MAX: u32 = 64;

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Takes requests from one listener and gives them to the model, until there are no more, or no
    /// room.
    pub(super) fn accept_from(&mut self, index: usize, by_edge: bool) -> Reaction {
        let (mut fruitful, mut drained) = (false, false);
        for _ in 0..TURN_MAX {
            let listener = &self.serving.listeners[index];
            let batch = listener.batch().max(1);
            let want = self
                .model
                .room()
                .min(self.appetite.min(batch))
                .min(self.mode.room());
            let releases = self.shared.admission.releases();
            let left = self.shared.lifecycle.drain_left();
            let late = left.is_some_and(|left| left.is_zero());
            if want == 0 || !self.batch.requests.is_empty() || late {
                return Reaction::Continue;
            }
            let Some(taking) = self.taking(want as u64, index) else {
                // What an edge has reported another process may have taken.
                if by_edge && self.has_waiting(index) == Some(false) {
                    self.sources[index].exhaust(Interest::Read);
                }
                if self.shared.admission.limits().refuses() {
                    // It is no room that is waited for.
                    break;
                }
                return Reaction::Continue;
            };
            let listener = &self.serving.listeners[index];
            let requests = &mut self.batch.requests;
            let mut into = AcceptBatch::new(requests, taking.room(), &self.shared);
            let result = listener.accept(&mut into);
            let taken = self.batch.requests.len();
            if taking.settle(taken as u64, self) && taken > 0 {
                fruitful = true;
                self.accepting[index].backoff.reset();
                self.admit();
                if self.serving.service.hooks.client_speaks_first {
                    self.hold();
                }
                self.dispatch_timed(taken, batch);
            }
            match result {
                Ok(()) if taken > 0 => {}
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
                self.sources[index].exhaust(Interest::Read);
                break;
            }
        }
        // What is reported once cannot keep a processor busy.
        if fruitful || drained && by_edge {
            self.accepting[index].fruitless = 0;
            return Reaction::Continue;
        }
        self.count_fruitless(index)
    }

    /// Counts that a listener was ready and has yielded nothing; pauses it after too many in a row.
    fn count_fruitless(&mut self, index: usize) -> Reaction {
        let releases = self.shared.admission.releases();
        let pause = &mut self.accepting[index];
        pause.fruitless += 1;
        if pause.fruitless < FRUITLESS_MAX {
            return Reaction::Continue;
        }
        pause.fruitless = 0;
        pause.begin(releases)
    }

    /// Gives to the model what was accepted, and learns how much to take the next time.
    fn dispatch_timed(&mut self, taken: usize, batch: usize) {
        if batch == 1 {
            return self.dispatch();
        }
        let start = Instant::now();
        self.dispatch();
        let quick = start.elapsed() < PATIENCE;
        self.appetite = if quick {
            batch.min(self.appetite.max(2 * taken))
        } else {
            1
        };
    }

    /// Counts what was accepted, and sorts out what is not to be handled.
    fn admit(&mut self) {
        let mut requests = take(&mut self.batch.requests);
        let accepted = requests.len() as u64;
        let counts = self.shared.counters.counts();
        counts.accepted.fetch_add(accepted, Relaxed);
        requests.retain_mut(|request| {
            self.serving.service.emit_accepted(request);
            if !self.is_within(request) {
                request.refuse_with(&self.shared.admission.limits().refusal());
                return false;
            }
            let admitted = self.serving.service.admit(request);
            if !admitted {
                request.refuse();
            }
            admitted
        });
        let admitted = requests.len() as u64;
        self.batch.requests = requests;
        self.batch.permits.keep(admitted);
        self.mode.note(accepted as usize, admitted as usize);
    }

    /// Lets new connections wait for their first byte, where they may.
    fn hold(&mut self) {
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

    /// Gives what was accepted to the model. What it could not take stays for the next turn.
    pub(super) fn dispatch(&mut self) {
        let paused = self.dispatching.backoff.left(Instant::now()).is_some();
        if self.batch.requests.is_empty() || paused {
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
        match self.model.dispatch(&mut self.batch, self.serving) {
            Ok(()) => self.dispatching.backoff.reset(),
            // No pause will mend it: a fork in a process that has other threads now.
            Err(err) if err.kind() == io::ErrorKind::Unsupported => self.fatal = Some(err),
            Err(err) => {
                let reaction = self.dispatching.begin(releases);
                self.report(Step::Dispatch, reaction, err, None);
            }
        }
    }
}
