//! The end of serving: the accept loop serves the backlog, gives idle connections their grace,
//! waits for live connections, and aborts them at the drain deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Acceptor;
use crate::accept::dispatch::Dispatch;
use crate::accept::mode::Mode;
use crate::accept::report::Report;
use crate::connection::parking::Parking;
use crate::counters::Ended;
use crate::lifecycle::{Idle, State};
use crate::net::{AcceptBatch, Transport};

/// The interval between a stop's checks for connections whose handshake began before the stop.
pub(super) const ARRIVAL_CHECK: Duration = Duration::from_millis(1);
/// How long a stop waits for such connections where the kernel cannot report them.
const ARRIVAL_UNKNOWN: Duration = Duration::from_millis(40);
/// How long a stop waits for such connections at most: longer than a round trip.
const ARRIVAL_MAX: Duration = Duration::from_secs(1);

/// How many connections a stop accepts from a listener of which the backlog's length is unknown:
/// the longest backlog of Linux unless `net.core.somaxconn` was raised.
const BACKLOG_MAX: usize = 4096;

/// How many connections of the backlog are aborted at once.
const ABORTED: u64 = 64;

/// How long handlers have to return after the drain deadline has aborted their connections.
const ABORT_GRACE: Duration = Duration::from_secs(2);

impl<T: Transport, M: Dispatch> Acceptor<'_, T, M> {
    /// Serves the backlog: connections that the kernel has accepted, and that look established to
    /// their clients.
    pub(super) fn serve_backlog(&mut self) {
        let listeners = &self.serving.listeners;
        let stopped = |listener: &T| listener.seal_backlog().unwrap_or(false);
        let lossless = listeners
            .iter()
            .filter(|listener| stopped(listener))
            .count();
        // A listener that is not sealed goes on taking in connections. Only as many as wait now are
        // accepted from it, so that a flood does not keep the server from stopping.
        let left = (lossless < listeners.len()).then(|| {
            let waiting = listeners.iter().map(Transport::waiting);
            waiting.map(|count| count.unwrap_or(BACKLOG_MAX)).sum()
        });
        self.mode = Mode::Backlog { left, accepted: 0 };
        let give_up = Instant::now() + ARRIVAL_MAX;
        let mut quiet: Option<Instant> = None;
        while self.mode.accepts() {
            self.check_idle_grace();
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            let now = Instant::now();
            let room = self.has_room(now);
            let before = self.mode.accepted();
            // Without room, a connection has to end first, and a listener may have a pause. Else
            // whatever is in the backlog is there already, or arrives soon.
            let is_paused = self.pauses().any(|pause| pause.backoff.left(now).is_some());
            let pause = match (room && !is_paused, lossless) {
                (false, _) => left,
                (true, 0) => Duration::ZERO,
                (true, _) => left.min(ARRIVAL_CHECK),
            };
            // Where a parked connection takes the room, the turn does not reach the backlog.
            let is_empty = self.turn(Some(now + pause)) && self.mode.accepted() == before;
            if left.is_zero() || lossless == 0 && is_empty {
                break;
            }
            if !is_empty {
                quiet = None;
            } else if self.is_quiet(now, &mut quiet) || now >= give_up {
                break;
            }
        }
    }

    /// Whether no connection has arrived for long enough, and none is on its way. `since` keeps the
    /// beginning of the quiet time.
    fn is_quiet(&self, now: Instant, since: &mut Option<Instant>) -> bool {
        let quiet = now.duration_since(*since.get_or_insert(now));
        // Asking the kernel takes milliseconds on a machine with many sockets.
        if quiet < ARRIVAL_CHECK {
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

    /// Ends the idle grace early where idle connections keep other clients waiting, and ends idle
    /// connections whose grace is over.
    fn check_idle_grace(&mut self) {
        let lifecycle = Arc::clone(&self.shared.lifecycle);
        let has_grace = |idle| lifecycle.closing() && !lifecycle.is_grace_over(idle);
        if has_grace(Idle::Parked) && (self.is_out_of_permits() || self.is_short_of_watches()) {
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

    /// Ends connections that wait for their next message. A connection that becomes idle later sees
    /// the stop itself.
    fn end_idle(&mut self) {
        let now = Instant::now();
        if self.idle_at.is_none_or(|at| now < at) {
            return;
        }
        let still = self.shared.registry.end_idle();
        for id in still.in_children {
            self.shared.registry.note_end(id);
            self.model.end_one(id);
        }
        self.idle_at = still.next_check.map(|left| now + left);
    }

    /// Whether clients wait in the backlog for a permit.
    fn is_out_of_permits(&self) -> bool {
        let admission = &self.shared.admission;
        (admission.is_full() || admission.is_full_here()) && self.has_backlog()
    }

    /// Whether clients wait because a parked connection cannot be watched.
    fn is_short_of_watches(&self) -> bool {
        self.has_unwatched() && self.has_backlog()
    }

    /// Whether clients wait, in the backlog or queued in the model, for a thread or a process.
    fn is_behind(&self) -> bool {
        self.model.is_behind() || self.model.room() == 0 && self.has_backlog()
    }

    fn has_backlog(&self) -> bool {
        (0..self.serving.listeners.len()).any(|index| self.has_waiting(index) == Some(true))
    }

    /// Closes the listeners, then waits until every connection has ended. Aborts those that are
    /// left at the drain deadline.
    pub(super) fn drain(&mut self) -> Report {
        self.enter(State::Draining);
        self.abort_backlog();
        (0..self.serving.listeners.len())
            .rev()
            .for_each(|index| self.close_listener(index));
        self.mode = Mode::Draining;
        let (mut abort_at, mut end) = (None, None);
        loop {
            let left = self.shared.lifecycle.drain_left().unwrap_or_default();
            if left.is_zero() && abort_at.is_none() {
                abort_at = Some(Instant::now() + self.shared.registry.abort_delay());
            }
            self.check_idle_grace();
            self.dispatch();
            self.dispatch_parked();
            self.tend_model();
            if self.is_drained() {
                break;
            }
            let now = Instant::now();
            match (abort_at, end) {
                (_, Some(end)) if now >= end => break,
                (Some(at), None) if now >= at => {
                    self.abort_rest();
                    end = Some(now + ABORT_GRACE);
                }
                _ => {
                    self.wait(end.or(abort_at).or_else(|| now.checked_add(left)));
                }
            }
        }
        let is_stuck = self.shared.admission.live_here() > 0;
        self.model.finish(is_stuck);
        self.shared.registry.finish_threads(is_stuck);
        Report {
            aborted: self.shared.counters.aborted_count(),
        }
    }

    /// Aborts the connections that are left in the backlog at the drain deadline. The backlog of a
    /// listener that cannot be sealed is left to the programs that share it.
    fn abort_backlog(&self) {
        let lifecycle = &self.shared.lifecycle;
        let late = lifecycle.drain_left().is_some_and(|left| left.is_zero());
        if !late || self.leaves {
            return;
        }
        // The registry aborts and counts each connection that is registered from now on.
        self.shared.registry.close();
        let listeners = self.serving.listeners.iter();
        for listener in listeners.filter(|listener| listener.seal_backlog().unwrap_or(false)) {
            loop {
                let mut any = false;
                let mut abort = |request| {
                    any = true;
                    self.serving.service.abort(request);
                };
                let mut batch = AcceptBatch::new(&mut abort, ABORTED, &self.shared);
                // An error ends the loop: a connection that cannot be accepted cannot be counted.
                let accepted = listener.accept(&mut batch);
                if accepted.is_err() || !any {
                    break;
                }
            }
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.batch.requests.is_empty() && self.shared.admission.live_here() == 0
    }

    /// Aborts every connection that is left.
    fn abort_rest(&mut self) {
        self.enter(State::Aborting);
        let live = self.shared.admission.live_here();
        let abort = self.shared.registry.abort_all();
        self.shared
            .counters
            .count_aborted(live.saturating_sub(abort));
        self.model.abort();
        let service = Arc::clone(&self.serving.service);
        service.dismiss_all();
        self.shared
            .counters
            .tally(Ended::Failed, self.batch.requests.len() as u64);
        self.batch.requests.clear();
        self.batch.permits.keep(0);
    }
}
