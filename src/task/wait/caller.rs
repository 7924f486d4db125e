//! The task that calls, and its waits for futures and conditions.

use std::io;
use std::mem::take;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[cfg(feature = "coroutines")]
use crate::task::coro::worker::{Current, Remote, current};
use crate::task::local::{Local, Polled};
use crate::task::signal::{Signal, Wakeable};
use crate::task::thread::{self, Blocked};
use crate::task::watched;

/// The task that calls: a thread or a coroutine.
pub(crate) enum Task {
    Thread(Rc<Local>),
    #[cfg(feature = "coroutines")]
    Coroutine(Current),
}

/// The target of a task's signal.
#[derive(Debug)]
pub(crate) enum Target {
    Thread(Blocked),
    #[cfg(feature = "coroutines")]
    Coroutine(Remote),
}

impl Target {
    /// Returns the thread, unless the task is a coroutine.
    pub(crate) const fn thread(&self) -> Option<&Blocked> {
        match self {
            Self::Thread(blocked) => Some(blocked),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(_) => None,
        }
    }
}

impl Wakeable for Target {
    fn wake(&self) {
        match self {
            Self::Thread(blocked) => blocked.wake(),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(remote) => remote.wake(),
        }
    }
}

thread_local! {
    /// The state of the thread as a task of its own, outside of coroutines.
    static LOCAL: Rc<Local> = Rc::default();
}

/// Returns the deadline of the thread that calls, outside of coroutines.
pub(super) fn deadline_here() -> Option<Instant> {
    LOCAL.try_with(|local| local.deadline()).ok().flatten()
}

/// The text of the error after an abort without a reason.
pub(super) const ABORTED: &str = "the connection was aborted";

pub(super) fn aborted(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

pub(super) fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl Task {
    pub(crate) fn here() -> Self {
        #[cfg(feature = "coroutines")]
        if let Some(current) = current() {
            return Self::Coroutine(current);
        }
        // The destructor of another thread-local may wait after `LOCAL` is dropped.
        Self::Thread(LOCAL.try_with(Rc::clone).unwrap_or_default())
    }

    pub(crate) fn local(&self) -> &Local {
        match self {
            Self::Thread(local) => local,
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => current.local(),
        }
    }

    pub(crate) fn signal(&self) -> &(Arc<Signal>, Waker) {
        self.local().signal(|| match self {
            Self::Thread(_) => Target::Thread(Blocked::here()),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => Target::Coroutine(current.remote()),
        })
    }

    /// Returns why the waits of this task fail, if they do.
    pub(crate) fn why(&self) -> Option<&'static str> {
        match self {
            Self::Thread(local) => local.aborted(),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if current.may_suspend() => None,
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => Some(current.why_cancelled()),
        }
    }

    /// Fails if the handler was aborted or the deadline has passed.
    fn check(&self) -> io::Result<()> {
        if let Some(why) = self.why() {
            return Err(aborted(why));
        }
        let is_over = |deadline| Instant::now() >= deadline;
        if self.local().deadline().is_some_and(is_over) {
            return Err(timed_out());
        }
        Ok(())
    }

    /// Counts an operation that need not wait; a coroutine yields after a number of them.
    pub(super) fn spend(&self) {
        #[cfg(feature = "coroutines")]
        if let Self::Coroutine(current) = self {
            current.spend();
        }
    }

    /// Waits for the signal, or until [`check`](Self::check) would fail.
    fn wait(&self, signal: &Signal) {
        match self {
            Self::Thread(local) => thread::block(signal, local.deadline()),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if signal.begin() => drop(current.suspend(None)),
            // A wake-up has come, perhaps by the future itself: let the other coroutines run.
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => current.hand_over(),
        }
    }

    /// Waits for the signal alone, whatever [`check`](Self::check) would return.
    fn wait_uninterruptible(&self, signal: &Signal) {
        match self {
            Self::Thread(_) => thread::block(signal, None),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if signal.begin() => current.suspend_uninterruptible(),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => current.hand_over(),
        }
    }

    /// Returns whether the task can wait: a coroutine is not suspended while a panic unwinds.
    pub(crate) fn can_be_suspended(&self) -> bool {
        matches!(self, Self::Thread(_)) || !std::thread::panicking()
    }
}

/// Runs `start` concurrently with the task that calls: in a coroutine of the same worker, on a thread of the
/// host, or on a new thread. After `Ok`, `start` runs, or is leaked if the worker fails.
///
/// # Errors
///
/// `start` cannot run at once; it is dropped, not queued.
pub(crate) fn beside(start: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let task = Task::here();
    #[cfg(feature = "coroutines")]
    if let Task::Coroutine(current) = &task {
        return current.start_beside(start);
    }
    match task.local().host() {
        Some(host) => host.threads().run_now(start),
        None => std::thread::Builder::new().spawn(start).map(drop),
    }
}

/// Returns how many more tasks [`beside`] could start now.
pub(crate) fn room_beside() -> usize {
    let task = Task::here();
    #[cfg(feature = "coroutines")]
    if let Task::Coroutine(current) = &task {
        return current.runtime().room();
    }
    let host = task.local().host();
    host.map_or(usize::MAX, |host| host.threads().room())
}

/// Makes an outer wait, if there is one, check once more when this guard is dropped: the inner wait may have
/// consumed a wake-up for it.
pub(super) struct RecheckOnDrop<'a>(&'a Local, &'a Signal);

/// A wait for futures: at its end they are gone, and poll no connection.
struct Polling<'a> {
    local: &'a Local,
    around: Polled,
}

impl<'a> Polling<'a> {
    fn begin(local: &'a Local) -> Self {
        let around = local.begin_polls();
        Self { local, around }
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.local.end_polls(take(&mut self.around));
    }
}

impl<'a> RecheckOnDrop<'a> {
    pub(super) fn new(local: &'a Local, signal: &'a Signal) -> Self {
        local.begin_wait();
        Self(local, signal)
    }
}

impl Drop for RecheckOnDrop<'_> {
    fn drop(&mut self) {
        if self.0.end_wait() {
            self.1.recheck();
        }
    }
}

/// Waits until `poll` is ready; polls once, and again after each wake-up.
///
/// # Errors
///
/// - `TimedOut`: the deadline of [`timeout`](crate::task::timeout()) has passed.
/// - `ConnectionAborted`: the handler was aborted, or the coroutine's worker has been cancelled, or a panic
///   unwinds in the coroutine.
pub(crate) fn until<R>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> io::Result<R> {
    let task = Task::here();
    let (signal, waker) = task.signal();
    let mut context = Context::from_waker(waker);
    let _recheck = RecheckOnDrop::new(task.local(), signal);
    let _watching = matches!(task, Task::Thread(_)).then(watched::Entered::new);
    let _polling = Polling::begin(task.local());
    loop {
        signal.clear();
        if let Poll::Ready(result) = poll(&mut context) {
            task.spend();
            return Ok(result);
        }
        // From here on, an abort of the handler fires the signal.
        task.local().watch_abort(signal);
        // A caller that retries without end must not starve the other coroutines.
        task.check().inspect_err(|_| task.spend())?;
        task.wait(signal);
    }
}

/// As [`until`], without deadlines and aborts: for a condition that is sure to come. Returns `None` in a
/// coroutine that would have to be suspended while a panic unwinds.
pub(crate) fn uninterruptible<R>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Option<R> {
    let task = Task::here();
    let (signal, waker) = task.signal();
    let mut context = Context::from_waker(waker);
    let _recheck = RecheckOnDrop::new(task.local(), signal);
    loop {
        signal.clear();
        if let Poll::Ready(result) = poll(&mut context) {
            return Some(result);
        }
        if !task.can_be_suspended() {
            return None;
        }
        task.wait_uninterruptible(signal);
    }
}
