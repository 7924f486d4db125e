//! The wake-up event: one eventfd that every process of a server shares, and an edge-triggered
//! watch for each waiter.
//!
//! The counter of the eventfd is never read. Each write is a new edge in the epoll instance of each
//! watch (epoll(7), `EPOLLET`), so one write wakes every thread and every worker process, and no
//! waiter takes the edge of another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::Timespec;

/// The eventfd. Processes that are forked later share it.
#[derive(Debug)]
pub(crate) struct WakeupEvent(OwnedFd);

impl WakeupEvent {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Wakes every waiter. Async-signal-safe: a single write(2).
    pub(crate) fn wake(&self) {
        // The only error is EAGAIN, after 2^64 - 2 writes.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// One waiter's view of a [`WakeupEvent`]: a descriptor that polls as readable after a write, until
/// it is taken.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

/// What has woken a [`Watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WokenBy {
    Event,
    /// The process at the other end of the lifeline has ended.
    ParentGone,
}

const EVENT: u64 = 0;
const LIFELINE: u64 = 1;

impl Watch {
    /// Watches `wakeup_event` and, in a worker process, the pipe whose write end only the parent
    /// holds.
    pub(crate) fn new(
        wakeup_event: &WakeupEvent,
        lifeline: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(
            &epoll,
            &wakeup_event.0,
            epoll::EventData::new_u64(EVENT),
            flags,
        )?;
        if let Some(pipe) = lifeline {
            epoll::add(&epoll, pipe, epoll::EventData::new_u64(LIFELINE), flags)?;
        }
        Ok(Self(epoll))
    }

    /// Takes the edge: the descriptor does not poll as readable until the next write. Never blocks.
    ///
    /// # Errors
    ///
    /// The descriptor still polls as readable: without a pause its waiter would spin.
    pub(crate) fn take(&self) -> io::Result<WokenBy> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 2];
        let at_once = Timespec::default();
        let events = match epoll::wait(&self.0, &mut events, Some(&at_once)) {
            Ok((events, _)) => events,
            // The next call takes the edge.
            Err(rustix::io::Errno::INTR) => return Ok(WokenBy::Event),
            Err(err) => return Err(err.into()),
        };
        let orphaned = events.iter().any(|event| event.data.u64() == LIFELINE);
        Ok(if orphaned {
            WokenBy::ParentGone
        } else {
            WokenBy::Event
        })
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn readable(watch: &Watch) -> bool {
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn one_write_wakes_every_watch_once() {
        let wakeup_event = WakeupEvent::new().unwrap();
        let (first, second) = (
            Watch::new(&wakeup_event, None).unwrap(),
            Watch::new(&wakeup_event, None).unwrap(),
        );
        assert!(!readable(&first));
        wakeup_event.wake();
        assert!(readable(&first) && readable(&second));
        assert_eq!(first.take().unwrap(), WokenBy::Event);
        assert!(!readable(&first) && readable(&second));
        wakeup_event.wake();
        assert!(readable(&first), "a second write is a second edge");
    }

    #[test]
    fn a_watch_made_after_the_write_is_woken() {
        let wakeup_event = WakeupEvent::new().unwrap();
        wakeup_event.wake();
        assert!(readable(&Watch::new(&wakeup_event, None).unwrap()));
    }

    #[test]
    fn an_edge_that_cannot_be_taken_is_an_error() {
        // A pipe is not an epoll instance.
        let (reader, _writer) = io::pipe().unwrap();
        let err = Watch(reader.into()).take().unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_closed_lifeline_wakes() {
        let wakeup_event = WakeupEvent::new().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let watch = Watch::new(&wakeup_event, Some(reader.as_fd())).unwrap();
        drop(writer);
        assert!(readable(&watch));
        assert_eq!(watch.take().unwrap(), WokenBy::ParentGone);
    }
}
