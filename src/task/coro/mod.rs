//! Stackful coroutines over epoll or io_uring. A runtime of its own: it knows nothing of who uses it.
//!
//! A [`Worker`](worker::Worker) is one thread with its run queue, its timers, its stacks and its
//! driver. A coroutine runs on one worker for its whole life, so whatever it holds may
//! belong to a thread. Whether the caller is a coroutine is what [`worker::current`] says, which only
//! [`wait`](crate::task::wait) asks from outside.

pub(crate) mod driver;
mod epoll;
pub(crate) mod inbox;
pub(crate) mod net;
pub(crate) mod offload;
pub(crate) mod overflow;
mod prefetch;
pub(crate) mod runtime;
pub(crate) mod stack;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub(crate) mod uring;
pub(crate) mod watchdog;
pub(crate) mod worker;
