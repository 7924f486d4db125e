//! What other threads send to a worker.

use std::fmt;
use std::io;
use std::mem::take;

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

use crate::task::coro::driver::Waker;
use crate::task::coro::worker::TaskId;

/// What a coroutine runs. Made on any thread, run on the worker that it is sent to.
pub(crate) type Start = Box<dyn FnOnce() + Send>;

pub(crate) enum Message {
    /// Run this in a coroutine with this label.
    Start(Start, u64),
    /// This coroutine may go on.
    Wake(TaskId),
    /// All coroutines are to end, for this reason: waiting fails from now on.
    Cancel(&'static str),
    /// End when the last coroutine has.
    Close,
}

#[derive(Default)]
struct Mail {
    messages: Vec<Message>,
    /// The worker has found nothing and waits: who sends next wakes it.
    sleeping: bool,
    /// Its driver has failed: what is sent is dropped.
    failed: bool,
}

/// Wakes the worker that waits, from another thread.
pub(crate) trait Wake {
    fn wake(&self);
}

/// The mailbox of one worker, and how busy it is.
pub(crate) struct Inbox<W = Waker> {
    mail: Mutex<Mail>,
    pub(crate) waker: W,
    /// Coroutines that were sent here and have not ended.
    load: AtomicUsize,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        Waker::new().map(Self::with_waker)
    }
}

impl<W: Wake> Inbox<W> {
    fn with_waker(waker: W) -> Self {
        Self {
            mail: Mutex::new(Mail::default()),
            waker,
            load: AtomicUsize::new(0),
        }
    }

    pub(crate) fn send(&self, message: Message) {
        if matches!(message, Message::Start(..)) {
            self.began_one();
        }
        let sleeping = {
            let mut mail = self.mail();
            if mail.failed {
                // What it holds is dropped when the lock is free.
                drop(mail);
                return;
            }
            mail.messages.push(message);
            take(&mut mail.sleeping)
        };
        if sleeping {
            self.waker.wake();
        }
    }

    /// Takes all messages.
    pub(crate) fn receive(&self) -> Vec<Message> {
        let mut mail = self.mail();
        mail.sleeping = false;
        take(&mut mail.messages)
    }

    /// Says that the worker is about to wait. `false` if there are messages: then it must not.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        let mut mail = self.mail();
        mail.sleeping = mail.messages.is_empty();
        mail.sleeping
    }

    /// Drops what was sent, and what will be: the worker has ended.
    pub(crate) fn fail(&self) {
        let dropped = {
            let mut mail = self.mail();
            mail.failed = true;
            take(&mut mail.messages)
        };
        // No code of others runs under the lock.
        drop(dropped);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.mail().failed
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn began_one(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended_one(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        // A vector is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Wake> fmt::Debug for Inbox<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

/// `.ci/run loom`
#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::{Arc, Condvar};
    use loom::thread;

    /// What an eventfd is to a driver: a wait ends when it has been woken since the last one.
    #[derive(Default)]
    struct WakeupEvent {
        woken: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake for WakeupEvent {
        fn wake(&self) {
            *self.woken.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    impl WakeupEvent {
        fn wait(&self) {
            let mut woken = self.woken.lock().unwrap();
            while !*woken {
                woken = self.changed.wait(woken).unwrap();
            }
            *woken = false;
        }
    }

    /// In every order of what two senders and the worker do, the worker gets both messages: it
    /// never sleeps over one. Loom reports a wait that nobody ends as a deadlock.
    #[test]
    fn loom_no_message_is_slept_over() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::with_waker(WakeupEvent::default()));
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    let inbox = Arc::clone(&inbox);
                    thread::spawn(move || inbox.send(Message::Close))
                })
                .collect();
            let mut received = 0;
            while received < 2 {
                received += inbox.receive().len();
                if received < 2 {
                    if inbox.prepare_to_sleep() {
                        inbox.waker.wait();
                    }
                }
            }
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}
