//! Foreign blocking calls, on threads of their own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::task::coro::worker::{Current, Wake};
use crate::task::signal::Wakeable;
use crate::task::wait::unwind_handler;

/// Runs `work` on a helper thread while the coroutine that calls waits; right here where no helper thread
/// can be started. Its panic goes on in the caller. Where the caller is cancelled meanwhile it is unwound,
/// and the result is dropped when it is done.
pub(crate) fn offload<R: Send + 'static>(
    current: &Current,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    // No coroutine is suspended while a panic unwinds.
    if std::thread::panicking() {
        return work();
    }
    let runtime = current.runtime();
    let Ok(place) = runtime.helpers.reserve() else {
        return work();
    };
    current.watch_abort();
    let result = Arc::new(Mutex::new(None));
    let task = {
        let (result, caller) = (Arc::clone(&result), current.remote());
        move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            // Where the caller is gone, the result is dropped here, and that may panic: the thread
            // goes on, and nobody is left to tell but the panic hook.
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(result)));
            dropped.unwrap_or_else(std::mem::forget);
            caller.wake();
        }
    };
    place.execute(Box::new(task));
    let mut woken = Wake::Ready;
    loop {
        if woken == Wake::Cancelled {
            unwind_handler();
            // That would have ended the process.
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
