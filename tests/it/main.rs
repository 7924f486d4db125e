//! Tests within one process, one file for each concern. Forking models and process-wide limits are
//! in `matrix.rs` and `process.rs`.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/script.rs"]
mod script;

mod accept;
mod access;
mod bind;
/// The same tests on both drivers. Each module finds its driver by its own name.
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
mod layers;
mod link_local;
mod regression;
mod seqpacket;
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
