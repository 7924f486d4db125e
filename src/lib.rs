//! Socket servers with blocking handlers: write one handler, choose the transport in one word and
//! the concurrency model in another.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::ThreadingTcpServer;
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
//! every stream transport, one generic over [`Packet`] on every datagram transport.
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

#[cfg(not(target_os = "linux"))]
compile_error!("socketserver runs on Linux: it is built on eventfd, epoll, pidfds and recvmmsg");

mod accept;
mod address;
mod admission;
mod builder;
mod connection;
mod counters;
mod error;
mod handle;
mod handler;
mod lifecycle;
mod model;
mod observe;
mod registry;
mod server;
mod shared;
mod spare;
mod sys;
pub mod task;
mod transport;

pub use accept::dispatch::{Dispatch, Model};
pub use accept::report::{Handled, Report};
pub use address::{Address, UnixAddress};
pub use admission::policy::{AtLimit, Limits, Rate};
pub use builder::Builder;
pub use connection::session::{per_connection, per_request};
pub use counters::Totals;
pub use error::{Error, HandlerError};
pub use handle::ServerHandle;
pub use handler::{Handler, IntoOutcome, Next, Outcome, RequestHandler};
pub use lifecycle::State;
#[cfg(feature = "coroutines")]
pub use model::coroutines::{Coroutines, Driver};
pub use model::forking::Forking;
pub use model::prefork::Prefork;
pub use model::sequential::Sequential;
pub use model::thread_pool::ThreadPool;
pub use model::threading::Threading;
pub use observe::events::{EndReason, Event, Limit, Observer, RefuseReason};
pub use observe::hooks::{AcceptError, Failure, Reaction, Stall, Step};
#[cfg(feature = "tracing")]
pub use observe::tracing::Tracing;
pub use registry::context::Context;
pub use registry::info::{ConnectionInfo, Traffic};
pub use registry::table::{Activity, CutReason};
pub use server::{Server, ServerGuard};
#[cfg(feature = "coroutines")]
pub use task::coro::stack::StackGauge;
pub use task::{offload, sleep, yield_now};
pub use transport::datagram::Datagram;
pub use transport::either::Either;
pub use transport::stream::{Stream, Writer};
pub use transport::tcp::{BoundTcp, Tcp, TcpConnection, TcpOptions};
pub use transport::udp::{Udp, UdpDatagram, UdpOptions};
pub use transport::unix_datagram::{UnixDatagram, UnixPacket};
pub use transport::unix_path::UnixOptions;
pub use transport::unix_stream::{BoundUnixStream, Credentials, UnixConnection, UnixStream};
pub use transport::{Bind, Connection, Packet, Request, Transport};

/// For transports of your own, and for what stands between a transport and its handlers.
pub mod net {
    pub use crate::registry::context::Cut;
    pub use crate::transport::dialed::Dialed;
    pub use crate::transport::layered::{Layer, Layered, LayeredConnection};
    pub use crate::transport::{Intake, Managed, Waits};
}

/// Serves TCP, one connection after the other.
#[doc(alias = "TCPServer")]
pub type TcpServer = Server<Tcp>;
/// Serves UDP, one datagram after the other.
#[doc(alias = "UDPServer")]
pub type UdpServer = Server<Udp>;
/// Serves a Unix stream socket, one connection after the other.
pub type UnixStreamServer = Server<UnixStream>;
/// Serves a Unix datagram socket, one datagram after the other.
pub type UnixDatagramServer = Server<UnixDatagram>;

/// Serves TCP, each connection on a thread.
#[doc(alias = "ThreadingTCPServer")]
pub type ThreadingTcpServer = Server<Tcp, Threading>;
/// Serves UDP, each datagram on a thread.
#[doc(alias = "ThreadingUDPServer")]
pub type ThreadingUdpServer = Server<Udp, Threading>;
/// Serves a Unix stream socket, each connection on a thread.
pub type ThreadingUnixStreamServer = Server<UnixStream, Threading>;
/// Serves a Unix datagram socket, each datagram on a thread.
pub type ThreadingUnixDatagramServer = Server<UnixDatagram, Threading>;

/// Serves TCP, each connection in a process.
#[doc(alias = "ForkingTCPServer")]
pub type ForkingTcpServer = Server<Tcp, Forking>;
/// Serves UDP, each datagram in a process.
#[doc(alias = "ForkingUDPServer")]
pub type ForkingUdpServer = Server<Udp, Forking>;
/// Serves a Unix stream socket, each connection in a process.
pub type ForkingUnixStreamServer = Server<UnixStream, Forking>;
/// Serves a Unix datagram socket, each datagram in a process.
pub type ForkingUnixDatagramServer = Server<UnixDatagram, Forking>;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// So do those for people who come from Python.
#[cfg(doctest)]
#[doc = include_str!("../docs/coming-from-python.md")]
struct ComingFromPythonDoctests;
