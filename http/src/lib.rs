//! HTTP for blocking handlers: on every transport and under every model of [`socketserver`].
//!
//! A handler is a function from a request to a response. It reads the body of the request as it arrives, waits for
//! whatever it needs, and returns a string, bytes, a file, or a closure that writes.
//!
//! ```
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Request, serve};
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let guard = server.spawn(serve(|request: &mut Request<'_>| {
//!     format!("you asked for {}\n", request.uri().path())
//! }))?;
//! println!("http://{}/", guard.handle().local_addrs()[0]);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [`Http`] sets limits and time limits, and observes requests. [`Router`] finds the handler of a path and a method,
//! [`RequestExt`] reads parameters, forms and cookies, [`auth`] lets verified users through, and [`Files`] serves a directory.
//! The [manual] has pages on [web programs](manual::web), [files](manual::files) and [serving](manual::serving), and pages for
//! users of Python's [`http.server`](manual::from_python),
//! [`tiny_http`](manual::from_tiny_http) and [rouille](manual::from_rouille).
//!
//! # Connections
//!
//! A connection stays open for further requests, and a connection that waits for one holds no thread: it is
//! [parked](socketserver::Next::ParkFor), and so is one whose client sends its head in small pieces. When the server
//! stops, each response says `Connection: close`, and idle clients have the
//! [grace](socketserver::Builder::idle_grace).
//!
//! # Strictness
//!
//! A request that two servers could understand differently is refused with 400 and the end of the connection: a missing,
//! repeated or malformed `Host`, a repeated or malformed `Content-Length`, one beside a `Transfer-Encoding`, a
//! repeated `chunked`, a fragment or bytes beyond ASCII in the target, white space before a colon, folded fields,
//! lines that end without CR LF, control characters. Codings other than `chunked` are refused with 501. The host of an
//! absolute target replaces the `Host` field.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `compress` | `Files::compress`, files that are compressed while they are sent |
//! | `cookies` | `RequestExt::cookies`, and responses with a `CookieJar` |
//! | `coroutines` | the model of that name, in `socketserver` |
//! | `htpasswd` | `auth::Htpasswd`, files of hashed passwords |
//! | `json` | `RequestExt::json`, and responses that are `Json` |
//! | `multipart` | `RequestExt::multipart`, forms with files |
//! | `tls` | the transport of that name, in `socketserver` |

mod access;
pub mod auth;
mod body;
mod config;
#[cfg(feature = "cookies")]
mod cookies;
mod date;
mod error;
mod files;
mod form;
mod forwarded;
#[cfg(test)]
mod fuzz;
mod h1;
mod h2;
mod handler;
mod head;
#[cfg(feature = "json")]
mod json;
pub mod manual;
#[cfg(feature = "multipart")]
mod multipart;
pub mod python;
mod redirect;
mod request;
mod response;
mod router;
mod session;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::access::Network;
use socketserver::net::{Address, Managed};
use socketserver::{Connection, HandlerError, Next, Outcome, RequestHandler, per_request};

pub use access::Access;
pub use body::Body;
/// The crate of the types of cookies.
#[cfg(feature = "cookies")]
#[doc(no_inline)]
pub use cookie;
pub use error::HttpError;
pub use files::Files;
pub use form::Form;
pub use handler::Handler;
/// The crate of the types of requests and responses.
#[doc(no_inline)]
pub use http;
#[cfg(feature = "json")]
pub use json::Json;
#[cfg(feature = "multipart")]
pub use multipart::{Field, Multipart};
pub use redirect::redirect_to_https;
pub use request::RequestExt;
pub use response::{BodyWriter, Content, IntoResponse};
pub use router::Router;

use crate::h2::H2;
use crate::h2::shares::Shares;
use access::{Ended, Observers};
use config::Limits;
use forwarded::{Origin, Trust};
use session::Session;

/// A request: method, target, version and fields of the `http` crate, and a [`Body`] to read.
///
/// # Examples
///
/// ```
/// use http::Method;
/// use socketserver_http::Request;
///
/// fn describe(request: &mut Request<'_>) -> String {
///     let agent = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok());
///     format!("{} {} by {}\n", request.method(), request.uri(), agent.unwrap_or("an unknown client"))
/// }
/// # let _ = (Method::GET, socketserver_http::Http::new(describe));
/// ```
pub type Request<'a> = http::Request<Body<'a>>;

/// Serves HTTP with the default limits: the handler of a [`Server`](socketserver::Server), made of a function that
/// answers requests. [`Http`] has options.
///
/// # Examples
///
/// ```
/// use socketserver::{Server, ThreadPool, UnixStream};
/// use socketserver_http::{Request, serve};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("http.sock");
///
/// let server = Server::<UnixStream>::builder().model(ThreadPool::new(8)).bind(path)?;
/// let guard = server.spawn(serve(|_: &mut Request<'_>| "hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub fn serve<C, F, R>(handler: F) -> impl Fn(&mut C) -> Outcome + Send + Sync + 'static
where
    C: Connection + Managed,
    F: Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    Http::new(handler).serve()
}

/// A handler of requests, with limits, time limits and observers.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use socketserver::{Server, Tcp, Threading};
/// use socketserver_http::{Http, Request};
///
/// let http = Http::new(|_: &mut Request<'_>| "hello\n")
///     .body_bytes(64 * 1024 * 1024)
///     .idle_timeout(Duration::from_secs(15))
///     .access_log(std::io::stderr());
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(http.serve())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Http<H> {
    handler: H,
    limits: Limits,
    observers: Observers,
    trust: Option<Trust>,
    shares: Shares,
}

impl<F, R> Http<F>
where
    F: Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    /// Serves with a function.
    pub fn new(handler: F) -> Self {
        Self::handler(handler)
    }
}

impl<H: Handler> Http<H> {
    /// Serves with a value that implements [`Handler`].
    pub fn handler(handler: H) -> Self {
        Self {
            handler,
            limits: Limits::default(),
            observers: Observers::default(),
            trust: None,
            shares: Shares::default(),
        }
    }

    /// Returns the handler of a [`Server`](socketserver::Server).
    pub fn serve<C>(self) -> impl Fn(&mut C) -> Outcome + Send + Sync + 'static
    where
        C: Connection + Managed,
    {
        let http = Arc::new(self);
        per_request(move || Served {
            http: Arc::clone(&http),
            session: Session::default(),
        })
    }

    /// Sets how many bytes the head of a request may have: the request line and all fields. Beyond it: 431.
    /// Default: 16 KiB.
    pub const fn head_bytes(mut self, bytes: usize) -> Self {
        self.limits.head_bytes = bytes;
        self
    }

    /// Sets how many fields a request may have, at most 128. Beyond it: 431. Default: 100.
    pub const fn headers(mut self, count: usize) -> Self {
        self.limits.headers = count;
        self
    }

    /// Sets how many bytes the target of a request may have. Beyond it: 414. Default: 8 KiB.
    pub const fn target_bytes(mut self, bytes: usize) -> Self {
        self.limits.target_bytes = bytes;
        self
    }

    /// Sets how many bytes the body of a request may have. Reads beyond it fail, and the client receives 413.
    /// A handler can [set another limit](Body::set_limit) for a request. Default: 2 MiB.
    pub const fn body_bytes(mut self, bytes: u64) -> Self {
        self.limits.body_bytes = bytes;
        self
    }

    /// Sets how many requests a connection may have; the last response says `Connection: close`.
    /// Default: 10,000.
    pub const fn requests(mut self, count: u32) -> Self {
        self.limits.requests = count;
        self
    }

    /// Sets how many requests of a connection of HTTP/2 may run at once. Each has a thread, or a coroutine; requests
    /// that find none are refused so that the client can try again (`REFUSED_STREAM`). Default: 100.
    ///
    /// A client, which is an IPv4 address or an IPv6 network of 64 bits, runs no more requests than there is
    /// [room](socketserver::task::Scope::room) for beside them: alone, with all of its connections, half of those that
    /// the process can run.
    pub const fn streams(mut self, count: u32) -> Self {
        self.limits.streams = count;
        self
    }

    /// Sets how long the head of a request may take from its first byte. Beyond it: 408. Default: 10 s.
    pub const fn head_timeout(mut self, timeout: Duration) -> Self {
        self.limits.head_timeout = timeout;
        self
    }

    /// Sets how long a connection may wait for a request, also for the first one. Then it is closed. Default: 60 s.
    ///
    /// The server's own [first-byte timeout](socketserver::Builder::first_byte_timeout), 10 s by default, and
    /// [idle timeout](socketserver::Builder::idle_timeout), 60 s, apply as well.
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Sets how long a read of the body may wait for the client. Beyond it: 408. Default: 30 s.
    ///
    /// A response of HTTP/2 may wait as long for a client that takes nothing. Beyond it, the stream is reset.
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits.body_timeout = timeout;
        self
    }

    /// Sets how long a request may take from the end of its head until its body has been read. Beyond it, reads of
    /// the body fail, and the client receives 408. Default: no limit.
    pub const fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.limits.request_timeout = timeout;
        self
    }

    /// Takes the addresses of clients from the field `Forwarded` (RFC 7239), which `proxies` set: the last one that is
    /// not of a proxy. Peers over Unix sockets are proxies too. Replaces [`trust_x_forwarded_for`](Self::trust_x_forwarded_for).
    /// The same element has the [scheme](Body::scheme) by which the client has come to the proxy. Default: the client is
    /// the peer, and the scheme is not known.
    ///
    /// A proxy must set this field itself: one that sets another hands on what a client writes into this.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver_http::{Http, Request};
    ///
    /// let http = Http::new(|request: &mut Request<'_>| format!("you are {:?}\n", request.body().client()))
    ///     .trust_forwarded(["10.0.0.0/8".parse()?]);
    /// # drop(http);
    /// # Ok::<(), socketserver::access::NetworkError>(())
    /// ```
    pub fn trust_forwarded(mut self, proxies: impl IntoIterator<Item = Network>) -> Self {
        self.trust = Some(Trust::forwarded(proxies));
        self
    }

    /// Takes the addresses of clients from the field `X-Forwarded-For`, as [`trust_forwarded`](Self::trust_forwarded)
    /// does from `Forwarded`, and in its place. The last value of `X-Forwarded-Proto` is the [scheme](Body::scheme), so a
    /// proxy must set that field too where a program asks for it.
    pub fn trust_x_forwarded_for(mut self, proxies: impl IntoIterator<Item = Network>) -> Self {
        self.trust = Some(Trust::x_forwarded_for(proxies));
        self
    }

    /// Adds an observer of requests. It is called after each response, on the thread of the handler.
    pub fn on_access(mut self, observer: impl Fn(&Access<'_>) + Send + Sync + 'static) -> Self {
        self.observers.add(Box::new(observer));
        self
    }

    /// Writes each request as a line in the combined format to `out`, in one write. Give it something that does not
    /// block for long: requests wait for it.
    pub fn access_log(mut self, out: impl Write + Send + 'static) -> Self {
        self.observers.add(access::log_to(out));
        self
    }

    /// Where a request has come from.
    fn origin(&self, peer: &Address, headers: &http::HeaderMap) -> Origin {
        match &self.trust {
            Some(trust) => trust.origin(peer, headers),
            None => Origin {
                client: peer.ip(),
                scheme: None,
            },
        }
    }

    fn clock(&self) -> Option<Instant> {
        self.observers.clock()
    }

    fn emit<'a>(&self, clock: Option<Instant>, ended: impl FnOnce() -> Ended<'a>) {
        self.observers.emit(clock, ended);
    }
}

/// The handler of one connection.
struct Served<H: Handler> {
    http: Arc<Http<H>>,
    session: Session<H::Session>,
}

impl<H: Handler, C: Connection + Managed> RequestHandler<C> for Served<H> {
    fn handle(&mut self, conn: &mut C) -> Outcome {
        let Self { http, session } = self;
        if session.h2.is_none() {
            if let Some(next) = h1::serve(http, conn, session)? {
                return Ok(next);
            }
            session.h2 = Some(Box::new(H2::new(&http.limits)));
        }
        let Some(mut h2) = session.h2.take() else {
            return Ok(Next::Close);
        };
        let next = h2::serve(http, conn, session, &mut h2);
        session.h2 = Some(h2);
        next
    }

    fn finish(&mut self, conn: &mut C) -> Result<(), HandlerError> {
        if let Some(h2) = &mut self.session.h2 {
            h2::farewell(conn, h2);
        }
        Ok(())
    }
}

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
