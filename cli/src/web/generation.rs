//! What tells every process of the server that a file is to be read again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::shared::Words;

/// A number that all processes share. The hook of SIGHUP runs in one of them alone.
#[derive(Debug)]
pub(super) struct Generation {
    /// The number, in one word.
    shared: Arc<Words>,
    /// The number that this process has seen.
    seen: AtomicU64,
}

impl Generation {
    /// # Errors
    ///
    /// As mmap(2).
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Words::new(1)?),
            seen: AtomicU64::new(0),
        })
    }

    /// Begins a generation, which is new in all processes but this one.
    pub(super) fn begin(&self) {
        let before = self.shared[0].fetch_add(1, Relaxed);
        self.seen.store(before.wrapping_add(1), Relaxed);
    }

    /// Whether another process has begun a generation that this one has not seen. True once.
    pub(super) fn is_new(&self) -> bool {
        let current = self.shared[0].load(Relaxed);
        self.seen.swap(current, Relaxed) != current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_new_once_in_every_other_process() {
        let own = Generation::new().unwrap();
        let other = Generation {
            shared: Arc::clone(&own.shared),
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
