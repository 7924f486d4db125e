//! What other threads send to a worker.

use std::fmt;
use std::io;
use std::mem::take;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::coro::driver::Waker;
use crate::coro::worker::TaskId;

/// What a coroutine runs. Made on any thread, run on the worker that it is sent to.
pub(crate) type Start = Box<dyn FnOnce() + Send>;

pub(crate) enum Message {
    /// Run this in a coroutine with this label.
    Start(Start, u64),
    /// This coroutine may go on.
    Wake(TaskId),
    /// All coroutines are to end: parking fails from now on.
    Cancel,
    /// End when the last coroutine has.
    Close,
}

/// The mailbox of one worker, and how busy it is.
pub(crate) struct Inbox {
    messages: Mutex<Vec<Message>>,
    /// Set by the worker before it looks into the mailbox for the last time and waits; cleared by
    /// whoever wakes it.
    sleeping: AtomicBool,
    pub(crate) waker: Waker,
    /// Coroutines that were sent here and have not ended.
    load: AtomicUsize,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            messages: Mutex::default(),
            sleeping: AtomicBool::new(false),
            waker: Waker::new()?,
            load: AtomicUsize::new(0),
        })
    }

    pub(crate) fn send(&self, message: Message) {
        if matches!(message, Message::Start(..)) {
            self.load.fetch_add(1, Ordering::Relaxed);
        }
        self.messages().push(message);
        // SeqCst, as in `prepare_to_sleep`: either the worker sees the message or this thread sees
        // it sleep.
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Takes all messages.
    pub(crate) fn receive(&self) -> Vec<Message> {
        take(&mut *self.messages())
    }

    /// Says that the worker is about to wait. `false` if there are messages: then it must not.
    pub(crate) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let empty = self.messages().is_empty();
        if !empty {
            self.sleeping.store(false, Ordering::SeqCst);
        }
        empty
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn ended_one(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        // A vector is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}
