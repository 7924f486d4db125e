//! How a thread waits for its signal: it blocks, alone or in poll(2) beside a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use crate::sys::poll::{Interest, poll};
use crate::task::signal::{Rouse, Signal};
use crate::task::watched;

/// A thread, as whoever wakes it knows it.
#[derive(Debug)]
pub(crate) struct Blocked {
    thread: Thread,
    /// It waits for descriptors, of which the event is one.
    polls: AtomicBool,
    event: OnceLock<OwnedFd>,
}

impl Blocked {
    /// The thread that calls.
    pub(crate) fn here() -> Self {
        Self {
            thread: thread::current(),
            polls: AtomicBool::new(false),
            event: OnceLock::new(),
        }
    }

    /// What ends a wait for descriptors.
    pub(super) fn event(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(event) = self.event.get() {
            return Ok(event.as_fd());
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Only its own thread makes one.
        Ok(self.event.get_or_init(|| event).as_fd())
    }

    /// Waits for descriptors, of which [`event`](Self::event) is one, and so for the signal too; `None`
    /// where that has come already.
    pub(super) fn wait_with<R>(&self, signal: &Signal, wait: impl FnOnce() -> R) -> Option<R> {
        self.polls.store(true, Ordering::Relaxed);
        let waited = signal.begin().then(wait);
        signal.clear();
        self.polls.store(false, Ordering::Relaxed);
        if let Some(event) = self.event.get() {
            // What it says was taken with the signal.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        waited
    }
}

impl Rouse for Blocked {
    fn rouse(&self) {
        // Stored before the thread has said that it waits.
        match self.event.get() {
            Some(event) if self.polls.load(Ordering::Relaxed) => {
                // The only error is EAGAIN, after 2^64 - 2 of them.
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
            }
            _ => self.thread.unpark(),
        }
    }
}

/// Blocks the thread until its signal comes, or until `deadline`; also until a descriptor is ready that a
/// future waits for.
pub(crate) fn block(signal: &Signal, deadline: Option<Instant>) {
    if let (true, Some(blocked)) = (watched::is_watching(), signal.target().thread()) {
        return watched::block(signal, blocked, deadline);
    }
    if !signal.begin() {
        return;
    }
    // It returns early where something else has unparked the thread.
    while signal.waits() {
        match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return,
            Some(left) => thread::park_timeout(left),
        }
    }
}

/// As [`block`], for one descriptor; says whether it is ready.
///
/// # Errors
///
/// What poll(2) and eventfd(2) fail with.
pub(crate) fn block_for(
    signal: &Signal,
    blocked: &Blocked,
    fd: BorrowedFd<'_>,
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let mut fds = [
        PollFd::from_borrowed_fd(fd, interest.into()),
        PollFd::from_borrowed_fd(blocked.event()?, PollFlags::IN),
    ];
    blocked
        .wait_with(signal, || poll(&mut fds, deadline))
        .transpose()?;
    Ok(!fds[0].revents().is_empty())
}
