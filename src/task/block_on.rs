//! Futures in handlers.

use std::future::IntoFuture;
use std::io;
use std::pin::pin;

use crate::task::wait::until;

/// Waits for a future that needs no runtime of its own: in a coroutine it suspends the coroutine, on a
/// thread it blocks the thread.
///
/// So the channels and locks of others serve in every model, between handlers, and between a handler and
/// any other thread: `async-channel`, `async-lock`, `event-listener`, `futures::channel`, `tokio::sync`.
/// What waits for several things is a future too: a select (`futures_lite::future::or`), a join, a stream. A
/// future that needs the reactor or the timers of a runtime (`tokio::net`, `tokio::time`) is to run there,
/// and its handle is waited for here.
///
/// # Behaviour
///
/// The future is polled here, and once more each time its waker has been called. The waker works from any
/// thread and at any time, also when this has returned and the coroutine is gone: then it does nothing.
/// A future that wakes itself lets the other coroutines of its worker run. One that blocks in another way
/// within its poll blocks the worker; so does a lock of `std`.
///
/// Calls nest: a poll may call `block_on`, which waits for the inner future alone. A panic of a poll goes
/// on in the caller. In any case, the future is dropped before this returns.
///
/// # Errors
///
/// The future is dropped where it is, and that is no panic:
///
/// - `TimedOut` at the deadline of a [`timeout`](super::timeout()) around the call;
/// - `ConnectionAborted` when the connection of the handler is aborted (by a deadline of the
///   [`Builder`](crate::Builder), by [`ServerHandle::abort`](crate::ServerHandle::abort), or because the drain deadline of a stop
///   has come), with the reason as its text; and in a coroutine that would have to be suspended while a
///   panic unwinds.
///
/// A future that is ready is never an error. Outside of handlers nothing is aborted.
///
/// # Examples
///
/// Handlers that wait for what others do, each for five seconds at most.
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
///         Ok(Err(_closed)) => writeln!(conn, "nothing will come"),
///         Err(err) if err.kind() == io::ErrorKind::TimedOut => writeln!(conn, "ask again"),
///         Err(err) => Err(err),
///     }
/// })?;
/// // From this thread, or from another handler:
/// task::block_on(jobs.send("the dishes".to_owned()))??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// One of two things, whichever comes first:
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
