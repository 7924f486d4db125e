//! Stacks for coroutines: reusable slots of large mappings, each with a guard at its low end.
//!
//! ```text
//!  a slab: one mapping of SLOTS slots
//!  ├── guard ──┬────── usable ───────┤├── guard ──┬─ …
//!  limit       limit + GUARD      base                 the stack grows down from base
//! ```
//!
//! `MADV_GUARD_INSTALL` (madvise(2), Linux 6.13) installs a guard without splitting the mapping, so a process can
//! hold a million stacks. On older kernels mprotect(2) installs the guards, and each stack takes two mappings, of
//! which `vm.max_map_count` allows 65,530 by default. The number of stacks is then limited ([`capacity`]), so that
//! some mappings are left for the rest of the process.
#![expect(unsafe_code, reason = "mapping, guarding and handing out raw memory")]

use std::cell::RefCell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::stack::valgrind::ValgrindStackRegistration;
use corosensei::stack::{Stack, StackPointer};

use crate::task::coro::overflow;

/// The size of a guard. rustc probes each page of a large frame; C code may skip some pages.
pub(crate) const GUARD: usize = 16 * 1024;

/// The number of stacks in the first mapping. Each further mapping has as many as all before it, up to
/// `SLOTS_MAX`.
const SLOTS: usize = 64;
const SLOTS_MAX: usize = 4096;

/// The mappings that are left for the rest of the process where each stack takes two.
const SPARE_MAPPINGS: usize = 4096;

/// How much address space is left for the rest of the process, where that is limited (`RLIMIT_AS`): an allocation
/// that fails ends the process, a stack that fails only has to wait.
const SPARE_SPACE: usize = 32 * 1024 * 1024;

/// `MADV_GUARD_INSTALL`, which the libc crate does not define.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// The most free stacks that stay resident; the memory of further ones is returned to the system.
const WARM: usize = 256;

/// The stacks of one worker.
#[derive(Clone, Debug)]
pub(crate) struct StackPool(Rc<RefCell<Pool>>);

#[derive(Debug)]
struct Pool {
    /// Usable bytes and the guard, a multiple of the page size.
    slot: usize,
    /// The lowest addresses of free slots; the last one was used last, and is most likely in the cache.
    free: Vec<NonNull<u8>>,
    slabs: Vec<Slab>,
    /// The number of slots of the newest slab that were never used, and have no guard yet.
    fresh: usize,
    guard: Guard,
    gauge: Option<StackGauge>,
}

/// One mapping.
#[derive(Debug)]
struct Slab {
    start: NonNull<u8>,
    slots: usize,
    /// Without the registration, Valgrind would mistake a switch to a nearby stack for a large frame, and report
    /// accesses to the memory between.
    _known: ValgrindStackRegistration,
}

/// Measures the greatest stack depth of a server's coroutines, in bytes.
///
/// Pass it to [`Coroutines::stack_gauge`](crate::Coroutines::stack_gauge).
///
/// # Examples
///
/// ```
/// use socketserver::model::StackGauge;
/// use socketserver::testing::TestServer;
/// use socketserver::{Coroutines, Server, Tcp};
///
/// let gauge = StackGauge::default();
/// // SAFETY: the handler does nothing.
/// let model = unsafe { Coroutines::new() }.stack_gauge(&gauge);
/// let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
/// let server = TestServer::spawn(server, |_| ());
/// drop(server.connect());
/// let _ = server.stop();
/// assert!(gauge.high_water() > 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StackGauge(Arc<AtomicUsize>);

impl StackGauge {
    /// Returns the greatest depth of all coroutines that have ended, in bytes; 0 before the first one has.
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The byte that a gauge fills unused stacks with.
const PAINT: u8 = 0xa5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Advice,
    Protection,
}

/// A stack of a pool; dropping it returns the stack to the pool.
#[derive(Debug)]
pub(crate) struct PooledStack {
    limit: NonNull<u8>,
    size: usize,
    pool: StackPool,
}

impl StackPool {
    /// Creates a pool of stacks with at least `size` usable bytes.
    pub(crate) fn new(size: usize, gauge: Option<StackGauge>) -> Self {
        let page = rustix::param::page_size();
        let slot = (size.max(page) + GUARD).next_multiple_of(page);
        let pool = Pool {
            slot,
            free: Vec::new(),
            slabs: Vec::new(),
            fresh: 0,
            guard: Guard::Advice,
            gauge,
        };
        Self(Rc::new(RefCell::new(pool)))
    }

    /// Takes a stack.
    ///
    /// # Errors
    ///
    /// The system has no memory, or no mapping, for a further stack.
    pub(crate) fn take(&self) -> io::Result<PooledStack> {
        let mut pool = self.0.borrow_mut();
        let limit = match pool.free.pop() {
            Some(limit) => limit,
            None => pool.carve()?,
        };
        let stack = PooledStack {
            limit,
            size: pool.slot,
            pool: self.clone(),
        };
        if pool.gauge.is_some() {
            stack.paint();
        }
        Ok(stack)
    }
}

impl Pool {
    /// Makes a new slot usable.
    fn carve(&mut self) -> io::Result<NonNull<u8>> {
        if self.fresh == 0 {
            let existing: usize = self.slabs.iter().map(|slab| slab.slots).sum();
            let slots = existing.clamp(SLOTS, SLOTS_MAX);
            let start = map_sparing(self.slot * slots)?;
            overflow::register(start.as_ptr() as usize, self.slot * slots, self.slot);
            let known = ValgrindStackRegistration::new(start.as_ptr(), self.slot * slots);
            self.slabs.push(Slab {
                start,
                slots,
                _known: known,
            });
            self.fresh = slots;
        }
        let Some(&Slab { start, slots, .. }) = self.slabs.last() else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        // SAFETY: the slab has `slots` slots, and `fresh` is from 1 to that.
        let limit = unsafe { start.add((slots - self.fresh) * self.slot) };
        self.install_guard(limit)?;
        self.fresh -= 1;
        Ok(limit)
    }

    fn install_guard(&mut self, limit: NonNull<u8>) -> io::Result<()> {
        if self.guard == Guard::Advice {
            if advise(limit).is_ok() {
                return Ok(());
            }
            // EINVAL: an older kernel, or locked memory.
            self.guard = Guard::Protection;
        }
        // SAFETY: the slot is mapped and unused.
        match unsafe { libc::mprotect(limit.as_ptr().cast(), GUARD, libc::PROT_NONE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Installs a guard at the low end of an unused slot.
fn advise(limit: NonNull<u8>) -> io::Result<()> {
    // SAFETY: the caller has mapped the slot, which is unused.
    match unsafe { libc::madvise(limit.as_ptr().cast(), GUARD, MADV_GUARD_INSTALL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the most stacks that this process can have where guards take mappings of their own; otherwise `None`.
pub(crate) fn capacity() -> Option<usize> {
    let probe = map(GUARD).ok()?;
    let advised = advise(probe).is_ok();
    // SAFETY: it was mapped above, with this length, and is unused.
    unsafe { unmap(probe, GUARD) };
    (!advised).then(protected_capacity)
}

/// Returns the most stacks where each takes two mappings.
fn protected_capacity() -> usize {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let most = most.ok().and_then(|text| text.trim().parse().ok());
    let used = std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let left = most
        .unwrap_or(65_530_usize)
        .saturating_sub(used + SPARE_MAPPINGS);
    (left / 2).max(1)
}

/// Maps memory as [`map`] does, but not the last that the process can have.
fn map_sparing(bytes: usize) -> io::Result<NonNull<u8>> {
    let spare = map(SPARE_SPACE)?;
    let mapped = map(bytes);
    // SAFETY: it was mapped above, with this length, and is unused.
    unsafe { unmap(spare, SPARE_SPACE) };
    mapped
}

/// Unmaps what [`map`] has mapped.
///
/// # Safety
///
/// `start` and `bytes` are those of one call of `map`, and nothing uses the memory.
unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
}

/// Maps memory, whose pages become resident on their first use.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: an anonymous mapping at an address that the kernel picks overlaps nothing that
    // exists.
    let start = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // With huge pages, one used byte would make a whole stack resident. A kernel without huge pages returns
    // EINVAL, which is harmless. SAFETY: the range was just mapped.
    unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned a null address"))
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Each stack holds a reference to the pool, so no stack is in use.
        for Slab { start, slots, .. } in &self.slabs {
            overflow::unregister(start.as_ptr() as usize);
            // SAFETY: the slab was mapped with this length, and is not in use.
            unsafe { unmap(*start, self.slot * slots) };
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

impl PooledStack {
    /// Returns the part above the guard, from its low end.
    fn usable(&self) -> (NonNull<u8>, usize) {
        // SAFETY: a slot is larger than its guard.
        let start = unsafe { self.limit.add(GUARD) };
        (start, self.size - GUARD)
    }

    /// Fills the unused stack.
    fn paint(&self) {
        let (start, len) = self.usable();
        // SAFETY: the usable part belongs to this stack alone, and is writable.
        unsafe { start.write_bytes(PAINT, len) };
    }

    /// Returns the number of bytes that were used since `paint`.
    fn used(&self) -> usize {
        let (start, len) = self.usable();
        // SAFETY: the usable part belongs to this stack alone, `paint` has written all of it, and no code runs on
        // it any more.
        let bytes = unsafe { slice::from_raw_parts(start.as_ptr(), len) };
        len - bytes.iter().take_while(|&&byte| byte == PAINT).count()
    }
}

impl Drop for PooledStack {
    fn drop(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        if let Some(gauge) = &pool.gauge {
            gauge.0.fetch_max(self.used(), Ordering::Relaxed);
        }
        if pool.free.len() >= WARM {
            let (start, len) = self.usable();
            // SAFETY: this part of the slot is no longer in use, and the next use finds zeroed memory. The guard
            // stays.
            unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
        }
        pool.free.push(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_was_used_last_is_used_next() {
        let pool = StackPool::new(64 * 1024, None);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        let address = first.limit();
        assert_ne!(address, second.limit());
        drop(first);
        assert_eq!(pool.take().unwrap().limit(), address);
    }

    #[test]
    fn stacks_do_not_overlap_and_are_writable() {
        let pool = StackPool::new(10_000, None);
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
            // SAFETY: the lowest usable byte of an unused stack.
            unsafe { lowest.write(1) };
        }
    }

    #[test]
    fn guards_can_be_mappings_of_their_own_up_to_a_limit() {
        let pool = StackPool::new(16 * 1024, None);
        pool.0.borrow_mut().guard = Guard::Protection;
        let maps = || {
            std::fs::read_to_string("/proc/self/maps")
                .unwrap()
                .lines()
                .count()
        };
        let before = maps();
        let stacks: Vec<_> = (0..SLOTS).map(|_| pool.take().unwrap()).collect();
        // Other tests of this process map and unmap memory at the same time.
        assert!(maps() > before + stacks.len(), "{before} {}", maps());
        let capacity = protected_capacity();
        assert!(capacity > 1000 && capacity < 1 << 30, "{capacity}");
    }

    #[test]
    fn a_gauge_knows_how_deep_a_stack_was_used() {
        let gauge = StackGauge::default();
        let pool = StackPool::new(64 * 1024, Some(gauge.clone()));
        for used in [1000, 5000, 100] {
            let stack = pool.take().unwrap();
            let lowest = (stack.base().get() - used) as *mut u8;
            // SAFETY: a usable byte of an unused stack.
            unsafe { lowest.write(0) };
        }
        assert_eq!(gauge.high_water(), 5000);
    }
}
