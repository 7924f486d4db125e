//! The life of one connection or datagram, from its accept to its end: verify, handle, close,
//! count, report. Every model runs exactly these steps.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::address::Address;
use crate::admission::permits::Permits;
use crate::connection::judge::Token;
use crate::connection::parking::{NotParked, Parked, Parking, Wait};
use crate::counters::{Counters, Ended, count};
use crate::error::HandlerError;
use crate::handler::{Next, Outcome};
use crate::net::{Accepted, Managed};
use crate::observe::events::{EndReason, Event, RefuseReason};
use crate::observe::hooks::{self, Failure, Hooks};
use crate::registry::info::{Subject, Traffic};
use crate::registry::table::{AbortReason, Activity, Slot};
use crate::shared::Shared;

/// How a connection is opened that lacks input for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It is parked, because a wait would hold a thread.
    Parks,
    /// It waits here, which holds a coroutine, or a process of its own.
    Waits,
}

/// Which connections can be parked, because an accept loop dispatches them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parks {
    All,
    /// Those that lack input for being opened.
    Unopened,
    None,
}

/// How far a connection has been opened.
enum Opened {
    Part,
    Whole,
    /// Its client was refused, counted and reported.
    Refused,
}

type DynHandler<R> = Box<dyn Fn(&mut R) -> Outcome + Send + Sync>;

/// The service of a server: its handler, its hooks and its state.
pub(crate) struct Service<R> {
    handler: DynHandler<R>,
    pub(crate) hooks: Arc<Hooks<R>>,
    pub(crate) shared: Shared,
    /// The parked connections; set when the first one is parked. It outlives this service, where each call of
    /// `handle_request` has a service of its own.
    parking: Arc<OnceLock<Parking<R>>>,
    /// Created before it is needed, while the process has descriptors.
    unused_parking: Mutex<Option<Parking<R>>>,
    parks: Parks,
}

impl<R: Managed> Service<R> {
    pub(crate) fn new(
        handler: DynHandler<R>,
        hooks: Arc<Hooks<R>>,
        shared: Shared,
        parking: Arc<OnceLock<Parking<R>>>,
    ) -> Self {
        Self {
            handler,
            hooks,
            shared,
            parking,
            unused_parking: Mutex::default(),
            parks: Parks::All,
        }
    }

    /// Parks such connections alone.
    pub(crate) fn parking_only(self, parks: Parks) -> Self {
        Self { parks, ..self }
    }

    /// Creates the parking, so that no connection is lost when descriptors run out later.
    pub(crate) fn prepare_parking(&self) -> io::Result<()> {
        if self.parks != Parks::All {
            return Ok(());
        }
        let mut unused = self.unused_parking();
        if unused.is_none() && self.parking.get().is_none() {
            *unused = Some(Parking::new()?);
        }
        Ok(())
    }

    fn unused_parking(&self) -> MutexGuard<'_, Option<Parking<R>>> {
        // A panic leaves the option whole.
        self.unused_parking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection, or advances that as far as its input goes. A PROXY header names the client, which is judged
    /// before anything else is opened.
    fn open(&self, request: &mut R, parks: bool) -> Result<Opened, HandlerError> {
        loop {
            let open = || match parks {
                true => request.try_open(),
                false => request.open().map(|()| true),
            };
            let opened = hooks::call(open).and_then(|opened| opened.map_err(Into::into))?;
            if !request.context().is_to_be_judged() {
                return Ok(if opened { Opened::Whole } else { Opened::Part });
            }
            request.context().note_judged();
            self.emit_proxied(request);
            let verdict = self.judge(request, Token::Taken);
            if !self.carry_out(request, verdict) {
                let _ = request.context().slot().map(Slot::refuse);
                return Ok(Opened::Refused);
            }
        }
    }

    /// Calls the handler, once the connection is open; for a connection that the server has ended,
    /// only `finish` of its session. An error or a panic ends this connection only.
    pub(crate) fn handle(&self, request: &mut R, opening: Opening) -> Ended {
        if request.context().session().is_over() {
            return self.finish(request, Ended::Completed);
        }
        // A request that begins during a stop is the last of its connection. After a request that
        // began earlier, the connection may be parked for the rest of the grace.
        let is_last = self.shared.lifecycle.stopping();
        // A handshake that goes on has begun the request.
        if !request.context().is_in_handshake() {
            request.context().begin_request();
            self.hooks.emit(|| Event::Started {
                subject: request.context().subject(),
                id: request.id(),
            });
        }
        let parks = opening == Opening::Parks && self.parks != Parks::None;
        let outcome = match self.open(request, parks) {
            Ok(Opened::Part) => return Ended::Parked,
            Ok(Opened::Refused) => return Ended::Refused,
            Ok(Opened::Whole) => self.call(request),
            Err(err) => Err(err),
        };
        request.context().end_request();
        // Stored before the close, so that a client with a complete reply knows that the worker has
        // served.
        self.shared.lifecycle.processes().note_served();
        let ended = match outcome {
            Ok(next @ (Next::Park | Next::ParkFor(_)))
                if self.parks == Parks::All && (!is_last || has_more(request)) =>
            {
                request.context().session().set_alarm(match next {
                    Next::ParkFor(duration) => Some(duration),
                    _ => None,
                });
                return Ended::Parked;
            }
            Ok(Next::Close | Next::Park | Next::ParkFor(_)) => Ended::Completed,
            Ok(Next::Stop) => {
                self.shared.lifecycle.shutdown();
                Ended::Completed
            }
            Err(err) => {
                self.fail(request, err);
                Ended::Failed
            }
        };
        self.finish(request, ended)
    }

    /// Calls the handler as [`handle`](Self::handle) does, for a connection or datagram that cannot
    /// be parked.
    pub(crate) fn handle_once(&self, request: &mut R) -> Ended {
        match self.handle(request, Opening::Waits) {
            Ended::Parked => self.finish(request, Ended::Completed),
            ended => ended,
        }
    }

    fn call(&self, request: &mut R) -> Outcome {
        let _entered = request.context().enter_handler();
        hooks::call(|| (self.handler)(request)).unwrap_or_else(Err)
    }

    /// Finishes the session of a connection that ends, if there is one: calls the handler for that
    /// alone. After an abort the session is dropped with the connection.
    pub(crate) fn finish(&self, request: &mut R, ended: Ended) -> Ended {
        let context = request.context();
        if !context.session().is_kept() || context.abort_reason().is_some() {
            return ended;
        }
        context.session().end();
        context.enter(Activity::Running);
        match self.call(request) {
            Ok(_) => ended,
            Err(err) => {
                self.fail(request, err);
                Ended::Failed
            }
        }
    }

    /// Serves one connection or datagram to its end, or until it is to be parked. The caller counts
    /// the result.
    pub(crate) fn serve(&self, request: &mut R, opening: Opening) -> Ended {
        match self.handle(request, opening) {
            Ended::Parked => Ended::Parked,
            Ended::Refused => Ended::Refused,
            handled => self.close(request, handled),
        }
    }

    /// Closes a connection or datagram whose handler has returned.
    pub(crate) fn close(&self, request: &mut R, handled: Ended) -> Ended {
        // The `close` of a custom transport may panic.
        let closed = hooks::call(|| request.close());
        match closed.and_then(|closed| closed.map_err(Into::into)) {
            Err(err) if handled == Ended::Completed => {
                self.fail(request, err);
                Ended::Failed
            }
            _ => handled,
        }
    }

    /// The parked connections, if any was parked.
    pub(crate) fn parking(&self) -> Option<&Parking<R>> {
        self.parking.get()
    }

    /// Parks a connection until its client has sent something.
    pub(crate) fn park(&self, mut request: R, permits: Permits) -> Result<(), NotParked<R>> {
        if let Some(whole) = &self.hooks.whole {
            let gathered = hooks::call(|| request.gather(whole.as_ref()));
            match gathered.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok(_) => {}
                Err(err) => return Err(NotParked::Failed(request, permits, err)),
            }
        }
        let (parking, new) = match self.parking.get() {
            Some(parking) => (parking, false),
            None => match self.unused_parking().take().map_or_else(Parking::new, Ok) {
                Ok(parking) => (self.parking.get_or_init(|| parking), true),
                Err(err) => return Err(NotParked::Failed(request, permits, err)),
            },
        };
        let (subject, id) = (request.context().subject(), request.id());
        let opens = request.context().is_in_handshake();
        let parked = parking.park(request, permits);
        if parked.is_ok() && !opens {
            self.hooks.emit(|| Event::Parked { subject, id });
        }
        // The wait of the accept loop does not include a parking that is new, be it empty: the next
        // connection that parks does not find it new.
        if new || matches!(parked, Ok(Wait::Anew)) {
            self.shared.lifecycle.wakeup_event().wake();
        }
        parked.map(drop)
    }

    /// Ends a connection that could not be parked because of `err`.
    pub(crate) fn abandon(&self, mut request: R, permits: Permits, err: io::Error) {
        let ended = self.reject(&mut request, err);
        self.end(request, ended, permits);
    }

    /// Fails and closes a connection that cannot be served any further. The caller counts the
    /// result.
    pub(crate) fn reject(&self, request: &mut R, err: io::Error) -> Ended {
        self.fail(request, err.into());
        let ended = self.finish(request, Ended::Failed);
        self.close(request, ended)
    }

    /// Ends a parked connection whose deadline has passed, or that is to be aborted.
    pub(crate) fn time_out(&self, parked: Parked<R>, reason: AbortReason) {
        let slot = parked.request.context().slot();
        if slot.is_some_and(|slot| slot.abort(reason)) {
            count(&self.shared.counters.counts().timed_out);
        }
        self.dismiss(parked);
    }

    /// Ends a parked connection: it is aborted, or the server stops and it has no session.
    pub(crate) fn dismiss(&self, parked: Parked<R>) {
        let Parked {
            mut request,
            permits,
        } = parked;
        request.refuse();
        self.end(request, Ended::Completed, permits);
    }

    /// Ends all parked connections.
    pub(crate) fn dismiss_all(&self) {
        let parked = self.parking().map(Parking::take_all).unwrap_or_default();
        parked.into_iter().for_each(|parked| self.dismiss(parked));
    }

    /// Aborts a connection that was left in the backlog at the drain deadline.
    pub(crate) fn abort(&self, request: R) {
        count(&self.shared.counters.counts().accepted);
        self.emit_accepted(&request);
        let slot = request.context().slot();
        let _ = slot.map(|slot| slot.abort(AbortReason::Drain));
        self.count_end(&request, Ended::Failed);
    }

    /// Serves a batch of datagrams, one after the other, and sends their replies together.
    pub(crate) fn serve_all(&self, requests: &mut VecDeque<R>) {
        let mut failed = Vec::new();
        for request in &mut *requests {
            if self.handle_once(request) == Ended::Failed {
                failed.push(request.id());
            }
        }
        self.close_all(requests, failed);
    }

    /// Closes and counts a batch of datagrams whose handlers have returned; `failed` has the
    /// numbers of those whose handlers have failed.
    pub(crate) fn close_all(&self, requests: &mut VecDeque<R>, mut failed: Vec<u64>) {
        let total = requests.len() as u64;
        let identify = |request: &R| (request.context().subject(), request.id(), request.peer());
        let watched = !self.hooks.observers.is_empty();
        let ends: Vec<_> = requests.iter().filter(|_| watched).map(identify).collect();
        let mut fail = |request: &dyn Accepted, err: io::Error| {
            if !failed.contains(&request.id()) {
                failed.push(request.id());
                self.fail(request, err.into());
            }
        };
        // Most rounds of a server with few clients have one datagram.
        match requests.make_contiguous() {
            [alone] => {
                if let Err(err) = alone.close() {
                    fail(&*alone, err);
                }
                requests.clear();
            }
            _ => R::close_all(requests, &mut fail),
        }
        for (subject, id, peer) in ends {
            let ended = if failed.contains(&id) {
                Ended::Failed
            } else {
                Ended::Completed
            };
            self.hooks.emit(|| end_of(subject, id, peer, None, ended));
        }
        let failures = failed.len() as u64;
        self.shared.counters.tally(Ended::Failed, failures);
        self.shared
            .counters
            .tally(Ended::Completed, total - failures);
    }

    /// Counts a connection or datagram that is refused, and emits the event.
    pub(crate) fn refused(&self, request: &R, reason: RefuseReason) {
        let counts = self.shared.counters.counts();
        count(&counts.refused);
        match reason {
            RefuseReason::Verify => {}
            RefuseReason::Limit => count(&counts.over_limit),
            RefuseReason::Access => count(&counts.not_allowed),
            RefuseReason::Address => count(&counts.over_address),
            RefuseReason::User => count(&counts.over_user),
            RefuseReason::Rate => count(&counts.over_rate),
        }
        self.hooks.emit(|| Event::Refused {
            subject: request.context().subject(),
            id: request.id(),
            peer: request.peer(),
            reason,
        });
    }

    /// Ends a closed connection or datagram: emits the event, drops it, counts it, and returns its
    /// permit.
    fn end(&self, request: R, ended: Ended, permits: Permits) {
        if ended != Ended::Refused {
            self.emit_end(&request, ended);
        }
        drop(request);
        self.shared.counters.tally(ended, 1);
        drop(permits);
    }

    /// Counts a connection or datagram that has ended without a handler, and emits the event.
    pub(super) fn count_end(&self, request: &R, ended: Ended) {
        self.emit_end(request, ended);
        self.shared.counters.tally(ended, 1);
    }

    pub(crate) fn emit_accepted(&self, request: &R) {
        self.hooks.emit(|| Event::Accepted {
            subject: request.context().subject(),
            id: request.id(),
            peer: request.peer(),
        });
    }

    fn emit_proxied(&self, request: &R) {
        let via = request.via();
        self.hooks.emit(|| Event::Proxied {
            subject: request.context().subject(),
            id: request.id(),
            peer: request.peer(),
            via,
        });
    }

    fn emit_end(&self, request: &R, ended: Ended) {
        self.hooks.emit(|| {
            end_of(
                request.context().subject(),
                request.id(),
                request.peer(),
                request.context().slot(),
                ended,
            )
        });
    }

    /// Reports a failed connection or datagram.
    pub(super) fn fail(&self, request: &dyn Accepted, err: HandlerError) {
        self.report(&Failure {
            subject: request.context().subject(),
            id: request.id(),
            peer: request.peer(),
            error: &*err,
            abort: request.context().abort_reason(),
            counters: &self.shared.counters,
        });
    }
}

/// Whether the client has sent more input, which a handler can still answer.
fn has_more(request: &impl Managed) -> bool {
    request.context().abort_reason().is_none() && request.has_input()
}

/// The event of the end of a connection or datagram.
fn end_of<'a>(
    subject: Subject,
    id: u64,
    peer: Address,
    slot: Option<&Slot>,
    ended: Ended,
) -> Event<'a> {
    let abort = slot.and_then(Slot::abort_reason);
    let how = match (abort, ended) {
        (Some(reason), _) => EndReason::Aborted(reason),
        (None, Ended::Failed) => EndReason::Failed,
        (None, Ended::Completed | Ended::Parked | Ended::Refused) => EndReason::Completed,
    };
    Event::Ended {
        subject,
        id,
        peer,
        traffic: Traffic::of(slot),
        how,
    }
}

/// Counts and reports what a child has served, independent of its type.
pub(crate) trait Tally: fmt::Debug + Send + Sync {
    /// Counts an end, and emits the event.
    fn tally(&self, subject: Subject, id: u64, peer: &Address, slot: Option<&Slot>, ended: Ended);
    /// Emits a failure, and calls the error hook.
    fn report(&self, failure: &Failure<'_>);
    fn counters(&self) -> &Counters;
}

impl<R: Managed> Tally for Service<R> {
    fn tally(&self, subject: Subject, id: u64, peer: &Address, slot: Option<&Slot>, ended: Ended) {
        self.hooks
            .emit(|| end_of(subject, id, peer.clone(), slot, ended));
        self.shared.counters.tally(ended, 1);
    }

    fn report(&self, failure: &Failure<'_>) {
        self.hooks.emit(|| Event::Failed(failure));
        if let Some(hook) = &self.hooks.error {
            // A panic of the error hook has been reported by the panic hook.
            let _ = hooks::call(|| hook(failure));
        }
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl<R> fmt::Debug for Service<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// A connection or datagram that is being dispatched, with its service and permit.
#[derive(Debug)]
pub(crate) struct Job<R> {
    pub(crate) request: R,
    pub(crate) service: Arc<Service<R>>,
    /// Dropped last: the permit is free once the socket is closed.
    pub(crate) permits: Permits,
}

impl<R: Managed> Job<R> {
    /// Serves the connection or datagram here, until it has ended or is parked.
    pub(crate) fn run(self, opening: Opening) {
        let Self {
            mut request,
            service,
            mut permits,
        } = self;
        let ended = loop {
            match service.serve(&mut request, opening) {
                Ended::Parked => {}
                ended => break ended,
            }
            (request, permits) = match service.park(request, permits) {
                Ok(()) => return,
                Err(NotParked::Ready(request, permits)) => (request, permits),
                Err(NotParked::Over(over, kept)) => {
                    (request, permits) = (over, kept);
                    let ended = service.finish(&mut request, Ended::Completed);
                    break service.close(&mut request, ended);
                }
                Err(NotParked::Failed(request, permits, err)) => {
                    return service.abandon(request, permits, err);
                }
            };
        };
        service.end(request, ended, permits);
    }
}
