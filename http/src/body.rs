//! The body of a request, which a handler reads while it arrives.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::Scheme;
use socketserver::net::Address;

use crate::config::Limits;
use crate::forwarded::Origin;

/// Where a body comes from: a connection of HTTP/1, or a stream of HTTP/2.
pub(crate) trait Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    fn size(&self) -> Option<u64>;
    fn set_limit(&mut self, bytes: u64);
    fn trailers(&self) -> &HeaderMap;
    fn id(&self) -> u64;
    fn peer(&self) -> Address;
    fn stopping(&self) -> bool;
    fn peer_gone(&mut self) -> bool;
}

/// The status that a failed read of a body leads to.
pub(crate) fn status_of(err: &io::Error) -> StatusCode {
    match err.kind() {
        io::ErrorKind::FileTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        io::ErrorKind::TimedOut => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// What a body may take, and how much it has taken: the same for both versions of HTTP.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// The bytes that were read.
    pub(crate) received: u64,
    pub(crate) limit: u64,
    /// The status that a failed read has led to.
    pub(crate) failed: Option<StatusCode>,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Bounds {
    /// The bounds of a request that begins now.
    pub(crate) fn new(limits: &Limits) -> Self {
        let deadline = limits.request_timeout;
        Self {
            received: 0,
            limit: limits.body_bytes,
            failed: None,
            timeout: limits.body_timeout,
            deadline: deadline.and_then(|limit| Instant::now().checked_add(limit)),
        }
    }

    /// Fails after an earlier read has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.failed {
            Some(status) => Err(io::Error::other(format!("the body has failed: {status}"))),
            None => Ok(()),
        }
    }

    /// Fails if `count` further bytes are beyond the limit.
    pub(crate) fn check_room(&self, count: u64) -> io::Result<()> {
        if count <= self.limit.saturating_sub(self.received) {
            return Ok(());
        }
        let text = format!("the body is larger than its limit of {} bytes", self.limit);
        Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
    }

    /// Counts bytes that have come, and fails if they are beyond the limit.
    pub(crate) fn count(&mut self, count: usize) -> io::Result<()> {
        let checked = self.check_room(count as u64);
        self.received += count as u64;
        checked
    }

    /// How long a read may wait: zero after the deadline.
    pub(crate) fn patience(&self) -> Duration {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(self.timeout, |left| left.min(self.timeout))
    }
}

/// The body of a request. [`Read`] returns its bytes as they arrive, without their framing.
///
/// The handler need not read it: the server receives and discards what is left, or closes the connection after
/// the response if that is more than 256 KiB. A client that asks for `100 Continue` gets it at the first read.
///
/// # Errors
///
/// If the handler passes on the error of a read, the response says why:
///
/// - `FileTooLarge`: the body is larger than its [limit](crate::Http::body_bytes); 413.
/// - `TimedOut`: the client has sent nothing for the [body timeout](crate::Http::body_timeout), or the request
///   has taken longer than the [request timeout](crate::Http::request_timeout); 408.
/// - `InvalidData`: the framing is malformed; 400.
/// - `UnexpectedEof`: the client has ended the stream within the body; 400.
///
/// The connection closes after each of them.
///
/// # Examples
///
/// ```
/// use std::io;
/// use socketserver::{Server, Tcp, Threading};
/// use socketserver_http::{Request, serve};
///
/// fn shout(request: &mut Request<'_>) -> io::Result<String> {
///     let text = io::read_to_string(request.body_mut())?;
///     Ok(text.to_uppercase())
/// }
///
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(serve(shout))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Body<'a> {
    source: &'a mut dyn Source,
    origin: Origin,
}

impl<'a> Body<'a> {
    pub(crate) fn new(source: &'a mut dyn Source, origin: Origin) -> Self {
        Self { source, origin }
    }

    /// Returns the length in bytes of what is left, if the client has said it: 0 without a body.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.source.size()
    }

    /// Sets how many bytes the body may have, in place of the [limit of the server](crate::Http::body_bytes).
    pub fn set_limit(&mut self, bytes: u64) {
        self.source.set_limit(bytes);
    }

    /// Returns the trailer fields, once the body has been read to its end: fields that the client has sent after a
    /// chunked body. Without those that concern framing, routing or authentication.
    #[must_use]
    pub fn trailers(&self) -> &HeaderMap {
        self.source.trailers()
    }

    /// Returns the number of the connection, as [`Accepted::id`](socketserver::net::Accepted::id) does.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.source.id()
    }

    /// Returns the IP address of the client: what a [trusted proxy](crate::Http::trust_forwarded) has named, else the
    /// address of the [peer](Self::peer). `None` if that is a Unix socket.
    #[must_use]
    pub const fn client(&self) -> Option<IpAddr> {
        self.origin.client
    }

    /// Returns the scheme by which the client has come to a [trusted proxy](crate::Http::trust_forwarded), `http` or
    /// `https`, if that has named it. Else `None`: then it is that of the server's own listener, over
    /// [TLS](crate::manual::serving#tls) or not.
    ///
    /// # Examples
    ///
    /// A server behind a proxy, which speaks TLS with clients, redirects those that have come to the proxy without:
    ///
    /// ```
    /// use http::uri::Scheme;
    /// use socketserver_http::{Http, IntoResponse, Request, redirect_to_https};
    ///
    /// let redirect = redirect_to_https(443);
    /// let http = Http::new(move |request: &mut Request<'_>| match request.body().scheme() {
    ///     Some(scheme) if *scheme == Scheme::HTTPS => "hello\n".into_response(),
    ///     _ => redirect(request),
    /// });
    /// let http = http.trust_x_forwarded_for(["10.0.0.0/8".parse()?]);
    /// # drop(http);
    /// # Ok::<(), socketserver::access::NetworkError>(())
    /// ```
    #[must_use]
    pub const fn scheme(&self) -> Option<&Scheme> {
        self.origin.scheme.as_ref()
    }

    /// Returns the address of the other end of the connection.
    #[must_use]
    pub fn peer(&self) -> Address {
        self.source.peer()
    }

    /// Returns whether the server has been asked to stop. A handler that streams should then end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.source.stopping()
    }

    /// Returns whether the client has cancelled the request or closed the connection; for a handler that computes or
    /// waits for long, and need not go on. Never waits. Reads of a body whose end has not come fail then, and so do writes
    /// of a response.
    ///
    /// Of HTTP/1 it is what [`Connection::peer_gone`](socketserver::Connection::peer_gone) says, so also `true` for a
    /// client that has only ended its side and waits for the response. Under `Coroutines` a connection of HTTP/2
    /// learns of a cancellation only while its handlers wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use socketserver::task;
    /// use socketserver_http::{Http, Request};
    ///
    /// fn long_poll(request: &mut Request<'_>) -> io::Result<String> {
    ///     for _ in 0..100 {
    ///         if request.body_mut().peer_gone() {
    ///             return Err(io::ErrorKind::ConnectionAborted.into());
    ///         }
    ///         task::sleep(Duration::from_millis(100));
    ///     }
    ///     Ok("nothing new\n".to_owned())
    /// }
    /// # let _ = Http::new(long_poll);
    /// ```
    pub fn peer_gone(&mut self) -> bool {
        self.source.peer_gone()
    }
}

/// Removes the fields that mean nothing in a trailer section (RFC 9110, section 6.5.1), and could mislead a handler.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in &FORBIDDEN {
        trailers.remove(name);
    }
}

const FORBIDDEN: [HeaderName; 18] = [
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::HOST,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

impl Read for Body<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read(buf)
    }
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}
