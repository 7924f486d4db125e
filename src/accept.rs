//! The accept loop: the one place where requests are taken from listeners, for every model that
//! accepts in one thread.
//!
//! It waits in one poll(2) for its listeners, its children and the server's bell, so nothing is
//! polled in vain; it takes a place under the limit before it takes a request; and no error ends it
//! while a listener is left.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::backoff::{Backoff, Class, Throttle, classify};
use crate::coro::net::{Interest, Source, wait_any};
use crate::coro::worker::{Current, current};
use crate::cutter::Cutter;
use crate::error::{Error, Tried};
use crate::hooks::{self, AcceptError, Reaction, Step};
use crate::model::{Serving, Take};
use crate::parking::{Parked, Parking};
use crate::server::{Handled, Report};
use crate::service::{Job, count};
use crate::state::{Lease, Shared};
use crate::sys::bell::{Heard, Watch};
use crate::sys::timespec;
use crate::transport::{Intake, Request, Transport};

/// How many times one listener is asked in a row before the others, the children and the stop get
/// their turn.
const TURN_MAX: usize = 16;

/// How long a batch may take to be served before the next one is smaller.
const PATIENCE: Duration = Duration::from_millis(1);

/// How long a stop goes on taking what the kernel has accepted for us. A flood must not keep the
/// server from stopping.
const QUEUE_TIME: Duration = Duration::from_secs(1);

/// How long, after the drain deadline has cut all requests, their handlers are given to notice.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// Requests that were accepted and not yet given to the model.
#[derive(Debug)]
pub(crate) struct Batch<R> {
    pub(crate) requests: VecDeque<R>,
    pub(crate) lease: Lease,
}

impl<R> Batch<R> {
    /// Takes the first request out, to be served apart from the others.
    pub(crate) fn next_job<T: Transport<Request = R>>(
        &mut self,
        serving: &Serving<T>,
    ) -> Option<Job<R>> {
        let request = self.requests.pop_front()?;
        Some(Job {
            request,
            service: Arc::clone(&serving.service),
            lease: self.lease.split(1),
        })
    }
}

/// The accept loop of one thread.
#[derive(Debug)]
pub(crate) struct Acceptor<'a, T: Transport, M> {
    serving: &'a mut Serving<T>,
    model: &'a mut M,
    shared: Arc<Shared>,
    watch: Watch,
    batch: Batch<T::Request>,
    backoff: Backoff,
    /// The live requests when the last pause began. Once there are fewer, something is free again.
    live_then: u64,
    throttle: Throttle,
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
    /// Whether the listeners are closed and the last requests are waited for.
    draining: bool,
}

impl<'a, T: Transport, M: Take> Acceptor<'a, T, M> {
    pub(crate) fn new(
        serving: &'a mut Serving<T>,
        model: &'a mut M,
        name: &str,
    ) -> Result<Self, Error> {
        model
            .start(&serving.service.shared)
            .tried(|| format!("start the {name} model"))?;
        let shared = Arc::clone(&serving.service.shared);
        let lifeline = serving.lifeline.as_ref().map(AsFd::as_fd);
        let watch =
            Watch::new(shared.bell(), lifeline).tried(|| "create an epoll instance".to_owned())?;
        let batch = Batch {
            requests: VecDeque::new(),
            lease: shared.lease(0),
        };
        let (backoff, throttle) = (Backoff::default(), Throttle::default());
        Ok(Self {
            serving,
            model,
            shared,
            watch,
            batch,
            backoff,
            live_then: 0,
            throttle,
            budget: usize::MAX,
            turned_away: false,
            appetite: 1,
            watched: Source::default(),
            readable: Source::default(),
            parked: Source::default(),
            draining: false,
        })
    }

    /// Serves until the server is asked to stop, then drains.
    pub(crate) fn serve(mut self) -> Result<Report, Error> {
        // A model that serves on this thread keeps it from seeing the drain deadline.
        let _cutter = M::SERVES_HERE
            .then(|| Cutter::start(&self.shared))
            .transpose()?;
        if !self.shared.acknowledge() {
            self.serving.service.hooks.ready();
        }
        while !self.shared.stopping() {
            if self.serving.listeners.is_empty() {
                let lost = io::Error::other(
                    "every listener has failed; the accept error hook was told why",
                );
                self.shared.stop(self.shared.drain_timeout());
                self.drain();
                return Err(Error::new("accept requests", lost));
            }
            self.turn(None);
            self.service_actions();
        }
        self.take_queue();
        Ok(self.drain())
    }

    /// Serves one request, if one comes before `deadline`.
    pub(crate) fn serve_one(mut self, deadline: Option<Instant>) -> Handled {
        self.budget = 1;
        loop {
            if self.budget == 0 && self.batch.requests.is_empty() {
                return if self.turned_away {
                    Handled::Refused
                } else {
                    Handled::Served
                };
            }
            if self.shared.stopping() {
                return Handled::Stopping;
            }
            let ready = self.turn(deadline);
            if !ready && self.budget > 0 && deadline.is_some_and(|end| Instant::now() >= end) {
                return Handled::TimedOut;
            }
        }
    }

    /// Waits once, then takes what is ready. Says whether anything was.
    fn turn(&mut self, deadline: Option<Instant>) -> bool {
        self.dispatch();
        self.tend_parked();
        let ready = self.wait(deadline);
        let mut broken = Vec::new();
        for &index in &ready {
            if self.accept_from(index) == Reaction::Abandon {
                broken.push(index);
            }
        }
        for index in broken.into_iter().rev() {
            self.serving.listeners.remove(index);
        }
        !ready.is_empty()
    }

    /// Sends the parked connections whose clients have spoken on their way again, and ends those
    /// whose time is over.
    fn tend_parked(&mut self) {
        let service = Arc::clone(&self.serving.service);
        let Some(parking) = service.parking() else {
            return;
        };
        parking
            .take_expired()
            .into_iter()
            .for_each(|parked| service.dismiss(parked));
        if self.can_dispatch() {
            for Parked { request, lease, .. } in parking.take_ready(self.model.room()) {
                self.batch.requests.push_back(request);
                self.batch.lease.join(lease);
            }
            self.dispatch();
        }
    }

    fn service_actions(&self) {
        if self.shared.stopping() {
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
    fn can_dispatch(&mut self) -> bool {
        self.batch.requests.is_empty() && self.model.room() > 0 && self.backoff.left().is_none()
    }

    /// Whether another request can be accepted.
    fn has_room(&mut self) -> bool {
        self.budget > 0 && !self.shared.is_full() && self.can_dispatch()
    }

    /// Waits until a listener can be accepted from, and returns which; or until anything else has
    /// happened.
    fn wait(&mut self, deadline: Option<Instant>) -> Vec<usize> {
        let shared = Arc::clone(&self.shared);
        let service = Arc::clone(&self.serving.service);
        let mut accepting = self.has_room();
        let mut waiting = None;
        if !accepting || self.draining {
            // What is waited for may have come just before the announcement: look again.
            waiting = Some(shared.announce_waiting());
            if self.shared.live_here() < self.live_then {
                self.backoff.interrupt();
            }
            accepting = self.has_room();
            if self.draining && self.is_drained() {
                return Vec::new();
            }
        }
        let parking = service.parking().filter(|_| self.can_dispatch());
        let timeout = self.timeout(deadline);
        let coroutine = current();
        let poll_timeout = if coroutine.is_some() {
            Some(Duration::ZERO)
        } else {
            timeout
        };

        let listeners = if accepting {
            self.serving.listeners.as_slice()
        } else {
            &[]
        };
        let mut fds = Vec::with_capacity(1 + listeners.len());
        fds.push(PollFd::new(&self.watch, PollFlags::IN));
        fds.extend(
            listeners
                .iter()
                .map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)),
        );
        fds.extend(
            parking
                .iter()
                .map(|parking| PollFd::new(*parking, PollFlags::IN)),
        );
        self.model.watch(&mut fds);
        match poll(&mut fds, poll_timeout.map(timespec).as_ref()) {
            Ok(0) if coroutine.is_some() => {
                drop(fds);
                if let Some(current) = coroutine {
                    self.park(&current, accepting, parking, timeout);
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
        let is_ready =
            |(index, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(index);
        let (heard, fds) = (!fds[0].revents().is_empty(), &fds[1..]);
        let (listeners, fds) = fds.split_at(listeners.len());
        // Parked connections are taken out at the next turn.
        let children = &fds[parking.iter().count()..];
        let ready = listeners.iter().enumerate().filter_map(is_ready).collect();
        let ended: Vec<_> = children.iter().enumerate().filter_map(is_ready).collect();
        self.model.reap(&ended);
        if heard {
            self.hear();
        }
        ready
    }

    /// How long a wait may last: until the deadline, the next service actions, the end of a pause,
    /// or until a parked connection has waited too long.
    fn timeout(&mut self, deadline: Option<Instant>) -> Option<Duration> {
        let service = &self.serving.service;
        let period = service
            .hooks
            .service_actions
            .as_ref()
            .map(|(period, _)| *period);
        let idle = service.parking().and_then(Parking::deadline);
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        let ends = [
            deadline.map(left),
            idle.map(left),
            period,
            self.backoff.left(),
        ];
        ends.into_iter().flatten().min()
    }

    /// Waits in a coroutine, where the next turn then finds what has come.
    fn park(
        &self,
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
        let _ = wait_any(current, &sources, Interest::Read, deadline);
    }

    /// Lets time pass when the kernel has no memory to wait with.
    fn pause(&mut self, err: io::Error) {
        let reaction = self.back_off(self.shared.live_here());
        self.report(Step::Wait, reaction, err, None);
        std::thread::park_timeout(self.backoff.left().unwrap_or_default());
    }

    fn hear(&mut self) {
        if self.watch.hear() == Heard::Orphaned {
            self.shared.stop(self.shared.drain_timeout());
        }
        // A request may have ended and freed what was exhausted.
        self.backoff.interrupt();
    }

    /// Takes requests from one listener and gives them to the model, until there are no more, or no
    /// room.
    fn accept_from(&mut self, index: usize) -> Reaction {
        for _ in 0..TURN_MAX {
            let listener = &self.serving.listeners[index];
            let want = self.model.room().min(self.appetite).min(self.budget);
            let live = self.shared.live_here();
            let mut lease = self.shared.lease(want as u64);
            if lease.count() == 0 || !self.batch.requests.is_empty() {
                break;
            }
            let mut intake = Intake::new(&mut self.batch.requests, &lease, &self.shared);
            let result = listener.accept(&mut intake);
            lease.keep(self.batch.requests.len() as u64);
            self.batch.lease = lease;
            match result {
                Ok(()) => {
                    let (taken, batch) = (self.batch.requests.len(), listener.batch());
                    self.backoff.reset();
                    self.admit();
                    if batch == 1 {
                        self.dispatch();
                    } else {
                        let start = Instant::now();
                        self.dispatch();
                        let quick = start.elapsed() < PATIENCE;
                        self.appetite = if quick {
                            batch.min(self.appetite.max(2 * taken))
                        } else {
                            1
                        };
                    }
                }
                Err(err) => match classify(&err) {
                    Class::Nothing => break,
                    Class::Interrupted => {}
                    Class::Request => {
                        self.report(Step::Accept, Reaction::Continue, err, Some(index));
                    }
                    Class::Exhausted => {
                        let reaction = self.back_off(live);
                        self.report(Step::Accept, reaction, err, Some(index));
                        return reaction;
                    }
                    Class::Fatal => {
                        self.report(Step::Accept, Reaction::Abandon, err, Some(index));
                        return Reaction::Abandon;
                    }
                },
            }
            if self.shared.stopping() {
                break;
            }
        }
        Reaction::Continue
    }

    /// Pauses because something is exhausted; `live` requests were there before it was tried.
    fn back_off(&mut self, live: u64) -> Reaction {
        self.live_then = live;
        self.backoff.begin()
    }

    /// Counts what was accepted, and sorts out what is not to be handled.
    fn admit(&mut self) {
        let Self {
            batch,
            serving,
            shared,
            ..
        } = self;
        let accepted = batch.requests.len() as u64;
        shared
            .counts()
            .accepted
            .fetch_add(accepted, std::sync::atomic::Ordering::Relaxed);
        batch.requests.retain_mut(|request| {
            let admitted = serving.service.admit(request);
            if !admitted {
                request.refuse();
            }
            admitted
        });
        let admitted = batch.requests.len() as u64;
        batch.lease.keep(admitted);
        self.budget -= accepted as usize;
        self.turned_away = admitted < accepted;
    }

    /// Gives what was accepted to the model. What it could not take stays for the next turn.
    fn dispatch(&mut self) {
        if self.batch.requests.is_empty() || self.backoff.left().is_some() {
            return;
        }
        let live = self.shared.live_here();
        match self.model.dispatch(&mut self.batch, self.serving) {
            Ok(()) => self.backoff.reset(),
            Err(err) => {
                let reaction = self.back_off(live);
                self.report(Step::Dispatch, reaction, err, None);
            }
        }
    }

    /// Counts an error and tells the hook, at most once a second.
    fn report(&mut self, step: Step, reaction: Reaction, error: io::Error, index: Option<usize>) {
        count(&self.shared.counts().accept_errors);
        if let Some(unreported) = self.throttle.pass(Instant::now()) {
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

    /// Takes what the kernel has already accepted for us: those clients think they are being
    /// served.
    fn take_queue(&mut self) {
        let end = Instant::now() + QUEUE_TIME;
        while Instant::now() < end && self.shared.drain_left().is_some_and(|left| !left.is_zero()) {
            let room = self.has_room();
            // Where there is no room, a request has to end first; where there is, what waits is
            // there already.
            let ready = self.turn(Some(if room { Instant::now() } else { end }));
            if room && !ready {
                break;
            }
        }
    }

    /// Waits until every request has ended, or the deadline has come and cuts them. Closes the
    /// listeners first.
    fn drain(&mut self) -> Report {
        self.serving.listeners.clear();
        self.draining = true;
        let service = Arc::clone(&self.serving.service);
        if let Some(parking) = service.parking() {
            parking
                .close()
                .into_iter()
                .for_each(|parked| service.dismiss(parked));
        }
        let mut grace = None;
        loop {
            self.dispatch();
            if self.is_drained() {
                break;
            }
            let left = self.shared.drain_left().unwrap_or_default();
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
        self.model.finish(self.shared.live_here() > 0);
        Report {
            cut: self.shared.cut_count(),
        }
    }

    fn is_drained(&self) -> bool {
        self.batch.requests.is_empty() && self.shared.live_here() == 0
    }

    /// Ends every request that is still there.
    fn cut(&mut self) {
        let live = self.shared.live_here();
        let cut = self.shared.cut_all();
        self.shared.count_cut(live.saturating_sub(cut));
        self.model.cut();
        self.batch.requests.clear();
        self.batch.lease.keep(0);
    }
}
