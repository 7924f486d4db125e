//! The wait of a thread for its signal: it parks, or blocks in poll(2) for a descriptor as well.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use crate::sys::poll::{Interest, poll};
use crate::task::signal::{Signal, Wakeable};
use crate::task::watched;

/// The target of a thread's signal.
#[derive(Debug)]
pub(crate) struct Blocked {
    thread: Thread,
    /// Whether the thread blocks in poll(2) or epoll_wait(2), so that only `event` wakes it.
    polls: AtomicBool,
    event: OnceLock<OwnedFd>,
}

impl Blocked {
    /// Returns the thread that calls.
    pub(crate) fn here() -> Self {
        Self {
            thread: thread::current(),
            polls: AtomicBool::new(false),
            event: OnceLock::new(),
        }
    }

    /// Returns the eventfd that ends a wait for descriptors; the first call creates it.
    pub(super) fn event(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(event) = self.event.get() {
            return Ok(event.as_fd());
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Only the thread itself creates it, so there is no race.
        Ok(self.event.get_or_init(|| event).as_fd())
    }

    /// Waits for descriptors and the signal: [`event`](Self::event) must be one of the descriptors. Returns
    /// `None` without waiting if the signal has come already.
    pub(super) fn wait_with<R>(&self, signal: &Signal, wait: impl FnOnce() -> R) -> Option<R> {
        self.polls.store(true, Ordering::Relaxed);
        let waited = signal.begin().then(wait);
        signal.clear();
        self.polls.store(false, Ordering::Relaxed);
        if let Some(event) = self.event.get() {
            // Reset the event; `clear` has consumed its wake-ups.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        waited
    }
}

impl Wakeable for Blocked {
    fn wake(&self) {
        // A thread that polls has set this before `Signal::begin`, so the load sees it.
        match self.event.get() {
            Some(event) if self.polls.load(Ordering::Relaxed) => {
                // The only error is EAGAIN, after 2^64 - 2 writes.
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
            }
            _ => self.thread.unpark(),
        }
    }
}

/// Blocks the thread until its signal comes, until `deadline`, or until a descriptor that a future waits for is
/// ready.
pub(crate) fn block(signal: &Signal, deadline: Option<Instant>) {
    if let (true, Some(blocked)) = (watched::is_watching(), signal.target().thread()) {
        return watched::block(signal, blocked, deadline);
    }
    if !signal.begin() {
        return;
    }
    // Any code may unpark the thread, so the state of the signal decides.
    while signal.waits() {
        match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return,
            Some(left) => thread::park_timeout(left),
        }
    }
}

/// As [`block`], for one descriptor; returns whether it is ready.
///
/// # Errors
///
/// As poll(2) and eventfd(2).
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
