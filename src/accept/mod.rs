//! The accept loop: the one place where requests are taken from listeners, for every model that
//! accepts in one thread.
//!
//! It waits in one poll(2) for its listeners, its children and the server's wake-up event, so nothing is
//! polled in vain; it takes a place under the limit before it takes a request; and no error ends it
//! while a listener is left.

pub(crate) mod batch;
mod connections;
pub(crate) mod dispatch;
mod drain;
pub(crate) mod errors;
mod limits;
mod mode;
pub(crate) mod report;
mod take;

use std::collections::VecDeque;
use std::io;
use std::mem::take;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::errors::Pause;
use crate::accept::mode::Mode;
use crate::accept::report::{Handled, Report};
use crate::connection::parking::Parking;
use crate::counters::count;
use crate::error::{Error, Tried};
use crate::lifecycle::{Idle, State};
use crate::net::Transport;
use crate::observe::events::Limit;
use crate::observe::hooks::{self, AcceptError, Reaction, Step};
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
    /// What keeps requests that were taken from being sent on their way.
    dispatching: Pause,
    /// What keeps each listener from being accepted from.
    accepting: Vec<Pause>,
    /// The listener that gets its turn first.
    first: usize,
    /// Why serving cannot go on.
    fatal: Option<io::Error>,
    mode: Mode,
    /// How many requests are taken at once: more while they are served quickly, so that none waits
    /// long behind another that was taken with it.
    appetite: usize,
    /// Where it waits for each listener, and for the parked connections.
    sources: Vec<Source>,
    parked: Source,
    /// When deadlines of connections are looked at; `None` without connections.
    check_at: Option<Instant>,
    /// How often connections were to be aborted when it was last looked.
    asked: u64,
    /// When idle connections are ended whose grace is over; `None` once all of them were.
    idle_at: Option<Instant>,
    /// Keeps the deadlines while this thread serves.
    keeper: Option<DeadlineKeeper>,
    /// The limit that was reached when it was last looked.
    limit: Option<Limit>,
    /// Until when no other connection is looked for that makes room.
    shedding: Option<Instant>,
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
            accepting,
            first: 0,
            fatal: None,
            mode: Mode::Serving,
            appetite: 1,
            sources,
            parked: Source::default(),
            check_at: None,
            idle_at: Some(Instant::now()),
            asked: 0,
            keeper: None,
            limit: None,
            shedding: None,
        })
    }

    /// Serves until the server is asked to stop, then drains.
    pub(crate) fn serve(mut self) -> Result<Report, Error> {
        // A model that serves on this thread keeps it from seeing deadlines.
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
            self.service_actions();
        }
        // The others go on to accept from the listeners of a worker that ends alone.
        if !self.shared.lifecycle.retires() {
            self.enter(State::ServingBacklog);
            self.serve_backlog();
        }
        Ok(self.drain())
    }

    /// Goes on to `state`, unless it is that of this process alone.
    fn enter(&self, state: State) {
        if !self.shared.lifecycle.retires() {
            self.serving
                .service
                .hooks
                .enter(&self.shared.lifecycle, state);
        }
    }

    /// Why serving cannot go on, if it cannot.
    fn failure(&mut self) -> Option<Error> {
        if let Some(err) = self.fatal.take() {
            return Some(Error::new("start a process for a request", err));
        }
        self.serving.listeners.is_empty().then(|| {
            let lost = "every listener has failed; the accept error hook was told why";
            Error::new("accept requests", io::Error::other(lost))
        })
    }

    /// Serves one request, if one comes before `deadline`.
    pub(crate) fn serve_one(mut self, deadline: Option<Instant>) -> Result<Handled, Error> {
        let handled = self.take_one(deadline);
        // The server goes on with them, and the next one waits anew.
        for (listener, source) in self.serving.listeners.iter().zip(&self.sources) {
            source.release(listener.as_fd());
        }
        handled
    }

    fn take_one(&mut self, deadline: Option<Instant>) -> Result<Handled, Error> {
        self.mode = Mode::One(None);
        loop {
            match self.mode {
                Mode::One(Some(handled)) if self.batch.requests.is_empty() => return Ok(handled),
                _ => {}
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

    /// Waits once, then takes what is ready.
    fn turn(&mut self, deadline: Option<Instant>) {
        self.dispatch();
        self.tend_parked();
        self.tend_model();
        let Woken {
            mut ready, by_edge, ..
        } = self.wait(deadline);
        // None of several busy listeners is always the first to find room.
        let count = ready.len().max(1);
        self.first = self.first.wrapping_add(1);
        ready.rotate_left(self.first % count);
        let mut broken: Vec<_> = ready
            .iter()
            .copied()
            .filter(|&index| self.accept_from(index, by_edge) == Reaction::Abandon)
            .collect();
        broken.sort_unstable();
        for index in broken.into_iter().rev() {
            self.close_listener(index);
        }
    }

    fn close_listener(&mut self, index: usize) {
        let listener = self.serving.listeners.remove(index);
        self.sources.remove(index).release(listener.as_fd());
        self.accepting.remove(index);
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

    /// Whether the model can take another request.
    fn can_dispatch(&self, now: Instant) -> bool {
        self.batch.requests.is_empty()
            && self.model.room() > 0
            && self.dispatching.backoff.left(now).is_none()
    }

    /// Whether another request can be accepted.
    fn has_room(&self, now: Instant) -> bool {
        self.mode.accepts()
            && self.shared.admission.takes()
            && !self.is_shedding(now)
            && self.can_dispatch(now)
    }

    fn pauses(&mut self) -> impl Iterator<Item = &mut Pause> {
        self.accepting.iter_mut().chain([&mut self.dispatching])
    }

    /// Waits until a listener can be accepted from, and says which; or until anything else has
    /// happened.
    fn wait(&mut self, deadline: Option<Instant>) -> Woken {
        // One reading of the clock decides what is paused and how long to wait for it.
        let now = Instant::now();
        self.check(now);
        let admission = Arc::clone(&self.shared.admission);
        let service = Arc::clone(&self.serving.service);
        let paused = self.pauses().any(|pause| pause.backoff.left(now).is_some());
        let waits = !self.has_room(now) || paused || self.mode == Mode::Draining;
        let waiting = waits.then(|| admission.announce_waiting());
        if waits && self.check_again() {
            return Woken::default();
        }
        let ready = service.parking().is_some_and(Parking::has_ready);
        let leftover = (ready || !self.batch.requests.is_empty()) && self.model.room() > 0;
        if leftover && self.dispatching.backoff.left(now).is_none() {
            return Woken::default();
        }
        // Who has not announced itself is not woken for room: what was there has to be used.
        let accepting = !waits || self.has_room(now);
        let is_open =
            |index: &usize| accepting && self.accepting[*index].backoff.left(now).is_none();
        let open: Vec<_> = (0..self.serving.listeners.len()).filter(is_open).collect();
        let parking = service.parking().filter(|_| self.can_dispatch(now));
        let timeout = self.timeout(deadline, now, accepting);
        let end = timeout.and_then(|timeout| now.checked_add(timeout));

        let listener = |&index: &usize| {
            let listener = &self.serving.listeners[index];
            Awaited::readable(listener.as_fd(), &self.sources[index])
        };
        let mut fds: Vec<_> = open.iter().map(listener).collect();
        fds.extend(parking.map(|parking| Awaited::readable(parking.as_fd(), &self.parked)));
        let others = fds.len();
        let mut children = Vec::new();
        self.model.watch(&mut children);
        fds.extend(children.into_iter().map(Awaited::ended));
        let woken = self.wakeup.wait(&fds, end);
        drop((fds, waiting));
        let mut woken = match woken {
            Ok(woken) => woken,
            Err(err) => {
                self.pause(err);
                return Woken::default();
            }
        };
        if let Some(err) = woken.unwatched.take() {
            self.pause(err);
        }
        let ready = take(&mut woken.ready);
        let children = ready.iter().filter_map(|place| place.checked_sub(others));
        self.model.reap(&children.collect::<Vec<_>>());
        if woken.by == Some(WokenBy::ParentGone) {
            self.shared.lifecycle.stop_now();
        }
        // Parked connections are taken out at the next turn.
        let listeners = ready.iter().filter_map(|place| open.get(*place));
        woken.ready = listeners.copied().collect();
        woken
    }

    /// Has the model look after what is short.
    fn tend_model(&mut self) {
        if let Err((step, err)) = self.model.tend() {
            let delay = self.model.tends_in(Instant::now());
            let reaction = Reaction::Retry(delay.unwrap_or(Duration::from_secs(1)));
            self.report(step, reaction, err, None);
        }
    }

    /// Looks for what is waited for after waiting was announced: it may have come just before. Says
    /// whether all of it has.
    fn check_again(&mut self) -> bool {
        let releases = self.shared.admission.releases();
        self.pauses()
            .for_each(|pause| pause.end_if_released(releases));
        self.mode == Mode::Draining && self.is_drained()
    }

    /// How long a wait may last: until the deadline, the next service actions, the end of a pause,
    /// or until connections may have taken too long.
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
        let pauses = self.accepting.iter().chain([&self.dispatching]);
        let pauses = pauses.filter_map(|pause| pause.backoff.left(now));
        let lifecycle = &self.shared.lifecycle;
        let graces = [Idle::Parked, Idle::Held].map(|idle| lifecycle.grace_left(idle));
        // What waits in the backlog is there already, or comes soon: also where room was found only
        // just now.
        let takes_backlog = accepting && matches!(self.mode, Mode::Backlog { .. });
        let backlog = takes_backlog.then_some(drain::ARRIVAL_CHECK);
        pauses
            .chain(deadline.map(left))
            .chain(self.check_at.map(left))
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

    /// Lets time pass when the kernel has no memory to wait with.
    fn pause(&mut self, err: io::Error) {
        let reaction = self.dispatching.begin(self.shared.admission.releases());
        self.report(Step::Wait, reaction, err, None);
        if let Reaction::Retry(delay) = reaction {
            wait::pause(delay);
        }
    }

    /// Counts an error and tells the hook, at most once a second in all processes.
    fn report(&self, step: Step, reaction: Reaction, error: io::Error, index: Option<usize>) {
        count(&self.shared.counters.counts().accept_errors);
        if let Some(unreported) = self.shared.counters.pass_accept_error() {
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
