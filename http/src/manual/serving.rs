//! Serving: limits and time limits, models, HTTP/2, TLS, the stop, idle connections.
//!
//! # Limits
//!
//! [`Http`](crate::Http) limits each request and each connection:
//!
//! | limit | default | beyond it |
//! |---|---|---|
//! | [`head_bytes`](crate::Http::head_bytes): request line and fields; of HTTP/2, the fields | 16 KiB | 431 |
//! | [`headers`](crate::Http::headers): number of fields, HTTP/1 | 100 | 431 |
//! | [`target_bytes`](crate::Http::target_bytes): the target, HTTP/1 | 8 KiB | 414 |
//! | [`body_bytes`](crate::Http::body_bytes), or for one request [`Body::set_limit`](crate::Body::set_limit) | 2 MiB | reads of the body fail; 413 |
//! | [`requests`](crate::Http::requests) of a connection | 10,000 | the last response says `Connection: close`, or GOAWAY |
//! | [`streams`](crate::Http::streams): requests of a connection of HTTP/2 that run at once | 100 | the client waits, or gets `REFUSED_STREAM` |
//! | requests of HTTP/2 that one client (an IPv4 address, or an IPv6 network of 64 bits) runs at once in a process, over all of its connections; a burst counts as it comes | as many as there is [room](socketserver::task::Scope::room) for beside them: alone half of all that can run, two clients a third each | the client gets `REFUSED_STREAM` |
//!
//! A read of a body that is too large fails. A handler that passes on the error answers 413. The server does not
//! gather the body in memory.
//!
//! The [`Builder`](socketserver::Builder) limits connections. By default further clients wait; a server can answer
//! them 503 instead:
//!
//! ```
//! use socketserver::limits::AtLimit;
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Request, serve};
//!
//! const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\n\
//!     Content-Length: 0\r\nConnection: close\r\n\r\n";
//!
//! let server = Server::<Tcp, Threading>::builder()
//!     .max_connections(1000)
//!     .max_per_address(50)
//!     .at_limit(AtLimit::RefuseWith(BUSY.to_vec()))
//!     .bind("127.0.0.1:0")?;
//! let guard = server.spawn(serve(|_: &mut Request<'_>| "hello\n"))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Time limits
//!
//! | time limit | default | begins | beyond it |
//! |---|---|---|---|
//! | [`head_timeout`](crate::Http::head_timeout), HTTP/1 | 10 s | with the first byte of a head | 408 |
//! | [`idle_timeout`](crate::Http::idle_timeout) | 60 s | with the wait for a request | the end of the stream |
//! | [`body_timeout`](crate::Http::body_timeout) | 30 s | with each read of a body | the read fails; 408 |
//! | the same, HTTP/2 | 30 s | with each wait of a response for room at the client, and anew when the client takes output of the connection | the stream is reset |
//! | [`request_timeout`](crate::Http::request_timeout) | none | with the end of a head | reads of the body fail; 408 |
//!
//! So a response of HTTP/2 waits as long as its client reads, however slowly the kernel shows it to the server
//! ([`write_timeout`](socketserver::Builder::write_timeout)), or however many other responses are sent first. It is reset
//! when the client takes nothing, or takes all the rest and gives this response no window.
//!
//! The deadlines of the [`Builder`](socketserver::Builder) hold beside them, and abort the connection, without a
//! response. By default they are 10 s for the [first byte](socketserver::Builder::first_byte_timeout) of a
//! connection, 60 s for [each wait](socketserver::Builder::idle_timeout) for input, and 30 s without progress for
//! [writes](socketserver::Builder::write_timeout). So a server whose clients may be silent for five minutes sets
//! both:
//!
//! ```
//! use std::time::Duration;
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Http, Request};
//!
//! let patience = Duration::from_secs(300);
//! let server = Server::<Tcp, Threading>::builder()
//!     .first_byte_timeout(patience)
//!     .idle_timeout(patience + Duration::from_secs(1))
//!     .bind("127.0.0.1:0")?;
//! let http = Http::new(|_: &mut Request<'_>| "hello\n").idle_timeout(patience);
//! let guard = server.spawn(http.serve())?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A handler that must not take long sets a deadline for its own waits: [`task::timeout`](socketserver::task::timeout()).
//!
//! # Models
//!
//! A connection without a request is parked: it holds no thread, and under `Coroutines` no stack. So is a
//! connection whose head comes in pieces. (`Forking` keeps the process of each connection, and a worker process of
//! `Prefork<Sequential>` waits with its connection.) A request holds a thread or a coroutine from the end of its head to the end of its response: while
//! its body arrives, while its handler waits, and while the client takes the response.
//!
//! | model | suits |
//! |---|---|
//! | [`Threading`](socketserver::Threading) | most servers: handlers that call databases and file systems; at most [`max_threads`](socketserver::Threading::max_threads) requests at once |
//! | [`ThreadPool`](socketserver::ThreadPool) | the same, with a fixed number of threads; as many slow uploads or slow readers use it up, so give each client [fewer connections](socketserver::Builder::max_per_address) than there are threads |
//! | `Coroutines` (feature `coroutines`) | many requests that wait at the same time: slow clients, long polls, server-sent events, WebSockets. Blocking calls of other libraries go through [`task::offload`](socketserver::task::offload) |
//! | [`Prefork`](socketserver::Prefork) of one of these | several processes, which have no memory in common |
//! | [`Forking`](socketserver::Forking) | handlers that may crash their process: each connection has one |
//! | [`Sequential`](socketserver::Sequential) | tests and tools; a slow body makes all other clients wait |
//!
//! # HTTP/2
//!
//! The server recognises HTTP/2 by the first bytes of the client, on every stream transport, so there is no
//! option to set. Handlers cannot tell the difference, except by [`version`](http::Request::version):
//!
//! - Each request runs at the same time as the others of its connection, on a thread or coroutine of a
//!   [scope](socketserver::task::scope()). A request that finds no room is refused so that the client tries again. Each
//!   client leaves as much room as it takes, so none keeps others out with many connections. The client is the one
//!   that a [trusted proxy](crate::Http::trust_forwarded) names; peers without an IP address have no such limit.
//! - Each request has a [`Session`](crate::Handler::Session) of its own.
//! - The fields `Connection`, `Transfer-Encoding`, `Upgrade` and `Keep-Alive` of a response are left out.
//! - [`Content::upgrade`](crate::Content::upgrade) is answered 501.
//! - A client may send 64 KiB of a body, and 1 MiB of all bodies of a connection, before handlers read.
//! - A handler whose client cancels the request goes on; it learns of that when it reads or writes, or by
//!   [`Body::peer_gone`](crate::Body::peer_gone).
//! - A client that sends more than 1,000 frames in a row that ask for nothing (PING, SETTINGS, RST_STREAM, empty
//!   DATA and the like) loses its connection.
//!
//! Browsers speak HTTP/2 only over TLS, where the client and the server agree on it beforehand.
//!
//! # TLS
//!
//! [`Tls<Tcp>`](socketserver::manual::tls) with the feature `tls`. `alpn` names what the server speaks, the
//! preferred protocol first. A second server redirects from the plain port:
//!
//! ```
//! # #[cfg(feature = "tls")] {
//! use socketserver::net::Bind;
//! use socketserver::tls::{Tls, TlsConfig};
//! use socketserver::{Server, Tcp, Threading};
//! use socketserver_http::{Request, redirect_to_https, serve};
//!
//! # let folder = tempfile::tempdir()?;
//! # let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! # std::fs::write(&cert, made.cert.pem())?;
//! # std::fs::write(&key, made.signing_key.serialize_pem())?;
//! // `cert` and `key` are the paths of PEM files; the ports would be 443 and 80.
//! let tls = TlsConfig::builder()
//!     .certificate(&cert, &key)
//!     .alpn(["h2", "http/1.1"])
//!     .build()?;
//! let server = Server::<Tls<Tcp>, Threading>::builder()
//!     .listen(tls.listen(Tcp::bind("127.0.0.1:0")?))
//!     .build()?;
//! let secure = server.spawn(serve(|_: &mut Request<'_>| "hello\n"))?;
//!
//! let plain = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let plain = plain.spawn(serve(redirect_to_https(443)))?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The stop
//!
//! [`ServerHandle::shutdown`](socketserver::ServerHandle::shutdown) begins it; the
//! [manual](socketserver::manual::stopping) has its phases. In HTTP:
//!
//! - Requests that run are finished, up to the [`drain_timeout`](socketserver::Builder::drain_timeout); then their
//!   connections are aborted.
//! - Each response of HTTP/1 says `Connection: close`, and the connection ends after it. A connection of HTTP/2
//!   gets GOAWAY.
//! - A client that is idle has the [`idle_grace`](socketserver::Builder::idle_grace) (default: 1 s). A request
//!   that arrives in that time is answered; then the client gets the end of the stream.
//! - A client that has begun a head has the grace to go on; once more of it has come, its
//!   [`head_timeout`](crate::Http::head_timeout).
//! - An endless response ends when its closure sees [`BodyWriter::stopping`](crate::BodyWriter::stopping), and an
//!   endless upload when its handler sees [`Body::stopping`](crate::Body::stopping).
//!
//! # Idle connections
//!
//! A parked connection keeps what the operating system needs, its place in the server's tables, and, of HTTP/1,
//! what has come of its next head. Over TLS it also keeps the state of the session, and of HTTP/2 the state of
//! both header compressors. How many bytes that is has not been measured yet.
