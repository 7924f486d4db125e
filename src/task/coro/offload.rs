//! Foreign blocking calls, on threads of their own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::task::coro::worker::{Current, Wake};

/// Runs `work` on a helper thread while the coroutine that calls waits; right here where no helper thread
/// can be started. Its panic goes on in the caller. Where the caller is cancelled meanwhile it is unwound,
/// and the result is dropped when it is done.
pub(crate) fn offload<R: Send + 'static>(
    current: &Current,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let runtime = current.runtime();
    let Ok(place) = runtime.helpers.reserve() else {
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
