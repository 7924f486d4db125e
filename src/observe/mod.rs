//! What a server tells its program, and asks of it, beside the handler.

pub(crate) mod events;
pub(crate) mod hooks;
#[cfg(feature = "tracing")]
pub(crate) mod tracing;

pub use crate::counters::Totals;
pub use crate::lifecycle::State;
pub use crate::registry::info::{ConnectionInfo, Traffic};
pub use crate::registry::table::{AbortReason, Activity};
pub use events::{EndReason, Event, Limit, Observer, RefuseReason};
pub use hooks::{AcceptError, Failure, Reaction, Stall, Step};
#[cfg(feature = "tracing")]
pub use tracing::Tracing;
