//! Child processes, held by pidfd: a wait or a kill by number could hit a process that has taken
//! over the number. Until a pidfd can be opened the number is used, which is the child's own until
//! the child is reaped.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions,
    WaitIdStatus, dumpable_behavior, getpid, kill_process, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};

use crate::sys::sockopt;

/// A child that was forked and not yet reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// `None` until it can be opened.
    pidfd: Option<OwnedFd>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
    /// Other code has reaped it (`SIGCHLD` ignored, or a foreign `waitpid(-1)`).
    Unknown,
}

/// How a parent reaches a socket of its child.
#[derive(Debug)]
pub(crate) enum Reach {
    /// By its number in the child (pidfd_getfd(2)).
    Number(RawFd),
    /// By a copy of its own.
    Copy(OwnedFd),
}

/// Returns whether pidfd_getfd(2) may be forbidden: this process has changed its user, and the kernel keeps other
/// processes of that user from its memory and from that of its children (`PR_SET_DUMPABLE`).
pub(crate) fn is_shielded() -> bool {
    !matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable))
}

impl Child {
    /// Checks whether this process can open pidfds: a filter of system calls may forbid it.
    ///
    /// # Errors
    ///
    /// As pidfd_open(2), with its name and a remedy.
    pub(crate) fn can_be_watched() -> io::Result<()> {
        pidfd_open(getpid(), PidfdFlags::empty()).map_or_else(
            |errno| {
                let remedy = match errno {
                    Errno::PERM | Errno::ACCESS | Errno::NOSYS => {
                        "; allow pidfd_open(2) and waitid(2) in the filter of system calls"
                    }
                    Errno::MFILE => "; raise the limit on descriptors (ulimit -n)",
                    _ => "",
                };
                let err = io::Error::from(errno);
                let what =
                    format!("pidfd_open(2), by which child processes are watched: {err}{remedy}");
                Err(io::Error::new(err.kind(), what))
            },
            |_| Ok(()),
        )
    }

    /// Takes charge of a child that this process has just forked, and opens its pidfd if possible.
    pub(crate) fn adopt(pid: Pid) -> Self {
        let mut child = Self { pid, pidfd: None };
        // The owner of the child retries, and reports why it fails.
        let _ = child.watch();
        child
    }

    /// Opens the pidfd, unless it is open.
    ///
    /// # Errors
    ///
    /// As pidfd_open(2): no descriptor or no memory is left.
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        if self.pidfd.is_none() {
            self.pidfd = Some(pidfd_open(self.pid, PidfdFlags::empty())?);
        }
        Ok(())
    }

    /// Returns the descriptor that polls as readable once the child has ended; `None` while it is
    /// not open.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    fn id(&self) -> WaitId<'_> {
        self.pidfd().map_or(WaitId::Pid(self.pid), WaitId::PidFd)
    }

    /// Reaps the child if it has ended. Never blocks.
    pub(crate) fn try_wait(&self) -> Option<Exit> {
        match waitid(self.id(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => None,
            waited => Some(Exit::of(waited)),
        }
    }

    /// Shuts down a socket of the child.
    ///
    /// # Errors
    ///
    /// The child has no such socket, or the system does not let this process reach it
    /// (pidfd_getfd(2)).
    pub(crate) fn shut_down(&self, socket: Option<&Reach>) -> io::Result<()> {
        match rustix::net::shutdown(self.copy_of(socket)?, Shutdown::Both) {
            // The peer has closed already.
            Err(Errno::NOTCONN) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Shuts down the receiving side of a socket of the child, unless input has arrived.
    ///
    /// # Errors
    ///
    /// As [`shut_down`](Self::shut_down).
    pub(crate) fn end_input(&self, socket: Option<&Reach>) -> io::Result<()> {
        let socket = self.copy_of(socket)?;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        if recv(&socket, &mut [0], flags).is_ok() {
            return Ok(());
        }
        Ok(rustix::net::shutdown(socket, Shutdown::Read)?)
    }

    /// Returns how many bytes a socket of the child has sent that its peer has not taken.
    ///
    /// # Errors
    ///
    /// As [`shut_down`](Self::shut_down).
    pub(crate) fn unsent(&self, socket: Option<&Reach>) -> io::Result<u64> {
        sockopt::unsent(self.copy_of(socket)?.as_fd())
    }

    fn copy_of(&self, socket: Option<&Reach>) -> io::Result<OwnedFd> {
        let unreachable = io::ErrorKind::Unsupported;
        match socket.ok_or(unreachable)? {
            Reach::Copy(socket) => socket.try_clone(),
            Reach::Number(number) => {
                let pidfd = self.pidfd().ok_or(unreachable)?;
                Ok(pidfd_getfd(pidfd, *number, PidfdGetfdFlags::empty())?)
            }
        }
    }

    /// Kills the child at once. The owner must still reap it.
    pub(crate) fn kill(&self) {
        let killed = self
            .pidfd()
            .map(|pidfd| pidfd_send_signal(pidfd, Signal::KILL));
        // Without a pidfd, or if it is not allowed, the kill goes by number, which is the child's
        // own until it is reaped.
        let is_child = || waitid(self.id(), PEEK).is_ok();
        if !matches!(killed, Some(Ok(()) | Err(Errno::SRCH))) && is_child() {
            // ESRCH: the child has ended meanwhile.
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// Kills this process at once, as [`Child::kill`] kills a child.
pub(crate) fn kill_this_process() {
    // kill(2) does not fail for the process itself.
    let _ = kill_process(getpid(), Signal::KILL);
}

/// Checks for a child, and leaves it unreaped.
const PEEK: WaitIdOptions = WaitIdOptions::EXITED
    .union(WaitIdOptions::NOHANG)
    .union(WaitIdOptions::NOWAIT);

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

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown status (reaped by other code)"),
        }
    }
}
