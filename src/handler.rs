//! What is done with a request. Three forms, all of which end up as a closure: a closure, a
//! [`Handler`] type with state, a [`RequestHandler`] with setup, handle and finish for each
//! request.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::HandlerError;

/// What happens after a handler has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// The request is over: close it. What a handler that returns `()` means.
    #[default]
    Close,
    /// The connection goes on, and this handler is called again when the client has sent something.
    /// Until then it holds no thread and no stack. Its buffered input, its options and its number
    /// stay.
    ///
    /// A datagram is over all the same. Under [`Forking`](crate::Forking) the child waits, as it
    /// has nobody to leave the connection to.
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
/// Every `Fn(&mut R) -> impl IntoOutcome` is one. [`into_fn`](Self::into_fn) turns a handler into
/// the closure that the server takes.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use socketserver::{Connection, Handler, Next, Outcome, ThreadingTcpServer};
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
/// let guard = server.spawn(Counter::default().into_fn())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Handler<R>: Send + Sync + 'static {
    /// Serves one request.
    ///
    /// # Errors
    ///
    /// Why the request failed; the error hook is told, and the server goes on.
    fn handle(&self, request: &mut R) -> Outcome;

    /// The closure that the server takes.
    fn into_fn(self) -> impl Fn(&mut R) -> Outcome + Send + Sync + 'static
    where
        Self: Sized,
    {
        move |request| self.handle(request)
    }
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

/// A handler of which each request gets a value of its own, as in Python's `BaseRequestHandler`.
///
/// The order is Python's: `setup`, `handle`, `finish`. If `setup` fails, nothing else runs. Once it
/// has succeeded, `finish` runs in any case: after `handle` returned, failed or panicked. If both
/// fail, the error of `finish` is the one reported.
///
/// # Examples
///
/// ```
/// use std::io;
/// use socketserver::{Connection, Next, Outcome, RequestHandler, TcpServer, per_request};
///
/// #[derive(Default)]
/// struct Greeter { greeted: bool }
///
/// impl<C: Connection> RequestHandler<C> for Greeter {
///     fn handle(&mut self, conn: &mut C) -> Outcome {
///         conn.write_all(b"hello\n")?;
///         self.greeted = true;
///         Ok(Next::Close)
///     }
/// }
///
/// let guard = TcpServer::bind("127.0.0.1:0")?.spawn(per_request(Greeter::default))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait RequestHandler<R> {
    /// Prepares for the request. Default: nothing.
    ///
    /// # Errors
    ///
    /// Why the request failed.
    fn setup(&mut self, request: &mut R) -> Result<(), HandlerError> {
        let _ = request;
        Ok(())
    }

    /// Serves the request.
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

/// Turns a [`RequestHandler`] into the closure that the server takes: `make` makes one for each
/// request.
pub fn per_request<R, H, F>(make: F) -> impl Fn(&mut R) -> Outcome + Send + Sync + 'static
where
    H: RequestHandler<R>,
    F: Fn() -> H + Send + Sync + 'static,
{
    move |request| {
        let mut handler = make();
        handler.setup(request)?;
        // The panic goes on after `finish`, so nobody sees what it left of the handler or the
        // request but `finish`.
        let handled = catch_unwind(AssertUnwindSafe(|| handler.handle(request)));
        let finished = handler.finish(request);
        let outcome = handled.unwrap_or_else(|panic| resume_unwind(panic));
        finished.and(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Vec<&'static str>);

    struct Steps {
        setup: Result<(), HandlerError>,
        handle: Option<Outcome>,
        finish: Result<(), HandlerError>,
    }

    impl RequestHandler<Log> for Steps {
        fn setup(&mut self, log: &mut Log) -> Result<(), HandlerError> {
            log.0.push("setup");
            std::mem::replace(&mut self.setup, Ok(()))
        }
        fn handle(&mut self, log: &mut Log) -> Outcome {
            log.0.push("handle");
            self.handle.take().expect("panic as asked")
        }
        fn finish(&mut self, log: &mut Log) -> Result<(), HandlerError> {
            log.0.push("finish");
            std::mem::replace(&mut self.finish, Ok(()))
        }
    }

    #[track_caller]
    fn check(make: fn() -> Steps, order: &[&str], error: Option<&str>) {
        let mut log = Log::default();
        let outcome = per_request(make)(&mut log);
        assert_eq!(log.0, order);
        assert_eq!(outcome.err().map(|err| err.to_string()).as_deref(), error);
    }

    #[test]
    fn order_and_errors_are_those_of_python() {
        let all = ["setup", "handle", "finish"];
        check(
            || Steps {
                setup: Ok(()),
                handle: Some(Ok(Next::Close)),
                finish: Ok(()),
            },
            &all,
            None,
        );
        check(
            || Steps {
                setup: Err("s".into()),
                handle: None,
                finish: Ok(()),
            },
            &["setup"],
            Some("s"),
        );
        check(
            || Steps {
                setup: Ok(()),
                handle: Some(Err("h".into())),
                finish: Ok(()),
            },
            &all,
            Some("h"),
        );
        check(
            || Steps {
                setup: Ok(()),
                handle: Some(Err("h".into())),
                finish: Err("f".into()),
            },
            &all,
            Some("f"),
        );
    }

    #[test]
    fn finish_runs_when_handle_panics() {
        let mut log = Log::default();
        let handler = per_request(|| Steps {
            setup: Ok(()),
            handle: None,
            finish: Ok(()),
        });
        let panic = catch_unwind(AssertUnwindSafe(|| handler(&mut log)));
        assert!(panic.is_err());
        assert_eq!(log.0, ["setup", "handle", "finish"]);
    }
}
