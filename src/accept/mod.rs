//! The accept loop, for every model that accepts in one thread.
//!
//! Each turn has the same steps: wait, then for each ready listener reserve permits, accept, admit,
//! dispatch. The loop waits for its listeners, its children, parked connections and the server's
//! wake-up event in one call, so it polls no flag. It reserves permits before it accepts, so limits
//! are exact. An error ends one listener at most; the loop fails when no listener is left, or when
//! the model cannot start handlers any more.

pub(crate) mod batch;
mod connections;
pub(crate) mod dispatch;
mod drain;
pub(crate) mod errors;
pub(crate) mod heartbeat;
mod limits;
mod mode;
pub(crate) mod report;
mod take;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::errors::Pause;
use crate::accept::heartbeat::Heartbeat;
use crate::accept::mode::Mode;
use crate::accept::report::{Handled, Report};
use crate::connection::parking::Parking;
use crate::counters::count;
use crate::error::{Error, Tried};
use crate::lifecycle::{Idle, State};
use crate::net::Transport;
use crate::observe::events::Limit;
use crate::observe::hooks::{self, AcceptError, Reaction, Reloading, Step};
use crate::registry::keeper::DeadlineKeeper;
use crate::shared::Shared;
use crate::sys::wakeup::WokenBy;
use crate::task::wait::{self, Awaited, Source, Wakeup, Woken};

/// The accept loop of one thread.
#[derive(Debug)]
pub(crate) struct Acceptor<'a, T: Transport, M> {
    serving: &'a mut Serving<T>,
    model: &'a mut M,
    shared: Shared,
    wakeup: Wakeup,
    batch: Batch<T::Accepted>,
    /// The pause of dispatching.
    dispatching: Pause,
    /// The pause of watching parked connections.
    watching: Pause,
    /// The pause of each listener.
    accepting: Vec<Pause>,
    /// Rotates which of several ready listeners has its turn first.
    first: usize,
    /// Why serving cannot go on.
    fatal: Option<io::Error>,
    mode: Mode,
    /// Only this process of the server ends. Decided once: a stop of the server that comes later leaves the backlog to others.
    leaves: bool,
    /// The largest batch to accept: it grows while batches are dispatched quickly, so that no entry
    /// waits long behind another one of its batch.
    batch_max: usize,
    /// The wait state of each listener, and of the parked connections.
    sources: Vec<Source>,
    parked: Source,
    /// When to check deadlines next; `None` without connections.
    check_at: Option<Instant>,
    /// The count of abort requests at the last check.
    aborts_seen: u64,
    /// When to end idle connections next, once their grace is over; `None` when all have ended.
    idle_at: Option<Instant>,
    /// Keeps deadlines while this thread runs handlers.
    keeper: Option<DeadlineKeeper>,
    /// The limit that was reached at the last check.
    limit: Option<Limit>,
    /// When to search for another connection to shed.
    shedding: Option<Instant>,
    heartbeat: Heartbeat,
}

impl<'a, T: Transport, M: Dispatch> Acceptor<'a, T, M> {
    pub(crate) fn new(
        serving: &'a mut Serving<T>,
        model: &'a mut M,
        name: &str,
    ) -> Result<Self, Error> {
        model
            .start(&serving.service.shared)
            .tried(|| format!("start the {name} model"))?;
        serving
            .service
            .prepare_parking()
            .tried(|| "create an epoll instance".to_owned())?;
        let shared = serving.service.shared.clone();
        let lifeline = serving.lifeline.as_ref().map(AsFd::as_fd);
        let wakeup = Wakeup::new(shared.lifecycle.wakeup_event(), lifeline);
        let wakeup = wakeup.tried(|| "create an epoll instance".to_owned())?;
        let batch = Batch {
            requests: VecDeque::new(),
            permits: shared.admission.reserve(0),
        };
        let mut accepting = Vec::new();
        accepting.resize_with(serving.listeners.len(), Pause::default);
        let mut sources = Vec::new();
        sources.resize_with(serving.listeners.len(), Source::default);
        Ok(Self {
            serving,
            model,
            shared,
            wakeup,
            batch,
            dispatching: Pause::default(),
            watching: Pause::default(),
            accepting,
            first: 0,
            fatal: None,
            mode: Mode::Serving,
            leaves: false,
            batch_max: 1,
            sources,
            parked: Source::default(),
            check_at: None,
            idle_at: Some(Instant::now()),
            aborts_seen: 0,
            keeper: None,
            limit: None,
            shedding: None,
            heartbeat: Heartbeat::default(),
        })
    }

    /// Serves until the server is asked to stop, then drains.
    pub(crate) fn serve(mut self) -> Result<Report, Error> {
        // A model that runs handlers on this thread keeps it from checking deadlines.
        let Serving {
            lifeline,
            listeners,
            ..
        } = &self.serving;
        let lifeline = lifeline.as_ref().map(AsFd::as_fd);
        let keeper = M::SERVES_HERE
            .then(|| DeadlineKeeper::start(&self.shared.registry, lifeline, listeners));
        self.keeper = keeper.transpose()?;
        if !self.shared.lifecycle.acknowledge() && !self.shared.lifecycle.stopping() {
            self.serving.service.hooks.ready();
            self.enter(State::Running);
        }
        while !self.shared.lifecycle.closing() {
            if self.shared.lifecycle.stopping() {
                self.enter(State::LameDuck);
            }
            if let Some(err) = self.failure() {
                self.shared.lifecycle.fail();
                self.shared.lifecycle.stop_now();
                self.drain();
                return Err(err);
            }
            self.turn(None);
            self.shared.lifecycle.retire_if_due();
            self.service_actions();
        }
        // Where only this worker ends, the other workers accept from the same listeners.
        self.leaves = self.shared.lifecycle.retires();
        if !self.leaves {
            self.enter(State::ServingBacklog);
            self.serve_backlog();
        }
        Ok(self.drain())
    }

    /// Advances the server to `state`, unless only this process stops.
    fn enter(&self, state: State) {
        if !self.leaves && !self.shared.lifecycle.retires() {
            self.serving
                .service
                .hooks
                .enter(&self.shared.lifecycle, state);
        }
    }

    /// The error that ends serving, if there is one.
    fn failure(&mut self) -> Option<Error> {
        if let Some(err) = self.fatal.take() {
            return Some(Error::new("start a process for a connection", err));
        }
        self.serving.listeners.is_empty().then(|| {
            let lost =
                "every listener has failed; the `on_accept_error` hook has received the errors";
            Error::new("accept connections", io::Error::other(lost))
        })
    }

    /// Serves one connection or datagram, if one comes before `deadline`.
    pub(crate) fn serve_one(mut self, deadline: Option<Instant>) -> Result<Handled, Error> {
        let handled = self.take_one(deadline);
        // The server keeps its listeners, and the next accept loop waits for them anew.
        for (listener, source) in self.serving.listeners.iter().zip(&self.sources) {
            source.release(listener.as_fd());
        }
        if let Some(parking) = self.serving.service.parking() {
            self.parked.release(parking.as_fd());
        }
        handled
    }

    fn take_one(&mut self, deadline: Option<Instant>) -> Result<Handled, Error> {
        self.mode = Mode::One(None);
        if self.serving.service.parking().is_some() {
            // The calls may be too short for another check.
            let now = Instant::now();
            self.check_at = Some(now);
            self.check(now);
        }
        loop {
            // Those that still lack input are parked again: each has one turn.
            for _ in 0..self.shared.admission.live_here() {
                if !self.dispatch_parked() || self.handled().is_some() {
                    break;
                }
            }
            if let Some(handled) = self.handled() {
                return Ok(handled);
            }
            if self.shared.lifecycle.stopping() {
                return Ok(Handled::Stopping);
            }
            if let Some(err) = self.failure() {
                return Err(err);
            }
            self.turn(deadline);
            if self.mode.accepts() && deadline.is_some_and(|end| Instant::now() >= end) {
                return Ok(Handled::TimedOut);
            }
        }
    }

    /// What has become of the one connection or datagram that the loop was to serve, once the model has it.
    fn handled(&self) -> Option<Handled> {
        match self.mode {
            Mode::One(handled) if self.batch.requests.is_empty() => handled,
            _ => None,
        }
    }

    /// One turn of the accept loop: dispatches what is left of the last turn, waits, and then
    /// reserves, accepts, admits and dispatches for each ready listener. Returns whether it has found
    /// the backlog of every listener empty.
    fn turn(&mut self, deadline: Option<Instant>) -> bool {
        self.dispatch();
        self.dispatch_parked();
        self.tend_model();
        if self.handled().is_some() {
            return false;
        }
        let (woken, looked) = self.wait(deadline);
        self.reload();
        let Woken {
            mut ready, by_edge, ..
        } = woken;
        // Rotated, so that no listener always finds room first.
        let count = ready.len().max(1);
        self.first = self.first.wrapping_add(1);
        ready.rotate_left(self.first % count);
        let mut broken: Vec<_> = ready
            .iter()
            .copied()
            .filter(|&index| self.accept_from(index, by_edge) == Reaction::Abandon)
            .collect();
        let is_drained = |index: &usize| self.accepting[*index].drained;
        let is_empty = looked && ready.iter().all(is_drained);
        broken.sort_unstable();
        for index in broken.into_iter().rev() {
            self.close_listener(index);
        }
        is_empty
    }

    fn close_listener(&mut self, index: usize) {
        let listener = self.serving.listeners.remove(index);
        self.sources.remove(index).release(listener.as_fd());
        self.accepting.remove(index);
    }

    /// Carries out a reload, if one is due and no other thread or process does so.
    fn reload(&self) {
        let lifecycle = &self.shared.lifecycle;
        let Some(taken) = lifecycle.take_reload() else {
            return;
        };
        let hooks = &self.serving.service.hooks;
        // The supervisor of workers has announced it.
        let announces = !lifecycle.processes().is_worker();
        if announces {
            hooks.reloading(Reloading::Begins);
        }
        hooks.reload();
        if announces {
            hooks.reloading(Reloading::Ended);
        }
        lifecycle.finish_reload(taken);
    }

    fn service_actions(&self) {
        if self.shared.lifecycle.closing() {
            return;
        }
        if let Some((_, hook)) = &self.serving.service.hooks.service_actions {
            if let Err(panic) = hooks::call(hook) {
                self.report_now(
                    Step::ServiceActions,
                    Reaction::Continue,
                    io::Error::other(panic),
                    None,
                    0,
                );
            }
        }
    }

    /// Whether the model can take another connection or datagram.
    fn can_dispatch(&self, now: Instant) -> bool {
        self.batch.requests.is_empty()
            && self.model.room() > 0
            && self.dispatching.backoff.left(now).is_none()
    }

    /// Whether another connection or datagram can be accepted.
    fn has_room(&self, now: Instant) -> bool {
        self.mode.accepts()
            && self.shared.admission.may_accept()
            && !self.is_shedding(now)
            && !self.has_unwatched()
            && self.can_dispatch(now)
    }

    fn pauses(&mut self) -> impl Iterator<Item = &mut Pause> {
        let others = [&mut self.dispatching, &mut self.watching];
        self.accepting.iter_mut().chain(others)
    }

    /// Waits until a listener can be accepted from, or until another event, and reaps children that
    /// have ended. The indexes of the ready listeners are in [`Woken::ready`]; the other value says
    /// whether it has waited for every listener.
    fn wait(&mut self, deadline: Option<Instant>) -> (Woken, bool) {
        // One clock reading decides which pauses hold and how long the wait may last.
        let now = Instant::now();
        let hooks = &self.serving.service.hooks;
        self.heartbeat.beat(hooks, &self.shared.lifecycle, now);
        self.check(now);
        let paused = self.pauses().any(|pause| pause.backoff.left(now).is_some());
        let waits = !self.has_room(now) || paused || self.mode == Mode::Draining;
        let admission = Arc::clone(&self.shared.admission);
        let waiting = waits.then(|| admission.announce_waiting());
        if waits && self.check_again() || self.has_leftover(now) {
            return (Woken::default(), false);
        }
        // A loop that is not registered is not woken for room, so it uses the room that it has
        // found.
        let accepting = !waits || self.has_room(now);
        let (open, parked) = (self.open_listeners(now, accepting), self.can_dispatch(now));
        let timeout = self.timeout(deadline, now, !open.is_empty());
        let end = timeout.and_then(|timeout| now.checked_add(timeout));
        let waited = self.wait_for(&open, parked, end);
        drop(waiting);
        let (mut woken, ended) = match waited {
            Ok(waited) => waited,
            Err(err) => {
                self.pause(err);
                return (Woken::default(), false);
            }
        };
        if let Some(err) = woken.unwatched.take() {
            self.pause(err);
        }
        self.model.reap(&ended);
        if woken.by == Some(WokenBy::ParentGone) {
            self.shared.lifecycle.stop_now();
        }
        (woken, open.len() == self.serving.listeners.len())
    }

    /// Whether the model can take what an earlier turn has accepted, or has found parked and ready.
    fn has_leftover(&self, now: Instant) -> bool {
        let parking = self.serving.service.parking();
        let ready = parking.is_some_and(Parking::has_ready);
        let leftover = (ready || !self.batch.requests.is_empty()) && self.model.room() > 0;
        leftover && self.dispatching.backoff.left(now).is_none()
    }

    /// The indexes of the listeners that are not paused; none unless `accepting`.
    fn open_listeners(&self, now: Instant, accepting: bool) -> Vec<usize> {
        let is_open =
            |index: &usize| accepting && self.accepting[*index].backoff.left(now).is_none();
        (0..self.serving.listeners.len()).filter(is_open).collect()
    }

    /// Waits for the listeners `open`, for children, and if `parked` for parked connections.
    /// Returns the indexes of the ready listeners, and the indexes of the children that have ended.
    fn wait_for(
        &self,
        open: &[usize],
        parked: bool,
        end: Option<Instant>,
    ) -> io::Result<(Woken, Vec<usize>)> {
        let listener = |&index: &usize| {
            let listener = &self.serving.listeners[index];
            Awaited::readable(listener.as_fd(), &self.sources[index])
        };
        // The parked connections and the wake-up event come behind the listeners.
        let mut fds = Vec::with_capacity(open.len() + 2);
        fds.extend(open.iter().map(listener));
        let parking = self.serving.service.parking().filter(|_| parked);
        fds.extend(parking.map(|parking| Awaited::readable(parking.as_fd(), &self.parked)));
        let first_child = fds.len();
        let mut children = Vec::new();
        self.model.watch(&mut children);
        fds.extend(children.into_iter().map(Awaited::ended));
        let mut woken = self.wakeup.wait(fds, end)?;
        let mut ended = Vec::new();
        // The next turn dispatches parked connections.
        woken.ready.retain_mut(|fd| {
            ended.extend(fd.checked_sub(first_child));
            let listener = open.get(*fd);
            listener.inspect(|index| *fd = **index).is_some()
        });
        Ok((woken, ended))
    }

    /// Has the model retry what has failed for lack of a resource.
    fn tend_model(&mut self) {
        if let Err((step, err)) = self.model.tend() {
            let delay = self.model.tends_in(Instant::now());
            let reaction = Reaction::Retry(delay.unwrap_or(Duration::from_secs(1)));
            self.report(step, reaction, err, None);
        }
    }

    /// Checks again after the loop has registered as a waiter: a release or the end of the drain
    /// may have come just before. Returns whether the drain has ended.
    fn check_again(&mut self) -> bool {
        let releases = self.shared.admission.releases();
        self.pauses()
            .for_each(|pause| pause.end_if_released(releases));
        self.mode == Mode::Draining && self.is_drained()
    }

    /// How long a wait may last: until the deadline, the next service actions, the end of a pause,
    /// or the next check of connections.
    fn timeout(
        &self,
        deadline: Option<Instant>,
        now: Instant,
        accepting: bool,
    ) -> Option<Duration> {
        let service = &self.serving.service;
        let period = service
            .hooks
            .service_actions
            .as_ref()
            .map(|(period, _)| *period);
        let left = |end: Instant| end.saturating_duration_since(now);
        let others = [&self.dispatching, &self.watching];
        let pauses = self.accepting.iter().chain(others);
        let pauses = pauses.filter_map(|pause| pause.backoff.left(now));
        let lifecycle = &self.shared.lifecycle;
        let graces = [Idle::Parked, Idle::Held].map(|idle| lifecycle.grace_left(idle));
        // The backlog of a stop is there already, or arrives soon; also if room was found only now.
        let parking = self.serving.service.parking();
        let parking = parking.filter(|_| self.can_dispatch(now));
        let takes_backlog = accepting && matches!(self.mode, Mode::Backlog { .. });
        let backlog = takes_backlog.then_some(drain::ARRIVAL_CHECK);
        let watching = self.has_unwatched().then_some(&self.watching.backoff);
        pauses
            .chain(watching.map(|backoff| backoff.left(now).unwrap_or_default()))
            .chain(deadline.map(left))
            .chain(self.check_at.map(left))
            .chain(self.heartbeat.due().map(left))
            .chain(parking.and_then(Parking::next_alarm))
            .chain(self.limits_change_in())
            .chain(self.model.tends_in(now))
            .chain(
                self.idle_at
                    .filter(|_| lifecycle.is_grace_over(Idle::Held))
                    .map(left),
            )
            .chain(
                [lifecycle.lame_left()]
                    .into_iter()
                    .chain(graces)
                    .flatten()
                    .filter(|left| !left.is_zero()),
            )
            .chain(period)
            .chain(backlog)
            .min()
    }

    /// Pauses after a wait has failed: the kernel has no memory for it.
    fn pause(&mut self, err: io::Error) {
        let reaction = self.dispatching.begin(self.shared.admission.releases());
        self.report(Step::Wait, reaction, err, None);
        if let Reaction::Retry(delay) = reaction {
            wait::pause(delay);
        }
    }

    /// Counts an error, and reports it to the hook: at most once a second in all processes.
    fn report(&self, step: Step, reaction: Reaction, error: io::Error, index: Option<usize>) {
        count(&self.shared.counters.counts().accept_errors);
        let passed = self.shared.counters.pass_accept_error();
        // A listener is abandoned once: its report is never left out.
        let always = (reaction == Reaction::Abandon).then_some(0);
        if let Some(unreported) = passed.or(always) {
            self.report_now(step, reaction, error, index, unreported);
        }
    }

    fn report_now(
        &self,
        step: Step,
        reaction: Reaction,
        error: io::Error,
        index: Option<usize>,
        unreported: u64,
    ) {
        let listener = index.map(|index| self.serving.listeners[index].url());
        self.serving.service.hooks.report(&AcceptError {
            listener,
            step,
            reaction,
            error,
            unreported,
        });
    }
}
