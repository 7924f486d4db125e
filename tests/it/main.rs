//! What can be tested within one process. One file for each concern; forking models and
//! process-wide limits are in `matrix.rs` and `process.rs`.

#[path = "../support/mod.rs"]
mod support;

mod accept;
mod bind;
#[cfg(feature = "coroutines")]
mod coroutines;
mod datagrams;
mod handle_request;
mod regression;
mod shutdown;
mod streams;
mod unix_files;
