//! User callbacks, and the errors that they receive.

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
use crate::registry::info::Subject;
use crate::registry::table::AbortReason;

/// A connection or datagram that failed: its handler returned an error or panicked, or its reply
/// could not be delivered.
///
/// # Examples
///
/// ```
/// use socketserver::{Server, Tcp};
///
/// let builder = Server::<Tcp>::builder().on_error(|failure| {
///     if failure.is_panic() {
///         eprintln!("a bug: {failure}");
///     }
/// });
/// # drop(builder);
/// ```
#[derive(Debug)]
pub struct Failure<'a> {
    pub(crate) subject: Subject,
    pub(crate) id: u64,
    pub(crate) peer: Address,
    pub(crate) error: &'a (dyn StdError + Send + Sync + 'static),
    pub(crate) abort: Option<AbortReason>,
    pub(crate) counters: &'a Counters,
}

impl Failure<'_> {
    /// Returns whether a connection or a datagram failed.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    /// Returns the number of the connection or datagram.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns the address of the peer.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.peer
    }

    /// Returns the error. A panic becomes an error with the panic's message.
    #[must_use]
    pub const fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self.error
    }

    /// Returns the error as an I/O error, if it is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.error.downcast_ref()
    }

    /// Returns whether the handler panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.error.is::<Panic>()
    }

    /// Returns why the server has aborted the connection, if it has. Most often a deadline has
    /// passed. The handler gets the reason as the error of its next read or write, and
    /// [`Event::Ended`] has it too.
    #[must_use]
    pub const fn abort_reason(&self) -> Option<AbortReason> {
        self.abort
    }

    /// Returns whether the peer has gone, or has no address for a reply (`NotConnected`). On a
    /// public port such failures are common. `false` if the server has aborted the connection.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        let Some(err) = self.io_error().filter(|_| self.abort.is_none()) else {
            return false;
        };
        let is_gone = err.get_ref().is_some_and(|inner| inner.is::<Gone>());
        is_gone
            || matches!(
                err.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            )
    }

    /// Throttles failures to one a second, in all processes of the server together. Returns `Some`
    /// with the number of failures that were held back since the last one, or `None` if this one is
    /// held back. For hooks that write a line: clients must not be able to fill a disk.
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
        let Self {
            subject,
            id,
            peer,
            error,
            ..
        } = self;
        write!(f, "{subject} {id} from {peer}: {error}")
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

/// What the server failed to do.
///
/// # Examples
///
/// ```
/// use socketserver::observe::{AcceptError, Step};
///
/// fn is_overload(err: &AcceptError) -> bool {
///     matches!(err.step(), Step::Accept | Step::Dispatch)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Accepting from a listener: accept(2), recvmmsg(2).
    Accept,
    /// Waiting for clients: poll(2).
    Wait,
    /// Running the handler: starting a thread, forking a process, or mapping the stack of a
    /// coroutine. The connection or datagram waits meanwhile.
    Dispatch,
    /// Calling the `service_actions` hook, which panicked.
    ServiceActions,
    /// Keeping a worker process alive: one has died, or could not be forked.
    Worker,
    /// Waiting in a worker of the model `Coroutines`: epoll_wait(2), io_uring_enter(2).
    Driver,
    /// Opening the pidfd of a child process: pidfd_open(2). The child serves all the same.
    Watch,
}

/// What the server does about an error.
///
/// # Examples
///
/// ```
/// use socketserver::observe::{AcceptError, Reaction};
///
/// fn needs_help(err: &AcceptError) -> bool {
///     matches!(err.reaction(), Reaction::Abandon | Reaction::Fail)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// The error concerned one connection or datagram, one call of a hook, or one worker process.
    /// The server goes on.
    Continue,
    /// A resource is exhausted. The server retries after this delay, or as soon as a connection
    /// ends.
    Retry(Duration),
    /// The listener is broken. The server closes it and goes on with its other listeners.
    Abandon,
    /// The server stops, and serving fails with the error.
    Fail,
}

/// An error of accepting, or of running the handler. The server goes on, unless
/// [`reaction`](Self::reaction) is [`Reaction::Fail`].
///
/// # Examples
///
/// ```
/// use socketserver::{Server, Tcp};
///
/// let builder = Server::<Tcp>::builder().on_accept_error(|err| {
///     let listener = err.listener().unwrap_or("the server");
///     eprintln!("{listener}: {:?}: {}", err.step(), err.error());
/// });
/// # drop(builder);
/// ```
#[derive(Debug)]
pub struct AcceptError {
    pub(crate) listener: Option<String>,
    pub(crate) step: Step,
    pub(crate) reaction: Reaction,
    pub(crate) error: io::Error,
    pub(crate) unreported: u64,
}

impl AcceptError {
    /// Returns the URL of the listener, if the error concerns one.
    #[must_use]
    pub fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// Returns what failed.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Returns what the server does about the error.
    #[must_use]
    pub const fn reaction(&self) -> Reaction {
        self.reaction
    }

    /// Returns the system's error.
    #[must_use]
    pub const fn error(&self) -> &io::Error {
        &self.error
    }

    /// Returns how many errors were held back since the last report, in all processes of the
    /// server: errors are reported at most once a second.
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
            Step::Wait => f.write_str("wait for clients")?,
            Step::Dispatch => f.write_str("start a thread, process or coroutine")?,
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

/// A handler that keeps its worker from running other coroutines: it computes, or blocks outside
/// this crate.
///
/// # Examples
///
/// ```
/// use socketserver::{Server, Tcp};
///
/// let builder = Server::<Tcp>::builder().on_stall(|stall| {
///     eprintln!("{stall}; use socketserver::task::offload for blocking calls");
/// });
/// # drop(builder);
/// ```
#[derive(Debug)]
pub struct Stall {
    pub(crate) id: Option<u64>,
    pub(crate) peer: Option<Address>,
    pub(crate) time: Duration,
}

impl Stall {
    /// Returns the number of the connection or datagram; `None` if a hook of the accept loop keeps
    /// the worker busy.
    #[must_use]
    pub const fn id(&self) -> Option<u64> {
        self.id
    }

    /// Returns the address of the peer; `None` for a datagram.
    #[must_use]
    pub const fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    /// Returns how long the handler has kept the worker busy so far.
    #[must_use]
    pub const fn time(&self) -> Duration {
        self.time
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.id, &self.peer) {
            (Some(id), Some(peer)) => write!(f, "connection {id} from {peer}")?,
            (Some(id), None) => write!(f, "datagram {id}")?,
            (None, _) => f.write_str("a hook of the accept loop")?,
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
type StateHook = Box<dyn Fn(State) + Send + Sync>;
type ReloadHook = Box<dyn Fn(Reloading) + Send + Sync>;
type StallHook = Box<dyn Fn(&Stall) + Send + Sync>;
type Callback = Box<dyn Fn() + Send + Sync>;

/// What happens to a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reloading {
    /// The reload hook is called next.
    Begins,
    /// The reload hook has returned.
    Ended,
}

/// The user callbacks of a server. All are optional; none can stop the server.
pub(crate) struct Hooks<R> {
    pub(crate) observers: Vec<Box<dyn Observer>>,
    pub(crate) verify: Option<Verify<R>>,
    pub(crate) whole: Option<Whole>,
    /// Whether the server waits for a connection's first byte before it calls the handler.
    pub(crate) client_speaks_first: bool,
    pub(crate) error: Option<ErrorHook>,
    pub(crate) accept_error: Option<AcceptErrorHook>,
    pub(crate) stall: Option<StallHook>,
    pub(crate) ready: Option<Callback>,
    pub(crate) reload: Option<Callback>,
    /// Called in the process that has started the server.
    pub(crate) reloading: Option<ReloadHook>,
    pub(crate) timeout: Option<Callback>,
    pub(crate) service_actions: Option<(Duration, Callback)>,
    pub(crate) heartbeat: Option<(Duration, StateHook)>,
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
            reload: None,
            reloading: None,
            timeout: None,
            service_actions: None,
            heartbeat: None,
        }
    }
}

impl<R> fmt::Debug for Hooks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl<R> Hooks<R> {
    /// Emits an event to the observers. Without observers, it costs one branch.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.observers.is_empty() {
            return;
        }
        let event = event();
        for observer in &self.observers {
            // The panic hook has reported a panic of the observer.
            let _ = call(|| observer.observe(&event));
        }
    }

    /// Enters `state`, and emits the event.
    pub(crate) fn enter(&self, lifecycle: &Lifecycle, state: State) {
        if lifecycle.advance(state) {
            self.emit(|| Event::State(state));
        }
    }

    /// Emits an accept error, and calls its hook.
    pub(crate) fn report(&self, err: &AcceptError) {
        self.emit(|| Event::AcceptFailed(err));
        if let Some(hook) = &self.accept_error {
            // As above.
            let _ = call(|| hook(err));
        }
    }

    /// Emits a stall, and calls its hook.
    #[cfg(feature = "coroutines")]
    pub(crate) fn stalled(&self, stall: &Stall) {
        self.emit(|| Event::Stalled(stall));
        if let Some(hook) = &self.stall {
            // As above.
            let _ = call(|| hook(stall));
        }
    }

    /// Calls the timeout hook.
    pub(crate) fn timed_out(&self) {
        if let Some(hook) = &self.timeout {
            // As above.
            let _ = call(hook);
        }
    }

    /// Calls the reload hook.
    pub(crate) fn reload(&self) {
        if let Some(hook) = &self.reload {
            // As above.
            let _ = call(hook);
        }
    }

    /// Calls the hook for the beginning and the end of a reload.
    pub(crate) fn reloading(&self, step: Reloading) {
        if let Some(hook) = &self.reloading {
            // As above.
            let _ = call(|| hook(step));
        }
    }

    /// Calls the ready hook.
    pub(crate) fn ready(&self) {
        if let Some(hook) = &self.ready {
            // As above.
            let _ = call(hook);
        }
    }
}

/// Calls a hook. Its panic becomes an error.
pub(crate) fn call<T>(hook: impl FnOnce() -> T) -> Result<T, HandlerError> {
    catch_unwind(AssertUnwindSafe(hook)).map_err(|payload| {
        let panic = Panic::new(&*payload);
        // The drop of the payload could panic again. That second payload is leaked, because its
        // drop could panic too.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        panic.into()
    })
}
