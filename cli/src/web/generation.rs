//! What tells every process of the server that a file is to be read again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::shared::Words;

/// A number that all processes share. The hook of SIGHUP runs in one of them alone.
#[derive(Debug)]
pub(super) struct Generation {
    /// The number, in one word.
    shared: Arc<Words>,
    /// The number whose file this process has read.
    followed: AtomicU64,
    /// The number for which this process has returned an error. The lock is held while the file is read.
    failed: Mutex<u64>,
}

impl Generation {
    /// # Errors
    ///
    /// As mmap(2).
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self::of(Arc::new(Words::new(1)?)))
    }

    fn of(shared: Arc<Words>) -> Self {
        Self {
            shared,
            followed: AtomicU64::new(0),
            failed: Mutex::new(0),
        }
    }

    /// Calls `read`, and begins a generation if that succeeds.
    pub(super) fn renew<E>(&self, read: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // Another thread that follows an earlier generation must not store what it has read before.
        let _reading = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        read()?;
        let before = self.shared[0].fetch_add(1, Relaxed);
        self.followed.store(before.wrapping_add(1), Relaxed);
        Ok(())
    }

    /// Calls `read` if another process has begun a generation whose file this process has not read. Other threads wait
    /// for it. A `read` that fails is repeated by the next call; its first error in a generation is returned.
    pub(super) fn follow<E>(&self, read: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let current = self.shared[0].load(Relaxed);
        if self.followed.load(Relaxed) == current {
            return Ok(());
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.followed.load(Relaxed) == current {
            return Ok(());
        }
        match read() {
            Ok(()) => self.followed.store(current, Relaxed),
            Err(err) if *failed != current => {
                *failed = current;
                return Err(err);
            }
            Err(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: fn() -> Result<(), ()> = || Ok(());

    #[test]
    fn a_generation_is_followed_once_by_every_other_process() {
        let own = Generation::new().unwrap();
        let other = Generation::of(Arc::clone(&own.shared));
        let is_new = |generation: &Generation| {
            let mut is_new = false;
            let read = || -> Result<(), ()> {
                is_new = true;
                Ok(())
            };
            generation.follow(read).unwrap();
            is_new
        };
        assert!(!is_new(&own) && !is_new(&other));
        own.renew(READ).unwrap();
        assert!(!is_new(&own));
        assert!(is_new(&other) && !is_new(&other));
        other.renew(READ).unwrap();
        assert!(is_new(&own) && !is_new(&own) && !is_new(&other));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_read_again() {
        let own = Generation::new().unwrap();
        let other = Generation::of(Arc::clone(&own.shared));
        for _ in 0..2 {
            own.renew(READ).unwrap();
            assert_eq!(other.follow(|| Err("unreadable")), Err("unreadable"));
            assert_eq!(other.follow(|| Err("unreadable")), Ok(()));
            let mut reads = 0;
            for _ in 0..2 {
                let read = || -> Result<(), &str> {
                    reads += 1;
                    Ok(())
                };
                assert_eq!(other.follow(read), Ok(()));
            }
            assert_eq!(reads, 1);
        }
    }
}
