//! poll(2), until a deadline.

use std::io;
use std::time::Instant;

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

/// Blocks the thread until a descriptor is ready, and says how many are: none at the deadline. A signal
/// does not end the wait.
///
/// # Errors
///
/// What poll(2) fails with: `ENOMEM`, or `EINVAL` with more descriptors than `RLIMIT_NOFILE`.
pub(crate) fn poll(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<usize> {
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        match rustix::event::poll(fds, left.map(timespec).as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            polled => return Ok(polled?),
        }
    }
}
