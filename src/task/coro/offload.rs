//! Runs foreign blocking calls on helper threads.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::task::coro::worker::{Current, Wake};
use crate::task::signal::Wakeable;
use crate::task::wait::unwind_handler;

/// Runs `work` on a helper thread while the coroutine that calls is suspended, or on the worker if a helper
/// thread cannot be started. A panic of `work` propagates to the caller. If the caller is cancelled meanwhile, it
/// unwinds, and the result is dropped once `work` returns.
pub(crate) fn offload<R: Send + 'static>(
    current: &Current,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    // A coroutine cannot be suspended while a panic unwinds.
    if std::thread::panicking() {
        return work();
    }
    let runtime = current.runtime();
    let Ok(reserved) = runtime.helpers.reserve() else {
        return work();
    };
    current.watch_abort();
    let result = Arc::new(Mutex::new(None));
    let task = {
        let (result, caller) = (Arc::clone(&result), current.remote());
        move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            // If the caller is gone, the result is dropped here, which may panic. The panic hook has reported
            // the panic; the payload is leaked, as dropping it might panic in turn.
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(result)));
            dropped.unwrap_or_else(std::mem::forget);
            caller.wake();
        }
    };
    reserved.execute(Box::new(task));
    let mut woken = Wake::Ready;
    loop {
        if woken == Wake::Cancelled {
            unwind_handler();
            // Unwinding would have ended the process: wait for the result.
            current.suspend_uninterruptible();
        } else {
            woken = current.suspend_until(None);
        }
        let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        match done {
            Some(Ok(value)) => return value,
            Some(Err(panic)) => resume_unwind(panic),
            None => {}
        }
    }
}
