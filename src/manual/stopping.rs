//! Stopping: who may stop a server, the steps of a stop, and what a client sees.
//!
//! # Who stops a server
//!
//! | call | from where, and what it does |
//! |---|---|
//! | [`ServerHandle::shutdown`] | any thread, handler, signal handler or forked child; before, during or after serving. Returns at once |
//! | [`ServerHandle::shutdown_within`] | as `shutdown`, with a drain timeout of its own and without a [lame duck](#the-steps). Zero aborts at once; idle connections get the end of the stream |
//! | [`Next::Stop`] | a handler, by returning it, in every model. As `shutdown` |
//! | [`ServerGuard::stop`], or dropping the guard | the owner of a server that was [spawned](crate::Server::spawn). Both wait until the server has drained |
//! | [`ServerHandle::retire`] | a process of a server, which then ends alone: a [worker](crate::manual::several_processes) drains and is replaced, a child of `Forking` ends with its connection. In any other process as `shutdown` |
//!
//! [`serve_forever`](crate::Server::serve_forever) returns when the server has ended, with a [`Report`]
//! of how many connections were aborted. A second call of `shutdown` changes nothing. Of several drain
//! deadlines the earliest counts, so a program that is asked to stop twice can call
//! `shutdown_within(Duration::ZERO)`.
//!
//! A server that is stopped before it serves still serves its backlog, and returns.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use socketserver::{Connection, Next, Server, Tcp, Threading};
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! let mut client = TcpStream::connect(addr).unwrap();
//! client.write_all(b"stop\n").unwrap();
//!
//! let report = server.serve_forever(|conn| {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 80)?;
//!     conn.write_all(b"goodbye\n")?;
//!     Ok::<_, std::io::Error>(if line == "stop\n" { Next::Stop } else { Next::Close })
//! })?;
//! assert_eq!(report.aborted, 0);
//!
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "goodbye\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Signals
//!
//! The library installs no handler for SIGTERM or SIGINT; without a handler these signals end the process.
//! `shutdown` is async-signal-safe (signal-safety(7)), so a signal handler may call it. The example installs
//! its handler with signal(2); crates such as `signal-hook` need less code.
//!
//! ```
//! use std::io::Write;
//! use std::sync::OnceLock;
//! use socketserver::{Server, ServerHandle, Tcp, Threading};
//!
//! static SERVER: OnceLock<ServerHandle> = OnceLock::new();
//!
//! extern "C" fn stop(_signal: libc::c_int) {
//!     if let Some(server) = SERVER.get() {
//!         server.shutdown();
//!     }
//! }
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! SERVER.set(server.handle()).expect("this is the only server");
//! // SAFETY: `stop` makes async-signal-safe calls alone: an atomic load, and `shutdown`.
//! unsafe { libc::signal(libc::SIGTERM, stop as *const () as libc::sighandler_t) };
//! # // SAFETY: raise(3) has no preconditions.
//! # unsafe { libc::raise(libc::SIGTERM) };
//! server.serve_forever(|conn| conn.write_all(b"hello world\n"))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # The steps
//!
//! [`ServerHandle::state`] returns the step, [`ServerHandle::wait_for`] waits for a step, and an
//! [`Observer`](crate::observe::Observer) receives each step.
//!
//! | [`State`] | what happens | how long |
//! |---|---|---|
//! | `LameDuck` | the server still accepts; [`is_stopping`] and [`Accepted::stopping`] return `true`, so that health checks can fail | [`lame_duck`], none by default |
//! | `ServingBacklog` | the kernel takes in no new connection; the server accepts and serves the backlog | until the backlog is empty and no TCP handshake is on its way (1 s at most for these), or until the drain deadline |
//! | `Draining` | the listeners are closed; live connections end by themselves | until the last connection has ended, or until the drain deadline: [`drain_timeout`], 25 s by default, after the lame duck |
//! | `Aborting` | the drain deadline has come, and the server aborts the connections that are left | until their handlers have returned: [see below](#what-an-abort-is) |
//! | `Closed` | `serve_forever` returns | |
//!
//! The lame duck lasts its whole time; each later step ends as soon as its work is done. Without a lame
//! duck and without connections, a stop takes milliseconds. Keep the sum of `lame_duck` and
//! `drain_timeout` a few seconds below the time that a service manager gives (30 s in Kubernetes, 90 s in
//! systemd), so that the server ends before the manager kills it.
//!
//! # Idle connections
//!
//! A kept-alive connection would hold up every stop, so a stop ends connections that are *idle*:
//! [parked](crate::manual::handlers_and_sessions#parking), or in [`Connection::next_message`]. An idle
//! connection stays for [`idle_grace`] after the
//! lame duck, 1 s by default, so that a request on its way is answered. After the grace the client gets
//! the end of the stream, which is no abort. The grace ends early when clients in the backlog wait for
//! the permit, thread or process of an idle connection.
//!
//! A connection whose handler waits in `read` between two messages is not idle, and holds up the stop
//! until the drain deadline. Such a handler should use `next_message` instead.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Server, Tcp, Threading};
//!
//! fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
//!     let mut line = String::new();
//!     while conn.next_message()? {
//!         conn.read_line_max(&mut line, 1024)?;
//!         conn.write_all(line.to_uppercase().as_bytes())?;
//!         line.clear();
//!     }
//!     Ok(())
//! }
//!
//! // A grace as long as the drain timeout.
//! let server = Server::<Tcp, Threading>::builder().idle_grace(None).bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, shout);
//! let mut client = BufReader::new(server.connect());
//! let mut ask = |question: &[u8]| {
//!     client.get_mut().write_all(question).unwrap();
//!     let mut answer = String::new();
//!     client.read_line(&mut answer).unwrap();
//!     answer
//! };
//! assert_eq!(ask(b"before\n"), "BEFORE\n");
//! server.handle().shutdown();
//! assert_eq!(ask(b"after\n"), "AFTER\n");
//! assert_eq!(client.read_line(&mut String::new()).unwrap(), 0, "it was the last one");
//! assert_eq!(server.stop().aborted, 0);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # What a client sees
//!
//! | when the stop begins, the client | what the client sees |
//! |---|---|
//! | is in the backlog | its connection is served |
//! | connects during the lame duck | its connection is served |
//! | connects after the lame duck | TCP: no answer, and "connection refused" once the listener is closed; a Unix stream or seqpacket socket: refused at once |
//! | waits for an answer | the answer; then, where the handler uses `next_message`, parks or returns, the end of the stream |
//! | is idle, and sends a message within the grace | the answer, and the end of the stream |
//! | is idle, and silent | the end of the stream, when the grace is over |
//! | still waits for its answer at the drain deadline | the end of the stream in the midst of an answer, or a reset |
//! | is still in the backlog at the drain deadline | a reset |
//! | has sent a datagram | the answer. A later datagram meets a closed port |
//!
//! A stop loses no connection of a listener that the server has bound itself, within two limits: it
//! waits at most 1 s for TCP handshakes that have begun, and serves the backlog until the drain deadline
//! at the latest. On a listener that the server has [adopted](crate::Tcp::from_fd), connections that come after
//! the last accept are reset, unless another program has the listener too.
//!
//! # What an abort is
//!
//! The server shuts the connection's socket down: reads and writes of its handler fail with
//! [`TimedOut`](std::io::ErrorKind::TimedOut). [`Report::aborted`] counts the connection. A handler that
//! neither reads nor writes does not notice, and the models differ:
//!
//! | model | a handler that goes on after the drain deadline |
//! |---|---|
//! | `Threading`, `ThreadPool` | `serve_forever` returns 2.75 s after the deadline at the latest, and leaves the thread behind |
//! | `Sequential`, `Coroutines` | `serve_forever` returns when the handler has returned |
//! | `Forking` | the child process is killed at the deadline |
//! | `Prefork` | the worker process is killed 3 s after the deadline, if it has not ended before |
//!
//! Next: [sharing state](crate::manual::sharing_state).
//!
//! [`Accepted::stopping`]: crate::net::Accepted::stopping
//! [`Connection::next_message`]: crate::Connection::next_message
//! [`Next::Stop`]: crate::Next::Stop
//! [`Report`]: crate::Report
//! [`Report::aborted`]: crate::Report::aborted
//! [`ServerGuard::stop`]: crate::ServerGuard::stop
//! [`ServerHandle::retire`]: crate::ServerHandle::retire
//! [`ServerHandle::shutdown_within`]: crate::ServerHandle::shutdown_within
//! [`ServerHandle::shutdown`]: crate::ServerHandle::shutdown
//! [`ServerHandle::state`]: crate::ServerHandle::state
//! [`ServerHandle::wait_for`]: crate::ServerHandle::wait_for
//! [`State`]: crate::observe::State
//! [`drain_timeout`]: crate::Builder::drain_timeout
//! [`idle_grace`]: crate::Builder::idle_grace
//! [`is_stopping`]: crate::ServerHandle::is_stopping
//! [`lame_duck`]: crate::Builder::lame_duck
