//! How serving ends: the backlog is taken, idle connections have their grace, what is live is waited
//! for, and at the deadline it is cut.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::accept::mode::Mode;
use crate::accept::report::Report;
use crate::connection::parking::Parking;
use crate::counters::Ended;
use crate::lifecycle::{Idle, State};
use crate::transport::{Intake, Transport};

/// How often a stop looks for connections whose handshake had begun before it, how long it waits
/// for them where it cannot look, and how long at most: more than a round trip takes.
pub(super) const ARRIVAL_LOOK: Duration = Duration::from_millis(1);
const ARRIVAL_UNKNOWN: Duration = Duration::from_millis(40);
const ARRIVAL_MAX: Duration = Duration::from_secs(1);

/// How many requests a stop takes from a listener that cannot say how many wait: the longest queue
/// that Linux has unless `net.core.somaxconn` was raised.
const QUEUE_MAX: usize = 4096;

/// How many connections are aborted together.
const ABORTED: u64 = 64;

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
        let left = (lossless < listeners.len()).then(|| {
            let waiting = listeners.iter().map(Transport::waiting);
            waiting.map(|count| count.unwrap_or(QUEUE_MAX)).sum()
        });
        self.mode = Mode::Backlog { left, accepted: 0 };
        let give_up = Instant::now() + ARRIVAL_MAX;
        let mut quiet: Option<Instant> = None;
        while self.mode.accepts() {
            self.tend_idle();
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            let now = Instant::now();
            let room = self.has_room(now);
            let before = self.mode.taken();
            // Where there is no room, a request has to end first; where there is, what waits is
            // there already, or comes soon.
            let pause = match (room, lossless) {
                (false, _) => left,
                (true, 0) => Duration::ZERO,
                (true, _) => left.min(ARRIVAL_LOOK),
            };
            self.turn(Some(now + pause));
            let accepted = self.mode.taken() > before;
            if left.is_zero() || lossless == 0 && room && !accepted {
                break;
            }
            if !room || accepted {
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

    /// Ends the grace where nobody has one: others wait for what idle connections have. Ends idle
    /// connections whose grace is over.
    fn tend_idle(&mut self) {
        let lifecycle = Arc::clone(&self.shared.lifecycle);
        let has_grace = |idle| lifecycle.closing() && !lifecycle.is_grace_over(idle);
        if has_grace(Idle::Parked) && self.is_out_of_permits() {
            lifecycle.end_grace(Idle::Parked);
            lifecycle.end_grace(Idle::Held);
        }
        if has_grace(Idle::Held) && self.is_behind() {
            lifecycle.end_grace(Idle::Held);
        }
        if lifecycle.is_grace_over(Idle::Parked) {
            let service = Arc::clone(&self.serving.service);
            let idle = service.parking().map(Parking::close).unwrap_or_default();
            for parked in idle {
                service.dismiss(parked);
            }
        }
        if lifecycle.is_grace_over(Idle::Held) {
            self.end_idle();
        }
    }

    /// Ends connections between messages. Those that become idle from now on see the stop.
    fn end_idle(&mut self) {
        let now = Instant::now();
        if self.idle_at.is_none_or(|at| now < at) {
            return;
        }
        let found = self.shared.registry.end_idle();
        for id in found.elsewhere {
            self.shared.registry.note_end(id);
            self.model.end_one(id);
        }
        self.idle_at = found.again.map(|left| now + left);
    }

    /// Whether others wait in the backlog for a permit.
    fn is_out_of_permits(&self) -> bool {
        let admission = &self.shared.admission;
        (admission.is_full() || admission.is_full_here()) && self.has_backlog()
    }

    /// Whether others wait, in the backlog or after it, for what they are served with.
    fn is_behind(&self) -> bool {
        self.model.is_behind() || self.model.room() == 0 && self.has_backlog()
    }

    fn has_backlog(&self) -> bool {
        (0..self.serving.listeners.len()).any(|index| self.has_waiting(index) == Some(true))
    }

    /// Waits until every request has ended, or the deadline has come and cuts them. Closes the
    /// listeners first.
    pub(super) fn drain(&mut self) -> Report {
        self.enter(State::Draining);
        self.abort_backlog();
        (0..self.serving.listeners.len())
            .rev()
            .for_each(|index| self.close_listener(index));
        self.mode = Mode::Draining;
        let (mut cut_at, mut end) = (None, None);
        loop {
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            if left.is_zero() && cut_at.is_none() {
                cut_at = Some(Instant::now() + self.shared.registry.notice());
            }
            self.tend_idle();
            self.dispatch();
            self.tend_parked();
            self.tend_model();
            if self.is_drained() {
                break;
            }
            let now = Instant::now();
            match (cut_at, end) {
                (_, Some(end)) if now >= end => break,
                (Some(at), None) if now >= at => {
                    self.cut();
                    end = Some(now + CUT_GRACE);
                }
                _ => {
                    self.wait(end.or(cut_at).or_else(|| now.checked_add(left)));
                }
            }
        }
        let is_stuck = self.shared.admission.live_here() > 0;
        self.model.finish(is_stuck);
        self.shared.registry.finish_threads(is_stuck);
        Report {
            cut: self.shared.counters.cut_count(),
        }
    }

    /// Aborts the clients that are left in the backlog at the drain deadline. What is left in one that
    /// other programs share is theirs.
    fn abort_backlog(&self) {
        let lifecycle = &self.shared.lifecycle;
        let late = lifecycle.drain_left().is_some_and(|left| left.is_zero());
        if !late || lifecycle.retires() {
            return;
        }
        // What is accepted from now on is cut, and counted as that.
        self.shared.registry.close();
        let listeners = self.serving.listeners.iter();
        for listener in listeners.filter(|listener| listener.stop_intake().unwrap_or(false)) {
            loop {
                let mut left = VecDeque::new();
                let mut intake = Intake::new(&mut left, ABORTED, &self.shared);
                // An error ends it: what cannot be accepted cannot be counted.
                let accepted = listener.accept(&mut intake);
                if accepted.is_err() || left.is_empty() {
                    break;
                }
                for request in left {
                    self.serving.service.abort(request);
                }
            }
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
        let service = Arc::clone(&self.serving.service);
        for parked in service.parking().map(Parking::take_all).unwrap_or_default() {
            service.dismiss(parked);
        }
        self.shared
            .counters
            .tally(Ended::Failed, self.batch.requests.len() as u64);
        self.batch.requests.clear();
        self.batch.lease.keep(0);
    }
}
