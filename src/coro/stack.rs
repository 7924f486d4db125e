//! Stacks for coroutines: slots of large mappings, each with a guard below it, used again and
//! again.
//!
//! ```text
//!  a slab: one mapping of SLOTS slots
//!  ├── guard ──┬────── usable ───────┤├── guard ──┬─ …
//!  limit       limit + GUARD      base                 the stack grows down from base
//! ```
//!
//! Guards are installed with `MADV_GUARD_INSTALL` (madvise(2), Linux 6.13), which splits no
//! mapping, so a process can hold a million stacks. Where the kernel lacks it, mprotect(2) does, at
//! the price of two mappings for each stack, of which `vm.max_map_count` allows 65,530.
#![expect(unsafe_code, reason = "mapping, guarding and handing out raw memory")]

use std::cell::RefCell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;

use corosensei::stack::{Stack, StackPointer};

use crate::coro::overflow;

/// What a stack must not grow into. rustc probes each page of a large frame, C code may skip a few.
pub(crate) const GUARD: usize = 16 * 1024;

/// Stacks in one mapping.
const SLOTS: usize = 64;

/// `MADV_GUARD_INSTALL`, which libc does not name yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Free stacks that keep their memory; further ones give it back to the system.
const WARM: usize = 256;

/// The stacks of one worker.
#[derive(Clone, Debug)]
pub(crate) struct StackPool(Rc<RefCell<Pool>>);

#[derive(Debug)]
struct Pool {
    /// Usable bytes and the guard, a multiple of the page size.
    slot: usize,
    /// The lowest addresses of free slots; the last one was used last, and its memory is warm.
    free: Vec<NonNull<u8>>,
    slabs: Vec<NonNull<u8>>,
    /// Slots of the newest slab that were never used, and have no guard yet.
    fresh: usize,
    guard: Guard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Advice,
    Protection,
}

/// A stack of a pool, which goes back to it when dropped.
#[derive(Debug)]
pub(crate) struct PooledStack {
    limit: NonNull<u8>,
    size: usize,
    pool: StackPool,
}

impl StackPool {
    /// Stacks with at least `size` usable bytes.
    pub(crate) fn new(size: usize) -> Self {
        let page = rustix::param::page_size();
        let slot = (size.max(page) + GUARD).next_multiple_of(page);
        let pool = Pool {
            slot,
            free: Vec::new(),
            slabs: Vec::new(),
            fresh: 0,
            guard: Guard::Advice,
        };
        Self(Rc::new(RefCell::new(pool)))
    }

    /// Takes a stack.
    ///
    /// # Errors
    ///
    /// When the system has no memory, or no mapping, for another one.
    pub(crate) fn take(&self) -> io::Result<PooledStack> {
        let mut pool = self.0.borrow_mut();
        let limit = match pool.free.pop() {
            Some(limit) => limit,
            None => pool.carve()?,
        };
        Ok(PooledStack {
            limit,
            size: pool.slot,
            pool: self.clone(),
        })
    }
}

impl Pool {
    /// Makes a new slot usable.
    fn carve(&mut self) -> io::Result<NonNull<u8>> {
        if self.fresh == 0 {
            let slab = map(self.slot * SLOTS)?;
            overflow::register(slab.as_ptr() as usize, self.slot * SLOTS, self.slot);
            self.slabs.push(slab);
            self.fresh = SLOTS;
        }
        let slab = self
            .slabs
            .last()
            .copied()
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the slab has SLOTS slots, and `fresh` is from 1 to SLOTS.
        let limit = unsafe { slab.add((SLOTS - self.fresh) * self.slot) };
        self.install_guard(limit)?;
        self.fresh -= 1;
        Ok(limit)
    }

    fn install_guard(&mut self, limit: NonNull<u8>) -> io::Result<()> {
        if self.guard == Guard::Advice {
            // SAFETY: the range lies in a slot that nobody uses yet.
            if unsafe { libc::madvise(limit.as_ptr().cast(), GUARD, MADV_GUARD_INSTALL) } == 0 {
                return Ok(());
            }
            // EINVAL: an older kernel, or memory that is locked.
            self.guard = Guard::Protection;
        }
        // SAFETY: as above.
        match unsafe { libc::mprotect(limit.as_ptr().cast(), GUARD, libc::PROT_NONE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Maps memory that takes none until it is touched, page by page.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: an anonymous mapping at an address that the kernel picks overlaps nothing that
    // exists.
    let start = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A huge page would make each stack with one byte in use resident as a whole. A kernel without
    // huge pages says EINVAL, and has no such trouble. SAFETY: the range was just mapped.
    unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned a null address"))
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Each stack holds the pool: none is in use.
        for slab in &self.slabs {
            overflow::unregister(slab.as_ptr() as usize);
            // SAFETY: the slab was mapped in `map` with this length, and nothing in it is in use.
            unsafe { libc::munmap(slab.as_ptr().cast(), self.slot * SLOTS) };
        }
    }
}

// SAFETY: base and limit bound memory that belongs to this stack alone until it is dropped, with a
// guard at its low end that faults, both aligned to pages.
unsafe impl Stack for PooledStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.limit.as_ptr() as usize + self.size)
            .expect("a mapping is not at address zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit.as_ptr() as usize).expect("a mapping is not at address zero")
    }
}

impl Drop for PooledStack {
    fn drop(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        if pool.free.len() >= WARM {
            // SAFETY: the range is the usable part of this slot, and nobody uses it any more.
            // Guards stay.
            let usable = unsafe { self.limit.add(GUARD) };
            // SAFETY: as above; the next use finds zeroed memory.
            unsafe {
                libc::madvise(
                    usable.as_ptr().cast(),
                    self.size - GUARD,
                    libc::MADV_DONTNEED,
                )
            };
        }
        pool.free.push(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_was_used_last_is_used_next() {
        let pool = StackPool::new(64 * 1024);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        let address = first.limit();
        assert_ne!(address, second.limit());
        drop(first);
        assert_eq!(pool.take().unwrap().limit(), address);
    }

    #[test]
    fn stacks_do_not_overlap_and_are_writable() {
        let pool = StackPool::new(10_000);
        let stacks: Vec<_> = (0..3 * SLOTS).map(|_| pool.take().unwrap()).collect();
        let mut ranges: Vec<_> = stacks
            .iter()
            .map(|stack| (stack.limit().get(), stack.base().get()))
            .collect();
        ranges.sort_unstable();
        assert!(
            ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "{ranges:?}"
        );
        for stack in &stacks {
            assert!(stack.base().get() - stack.limit().get() >= 10_000 + GUARD);
            let lowest = (stack.limit().get() + GUARD) as *mut u8;
            // SAFETY: the lowest usable byte of a stack that nothing runs on.
            unsafe { lowest.write(1) };
        }
    }
}
