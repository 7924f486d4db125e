//! What limits do to the accept loop: how many requests it may take, and what becomes of those that
//! come beyond.

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

/// How long a handler must have waited in vain for input to be shed, in milliseconds, and how often
/// the accept loop looks for such.
const IDLE_MIN: u64 = 1000;
const SHED_CHECK: Duration = Duration::from_millis(250);

/// How many requests may be taken now.
pub(super) enum Taking {
    /// As many as there are places.
    Served(Permits),
    /// Some to be refused.
    Refused(u64),
}

impl Taking {
    pub(super) const fn room(&self) -> u64 {
        match self {
            Self::Served(permits) => permits.count(),
            Self::Refused(room) => *room,
        }
    }

    /// Keeps what `taken` requests need. Says whether they are to be served.
    pub(super) fn settle<T: Transport, M: Dispatch>(
        self,
        taken: u64,
        acceptor: &mut Acceptor<'_, T, M>,
    ) -> bool {
        match self {
            Self::Served(mut permits) => {
                if !acceptor.shared.admission.limits().refuses() {
                    let unused = permits.count().saturating_sub(taken);
                    acceptor.shared.admission.limits().return_tokens(unused);
                }
                permits.settle(taken);
                acceptor.batch.permits = permits;
                true
            }
            Self::Refused(_) => {
                acceptor.refuse_all(taken);
                false
            }
        }
    }
}

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Says when a limit becomes reached.
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

    /// How many requests may be taken from a listener, of the `want` that the model has room for;
    /// `None`: none.
    pub(super) fn taking(&mut self, want: u64, index: usize) -> Option<Taking> {
        let shared = &self.shared;
        let limits = shared.admission.limits();
        let paused = shared.lifecycle.is_paused() && !shared.lifecycle.closing();
        if paused || shared.admission.is_full_here() {
            return None;
        }
        if limits.refuses() {
            let permits = shared.admission.reserve(want);
            return match permits.count() {
                // Others have taken places ahead of an accept, and may give them back.
                0 if shared.admission.live() < limits.max_connections() => None,
                0 => Some(Taking::Refused(want)),
                _ => Some(Taking::Served(permits)),
            };
        }
        let mut permits = shared.admission.reserve(want);
        if permits.count() == 0 && limits.sheds() {
            return self.make_room(index);
        }
        let tokens = self.shared.admission.take_tokens(permits.count());
        permits.keep(tokens);
        (tokens > 0).then_some(Taking::Served(permits))
    }

    /// Refuses all that was taken beyond the limit.
    fn refuse_all(&mut self, taken: u64) {
        self.shared
            .counters
            .counts()
            .accepted
            .fetch_add(taken, Relaxed);
        let message = self.shared.admission.limits().refusal();
        for mut request in std::mem::take(&mut self.batch.requests) {
            self.serving.service.emit_accepted(&request);
            self.serving.service.refused(&request, RefuseReason::Limit);
            request.refuse_with(&message);
        }
        self.mode.note(taken as usize, 0);
    }

    /// Whether a request is within the limits on addresses and on the rate; counts it, or why not.
    pub(super) fn is_within(&self, request: &T::Accepted) -> bool {
        let (shared, limits) = (&self.shared, self.shared.admission.limits());
        if limits.refuses() && shared.admission.take_tokens(1) == 0 {
            self.serving.service.refused(request, RefuseReason::Rate);
            return false;
        }
        let Some(limit) = limits.per_address() else {
            return true;
        };
        let ip = request.peer().ip();
        let within =
            ip.is_none_or(|ip| shared.registry.count_address(request.context(), ip, limit));
        if !within {
            self.serving.service.refused(request, RefuseReason::Address);
        }
        within
    }

    /// Has the connection that has been idle for longest make room for one that waits at a listener.
    fn make_room(&mut self, index: usize) -> Option<Taking> {
        let shared = &self.shared;
        // Another worker is about to accept, and has taken the last place for that; or it was faster.
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
                return Some(Taking::Served(permits));
            }
        }
        // Its handler has to notice first: room comes later.
        self.shared.admission.limits().return_tokens(1);
        if self.shared.registry.begin_to_shed(id) && self.abort(id, AbortReason::Shed) {
            count(&self.shared.counters.counts().shed);
        }
        // One that cannot be reached is looked for again later.
        self.shedding = Some(Instant::now() + SHED_CHECK);
        None
    }

    /// Whether a request waits at a listener; `None` where the kernel does not say.
    pub(super) fn has_waiting(&self, index: usize) -> Option<bool> {
        let listener = &self.serving.listeners[index];
        is_readable(listener).ok()
    }

    /// Closes a connection that this process has parked. Says whether it was one.
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

    /// Whether a connection that was aborted to make room is still there, or none can be.
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

    /// How long until the limits may let more in by themselves.
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
