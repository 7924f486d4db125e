//! Errors: failed handlers, panics, failures to accept, and the text of [`Error`].
//!
//! | failure | reported to | what the server does |
//! |---|---|---|
//! | a handler returns an error | [`Builder::on_error`] | closes the connection, and goes on |
//! | a handler panics | [`Builder::on_error`]; Rust's panic hook prints the message | closes the connection, and goes on |
//! | an answer cannot be delivered | [`Builder::on_error`] | closes the connection, and goes on |
//! | accept(2) fails, or there is no thread, process or stack for a connection | [`Builder::on_accept_error`], at most once a second | pauses and tries again, goes on, or closes the listener: [see below](#failures-to-accept) |
//! | the last listener fails, or the model cannot start | the caller of `serve_forever` | stops |
//! | a server cannot be bound or built | the caller of `bind` or `build` | leaves nothing bound |
//!
//! Without a hook the server only counts failures
//! ([`ServerHandle::totals`](crate::ServerHandle::totals)), and prints nothing.
//!
//! # Handlers
//!
//! A handler returns any error that converts into [`HandlerError`](crate::HandlerError), a boxed
//! [`std::error::Error`]: `?` works on I/O errors, parse errors, and strings. The client receives the
//! output that the handler has written before, and the end of the stream. To send the client a message
//! about the error, write the message before returning.
//!
//! [`Failure`] has the number of the connection, its peer and the error, and says whether the client
//! went away ([`is_disconnect`](crate::observe::Failure::is_disconnect)), the handler panicked
//! ([`is_panic`](crate::observe::Failure::is_panic)), or the server had aborted the connection
//! ([`abort_reason`](crate::observe::Failure::abort_reason)).
//!
//! ```
//! use std::io::{Read, Write};
//! use std::sync::mpsc::channel;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, HandlerError, Server, Tcp, Threading};
//!
//! fn double(conn: &mut impl Connection) -> Result<(), HandlerError> {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 80)?;
//!     let number: i64 = line.trim().parse()?;
//!     let double = number.checked_mul(2).ok_or("the number is too large")?;
//!     writeln!(conn, "{double}")?;
//!     Ok(())
//! }
//!
//! let (failures, failed) = channel();
//! let server = Server::<Tcp, Threading>::builder()
//!     .on_error(move |failure| {
//!         if !failure.is_disconnect() {
//!             let _ = failures.send(failure.error().to_string());
//!         }
//!     })
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, double);
//! let mut client = server.connect();
//! client.write_all(b"two\n").unwrap();
//! assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
//! assert_eq!(failed.recv().unwrap(), "invalid digit found in string");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! Clients decide how often handlers fail: a hook that writes a line should let
//! [`Failure::once_a_second`] decide when.
//!
//! # Panics
//!
//! The server catches a handler's panic. The panic becomes a [`Failure`] and ends its own connection,
//! after the `finish` of its session. A panic in a hook is caught too; in [`Builder::verify`] it fails
//! the connection. With `panic = "abort"` in the profile every panic ends the process.
//!
//! # Failures to accept
//!
//! An error ends the accept loop only if the last listener fails, if a worker of `Coroutines` fails, or
//! if a process of [`Forking`](crate::Forking) has other threads by now and so can never fork again;
//! serving then returns the error. [`AcceptError`] says what failed ([`Step`](crate::observe::Step)),
//! the error, and the [`Reaction`]:
//!
//! | errors | [`Reaction`] |
//! |---|---|
//! | `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`; no thread or process to be had | `Retry`: after 5 ms, doubling to 1 s, or as soon as a connection of the process ends. New clients wait in the backlog |
//! | `ECONNABORTED`, `EPROTO`, `EPERM`, network errors | `Continue`: the error concerns one connection |
//! | `EBADF`, `EINVAL`, `ENOTSOCK`, `EFAULT` | `Abandon`: the server closes this listener, and serves its other listeners |
//! | the wait of a worker of `Coroutines` fails (epoll_wait(2), io_uring_enter(2)); serving has failed in a worker process | `Fail`: the server stops, and serving returns an error |
//!
//! The server calls the hook at most once a second, in all processes together. An `Abandon`, a `Fail` and
//! a panic of [`service_actions`](crate::Builder::service_actions) reach the hook at once.
//! [`unreported`](crate::observe::AcceptError::unreported) is the number of errors since the last call
//! of the hook.
//!
//! # `Error`
//!
//! Binding, building and serving fail with one type. Its text names the attempt, its object and the
//! cause, and a remedy where the system's own text suggests none:
//!
//! ```text
//! bind 127.0.0.1:80: Permission denied (os error 13); ports below
//! net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE, or a socket
//! passed by the service manager
//! ```
//!
//! ```
//! use socketserver::{Server, Tcp};
//!
//! let first = Server::<Tcp>::bind("127.0.0.1:0")?;
//! let taken = first.local_addrs()[0].socket_addr().unwrap();
//! let err = Server::<Tcp>::bind(taken).unwrap_err();
//! assert!(err.is_addr_in_use());
//! assert!(err.to_string().starts_with(&format!("bind {taken}: Address already in use")));
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [`Error::kind`] and [`Error::io_error`] have the system's error; an `Error` converts into an
//! [`io::Error`](std::io::Error) of the same kind.
//!
//! Next: [testing](crate::manual::testing).
//!
//! [`AcceptError`]: crate::observe::AcceptError
//! [`Builder::on_accept_error`]: crate::Builder::on_accept_error
//! [`Builder::on_error`]: crate::Builder::on_error
//! [`Builder::verify`]: crate::Builder::verify
//! [`Error`]: crate::Error
//! [`Error::io_error`]: crate::Error::io_error
//! [`Error::kind`]: crate::Error::kind
//! [`Failure`]: crate::observe::Failure
//! [`Failure::once_a_second`]: crate::observe::Failure::once_a_second
//! [`Reaction`]: crate::observe::Reaction
