//! A batch: connections or datagrams that were accepted together.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::accept::dispatch::Serving;
use crate::admission::permits::Permits;
use crate::connection::life::Job;
use crate::net::Transport;

/// Connections or datagrams that were accepted and not yet dispatched to the model, with their
/// permits.
#[derive(Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Batch<R> {
    pub(crate) requests: VecDeque<R>,
    pub(crate) permits: Permits,
}

impl<R> Batch<R> {
    /// Takes the first entry out of the batch, as a job of its own.
    pub(crate) fn next_job<T: Transport<Accepted = R>>(
        &mut self,
        serving: &Serving<T>,
    ) -> Option<Job<R>> {
        let request = self.requests.pop_front()?;
        Some(Job {
            request,
            service: Arc::clone(&serving.service),
            permits: self.permits.split(1),
        })
    }
}
