//! What was accepted together.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::accept::dispatch::Serving;
use crate::admission::permits::Permits;
use crate::connection::life::Job;
use crate::net::Transport;

/// Requests that were accepted and not yet given to the model.
#[derive(Debug)]
#[expect(unnameable_types, reason = "models are sealed by it")]
pub struct Batch<R> {
    pub(crate) requests: VecDeque<R>,
    pub(crate) permits: Permits,
}

impl<R> Batch<R> {
    /// Takes the first request out, to be served apart from the others.
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
