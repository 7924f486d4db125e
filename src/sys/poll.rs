//! poll(2) with a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};

use crate::sys::timespec;

/// A direction in which a descriptor becomes ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

impl From<Interest> for PollFlags {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::IN,
            Interest::Write => Self::OUT,
        }
    }
}

/// A set of directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directions {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Directions {
    pub(crate) const fn with(self, interest: Interest) -> Self {
        match interest {
            Interest::Read => Self { read: true, ..self },
            Interest::Write => Self {
                write: true,
                ..self
            },
        }
    }

    pub(crate) const fn without(self, interest: Interest) -> Self {
        match interest {
            Interest::Read => Self {
                read: false,
                ..self
            },
            Interest::Write => Self {
                write: false,
                ..self
            },
        }
    }
}

/// Blocks the thread until a descriptor is ready. Returns how many are: 0 at the deadline. A signal
/// does not end the wait.
///
/// # Errors
///
/// As poll(2): `ENOMEM`, or `EINVAL` with more descriptors than `RLIMIT_NOFILE`.
pub(crate) fn poll(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<usize> {
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        match rustix::event::poll(fds, left.map(timespec).as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            polled => return Ok(polled?),
        }
    }
}

/// Returns whether a descriptor is readable now. Never blocks.
///
/// # Errors
///
/// As [`poll`].
pub(crate) fn is_readable(fd: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(Instant::now()))? > 0)
}

/// Returns whether the peer of a socket has ended its side of the connection, or the connection has failed. Never
/// blocks.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    reports(fd, PollFlags::RDHUP)
}

/// Returns whether a socket has failed, or has ended in both directions. Never blocks.
pub(crate) fn has_failed(fd: BorrowedFd<'_>) -> bool {
    reports(fd, PollFlags::empty())
}

/// Returns whether a descriptor has one of these events, or a failure or a hang-up, which are always reported.
fn reports(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(Instant::now())).is_ok_and(|ready| ready > 0)
}

/// Returns a descriptor that polls as readable while one of `fds` does.
///
/// # Errors
///
/// As epoll_create(2) and epoll_ctl(2): no descriptor or no memory is left.
pub(crate) fn any_of<F: AsFd>(fds: &[F]) -> io::Result<OwnedFd> {
    let any = epoll::create(CreateFlags::CLOEXEC)?;
    for fd in fds {
        also_of(&any, fd)?;
    }
    Ok(any)
}

/// Makes a descriptor of [`any_of`] poll as readable while `fd` does too.
///
/// # Errors
///
/// As epoll_ctl(2): no memory is left.
pub(crate) fn also_of(any: &OwnedFd, fd: impl AsFd) -> io::Result<()> {
    match epoll::add(any, fd, EventData::new_u64(0), EventFlags::IN) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(err) => Err(err.into()),
    }
}
