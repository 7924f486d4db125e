//! Notices a worker that one coroutine keeps busy for too long: foreign code that blocks, or a
//! computation.
//!
//! A thread looks at each worker's [`Heartbeat`] twice in every hundred milliseconds, and sleeps while
//! all workers wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::io;

/// How long one coroutine may run before it is reported.
pub(crate) const LIMIT: Duration = Duration::from_millis(100);

const TICK: Duration = Duration::from_millis(50);

/// What a worker shows of itself. Written by the worker alone.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// Goes up when a coroutine is resumed, and again when it is suspended or ends: odd while one runs.
    beat: AtomicU64,
    /// The label of the coroutine that runs.
    label: AtomicU64,
    /// Whether the worker waits for the world.
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
        // There is one writer. Release: who sees the beat sees its label.
        self.beat.store(
            self.beat.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }
}

/// What the watchdog and the workers share.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    pub(crate) workers: Vec<Heartbeat>,
    /// Set by the watchdog before it looks whether all workers wait, and sleeps.
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

    /// Says that a worker begins to wait.
    pub(crate) fn wait(&self, worker: usize) {
        self.workers[worker].waiting.store(true, Ordering::SeqCst);
    }

    /// Says that a worker has work. SeqCst, as in `doze`: either it sees the watchdog asleep, or
    /// that one sees it at work.
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

    /// Sleeps while all workers wait, else for a tick. `false` when the watchdog is to end.
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

/// The thread that looks. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    heartbeats: Arc<Heartbeats>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Calls `report` with the label of a coroutine that runs for longer than the limit, and for
    /// how long; once for each time that it does.
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
    // The beat of each worker that was seen last, since when, and whether it was reported.
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
            // What it calls contains its panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_coroutine_that_runs_on_is_reported_once_and_a_quick_one_is_not() {
        let heartbeats = Arc::new(Heartbeats::new(2));
        let (reports, wait) = channel();
        let _watchdog = Watchdog::start(&heartbeats, move |label, time| {
            reports.send((label, time)).unwrap();
        })
        .unwrap();
        heartbeats.wait(1);
        heartbeats.work(0);
        // One that was not quick, because the machine was busy, may be reported.
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
