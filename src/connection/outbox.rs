//! The outbox: datagrams whose coroutines end in the same round of a worker get their replies sent
//! together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::admission::permits::Permits;
use crate::connection::life::{Job, Opening, Service};
use crate::counters::Ended;
use crate::net::Managed;
use crate::task::coro::inbox::Message;
use crate::task::coro::runtime::Runtime;

/// The label of a coroutine that serves no connection; the numbers of connections begin with 1.
pub(crate) const NOBODY: u64 = 0;

/// The datagrams of a server whose handlers have returned, for each worker.
#[derive(Debug)]
pub(crate) struct Outbox<R: Managed> {
    runtime: Arc<Runtime>,
    done: Vec<Mutex<Done<R>>>,
}

#[derive(Debug)]
struct Done<R> {
    requests: VecDeque<R>,
    /// The numbers of those whose handlers have failed.
    failed: Vec<u64>,
    /// The permits of all of them.
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

/// Sends the replies of a round when dropped: by a coroutine of the next round, or because the
/// worker has failed.
struct Round<R: Managed> {
    outbox: Arc<Outbox<R>>,
    worker: usize,
    service: Arc<Service<R>>,
}

impl<R: Managed> Drop for Round<R> {
    fn drop(&mut self) {
        self.outbox.send(self.worker, &self.service);
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

    /// Serves a datagram in the calling coroutine, and leaves its reply to the next round, when the
    /// other handlers of this round have returned too.
    pub(crate) fn serve(self: Arc<Self>, job: Job<R>) {
        let Some(worker) = self.runtime.place_here() else {
            return job.run(Opening::Waits);
        };
        let Job {
            mut request,
            service,
            permits,
        } = job;
        let failed = service.handle_once(&mut request) == Ended::Failed;
        let first = {
            let mut done = self.done(worker);
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
            let inbox = &self.runtime.inboxes[worker];
            let round = Round {
                outbox: Arc::clone(&self),
                worker,
                service,
            };
            inbox.send(Message::Start(Box::new(move || drop(round)), NOBODY));
        }
    }

    fn send(&self, worker: usize, service: &Service<R>) {
        let Done {
            mut requests,
            failed,
            permits,
        } = std::mem::take(&mut *self.done(worker));
        service.close_all(&mut requests, failed);
        drop(permits);
    }

    fn done(&self, worker: usize) -> MutexGuard<'_, Done<R>> {
        // A panic leaves the collections whole: only their own methods run under the lock.
        self.done[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
