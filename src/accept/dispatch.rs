//! What the accept loop works with: the server that serves, and the model that takes what is
//! accepted.

use std::fmt::Debug;
use std::io::{self, PipeReader};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::batch::Batch;
use crate::accept::report::Report;
use crate::connection::life::Service;
#[cfg(feature = "coroutines")]
use crate::connection::outbox;
use crate::error::Error;
use crate::net::Transport;
use crate::observe::hooks::Step;
use crate::shared::Shared;

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
pub trait Model: Debug + Send + Sized + 'static {
    /// The name of the model, as the command line has it.
    const NAME: &'static str;

    /// Serves until the server is asked to stop, and drains.
    #[doc(hidden)]
    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error>;
}

/// A model whose requests are accepted on the calling thread, so that `Server::handle_request` can
/// serve just one: all but [`Prefork`](crate::Prefork) and `Coroutines`.
///
/// Sealed, like [`Model`].
pub trait Dispatch: Debug {
    /// Whether `dispatch` serves requests itself, so that the accept loop stands still meanwhile.
    #[doc(hidden)]
    const SERVES_HERE: bool = false;

    /// Gets ready to serve; called again before each serving.
    #[doc(hidden)]
    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        let _ = shared;
        Ok(())
    }

    /// How many requests can be taken now.
    #[doc(hidden)]
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Whether requests that it was given wait until others end.
    #[doc(hidden)]
    fn is_behind(&self) -> bool {
        false
    }

    /// Serves what was accepted, or sends it on its way. What could not be is left in `batch` for
    /// another try.
    #[doc(hidden)]
    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()>;

    /// Adds the descriptors of the children that [`reap`](Self::reap) looks after.
    #[doc(hidden)]
    fn watch<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        let _ = fds;
    }

    /// Reaps the children whose descriptors are ready, by their place among those of
    /// [`watch`](Self::watch), ascending.
    #[doc(hidden)]
    fn reap(&mut self, ready: &[usize]) {
        let _ = ready;
    }

    /// Looks after what is short, at each turn of the accept loop: children that cannot be watched,
    /// memory for coroutines.
    ///
    /// # Errors
    ///
    /// What has failed once more, and why. It is tried again after [`tends_in`](Self::tends_in).
    #[doc(hidden)]
    fn tend(&mut self) -> Result<(), (Step, io::Error)> {
        Ok(())
    }

    /// After how long to [`tend`](Self::tend) again, whatever happens.
    #[doc(hidden)]
    fn tends_in(&self, now: Instant) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Ends what cannot be aborted through its socket. Called at the drain deadline.
    #[doc(hidden)]
    fn abort(&mut self) {}

    /// Whether a request is served in a child.
    #[doc(hidden)]
    fn has_child(&self, id: u64) -> bool {
        let _ = id;
        false
    }

    /// Ends a request that is served in another process, as far as it can be reached. Called when a
    /// deadline of it has passed.
    #[doc(hidden)]
    fn abort_one(&mut self, id: u64) {
        let _ = id;
    }

    /// Ends the input of a connection that is idle in another process, unless its client has sent
    /// something.
    #[doc(hidden)]
    fn end_one(&mut self, id: u64) {
        let _ = id;
    }

    /// How many bytes a request that is served in another process has sent which its peer has not
    /// taken, as far as that can be known.
    #[doc(hidden)]
    fn unsent(&self, id: u64) -> Option<u64> {
        let _ = id;
        None
    }

    /// Ends the threads that are idle. Called when the drain is over; `is_stuck` says that some may
    /// never be.
    #[doc(hidden)]
    fn finish(&mut self, is_stuck: bool) {
        let _ = is_stuck;
    }
}

/// A server that serves: its listeners and what is done with their requests.
#[derive(Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Serving<T: Transport> {
    pub(crate) listeners: Vec<T>,
    pub(crate) service: Arc<Service<T::Accepted>>,
    /// In a worker process: the pipe that ends when the parent does. The listeners are shared with
    /// others then.
    pub(crate) lifeline: Option<PipeReader>,
    /// Where the ends of requests gather that are cheaper ended together, in a model that has them
    /// end apart.
    #[cfg(feature = "coroutines")]
    pub(crate) outbox: Option<Arc<outbox::Outbox<T::Accepted>>>,
}

impl<T: Transport> Serving<T> {
    pub(crate) const fn new(listeners: Vec<T>, service: Arc<Service<T::Accepted>>) -> Self {
        Self {
            listeners,
            service,
            lifeline: None,
            #[cfg(feature = "coroutines")]
            outbox: None,
        }
    }
}
