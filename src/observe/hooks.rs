//! What a server tells its program, and asks of it, beside the handler.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::address::Address;
use crate::counters::Counters;
use crate::error::Gone;
use crate::error::HandlerError;
use crate::lifecycle::{Lifecycle, State};
use crate::observe::events::{Event, Observer};
use crate::registry::table::AbortReason;

/// A request that failed: its handler returned an error or panicked, or its reply could not be
/// delivered.
#[derive(Debug)]
pub struct Failure<'a> {
    pub(crate) id: u64,
    pub(crate) peer: Address,
    pub(crate) error: &'a (dyn StdError + Send + Sync + 'static),
    pub(crate) abort: Option<AbortReason>,
    pub(crate) counters: &'a Counters,
}

impl Failure<'_> {
    /// The number of the request.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Who sent it.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.peer
    }

    /// What went wrong. A panic is shown with its message.
    #[must_use]
    pub const fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self.error
    }

    /// The error as an I/O error, if it is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.error.downcast_ref()
    }

    /// Whether the handler panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.error.is::<Panic>()
    }

    /// Why the server has aborted the connection, if it has: a deadline, most often. Handlers see it as an
    /// error of their next read or write. It is in [`Event::Ended`] too.
    #[must_use]
    pub const fn abort_reason(&self) -> Option<AbortReason> {
        self.abort
    }

    /// Whether the peer went away before it was served, or has no address to be answered at
    /// (`NotConnected`): everyday noise on a public port.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        let Some(err) = self.io_error() else {
            return false;
        };
        let is_gone = err.get_ref().is_some_and(|inner| inner.is::<Gone>());
        is_gone
            || matches!(
                err.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            )
    }

    /// Lets one failure through in a second, in all processes of the server together: `Some` with
    /// the number of those that were held back since, or `None` if this one is held back. For hooks
    /// that write a line: what clients bring about must not fill a disk.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::{Server, Tcp};
    ///
    /// let builder = Server::<Tcp>::builder().on_error(|failure| {
    ///     if failure.is_disconnect() {
    ///         return;
    ///     }
    ///     if let Some(held_back) = failure.once_a_second() {
    ///         eprintln!("{failure} ({held_back} more since the last line)");
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn once_a_second(&self) -> Option<u64> {
        self.counters.pass_failure()
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {} from {}: {}", self.id, self.peer, self.error)
    }
}

/// A panic of a handler or a hook, as an error.
#[derive(Debug)]
pub(crate) struct Panic(String);

impl Panic {
    pub(crate) fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self(text.unwrap_or("(not a string)").to_owned())
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl StdError for Panic {}

/// What the acceptor failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Taking a request from the listener: accept(2), recvmmsg(2).
    Accept,
    /// Waiting for requests: poll(2).
    Wait,
    /// Starting a thread, forking a process or getting memory for the stack of a coroutine for a request,
    /// which waits meanwhile.
    Dispatch,
    /// Calling the `service_actions` hook, which panicked.
    ServiceActions,
    /// Keeping the worker processes alive: one has died, or could not be forked.
    Worker,
    /// Waiting in a worker of the model `Coroutines`: epoll_wait(2), io_uring_enter(2).
    Driver,
    /// Opening the descriptor by which the end of a child process is seen: pidfd_open(2). The child
    /// serves meanwhile.
    Watch,
}

/// What the acceptor does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// The error was that of one request, which is gone; accepting goes on.
    Continue,
    /// Something is exhausted. It is tried again after this time, or as soon as a request ends.
    Retry(Duration),
    /// This listener is broken and will not be used again; the others go on.
    Abandon,
    /// The server stops, and serving fails with the error.
    Fail,
}

/// A failure of the acceptor, which goes on.
#[derive(Debug)]
pub struct AcceptError {
    pub(crate) listener: Option<String>,
    pub(crate) step: Step,
    pub(crate) reaction: Reaction,
    pub(crate) error: io::Error,
    pub(crate) unreported: u64,
}

impl AcceptError {
    /// The URL of the listener, where one was at fault.
    #[must_use]
    pub fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// What failed.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// What the acceptor does about it.
    #[must_use]
    pub const fn reaction(&self) -> Reaction {
        self.reaction
    }

    /// The error.
    #[must_use]
    pub const fn error(&self) -> &io::Error {
        &self.error
    }

    /// How many errors were not reported before this one, in all processes of the server, because
    /// their hooks are called once a second at most.
    #[must_use]
    pub const fn unreported(&self) -> u64 {
        self.unreported
    }
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listener,
            step,
            reaction,
            error,
            unreported,
        } = self;
        match step {
            Step::Accept => f.write_str("accept")?,
            Step::Wait => f.write_str("wait for requests")?,
            Step::Dispatch => f.write_str("start a thread, process or coroutine for a request")?,
            Step::ServiceActions => f.write_str("service actions")?,
            Step::Worker => f.write_str("worker process")?,
            Step::Driver => f.write_str("wait in a worker of coroutines")?,
            Step::Watch => f.write_str("watch a child process (pidfd_open)")?,
        }
        if let Some(url) = listener {
            write!(f, " on {url}")?;
        }
        write!(f, ": {error}")?;
        match reaction {
            Reaction::Continue => {}
            Reaction::Retry(delay) => write!(f, "; trying again within {} ms", delay.as_millis())?,
            Reaction::Abandon => f.write_str("; this listener is given up")?,
            Reaction::Fail => f.write_str("; the server stops")?,
        }
        if *unreported > 0 {
            write!(f, " ({unreported} more since the last report)")?;
        }
        Ok(())
    }
}

/// A request that keeps its worker from the other coroutines: it computes, or blocks in foreign
/// code.
#[derive(Debug)]
pub struct Stall {
    pub(crate) id: Option<u64>,
    pub(crate) peer: Option<Address>,
    pub(crate) time: Duration,
}

impl Stall {
    /// The number of the request; `None` if a hook of the accept loop is at fault.
    #[must_use]
    pub const fn id(&self) -> Option<u64> {
        self.id
    }

    /// Who sent it, if it is a connection that is still open.
    #[must_use]
    pub const fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    /// For how long it has run so far.
    #[must_use]
    pub const fn time(&self) -> Duration {
        self.time
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "request {id}")?,
            None => f.write_str("a hook of the accept loop")?,
        }
        if let Some(peer) = &self.peer {
            write!(f, " from {peer}")?;
        }
        write!(
            f,
            " has kept its worker busy for {} ms",
            self.time.as_millis()
        )
    }
}

type Verify<R> = Box<dyn Fn(&R) -> bool + Send + Sync>;
type Whole = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;
type ErrorHook = Box<dyn Fn(&Failure<'_>) + Send + Sync>;
type AcceptErrorHook = Box<dyn Fn(&AcceptError) + Send + Sync>;
type StallHook = Box<dyn Fn(&Stall) + Send + Sync>;
type Callback = Box<dyn Fn() + Send + Sync>;

/// The hooks of a server. All are optional; none can stop it.
pub(crate) struct Hooks<R> {
    pub(crate) observers: Vec<Box<dyn Observer>>,
    pub(crate) verify: Option<Verify<R>>,
    pub(crate) whole: Option<Whole>,
    /// Whether a connection waits for its first byte before its handler is called.
    pub(crate) client_speaks_first: bool,
    pub(crate) error: Option<ErrorHook>,
    pub(crate) accept_error: Option<AcceptErrorHook>,
    pub(crate) stall: Option<StallHook>,
    pub(crate) ready: Option<Callback>,
    pub(crate) timeout: Option<Callback>,
    pub(crate) service_actions: Option<(Duration, Callback)>,
}

impl<R> Default for Hooks<R> {
    fn default() -> Self {
        Self {
            observers: Vec::new(),
            verify: None,
            whole: None,
            client_speaks_first: false,
            error: None,
            accept_error: None,
            stall: None,
            ready: None,
            timeout: None,
            service_actions: None,
        }
    }
}

impl<R> fmt::Debug for Hooks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl<R> Hooks<R> {
    /// Tells the observers, if there are any.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.observers.is_empty() {
            return;
        }
        let event = event();
        for observer in &self.observers {
            // Only the panic hook is left to report a panic of the observer, and has done so.
            let _ = call(|| observer.observe(&event));
        }
    }

    /// Goes on to `state`, and tells the observers.
    pub(crate) fn enter(&self, lifecycle: &Lifecycle, state: State) {
        if lifecycle.advance(state) {
            self.emit(|| Event::State(state));
        }
    }

    /// Tells the accept error hook, if there is one.
    pub(crate) fn report(&self, err: &AcceptError) {
        self.emit(|| Event::AcceptFailed(err));
        if let Some(hook) = &self.accept_error {
            // As above.
            let _ = call(|| hook(err));
        }
    }

    /// Tells the stall hook, if there is one.
    #[cfg(feature = "coroutines")]
    pub(crate) fn stalled(&self, stall: &Stall) {
        self.emit(|| Event::Stalled(stall));
        if let Some(hook) = &self.stall {
            // As above.
            let _ = call(|| hook(stall));
        }
    }

    /// Calls the timeout hook, if there is one.
    pub(crate) fn timed_out(&self) {
        if let Some(hook) = &self.timeout {
            // As above.
            let _ = call(hook);
        }
    }

    /// Tells the ready hook, if there is one.
    pub(crate) fn ready(&self) {
        if let Some(hook) = &self.ready {
            // As above.
            let _ = call(hook);
        }
    }
}

/// Calls a hook; a panic of it becomes an error.
pub(crate) fn call<T>(hook: impl FnOnce() -> T) -> Result<T, HandlerError> {
    catch_unwind(AssertUnwindSafe(hook)).map_err(|payload| {
        let panic = Panic::new(&*payload);
        // Dropping it could panic once more. What that leaves is leaked: it could go on for ever.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        panic.into()
    })
}
