//! Prefetches the memory of coroutines that run soon.
//!
//! With thousands of coroutines, the stack of one that has waited is no longer in the cache. The worker
//! prefetches the stack of a coroutine further down the run queue while another one runs.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a prefetch instruction")
)]

/// The size of a cache line.
const LINE: usize = 64;

/// The number of lines to prefetch: the frames between the handler and the suspension, about a kilobyte.
const LINES: usize = 16;

/// The bytes below the recorded stack address, where the switch has saved registers.
const BELOW: usize = 2 * LINE;

/// Prefetches the used end of a suspended coroutine's stack: from `top` to higher addresses.
pub(crate) fn stack(top: usize) {
    let start = top.saturating_sub(BELOW);
    (0..LINES).for_each(|index| line(start + index * LINE));
}

/// Prefetches the cache line at an address, which need not be valid.
#[cfg(target_arch = "x86_64")]
pub(crate) fn line(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch never faults and changes nothing that a program can see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn line(_: usize) {}
