//! The accept loop: the one place where requests are taken from listeners, for every model that
//! accepts in one thread.
//!
//! It waits in one poll(2) for its listeners, its children and the server's bell, so nothing is
//! polled in vain; it takes a place under the limit before it takes a request; and no error ends it
//! while a listener is left.

pub(crate) mod batch;
mod connections;
pub(crate) mod dispatch;
mod drain;
pub(crate) mod errors;
mod limits;
pub(crate) mod report;
mod take;

use std::collections::VecDeque;
use std::io;
use std::mem::take;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::errors::Pause;
use crate::accept::report::{Handled, Report};
use crate::connection::parking::Parking;
use crate::coro::net::{Interest, Source, wait_any};
use crate::coro::worker::{Current, current};
use crate::counters::count;
use crate::error::{Error, Tried};
use crate::lifecycle::State;
use crate::observe::events::Limit;
use crate::observe::hooks::{self, AcceptError, Reaction, Step};
use crate::registry::keeper::Cutter;
use crate::shared::Shared;
use crate::sys::bell::{Heard, Watch};
use crate::sys::timespec;
use crate::transport::Transport;

/// What a coroutine knows of its listeners: edges tell it what else would have to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    /// One of them was the reason to wake up.
    Ready,
    /// Nothing was left in any that was ready; an edge says when something is.
    Drained,
}

/// The accept loop of one thread.
#[derive(Debug)]
pub(crate) struct Acceptor<'a, T: Transport, M> {
    serving: &'a mut Serving<T>,
    model: &'a mut M,
    shared: Shared,
    watch: Watch,
    batch: Batch<T::Request>,
    /// What keeps requests that were taken from being sent on their way.
    dispatching: Pause,
    /// What keeps each listener from being accepted from.
    accepting: Vec<Pause>,
    /// The listener that gets its turn first.
    first: usize,
    /// Why serving cannot go on.
    fatal: Option<io::Error>,
    /// How many requests may still be taken.
    budget: usize,
    /// Whether the last request that was taken was turned away.
    turned_away: bool,
    /// How many requests are taken at once: more while they are served quickly, so that none waits
    /// long behind another that was taken with it.
    appetite: usize,
    /// Where a coroutine waits for the bell, the listeners, and the parked connections.
    watched: Source,
    readable: Source,
    parked: Source,
    /// In a coroutine: what is known of the listeners without asking.
    known: Known,
    /// When deadlines of connections are looked at; `None` without connections.
    look_at: Option<Instant>,
    /// How often connections were asked to be cut when it was last looked.
    asked: u64,
    /// Keeps the deadlines while this thread serves.
    cutter: Option<Cutter>,
    /// The limit that was reached when it was last looked.
    limit: Option<Limit>,
    /// Until when no other connection is looked for that makes room.
    shedding: Option<Instant>,
    /// Whether the listeners are closed and the last requests are waited for.
    draining: bool,
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
        let watch = Watch::new(shared.lifecycle.bell(), lifeline)
            .tried(|| "create an epoll instance".to_owned())?;
        let batch = Batch {
            requests: VecDeque::new(),
            lease: shared.admission.lease(0),
        };
        let mut accepting = Vec::new();
        accepting.resize_with(serving.listeners.len(), Pause::default);
        Ok(Self {
            serving,
            model,
            shared,
            watch,
            batch,
            dispatching: Pause::default(),
            accepting,
            first: 0,
            fatal: None,
            budget: usize::MAX,
            turned_away: false,
            appetite: 1,
            watched: Source::default(),
            readable: Source::default(),
            parked: Source::default(),
            known: Known::default(),
            look_at: None,
            asked: 0,
            cutter: None,
            limit: None,
            shedding: None,
            draining: false,
        })
    }

    /// Serves until the server is asked to stop, then drains.
    pub(crate) fn serve(mut self) -> Result<Report, Error> {
        // A model that serves on this thread keeps it from seeing deadlines.
        let lifeline = self.serving.lifeline.as_ref().map(AsFd::as_fd);
        let cutter = M::SERVES_HERE.then(|| Cutter::start(&self.shared.registry, lifeline));
        self.cutter = cutter.transpose()?;
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
                self.shared
                    .lifecycle
                    .stop(self.shared.lifecycle.drain_timeout());
                self.drain();
                return Err(err);
            }
            self.turn(None);
            self.service_actions();
        }
        // The others go on to accept from the listeners of a worker that ends alone.
        if !self.shared.lifecycle.retires() {
            self.enter(State::TakingQueue);
            self.take_queue();
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
        self.budget = 1;
        loop {
            if self.budget == 0 && self.batch.requests.is_empty() {
                let refused = self.turned_away;
                return Ok(if refused {
                    Handled::Refused
                } else {
                    Handled::Served
                });
            }
            if self.shared.lifecycle.stopping() {
                return Ok(Handled::Stopping);
            }
            if let Some(err) = self.failure() {
                return Err(err);
            }
            let ready = self.turn(deadline);
            if !ready && self.budget > 0 && deadline.is_some_and(|end| Instant::now() >= end) {
                return Ok(Handled::TimedOut);
            }
        }
    }

    /// Waits once, then takes what is ready. Says whether anything was.
    fn turn(&mut self, deadline: Option<Instant>) -> bool {
        self.dispatch();
        self.tend_parked();
        self.tend_model();
        let mut ready = self.wait(deadline);
        // None of several busy listeners is always the first to find room.
        let count = ready.len().max(1);
        let hinted = self.known == Known::Ready;
        if !ready.is_empty() {
            self.known = Known::Drained;
        }
        self.first = self.first.wrapping_add(1);
        ready.rotate_left(self.first % count);
        let mut broken: Vec<_> = ready
            .iter()
            .copied()
            .filter(|&index| self.accept_from(index, hinted) == Reaction::Abandon)
            .collect();
        broken.sort_unstable();
        for index in broken.into_iter().rev() {
            self.serving.listeners.remove(index);
            self.accepting.remove(index);
        }
        !ready.is_empty()
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
        self.budget > 0
            && self.shared.admission.takes()
            && !self.is_shedding(now)
            && self.can_dispatch(now)
    }

    fn pauses(&mut self) -> impl Iterator<Item = &mut Pause> {
        self.accepting.iter_mut().chain([&mut self.dispatching])
    }

    /// Waits until a listener can be accepted from, and returns which; or until anything else has
    /// happened.
    fn wait(&mut self, deadline: Option<Instant>) -> Vec<usize> {
        // One reading of the clock decides what is paused and how long to wait for it.
        let now = Instant::now();
        self.look(now);
        let admission = Arc::clone(&self.shared.admission);
        let service = Arc::clone(&self.serving.service);
        let paused = self.pauses().any(|pause| pause.backoff.left(now).is_some());
        let waits = !self.has_room(now) || paused || self.draining;
        let waiting = waits.then(|| admission.announce_waiting());
        if waits && self.look_again() {
            return Vec::new();
        }
        let ready = service.parking().is_some_and(Parking::has_ready);
        let leftover = (ready || !self.batch.requests.is_empty()) && self.model.room() > 0;
        if leftover && self.dispatching.backoff.left(now).is_none() {
            return Vec::new();
        }
        // Who has not announced itself is not woken for room: what was there has to be used.
        let accepting = !waits || self.has_room(now);
        let is_open =
            |index: &usize| accepting && self.accepting[*index].backoff.left(now).is_none();
        let open: Vec<_> = (0..self.serving.listeners.len()).filter(is_open).collect();
        let parking = service.parking().filter(|_| self.can_dispatch(now));
        let timeout = self.timeout(deadline, now, accepting);
        let coroutine = current();
        let known = take(&mut self.known);
        let knows = coroutine
            .as_ref()
            .filter(|_| !waits && parking.is_none() && known != Known::Nothing);
        if let Some(current) = knows {
            return self.wait_knowing(known, current, open, timeout);
        }
        let poll_timeout = coroutine.as_ref().map_or(timeout, |_| Some(Duration::ZERO));

        let mut fds = Vec::with_capacity(2 + open.len());
        fds.push(PollFd::new(&self.watch, PollFlags::IN));
        let listeners = open
            .iter()
            .map(|&index| self.serving.listeners[index].as_fd());
        let waited = listeners.chain(parking.iter().map(|parking| parking.as_fd()));
        fds.extend(waited.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        self.model.watch(&mut fds);
        match poll(&mut fds, poll_timeout.map(timespec).as_ref()) {
            Ok(0) if coroutine.is_some() => {
                drop(fds);
                if let Some(current) = coroutine {
                    self.park(&current, !open.is_empty(), parking, timeout);
                }
                return Vec::new();
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => return Vec::new(),
            Ok(_) => {}
            Err(err) => {
                drop((fds, waiting));
                self.pause(err.into());
                return Vec::new();
            }
        }
        let is_ready = |(at, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(at);
        let (heard, fds) = (!fds[0].revents().is_empty(), &fds[1..]);
        let (listeners, fds) = fds.split_at(open.len());
        // Parked connections are taken out at the next turn.
        let children = &fds[parking.iter().count()..];
        let ready = listeners
            .iter()
            .enumerate()
            .filter_map(is_ready)
            .map(|at| open[at])
            .collect();
        let ended: Vec<_> = children.iter().enumerate().filter_map(is_ready).collect();
        self.model.reap(&ended);
        if heard {
            self.hear();
        }
        ready
    }

    /// Has the model look after what is short.
    fn tend_model(&mut self) {
        if let Err((step, err)) = self.model.tend() {
            let delay = self.model.tends_in(Instant::now());
            let reaction = Reaction::Retry(delay.unwrap_or(Duration::from_secs(1)));
            self.report(step, reaction, err, None);
        }
    }

    /// As [`wait`](Self::wait), where edges have told what poll(2) would be asked.
    fn wait_knowing(
        &mut self,
        known: Known,
        current: &Current,
        open: Vec<usize>,
        timeout: Option<Duration>,
    ) -> Vec<usize> {
        if known == Known::Ready {
            self.known = known;
            return open;
        }
        self.park(current, true, None, timeout);
        Vec::new()
    }

    /// Looks for what is waited for after waiting was announced: it may have come just before. Says
    /// whether all of it has.
    fn look_again(&mut self) -> bool {
        let releases = self.shared.admission.releases();
        self.pauses()
            .for_each(|pause| pause.end_if_released(releases));
        self.draining && self.is_drained()
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
        // While a stop takes the queue, what waits is there already, or comes soon: also where room
        // was found only just now.
        let queue = (accepting && self.shared.lifecycle.closing()).then_some(drain::ARRIVAL_LOOK);
        pauses
            .chain(deadline.map(left))
            .chain(self.look_at.map(left))
            .chain(self.limits_change_in())
            .chain(self.model.tends_in(now))
            .chain(
                self.shared
                    .lifecycle
                    .lame_left()
                    .filter(|left| !left.is_zero()),
            )
            .chain(period)
            .chain(queue)
            .min()
    }

    /// Waits in a coroutine, where the next turn then finds what has come.
    fn park(
        &mut self,
        current: &Current,
        accepting: bool,
        parking: Option<&Parking<T::Request>>,
        timeout: Option<Duration>,
    ) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut sources = vec![(&self.watched, self.watch.as_fd())];
        sources.extend(accepting.then(|| (&self.readable, self.serving.ready.as_fd())));
        sources.extend(parking.map(|parking| (&self.parked, parking.as_fd())));
        // It ends at the deadline, or because something has come.
        let woken = wait_any(current, &sources, Interest::Read, deadline);
        match woken {
            Ok(1) if accepting => self.known = Known::Ready,
            Ok(_) => {}
            Err(err) => match err.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::ConnectionAborted => {}
                // A descriptor could not be watched.
                _ => self.pause(err),
            },
        }
    }

    /// Lets time pass when the kernel has no memory to wait with.
    fn pause(&mut self, err: io::Error) {
        let reaction = self.dispatching.begin(self.shared.admission.releases());
        self.report(Step::Wait, reaction, err, None);
        match (reaction, current()) {
            (Reaction::Retry(delay), Some(current)) => {
                let end = Instant::now().checked_add(delay);
                let _ = wait_any(&current, &[], Interest::Read, end);
            }
            (Reaction::Retry(delay), None) => std::thread::park_timeout(delay),
            _ => {}
        }
    }

    fn hear(&mut self) {
        match self.watch.hear() {
            Ok(Heard::Bell) => {}
            Ok(Heard::Orphaned) => self
                .shared
                .lifecycle
                .stop(self.shared.lifecycle.drain_timeout()),
            Err(err) => self.pause(err),
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
