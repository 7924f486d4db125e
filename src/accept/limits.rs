//! What limits do to the accept loop: how many requests it may take, and what becomes of those that
//! come beyond.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::events::{Event, Limit, RefuseReason};
use crate::model::Take;
use crate::service::count;
use crate::state::Lease;
use crate::state::table::{Activity, CutReason};
use crate::transport::{Request, Transport};

/// How long a handler must have read in vain to be shed, and how often one looks for such.
const IDLE_MIN: u64 = 1000;
const SHED_LOOK: Duration = Duration::from_millis(250);

/// How many requests may be taken now.
pub(super) enum Taking {
    /// As many as there are places.
    Served(Lease),
    /// One, for which a parked connection makes room once it is there.
    Instead,
    /// Some to be refused.
    Refused(u64),
}

impl Taking {
    pub(super) const fn room(&self) -> u64 {
        match self {
            Self::Served(lease) => lease.count(),
            Self::Instead => 1,
            Self::Refused(room) => *room,
        }
    }

    /// Keeps what `taken` requests need. Says whether they are to be served.
    pub(super) fn settle<T: Transport, M: Take>(
        self,
        taken: u64,
        acceptor: &mut Acceptor<'_, T, M>,
    ) -> bool {
        match self {
            Self::Served(mut lease) => {
                if !acceptor.shared.limits().refuses() {
                    let unused = lease.count().saturating_sub(taken);
                    acceptor.shared.limits().return_tokens(unused);
                }
                lease.settle(taken);
                acceptor.batch.lease = lease;
                true
            }
            Self::Instead => {
                if taken == 0 {
                    acceptor.shared.limits().return_tokens(1);
                } else if acceptor.shed_parked() {
                    let mut lease = acceptor.shared.lease(taken);
                    lease.settle(lease.count());
                    acceptor.batch.lease = lease;
                }
                let served = acceptor.batch.lease.count() == taken;
                if !served {
                    acceptor.refuse_all(taken);
                }
                served
            }
            Self::Refused(_) => {
                acceptor.refuse_all(taken);
                false
            }
        }
    }
}

impl<T: Transport, M: Take> Acceptor<'_, T, M> {
    pub(super) fn tell_accepted(&self, request: &T::Request) {
        self.serving.service.hooks.tell(|| Event::Accepted {
            id: request.id(),
            peer: request.peer(),
        });
    }

    /// Says when a limit becomes reached.
    pub(super) fn tell_limits(&mut self) {
        let hooks = &self.serving.service.hooks;
        if hooks.observers.is_empty() {
            return;
        }
        let full = self.shared.is_full().then_some(Limit::Connections);
        let full_here = || self.shared.is_full_here().then_some(Limit::Descriptors);
        let limit = full.or_else(full_here);
        if let Some(reached) = limit.filter(|_| limit != self.limit) {
            hooks.tell(|| Event::LimitReached(reached));
        }
        self.limit = limit;
    }

    /// How many requests may be taken of the `want` that the model has room for; `None`: none.
    /// `waits` says that one is known to wait.
    pub(super) fn taking(&mut self, want: u64, waits: bool) -> Option<Taking> {
        let shared = &self.shared;
        let limits = shared.limits();
        let paused = shared.is_paused() && !shared.closing();
        if paused || shared.is_full_here() {
            return None;
        }
        if limits.refuses() {
            let lease = shared.lease(want);
            return Some(match lease.count() {
                0 => Taking::Refused(want),
                _ => Taking::Served(lease),
            });
        }
        let mut lease = shared.lease(want);
        if lease.count() == 0 && limits.sheds() {
            return self.make_room(waits);
        }
        let tokens = self.shared.take_tokens(lease.count());
        lease.keep(tokens);
        (tokens > 0).then_some(Taking::Served(lease))
    }

    /// Refuses all that was taken beyond the limit.
    fn refuse_all(&mut self, taken: u64) {
        self.shared.counts().accepted.fetch_add(taken, Relaxed);
        let message = self.shared.limits().refusal();
        for mut request in std::mem::take(&mut self.batch.requests) {
            self.tell_accepted(&request);
            self.serving.service.refused(&request, RefuseReason::Limit);
            request.refuse_with(&message);
        }
        self.budget = self.budget.saturating_sub(taken as usize);
        self.turned_away = taken > 0;
    }

    /// Whether a request is within the limits on addresses and on the rate; counts it, or why not.
    pub(super) fn is_within(&self, request: &T::Request) -> bool {
        let (shared, limits) = (&self.shared, self.shared.limits());
        if limits.refuses() && shared.take_tokens(1) == 0 {
            self.serving.service.refused(request, RefuseReason::Rate);
            return false;
        }
        let Some(limit) = limits.per_address() else {
            return true;
        };
        let ip = request.peer().ip();
        let within = ip.is_none_or(|ip| shared.count_address(request.context(), ip, limit));
        if !within {
            self.serving.service.refused(request, RefuseReason::Address);
        }
        within
    }

    /// Has the connection that has been idle for longest make room for one that waits.
    fn make_room(&mut self, waits: bool) -> Option<Taking> {
        let (id, activity) = self.shared.oldest_idle(IDLE_MIN)?;
        if self.shared.take_tokens(1) == 0 {
            return None;
        }
        if activity == Activity::Parked && !self.model.has_child(id) {
            return Some(Taking::Instead);
        }
        // Its handler has to notice first: room comes later.
        self.shared.limits().return_tokens(1);
        if waits {
            if self.abort(id, CutReason::Shed) {
                count(&self.shared.counts().shed);
            }
            // One that cannot be reached is looked for again later.
            self.shedding = Some((id, Instant::now() + SHED_LOOK));
        }
        None
    }

    /// Closes the connection that has been parked for longest.
    fn shed_parked(&self) -> bool {
        let service = &self.serving.service;
        let idle = self.shared.oldest_idle(IDLE_MIN);
        let parked = idle.and_then(|(id, _)| service.parking()?.take(id));
        let found = parked.is_some();
        if let Some(parked) = parked {
            count(&self.shared.counts().shed);
            let slot = parked.request.context().slot();
            let _ = slot.map(|slot| slot.cut(CutReason::Shed));
            service.dismiss(parked);
        }
        found
    }

    /// Whether a connection that was cut to make room is still there, or none can be.
    pub(super) fn is_shedding(&self, now: Instant) -> bool {
        let shared = &self.shared;
        if !shared.limits().sheds() || !shared.is_full() || shared.closing() && self.budget == 0 {
            return false;
        }
        let ends = |(id, until)| now < until || shared.is_cut(id);
        self.shedding.is_some_and(ends) || shared.oldest_idle(IDLE_MIN).is_none()
    }

    /// How long until the limits may let more in by themselves.
    pub(super) fn limits_change_in(&self) -> Option<Duration> {
        let (shared, limits) = (&self.shared, self.shared.limits());
        if limits.refuses() {
            return None;
        }
        let token = limits.has_rate().then(|| shared.token_due());
        let shed = (limits.sheds() && shared.is_full()).then_some(SHED_LOOK);
        token
            .filter(|due| !due.is_zero())
            .into_iter()
            .chain(shed)
            .min()
    }
}
