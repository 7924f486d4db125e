//! Replies of coroutines that end in one round of their worker, sent together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::admission::permits::Permits;
use crate::connection::life::{Job, Service};
use crate::counters::Ended;
use crate::net::Managed;
use crate::task::coro::inbox::Message;
use crate::task::coro::runtime::Runtime;

/// The label of coroutines that serve no request; those of requests begin with 1.
pub(crate) const NOBODY: u64 = 0;

/// Requests of one server whose handlers are done, for each worker.
#[derive(Debug)]
pub(crate) struct Outbox<R: Managed> {
    runtime: Arc<Runtime>,
    done: Vec<Mutex<Done<R>>>,
}

#[derive(Debug)]
struct Done<R> {
    requests: VecDeque<R>,
    /// The numbers of those whose handler has failed.
    failed: Vec<u64>,
    /// Their places under the limit.
    permits: Option<Permits>,
}

impl<R> Default for Done<R> {
    fn default() -> Self {
        Self {
            requests: VecDeque::new(),
            failed: Vec::new(),
            permits: None,
        }
    }
}

/// What sends the replies of a round when it is dropped: in the next round, or because the worker has
/// failed.
struct Round<R: Managed> {
    outbox: Arc<Outbox<R>>,
    place: usize,
    service: Arc<Service<R>>,
}

impl<R: Managed> Drop for Round<R> {
    fn drop(&mut self) {
        self.outbox.send(self.place, &self.service);
    }
}

impl<R: Managed> Outbox<R> {
    pub(crate) fn new(runtime: &Arc<Runtime>) -> Arc<Self> {
        let done = runtime.inboxes.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self {
            runtime: Arc::clone(runtime),
            done,
        })
    }

    /// Serves a request in the coroutine that calls, and leaves its end to the next round: by then
    /// those that run in this one are done too.
    pub(crate) fn serve(self: Arc<Self>, job: Job<R>) {
        let Some(place) = self.runtime.place_here() else {
            return job.run();
        };
        let Job {
            mut request,
            service,
            permits,
        } = job;
        let failed = service.handle_once(&mut request) == Ended::Failed;
        let first = {
            let mut done = self.done(place);
            if failed {
                done.failed.push(request.id());
            }
            done.requests.push_back(request);
            match &mut done.permits {
                Some(held) => held.join(permits),
                none => *none = Some(permits),
            }
            done.requests.len() == 1
        };
        if first {
            let inbox = &self.runtime.inboxes[place];
            let round = Round {
                outbox: Arc::clone(&self),
                place,
                service,
            };
            inbox.send(Message::Start(Box::new(move || drop(round)), NOBODY));
        }
    }

    fn send(&self, place: usize, service: &Service<R>) {
        let Done {
            mut requests,
            failed,
            permits,
        } = std::mem::take(&mut *self.done(place));
        service.close_all(&mut requests, failed);
        drop(permits);
    }

    fn done(&self, place: usize) -> MutexGuard<'_, Done<R>> {
        // The collections are whole after any panic of their own methods.
        self.done[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
