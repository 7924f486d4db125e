//! A thread that keeps deadlines for an accept loop which serves requests itself.

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
use crate::task::wait::{self, Awaited, Source, Wakeup};

/// Sleeps until a connection's deadline may have come, or that of a stop, and aborts what is over.
/// Without connections, it sleeps until it is woken. Ends when dropped.
#[derive(Debug)]
pub(crate) struct DeadlineKeeper {
    registry: Arc<Registry>,
    done: Arc<AtomicBool>,
    /// It looks for no deadline of connections.
    asleep: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const RETRY: Duration = Duration::from_millis(100);

/// It calls nothing that needs more.
const STACK: usize = 64 * 1024;

impl DeadlineKeeper {
    /// Starts the thread. In a worker process it watches the lifeline too; in `listeners` others may
    /// wait for the thread that serves.
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

    /// Wakes it for the connections there are now.
    pub(crate) fn wake(&self) {
        // The plain load keeps the common case, awake, free of a write.
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
    let (mut abort_at, mut crowd) = (None, Crowd::default());
    let source = Source::default();
    while !done.load(Ordering::Acquire) {
        let mut left = registry.lifecycle().drain_left();
        if left.is_some_and(|left| left.is_zero()) {
            let now = Instant::now();
            let abort_at = *abort_at.get_or_insert_with(|| now + registry.notice());
            if now >= abort_at {
                registry.abort_all();
                return;
            }
            left = Some(abort_at - now);
        }
        // The loop itself ends what is parked; a handler runs here while this thread looks.
        let again = registry
            .check(&|_| None)
            .again
            .filter(|_| registry.registered() > 0);
        if again.is_none() {
            asleep.store(true, Ordering::SeqCst);
            // One that was registered just before has found it awake.
            let registered = registry.first_check().is_some() && registry.registered() > 0;
            if registered && asleep.swap(false, Ordering::SeqCst) {
                continue;
            }
        }
        let check = crowd.tend(registry, backlog);
        let idle = match registry.lifecycle().grace_left(Idle::Held) {
            Some(left) if left.is_zero() => registry.end_idle().again,
            left => left,
        };
        let timeout = [left, again, check.left, idle].into_iter().flatten().min();
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let backlog = Awaited::readable(backlog.as_fd(), &source);
        let others: Vec<_> = check.is_watched.then_some(backlog).into_iter().collect();
        match wakeup.wait(&others, end).map(|woken| woken.by) {
            Ok(Some(WokenBy::ParentGone)) => registry.lifecycle().stop_now(),
            Ok(_) => {}
            // The kernel has no memory to wait with.
            Err(_) => wait::pause(RETRY),
        }
    }
}

/// Others who wait in the backlog of a stop for the thread that serves an idle connection.
#[derive(Debug, Default)]
struct Crowd {
    /// Since when there is somebody.
    since: Option<Instant>,
}

/// What to wait for.
#[derive(Debug, Default)]
struct Check {
    is_watched: bool,
    /// How long somebody may still wait.
    left: Option<Duration>,
}

impl Crowd {
    /// Ends the grace if somebody has waited for a while, whom no other process has accepted.
    fn tend(&mut self, registry: &Registry, backlog: &OwnedFd) -> Check {
        let lifecycle = registry.lifecycle();
        if !lifecycle.closing() || lifecycle.is_grace_over(Idle::Held) {
            return Check::default();
        }
        let now = Instant::now();
        // An error says that nobody is known to wait.
        let waits = is_readable(backlog).is_ok_and(|readable| readable);
        self.since = self.since.or(Some(now)).filter(|_| waits);
        let left = self
            .since
            .map(|since| SETTLE.saturating_sub(since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            lifecycle.end_grace(Idle::Held);
        }
        Check {
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
            // It cannot panic but for a bug, which the panic hook has told.
            let _ = thread.join();
        }
    }
}
