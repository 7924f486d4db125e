//! What is done with a request. Three forms, all of which end up as a closure: a closure, a
//! [`Handler`] type with state, a [`RequestHandler`] with setup, handle and finish for each
//! connection.

use crate::error::HandlerError;

/// What happens after a handler has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// The request is over: close it. What a handler that returns `()` means.
    #[default]
    Close,
    /// The connection goes on, and this handler is called again when the client has sent something,
    /// or has ended the stream. Until then it holds no thread and no stack. Its buffered input, its
    /// options, its number and its session stay: what [`per_connection`](crate::per_connection) or [`per_request`](crate::per_request) has made
    /// for it, which [`RequestHandler`] says the end of.
    ///
    /// It means `Close` when the server stops, for a datagram, and in
    /// [`Server::handle_request`](crate::Server::handle_request). Under [`Forking`](crate::Forking)
    /// the child waits, as it has nobody to leave the connection to.
    Park,
    /// The request is over, and so is the server: close it and stop serving, as
    /// `ServerHandle::shutdown` does. In every model, also from a forked child. (Python's
    /// `SystemExit`, as a value.)
    Stop,
}

/// What a handler comes to: what happens next, or why this request failed. The server goes on in
/// either case.
pub type Outcome = Result<Next, HandlerError>;

/// A handler's return value: `()`, [`Next`], or a `Result` of one of them with any error.
///
/// # Examples
///
/// ```
/// use socketserver::{IntoOutcome, Next};
///
/// assert_eq!(().into_outcome().unwrap(), Next::Close);
/// assert_eq!(Ok::<Next, std::io::Error>(Next::Stop).into_outcome().unwrap(), Next::Stop);
/// assert!(Err::<(), &str>("no such key").into_outcome().is_err());
/// ```
pub trait IntoOutcome {
    /// Converts it.
    ///
    /// # Errors
    ///
    /// The handler's own error.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(Next::Close)
    }
}

impl IntoOutcome for Next {
    fn into_outcome(self) -> Outcome {
        Ok(self)
    }
}

impl<T: Into<Next>, E: Into<HandlerError>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        self.map(Into::into).map_err(Into::into)
    }
}

impl From<()> for Next {
    fn from((): ()) -> Self {
        Self::Close
    }
}

/// A handler that is a type of its own, with the state that its requests share.
///
/// Every `Fn(&mut R) -> impl IntoOutcome` is one. A server serves with it through
/// [`Server::serve_handler`](crate::Server::serve_handler) or
/// [`Server::spawn_handler`](crate::Server::spawn_handler).
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::{Connection, Handler, Next, Outcome};
///
/// #[derive(Default)]
/// struct Counter(AtomicU64);
///
/// impl<C: Connection> Handler<C> for Counter {
///     fn handle(&self, conn: &mut C) -> Outcome {
///         let visit = self.0.fetch_add(1, Ordering::Relaxed) + 1;
///         writeln!(conn, "you are visitor {visit}")?;
///         Ok(Next::Close)
///     }
/// }
///
/// let server = ThreadingTcpServer::bind("127.0.0.1:0")?;
/// let guard = server.spawn_handler(Counter::default())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Handler<R>: Send + Sync + 'static {
    /// Serves one request.
    ///
    /// # Errors
    ///
    /// Why the request failed; the error hook is told, and the server goes on.
    fn handle(&self, request: &mut R) -> Outcome;
}

impl<R, F, O> Handler<R> for F
where
    F: Fn(&mut R) -> O + Send + Sync + 'static,
    O: IntoOutcome,
{
    fn handle(&self, request: &mut R) -> Outcome {
        self(request).into_outcome()
    }
}

/// A handler of which each connection gets a value of its own, as in Python's `BaseRequestHandler`;
/// a datagram is its own connection.
///
/// The order is Python's: `setup` once, `handle`, `finish` once. If `setup` fails or panics, nothing
/// else runs. A `handle` that returns [`Next::Park`] is called again when the client has spoken, on
/// the same value. If `handle` and `finish` both fail, the error of `finish` is the one reported.
///
/// # The end of a session
///
/// The value is dropped when its connection ends. What runs before that is decided by how it ends:
///
/// | the end | what is called |
/// |---|---|
/// | `handle` returns [`Close`](Next::Close) or [`Stop`](Next::Stop), fails or panics | `finish` |
/// | `handle` returns `Park`, and the server stops, or has no way to park this request | `finish` |
/// | `handle` returns `Park`, and parking fails | `finish`; the request has failed |
/// | the client ends the stream, or resets it, while it is parked | `handle`, which reads that, and then `finish` |
/// | the server stops while it is parked | `finish` |
/// | the server aborts it while it is parked: a deadline, room for others, [`ServerHandle::abort`](crate::ServerHandle::abort), the drain deadline | nothing |
/// | the server aborts it while `handle` runs, whose reads and writes then fail | `finish`, when `handle` has returned |
///
/// `finish` runs where `handle` would: on a thread, in a child, or in a coroutine of the model, which
/// a stop waits for. After an abort there is no such place, and the value is dropped on whatever
/// thread ends the connection: what has to happen in any case belongs into its destructor. A process
/// that is killed, as a child of [`Forking`](crate::Forking) may be at the drain deadline, drops
/// nothing.
///
/// # Examples
///
/// A counter of lines. A client that is silent holds no thread.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use std::net::TcpStream;
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::{Connection, HandlerError, Next, Outcome, RequestHandler, per_request};
///
/// #[derive(Default)]
/// struct Counter { lines: u32 }
///
/// impl<C: Connection> RequestHandler<C> for Counter {
///     fn handle(&mut self, conn: &mut C) -> Outcome {
///         if conn.read_line_max(&mut String::new(), 1024)? == 0 {
///             return Ok(Next::Close);
///         }
///         self.lines += 1;
///         writeln!(conn, "{}", self.lines)?;
///         Ok(Next::Park)
///     }
///
///     fn finish(&mut self, _: &mut C) -> Result<(), HandlerError> {
///         println!("{} lines", self.lines);
///         Ok(())
///     }
/// }
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(per_request(Counter::default))?;
/// let addr = guard.handle().local_addrs()[0].socket_addr().unwrap();
/// let mut client = BufReader::new(TcpStream::connect(addr).unwrap());
/// for count in ["1\n", "2\n"] {
///     client.get_mut().write_all(b"a line\n").unwrap();
///     let mut answer = String::new();
///     client.read_line(&mut answer).unwrap();
///     assert_eq!(answer, count);
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait RequestHandler<R> {
    /// Prepares for the connection. Default: nothing.
    ///
    /// # Errors
    ///
    /// Why the request failed.
    fn setup(&mut self, request: &mut R) -> Result<(), HandlerError> {
        let _ = request;
        Ok(())
    }

    /// Serves the connection, or what has come of it since it was parked.
    ///
    /// # Errors
    ///
    /// Why the request failed.
    fn handle(&mut self, request: &mut R) -> Outcome;

    /// Cleans up. Default: nothing.
    ///
    /// # Errors
    ///
    /// Why the request failed; takes the place of an error of `handle`.
    fn finish(&mut self, request: &mut R) -> Result<(), HandlerError> {
        let _ = request;
        Ok(())
    }
}
