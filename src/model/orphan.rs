//! The end of a worker process whose supervisor has ended, and kills it no more.

use std::io::{self, PipeReader};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::accept::dispatch::Serving;
use crate::model::prefork::KILL_GRACE;
use crate::net::Transport;
use crate::sys::child::kill_this_process;
use crate::task::wait::{self, Wakeup};

/// The size of the thread's stack: its calls need no more.
const STACK: usize = 64 * 1024;

/// Starts a thread that stops this worker process if its supervisor ends, and kills it when the supervisor would have done
/// so: a handler that keeps the accept loop from running would keep the listeners too, without a limit. Does nothing in a
/// process that is no worker.
pub(super) fn end_with_supervisor<T: Transport>(serving: &Serving<T>) {
    let lifeline = serving.lifeline.as_ref().map(PipeReader::try_clone);
    // Where there is no descriptor or no thread for it, the worker serves all the same.
    let Some(Ok(mut lifeline)) = lifeline else {
        return;
    };
    let lifecycle = Arc::clone(&serving.service.shared.lifecycle);
    let watch = move || {
        // Nobody writes to this pipe: the copy returns when the supervisor has ended.
        let _ = io::copy(&mut lifeline, &mut io::sink());
        lifecycle.stop_now();
        let wakeup = Wakeup::new(lifecycle.wakeup_event(), None);
        // The deadline may be made earlier, which wakes.
        while let Some(left) = lifecycle.drain_left().filter(|left| !left.is_zero()) {
            let end = Instant::now() + left;
            if !wakeup
                .as_ref()
                .is_ok_and(|wakeup| wakeup.wait(Vec::new(), Some(end)).is_ok())
            {
                wait::pause(left.min(KILL_GRACE));
            }
        }
        wait::pause(KILL_GRACE);
        kill_this_process();
    };
    let thread = thread::Builder::new().name("socketserver-orphan".to_owned());
    // The thread ends with the process.
    let _ = thread.stack_size(STACK).spawn(watch);
}
