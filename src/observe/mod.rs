//! What a server lets others know.

pub(crate) mod counters;
mod throttle;
