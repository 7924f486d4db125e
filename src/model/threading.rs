//! A thread for each request.

use std::io;
use std::time::Duration;

use crate::accept::batch::Batch;
use crate::accept::dispatch::Model;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::report::Report;
use crate::error::Error;
use crate::model::{dispatch_to, on_room, serve_here};
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::{Limits, Threads};

/// Serves each request on a thread of its own, for as long as it takes.
///
/// A thread that has finished waits a while for the next request, so that a connection does not
/// cost a thread's creation. When all of [`max_threads`](Self::max_threads) are busy, accepting
/// pauses and requests wait in the kernel. A thread that cannot be created is tried again; its
/// request waits.
///
/// # Examples
///
/// ```
/// use socketserver::net::Bind;
/// use socketserver::{Server, Tcp, Threading};
///
/// let server = Server::<Tcp>::builder()
///     .model(Threading::default().max_threads(200))
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Threading {
    limits: Limits,
    threads: Option<Threads>,
}

impl Default for Threading {
    fn default() -> Self {
        let keep_alive = Some(Duration::from_secs(10));
        Self {
            limits: Limits {
                threads: 1024,
                queue: 0,
                keep_alive,
                stack_size: None,
            },
            threads: None,
        }
    }
}

impl Clone for Threading {
    /// Clones the options; the threads belong to one.
    fn clone(&self) -> Self {
        Self {
            limits: self.limits,
            threads: None,
        }
    }
}

impl Threading {
    /// The most threads at once. Default: 1024. At least 1.
    pub fn max_threads(mut self, threads: usize) -> Self {
        self.limits.threads = threads.max(1);
        self
    }

    /// How long a thread that has finished waits for its next request. Default: 10 s.
    pub const fn keep_alive(mut self, wait: Duration) -> Self {
        self.limits.keep_alive = Some(wait);
        self
    }

    /// The size of a thread's stack in bytes. Default: that of the standard library (2 MiB, or
    /// `RUST_MIN_STACK`).
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.limits.stack_size = Some(bytes);
        self
    }
}

impl Model for Threading {
    const NAME: &'static str = "threading";

    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error> {
        serve_here(self, serving)
    }
}

impl Dispatch for Threading {
    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        self.threads
            .get_or_insert_with(|| Threads::new(self.limits, on_room(shared)));
        Ok(())
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
