//! Socket servers with blocking handlers: write one handler, choose the transport in one word and
//! the concurrency model in another.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::python::ThreadingTcpServer;
//!
//! fn main() -> Result<(), socketserver::Error> {
//!     ThreadingTcpServer::bind("127.0.0.1:8080")?
//!         .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
//!     Ok(())
//! }
//! ```
//!
//! Three nouns, and a [`Server`] that joins them:
//!
//! | noun | here | in Python |
//! |---|---|---|
//! | transport: where requests come from | [`Tcp`], [`Udp`], [`UnixStream`], [`UnixDatagram`], [`Either`] of two, [`net::Layered`] over another | `TCPServer`, `UDPServer`, … |
//! | model: where each request runs | [`Sequential`], [`Threading`], [`ThreadPool`], [`Forking`], [`Prefork`], `Coroutines` (feature `coroutines`) | `ThreadingMixIn`, `ForkingMixIn` |
//! | handler: what is done with it | a closure, a [`Handler`], a [`RequestHandler`] | `BaseRequestHandler`, … |
//!
//! Every transport runs under every model. A handler that is generic over [`Connection`] runs on
//! every stream transport, one generic over [`Datagram`] on every datagram transport.
//!
//! The names that Python users look for are aliases: [`TcpServer`] is `Server<Tcp>`,
//! [`ThreadingTcpServer`] is `Server<Tcp, Threading>`, [`ForkingUnixDatagramServer`] is
//! `Server<UnixDatagram, Forking>`, and so on.
//!
//! # Stopping
//!
//! [`ServerHandle::shutdown`] works from anywhere and at any time; see [`Server`].
//! [`Server::spawn`] serves on a thread and returns a guard that stops the server when it is
//! dropped.
//!
//! # Failures
//!
//! A handler that fails or panics ends its own request; the `on_error` hook of the [`Builder`] is
//! told. The accept loop survives every error: what is exhausted is tried again after a pause that
//! grows from 5 ms to 1 s, or as soon as a request ends. The library prints nothing, installs no
//! signal handler (but the one that explains a stack overflow of a coroutine), and forks only under
//! the models that say so.
//!
//! # Platform
//!
//! Linux, 5.4 or newer for its pidfds; it has been run on 6.18. Another system is refused when the
//! crate is compiled.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("socketserver runs on Linux: it is built on eventfd, epoll, pidfds and recvmmsg");

mod accept;
mod address;
mod admission;
mod buffers;
mod builder;
mod connection;
mod counters;
mod error;
mod handle;
mod handler;
mod lifecycle;
pub mod model;
pub mod net;
pub mod observe;
pub mod python;
mod registry;
mod server;
mod shared;
mod sys;
pub mod task;
pub mod testing;

pub use accept::report::{Handled, Report};
pub use builder::Builder;
pub use connection::session::{per_connection, per_request};
pub use error::{Error, HandlerError};
pub use handle::ServerHandle;
pub use handler::{Handler, IntoOutcome, Next, Outcome, RequestHandler};
#[cfg(feature = "coroutines")]
pub use model::Coroutines;
pub use model::{Forking, Prefork, Sequential, ThreadPool, Threading};
pub use net::{Connection, Datagram, Tcp, Udp, UnixDatagram, UnixStream};
pub use server::{Server, ServerGuard};

/// How many connections may be live, how fast new ones may come, and what becomes of those beyond.
///
/// The [`Builder`] sets them, [`ServerHandle::set_limits`] changes them while the server serves.
pub mod limits {
    pub use crate::admission::policy::{AtLimit, Limits, Rate};
}

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// So do those for people who come from Python.
#[cfg(doctest)]
#[doc = include_str!("../docs/coming-from-python.md")]
struct ComingFromPythonDoctests;
