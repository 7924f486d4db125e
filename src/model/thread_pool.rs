//! A fixed number of threads and a bounded queue.

use std::io;

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Model, Serving};
use crate::accept::report::Report;
use crate::error::Error;
use crate::model::pooled::Pooled;
use crate::model::serve_here;
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::Limits;

/// Runs the handler on a fixed number of threads. While all threads are busy, connections and
/// datagrams wait in a queue; while that is full, the accept loop pauses and clients wait in the
/// backlog.
///
/// This model bounds what a server uses. A connection holds its thread until it ends or is parked:
/// give slow clients a timeout, or choose [`Threading`](crate::Threading).
///
/// # Examples
///
/// ```
/// use socketserver::net::Bind;
/// use socketserver::{Server, Tcp, ThreadPool};
///
/// let server = Server::<Tcp>::builder().model(ThreadPool::new(8).queue(100)).bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ThreadPool {
    pooled: Pooled,
}

impl Default for ThreadPool {
    /// Creates a pool of four threads for each processor.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(4 * processors)
    }
}

impl ThreadPool {
    /// Creates a pool of `threads`, at least one, with a queue of the same length.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self {
            pooled: Pooled::new(Limits {
                threads,
                queue: threads,
                keep_alive: None,
                stack_size: None,
            }),
        }
    }

    /// Sets how many connections or datagrams may wait for a thread. Default: the number of
    /// threads.
    pub const fn queue(mut self, requests: usize) -> Self {
        self.pooled.limits.queue = requests;
        self
    }

    /// Sets the size of a thread's stack in bytes. Default: the standard library's (2 MiB, or
    /// `RUST_MIN_STACK`).
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.pooled.limits.stack_size = Some(bytes);
        self
    }
}

impl Model for ThreadPool {
    const NAME: &'static str = "pool";

    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error> {
        serve_here(self, serving)
    }
}

impl Dispatch for ThreadPool {
    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        shared.registry.set_waits_hold_others();
        self.pooled.start(shared, self.pooled.limits.threads)
    }

    fn room(&self) -> usize {
        self.pooled.room()
    }

    fn is_behind(&self) -> bool {
        self.pooled.is_behind()
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        self.pooled.dispatch(batch, serving)
    }

    fn finish(&mut self, is_stuck: bool) {
        self.pooled.finish(is_stuck);
    }
}
