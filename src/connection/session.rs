//! Handlers with sessions: a value for each connection, for as long as the connection lives.
//!
//! A session is created at the first call of its connection's handler. While the connection is
//! parked, the session lies in a slot of its [`Context`](crate::net::Context).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::HandlerError;
use crate::handler::{IntoOutcome, Next, Outcome, RequestHandler};
use crate::net::Accepted;

/// Turns a [`RequestHandler`] into the closure that a server takes: `make` creates a value for each
/// connection.
///
/// The value moves from thread to thread with its connection, so its type must be `Send`. A closure
/// around the returned one is also called for the end of a session, when the connection has no more
/// input. A connection has one session at a time: a call of a handler with another type of session
/// fails.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use socketserver::net::TcpConnection;
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::{Next, Outcome, RequestHandler, per_request};
///
/// struct Greeter;
///
/// impl RequestHandler<TcpConnection> for Greeter {
///     fn handle(&mut self, conn: &mut TcpConnection) -> Outcome {
///         conn.write_all(b"hello\n")?;
///         Ok(Next::Close)
///     }
/// }
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(per_request(|| Greeter))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub fn per_request<R, H, F>(make: F) -> impl Fn(&mut R) -> Outcome + Send + Sync + 'static
where
    R: Accepted,
    H: RequestHandler<R> + Send + 'static,
    F: Fn() -> H + Send + Sync + 'static,
{
    move |request| {
        let set_up = |request: &mut R| {
            let mut handler = make();
            handler.setup(request)?;
            Ok(handler)
        };
        call(
            request,
            set_up,
            |handler, request| handler.handle(request),
            H::finish,
        )
    }
}

/// Gives each connection a state of its own: `make` creates it, and `handle` is called with it,
/// again after each [`Next::Park`].
///
/// The state is dropped when the connection ends. The documentation of [`per_request`] and
/// [`RequestHandler`] applies, without `setup` and `finish`. The closure has to name the type of
/// the connection.
///
/// # Examples
///
/// ```
/// use std::io::{self, BufRead, BufReader, Write};
/// use std::net::TcpStream;
/// use socketserver::net::TcpConnection;
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::{Connection, Next, per_connection};
///
/// let count = per_connection(u32::default, |conn: &mut TcpConnection, lines| {
///     if conn.read_line_max(&mut String::new(), 1024)? == 0 {
///         return Ok::<_, io::Error>(Next::Close);
///     }
///     *lines += 1;
///     writeln!(conn, "{lines}")?;
///     Ok(Next::Park)
/// });
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(count)?;
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
///
/// A state that is not `Send` is refused:
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// use socketserver::net::TcpConnection;
/// use socketserver::per_connection;
///
/// let handler = per_connection(Rc::<u32>::default, |_: &mut TcpConnection, _| ());
/// ```
pub fn per_connection<R, S, M, F, O>(
    make: M,
    handle: F,
) -> impl Fn(&mut R) -> Outcome + Send + Sync + 'static
where
    R: Accepted,
    S: Send + 'static,
    M: Fn() -> S + Send + Sync + 'static,
    F: Fn(&mut R, &mut S) -> O + Send + Sync + 'static,
    O: IntoOutcome,
{
    move |request| {
        let handle = |state: &mut S, request: &mut R| handle(request, state).into_outcome();
        call(request, |_| Ok(make()), handle, |_, _| Ok(()))
    }
}

/// One call of a handler with sessions of type `S`: the first call for a connection, a later one,
/// or the last one after the server has ended the connection.
fn call<R: Accepted, S: Send + 'static>(
    request: &mut R,
    make: impl FnOnce(&mut R) -> Result<S, HandlerError>,
    handle: impl FnOnce(&mut S, &mut R) -> Outcome,
    finish: impl FnOnce(&mut S, &mut R) -> Result<(), HandlerError>,
) -> Outcome {
    let slot = request.context().session();
    let over = slot.is_over();
    let mut session = match slot.take() {
        Some(kept) => kept
            .downcast::<S>()
            .map_err(|_| "the connection has the session of another handler")?,
        None if over => return Ok(Next::Close),
        None => Box::new(make(request)?),
    };
    // The panic resumes after `finish`, so only `finish` sees the state that it has left.
    let handled = catch_unwind(AssertUnwindSafe(|| match over {
        true => Ok(Next::Close),
        false => handle(&mut session, request),
    }));
    if let Ok(Ok(next @ (Next::Park | Next::ParkFor(_)))) = handled {
        request.context().session().keep(session);
        return Ok(next);
    }
    let finished = finish(&mut session, request);
    let outcome = handled.unwrap_or_else(|panic| resume_unwind(panic));
    finished.and(outcome)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::address::Address;
    use crate::registry::context::Context;

    struct Log(Vec<&'static str>, Context);

    impl Log {
        const fn new() -> Self {
            Self(Vec::new(), Context::detached())
        }
    }

    impl Accepted for Log {
        fn context(&self) -> &Context {
            &self.1
        }
        fn peer(&self) -> Address {
            Address::Named("test".to_owned())
        }
    }

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
        let mut log = Log::new();
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
        let mut log = Log::new();
        let handler = per_request(|| Steps {
            setup: Ok(()),
            handle: None,
            finish: Ok(()),
        });
        let panic = catch_unwind(AssertUnwindSafe(|| handler(&mut log)));
        assert!(panic.is_err());
        assert_eq!(log.0, ["setup", "handle", "finish"]);
    }

    /// Parks the first time, and panics the second.
    fn parking() -> Steps {
        Steps {
            setup: Ok(()),
            handle: Some(Ok(Next::Park)),
            finish: Err("f".into()),
        }
    }

    #[test]
    fn a_parked_session_goes_on() {
        let (mut log, handler) = (Log::new(), per_request(parking));
        assert_eq!(handler(&mut log).unwrap(), Next::Park);
        assert_eq!(log.0, ["setup", "handle"]);
        let panic = catch_unwind(AssertUnwindSafe(|| handler(&mut log)));
        assert!(panic.is_err());
        assert_eq!(log.0, ["setup", "handle", "handle", "finish"]);
    }

    #[test]
    fn a_session_whose_connection_is_over_finishes() {
        let (mut log, handler) = (Log::new(), per_request(parking));
        assert!(!log.1.session().end(), "the session does not exist yet");
        assert_eq!(handler(&mut log).unwrap(), Next::Park);
        assert!(log.1.session().end());
        assert_eq!(handler(&mut log).unwrap_err().to_string(), "f");
        assert_eq!(handler(&mut log).unwrap(), Next::Close, "finish runs once");
        assert_eq!(log.0, ["setup", "handle", "finish"]);
    }

    #[test]
    fn a_session_of_another_type_is_an_error() {
        let mut log = Log::new();
        assert_eq!(per_request(parking)(&mut log).unwrap(), Next::Park);
        let other = per_connection(u32::default, |_: &mut Log, _| ());
        let err = other(&mut log).unwrap_err().to_string();
        assert_eq!(err, "the connection has the session of another handler");
    }

    #[test]
    fn an_aborted_session_is_dropped_and_its_panic_stays_here() {
        struct Loud(Arc<()>);
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("as asked");
            }
        }
        let witness = Arc::new(());
        let mut log = Log::new();
        let copy = Arc::clone(&witness);
        let make = move || Loud(Arc::clone(&copy));
        let handler = per_connection(make, |_: &mut Log, loud: &mut Loud| {
            assert_eq!(Arc::strong_count(&loud.0), 3);
            Next::Park
        });
        assert_eq!(handler(&mut log).unwrap(), Next::Park);
        drop(log);
        assert_eq!(Arc::strong_count(&witness), 2);
    }
}
