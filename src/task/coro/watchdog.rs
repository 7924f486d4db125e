//! The watchdog reports a coroutine that keeps its worker busy for too long: by foreign code that blocks, or by a
//! computation.
//!
//! A thread checks each worker's [`Heartbeat`] every 50 ms, and sleeps while all workers wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::io;

/// The time after which a running coroutine is reported.
pub(crate) const LIMIT: Duration = Duration::from_millis(100);

const TICK: Duration = Duration::from_millis(50);

/// The heartbeat of one worker. Only the worker writes it.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// Incremented when a coroutine is resumed, and when it is suspended or ends: odd while one runs.
    beat: AtomicU64,
    /// The label of the running coroutine.
    label: AtomicU64,
    /// Whether the worker waits for events.
    waiting: AtomicBool,
}

impl Heartbeat {
    pub(crate) fn resume(&self, label: u64) {
        self.label.store(label, Ordering::Relaxed);
        self.advance();
    }

    pub(crate) fn suspend(&self) {
        self.advance();
    }

    fn advance(&self) {
        // There is one writer. Release: a reader of the new beat sees its label.
        self.beat.store(
            self.beat.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }
}

/// The state that the watchdog and the workers share.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    pub(crate) workers: Vec<Heartbeat>,
    /// Set by the watchdog before it checks whether all workers wait, and while it sleeps.
    asleep: AtomicBool,
    closed: Mutex<bool>,
    called: Condvar,
}

impl Heartbeats {
    pub(crate) fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| Heartbeat::default()).collect();
        Self {
            workers,
            ..Self::default()
        }
    }

    /// Notes that a worker begins to wait.
    pub(crate) fn wait(&self, worker: usize) {
        self.workers[worker].waiting.store(true, Ordering::SeqCst);
    }

    /// Notes that a worker has work. SeqCst, as in `doze`: either the worker sees that the watchdog sleeps, or the
    /// watchdog sees that the worker has work.
    pub(crate) fn work(&self, worker: usize) {
        self.workers[worker].waiting.store(false, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.call();
        }
    }

    fn call(&self) {
        let _closed = self.closed();
        self.asleep.store(false, Ordering::SeqCst);
        self.called.notify_all();
    }

    /// Sleeps while all workers wait; otherwise for one tick. Returns `false` when the watchdog is to end.
    fn doze(&self) -> bool {
        let closed = self.closed();
        self.asleep.store(true, Ordering::SeqCst);
        let idle = self
            .workers
            .iter()
            .all(|heartbeat| heartbeat.waiting.load(Ordering::SeqCst));
        let closed = if idle {
            let awake = |closed: &mut bool| self.asleep.load(Ordering::SeqCst) && !*closed;
            self.called
                .wait_while(closed, awake)
                .unwrap_or_else(PoisonError::into_inner)
        } else {
            self.asleep.store(false, Ordering::SeqCst);
            self.called
                .wait_timeout(closed, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        };
        !*closed
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watchdog's thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Watchdog {
    heartbeats: Arc<Heartbeats>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. It calls `report` with the label of a coroutine that has run for longer than the limit,
    /// and for how long it has; once for each time that it is resumed.
    pub(crate) fn start(
        heartbeats: &Arc<Heartbeats>,
        report: impl Fn(u64, Duration) + Send + 'static,
    ) -> io::Result<Self> {
        let watched = Arc::clone(heartbeats);
        let thread = thread::Builder::new().name("socketserver-watchdog".to_owned());
        let thread = thread.spawn(move || watch(&watched, report))?;
        Ok(Self {
            heartbeats: Arc::clone(heartbeats),
            thread: Some(thread),
        })
    }
}

fn watch(heartbeats: &Heartbeats, report: impl Fn(u64, Duration)) {
    // For each worker: its last beat, when that was first seen, and whether it was reported.
    let mut seen: Vec<(u64, Instant, bool)> = heartbeats
        .workers
        .iter()
        .map(|_| (0, Instant::now(), false))
        .collect();
    while heartbeats.doze() {
        let now = Instant::now();
        for (heartbeat, (beat, since, reported)) in heartbeats.workers.iter().zip(&mut seen) {
            let new = heartbeat.beat.load(Ordering::Acquire);
            if new != *beat {
                (*beat, *since, *reported) = (new, now, false);
            } else if new % 2 == 1 && !*reported && now - *since >= LIMIT {
                *reported = true;
                report(heartbeat.label.load(Ordering::Relaxed), now - *since);
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.heartbeats.closed() = true;
        self.heartbeats.call();
        if let Some(thread) = self.thread.take() {
            // `report` catches its own panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_busy_coroutine_is_reported_once_and_a_quick_one_is_not() {
        let heartbeats = Arc::new(Heartbeats::new(2));
        let (reports, wait) = channel();
        let _watchdog = Watchdog::start(&heartbeats, move |label, time| {
            reports.send((label, time)).unwrap();
        })
        .unwrap();
        heartbeats.wait(1);
        heartbeats.work(0);
        // On a busy machine, one of these may run for longer than the limit and be reported.
        let is_slow = |label: &u64| {
            let start = Instant::now();
            heartbeats.workers[0].resume(*label);
            heartbeats.workers[0].suspend();
            start.elapsed() >= LIMIT
        };
        let slow: Vec<_> = (100..200).filter(is_slow).collect();
        let next = || loop {
            let report = wait.recv_timeout(Duration::from_secs(20)).unwrap();
            if !slow.contains(&report.0) {
                return report;
            }
        };
        heartbeats.workers[0].resume(7);
        let (label, time) = next();
        assert_eq!(label, 7);
        assert!(time >= LIMIT);
        heartbeats.workers[0].suspend();
        heartbeats.workers[0].resume(8);
        assert_eq!(next().0, 8);
        assert!(wait.try_recv().is_err());
    }
}
