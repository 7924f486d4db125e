//! What can be tested within one process. One file for each concern; forking models and
//! process-wide limits are in `matrix.rs` and `process.rs`.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/script.rs"]
mod script;

mod accept;
mod bind;
/// The same tests on both drivers, each of which knows its own by the name of its module.
#[cfg(feature = "coroutines")]
#[path = "coroutines.rs"]
mod coroutines_epoll;
#[cfg(feature = "coroutines")]
#[path = "coroutines.rs"]
#[expect(clippy::duplicate_mod, reason = "see above")]
mod coroutines_uring;
mod datagrams;
mod handle_request;
mod handshake;
mod link_local;
mod regression;
mod shutdown;
mod streams;
mod unix_files;
#[cfg(feature = "coroutines")]
#[path = "waits.rs"]
mod waits_epoll;
#[cfg(feature = "coroutines")]
#[path = "waits.rs"]
#[expect(clippy::duplicate_mod, reason = "see above")]
mod waits_uring;
