//! The wake-ups of a task, from any thread and at any time. A signal takes no lock, and wakes its target at most
//! once for each wait.

use std::sync::Arc;
use std::task::Wake;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

use crate::task::wait::Target;

/// No wake-up has come since the last check.
const QUIET: u8 = 0;
/// A wake-up has come: the task checks once more before it waits.
const WOKEN: u8 = 1;
/// The task waits: a wake-up must wake its target.
const WAITING: u8 = 2;

/// A thread or a coroutine whose wait can be ended.
pub(crate) trait Wakeable {
    fn wake(&self);
}

/// The wake-ups of one task. Its waker may outlive the wait and the task.
#[derive(Debug)]
pub(crate) struct Signal<T = Target> {
    state: AtomicU8,
    target: T,
}

impl<T: Wakeable> Signal<T> {
    pub(crate) fn new(target: T) -> Self {
        Self {
            state: AtomicU8::new(QUIET),
            target,
        }
    }

    pub(crate) const fn target(&self) -> &T {
        &self.target
    }

    /// Consumes the wake-ups until now; the caller checks its condition next. Also ends a wait.
    pub(crate) fn clear(&self) {
        // A swap takes many times as long as a load. A wake-up that the load misses makes `begin` fail.
        if self.state.load(Ordering::Acquire) != QUIET {
            self.state.swap(QUIET, Ordering::AcqRel);
        }
    }

    /// Announces that the task is about to wait. Returns `false` if a wake-up has come since the last
    /// [`clear`](Self::clear): then the task must not wait.
    pub(crate) fn begin(&self) -> bool {
        let waiting =
            self.state
                .compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire);
        waiting.is_ok()
    }

    /// Returns whether the wait goes on: no wake-up has ended it.
    pub(crate) fn waits(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    /// Makes the next wait of the task check once more: a wake-up may have been for an outer wait.
    pub(crate) fn recheck(&self) {
        // A swap, as `clear`: a plain store would not acquire the writes before the earlier wake-ups.
        self.state.swap(WOKEN, Ordering::AcqRel);
    }

    /// Ends the wait of the task, or prevents its next one.
    pub(crate) fn notify(&self) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING {
            self.target.wake();
        }
    }

    /// As [`notify`](Self::notify), and wakes the target even if it does not wait for this signal.
    pub(crate) fn interrupt(&self) {
        self.state.swap(WOKEN, Ordering::AcqRel);
        self.target.wake();
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

/// `RUSTFLAGS='--cfg loom' cargo test --release --features coroutines --lib loom`
#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::atomic::{AtomicBool, AtomicUsize};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// A thread with a token, as that of `std::thread::Thread::unpark`.
    #[derive(Default)]
    struct Token {
        there: Mutex<bool>,
        changed: Condvar,
        wakes: AtomicUsize,
    }

    impl Wakeable for Token {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            *self.there.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    impl Token {
        fn take(&self) {
            let mut there = self.there.lock().unwrap();
            while !*there {
                there = self.changed.wait(there).unwrap();
            }
            *there = false;
        }
    }

    /// Waits, as a thread does, until `done`.
    fn wait(signal: &Signal<Token>, done: impl Fn() -> bool) {
        loop {
            signal.clear();
            if done() {
                break;
            }
            if signal.begin() {
                while signal.waits() {
                    signal.target.take();
                }
            }
        }
        signal.recheck();
    }

    fn notifier(signal: &Arc<Signal<Token>>, flag: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
        let (signal, flag) = (Arc::clone(signal), Arc::clone(flag));
        thread::spawn(move || {
            // Relaxed: the signal orders this write.
            flag.store(true, Ordering::Relaxed);
            signal.notify();
        })
    }

    /// Checks every order with at most three preemptions; more of them take hours.
    fn model(run: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(run);
    }

    fn parts() -> (Arc<Signal<Token>>, [Arc<AtomicBool>; 2]) {
        let flag = || Arc::new(AtomicBool::new(false));
        let signal = Arc::new(Signal::new(Token::default()));
        (signal, [flag(), flag()])
    }

    /// In every order, the task sees the wake-ups of both wakers. Loom reports a lost wake-up as a deadlock.
    #[test]
    fn loom_no_wake_up_is_lost() {
        model(|| {
            let (signal, flags) = parts();
            let wakers = [0, 1].map(|one| notifier(&signal, &flags[one]));
            wait(&signal, || {
                flags.iter().all(|flag| flag.load(Ordering::Relaxed))
            });
            for waker in wakers {
                waker.join().unwrap();
            }
        });
    }

    /// A nested wait loses no wake-up of the outer one; after both, the signal does not wake its target.
    #[test]
    fn loom_a_nested_wait_loses_no_wake_up() {
        model(|| {
            let (signal, [outer, inner]) = parts();
            let waker = {
                let (signal, outer, inner) = (signal.clone(), outer.clone(), inner.clone());
                thread::spawn(move || {
                    for flag in [outer, inner] {
                        flag.store(true, Ordering::Relaxed);
                        signal.notify();
                    }
                })
            };
            let nested = std::cell::Cell::new(false);
            wait(&signal, || {
                let done = outer.load(Ordering::Relaxed);
                if !nested.replace(true) {
                    wait(&signal, || inner.load(Ordering::Relaxed));
                }
                done
            });
            waker.join().unwrap();
            let wakes = signal.target.wakes.load(Ordering::SeqCst);
            signal.notify();
            assert_eq!(signal.target.wakes.load(Ordering::SeqCst), wakes);
        });
    }

    /// After a wait has ended at its deadline, a waker does not find the task waiting.
    #[test]
    fn loom_a_wait_that_ends_by_itself_is_over() {
        model(|| {
            let (signal, [flag, _]) = parts();
            let waker = notifier(&signal, &flag);
            signal.clear();
            if signal.begin() {
                // The deadline has come.
                signal.clear();
            }
            wait(&signal, || flag.load(Ordering::Relaxed));
            waker.join().unwrap();
            assert!(!signal.waits());
        });
    }
}
