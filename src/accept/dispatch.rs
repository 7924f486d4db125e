//! The traits of a model, and the server that the accept loop serves.

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

/// A concurrency model: where the handlers of a server run. The models are [`Sequential`],
/// [`Threading`], [`ThreadPool`], [`Forking`], [`Prefork`], and `Coroutines` (feature
/// `coroutines`).
///
/// The trait is sealed.
///
/// # Examples
///
/// A function that serves under any model:
///
/// ```
/// use std::io::Write;
/// use socketserver::model::Model;
/// use socketserver::{Error, Server, Tcp, ThreadPool};
///
/// fn greet<M: Model>(model: M) -> Result<(), Error> {
///     let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
///     let guard = server.spawn(|conn| conn.write_all(b"hello\n"))?;
///     println!("model {} on {}", M::NAME, guard.handle().local_addrs()[0]);
///     Ok(())
/// }
///
/// greet(ThreadPool::new(2))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// [`Sequential`]: crate::Sequential
/// [`Threading`]: crate::Threading
/// [`ThreadPool`]: crate::ThreadPool
/// [`Forking`]: crate::Forking
/// [`Prefork`]: crate::Prefork
pub trait Model: Debug + Send + Sized + 'static {
    /// The name of the model on the command line.
    const NAME: &'static str;

    /// Serves until the server is asked to stop, and drains.
    #[doc(hidden)]
    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error>;
}

/// A model that accepts on the calling thread, so that
/// [`Server::handle_request`](crate::Server::handle_request) can serve a single connection or
/// datagram: every model but [`Prefork`](crate::Prefork) and `Coroutines`.
///
/// The trait is sealed, like [`Model`].
///
/// # Examples
///
/// A function that serves one datagram under any such model:
///
/// ```no_run
/// use socketserver::model::{Dispatch, Model};
/// use socketserver::{Datagram, Error, Handled, Server, Udp};
///
/// fn echo_one<M: Model + Dispatch>(server: &mut Server<Udp, M>) -> Result<Handled, Error> {
///     server.handle_request(None, |datagram| datagram.echo())
/// }
/// ```
pub trait Dispatch: Debug {
    /// Whether `dispatch` runs the handlers itself, which blocks the accept loop meanwhile.
    #[doc(hidden)]
    const SERVES_HERE: bool = false;

    /// Prepares to serve. Called before each serving.
    #[doc(hidden)]
    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        let _ = shared;
        Ok(())
    }

    /// How many connections or datagrams the model can take now.
    #[doc(hidden)]
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Whether dispatched connections are queued until another one ends.
    #[doc(hidden)]
    fn is_behind(&self) -> bool {
        false
    }

    /// Serves the batch, or starts to. Entries that cannot be started stay in `batch` for another
    /// attempt.
    #[doc(hidden)]
    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()>;

    /// Adds the descriptors of the children that [`reap`](Self::reap) reaps.
    #[doc(hidden)]
    fn watch<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        let _ = fds;
    }

    /// Reaps the children whose descriptors are ready: their indexes among the descriptors of
    /// [`watch`](Self::watch), ascending.
    #[doc(hidden)]
    fn reap(&mut self, ready: &[usize]) {
        let _ = ready;
    }

    /// Retries what has failed for lack of a resource: a pidfd for a child, memory for a coroutine.
    /// The accept loop calls it at each turn.
    ///
    /// # Errors
    ///
    /// The step that has failed again, and the cause. The model retries after
    /// [`tends_in`](Self::tends_in).
    #[doc(hidden)]
    fn tend(&mut self) -> Result<(), (Step, io::Error)> {
        Ok(())
    }

    /// The time until the next call of [`tend`](Self::tend) is due; `None` without a retry.
    #[doc(hidden)]
    fn tends_in(&self, now: Instant) -> Option<Duration> {
        let _ = now;
        None
    }

    /// Ends handlers that an abort of their sockets cannot end. Called at the drain deadline.
    #[doc(hidden)]
    fn abort(&mut self) {}

    /// Whether a child serves the connection.
    #[doc(hidden)]
    fn has_child(&self, id: u64) -> bool {
        let _ = id;
        false
    }

    /// Aborts a connection that a child serves. Called when a deadline of the connection has
    /// passed.
    #[doc(hidden)]
    fn abort_one(&mut self, id: u64) {
        let _ = id;
    }

    /// Ends the input of a connection that is idle in a child, unless its client has sent
    /// something.
    #[doc(hidden)]
    fn end_one(&mut self, id: u64) {
        let _ = id;
    }

    /// How many sent bytes of a connection in a child its peer has not taken yet; `None` if
    /// unknown.
    #[doc(hidden)]
    fn unsent(&self, id: u64) -> Option<u64> {
        let _ = id;
        None
    }

    /// Ends the idle threads. Called when the drain is over; `is_stuck` says that some handlers may
    /// never return.
    #[doc(hidden)]
    fn finish(&mut self, is_stuck: bool) {
        let _ = is_stuck;
    }
}

/// A server that serves: its listeners, and the service behind them.
#[derive(Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Serving<T: Transport> {
    pub(crate) listeners: Vec<T>,
    pub(crate) service: Arc<Service<T::Accepted>>,
    /// In a worker process: the pipe that ends when the parent does. The listeners are then shared
    /// with other workers.
    pub(crate) lifeline: Option<PipeReader>,
    /// The replies that the coroutines of one round send together.
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
