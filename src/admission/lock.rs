//! A lock for what all processes of a server change.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    threads: Mutex<()>,
    /// The file that processes lock (fcntl(2)). The kernel releases the lock of a process that
    /// ends.
    file: OnceLock<OwnedFd>,
}

impl Lock {
    /// Prepares the lock for processes that are forked from now on.
    pub(crate) fn share(&self) -> io::Result<()> {
        if self.file.get().is_none() {
            let file = memfd_create("socketserver-lock", MemfdFlags::CLOEXEC)?;
            // No other thread can have set it: the process has one thread.
            let _ = self.file.set(file);
        }
        Ok(())
    }

    pub(super) fn take(&self) -> Locked<'_> {
        // A panic leaves nothing half changed: each store is whole.
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.get();
        if let Some(file) = file {
            // Possible errors are EINTR, EDEADLK and ENOLCK. After the last two a count may be one
            // too low, or two changes of the rules mixed.
            while fcntl_lock(file, FlockOperation::LockExclusive) == Err(rustix::io::Errno::INTR) {}
        }
        Locked {
            file,
            _threads: threads,
        }
    }
}

/// The lock is held until this is dropped.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    file: Option<&'a OwnedFd>,
    _threads: MutexGuard<'a, ()>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // Should this fail, the kernel releases the lock when the file is closed.
            let _ = fcntl_lock(file, FlockOperation::Unlock);
        }
    }
}
