//! Thin, typed calls to the operating system: every raw system call that `rustix` and `socket2` do
//! not offer safely. This module knows no servers, transports or handlers.

pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod mmsg;
pub(crate) mod passed;
pub(crate) mod poll;
pub(crate) mod sendfile;
pub(crate) mod sock_diag;
pub(crate) mod sockopt;
pub(crate) mod wakeup;

use std::time::Duration;

use rustix::time::Timespec;

/// Converts an I/O error to the number of the system's error.
pub(crate) fn errno(err: std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&err).unwrap_or(rustix::io::Errno::IO)
}

/// Converts a duration for poll(2). A duration beyond its range becomes the longest one.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
