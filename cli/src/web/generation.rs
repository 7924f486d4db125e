//! What tells every process of the server that a file is to be read again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{MemfdFlags, memfd_create};

/// A number that all processes share. The hook of SIGHUP runs in one of them alone.
#[derive(Debug)]
pub(super) struct Generation {
    /// The number, in eight bytes.
    shared: File,
    /// The number that this process has seen.
    seen: AtomicU64,
}

impl Generation {
    /// # Errors
    ///
    /// As memfd_create(2).
    pub(super) fn new() -> io::Result<Self> {
        let shared: File = memfd_create("generation", MemfdFlags::CLOEXEC)?.into();
        shared.write_all_at(&0_u64.to_ne_bytes(), 0)?;
        Ok(Self {
            shared,
            seen: AtomicU64::new(0),
        })
    }

    /// Begins a generation, which is new in all processes but this one.
    pub(super) fn begin(&self) {
        let next = self.current().wrapping_add(1);
        self.seen.store(next, Relaxed);
        // Memory of this size does not run out once it is there.
        let _ = self.shared.write_all_at(&next.to_ne_bytes(), 0);
    }

    /// Whether another process has begun a generation that this one has not seen. True once.
    pub(super) fn is_new(&self) -> bool {
        let current = self.current();
        self.seen.swap(current, Relaxed) != current
    }

    fn current(&self) -> u64 {
        let mut bytes = [0; 8];
        // The eight bytes are there.
        let _ = self.shared.read_exact_at(&mut bytes, 0);
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_new_once_in_every_other_process() {
        let own = Generation::new().unwrap();
        let other = Generation {
            shared: own.shared.try_clone().unwrap(),
            seen: AtomicU64::new(0),
        };
        assert!(!own.is_new() && !other.is_new());
        own.begin();
        assert!(!own.is_new());
        assert!(other.is_new() && !other.is_new());
        other.begin();
        assert!(own.is_new() && !own.is_new() && !other.is_new());
    }
}
