//! The task that calls, and how it waits for anything but a descriptor.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[cfg(feature = "coroutines")]
use crate::task::coro::worker::{Current, Remote, current};
use crate::task::local::Local;
use crate::task::signal::{Signal, Wakeable};
use crate::task::thread::{self, Blocked};
use crate::task::watched;

/// The task that calls: a coroutine, or a thread.
pub(crate) enum Task {
    Thread(Rc<Local>),
    #[cfg(feature = "coroutines")]
    Coroutine(Current),
}

/// What the signal of a task wakes.
#[derive(Debug)]
pub(crate) enum Target {
    Thread(Blocked),
    #[cfg(feature = "coroutines")]
    Coroutine(Remote),
}

impl Target {
    /// The thread, where it is none of a worker's coroutines.
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
    /// That of the thread, for where it runs no coroutine.
    static LOCAL: Rc<Local> = Rc::default();
}

/// Until when the thread that calls may wait, where it runs no coroutine.
pub(super) fn deadline_here() -> Option<Instant> {
    LOCAL.try_with(|local| local.deadline()).ok().flatten()
}

/// What a wait says that an abort has ended, where nothing else is known.
pub(super) const ABORTED: &str = "the request was aborted";

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
        // Another thread-local may be dropped after that one, and wait.
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

    /// Why the waits of this task fail.
    pub(crate) fn why(&self) -> Option<&'static str> {
        match self {
            Self::Thread(local) => local.aborted(),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if current.may_suspend() => None,
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => Some(current.why_cancelled()),
        }
    }

    /// Whether the task may go on waiting.
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

    /// Counts a wait that has ended at once; now and then lets the others run.
    fn spend(&self) {
        #[cfg(feature = "coroutines")]
        if let Self::Coroutine(current) = self {
            current.spend();
        }
    }

    /// Waits for the signal, or for what [`check`](Self::check) finds.
    fn wait(&self, signal: &Signal) {
        match self {
            Self::Thread(local) => thread::block(signal, local.deadline()),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if signal.begin() => drop(current.suspend(None)),
            // Woken meanwhile, by itself perhaps: the others have their turn.
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => current.hand_over(),
        }
    }

    /// Waits for the signal alone.
    fn wait_uninterruptible(&self, signal: &Signal) {
        match self {
            Self::Thread(_) => thread::block(signal, None),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) if signal.begin() => current.suspend_uninterruptible(),
            #[cfg(feature = "coroutines")]
            Self::Coroutine(current) => current.hand_over(),
        }
    }

    /// Whether the task can wait: no coroutine is suspended while a panic unwinds.
    pub(crate) fn can_be_suspended(&self) -> bool {
        matches!(self, Self::Thread(_)) || !std::thread::panicking()
    }
}

/// Runs `start` beside the task that calls: in a coroutine of the same worker, on a thread of the host, or
/// on a new one. It is run for sure, or leaked where the worker fails.
///
/// # Errors
///
/// It cannot run now: nothing waits for its turn.
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

/// Has a wait around this one look once more: its wake-up may have come meanwhile.
pub(super) struct RecheckOnDrop<'a>(&'a Signal);

impl<'a> RecheckOnDrop<'a> {
    pub(super) const fn new(signal: &'a Signal) -> Self {
        Self(signal)
    }
}

impl Drop for RecheckOnDrop<'_> {
    fn drop(&mut self) {
        self.0.recheck();
    }
}

/// Waits until `poll` is ready: polls, and once more after each wake-up.
///
/// # Errors
///
/// `TimedOut` at the deadline of [`timeout`](crate::task::timeout()). `ConnectionAborted` when the handler's request is aborted,
/// and in a coroutine whose worker ends what is left or in which a panic unwinds.
pub(crate) fn until<R>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> io::Result<R> {
    let task = Task::here();
    let (signal, waker) = task.signal();
    let mut context = Context::from_waker(waker);
    let _recheck = RecheckOnDrop::new(signal);
    let _watching = matches!(task, Task::Thread(_)).then(watched::Entered::new);
    loop {
        signal.clear();
        if let Poll::Ready(result) = poll(&mut context) {
            task.spend();
            return Ok(result);
        }
        // From now on it interrupts.
        task.local().watch_abort(signal);
        // Who tries again and again must not keep the others waiting.
        task.check().inspect_err(|_| task.spend())?;
        task.wait(signal);
    }
}

/// As [`until`], whatever happens meanwhile: for what is sure to end. `None` in a coroutine that would
/// have to be suspended while a panic unwinds.
pub(crate) fn uninterruptible<R>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Option<R> {
    let task = Task::here();
    let (signal, waker) = task.signal();
    let mut context = Context::from_waker(waker);
    let _recheck = RecheckOnDrop::new(signal);
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
