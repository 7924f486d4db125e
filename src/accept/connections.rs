//! What the accept loop does for connections that it has accepted before: it ends those whose time is
//! over, and sends parked ones on their way again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::connection::life::Job;
use crate::connection::parking::{Parked, Stays};
use crate::counters::count;
use crate::registry::table::CutReason;
use crate::sys::poll::Interest;
use crate::transport::{Request, Transport};

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Looks at the limits, and for connections whose time is over when it is time to.
    pub(super) fn look(&mut self, now: Instant) {
        self.tell_limits();
        if self.shared.registry.listed() == 0 {
            self.look_at = None;
            return;
        }
        let first = self.shared.registry.first_look();
        let look_at = match (self.look_at, first) {
            (Some(at), _) => at,
            (None, Some(first)) => *self.look_at.insert(now + first),
            (None, None) => now + Duration::from_secs(3600),
        };
        if !self.shared.registry.was_asked_to_cut(&mut self.asked) && now < look_at {
            return;
        }
        let found = self.shared.registry.look(&|id| self.model.unsent(id));
        let service = Arc::clone(&self.serving.service);
        for (id, reason) in found.parked {
            match service.parking().and_then(|parking| parking.take(id)) {
                Some(parked) => service.time_out(parked, reason),
                // A child waits with it. Elsewhere it is on its way to its handler.
                None if self.model.has_child(id) => {
                    if self.shared.registry.note_cut(id, reason) {
                        count(&self.shared.counters.counts().timed_out);
                    }
                    self.model.cut_one(id);
                }
                None => {}
            }
        }
        for id in found.elsewhere {
            self.model.cut_one(id);
        }
        self.look_at = found.again.map(|again| now + again);
    }

    /// Cuts a connection, wherever it is served. Says whether it was not cut before, and can be
    /// reached.
    pub(super) fn abort(&mut self, id: u64, reason: CutReason) -> bool {
        let in_child = self.model.has_child(id);
        if !in_child && self.shared.registry.is_here(id) {
            return self.shared.registry.cut_for(id, reason);
        }
        let first = self.shared.registry.note_cut(id, reason);
        if first && in_child {
            self.model.cut_one(id);
        } else if first {
            // Another worker has it.
            self.shared.registry.ask_for_cuts();
        }
        first
    }

    /// Sends the parked connections whose clients have spoken on their way again.
    pub(super) fn tend_parked(&mut self) {
        let service = Arc::clone(&self.serving.service);
        let Some(parking) = service.parking() else {
            return;
        };
        if self.can_dispatch(Instant::now()) {
            let ready = parking.take_ready(self.model.room());
            if ready.is_empty() {
                self.parked.exhaust(Interest::Read);
            }
            for Parked { request, lease, .. } in ready {
                if service.hooks.whole.is_some() {
                    let service = Arc::clone(&service);
                    self.park_again(Job {
                        request,
                        service,
                        lease,
                    });
                    continue;
                }
                self.batch.requests.push_back(request);
                self.batch.lease.join(lease);
            }
            self.dispatch();
        }
    }

    /// Lets a connection wait; one that does not goes into the batch, to its handler.
    pub(super) fn park_again(&mut self, job: Job<T::Request>) {
        let (request, lease) = match job.service.park(job.request, job.lease) {
            Ok(()) => return,
            Err(Stays::Ready(request, lease) | Stays::Over(request, lease)) => (request, lease),
            // Its handler meets the error, and its session finishes where it has run.
            Err(Stays::Failed(request, lease, _)) if request.context().session().is_kept() => {
                (request, lease)
            }
            Err(Stays::Failed(request, lease, err)) => {
                return job.service.abandon(request, lease, err);
            }
        };
        self.batch.requests.push_back(request);
        self.batch.lease.join(lease);
    }
}
