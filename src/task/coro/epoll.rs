//! The epoll driver: edge-triggered; adds each descriptor once, and receives events in batches.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use crate::sys::timespec;
use crate::task::coro::driver::{Directions, Drive, Edge, Event, Waker};

/// The most events that one wait returns.
const EVENTS: usize = 256;

/// The token of the waker's eventfd.
const WAKE: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    events: Vec<MaybeUninit<epoll::Event>>,
}

impl Epoll {
    pub(crate) fn new(waker: &Waker) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, waker, epoll::EventData::new_u64(WAKE), flags)?;
        Ok(Self {
            epoll,
            events: vec![const { MaybeUninit::uninit() }; EVENTS],
        })
    }
}

impl Drive for Epoll {
    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        token: u64,
        directions: Directions,
        before: Directions,
    ) -> io::Result<()> {
        let mut flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::IN, directions.read);
        flags.set(epoll::EventFlags::OUT, directions.write);
        let data = epoll::EventData::new_u64(token);
        let watched = if before == Directions::default() {
            match epoll::add(&self.epoll, fd, data, flags) {
                // The state was removed on another worker, which cannot unwatch the descriptor here.
                Err(Errno::EXIST) => epoll::modify(&self.epoll, fd, data, flags),
                added => added,
            }
        } else {
            epoll::modify(&self.epoll, fd, data, flags)
        };
        Ok(watched?)
    }

    fn unwatch(&mut self, fd: BorrowedFd<'_>, _: u64) {
        // If `add` had failed, `delete` fails too, and the descriptor is not watched either way.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        let (events, _) = match epoll::wait(&self.epoll, &mut self.events[..], timeout.as_ref()) {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        for event in events.iter().filter(|event| event.data.u64() != WAKE) {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let hung_up = failed || flags.contains(epoll::EventFlags::RDHUP);
            on_event(Event::Edge(Edge {
                token: event.data.u64(),
                readable: hung_up || flags.contains(epoll::EventFlags::IN),
                writable: failed || flags.contains(epoll::EventFlags::OUT),
                hung_up,
                last: false,
            }));
        }
        Ok(())
    }
}
