//! The driver of a worker, which waits for events: one trait, with an implementation for epoll and one for
//! io_uring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

pub(crate) use crate::sys::poll::Directions;
use crate::task::coro::epoll::Epoll;
use crate::task::coro::inbox::Wake;
use crate::task::coro::uring::{Lent, Uring};

/// Waits for descriptors; the io_uring driver also receives.
pub(crate) trait Drive {
    /// Reports each edge of a descriptor under `token`, from now on. If the descriptor is ready already, that is
    /// an edge too. `before` has the directions that are watched already. A direction is watched only once a coroutine
    /// has waited for it: a Unix socket would report an edge for writing after each message that its peer reads.
    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        token: u64,
        directions: Directions,
        before: Directions,
    ) -> io::Result<()>;

    /// Stops watching a descriptor that stays open. Default: [`forget`](Self::forget).
    fn unwatch(&mut self, fd: BorrowedFd<'_>, token: u64) {
        let _ = fd;
        self.forget(token);
    }

    /// Stops watching a descriptor that is about to be closed. Default: nothing; closing it suffices.
    fn forget(&mut self, token: u64) {
        let _ = token;
    }

    /// Waits for events, for `timeout` at most, and calls `on_event` for each.
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()>;

    /// Returns whether this driver can [receive](Self::receive). Default: no.
    fn receives(&self) -> bool {
        false
    }

    /// Begins to receive into a buffer; an event under `task` reports the result. Returns `false`, the default,
    /// if it has not begun. Called only if the driver [can](Self::receives).
    fn receive(&mut self, into: Lent, task: u32) -> bool {
        let _ = (into, task);
        false
    }

    /// Requests the cancellation of the receive under `task`. Its event still comes. Default: nothing.
    fn cancel(&mut self, task: u32) {
        let _ = task;
    }
}

/// An event that a driver reports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Edge(Edge),
    /// The receive under `task` has ended, with a count or a negative errno.
    Done {
        task: u32,
        result: i32,
    },
}

/// A change of a descriptor's readiness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed or the socket has failed: the descriptor stays readable.
    pub(crate) hung_up: bool,
    /// The driver reports no further edges until the descriptor is watched anew.
    pub(crate) last: bool,
}

/// The kind of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Epoll,
    Uring,
}

/// Creates a driver, on the thread that will use it.
pub(crate) fn open(kind: Kind, waker: &Waker) -> io::Result<Box<dyn Drive>> {
    Ok(match kind {
        Kind::Epoll => Box::new(Epoll::new(waker)?),
        Kind::Uring => Box::new(Uring::new(waker)?),
    })
}

/// The eventfd that wakes a waiting worker from another thread.
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
        // The only error is EAGAIN, after 2^64 - 2 writes. The counter is never read: each write is an edge.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
