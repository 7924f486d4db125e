//! The messages that other threads send to a worker.

use std::fmt;
use std::io;
use std::mem::take;

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

use crate::task::coro::driver::Waker;
use crate::task::coro::worker::TaskId;

/// The main function of a coroutine. Any thread creates it; the worker that receives it runs it.
pub(crate) type Start = Box<dyn FnOnce() + Send>;

pub(crate) enum Message {
    /// Start a coroutine with this label.
    Start(Start, u64),
    /// Resume this coroutine.
    Wake(TaskId),
    /// Remove the state of the descriptor with this index.
    Forget(u32),
    /// Cancel all coroutines for this reason: their waits fail from now on.
    Cancel(&'static str),
    /// End the worker when its last coroutine has ended.
    Close,
}

#[derive(Default)]
struct Mail {
    messages: Vec<Message>,
    /// The worker waits: the next sender wakes it.
    sleeping: bool,
    /// The worker's driver has failed: messages are dropped.
    failed: bool,
}

/// Wakes a waiting worker from another thread.
pub(crate) trait Wake {
    fn wake(&self);
}

/// The mailbox of one worker, and the number of its coroutines.
pub(crate) struct Inbox<W = Waker> {
    mail: Mutex<Mail>,
    pub(crate) waker: W,
    /// The number of the worker; zero until it is created.
    pub(crate) worker: AtomicU32,
    /// The number of coroutines that were sent or started here and have not ended.
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
            worker: AtomicU32::new(0),
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
                // Release the lock before the message is dropped, which runs foreign code.
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

    /// Announces that the worker is about to wait. Returns `false` if there are messages: then it must not wait.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        let mut mail = self.mail();
        mail.sleeping = mail.messages.is_empty();
        mail.sleeping
    }

    /// Drops all messages, now and from now on: the worker has failed.
    pub(crate) fn fail(&self) {
        let dropped = {
            let mut mail = self.mail();
            mail.failed = true;
            take(&mut mail.messages)
        };
        // Dropping messages runs foreign code, so it happens outside of the lock.
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
        // Poisoning is ignored: no foreign code runs under this lock, and a panic cannot leave the vector
        // inconsistent.
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

    /// A model of an eventfd: a wait ends if a wake-up has come since the last wait.
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

    /// In every order, the worker receives the messages of both senders. Loom reports a lost wake-up as a
    /// deadlock.
    #[test]
    fn loom_no_message_is_lost() {
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
