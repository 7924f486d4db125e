//! The epoll driver: edge-triggered, each descriptor added once, one wait for a batch of events.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::sys::timespec;

/// How many events one wait takes.
const EVENTS: usize = 256;

/// The token of the wake-up descriptor.
const WAKE: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    events: Vec<MaybeUninit<epoll::Event>>,
}

/// What a descriptor became.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed or the socket has failed: it stays readable for good.
    pub(crate) hung_up: bool,
}

/// Wakes the worker that waits, from another thread.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(crate) fn wake(&self) {
        // The only error is EAGAIN, after 2^64 - 2 wake-ups: the counter is not read, each write is
        // an edge.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Epoll {
    pub(crate) fn new(waker: &Waker) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &waker.0, epoll::EventData::new_u64(WAKE), flags)?;
        Ok(Self {
            epoll,
            events: vec![const { MaybeUninit::uninit() }; EVENTS],
        })
    }

    /// Adds a descriptor for good: closing it takes it out.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            fd.as_fd(),
            epoll::EventData::new_u64(token),
            flags,
        )?)
    }

    /// Takes a descriptor out that goes on elsewhere.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It was added, or `add` failed: then it is not there, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, for `timeout` at most, and passes on each.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut on_event: impl FnMut(Event),
    ) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        let (events, _) = match epoll::wait(&self.epoll, &mut self.events[..], timeout.as_ref()) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        for event in events.iter().filter(|event| event.data.u64() != WAKE) {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let hung_up = failed || flags.contains(epoll::EventFlags::RDHUP);
            on_event(Event {
                token: event.data.u64(),
                readable: hung_up || flags.contains(epoll::EventFlags::IN),
                writable: failed || flags.contains(epoll::EventFlags::OUT),
                hung_up,
            });
        }
        Ok(())
    }
}
