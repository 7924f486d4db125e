//! What was accepted together.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::accept::dispatch::Serving;
use crate::admission::permits::Lease;
use crate::connection::life::Job;
use crate::transport::Transport;

/// Requests that were accepted and not yet given to the model.
#[derive(Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Batch<R> {
    pub(crate) requests: VecDeque<R>,
    pub(crate) lease: Lease,
}

impl<R> Batch<R> {
    /// Takes the first request out, to be served apart from the others.
    pub(crate) fn next_job<T: Transport<Request = R>>(
        &mut self,
        serving: &Serving<T>,
    ) -> Option<Job<R>> {
        let request = self.requests.pop_front()?;
        Some(Job {
            request,
            service: Arc::clone(&serving.service),
            lease: self.lease.split(1),
        })
    }
}
