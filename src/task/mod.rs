//! Futures, timeouts, scopes and sleeps for handlers.
//!
//! These functions work in every model, and outside of handlers: a wait suspends the coroutine that calls, or
//! blocks the thread where there is no coroutine. So the same handler runs in every model.
//!
//! | | |
//! |---|---|
//! | [`block_on`](block_on()) | waits for a future: a channel or a lock of another crate, or the first of several futures |
//! | [`scope`](scope()) | runs closures concurrently, and joins them |
//! | [`timeout`](timeout()) | sets a deadline for all waits of a closure |
//! | [`sleep`], [`yield_now`] | wait for a duration; let other coroutines or threads run |
//! | [`Descriptor`] | waits for a descriptor: a pipe, a timer, a process |
//! | [`offload`] | runs a call that blocks by other means without blocking a worker of coroutines |
//!
//! # Aborts
//!
//! The server aborts a connection at a deadline of the [`Builder`](crate::Builder), on
//! [`ServerHandle::abort`](crate::ServerHandle::abort), and at the drain deadline of a stop. An abort ends all waits of
//! the handler and of the closures that it has spawned, at once and from then on:
//! [`block_on`](block_on()) fails, and so do reads and writes, also of [dialed](crate::net::Dialed)
//! connections; [`sleep`] unwinds the handler. The handler should return then; its destructors cannot wait.
//! On a thread, an abort does not end a call of [`offload`].
//!
//! # Examples
//!
//! A spawned closure sends a greeting each second until the handler has read all input.
//!
//! ```
//! use std::io::{self, Read, Write};
//! use std::time::Duration;
//! use socketserver::{Connection, task};
//!
//! fn serve(conn: &mut impl Connection) -> io::Result<()> {
//!     let (mut input, mut output) = conn.halves()?;
//!     let (stop, stopped) = async_channel::bounded::<()>(1);
//!     task::scope(|scope| {
//!         let greets = scope.spawn(|| {
//!             let tick = || task::block_on(stopped.recv());
//!             while task::timeout(Duration::from_secs(1), tick).is_err_and(|err| err.kind() == io::ErrorKind::TimedOut) {
//!                 output.write_all(b"still there?\n")?;
//!             }
//!             Ok::<_, io::Error>(())
//!         })?;
//!         let mut text = String::new();
//!         let read = input.read_to_string(&mut text);
//!         stop.close();
//!         greets.join().expect("the closure does not panic").and(read.map(drop))
//!     })
//! }
//! ```

pub(crate) mod abort;
mod block_on;
#[cfg(feature = "coroutines")]
pub(crate) mod coro;
mod descriptor;
pub(crate) mod local;
mod scope;
mod signal;
mod thread;
pub(crate) mod threads;
pub(crate) mod timeout;
pub(crate) mod wait;
mod watched;

pub use block_on::block_on;
pub use descriptor::Descriptor;
pub use scope::{Scope, Spawned, scope};
pub use timeout::timeout;
pub use wait::{offload, sleep, yield_now};
