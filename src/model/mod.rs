//! Where requests run. A model takes what a transport yields and decides which thread or process
//! serves it.
//!
//! Models know transports only as the [`Transport`] trait. Those that accept in one thread
//! ([`Dispatch`]) share the loop in `accept.rs`; the others run a server of their own on top of it.

#[cfg(feature = "coroutines")]
pub(crate) mod coroutines;
pub(crate) mod forking;
#[cfg(feature = "coroutines")]
pub(crate) mod outbox;
pub(crate) mod prefork;
pub(crate) mod sequential;
pub(crate) mod thread_pool;
pub(crate) mod threading;
mod watching;

use std::fmt::Debug;
use std::io::{self, PipeReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::{Acceptor, Batch};
use crate::error::Error;
use crate::hooks::Step;
use crate::server::Report;
use crate::service::Service;
use crate::state::Shared;
use crate::task::threads::Threads;
use crate::task::wait::Awaited;
use crate::transport::Transport;

/// Where the requests of a server run: [`Sequential`], [`Threading`], [`ThreadPool`], [`Forking`],
/// [`Prefork`].
///
/// Sealed: the models are those of this crate.
///
/// [`Sequential`]: crate::Sequential
/// [`Threading`]: crate::Threading
/// [`ThreadPool`]: crate::ThreadPool
/// [`Forking`]: crate::Forking
/// [`Prefork`]: crate::Prefork
#[expect(private_bounds, reason = "sealed")]
pub trait Model: Run + Debug + Send + Sized + 'static {
    /// The name of the model, as the command line has it.
    const NAME: &'static str;
}

/// A model whose requests are accepted on the calling thread, so that `Server::handle_request` can
/// serve just one.
///
/// Sealed, like [`Model`].
#[expect(private_bounds, reason = "sealed")]
pub trait Dispatch: Model + Take {}

/// What every model does.
pub(crate) trait Run: Sized {
    /// Serves until the server is asked to stop, and drains.
    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error>;
}

/// What the accept loop asks of a model.
pub(crate) trait Take {
    /// Whether `dispatch` serves requests itself, so that the accept loop stands still meanwhile.
    const SERVES_HERE: bool = false;

    /// Gets ready to serve; called again before each serving.
    fn start(&mut self, shared: &Arc<Shared>) -> io::Result<()> {
        let _ = shared;
        Ok(())
    }

    /// How many requests can be taken now.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Serves what was accepted, or sends it on its way. What could not be is left in `batch` for
    /// another try.
    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Request>,
        serving: &mut Serving<T>,
    ) -> io::Result<()>;

    /// Adds the descriptors of the children that [`reap`](Self::reap) looks after.
    fn watch<'a>(&'a self, fds: &mut Vec<Awaited<'a>>) {
        let _ = fds;
    }

    /// Reaps the children whose descriptors are ready, by their place among those of
    /// [`watch`](Self::watch), ascending.
    fn reap(&mut self, ready: &[usize]) {
        let _ = ready;
    }

    /// Looks after what is short, at each turn of the accept loop: children that cannot be watched,
    /// memory for coroutines.
    ///
    /// # Errors
    ///
    /// What has failed once more, and why. It is tried again after [`tends_in`](Self::tends_in).
    fn tend(&mut self) -> Result<(), (Step, io::Error)> {
        Ok(())
    }

    /// After how long to [`tend`](Self::tend) again, whatever happens.
    fn tends_in(&self, now: Instant) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Ends what cannot be cut through its socket. Called at the drain deadline.
    fn cut(&mut self) {}

    /// Whether a request is served in a child.
    fn has_child(&self, id: u64) -> bool {
        let _ = id;
        false
    }

    /// Ends a request that is served in another process, as far as it can be reached. Called when a
    /// deadline of it has passed.
    fn cut_one(&mut self, id: u64) {
        let _ = id;
    }

    /// How many bytes a request that is served in another process has sent which its peer has not
    /// taken, as far as that can be known.
    fn unsent(&self, id: u64) -> Option<u64> {
        let _ = id;
        None
    }

    /// Ends the threads that are idle. Called when the drain is over; `is_stuck` says that some may
    /// never be.
    fn finish(&mut self, is_stuck: bool) {
        let _ = is_stuck;
    }
}

impl<M: Dispatch> Run for M {
    fn serve<T: Transport>(mut self, mut serving: Serving<T>) -> Result<Report, Error> {
        Acceptor::new(&mut serving, &mut self, M::NAME)?.serve()
    }
}

/// A server that serves: its listeners and what is done with their requests.
#[derive(Debug)]
pub(crate) struct Serving<T: Transport> {
    pub(crate) listeners: Vec<T>,
    pub(crate) service: Arc<Service<T::Request>>,
    /// In a worker process: the pipe that ends when the parent does. The listeners are shared with
    /// others then.
    pub(crate) lifeline: Option<PipeReader>,
    /// Where the ends of requests gather that are cheaper ended together, in a model that has them
    /// end apart.
    #[cfg(feature = "coroutines")]
    pub(crate) outbox: Option<Arc<outbox::Outbox<T::Request>>>,
}

impl<T: Transport> Serving<T> {
    pub(crate) const fn new(listeners: Vec<T>, service: Arc<Service<T::Request>>) -> Self {
        Self {
            listeners,
            service,
            lifeline: None,
            #[cfg(feature = "coroutines")]
            outbox: None,
        }
    }
}

/// Gives each request of a batch to a thread. Those left in the batch need a thread that could not
/// be started.
fn dispatch_to<T: Transport>(
    threads: &Threads,
    batch: &mut Batch<T::Request>,
    serving: &Serving<T>,
) -> io::Result<()> {
    while !batch.requests.is_empty() {
        let place = threads.reserve()?;
        if let Some(job) = batch.next_job(serving) {
            place.execute(Box::new(move || job.run()));
        }
    }
    Ok(())
}

/// Wakes the accept loop when it waits for room.
fn on_room(shared: &Arc<Shared>) -> impl Fn() + Send + Sync + 'static {
    let shared = Arc::clone(shared);
    move || shared.release()
}
