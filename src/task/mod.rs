//! What handlers wait for beside their connection, and what they run side by side.
//!
//! All of it works in every model, and outside of handlers too, so that a handler does not know where it
//! runs: in a coroutine what waits is suspended, elsewhere the thread blocks.
//!
//! | | |
//! |---|---|
//! | [`block_on`](block_on()) | waits for a future: for the channels and the locks of others, for the first of several things |
//! | [`scope`](scope()) | runs closures side by side, and joins them |
//! | [`timeout`](timeout()) | gives a deadline to all that some code waits for |
//! | [`sleep`], [`yield_now`] | wait for the time, and let others run |
//! | [`offload`] | keeps a call that blocks in another way from blocking a worker of coroutines |
//!
//! # Aborts
//!
//! When the connection of a handler is aborted, because a deadline of the [`Builder`](crate::Builder) has
//! passed, because [somebody asks](crate::ServerHandle::abort), or because the drain deadline of a stop has come, all
//! that the handler waits for ends, in what it has spawned too: [`block_on`](block_on()), and reads and writes, also of
//! [dialed](crate::net::Dialed) connections, fail with an error, and [`sleep`] unwinds. So does what it waits
//! for later. The handler is to return then; its destructors can wait for nothing more. Where no coroutine
//! runs, what is offloaded is not ended.
//!
//! # Examples
//!
//! Greetings are sent while lines are read, and whichever ends first ends the other one.
//!
//! ```
//! use std::io::{self, Read, Write};
//! use std::net::TcpListener;
//! use std::time::Duration;
//! use socketserver::task;
//!
//! # fn main() -> io::Result<()> {
//! # let listener = TcpListener::bind("127.0.0.1:0")?;
//! # let client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! # client.shutdown(std::net::Shutdown::Write)?;
//! let (conn, _) = listener.accept()?;
//! let (stop, stopped) = async_channel::bounded::<()>(1);
//! task::scope(|scope| {
//!     let greets = scope.spawn(|| {
//!         let tick = || task::block_on(stopped.recv());
//!         while task::timeout(Duration::from_secs(1), tick).is_err_and(|err| err.kind() == io::ErrorKind::TimedOut) {
//!             (&conn).write_all(b"still there?\n")?;
//!         }
//!         Ok::<_, io::Error>(())
//!     })?;
//!     let mut said = String::new();
//!     let read = (&conn).read_to_string(&mut said);
//!     stop.close();
//!     greets.join().expect("it does not panic").and(read)
//! })?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod abort;
mod block_on;
#[cfg(feature = "coroutines")]
pub(crate) mod coro;
pub(crate) mod local;
mod scope;
mod signal;
mod thread;
pub(crate) mod threads;
mod timeout;
pub(crate) mod wait;
mod watched;

pub use block_on::block_on;
pub use scope::{Scope, Spawned, scope};
pub use timeout::timeout;
pub use wait::{offload, sleep, yield_now};
