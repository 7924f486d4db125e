//! Whatever waits or runs beside something else: the one wait, threads that take tasks, and coroutines.

#[cfg(feature = "coroutines")]
pub(crate) mod coro;
pub(crate) mod threads;
pub(crate) mod wait;

pub use wait::{offload, sleep, yield_now};
