//! The accept loop's work for connections that it has accepted before: it keeps their deadlines,
//! and dispatches parked connections that have input.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::connection::life::Job;
use crate::connection::parking::{NotParked, Parked, Parking, Ready};
use crate::counters::count;
use crate::net::{Accepted, Transport};
use crate::observe::hooks::Step;
use crate::registry::table::AbortReason;
use crate::sys::poll::Interest;

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Emits limit events, and checks the deadlines of connections when the next check is due.
    pub(super) fn check(&mut self, now: Instant) {
        self.emit_limits();
        if self.shared.registry.registered() == 0 {
            self.check_at = None;
            return;
        }
        let first = self.shared.registry.first_check();
        let check_at = match (self.check_at, first) {
            (Some(at), _) => at,
            (None, Some(first)) => *self.check_at.insert(now + first),
            (None, None) => now + Duration::from_secs(3600),
        };
        if !self
            .shared
            .registry
            .abort_was_requested(&mut self.aborts_seen)
            && now < check_at
        {
            return;
        }
        let expired = self.shared.registry.check(&|id| self.model.unsent(id));
        let service = Arc::clone(&self.serving.service);
        for (id, reason) in expired.parked {
            match service.parking().and_then(|parking| parking.take(id)) {
                Some(parked) => service.time_out(parked, reason),
                // A connection in a child is parked in the child. A connection that is in neither
                // place is being dispatched.
                None if self.model.has_child(id) => {
                    if self.shared.registry.note_abort(id, reason) {
                        count(&self.shared.counters.counts().timed_out);
                    }
                    self.model.abort_one(id);
                }
                None => {}
            }
        }
        for id in expired.in_children {
            self.model.abort_one(id);
        }
        self.check_at = expired.next_check.map(|left| now + left);
    }

    /// Aborts a connection in any process of the server. Returns whether this call is the first to
    /// abort it, and the connection can be reached.
    pub(super) fn abort(&mut self, id: u64, reason: AbortReason) -> bool {
        let in_child = self.model.has_child(id);
        if !in_child && self.shared.registry.is_here(id) {
            return self.shared.registry.abort_here(id, reason);
        }
        let first = self.shared.registry.note_abort(id, reason);
        if first && in_child {
            self.model.abort_one(id);
        } else if first {
            // Another worker process serves the connection.
            self.shared.registry.request_aborts();
        }
        first
    }

    /// Dispatches the parked connections whose clients have sent something. Returns whether there were any.
    pub(super) fn dispatch_parked(&mut self) -> bool {
        let service = Arc::clone(&self.serving.service);
        let Some(parking) = service.parking() else {
            return false;
        };
        self.watch_rest(parking);
        let room = self.model.room().min(self.mode.room_for_parked());
        if room == 0 || !self.can_dispatch(Instant::now()) {
            return false;
        }
        let ready = parking.take_ready(room);
        let any = !ready.is_empty();
        if !any {
            self.parked.exhaust(Interest::Read);
        }
        for Ready { parked, is_due } in ready {
            let Parked { request, permits } = parked;
            if service.hooks.whole.is_some() && !is_due {
                let service = Arc::clone(&service);
                self.park_again(Job {
                    request,
                    service,
                    permits,
                });
                continue;
            }
            self.batch.requests.push_back(request);
            self.batch.permits.join(permits);
        }
        let is_live = |request: &T::Accepted| request.context().abort_reason().is_none();
        if self.batch.requests.iter().any(is_live) {
            self.mode.note_parked();
        }
        self.dispatch();
        any
    }

    /// Watches the parked connections for which the kernel had no room. While there is none, it is tried again after
    /// pauses, and no connection is accepted.
    fn watch_rest(&mut self, parking: &Parking<T::Accepted>) {
        if !parking.has_unwatched() || self.watching.backoff.left(Instant::now()).is_some() {
            return;
        }
        let releases = self.shared.admission.releases();
        match parking.watch_rest() {
            Ok(()) => self.watching.backoff.reset(),
            Err(err) => {
                let reaction = self.watching.begin(releases);
                self.report(Step::Wait, reaction, err, None);
            }
        }
    }

    /// Whether a parked connection is to be watched that could not be.
    pub(super) fn has_unwatched(&self) -> bool {
        let parking = self.serving.service.parking();
        parking.is_some_and(Parking::has_unwatched)
    }

    /// Parks a connection. A connection that cannot be parked joins the batch, and so goes to its
    /// handler.
    pub(super) fn park_again(&mut self, job: Job<T::Accepted>) {
        let (request, permits) = match job.service.park(job.request, job.permits) {
            Ok(()) => return,
            Err(NotParked::Ready(request, permits) | NotParked::Over(request, permits)) => {
                (request, permits)
            }
            // The handler sees the error again, and the session finishes where it has run.
            Err(NotParked::Failed(request, permits, _))
                if request.context().session().is_kept() =>
            {
                (request, permits)
            }
            Err(NotParked::Failed(request, permits, err)) => {
                return job.service.abandon(request, permits, err);
            }
        };
        self.batch.requests.push_back(request);
        self.batch.permits.join(permits);
    }
}
