//! What [`Threading`](crate::Threading) and [`ThreadPool`](crate::ThreadPool) share: threads, which
//! start when the server serves.

use std::io;

use crate::accept::batch::Batch;
use crate::accept::dispatch::Serving;
use crate::connection::life::Opening;
use crate::model::on_room;
use crate::net::Transport;
use crate::shared::Shared;
use crate::task::threads::{Limits, Threads};

/// The limits of a model's threads, and the threads once it serves.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) limits: Limits,
    threads: Option<Threads>,
}

impl Clone for Pooled {
    /// Clones the limits; the clone starts threads of its own.
    fn clone(&self) -> Self {
        Self::new(self.limits)
    }
}

impl Pooled {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            threads: None,
        }
    }

    /// Gets ready to serve, with `count` threads at once.
    pub(super) fn start(&mut self, shared: &Shared, count: usize) -> io::Result<()> {
        let new = || Threads::new(self.limits, on_room(shared));
        self.threads.get_or_insert_with(new).start(count)
    }

    pub(super) fn room(&self) -> usize {
        self.threads.as_ref().map_or(0, Threads::room)
    }

    pub(super) fn is_behind(&self) -> bool {
        self.threads.as_ref().is_some_and(Threads::is_behind)
    }

    /// Gives each connection or datagram of a batch to a thread. If no thread can be started, the
    /// rest stays in the batch.
    pub(super) fn dispatch<T: Transport>(
        &self,
        batch: &mut Batch<T::Accepted>,
        serving: &Serving<T>,
    ) -> io::Result<()> {
        let Some(threads) = &self.threads else {
            return Ok(());
        };
        while !batch.requests.is_empty() {
            let reserved = threads.reserve()?;
            if let Some(job) = batch.next_job(serving) {
                reserved.execute(Box::new(move || job.run(Opening::Parks)));
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self, is_stuck: bool) {
        if let Some(threads) = &self.threads {
            threads.finish(is_stuck);
        }
    }
}
