//! Limits and deadlines: each with its unit, its default, and what happens when it is reached.
//!
//! # Limits
//!
//! | limit | unit | default | counted over | beyond it |
//! |---|---|---|---|---|
//! | [`max_connections`] | live connections and datagrams | 10,240, or 64 fewer than `RLIMIT_NOFILE` if that is less | all threads and processes, exactly | [`at_limit`] decides |
//! | [`rate`] | new connections or datagrams in a period, and how many come at once after a quiet time | none | all processes, exactly | [`at_limit`] decides; under `ShedOldestIdle` clients wait |
//! | [`max_per_address`] | live connections of one IPv4 address, or of one IPv6 network of 64 bits | none | all processes, exactly | refused |
//! | [`max_per_user`] | live connections of one user of Unix stream and seqpacket sockets | none | all processes, exactly | refused |
//! | descriptors (`RLIMIT_NOFILE`) | live connections of one process | `RLIMIT_NOFILE` minus a reserve: an eighth of it, 64 at most | each process | clients wait, or another worker accepts them |
//! | [`Threading::max_threads`] | handlers at once | 1,024 | each process | clients wait |
//! | [`ThreadPool::new`], [`queue`](crate::ThreadPool::queue) | handlers at once, connections that wait for a thread | 4 for each processor, as many again | each process | clients wait |
//! | [`Forking::max_children`] | handlers at once | 40 | each process | clients wait |
//! | [`TcpOptions::backlog`], [`UnixOptions::backlog`] | connections that wait in the kernel | `net.core.somaxconn`, by default 4,096 | each listener | the client's connect(2) waits |
//!
//! There are as many *permits* as [`max_connections`]. The accept loop takes a permit before it accepts,
//! so the limit is never exceeded. Parked connections are live, and each holds a permit. A client that
//! *waits* is connected, in the kernel's backlog, and is not served yet.
//!
//! [`at_limit`] has four policies:
//!
//! | [`AtLimit`] | what the client sees |
//! |---|---|
//! | `Wait`, the default | the client waits, and is served when there is room |
//! | `Refuse` | the end of the stream |
//! | `RefuseWith(bytes)` | these bytes, 256 at most, and the end of the stream |
//! | `ShedOldestIdle` | the client is served, and another connection ends in its place: the one that has been parked for longest, or else the one whose handler has waited longest for input, for a second at least. If there is neither, the client waits |
//!
//! Behind a [trusted proxy](crate::manual::proxies), [`max_per_address`] counts the address of the client.
//! A client beyond [`max_per_address`] or [`max_per_user`] is refused under every policy, under `RefuseWith`
//! with the bytes. A refused datagram is dropped without an answer.
//!
//! The rules for [who may connect](crate::manual::who_may_connect), and then the hook of
//! [`Builder::verify`], refuse single connections or datagrams. [`Builder::raise_descriptor_limit`] raises
//! `RLIMIT_NOFILE` as far as [`max_connections`] needs.
//!
//! A server with room for one connection refuses the second client:
//!
//! ```
//! use std::io::{Read, Write};
//! use socketserver::limits::AtLimit;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Server, Tcp, Threading};
//!
//! let server = Server::<Tcp, Threading>::builder()
//!     .max_connections(1)
//!     .at_limit(AtLimit::RefuseWith(b"busy, try again later\n".to_vec()))
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |conn| {
//!     conn.write_all(b"welcome\n")?;
//!     conn.next_message().map(drop)
//! });
//! let mut first = server.connect();
//! first.read_exact(&mut [0; 8]).unwrap();
//!
//! let mut answer = String::new();
//! server.connect().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "busy, try again later\n");
//! assert_eq!(server.handle().totals().over_limit, 1);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [`ServerHandle::set_limits`] changes the first four limits and the policy while the server serves;
//! live connections stay. [`ServerHandle::connections`] lists the live connections,
//! [`ServerHandle::abort`] ends a connection by its number.
//!
//! # Deadlines
//!
//! Each deadline is a [`Duration`](std::time::Duration); `None` means no deadline. Datagrams have no deadlines.
//!
//! | deadline | default | begins | ends |
//! |---|---|---|---|
//! | [`first_byte_timeout`] | 10 s | when the server waits for the client's first byte | when the byte has come |
//! | [`idle_timeout`] | 60 s | with each wait for input after the first byte, in a handler or parked, and anew when the client takes output | when input comes |
//! | [`write_timeout`] | 30 s | with a write, and anew whenever the client has taken some of it | when the write is done |
//! | [`request_timeout`] | none | when the handler is called, and again when [`next_message`] returns `true`; with [`whole_request`], at the first byte of the request | when the handler returns, or calls [`next_message`] again |
//! | [`lifetime`] | none | when the connection is accepted | when it is closed |
//! | [`min_rate`], the average of one request in bytes a second | none | when the handler has waited for input during the request for `grace` in all, the second argument of `min_rate` | when the handler returns, or calls [`next_message`] again |
//! | [`handshake_timeout`] | 5 s | with the [TLS](crate::manual::tls) handshake, or with the wait for a [PROXY header](crate::manual::proxies) | when the handshake is over, or the header has come |
//!
//! When a deadline has passed, the server aborts the connection:
//!
//! - the read or write in which the handler waits, or its next one, fails with
//!   [`TimedOut`](std::io::ErrorKind::TimedOut), and the error names the deadline. The handler can clean
//!   up, and cannot answer. [`Failure::abort_reason`] has the reason as a value;
//! - a parked connection is closed, and its session dropped;
//! - the client sees the end of the stream, or a reset if it goes on sending;
//! - [`Totals::timed_out`] counts the connection.
//!
//! Computing is not interrupted: a handler that neither reads nor writes notices nothing.
//!
//! A deadline is never early, and late by at most 20 ms and the time between two checks. That time is a
//! 64th of the shortest deadline that is set, but 2 ms at least and 1 s at most; `grace` counts as a
//! deadline. With the defaults the shortest is the handshake timeout of 5 s, on every transport, so
//! deadlines are up to 98 ms late. The write timeout is late by up to a tenth of its own length and 20 ms. No
//! connection has a timer, and no read or write makes a system call for its deadline.
//!
//! [`handle_request`](crate::Server::handle_request) checks the deadlines of all live connections, but
//! only while it waits for a client. So a handler on another thread or in a child meets its deadlines
//! during later calls, and a handler under [`Sequential`](crate::Sequential) has none: use the timeouts of
//! the connection there. Under `Sequential` a client that has not completed its TLS handshake, or sent its PROXY
//! header, does not hold up a call; the first call after the [`handshake_timeout`] ends it.
//!
//! [`Connection::set_read_timeout`] and [`set_write_timeout`](crate::Connection::set_write_timeout) set
//! timeouts of the handler's own, which are off by default. When such a timeout has passed, the read or
//! write fails with `TimedOut`, and the connection stays open.
//!
//! A client that connects and says nothing:
//!
//! ```
//! use std::io::Read;
//! use std::time::Duration;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Server, Tcp, Threading};
//!
//! let server = Server::<Tcp, Threading>::builder()
//!     .first_byte_timeout(Duration::from_millis(50))
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |conn| {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 1024).map(drop)
//! });
//! let mut silent = server.connect();
//! assert_eq!(silent.read(&mut [0]).unwrap(), 0);
//! let handle = server.handle().clone();
//! assert_eq!(server.stop().aborted, 0, "the deadline has ended it before the stop");
//! assert_eq!(handle.totals().timed_out, 1);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Slow clients
//!
//! - The first-byte and idle timeouts end a client that is silent. Until then the client holds the thread
//!   of its handler, unless the connection is [parked](crate::manual::handlers_and_sessions#parking).
//! - A client that sends a byte now and then is never idle: [`min_rate`] or [`request_timeout`] ends its
//!   connection, and [`whole_request`] keeps the connection away from the threads of a pool.
//! - The write timeout ends a client that does not read its answer, and spares a client that reads slowly.
//!
//! Next: [stopping](crate::manual::stopping).
//!
//! [`AtLimit`]: crate::limits::AtLimit
//! [`Builder::raise_descriptor_limit`]: crate::Builder::raise_descriptor_limit
//! [`Builder::verify`]: crate::Builder::verify
//! [`Connection::set_read_timeout`]: crate::Connection::set_read_timeout
//! [`Failure::abort_reason`]: crate::observe::Failure::abort_reason
//! [`Forking::max_children`]: crate::Forking::max_children
//! [`ServerHandle::abort`]: crate::ServerHandle::abort
//! [`ServerHandle::connections`]: crate::ServerHandle::connections
//! [`ServerHandle::set_limits`]: crate::ServerHandle::set_limits
//! [`TcpOptions::backlog`]: crate::net::TcpOptions::backlog
//! [`ThreadPool::new`]: crate::ThreadPool::new
//! [`Threading::max_threads`]: crate::Threading::max_threads
//! [`Totals::timed_out`]: crate::observe::Totals::timed_out
//! [`UnixOptions::backlog`]: crate::net::UnixOptions::backlog
//! [`at_limit`]: crate::Builder::at_limit
//! [`first_byte_timeout`]: crate::Builder::first_byte_timeout
//! [`handshake_timeout`]: crate::Builder::handshake_timeout
//! [`idle_timeout`]: crate::Builder::idle_timeout
//! [`lifetime`]: crate::Builder::lifetime
//! [`max_connections`]: crate::Builder::max_connections
//! [`max_per_address`]: crate::Builder::max_per_address
//! [`max_per_user`]: crate::Builder::max_per_user
//! [`min_rate`]: crate::Builder::min_rate
//! [`next_message`]: crate::Connection::next_message
//! [`rate`]: crate::Builder::rate
//! [`request_timeout`]: crate::Builder::request_timeout
//! [`whole_request`]: crate::Builder::whole_request
//! [`write_timeout`]: crate::Builder::write_timeout
