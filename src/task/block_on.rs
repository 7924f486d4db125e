//! `block_on`: waiting for a future in a handler.

use std::future::IntoFuture;
use std::io;
use std::pin::pin;

use crate::task::wait::until;

/// Waits until a future is ready, and returns its output.
///
/// It suspends the coroutine that calls, or blocks the thread where there is no coroutine. So the channels and
/// locks of other crates work in every model, between handlers, and between a handler and any other thread:
/// `async-channel`, `async-lock`, `event-listener`, `futures::channel`, `tokio::sync`. To wait for several
/// futures, combine them: a select (`futures_lite::future::or`), a join, a stream. A future that needs the
/// reactor or the timers of a runtime (`tokio::net`, `tokio::time`) must be spawned on that runtime; `block_on`
/// then waits for its handle.
///
/// # Behaviour
///
/// The caller polls the future once, and again after each call of its waker. The waker works from any thread
/// and at any time; after `block_on` has returned, a call of it has no effect. A future that wakes itself
/// lets the other coroutines of its worker run. A poll that blocks by other means, such as a lock of `std`,
/// blocks the worker.
///
/// Calls nest: a poll may call `block_on`, which waits for the inner future alone. A panic of a poll propagates
/// to the caller. The future is always dropped before `block_on` returns or unwinds.
///
/// # Errors
///
/// - `TimedOut`: the deadline of a [`timeout`](super::timeout()) around the call has passed.
/// - `ConnectionAborted`: the connection of the handler was aborted (at a deadline of the
///   [`Builder`](crate::Builder), by [`ServerHandle::abort`](crate::ServerHandle::abort), or at the drain deadline
///   of a stop). The error's text is the reason.
/// - `ConnectionAborted`: a panic unwinds, so the coroutine cannot be suspended.
///
/// A future that is ready at its first poll never fails. Outside of handlers there are no aborts.
///
/// # Examples
///
/// Each handler waits up to five seconds for a job from a channel.
///
/// ```
/// use std::io::{self, Write};
/// use std::time::Duration;
/// use socketserver::net::TcpConnection;
/// use socketserver::{Server, Tcp, Threading, task};
///
/// let (jobs, queue) = async_channel::bounded::<String>(16);
/// let guard = Server::<Tcp>::builder().model(Threading::default()).bind("127.0.0.1:0")?.spawn(move |conn: &mut TcpConnection| {
///     match task::timeout(Duration::from_secs(5), || task::block_on(queue.recv())) {
///         Ok(Ok(job)) => writeln!(conn, "do {job}"),
///         Ok(Err(_closed)) => writeln!(conn, "no more jobs"),
///         Err(err) if err.kind() == io::ErrorKind::TimedOut => writeln!(conn, "no job yet"),
///         Err(err) => Err(err),
///     }
/// })?;
/// // From this thread, or from another handler:
/// task::block_on(jobs.send("the dishes".to_owned()))??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Waits for a job or for a stop, whichever comes first:
///
/// ```
/// use futures_lite::future;
/// use socketserver::task;
///
/// # fn wait(stop: &async_channel::Receiver<()>, work: &async_channel::Receiver<u32>) -> std::io::Result<()> {
/// let next = future::or(async { stop.recv().await.ok().and(None) }, async { work.recv().await.ok() });
/// let job: Option<u32> = task::block_on(next)?;
/// # drop(job);
/// # Ok(())
/// # }
/// ```
pub fn block_on<F: IntoFuture>(future: F) -> io::Result<F::Output> {
    let mut future = pin!(future.into_future());
    until(|context| future.as_mut().poll(context))
}
