//! Shared by the test binaries: tables of conversations, the handler that they are played with, frames of HTTP/2.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part"
)]

#[path = "../../../tests/support/arguments.rs"]
mod arguments;
pub(crate) mod frames;
pub(crate) mod handler;
pub(crate) mod rows;

use std::time::Duration;

pub(crate) use arguments::arguments;

/// What a test waits for comes long before.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
