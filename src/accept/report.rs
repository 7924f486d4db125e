//! How serving ended, and what became of one request.

/// How serving ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many requests were aborted because they had not ended by the drain deadline, and how many
    /// clients were aborted that nobody had accepted by then.
    pub aborted: u64,
}

/// What became of [`Server::handle_request`](crate::Server::handle_request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handled {
    /// A request was served or, under a model with threads or processes, is being served.
    Served,
    /// A request was turned away by the `verify` hook, or was not fit to be served.
    Refused,
    /// No request came in time; the `on_timeout` hook was called.
    TimedOut,
    /// The server was asked to stop.
    Stopping,
}
