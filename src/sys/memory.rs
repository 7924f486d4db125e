//! Memory that a process and the children it forks later share: counters and the stop state of a
//! server.
#![expect(unsafe_code, reason = "shared anonymous memory has no safe binding")]

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A type that can live in memory which several processes change at once.
///
/// # Safety
///
/// Every field is an atomic integer, so that all-zero bytes are a valid value, nothing points into
/// one process's memory, and nothing needs to be dropped.
pub(crate) unsafe trait Shareable: Sync {}

/// A slice of `T` in shared memory, zeroed when made, unmapped on drop (in this process only).
#[derive(Debug)]
pub(crate) struct SharedMemory<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T: Shareable> SharedMemory<T> {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let bytes = size_of::<T>()
            .checked_mul(len)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: an anonymous mapping at an address that the kernel picks overlaps nothing that
        // exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mmap returned a null address"))?;
        Ok(Self { start, len })
    }
}

impl<T: Shareable> Deref for SharedMemory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is page-aligned memory of `len` values, zeroed by the kernel, valid until
        // drop; `Shareable` makes zero bytes a `T` and all access through `&T` atomic, across
        // processes too.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for SharedMemory<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and `&mut self` says that no
        // reference is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), size_of::<T>() * self.len) };
    }
}

// SAFETY: the memory is reachable from any thread, and `T: Sync` allows shared access from several.
unsafe impl<T: Shareable> Send for SharedMemory<T> {}
// SAFETY: as for `Send`; no method takes `&mut self` but drop.
unsafe impl<T: Shareable> Sync for SharedMemory<T> {}
