//! A thread for each connection or datagram.

use std::io;
use std::time::Duration;

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Model, Serving};
use crate::accept::report::Report;
use crate::error::Error;
use crate::model::pooled::Pooled;
use crate::model::serve_here;
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::Limits;

/// Runs the handler for each connection or datagram on a thread of its own.
///
/// A thread whose handler has returned stays for the next connection, up to
/// [`keep_alive`](Self::keep_alive), so that most connections start no thread. While all of
/// [`max_threads`](Self::max_threads) are busy, the accept loop pauses and clients wait in the
/// backlog. If a thread cannot be started, its connection waits and the model tries again.
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
#[derive(Clone, Debug)]
#[must_use]
pub struct Threading {
    pooled: Pooled,
}

impl Default for Threading {
    fn default() -> Self {
        Self {
            pooled: Pooled::new(Limits {
                threads: 1024,
                queue: 0,
                keep_alive: Some(Duration::from_secs(10)),
                stack_size: None,
            }),
        }
    }
}

impl Threading {
    /// Sets the maximum number of threads. Default: 1024. At least 1.
    pub fn max_threads(mut self, threads: usize) -> Self {
        self.pooled.limits.threads = threads.max(1);
        self
    }

    /// Sets how long an idle thread waits for its next connection before it ends. Default: 10 s.
    pub const fn keep_alive(mut self, wait: Duration) -> Self {
        self.pooled.limits.keep_alive = Some(wait);
        self
    }

    /// Sets the size of a thread's stack in bytes. Default: the standard library's (2 MiB, or
    /// `RUST_MIN_STACK`).
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.pooled.limits.stack_size = Some(bytes);
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
        self.pooled.start(shared, 0)
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
