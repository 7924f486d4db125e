//! How a task that waits is woken, from any thread and at any time. It has no lock, and is woken once for
//! each wait at most.

use std::sync::Arc;
use std::task::Wake;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

use crate::task::wait::Target;

/// Nothing has woken the task since it looked last.
const QUIET: u8 = 0;
/// It was woken, and looks once more before it waits.
const WOKEN: u8 = 1;
/// It waits: whoever wakes it tells its target.
const WAITING: u8 = 2;

/// What ends the wait of a task.
pub(crate) trait Rouse {
    fn rouse(&self);
}

/// The wake-ups of one task. Its waker outlives the wait, and the task.
#[derive(Debug)]
pub(crate) struct Signal<T = Target> {
    state: AtomicU8,
    target: T,
}

impl<T: Rouse> Signal<T> {
    pub(crate) fn new(target: T) -> Self {
        Self {
            state: AtomicU8::new(QUIET),
            target,
        }
    }

    pub(crate) const fn target(&self) -> &T {
        &self.target
    }

    /// Takes the wake-ups until now: what they were for is looked at next. Also the end of a wait.
    pub(crate) fn clear(&self) {
        self.state.swap(QUIET, Ordering::AcqRel);
    }

    /// Says that the task is about to wait. `false` where something has woken it since the last
    /// [`clear`](Self::clear): then it must not.
    pub(crate) fn begin(&self) -> bool {
        let waiting =
            self.state
                .compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire);
        waiting.is_ok()
    }

    /// Whether the task is to go on waiting.
    pub(crate) fn waits(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    /// Has the next wait of the task look once more: what woke it may have been for a wait around this
    /// one.
    pub(crate) fn keep(&self) {
        // Takes them too: a store alone would hide what was written before them.
        self.state.swap(WOKEN, Ordering::AcqRel);
    }

    /// Ends the wait of the task, or keeps it from the next one.
    pub(crate) fn notify(&self) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING {
            self.target.rouse();
        }
    }

    /// As [`notify`](Self::notify), also for a wait that is none of this signal's.
    pub(crate) fn interrupt(&self) {
        self.state.swap(WOKEN, Ordering::AcqRel);
        self.target.rouse();
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

    /// A thread that may be roused before it sleeps, as `std::thread::Thread::unpark`.
    #[derive(Default)]
    struct Token {
        there: Mutex<bool>,
        changed: Condvar,
        roused: AtomicUsize,
    }

    impl Rouse for Token {
        fn rouse(&self) {
            self.roused.fetch_add(1, Ordering::SeqCst);
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

    /// As the wait of a thread, until `done`.
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
        signal.keep();
    }

    fn notifier(signal: &Arc<Signal<Token>>, flag: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
        let (signal, flag) = (Arc::clone(signal), Arc::clone(flag));
        thread::spawn(move || {
            // Relaxed: it is the signal that carries it.
            flag.store(true, Ordering::Relaxed);
            signal.notify();
        })
    }

    /// Every order in which a thread is kept from going on three times at most: others take hours.
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

    /// In every order of what two wakers and the task do, the task sees both: it sleeps over none. Loom
    /// reports a wait that nobody ends as a deadlock.
    #[test]
    fn loom_no_wake_up_is_slept_over() {
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

    /// A wait within another one swallows nothing of it, and after both the signal rouses nobody.
    #[test]
    fn loom_a_wait_within_a_wait_swallows_nothing() {
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
            let roused = signal.target.roused.load(Ordering::SeqCst);
            signal.notify();
            assert_eq!(signal.target.roused.load(Ordering::SeqCst), roused);
        });
    }

    /// A wait that ends by itself, at its deadline, leaves no state in which a waker finds the task
    /// waiting.
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
