//! Stopping: who may stop a server, the steps of a stop, and what a client sees.
//!
//! # Who stops a server
//!
//! | call | from where |
//! |---|---|
//! | [`ServerHandle::shutdown`] | any thread, handler, signal handler or forked child; before, during or after serving. It returns at once |
//! | [`ServerHandle::shutdown_within`] | the same; with a drain of its own, and without a lame duck. Zero aborts at once |
//! | [`Next::Stop`] | a handler's return value. The same as `shutdown`, in every model |
//! | [`ServerGuard::stop`], or dropping the guard | the owner of a server that was [spawned](crate::Server::spawn). They wait until the server has drained |
//! | [`ServerHandle::retire`] | one process of a server: it drains, and a worker is [replaced](crate::manual::several_processes) |
//!
//! [`serve_forever`](crate::Server::serve_forever) returns when the server has ended, with a [`Report`]
//! of how many connections were aborted. A second call of `shutdown` changes nothing; the earliest
//! deadline counts, so a program that is asked twice can call `shutdown_within(Duration::ZERO)`.
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
//! The library installs no handler for SIGTERM or SIGINT: without one they end the process.
//! `shutdown` is async-signal-safe (signal-safety(7)), so a handler may call it, here with the crate
//! `signal-hook`:
//!
//! ```
//! use std::io::Write;
//! use signal_hook::consts::SIGTERM;
//! use signal_hook::low_level;
//! use socketserver::{Server, Tcp, Threading};
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let handle = server.handle();
//! // SAFETY: `shutdown` is async-signal-safe.
//! unsafe { low_level::register(SIGTERM, move || handle.shutdown()) }.unwrap();
//! # low_level::raise(SIGTERM).unwrap();
//! server.serve_forever(|conn| conn.write_all(b"hello world\n"))?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # The steps
//!
//! [`ServerHandle::state`] names them, [`ServerHandle::wait_for`] waits for one, and an
//! [`Observer`](crate::observe::Observer) receives each.
//!
//! | [`State`] | what happens | how long |
//! |---|---|---|
//! | `LameDuck` | the server still accepts; [`is_stopping`] and [`Accepted::stopping`] say `true`, so that health checks can fail | [`lame_duck`], none by default |
//! | `ServingBacklog` | the kernel takes in nothing more; what it has taken in is accepted and served | until the backlog is empty and nothing is on its way |
//! | `Draining` | the listeners are closed; live connections end by themselves | until the last one has ended |
//! | `Aborting` | connections that are left are aborted | from [`drain_timeout`] after the lame duck on, 25 s by default |
//! | `Closed` | `serve_forever` returns | |
//!
//! The server goes on the moment that a step is done: without connections, a stop takes milliseconds.
//! With `lame_duck` and `drain_timeout` below the time that a service manager gives (30 s in
//! Kubernetes, 90 s in systemd), the server ends before it is killed.
//!
//! # Idle connections
//!
//! A kept-alive connection would hold up every stop. The server ends a connection that is *idle*:
//! parked, or in [`Connection::next_message`]. It stays for [`idle_grace`] after the lame duck, 1 s by
//! default, so that a request which is on its way is answered; then it gets the end of the stream. That
//! is no abort. There is no grace while clients in the backlog wait for what an idle connection holds.
//!
//! A handler that waits in `read` between two messages is not idle for the server: it holds up the stop
//! until the drain deadline. It should use `next_message`, or look at [`Accepted::stopping`] after each
//! message.
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
//! | when the stop begins, the client | it sees |
//! |---|---|
//! | is in the backlog | its connection is served |
//! | connects during the lame duck | its connection is served |
//! | connects after that | TCP: no answer, and "connection refused" once the listener is closed; a Unix stream: refused at once |
//! | waits for an answer | the answer; then the end of the stream, where the handler uses `next_message`, parks or returns |
//! | is idle, and sends a message within the grace | the answer, and the end of the stream |
//! | is idle, and silent | the end of the stream, when the grace is over |
//! | is not done at the drain deadline | the end of the stream in the midst of an answer, or a reset |
//! | is still in the backlog at the drain deadline | a reset |
//! | sends a datagram | an answer if it was received before; else what a closed port answers |
//!
//! That nothing in the backlog is lost holds for listeners that the server has bound itself. Of a listener that it has
//! [adopted](crate::Tcp::from_fd), connections that come after the last accept are reset, unless another
//! program has it too.
//!
//! # What an abort is
//!
//! The connection's socket is shut down: reads and writes of its handler fail with
//! [`TimedOut`](std::io::ErrorKind::TimedOut), and [`Report::aborted`] counts it. A handler that neither
//! reads nor writes notices nothing. Two seconds after the abort `Threading` and `ThreadPool` return and
//! leave its thread behind; `Forking` has killed its process at the deadline, `Prefork` kills a worker
//! three seconds after it; `Sequential` and `Coroutines` return when the handler has.
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
