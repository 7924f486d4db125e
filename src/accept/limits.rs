//! The accept loop under limits: how many connections or datagrams it may accept, and what it does
//! with those beyond.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::admission::permits::Permits;
use crate::counters::count;
use crate::net::{Accepted, Managed, Transport};
use crate::observe::events::{Event, Limit, RefuseReason};
use crate::registry::table::{AbortReason, Activity};
use crate::sys::poll::is_readable;

/// How long a handler must have waited for input before its connection may be shed, in
/// milliseconds; and the interval between searches for such a connection.
const IDLE_MIN: u64 = 1000;
const SHED_CHECK: Duration = Duration::from_millis(250);

/// A reservation for an accept: how many connections or datagrams it may yield.
pub(super) enum Reservation {
    /// As many as the permits, to be served.
    Served(Permits),
    /// At most this many, to be refused.
    Refused(u64),
}

impl Reservation {
    pub(super) const fn room(&self) -> u64 {
        match self {
            Self::Served(permits) => permits.count(),
            Self::Refused(room) => *room,
        }
    }

    /// Keeps the permits of the `accepted` connections in the batch, and returns the others; or
    /// refuses the batch. Returns whether the batch is to be served.
    pub(super) fn settle<T: Transport, M: Dispatch>(
        self,
        accepted: u64,
        acceptor: &mut Acceptor<'_, T, M>,
    ) -> bool {
        match self {
            Self::Served(mut permits) => {
                if !acceptor.shared.admission.limits().refuses() {
                    let unused = permits.count().saturating_sub(accepted);
                    acceptor.shared.admission.limits().return_tokens(unused);
                }
                permits.settle(accepted);
                acceptor.batch.permits = permits;
                true
            }
            Self::Refused(_) => {
                acceptor.refuse_all(accepted);
                false
            }
        }
    }
}

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Emits an event when the server reaches a limit.
    pub(super) fn emit_limits(&mut self) {
        let hooks = &self.serving.service.hooks;
        if hooks.observers.is_empty() {
            return;
        }
        let full = self
            .shared
            .admission
            .is_full()
            .then_some(Limit::Connections);
        let full_here = || {
            self.shared
                .admission
                .is_full_here()
                .then_some(Limit::Descriptors)
        };
        let limit = full.or_else(full_here);
        if let Some(reached) = limit.filter(|_| limit != self.limit) {
            hooks.emit(|| Event::LimitReached(reached));
        }
        self.limit = limit;
    }

    /// Reserves permits for an accept from a listener, at most `want`; `None` if nothing may be
    /// accepted.
    pub(super) fn reserve(&mut self, want: u64, index: usize) -> Option<Reservation> {
        let shared = &self.shared;
        let limits = shared.admission.limits();
        let paused = shared.lifecycle.is_paused() && !shared.lifecycle.closing();
        if paused || shared.admission.is_full_here() {
            return None;
        }
        if limits.refuses() {
            let permits = shared.admission.reserve(want);
            return match permits.count() {
                // Other accept loops have reserved the last permits, and may return them.
                0 if shared.admission.live() < limits.max_connections() => None,
                0 => Some(Reservation::Refused(want)),
                _ => Some(Reservation::Served(permits)),
            };
        }
        let mut permits = shared.admission.reserve(want);
        if permits.count() == 0 && limits.sheds() {
            return self.make_room(index);
        }
        let tokens = self.shared.admission.take_tokens(permits.count());
        permits.keep(tokens);
        (tokens > 0).then_some(Reservation::Served(permits))
    }

    /// Refuses the batch, which was accepted beyond the limit.
    fn refuse_all(&mut self, accepted: u64) {
        self.shared
            .counters
            .counts()
            .accepted
            .fetch_add(accepted, Relaxed);
        let message = self.shared.admission.limits().refusal();
        for mut request in std::mem::take(&mut self.batch.requests) {
            self.serving.service.emit_accepted(&request);
            self.serving.service.refused(&request, RefuseReason::Limit);
            request.refuse_with(&message);
        }
        self.mode.note(accepted as usize, 0);
    }

    /// Sheds the connection that has been idle for longest, if a client waits at a listener.
    /// Returns the permit, if it is free at once.
    fn make_room(&mut self, index: usize) -> Option<Reservation> {
        let shared = &self.shared;
        // Another worker has reserved the last permit and is about to accept, or has accepted this
        // client.
        if shared.admission.live() < shared.admission.limits().max_connections()
            || self.has_waiting(index) != Some(true)
        {
            return None;
        }
        let (id, activity) = shared.registry.oldest_idle(IDLE_MIN)?;
        if shared.admission.take_tokens(1) == 0 {
            return None;
        }
        if activity == Activity::Parked && self.shed_parked(id) {
            let permits = self.shared.admission.reserve(1);
            if permits.count() > 0 {
                return Some(Reservation::Served(permits));
            }
        }
        // The handler has to notice the abort first: its permit is free later.
        self.shared.admission.limits().return_tokens(1);
        if self.shared.registry.begin_to_shed(id) && self.abort(id, AbortReason::Shed) {
            count(&self.shared.counters.counts().shed);
        }
        // A connection that cannot be reached now is searched for again later.
        self.shedding = Some(Instant::now() + SHED_CHECK);
        None
    }

    /// Whether a connection or datagram waits at a listener; `None` if poll(2) fails.
    pub(super) fn has_waiting(&self, index: usize) -> Option<bool> {
        let listener = &self.serving.listeners[index];
        is_readable(listener).ok()
    }

    /// Closes a connection that this process has parked. Returns whether it had.
    fn shed_parked(&self, id: u64) -> bool {
        let service = &self.serving.service;
        let parked = service.parking().and_then(|parking| parking.take(id));
        let found = parked.is_some();
        if let Some(parked) = parked {
            count(&self.shared.counters.counts().shed);
            let slot = parked.request.context().slot();
            let _ = slot.map(|slot| slot.abort(AbortReason::Shed));
            service.dismiss(parked);
        }
        found
    }

    /// Whether a full server has to wait for room: a connection that was shed has not ended yet, or
    /// no connection can be shed.
    pub(super) fn is_shedding(&self, now: Instant) -> bool {
        let shared = &self.shared;
        if !shared.admission.limits().sheds() || !shared.admission.is_full() || !self.mode.accepts()
        {
            return false;
        }
        self.shedding.is_some_and(|until| now < until)
            || shared.registry.sheds()
            || shared.registry.oldest_idle(IDLE_MIN).is_none()
    }

    /// The time until the limits may admit another connection without an event: a token of the rate
    /// is due, or a search for an idle connection.
    pub(super) fn limits_change_in(&self) -> Option<Duration> {
        let (shared, limits) = (&self.shared, self.shared.admission.limits());
        if limits.refuses() {
            return None;
        }
        let token = limits.has_rate().then(|| shared.admission.token_due());
        let shed = (limits.sheds() && shared.admission.is_full()).then_some(SHED_CHECK);
        token
            .filter(|due| !due.is_zero())
            .into_iter()
            .chain(shed)
            .min()
    }
}
