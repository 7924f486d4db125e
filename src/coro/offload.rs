//! Foreign blocking calls, on threads of their own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::coro::worker::{Wake, current};

/// Runs a call that blocks in another way than this crate's, without blocking the worker: in a
/// coroutine it runs on one of up to 64 helper threads while the coroutine waits; where there is no
/// coroutine it runs right here.
///
/// A panic of `work` goes on in the caller. If the server cuts the handler meanwhile, the handler
/// is unwound and the result of `work` is dropped when it is done.
///
/// # Errors
///
/// Returns what `work` returns. Where no helper thread can be started it runs right here, and
/// blocks the worker.
///
/// # Examples
///
/// ```
/// let hosts = socketserver::offload(|| std::fs::read_to_string("/etc/hostname"));
/// ```
pub fn offload<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let Some(current) = current() else {
        return work();
    };
    let team = current.team();
    let Ok(place) = team.helpers.reserve() else {
        return work();
    };
    let result = Arc::new(Mutex::new(None));
    let task = {
        let (result, wake) = (Arc::clone(&result), current.waker());
        move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            // Where the caller is gone, the result is dropped here, and that may panic: the thread
            // goes on, and nobody is left to tell but the panic hook.
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(result)));
            dropped.unwrap_or_else(std::mem::forget);
            wake();
        }
    };
    place.execute(Box::new(task));
    loop {
        let woken = current.park(None);
        let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        match done {
            Some(Ok(value)) => return value,
            Some(Err(panic)) => resume_unwind(panic),
            None if woken == Wake::Cancelled => current.unwind(),
            None => {}
        }
    }
}
