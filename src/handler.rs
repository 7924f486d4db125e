//! Handlers, in three forms: a closure, a [`Handler`] type with state, and a [`RequestHandler`]
//! with setup, handle and finish for each connection. The server calls each through a closure.

use std::time::Duration;

use crate::error::HandlerError;

/// What happens to a connection after its handler has returned.
///
/// # Examples
///
/// A handler that answers a line, and parks the connection until the next one:
///
/// ```
/// use std::io;
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::{Connection, Next};
///
/// fn answer(conn: &mut impl Connection) -> io::Result<Next> {
///     let mut line = String::new();
///     if conn.read_line_max(&mut line, 1024)? == 0 {
///         return Ok(Next::Close);
///     }
///     conn.write_all(line.as_bytes())?;
///     Ok(Next::Park)
/// }
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|conn| answer(conn))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// The server closes the connection. A handler that returns `()` means this.
    #[default]
    Close,
    /// The server parks the connection: the handler is called again when the client has sent
    /// something, or has ended its stream.
    ///
    /// A parked connection holds no thread and no stack. It keeps its buffered input, its options,
    /// its number, and its session (the value of [`per_connection`](crate::per_connection) or
    /// [`per_request`](crate::per_request)); [`RequestHandler`] has a table of how a session ends.
    /// Under [`Forking`](crate::Forking) the child process waits with its connection.
    ///
    /// `Park` means `Close` in these cases:
    ///
    /// - for a datagram;
    /// - in [`Server::handle_request`](crate::Server::handle_request);
    /// - when the stop of the server began before this call of the handler, and the client has sent
    ///   nothing more;
    /// - when the [idle grace](crate::Builder::idle_grace) of a stop is over, and the client has
    ///   sent nothing more.
    Park,
    /// The server parks the connection as [`Park`](Self::Park) says, and calls the handler again after this
    /// duration if the client has sent nothing meanwhile: for a protocol with a time limit or a ping of its own.
    ///
    /// The call is up to 10 ms late, and later where no thread is free. The handler checks its own clock, because
    /// it may have been called for input just before. A duration of more than 24 days counts as 24 days.
    ParkFor(Duration),
    /// The server closes the connection and stops, as
    /// [`ServerHandle::shutdown`](crate::ServerHandle::shutdown) does, in every model and also from
    /// a forked child. (Python's `SystemExit`, as a value.)
    Stop,
}

/// The result of a handler: what happens next, or why the handler failed. The server goes on in
/// either case.
///
/// # Examples
///
/// ```
/// use socketserver::{Connection, Next, Outcome};
///
/// fn greet<C: Connection>(conn: &mut C) -> Outcome {
///     conn.write_all(b"hello\n")?;
///     Ok(Next::Close)
/// }
/// ```
pub type Outcome = Result<Next, HandlerError>;

/// A return value of a handler: `()`, [`Next`], or a `Result` of one of them with any error.
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
    /// Converts the value into an [`Outcome`].
    ///
    /// # Errors
    ///
    /// - The error of the handler.
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

/// A handler type, with state that all its connections share.
///
/// Every `Fn(&mut R) -> impl IntoOutcome` is a handler.
/// [`Server::serve_handler`](crate::Server::serve_handler) and
/// [`Server::spawn_handler`](crate::Server::spawn_handler) take one.
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
    /// Serves one connection or datagram.
    ///
    /// # Errors
    ///
    /// - Any error ends this connection only; the [`on_error`](crate::Builder::on_error) hook
    ///   receives it.
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

/// A handler with a value for each connection, as in Python's `BaseRequestHandler`.
///
/// [`per_request`](crate::per_request) makes the closure that a server takes. A datagram has a
/// value of its own.
///
/// The order is Python's: `setup` once, `handle`, `finish` once. If `setup` fails or panics,
/// nothing else runs. When `handle` returns [`Next::Park`], it is called again on the same value
/// once the client has sent something. If `handle` and `finish` both fail, the error of `finish` is
/// reported.
///
/// # The end of a session
///
/// The value is the session of its connection, and is dropped when the connection ends. The cause
/// of the end decides what runs before:
///
/// | the connection ends because | calls before the drop |
/// |---|---|
/// | `handle` returns [`Close`](Next::Close) or [`Stop`](Next::Stop), fails or panics | `finish` |
/// | `handle` returns [`Park`](Next::Park) where that means `Close` | `finish` |
/// | `handle` returns `Park`, and parking fails | `finish`; the connection has failed |
/// | the client ends the stream, or resets it, while the connection is parked | `handle`, which reads that, and then `finish` |
/// | the [idle grace](crate::Builder::idle_grace) of a stop ends while the connection is parked | `finish` |
/// | the server aborts the parked connection: a deadline, room for another, [`ServerHandle::abort`](crate::ServerHandle::abort), the drain deadline | none |
/// | the server aborts the connection while `handle` runs; its reads and writes then fail | `finish`, after `handle` has returned |
///
/// `finish` runs where `handle` does: on a thread, in a child process, or in a coroutine of the
/// model; a stop waits for it. After the abort of a parked connection, the thread that ends the
/// connection drops the value. So work that must always be done belongs in the destructor. A
/// process that is killed drops nothing; a child of [`Forking`](crate::Forking) may be killed at
/// the drain deadline.
///
/// # Examples
///
/// A counter of lines; a silent client holds no thread.
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
    /// Prepares the value for its connection. Default: nothing.
    ///
    /// # Errors
    ///
    /// - Any error ends the connection; neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut R) -> Result<(), HandlerError> {
        let _ = request;
        Ok(())
    }

    /// Serves the connection: the first call after `setup`, a later one after each [`Next::Park`].
    ///
    /// # Errors
    ///
    /// - Any error ends the connection, after `finish`.
    fn handle(&mut self, request: &mut R) -> Outcome;

    /// Cleans up after the last `handle`. Default: nothing.
    ///
    /// # Errors
    ///
    /// - Any error is reported in place of an error of `handle`.
    fn finish(&mut self, request: &mut R) -> Result<(), HandlerError> {
        let _ = request;
        Ok(())
    }
}
