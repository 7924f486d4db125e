//! A shortage of memory for stacks: new coroutines wait until the worker can get a stack.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::task::coro::worker::Worker;

/// The pause of a worker before it tries again to get a stack, unless a coroutine ends before; it doubles each
/// time.
const STACK_PAUSE_MIN: Duration = Duration::from_millis(10);
const STACK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The state of a worker that found no memory for a stack.
#[derive(Clone, Copy)]
pub(super) struct Shortage {
    pause: Duration,
    /// The time of the next attempt.
    pub(super) until: Instant,
}

impl Worker {
    /// Starts the coroutines that wait, as long as there are stacks.
    pub(super) fn start_waiting(self: &Rc<Self>) {
        loop {
            if self.starts.borrow().is_empty() {
                return;
            }
            let shortage = self.shortage.get();
            if shortage.is_some_and(|shortage| Instant::now() < shortage.until) {
                return;
            }
            // Without memory for a stack, they go on waiting.
            let stack = match self.stacks.take() {
                Ok(stack) => stack,
                Err(err) => return self.note_shortage(shortage, &err),
            };
            if self.shortage.take().is_some() {
                self.runtime.end_shortage();
            }
            let Some((start, label)) = self.starts.borrow_mut().pop_front() else {
                return;
            };
            self.start(stack, start, label, false);
        }
    }

    /// Sets the time of the next attempt, twice as far away as `before`.
    fn note_shortage(&self, before: Option<Shortage>, err: &io::Error) {
        let pause = before.map_or(STACK_PAUSE_MIN, |before| {
            (before.pause * 2).min(STACK_PAUSE_MAX)
        });
        let until = Instant::now() + pause;
        self.shortage.set(Some(Shortage { pause, until }));
        // Report the shortage at once, and then about once a second.
        if before.is_none() || pause == STACK_PAUSE_MAX {
            self.runtime.report_shortage(err, before.is_none());
        }
    }

    /// Makes the next attempt due at once: a coroutine has returned its stack.
    pub(super) fn retry_at_once(&self) {
        if let Some(shortage) = self.shortage.get() {
            let until = Instant::now();
            self.shortage.set(Some(Shortage { until, ..shortage }));
        }
    }
}
