//! A fixed number of threads and a bounded queue.

use std::io;

use crate::accept::batch::Batch;
use crate::accept::dispatch::Model;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::report::Report;
use crate::error::Error;
use crate::model::{dispatch_to, on_room, serve_here};
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::{Limits, Threads};

/// Serves requests on a fixed number of threads. Those that find all threads busy wait in a queue;
/// when that is full, accepting pauses and they wait in the kernel.
///
/// The right model to bound what requests use. Each connection holds its thread until it ends: give
/// slow clients a timeout, or choose [`Threading`](crate::Threading).
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
#[derive(Debug)]
#[must_use]
pub struct ThreadPool {
    limits: Limits,
    threads: Option<Threads>,
}

impl Default for ThreadPool {
    /// A pool of four threads for each processor.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(4 * processors)
    }
}

impl Clone for ThreadPool {
    /// Clones the options; the threads belong to one.
    fn clone(&self) -> Self {
        Self {
            limits: self.limits,
            threads: None,
        }
    }
}

impl ThreadPool {
    /// A pool of this many threads, at least one, and a queue for as many requests.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self {
            limits: Limits {
                threads,
                queue: threads,
                keep_alive: None,
                stack_size: None,
            },
            threads: None,
        }
    }

    /// How many requests may wait for a thread. Default: as many as there are threads.
    pub const fn queue(mut self, requests: usize) -> Self {
        self.limits.queue = requests;
        self
    }

    /// The size of a thread's stack in bytes. Default: that of the standard library (2 MiB, or
    /// `RUST_MIN_STACK`).
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.limits.stack_size = Some(bytes);
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
        let threads = self
            .threads
            .get_or_insert_with(|| Threads::new(self.limits, on_room(shared)));
        threads.start(self.limits.threads)
    }

    fn room(&self) -> usize {
        self.threads.as_ref().map_or(0, Threads::room)
    }

    fn is_behind(&self) -> bool {
        self.threads.as_ref().is_some_and(Threads::is_behind)
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        self.threads
            .as_ref()
            .map_or(Ok(()), |threads| dispatch_to(threads, batch, serving))
    }

    fn finish(&mut self, is_stuck: bool) {
        self.threads
            .iter()
            .for_each(|threads| threads.finish(is_stuck));
    }
}
