//! A connection or datagram, from its admission to its end.

mod judge;
pub(crate) mod life;
#[cfg(feature = "coroutines")]
pub(crate) mod outbox;
pub(crate) mod parking;
pub(crate) mod session;
