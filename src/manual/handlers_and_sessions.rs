//! Handlers and sessions: the forms of a handler, what it returns, and state of one connection.
//!
//! The server calls a handler with `&mut` access to a connection or a datagram. All threads of the server
//! share one handler, which is therefore `Send`, `Sync` and `'static`, and called through `&self`.
//!
//! | form | served with | take it for |
//! |---|---|---|
//! | a closure, or a function | [`serve_forever`], [`spawn`], [`handle_request`] | most handlers |
//! | a type that implements [`Handler`] | [`serve_handler`], [`spawn_handler`] | state that all connections share, with a name and methods |
//! | a closure with a state for each connection | [`per_connection`] makes a closure of it | state that lives as long as its connection |
//! | a type that implements [`RequestHandler`] | [`per_request`] makes a closure of it | the same, with a setup and a finish |
//!
//! # What a handler returns
//!
//! `()`, [`Next`], or a `Result` of one of them with any error ([`IntoOutcome`]).
//!
//! | value | meaning |
//! |---|---|
//! | `()`, [`Next::Close`] | the connection is over: the server sends buffered output, and closes |
//! | [`Next::Park`] | the connection stays open, [parked](#parking); the handler is called again when the client has sent something, or has ended the stream |
//! | [`Next::ParkFor`] | as `Park`; the handler is also called again when a duration is over and the client has sent nothing |
//! | [`Next::Stop`] | the connection is over, and the server [stops](crate::manual::stopping) |
//! | an error, or a panic | the connection is over and has failed; see [errors](crate::manual::errors) |
//!
//! # A closure
//!
//! The closure owns the state that it captures. A function of `&mut impl Connection` serves TCP and Unix
//! streams alike. For a method that only one transport has ([`peer_addr`]), name the type of the
//! connection: [`TcpConnection`], [`UnixConnection`].
//!
//! ```
//! use std::io::{Read, Write};
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use socketserver::testing::TestServer;
//! use socketserver::{Server, Tcp, Threading};
//!
//! let visits = AtomicU64::new(0);
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, move |conn| {
//!     let visit = visits.fetch_add(1, Ordering::Relaxed) + 1;
//!     writeln!(conn, "visit {visit}")
//! });
//! let mut answer = String::new();
//! server.connect().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "visit 1\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # A type with shared state
//!
//! ```
//! use std::io::Read;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use socketserver::{Connection, Handler, Next, Outcome, Server, Tcp, Threading};
//!
//! #[derive(Default)]
//! struct Visits(AtomicU64);
//!
//! impl<C: Connection> Handler<C> for Visits {
//!     fn handle(&self, conn: &mut C) -> Outcome {
//!         let visit = self.0.fetch_add(1, Ordering::Relaxed) + 1;
//!         writeln!(conn, "visit {visit}")?;
//!         Ok(Next::Close)
//!     }
//! }
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let guard = server.spawn_handler(Visits::default())?;
//! let addr = guard.handle().local_addrs()[0].socket_addr().unwrap();
//! let mut answer = String::new();
//! std::net::TcpStream::connect(addr).unwrap().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "visit 1\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Parking
//!
//! A connection between two messages is *idle*. A handler has two ways to wait there:
//!
//! | | [`Connection::next_message`], in a loop | [`Next::Park`], a return |
//! |---|---|---|
//! | the handler | goes on where it was | is called anew |
//! | while the client is silent | holds its thread, process or coroutine | holds none of them |
//! | state of the connection | local variables | a session: [`per_connection`] or [`per_request`] |
//!
//! The deadlines apply to an idle connection of either kind. A stop may end it after its
//! [grace](crate::manual::stopping), and [`AtLimit::ShedOldestIdle`] may close it. Under
//! [`Forking`](crate::Forking) a parked connection still holds its child process.
//!
//! Two options of the server park a connection before its handler is called:
//! [`Builder::client_speaks_first`] until the client's first byte has come, [`Builder::whole_request`]
//! until a whole request has come. Then a client that connects and says nothing, or sends a byte a
//! second, holds no thread.
//!
//! # Sessions
//!
//! [`per_connection`] creates a state when the handler is called for a connection for the first time,
//! and drops the state when the connection ends. Here the number of lines survives each parking:
//!
//! ```
//! use std::io::{self, BufRead, BufReader, Write};
//! use socketserver::net::TcpConnection;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Next, Server, Tcp, ThreadPool, per_connection};
//!
//! fn count(conn: &mut TcpConnection, lines: &mut u32) -> io::Result<Next> {
//!     if conn.read_line_max(&mut String::new(), 1024)? == 0 {
//!         return Ok(Next::Close);
//!     }
//!     *lines += 1;
//!     writeln!(conn, "{lines}")?;
//!     Ok(Next::Park)
//! }
//!
//! let server = Server::<Tcp>::builder().model(ThreadPool::new(1)).bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, per_connection(u32::default, count));
//! // One thread serves both clients: between their lines they hold none.
//! let mut clients = [server.connect(), server.connect()].map(BufReader::new);
//! for expected in ["1\n", "2\n"] {
//!     for client in &mut clients {
//!         client.get_mut().write_all(b"a line\n").unwrap();
//!         let mut answer = String::new();
//!         client.read_line(&mut answer).unwrap();
//!         assert_eq!(answer, expected);
//!     }
//! }
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! The server calls a [`RequestHandler`] in Python's order: `setup` once, `handle` once and after each
//! parking, `finish` once. The trait's documentation says which method is called at which end of a
//! connection. A session moves from thread to thread with its connection, so it is `Send`.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::sync::mpsc::{Sender, channel};
//! use socketserver::testing::TestServer;
//! use socketserver::{
//!     Connection, HandlerError, Next, Outcome, RequestHandler, Server, Tcp, Threading, per_request,
//! };
//!
//! struct Session {
//!     lines: u32,
//!     log: Sender<u32>,
//! }
//!
//! impl<C: Connection> RequestHandler<C> for Session {
//!     fn setup(&mut self, conn: &mut C) -> Result<(), HandlerError> {
//!         conn.set_write_buffer(4096)?;
//!         writeln!(conn, "hello {}", conn.peer())?;
//!         Ok(())
//!     }
//!
//!     fn handle(&mut self, conn: &mut C) -> Outcome {
//!         if conn.read_line_max(&mut String::new(), 1024)? == 0 {
//!             return Ok(Next::Close);
//!         }
//!         self.lines += 1;
//!         Ok(Next::Park)
//!     }
//!
//!     fn finish(&mut self, _: &mut C) -> Result<(), HandlerError> {
//!         self.log.send(self.lines)?;
//!         Ok(())
//!     }
//! }
//!
//! let (log, logged) = channel();
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, per_request(move || Session { lines: 0, log: log.clone() }));
//! let mut client = BufReader::new(server.connect());
//! client.read_line(&mut String::new()).unwrap();
//! client.get_mut().write_all(b"one\ntwo\n").unwrap();
//! drop(client);
//! assert_eq!(logged.recv().unwrap(), 2);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Reading and writing
//!
//! - A [`Connection`] is [`BufRead`](std::io::BufRead) and [`Write`](std::io::Write). No read or write
//!   fails with `WouldBlock` or `Interrupted`.
//! - Each write is sent at once, unless [`Connection::set_write_buffer`] has set a buffer; a buffer is
//!   sent when it is full, on flush, before a wait for input, and at the end.
//! - [`Connection::writer`](crate::Connection::writer) returns a [`Writer`](crate::net::Writer), through
//!   which other handlers and threads write to the connection.
//! - [`TcpConnection::connect`], [`UnixConnection::connect`] and
//!   [`SeqpacketConnection::connect`](crate::net::SeqpacketConnection::connect) connect out, for handlers that are
//!   clients of other servers.
//!
//! Next: [limits and deadlines](crate::manual::limits_and_deadlines).
//!
//! [`AtLimit::ShedOldestIdle`]: crate::limits::AtLimit::ShedOldestIdle
//! [`Builder::client_speaks_first`]: crate::Builder::client_speaks_first
//! [`Builder::whole_request`]: crate::Builder::whole_request
//! [`Connection`]: crate::Connection
//! [`Connection::next_message`]: crate::Connection::next_message
//! [`Connection::set_write_buffer`]: crate::Connection::set_write_buffer
//! [`Handler`]: crate::Handler
//! [`IntoOutcome`]: crate::IntoOutcome
//! [`Next`]: crate::Next
//! [`Next::Close`]: crate::Next::Close
//! [`Next::Park`]: crate::Next::Park
//! [`Next::ParkFor`]: crate::Next::ParkFor
//! [`Next::Stop`]: crate::Next::Stop
//! [`RequestHandler`]: crate::RequestHandler
//! [`TcpConnection`]: crate::net::TcpConnection
//! [`TcpConnection::connect`]: crate::net::TcpConnection::connect
//! [`UnixConnection`]: crate::net::UnixConnection
//! [`UnixConnection::connect`]: crate::net::UnixConnection::connect
//! [`handle_request`]: crate::Server::handle_request
//! [`peer_addr`]: crate::net::TcpConnection::peer_addr
//! [`per_connection`]: crate::per_connection
//! [`per_request`]: crate::per_request
//! [`serve_forever`]: crate::Server::serve_forever
//! [`serve_handler`]: crate::Server::serve_handler
//! [`spawn`]: crate::Server::spawn
//! [`spawn_handler`]: crate::Server::spawn_handler
