//! One request from its acceptance to its end: verify, handle, close, count, report. Every model
//! runs exactly this.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::address::Address;
use crate::admission::permits::Lease;
use crate::connection::parking::{Parked, Parking, Stays};
use crate::counters::{Counters, Ended, count};
use crate::error::HandlerError;
use crate::handler::{Next, Outcome};
use crate::observe::events::{EndReason, Event, RefuseReason};
use crate::observe::hooks::{self, Failure, Hooks};
use crate::registry::info::Traffic;
use crate::registry::table::{Activity, CutReason, Slot};
use crate::shared::Shared;
use crate::transport::{Managed, Request};

type DynHandler<R> = Box<dyn Fn(&mut R) -> Outcome + Send + Sync>;

/// What serves the requests of a server: its handler, its hooks and its counts.
pub(crate) struct Service<R> {
    handler: DynHandler<R>,
    pub(crate) hooks: Arc<Hooks<R>>,
    pub(crate) shared: Shared,
    /// Set when the first connection is parked.
    parking: OnceLock<Parking<R>>,
    /// Made before, while there are descriptors.
    unused_parking: Mutex<Option<Parking<R>>>,
    /// Whether there is an accept loop that takes out again what is parked.
    parks: bool,
}

impl<R: Managed> Service<R> {
    pub(crate) fn new(handler: DynHandler<R>, hooks: Arc<Hooks<R>>, shared: Shared) -> Self {
        Self {
            handler,
            hooks,
            shared,
            parking: OnceLock::new(),
            unused_parking: Mutex::default(),
            parks: true,
        }
    }

    /// Parks no connection: nobody will take it out again.
    pub(crate) fn without_parking(self) -> Self {
        Self {
            parks: false,
            ..self
        }
    }

    /// Gets ready to park connections, so that none is lost when descriptors run out.
    pub(crate) fn prepare_parking(&self) -> io::Result<()> {
        if !self.parks {
            return Ok(());
        }
        let mut unused = self.unused_parking();
        if unused.is_none() && self.parking.get().is_none() {
            *unused = Some(Parking::new()?);
        }
        Ok(())
    }

    fn unused_parking(&self) -> MutexGuard<'_, Option<Parking<R>>> {
        // An option is whole after any panic.
        self.unused_parking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request may be handled; says and counts why not.
    pub(crate) fn admit(&self, request: &R) -> bool {
        let verify = || {
            self.hooks
                .verify
                .as_ref()
                .map_or(Ok(true), |verify| hooks::call(|| verify(request)))
        };
        match request.admit().map_err(Into::into).and_then(|()| verify()) {
            Ok(true) => true,
            Ok(false) => {
                self.refused(request, RefuseReason::Verify);
                false
            }
            Err(err) => {
                self.fail(request, err);
                self.ended(request, Ended::Failed);
                false
            }
        }
    }

    /// Runs the handler, or what is left of it for a connection that the server has ended. An error
    /// or a panic ends this request only.
    pub(crate) fn handle(&self, request: &mut R) -> Ended {
        if request.context().session().is_over() {
            return self.finish(request, Ended::Completed);
        }
        // One that comes in a stop is the last one of its connection. One that was there before may have
        // been answered, and its client may have sent another: that is what the grace is for.
        let is_last = self.shared.lifecycle.stopping();
        request.context().begin_request();
        self.hooks.tell(|| Event::Started { id: request.id() });
        let opened = hooks::call(|| request.open()).and_then(|opened| opened.map_err(Into::into));
        let outcome = opened.and_then(|()| self.call(request));
        request.context().end_request();
        // Before the close, which the client sees: who has seen a reply knows that this is noted.
        self.shared.lifecycle.processes().note_served();
        let ended = match outcome {
            Ok(Next::Park) if self.parks && (!is_last || has_more(request)) => {
                return Ended::Parked;
            }
            Ok(Next::Close | Next::Park) => Ended::Completed,
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

    /// As [`handle`](Self::handle), for a request that cannot be parked.
    pub(crate) fn handle_once(&self, request: &mut R) -> Ended {
        match self.handle(request) {
            Ended::Parked => self.finish(request, Ended::Completed),
            ended => ended,
        }
    }

    fn call(&self, request: &mut R) -> Outcome {
        let _entered = request.context().enter_handler();
        hooks::call(|| (self.handler)(request)).unwrap_or_else(Err)
    }

    /// Has the session of a request that is over finish, if there is one: the handler is called for
    /// that alone. After an abort the session is dropped with the request.
    pub(crate) fn finish(&self, request: &mut R, ended: Ended) -> Ended {
        let context = request.context();
        if !context.session().is_kept() || context.cut_reason().is_some() {
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

    /// Serves one request to its end, or until it wants to be parked. The caller tallies it.
    pub(crate) fn serve(&self, request: &mut R) -> Ended {
        match self.handle(request) {
            Ended::Parked => Ended::Parked,
            handled => self.close(request, handled),
        }
    }

    /// Closes a request whose handler is done with it.
    pub(crate) fn close(&self, request: &mut R, handled: Ended) -> Ended {
        // A request of the user's own may panic here.
        let closed = hooks::call(|| request.close());
        match closed.and_then(|closed| closed.map_err(Into::into)) {
            Err(err) if handled == Ended::Completed => {
                self.fail(request, err);
                Ended::Failed
            }
            _ => handled,
        }
    }

    /// The connections that wait, where there have been any.
    pub(crate) fn parking(&self) -> Option<&Parking<R>> {
        self.parking.get()
    }

    /// Lets a connection wait for its client.
    pub(crate) fn park(&self, mut request: R, lease: Lease) -> Result<(), Stays<R>> {
        if let Some(whole) = &self.hooks.whole {
            let gathered = hooks::call(|| request.gather(whole.as_ref()));
            match gathered.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok(_) => {}
                Err(err) => return Err(Stays::Failed(request, lease, err)),
            }
        }
        let (parking, new) = match self.parking.get() {
            Some(parking) => (parking, false),
            None => match self.unused_parking().take().map_or_else(Parking::new, Ok) {
                Ok(parking) => (self.parking.get_or_init(|| parking), true),
                Err(err) => return Err(Stays::Failed(request, lease, err)),
            },
        };
        // The accept loop waits for what it knew of before.
        let id = request.id();
        parking.park(request, lease)?;
        self.hooks.tell(|| Event::Parked { id });
        if new {
            self.shared.lifecycle.bell().ring();
        }
        Ok(())
    }

    /// Ends a connection that cannot wait.
    pub(crate) fn abandon(&self, mut request: R, lease: Lease, err: io::Error) {
        let ended = self.reject(&mut request, err);
        self.over(request, ended, lease);
    }

    /// Closes a request that cannot be served, or not any more. The caller tallies it.
    pub(crate) fn reject(&self, request: &mut R, err: io::Error) -> Ended {
        self.fail(request, err.into());
        let ended = self.finish(request, Ended::Failed);
        self.close(request, ended)
    }

    /// Ends a connection that waited until its deadline, or was asked to be cut.
    pub(crate) fn time_out(&self, parked: Parked<R>, reason: CutReason) {
        let slot = parked.request.context().slot();
        if slot.is_some_and(|slot| slot.cut(reason)) {
            count(&self.shared.counters.counts().timed_out);
        }
        self.dismiss(parked);
    }

    /// Ends a connection that waited: it is aborted, or the server stops and it has no session.
    pub(crate) fn dismiss(&self, parked: Parked<R>) {
        let Parked { mut request, lease } = parked;
        request.refuse();
        self.over(request, Ended::Completed, lease);
    }

    /// Aborts a connection that was left in the backlog at the drain deadline.
    pub(crate) fn abort(&self, request: R) {
        count(&self.shared.counters.counts().accepted);
        self.tell_accepted(&request);
        let slot = request.context().slot();
        let _ = slot.map(|slot| slot.cut(CutReason::Drain));
        self.ended(&request, Ended::Failed);
    }

    /// Serves requests that were accepted together, one after the other, and answers them together.
    pub(crate) fn serve_all(&self, requests: &mut VecDeque<R>) {
        let mut failed = Vec::new();
        for request in &mut *requests {
            if self.handle_once(request) == Ended::Failed {
                failed.push(request.id());
            }
        }
        self.close_all(requests, failed);
    }

    /// Ends requests whose handlers are done, and counts them; `failed` are the numbers of those
    /// whose handler has failed.
    pub(crate) fn close_all(&self, requests: &mut VecDeque<R>, mut failed: Vec<u64>) {
        let total = requests.len() as u64;
        let told = |request: &R| (request.id(), request.peer());
        let watched = !self.hooks.observers.is_empty();
        let ends: Vec<_> = requests.iter().filter(|_| watched).map(told).collect();
        R::close_all(requests, &mut |request, err| {
            if !failed.contains(&request.id()) {
                failed.push(request.id());
                self.fail(request, err.into());
            }
        });
        for (id, peer) in ends {
            let ended = if failed.contains(&id) {
                Ended::Failed
            } else {
                Ended::Completed
            };
            self.hooks.tell(|| end_of(id, peer, None, ended));
        }
        let failures = failed.len() as u64;
        self.shared.counters.tally(Ended::Failed, failures);
        self.shared
            .counters
            .tally(Ended::Completed, total - failures);
    }

    /// Counts a request that is turned away, and says why.
    pub(crate) fn refused(&self, request: &R, reason: RefuseReason) {
        let counts = self.shared.counters.counts();
        count(&counts.refused);
        match reason {
            RefuseReason::Verify => {}
            RefuseReason::Limit => count(&counts.over_limit),
            RefuseReason::Address => count(&counts.over_address),
            RefuseReason::Rate => count(&counts.over_rate),
        }
        self.hooks.tell(|| Event::Refused {
            id: request.id(),
            peer: request.peer(),
            reason,
        });
    }

    /// Ends a request whose close is done.
    fn over(&self, request: R, ended: Ended, lease: Lease) {
        self.tell_end(&request, ended);
        drop(request);
        self.shared.counters.tally(ended, 1);
        drop(lease);
    }

    /// Counts a request that has ended.
    fn ended(&self, request: &R, ended: Ended) {
        self.tell_end(request, ended);
        self.shared.counters.tally(ended, 1);
    }

    pub(crate) fn tell_accepted(&self, request: &R) {
        self.hooks.tell(|| Event::Accepted {
            id: request.id(),
            peer: request.peer(),
        });
    }

    fn tell_end(&self, request: &R, ended: Ended) {
        self.hooks.tell(|| {
            end_of(
                request.id(),
                request.peer(),
                request.context().slot(),
                ended,
            )
        });
    }

    /// Reports a failed request.
    fn fail(&self, request: &dyn Request, err: HandlerError) {
        self.report(&Failure {
            id: request.id(),
            peer: request.peer(),
            error: &*err,
            cut: request.context().cut_reason(),
            counters: &self.shared.counters,
        });
    }
}

/// Whether the client has sent what a handler can still answer.
fn has_more(request: &impl Managed) -> bool {
    request.context().cut_reason().is_none() && request.has_input()
}

/// The event of a request's end.
fn end_of<'a>(id: u64, peer: Address, slot: Option<&Slot>, ended: Ended) -> Event<'a> {
    let cut = slot.and_then(Slot::cut_reason);
    let how = match (cut, ended) {
        (Some(reason), _) => EndReason::Cut(reason),
        (None, Ended::Failed) => EndReason::Failed,
        (None, Ended::Completed | Ended::Parked) => EndReason::Completed,
    };
    Event::Ended {
        id,
        peer,
        traffic: Traffic::of(slot),
        how,
    }
}

/// What is said of a request that ended elsewhere, whatever its type.
pub(crate) trait Tally: fmt::Debug + Send + Sync {
    fn tally(&self, id: u64, peer: &Address, slot: Option<&Slot>, ended: Ended);
    /// Tells the error hook, if there is one.
    fn report(&self, failure: &Failure<'_>);
    fn counters(&self) -> &Counters;
}

impl<R: Managed> Tally for Service<R> {
    fn tally(&self, id: u64, peer: &Address, slot: Option<&Slot>, ended: Ended) {
        self.hooks.tell(|| end_of(id, peer.clone(), slot, ended));
        self.shared.counters.tally(ended, 1);
    }

    fn report(&self, failure: &Failure<'_>) {
        self.hooks.tell(|| Event::Failed(failure));
        if let Some(hook) = &self.hooks.error {
            // Nobody is left to tell of a panic in the error hook but the panic hook, which has
            // been told.
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

/// A request on its way to where it is served.
#[derive(Debug)]
pub(crate) struct Job<R> {
    pub(crate) request: R,
    pub(crate) service: Arc<Service<R>>,
    /// Dropped last: the place is free when the request is gone.
    pub(crate) lease: Lease,
}

impl<R: Managed> Job<R> {
    /// Serves the request on this thread, until it has ended or is parked.
    pub(crate) fn run(self) {
        let Self {
            mut request,
            service,
            mut lease,
        } = self;
        let ended = loop {
            match service.serve(&mut request) {
                Ended::Parked => {}
                ended => break ended,
            }
            (request, lease) = match service.park(request, lease) {
                Ok(()) => return,
                Err(Stays::Ready(request, lease)) => (request, lease),
                Err(Stays::Over(over, kept)) => {
                    (request, lease) = (over, kept);
                    let ended = service.finish(&mut request, Ended::Completed);
                    break service.close(&mut request, ended);
                }
                Err(Stays::Failed(request, lease, err)) => {
                    return service.abandon(request, lease, err);
                }
            };
        };
        service.over(request, ended, lease);
    }
}
