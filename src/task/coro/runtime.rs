//! The state that the workers of one runtime share.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::task::coro::driver;
use crate::task::coro::inbox::{Inbox, Message, Start};
use crate::task::coro::stack::{self, StackGauge};
use crate::task::coro::watchdog::Heartbeats;
use crate::task::coro::worker::current;
use crate::task::threads::{Limits, Threads};

/// The most helper threads of one runtime. Further offloaded calls wait for a free one.
const HELPERS: usize = 64;

/// The workers of one runtime, as seen from other threads.
pub(crate) struct Runtime {
    /// The inbox of each worker.
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) heartbeats: Arc<Heartbeats>,
    /// The threads for `offload`, started on demand.
    pub(crate) helpers: Threads,
    pub(crate) stack_size: usize,
    pub(crate) gauge: Option<StackGauge>,
    /// The most coroutines, if the number is known.
    capacity: Option<usize>,
    pub(crate) driver: driver::Kind,
    shortage: Shortage,
    /// Called when a shortage begins, when it persists, and when it ends.
    on_shortage: Box<dyn Fn() + Send + Sync>,
}

/// A shortage of memory for stacks.
#[derive(Debug, Default)]
struct Shortage {
    /// The number of workers that are short of memory.
    workers: AtomicUsize,
    /// The error of the last failed attempt; zero once it has been taken.
    errno: AtomicI32,
}

impl Runtime {
    pub(crate) fn new(
        workers: usize,
        stack_size: usize,
        gauge: Option<StackGauge>,
        driver: driver::Kind,
        on_shortage: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let inboxes = (0..workers)
            .map(|_| Inbox::new())
            .collect::<io::Result<_>>()?;
        let keep_alive = Some(Duration::from_secs(10));
        let limits = Limits {
            threads: HELPERS,
            queue: 0,
            keep_alive,
            stack_size: None,
        };
        let (heartbeats, helpers) = (
            Arc::new(Heartbeats::new(workers)),
            Threads::new(limits, || {}),
        );
        Ok(Arc::new(Self {
            inboxes,
            heartbeats,
            helpers,
            stack_size,
            gauge,
            capacity: stack::capacity(),
            driver,
            shortage: Shortage::default(),
            on_shortage: Box::new(on_shortage),
        }))
    }

    /// Runs `start` in a coroutine of the worker that has the fewest. The watchdog reports the coroutine as
    /// `label`.
    pub(crate) fn start(&self, start: Start, label: u64) {
        let inboxes = self.inboxes.iter().enumerate();
        let live = inboxes.filter(|(_, inbox)| !inbox.has_failed());
        let Some((place, inbox)) = live.min_by_key(|(_, inbox)| inbox.load()) else {
            return;
        };
        let here = match current() {
            Some(current) => current.start(self, place, start, label),
            None => Err(start),
        };
        if let Err(start) = here {
            inbox.send(Message::Start(start, label));
        }
    }

    /// Returns the index of the worker that runs the coroutine that calls, if it is of this runtime.
    pub(crate) fn place_here(&self) -> Option<usize> {
        let current = current()?;
        current.is_of(self).then(|| current.worker().place())
    }

    /// Lets newly started coroutines run before the coroutine that calls goes on, in a runtime with one worker.
    pub(crate) fn hand_over(&self) {
        if let (Some(current), [_]) = (current(), &self.inboxes[..]) {
            current.hand_over();
        }
    }

    /// Returns how many more coroutines can start.
    pub(crate) fn room(&self) -> usize {
        if self.shortage.workers.load(Ordering::SeqCst) > 0 {
            return 0;
        }
        self.capacity.map_or(usize::MAX, |capacity| {
            let load: usize = self.inboxes.iter().map(Inbox::load).sum();
            capacity.saturating_sub(load)
        })
    }

    /// Notes that a worker found no memory for a stack; `first` if it was not short of memory before.
    pub(crate) fn report_shortage(&self, err: &io::Error, first: bool) {
        let errno = err.raw_os_error().unwrap_or(libc::ENOMEM);
        self.shortage.errno.store(errno, Ordering::Relaxed);
        if first {
            self.shortage.workers.fetch_add(1, Ordering::SeqCst);
        }
        (self.on_shortage)();
    }

    /// Notes that a worker is no longer short of memory.
    pub(crate) fn end_shortage(&self) {
        self.shortage.workers.fetch_sub(1, Ordering::SeqCst);
        (self.on_shortage)();
    }

    /// Takes the error of the last failed attempt to get a stack, if there was one since the last call.
    pub(crate) fn take_shortage(&self) -> Option<io::Error> {
        let errno = self.shortage.errno.swap(0, Ordering::Relaxed);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }

    /// Cancels all coroutines: their waits fail from now on, with `why` as the text.
    pub(crate) fn cancel(&self, why: &'static str) {
        self.inboxes
            .iter()
            .for_each(|inbox| inbox.send(Message::Cancel(why)));
    }

    /// Ends each worker when its last coroutine has ended.
    pub(crate) fn close(&self) {
        self.inboxes
            .iter()
            .for_each(|inbox| inbox.send(Message::Close));
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("inboxes", &self.inboxes)
            .field("driver", &self.driver)
            .field("shortage", &self.shortage)
            .finish_non_exhaustive()
    }
}
