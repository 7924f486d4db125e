//! How serving ends: the queue is taken, what is live is waited for, and at the deadline it is cut.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::accept::report::Report;
use crate::connection::parking::{Parked, Parking};
use crate::counters::Ended;
use crate::lifecycle::State;
use crate::transport::Transport;

/// A budget that a stop never spends. While serving goes on there is more.
pub(super) const NO_END: usize = usize::MAX / 2 - 1;

/// How often a stop looks for connections whose handshake had begun before it, how long it waits
/// for them where it cannot look, and how long at most: more than a round trip takes.
pub(super) const ARRIVAL_LOOK: Duration = Duration::from_millis(1);
const ARRIVAL_UNKNOWN: Duration = Duration::from_millis(40);
const ARRIVAL_MAX: Duration = Duration::from_secs(1);

/// How many requests a stop takes from a listener that cannot say how many wait: the longest queue
/// that Linux has unless `net.core.somaxconn` was raised.
const QUEUE_MAX: usize = 4096;

/// How long, after the drain deadline has cut all requests, their handlers are given to notice.
const CUT_GRACE: Duration = Duration::from_secs(2);

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Takes what the kernel has already accepted for us: those clients think they are being
    /// served.
    pub(super) fn take_queue(&mut self) {
        let listeners = &self.serving.listeners;
        let stopped = |listener: &T| listener.stop_intake().unwrap_or(false);
        let lossless = listeners
            .iter()
            .filter(|listener| stopped(listener))
            .count();
        // Of the others, what comes later is not counted, so that a flood does not keep the server
        // from stopping.
        self.budget = if lossless == listeners.len() {
            NO_END
        } else {
            let waiting = listeners.iter().map(Transport::waiting);
            waiting.map(|count| count.unwrap_or(QUEUE_MAX)).sum()
        };
        let give_up = Instant::now() + ARRIVAL_MAX;
        let mut quiet: Option<Instant> = None;
        while self.budget > 0 {
            self.dismiss_parked(Parking::close);
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            let now = Instant::now();
            let room = self.has_room(now);
            let before = self.budget;
            // Where there is no room, a request has to end first; where there is, what waits is
            // there already, or comes soon.
            let pause = match (room, lossless) {
                (false, _) => left,
                (true, 0) => Duration::ZERO,
                (true, _) => left.min(ARRIVAL_LOOK),
            };
            self.turn(Some(now + pause));
            if left.is_zero() || lossless == 0 && room && self.budget == before {
                break;
            }
            if !room || self.budget < before {
                quiet = None;
            } else if self.is_quiet(now, &mut quiet) || now >= give_up {
                break;
            }
        }
    }

    /// Whether nothing has come for long enough, and nothing is on its way.
    fn is_quiet(&self, now: Instant, since: &mut Option<Instant>) -> bool {
        let quiet = now.duration_since(*since.get_or_insert(now));
        // The look takes milliseconds where there are many sockets.
        if quiet < ARRIVAL_LOOK {
            return false;
        }
        let listeners = self.serving.listeners.iter();
        match listeners.map(Transport::arriving).max() {
            Some(Some(true)) => {
                *since = None;
                false
            }
            Some(Some(false)) => true,
            _ => quiet >= ARRIVAL_UNKNOWN,
        }
    }

    /// Waits until every request has ended, or the deadline has come and cuts them. Closes the
    /// listeners first.
    pub(super) fn drain(&mut self) -> Report {
        self.enter(State::Draining);
        (0..self.serving.listeners.len())
            .rev()
            .for_each(|index| self.close_listener(index));
        self.budget = 0;
        self.draining = true;
        self.dismiss_parked(Parking::close);
        let mut grace = None;
        loop {
            self.dispatch();
            self.tend_parked();
            self.tend_model();
            if self.is_drained() {
                break;
            }
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            if left.is_zero() && grace.is_none() {
                self.cut();
                grace = Some(Instant::now() + CUT_GRACE);
                continue;
            }
            if grace.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            self.wait(Some(grace.unwrap_or_else(|| Instant::now() + left)));
        }
        self.model.finish(self.shared.admission.live_here() > 0);
        Report {
            cut: self.shared.counters.cut_count(),
        }
    }

    /// Ends parked connections without their handlers. Those that wait for their clients go first:
    /// nothing is lost with them, and those who are in the queue may need their places.
    fn dismiss_parked(&self, take: impl Fn(&Parking<T::Request>) -> Vec<Parked<T::Request>>) {
        let service = Arc::clone(&self.serving.service);
        let parked = service.parking().map(take).unwrap_or_default();
        for parked in parked {
            service.dismiss(parked);
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.batch.requests.is_empty() && self.shared.admission.live_here() == 0
    }

    /// Ends every request that is still there.
    fn cut(&mut self) {
        self.enter(State::Cutting);
        let live = self.shared.admission.live_here();
        let cut = self.shared.registry.cut_all();
        self.shared.counters.count_cut(live.saturating_sub(cut));
        self.model.cut();
        self.dismiss_parked(Parking::take_all);
        self.shared
            .counters
            .tally(Ended::Failed, self.batch.requests.len() as u64);
        self.batch.requests.clear();
        self.batch.lease.keep(0);
    }
}
