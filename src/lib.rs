//! Socket servers with blocking handlers: name the transport in one word and the concurrency model in
//! another, and serve. The crate owns the accept loop, the limits, the deadlines and the stop; the
//! handler reads and writes.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::{Error, Server, Tcp, Threading};
//!
//! fn main() -> Result<(), Error> {
//!     Server::<Tcp, Threading>::bind("127.0.0.1:8080")?
//!         .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
//!     Ok(())
//! }
//! ```
//!
//! A [`Server`] has three parts:
//!
//! | part | the question it answers | types |
//! |---|---|---|
//! | transport | where do connections and datagrams come from? | [`Tcp`], [`Udp`], [`UnixStream`], [`UnixDatagram`], [`UnixSeqpacket`], [`Either`](net::Either) of two transports, [`Layered`](net::Layered) over another transport, or a [`Transport`](net::Transport) of the program's own |
//! | model | where does the handler of a connection or datagram run? | [`Sequential`], [`Threading`], [`ThreadPool`], [`Forking`], [`Prefork`], [`Coroutines`](manual::coroutines) |
//! | handler | what is done with a connection or datagram? | a closure, a [`Handler`], a [`RequestHandler`] |
//!
//! Every transport runs under every model. A handler that is generic over [`Connection`] serves every
//! stream transport ([`Tcp`], [`UnixStream`]), a handler that is generic over [`Datagram`] every
//! datagram transport ([`Udp`], [`UnixDatagram`]). [`UnixSeqpacket`] has a connection of its own,
//! [`SeqpacketConnection`](net::SeqpacketConnection), which carries whole messages.
//!
//! # The manual
//!
//! In reading order:
//!
//! 1. [A first server](manual::first_server): bind, serve, talk to it, stop it; the other transports.
//! 2. [Choosing a model](manual::choosing_a_model): what each model costs, when to take it, and what it
//!    forbids.
//! 3. [Handlers and sessions](manual::handlers_and_sessions): the forms of a handler, state of one
//!    connection, and connections that wait without a thread.
//! 4. [Limits and deadlines](manual::limits_and_deadlines): units, defaults, and what happens when a
//!    limit or deadline is reached.
//! 5. [Stopping](manual::stopping): who may stop a server, the steps of a stop, and what a client sees.
//! 6. [Sharing state](manual::sharing_state): between handlers of one process, and of several.
//! 7. [Errors](manual::errors): failed handlers, panics, failures to accept, and the text of [`Error`].
//! 8. [Testing](manual::testing): a server under test, and its clients.
//! 9. [Coroutines](manual::coroutines): blocking handlers that hold no thread while they wait, and the
//!    contract that they keep.
//! 10. [Doing two things at once](manual::doing_two_things): channels, locks and deadlines in handlers,
//!     and closures that run side by side.
//! 11. [Several processes](manual::several_processes): forking, worker processes, and their deaths.
//! 12. [TLS](manual::tls): certificates, clients, reloads, and connections to other servers.
//! 13. [Who may connect](manual::who_may_connect): networks, and users of Unix sockets.
//! 14. [Behind a proxy](manual::proxies): the PROXY protocol, and the addresses of clients that come
//!     through HAProxy, nginx or a load balancer.
//! 15. [Coming from Python](manual::coming_from_python): each name of Python's `socketserver` and its
//!     counterpart.
//!
//! Under a service manager, the module [`systemd`] takes the manager's sockets (socket activation,
//! sd_listen_fds(3)), and notifies the manager (sd_notify(3)).
//!
//! # Features
//!
//! No feature is on by default.
//!
//! | feature | adds |
//! |---|---|
//! | `coroutines` | the model `Coroutines` ([manual](manual::coroutines)), over io_uring(7) or epoll(7); its constructor is `unsafe`, because handlers have to keep a contract |
//! | `tls` | the module `tls` ([manual](manual::tls)): TLS over any stream transport, and TLS connections to other servers |
//! | `tracing` | the observer `observe::Tracing`, which turns each [`Event`](observe::Event) into an event of the `tracing` crate |
//!
//! # Platform
//!
//! Linux 5.4 or newer, and Rust 1.87 or newer. The crate is built on eventfd(2), epoll(7),
//! pidfd_open(2) and recvmmsg(2), and has been run on Linux 6.18; it does not compile for another system.
//!
//! The library prints nothing, does not end the process, and installs no signal handler, with one
//! exception: under [`Coroutines`](manual::coroutines) a signal handler explains a stack overflow
//! on standard error, before the fault ends the process. It forks only under [`Forking`] and
//! [`Prefork`].

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
pub mod manual;
pub mod model;
pub mod net;
pub mod observe;
pub mod proxied;
mod proxy;
pub mod python;
mod registry;
mod server;
mod shared;
mod sys;
pub mod systemd;
pub mod task;
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;

pub use accept::report::{Handled, Report};
pub use builder::Builder;
pub use connection::session::{per_connection, per_request};
pub use error::{Error, HandlerError};
pub use handle::ServerHandle;
pub use handler::{Handler, IntoOutcome, Next, Outcome, RequestHandler};
#[cfg(feature = "coroutines")]
#[doc(inline)]
pub use model::Coroutines;
#[doc(inline)]
pub use model::{Forking, Prefork, Sequential, ThreadPool, Threading};
#[doc(inline)]
pub use net::{Connection, Datagram, Tcp, Udp, UnixDatagram, UnixSeqpacket, UnixStream};
pub use server::{Server, ServerGuard};

/// Limits: how many connections may be live, how many new ones a second, and what happens to connections beyond that.
///
/// The [`Builder`] sets the limits, [`ServerHandle::set_limits`] changes them while the server serves.
pub mod limits {
    pub use crate::admission::policy::{AtLimit, Limits, Rate};
}

/// Who may connect: networks, and the users and groups of Unix sockets.
///
/// The [`Builder`] sets the rules, [`ServerHandle::set_access`] changes them while the server serves.
pub mod access {
    pub use crate::admission::access::{Access, Network, NetworkError};
}

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// So do the first programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/first-programs.md")]
struct FirstProgramsDoctests;
