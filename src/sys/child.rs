//! A child process held by its pidfd, so that neither waiting nor killing can hit a process that
//! took over its number.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_getfd,
    pidfd_open, pidfd_send_signal, waitid,
};

/// A child that was forked and not yet reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    /// Something else reaped it (`SIGCHLD` ignored, or a foreign `waitpid(-1)`).
    Unknown,
}

impl Child {
    /// Takes charge of a child that this process has just forked.
    pub(crate) fn adopt(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for a child that has no pidfd, because there was no descriptor left for one.
    pub(crate) fn wait_for(pid: Pid) -> Exit {
        loop {
            match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                waited => return Exit::of(waited),
            }
        }
    }

    /// Reaps the child if it has ended. Never blocks.
    pub(crate) fn try_wait(&self) -> Option<Exit> {
        match waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(None) | Err(Errno::INTR) => None,
            waited => Some(Exit::of(waited)),
        }
    }

    /// Shuts down a socket of the child, by its number there.
    ///
    /// # Errors
    ///
    /// There is none, or the system does not let this process reach it (pidfd_getfd(2)).
    pub(crate) fn shut_down(&self, socket: Option<RawFd>) -> io::Result<()> {
        let number = socket.ok_or(io::ErrorKind::Unsupported)?;
        let copy = pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty())?;
        match rustix::net::shutdown(&copy, Shutdown::Both) {
            // The peer was faster.
            Err(Errno::NOTCONN) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Kills the child at once. It still has to be reaped.
    pub(crate) fn kill(&self) {
        // The only error left is ESRCH: it is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Exit {
    fn of(waited: rustix::io::Result<Option<WaitIdStatus>>) -> Self {
        let Ok(Some(status)) = waited else {
            return Self::Unknown;
        };
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Status(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown status (reaped by other code)"),
        }
    }
}
