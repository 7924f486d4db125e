//! The deadline keeper: a thread that keeps deadlines for an accept loop which runs handlers
//! itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Tried};
use crate::lifecycle::Idle;
use crate::registry::{Registry, SETTLE};
use crate::sys::poll::{any_of, is_readable};
use crate::sys::wakeup::WokenBy;
use crate::task::wait::{self, Awaited, Source, Wakeup, after};

/// A thread that sleeps until the next deadline of a connection or of a stop, and aborts the
/// connections whose deadline has passed. Without connections it sleeps until it is woken. Dropping
/// the value ends the thread.
#[derive(Debug)]
pub(crate) struct DeadlineKeeper {
    registry: Arc<Registry>,
    done: Arc<AtomicBool>,
    /// The thread checks no deadlines of connections until it is woken.
    asleep: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The pause after a failed wait.
const RETRY: Duration = Duration::from_millis(100);

/// The size of the thread's stack: its calls need no more.
const STACK: usize = 64 * 1024;

impl DeadlineKeeper {
    /// Starts the thread. It also watches the lifeline of a worker process, and during a stop the
    /// backlog of `listeners`, whose clients may wait for the serving thread.
    pub(crate) fn start(
        registry: &Arc<Registry>,
        lifeline: Option<BorrowedFd<'_>>,
        listeners: &[impl AsFd],
    ) -> Result<Self, Error> {
        let wakeup = Wakeup::new(registry.lifecycle().wakeup_event(), lifeline);
        let wakeup = wakeup.tried(|| "create an epoll instance".to_owned())?;
        let backlog = any_of(listeners);
        let backlog = backlog.tried(|| "watch the listeners with epoll".to_owned())?;
        let done = Arc::new(AtomicBool::new(false));
        let asleep = Arc::new(AtomicBool::new(true));
        let thread = thread::Builder::new()
            .name("socketserver-deadlines".to_owned())
            .stack_size(STACK);
        let run = {
            let (registry, done) = (Arc::clone(registry), Arc::clone(&done));
            let asleep = Arc::clone(&asleep);
            move || keep_deadlines(&registry, &wakeup, &backlog, &done, &asleep)
        };
        let thread = thread
            .spawn(run)
            .tried(|| "start the thread that keeps deadlines".to_owned())?;
        Ok(Self {
            registry: Arc::clone(registry),
            done,
            asleep,
            thread: Some(thread),
        })
    }

    /// Wakes the thread if it sleeps, because there are connections now.
    pub(crate) fn wake(&self) {
        // The plain load spares the common case, a thread that is awake, a write.
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.registry.lifecycle().wakeup_event().wake();
        }
    }
}

fn keep_deadlines(
    registry: &Arc<Registry>,
    wakeup: &Wakeup,
    backlog: &OwnedFd,
    done: &AtomicBool,
    asleep: &AtomicBool,
) {
    let (mut abort_at, mut backlog_wait) = (None, BacklogWait::default());
    let source = Source::default();
    while !done.load(Ordering::Acquire) {
        registry.lifecycle().retire_if_due();
        let mut left = registry.lifecycle().drain_left();
        if left.is_some_and(|left| left.is_zero()) {
            let now = Instant::now();
            let abort_at = *abort_at.get_or_insert_with(|| now + registry.abort_delay());
            if now >= abort_at {
                registry.abort_all();
                return;
            }
            left = Some(abort_at - now);
        }
        // Parked connections are left to the accept loop, which ends them between two handlers.
        let next_check = registry
            .check(&|_| None)
            .next_check
            .filter(|_| registry.registered() > 0);
        if next_check.is_none() {
            asleep.store(true, Ordering::SeqCst);
            // A connection that was registered just before the store did not wake this thread.
            let registered = registry.first_check().is_some() && registry.registered() > 0;
            if registered && asleep.swap(false, Ordering::SeqCst) {
                continue;
            }
        }
        let step = backlog_wait.check(registry, backlog);
        let idle = match registry.lifecycle().grace_left(Idle::Held) {
            Some(left) if left.is_zero() => registry.end_idle().next_check,
            left => left,
        };
        let timeouts = [left, next_check, step.left, idle];
        let timeout = timeouts.into_iter().flatten().min();
        let end = after(timeout);
        let backlog = Awaited::readable(backlog.as_fd(), &source);
        let watched = step.is_watched.then_some(backlog).into_iter().collect();
        match wakeup.wait(watched, end).map(|woken| woken.by) {
            Ok(Some(WokenBy::ParentGone)) => registry.lifecycle().stop_now(),
            Ok(_) => {}
            // The kernel has no memory for the wait.
            Err(_) => wait::pause(RETRY),
        }
    }
}

/// How long a stop's backlog has had clients, while the thread that would accept them serves an
/// idle connection.
#[derive(Debug, Default)]
struct BacklogWait {
    /// Since when a client has been waiting.
    since: Option<Instant>,
}

/// What the deadline keeper waits for on account of the backlog.
#[derive(Debug, Default)]
struct Step {
    /// Whether to wait until a client comes.
    is_watched: bool,
    /// The time until the waiting client ends the grace.
    left: Option<Duration>,
}

impl BacklogWait {
    /// Ends the grace if a client has waited for `SETTLE`, and no other process has accepted it.
    fn check(&mut self, registry: &Registry, backlog: &OwnedFd) -> Step {
        let lifecycle = registry.lifecycle();
        if !lifecycle.closing() || lifecycle.is_grace_over(Idle::Held) {
            return Step::default();
        }
        let now = Instant::now();
        // After an error of poll(2) no client is known to wait.
        let waits = is_readable(backlog).is_ok_and(|readable| readable);
        self.since = self.since.or(Some(now)).filter(|_| waits);
        let left = self
            .since
            .map(|since| SETTLE.saturating_sub(since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            lifecycle.end_grace(Idle::Held);
        }
        Step {
            is_watched: left.is_none(),
            left: left.filter(|left| !left.is_zero()),
        }
    }
}

impl Drop for DeadlineKeeper {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.registry.lifecycle().wakeup_event().wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is a bug, and the panic hook has reported it.
            let _ = thread.join();
        }
    }
}
