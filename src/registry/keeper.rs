//! A thread that keeps deadlines for an accept loop which serves requests itself.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Tried};
use crate::registry::Registry;
use crate::sys::bell::Heard;
use crate::task::wait::{self, Wakeup};

/// Sleeps until a connection's deadline may have come, or that of a stop, and cuts what is over.
/// Without connections, it sleeps until it is woken. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Cutter {
    registry: Arc<Registry>,
    done: Arc<AtomicBool>,
    /// It looks for no deadline of connections.
    asleep: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const RETRY: Duration = Duration::from_millis(100);

/// It calls nothing that needs more.
const STACK: usize = 64 * 1024;

impl Cutter {
    /// Starts the thread. In a worker process it watches the lifeline too.
    pub(crate) fn start(
        registry: &Arc<Registry>,
        lifeline: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Error> {
        let wakeup = Wakeup::new(registry.lifecycle().bell(), lifeline);
        let wakeup = wakeup.tried(|| "create an epoll instance".to_owned())?;
        let done = Arc::new(AtomicBool::new(false));
        let asleep = Arc::new(AtomicBool::new(true));
        let thread = thread::Builder::new()
            .name("socketserver-cut".to_owned())
            .stack_size(STACK);
        let run = {
            let (registry, done) = (Arc::clone(registry), Arc::clone(&done));
            let asleep = Arc::clone(&asleep);
            move || keep_deadlines(&registry, &wakeup, &done, &asleep)
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
            self.registry.lifecycle().bell().ring();
        }
    }
}

fn keep_deadlines(
    registry: &Arc<Registry>,
    wakeup: &Wakeup,
    done: &AtomicBool,
    asleep: &AtomicBool,
) {
    while !done.load(Ordering::Acquire) {
        let left = registry.lifecycle().drain_left();
        if left.is_some_and(|left| left.is_zero()) {
            registry.cut_all();
            return;
        }
        // The loop itself ends what is parked; a handler runs here while this thread looks.
        let again = registry
            .look(&|_| None)
            .again
            .filter(|_| registry.listed() > 0);
        if again.is_none() {
            asleep.store(true, Ordering::SeqCst);
            // One that was listed just before has found it awake.
            let listed = registry.first_look().is_some() && registry.listed() > 0;
            if listed && asleep.swap(false, Ordering::SeqCst) {
                continue;
            }
        }
        let timeout = left.into_iter().chain(again).min();
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match wakeup.wait(&[], end).map(|woken| woken.heard) {
            Ok(Some(Heard::Orphaned)) => registry
                .lifecycle()
                .stop(registry.lifecycle().drain_timeout()),
            Ok(_) => {}
            // The kernel has no memory to wait with.
            Err(_) => wait::pause(RETRY),
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.registry.lifecycle().bell().ring();
        if let Some(thread) = self.thread.take() {
            // It cannot panic but for a bug, which the panic hook has told.
            let _ = thread.join();
        }
    }
}
