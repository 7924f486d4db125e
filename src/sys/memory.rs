//! Memory that a process shares with children that it forks later: counters, and the state of a
//! stop.
#![expect(unsafe_code, reason = "shared anonymous memory has no safe binding")]

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A type that can live in memory which several processes change at once.
///
/// # Safety
///
/// The type consists of atomic integers: all-zero bytes are a valid value, it points to no memory
/// of one process, and it needs no drop. [`shareable`] implements the trait for structs.
pub(crate) unsafe trait Shareable: Sync {}

// SAFETY: an atomic integer.
unsafe impl Shareable for AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl Shareable for AtomicU16 {}
// SAFETY: an atomic integer.
unsafe impl Shareable for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Shareable for AtomicU64 {}
// SAFETY: as one of them.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// Implements [`Shareable`] for a struct, whose fields must all be; the compiler checks that each
/// field is named.
macro_rules! shareable {
    ($name:ident { $($field:ident),* $(,)? }) => {
        const _: () = {
            const fn is_shareable<T: $crate::sys::memory::Shareable>(_: &T) {}
            #[expect(dead_code, reason = "it is there to be compiled")]
            const fn each_field(value: &$name) {
                let $name { $($field),* } = value;
                $(is_shareable($field);)*
            }
        };
        #[expect(unsafe_code, reason = "each field has been checked")]
        // SAFETY: each field is `Shareable`, see above.
        unsafe impl $crate::sys::memory::Shareable for $name {}
    };
}
pub(crate) use shareable;

/// A slice of `T` in shared memory. It is zeroed when made; the drop unmaps it in this process
/// only.
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
        // SAFETY: an anonymous mapping at an address that the kernel picks overlaps no other.
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
        // SAFETY: `new` made the mapping with this length, and `&mut self` shows that no reference
        // is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), size_of::<T>() * self.len) };
    }
}

// SAFETY: the memory is reachable from any thread, and `T: Sync` allows shared access from several.
unsafe impl<T: Shareable> Send for SharedMemory<T> {}
// SAFETY: as for `Send`; no method takes `&mut self` but drop.
unsafe impl<T: Shareable> Sync for SharedMemory<T> {}
