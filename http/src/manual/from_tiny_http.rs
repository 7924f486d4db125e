//! Coming from `tiny_http` 0.12: each public item and its counterpart.
//!
//! # The turn of the loop
//!
//! With `tiny_http`, threads of the program take requests from a queue, and answer them:
//!
//! ```text
//! let server = Arc::new(tiny_http::Server::http("127.0.0.1:8000")?);
//! for _ in 0..8 {
//!     let server = Arc::clone(&server);
//!     thread::spawn(move || {
//!         for mut request in server.incoming_requests() {
//!             let mut text = String::new();
//!             request.as_reader().read_to_string(&mut text).unwrap();
//!             let response = Response::from_string(text.to_uppercase());
//!             request.respond(response).unwrap();
//!         }
//!     });
//! }
//! ```
//!
//! Here the server calls a function for each request, and the model says where:
//!
//! ```no_run
//! use std::io;
//! use socketserver::{Server, Tcp, ThreadPool};
//! use socketserver_http::{Request, serve};
//!
//! fn shout(request: &mut Request<'_>) -> io::Result<String> {
//!     let text = io::read_to_string(request.body_mut())?;
//!     Ok(text.to_uppercase())
//! }
//!
//! let server = Server::<Tcp>::builder().model(ThreadPool::new(8)).bind("127.0.0.1:8000")?;
//! server.serve_forever(serve(shout))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A request cannot leave its handler. A handler whose answer comes from another thread waits for it:
//! [`block_on`](socketserver::task::block_on) with a channel, in every model.
//!
//! ```no_run
//! use socketserver::{HandlerError, Server, Tcp, Threading, task};
//! use socketserver_http::{Request, serve};
//!
//! type Job = (String, async_channel::Sender<String>);
//!
//! let (jobs, taken) = async_channel::bounded::<Job>(64);
//! std::thread::spawn(move || {
//!     while let Ok((path, answer)) = taken.recv_blocking() {
//!         let _ = answer.try_send(format!("{path} is done\n"));
//!     }
//! });
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:8000")?;
//! server.serve_forever(serve(move |request: &mut Request<'_>| -> Result<String, HandlerError> {
//!     let (answer, answered) = async_channel::bounded(1);
//!     let path = request.uri().path().to_owned();
//!     task::block_on(jobs.send((path, answer)))??;
//!     Ok(task::block_on(answered.recv())??)
//! }))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # `Server`
//!
//! | `tiny_http` | here |
//! |---|---|
//! | `Server::http` | [`Server::bind`](socketserver::Server::bind) of a `Server<Tcp, M>` |
//! | `Server::http_unix` | the same of a `Server<UnixStream, M>` |
//! | `Server::https`, `SslConfig` | [`Tls<Tcp>`](crate::manual::serving#tls), whose configuration names files |
//! | `Server::new`, `ServerConfig` | [`Server::builder`](socketserver::Server::builder) |
//! | `Server::from_listener`, `Listener` | [`Tcp::from_fd`](socketserver::Tcp::from_fd) and [`Builder::listen`](socketserver::Builder::listen) |
//! | `ConfigListenAddr` | the argument of `bind`; several listeners with [`Builder::listen`](socketserver::Builder::listen) |
//! | `Server::server_addr`, `ListenAddr` | [`Server::local_addrs`](socketserver::Server::local_addrs), [`Address`](socketserver::net::Address) |
//! | `Server::num_connections` | [`ServerHandle::live`](socketserver::ServerHandle::live) |
//! | `Server::incoming_requests`, `IncomingRequests`, `Server::recv` | the function given to [`serve`](crate::serve()) |
//! | `Server::recv_timeout`, `Server::try_recv` | [`Server::spawn`](socketserver::Server::spawn) serves beside the program's own loop |
//! | `Server::unblock`, the drop of the server | [`ServerHandle::shutdown`](socketserver::ServerHandle::shutdown), which also finishes the requests that run |
//!
//! # `Request`
//!
//! | `tiny_http` | here |
//! |---|---|
//! | `Request` | [`Request`](crate::Request), that of the crate `http` with a [`Body`](crate::Body) |
//! | `method`, `Method` | `request.method()`, `http::Method` |
//! | `url` | `request.uri()` |
//! | `http_version`, `HTTPVersion` | `request.version()`, `http::Version` |
//! | `headers`, `Header`, `HeaderField` | `request.headers()`, `http::HeaderValue`, `http::HeaderName` |
//! | `body_length` | [`Body::size`](crate::Body::size) |
//! | `as_reader` | `request.body_mut()` |
//! | `remote_addr` | [`Body::peer`](crate::Body::peer) |
//! | `secure` | what the handler of the server over TLS captures |
//! | `respond` | the value that the handler returns |
//! | `into_writer` | [`Content::stream`](crate::Content::stream), whose head the server writes |
//! | `upgrade`, `ReadWrite` | [`Content::upgrade`](crate::Content::upgrade), [`Connection`](socketserver::Connection) |
//! | the drop of a request without a response: 500 | an error or a panic of the handler: 500 |
//!
//! # `Response`
//!
//! | `tiny_http` | here |
//! |---|---|
//! | `Response::from_string` | a `String` or `&'static str` |
//! | `Response::from_data` | a `Vec<u8>` or `Bytes` |
//! | `Response::from_file` | a [`File`](std::fs::File) |
//! | `Response::empty`, `Response::new_empty`, `StatusCode` | an `http::StatusCode` |
//! | `Response::new`, `with_data` | [`Content::sized_reader`](crate::Content::sized_reader), or [`Content::reader`](crate::Content::reader) without a length |
//! | `with_status_code` | a tuple `(StatusCode, content)`, or `http::Response::builder()` |
//! | `with_header`, `add_header` | `http::Response::builder().header(…)` |
//! | `status_code`, `headers` | the methods of `http::Response` of the same meaning |
//! | `data_length`, `into_reader` | none: a [`Content`](crate::Content) is read by the server alone |
//! | `with_chunked_threshold`, `chunked_threshold` | none: content with a length is never sent in chunks |
//! | `boxed`, `ResponseBox` | [`into_response`](crate::IntoResponse::into_response) |
//! | `raw_print` | none |
//! | `TestRequest` | [`TestServer`](socketserver::testing::TestServer), a server on a port of its own |
//!
//! The server sets `Content-Length`, `Transfer-Encoding`, `Connection` and, where the handler has not, `Date`;
//! `Server` is not set.
