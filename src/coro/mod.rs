//! Stackful coroutines over epoll or io_uring. A runtime of its own: it knows nothing of servers, transports or
//! models.
//!
//! A [`Worker`](worker::Worker) is one thread with its run queue, its timers, its stacks and its
//! driver. A coroutine runs on one worker for its whole life, so whatever it holds may
//! belong to a thread. Code that blocks asks [`worker::current`] whether it runs in a coroutine:
//! then it parks that, else it blocks the thread.

mod ahead;
pub(crate) mod driver;
mod epoll;
pub(crate) mod inbox;
pub(crate) mod net;
pub(crate) mod offload;
mod overflow;
pub(crate) mod stack;
pub(crate) mod team;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub(crate) mod uring;
pub(crate) mod watchdog;
pub(crate) mod worker;

pub use offload::offload;

use std::time::{Duration, Instant};

/// Waits for `time`: parks the coroutine that calls, or blocks the thread where there is none.
///
/// In a coroutine whose server has cut what is left (see [`Server`](crate::Server)), it unwinds the
/// handler instead, as a panic does but without a message, so that its destructors run.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// socketserver::sleep(Duration::from_millis(1));
/// ```
pub fn sleep(time: Duration) {
    match worker::current() {
        Some(current) => current.sleep_until(Instant::now() + time),
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sleep that handlers call"
        )]
        None => std::thread::sleep(time),
    }
}

/// Lets the other coroutines of this worker run, or the other threads where there is none.
///
/// Reading and writing do so now and then by themselves; a handler that computes for long should
/// call this.
///
/// # Examples
///
/// ```
/// for number in 0..1000_u32 {
///     if number % 100 == 0 {
///         socketserver::yield_now();
///     }
/// }
/// ```
pub fn yield_now() {
    match worker::current() {
        Some(current) => current.yield_now(),
        None => std::thread::yield_now(),
    }
}
