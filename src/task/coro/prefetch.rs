//! Fetching into the cache what is needed next.
//!
//! A coroutine that has waited left its stack in the cache long ago where there are thousands. The
//! run queue says which one comes after the next, so its memory can be on its way while others run.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "an instruction that only gives a hint")
)]

/// The size of a cache line.
const LINE: usize = 64;

/// How many lines of a suspended coroutine's stack are touched when it goes on: those of the calls
/// between its handler and the place where it was suspended, about a kilobyte.
const LINES: usize = 16;

/// What lies below the place where it was suspended: registers that the switch has saved.
const BELOW: usize = 2 * LINE;

/// Fetches the part of a stack that ends at `top` of a suspended coroutine, growing upwards in
/// addresses.
pub(crate) fn stack(top: usize) {
    let start = top.saturating_sub(BELOW);
    (0..LINES).for_each(|index| line(start + index * LINE));
}

/// Fetches what is at an address, which may be any: nothing is read.
#[cfg(target_arch = "x86_64")]
pub(crate) fn line(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch never faults and changes nothing that a program can see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn line(_: usize) {}
