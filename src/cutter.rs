//! A thread that keeps the drain deadline for an accept loop which serves requests itself.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::{Error, Tried};
use crate::state::Shared;
use crate::sys::bell::{Heard, Watch};
use crate::sys::timespec;

/// Sleeps until the server is asked to stop and its deadline has come, and cuts the live requests.
/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Cutter {
    shared: Arc<Shared>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// It calls nothing that needs more.
const STACK: usize = 64 * 1024;

impl Cutter {
    /// Starts the thread. In a worker process it watches the lifeline too.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        lifeline: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Error> {
        let watch = Watch::new(shared.bell(), lifeline);
        let watch = watch.tried(|| "create an epoll instance".to_owned())?;
        let done = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("socketserver-cut".to_owned())
            .stack_size(STACK);
        let run = {
            let (shared, done) = (Arc::clone(shared), Arc::clone(&done));
            move || keep_deadline(&shared, &watch, &done)
        };
        let thread = thread
            .spawn(run)
            .tried(|| "start the thread that keeps the drain deadline".to_owned())?;
        Ok(Self {
            shared: Arc::clone(shared),
            done,
            thread: Some(thread),
        })
    }
}

fn keep_deadline(shared: &Shared, watch: &Watch, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let left = shared.drain_left();
        if left.is_some_and(|left| left.is_zero()) {
            shared.cut_all();
            return;
        }
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        // An error (only EINTR is possible) is a reason to look again.
        let _ = poll(&mut fds, left.map(timespec).as_ref());
        if watch.hear() == Heard::Orphaned {
            shared.stop(shared.drain_timeout());
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.shared.bell().ring();
        if let Some(thread) = self.thread.take() {
            // It cannot panic but for a bug, which the panic hook has told.
            let _ = thread.join();
        }
    }
}
