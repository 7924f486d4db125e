//! The form of Python's `http.server`: a type with a method for each method of HTTP.
//!
//! [`HttpRequestHandler`] has the shape of `BaseHTTPRequestHandler`, and [`ByMethod`] makes a
//! [`Handler`] of it. [`HttpServer`] and [`ThreadingHttpServer`] are the servers under Python's names.
//!
//! ```no_run
//! use socketserver_http::python::{Answer, ByMethod, HttpRequestHandler, ThreadingHttpServer};
//! use socketserver_http::{Http, IntoResponse, Request};
//!
//! struct Hello;
//!
//! impl HttpRequestHandler for Hello {
//!     fn do_get(&self, request: &mut Request<'_>) -> Answer {
//!         format!("hello {}\n", request.uri().path()).into_response()
//!     }
//! }
//!
//! let http = Http::handler(ByMethod::new(Hello)).access_log(std::io::stderr());
//! ThreadingHttpServer::bind("127.0.0.1:8000")?.serve_forever(http.serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [Coming from Python](crate::manual::from_python) lists each name of `http.server` beside its counterpart.

use http::{Method, Response, StatusCode};
use socketserver::{HandlerError, Server, Tcp, Threading};

use crate::{Content, Handler, IntoResponse, Request};

/// Serves HTTP over TCP, one request after the other.
///
/// # Examples
///
/// ```no_run
/// use socketserver_http::python::HttpServer;
/// use socketserver_http::{Request, serve};
///
/// HttpServer::bind("127.0.0.1:8000")?.serve_forever(serve(|_: &mut Request<'_>| "hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "HTTPServer")]
pub type HttpServer = Server<Tcp>;

/// Serves HTTP over TCP, each connection on a thread.
///
/// # Examples
///
/// ```no_run
/// use socketserver_http::python::ThreadingHttpServer;
/// use socketserver_http::{Request, serve};
///
/// ThreadingHttpServer::bind("127.0.0.1:8000")?.serve_forever(serve(|_: &mut Request<'_>| "hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "ThreadingHTTPServer")]
pub type ThreadingHttpServer = Server<Tcp, Threading>;

/// What the methods of an [`HttpRequestHandler`] return.
///
/// # Examples
///
/// ```
/// use socketserver_http::IntoResponse;
/// use socketserver_http::python::Answer;
///
/// fn hello() -> Answer {
///     "hello\n".into_response()
/// }
/// # drop(hello());
/// ```
pub type Answer = Result<Response<Content>, HandlerError>;

/// A type that answers each method of HTTP by a method of its own. [`ByMethod`] makes a [`Handler`] of it.
///
/// A method that is not overridden answers 501. `HEAD` is answered as `GET`, without the content.
///
/// One value serves all connections, so state that its methods change is behind a lock or atomic.
///
/// # Errors
///
/// Those of [`Handler::call`].
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::sync::{Mutex, PoisonError};
/// use socketserver::testing::TestServer;
/// use socketserver_http::python::{Answer, ByMethod, HttpRequestHandler, ThreadingHttpServer};
/// use socketserver_http::{Http, IntoResponse, Request};
///
/// /// Returns the text that was put last.
/// #[derive(Default)]
/// struct Board(Mutex<String>);
///
/// impl HttpRequestHandler for Board {
///     fn do_get(&self, _: &mut Request<'_>) -> Answer {
///         self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().into_response()
///     }
///
///     fn do_put(&self, request: &mut Request<'_>) -> Answer {
///         let text = io::read_to_string(request.body_mut())?;
///         *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
///         ().into_response()
///     }
/// }
///
/// let http = Http::handler(ByMethod::new(Board::default()));
/// let server = TestServer::spawn(ThreadingHttpServer::bind("127.0.0.1:0")?, http.serve());
/// # use std::io::{Read, Write};
/// let mut client = server.connect();
/// client.write_all(b"DELETE / HTTP/1.0\r\n\r\n").unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).unwrap();
/// assert!(answer.starts_with("HTTP/1.1 501 Not Implemented\r\n"));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "BaseHTTPRequestHandler")]
#[expect(
    clippy::missing_errors_doc,
    reason = "the documentation of the trait lists the errors of all its methods"
)]
pub trait HttpRequestHandler: Send + Sync + 'static {
    /// Answers `GET`.
    fn do_get(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers `HEAD`. The client receives the head of the response alone. Default: what
    /// [`do_get`](Self::do_get) answers.
    fn do_head(&self, request: &mut Request<'_>) -> Answer {
        self.do_get(request)
    }

    /// Answers `POST`.
    fn do_post(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers `PUT`.
    fn do_put(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers `DELETE`.
    fn do_delete(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers `PATCH`.
    fn do_patch(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers `OPTIONS`.
    fn do_options(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }

    /// Answers every other method, as `CONNECT`, `TRACE` and `PROPFIND`.
    fn do_other(&self, request: &mut Request<'_>) -> Answer {
        unsupported(request)
    }
}

fn unsupported(request: &Request<'_>) -> Answer {
    let text = format!("the method {} is not supported\n", request.method());
    (StatusCode::NOT_IMPLEMENTED, text).into_response()
}

/// A [`Handler`] that calls the method of an [`HttpRequestHandler`] that a request names.
///
/// # Examples
///
/// ```
/// use socketserver_http::Http;
/// use socketserver_http::python::{ByMethod, HttpRequestHandler};
///
/// struct Nothing;
///
/// impl HttpRequestHandler for Nothing {}
///
/// let http = Http::handler(ByMethod::new(Nothing));
/// # drop(http);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ByMethod<H>(H);

impl<H: HttpRequestHandler> ByMethod<H> {
    /// Makes a [`Handler`].
    pub const fn new(handler: H) -> Self {
        Self(handler)
    }
}

impl<H: HttpRequestHandler> Handler for ByMethod<H> {
    type Session = ();

    fn call(&self, (): &mut (), request: &mut Request<'_>) -> Answer {
        match *request.method() {
            Method::GET => self.0.do_get(request),
            Method::HEAD => self.0.do_head(request),
            Method::POST => self.0.do_post(request),
            Method::PUT => self.0.do_put(request),
            Method::DELETE => self.0.do_delete(request),
            Method::PATCH => self.0.do_patch(request),
            Method::OPTIONS => self.0.do_options(request),
            _ => self.0.do_other(request),
        }
    }
}
