//! What a server tells its program, and asks of it, beside the handler.

pub(crate) mod events;
pub(crate) mod hooks;
#[cfg(feature = "tracing")]
pub(crate) mod tracing;
