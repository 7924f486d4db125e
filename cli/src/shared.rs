//! Memory and a clock that the processes of a server share.
#![expect(unsafe_code, reason = "a shared mapping")]

use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of the clock.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Words that the process and its later children share; zero at first. The mapping stays until the process ends.
#[derive(Debug)]
pub(crate) struct Words(NonNull<AtomicU64>, usize);

// SAFETY: the words are atomics, and the mapping is never removed.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    pub(crate) fn new(count: usize) -> rustix::io::Result<Self> {
        let bytes = count * size_of::<AtomicU64>();
        // SAFETY: a new mapping, at an address that the kernel picks.
        let mapped = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        let words = NonNull::new(mapped.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self(words, count))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, which are zero at first, and stays.
        unsafe { slice::from_raw_parts(self.0.as_ptr(), self.1) }
    }
}
