//! What a worker waits with: one trait, a file for each way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::task::coro::epoll::Epoll;
use crate::task::coro::inbox::Wake;
use crate::task::coro::uring::{Lent, Uring};

/// Waits for descriptors, and, where the kernel can, receives.
pub(crate) trait Drive {
    /// Reports each edge of a descriptor under `token`, from now on. What it is already is an edge
    /// too. `before` is what it reports of this descriptor already.
    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        token: u64,
        directions: Directions,
        before: Directions,
    ) -> io::Result<()>;

    /// Ends that, for a descriptor that goes on elsewhere. Default: as where it is closed.
    fn unwatch(&mut self, fd: BorrowedFd<'_>, token: u64) {
        let _ = fd;
        self.forget(token);
    }

    /// Ends that, for a descriptor that is being closed. Default: nothing, closing it does.
    fn forget(&mut self, token: u64) {
        let _ = token;
    }

    /// Waits for events, for `timeout` at most, and passes on each.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()>;

    /// Begins to receive into a buffer, and says how that ended in an event under `task`. `false`,
    /// the default, where this driver only waits.
    fn receive(&mut self, into: Lent, task: u32) -> bool {
        let _ = (into, task);
        false
    }

    /// Asks for an early end of what was begun under `task`. The event still comes. Default: nothing
    /// is begun.
    fn cancel(&mut self, task: u32) {
        let _ = task;
    }
}

/// Which edges are reported.
///
/// Only those that someone has waited for: that there is room to write is an event for each message
/// that the peer of a Unix socket reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directions {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// What a driver reports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Edge(Edge),
    /// What was begun under `task` has ended, with a count or a negative errno.
    Done {
        task: u32,
        result: i32,
    },
}

/// What a descriptor became.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed or the socket has failed: it stays readable for good.
    pub(crate) hung_up: bool,
    /// No more are reported until it is watched anew.
    pub(crate) last: bool,
}

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Epoll,
    Uring,
}

/// Makes a driver, on the thread that will use it.
pub(crate) fn open(kind: Kind, waker: &Waker) -> io::Result<Box<dyn Drive>> {
    Ok(match kind {
        Kind::Epoll => Box::new(Epoll::new(waker)?),
        Kind::Uring => Box::new(Uring::new(waker)?),
    })
}

/// Wakes the worker that waits, from another thread.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // The only error is EAGAIN, after 2^64 - 2 wake-ups: the counter is not read, each write is
        // an edge.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
