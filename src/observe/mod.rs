//! Observation of a server: typed events, totals, and errors with their reactions. Logs, metrics
//! and tests read the same events.

pub(crate) mod events;
pub(crate) mod hooks;
#[cfg(feature = "tracing")]
pub(crate) mod tracing;

pub use crate::counters::Totals;
pub use crate::lifecycle::State;
pub use crate::registry::info::{ConnectionInfo, Subject, Traffic};
pub use crate::registry::table::{AbortReason, Activity};
pub use events::{EndReason, Event, Limit, Observer, RefuseReason};
pub use hooks::{AcceptError, Failure, Reaction, Stall, Step};
#[cfg(feature = "tracing")]
pub use tracing::Tracing;
