//! A runtime for stackful coroutines over epoll or io_uring. It does not depend on servers and handlers.
//!
//! A [`Worker`](worker::Worker) is one thread with its run queue, timers, stacks and driver. A coroutine runs on
//! one worker for its whole life, so it may hold values that are bound to a thread. [`worker::current`] returns
//! the coroutine that calls; outside of this module only [`wait`](crate::task::wait) uses it.

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
