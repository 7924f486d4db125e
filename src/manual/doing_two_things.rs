//! Doing two things at once: a handler that waits for another handler, for the first of several events,
//! or for several connections.
//!
//! A read waits for one client. The functions of [`task`](crate::task) wait for anything else, in every
//! model and in every build of the crate: a coroutine is suspended meanwhile, a thread blocks.
//!
//! | a handler that | uses |
//! |---|---|
//! | waits for another handler, or for the program | [`block_on`], and a channel |
//! | holds a lock while it waits | [`block_on`], and an asynchronous lock |
//! | waits for the first of several events | [`block_on`], and a future that combines them |
//! | waits for a limited time, whatever it waits for | [`timeout`] |
//! | reads from two connections at once | [`scope`] |
//!
//! The channels and locks come from other crates: [`block_on`] waits for any future that needs no
//! runtime. The examples use `async-channel`, `async-lock` and `futures-lite`; `event-listener`,
//! `futures::channel` and `tokio::sync` work too.
//!
//! # A channel between handlers
//!
//! One client waits for a note that another client sends:
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use socketserver::net::TcpConnection;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, HandlerError, Server, Tcp, Threading, task};
//!
//! let (notes, next) = async_channel::bounded::<String>(16);
//! let serve = move |conn: &mut TcpConnection| -> Result<(), HandlerError> {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 256)?;
//!     if line == "next\n" {
//!         let note = task::block_on(next.recv())??;
//!         conn.write_all(note.as_bytes())?;
//!     } else {
//!         task::block_on(notes.send(line))??;
//!     }
//!     Ok(())
//! };
//!
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, serve);
//! let mut waits = BufReader::new(server.connect());
//! waits.get_mut().write_all(b"next\n").unwrap();
//! server.connect().write_all(b"hello\n").unwrap();
//! let mut note = String::new();
//! waits.read_line(&mut note).unwrap();
//! assert_eq!(note, "hello\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! `block_on` has an error of its own (see [below](#what-ends-a-wait)) beside that of the channel, so there
//! are two `?`. A bounded channel makes the sender wait while the channel is full. Handlers of one process
//! share a channel, handlers of several processes do not: see
//! [sharing state](crate::manual::sharing_state#under-forking-and-prefork).
//!
//! # A lock over a wait
//!
//! A lock of `std` must be released before a wait. An asynchronous lock can be held over a wait: here while a
//! handler asks another server, on a connection that all handlers share.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use async_lock::Mutex;
//! use socketserver::net::{Dialed, TcpConnection};
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, HandlerError, Server, Tcp, Threading, task};
//!
//! type Shared = Mutex<Option<Dialed<TcpConnection>>>;
//!
//! fn ask(shared: &Shared, addr: SocketAddr, line: &mut String) -> Result<(), HandlerError> {
//!     let mut shared = task::block_on(shared.lock())?;
//!     // An error leaves `None`, so the next handler connects anew.
//!     let mut upstream = match shared.take() {
//!         Some(upstream) => upstream,
//!         None => TcpConnection::connect(addr, Duration::from_secs(5))?,
//!     };
//!     upstream.write_all(line.as_bytes())?;
//!     line.clear();
//!     upstream.read_line_max(line, 256)?;
//!     *shared = Some(upstream);
//!     Ok(())
//! }
//!
//! let bind = || Server::<Tcp, Threading>::bind("127.0.0.1:0");
//! let upstream = TestServer::spawn(bind()?, |conn| {
//!     let mut line = String::new();
//!     while conn.read_line_max(&mut line, 256)? > 0 {
//!         conn.write_all(line.to_uppercase().as_bytes())?;
//!         line.clear();
//!     }
//!     Ok::<(), std::io::Error>(())
//! });
//! let (addr, shared) = (upstream.addr().socket_addr().unwrap(), Shared::default());
//! let server = TestServer::spawn(bind()?, move |conn| -> Result<(), HandlerError> {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 256)?;
//!     ask(&shared, addr, &mut line)?;
//!     Ok(conn.write_all(line.as_bytes())?)
//! });
//! for (question, expected) in [("one\n", "ONE\n"), ("two\n", "TWO\n")] {
//!     let mut client = BufReader::new(server.connect());
//!     client.get_mut().write_all(question.as_bytes()).unwrap();
//!     let mut answer = String::new();
//!     client.read_line(&mut answer).unwrap();
//!     assert_eq!(answer, expected);
//! }
//! assert_eq!(upstream.handle().totals().accepted, 1, "both questions took one connection");
//! # drop(server);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # The first of two events
//!
//! `futures_lite::future::or` is ready with the first of two futures, and drops the other one. Here a
//! handler waits for work, or for the program to drop the sender of `closing`:
//!
//! ```
//! use async_channel::Receiver;
//! use futures_lite::future;
//! use socketserver::task;
//!
//! fn next(work: &Receiver<u32>, closing: &Receiver<()>) -> std::io::Result<Option<u32>> {
//!     let closed = async { closing.recv().await.ok().and(None) };
//!     task::block_on(future::or(closed, async { work.recv().await.ok() }))
//! }
//!
//! let (jobs, work) = async_channel::unbounded();
//! let (open, closing) = async_channel::bounded(1);
//! jobs.send_blocking(7).unwrap();
//! assert_eq!(next(&work, &closing)?, Some(7));
//! drop(open);
//! assert_eq!(next(&work, &closing)?, None);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A read of a connection is no future: a handler that waits for its client and for a channel
//! [spawns](#both-directions-of-a-relay) a closure for one of the two waits.
//!
//! # A deadline
//!
//! [`timeout`] gives a deadline to every wait of a closure: reads, writes, `connect`, [`block_on`], and the
//! closures that it spawns. A wait that is not over by then fails with [`TimedOut`]:
//!
//! ```
//! use std::io::ErrorKind::TimedOut;
//! use std::time::Duration;
//! use socketserver::task;
//!
//! let (notes, next) = async_channel::bounded::<u32>(1);
//! let soon = Duration::from_millis(10);
//! let receive = || task::timeout(soon, || task::block_on(next.recv()));
//! assert_eq!(receive().unwrap_err().kind(), TimedOut);
//!
//! notes.send_blocking(7).unwrap();
//! assert_eq!(receive()?, Ok(7));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The deadline covers the whole closure, where
//! [`set_read_timeout`](crate::Connection::set_read_timeout) begins anew with each read. Timeouts nest, and
//! the earliest deadline counts. The connection stays open: a read that has failed can be tried again, but
//! a `write_all` that has failed may have sent a part. A [`sleep`] ends early, without an error.
//!
//! # Several questions at once
//!
//! [`scope`] runs closures beside the handler, and returns when all of them have ended. They may borrow
//! the handler's variables. Here two servers are asked at once, so that the handler waits for the slower
//! server, and not for both in turn:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use socketserver::net::TcpConnection;
//! use socketserver::testing::TestServer;
//! use socketserver::{HandlerError, Server, Tcp, Threading, task};
//!
//! fn ask(addr: SocketAddr) -> Result<String, HandlerError> {
//!     let mut answer = String::new();
//!     TcpConnection::connect(addr, Duration::from_secs(5))?.read_to_string(&mut answer)?;
//!     Ok(answer)
//! }
//!
//! fn ask_all(addrs: &[SocketAddr]) -> Result<String, HandlerError> {
//!     task::scope(|scope| {
//!         let asked: Vec<_> = addrs.iter().map(|addr| scope.spawn(|| ask(*addr))).collect();
//!         let answers = asked.into_iter().map(|asked| asked?.join().map_err(|_| "a panic")?);
//!         answers.collect()
//!     })
//! }
//!
//! let says = |text: &'static str| -> Result<_, socketserver::Error> {
//!     let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//!     Ok(TestServer::spawn(server, move |conn| conn.write_all(text.as_bytes())))
//! };
//! let servers = [says("one ")?, says("two ")?];
//! let addrs = servers.each_ref().map(|server| server.addr().socket_addr().unwrap());
//! let answers = task::timeout(Duration::from_secs(10), || ask_all(&addrs));
//! assert_eq!(answers.unwrap(), "one two ");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [`join`] returns the result of a closure, or its panic. Under
//! [`Coroutines`](crate::manual::coroutines) the closures are coroutines of the handler's worker, and take
//! turns with the handler where they wait. In the other models each closure has a thread, which the server
//! keeps for later closures until the thread has been idle for 10 s. Outside of handlers each closure has a
//! new thread.
//!
//! # Both directions of a relay
//!
//! [`halves`] divides a connection into a half that reads and a half that writes. Each direction of a relay
//! reads from one connection, writes to the other connection, and passes on the end of the input:
//!
//! ```
//! use std::io::{self, Read, Write};
//! use std::net::{Shutdown, SocketAddr};
//! use std::time::Duration;
//! use socketserver::net::{ReadHalf, TcpConnection, WriteHalf};
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, HandlerError, Server, Tcp, Threading, task};
//!
//! fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
//!     let copied = io::copy(&mut from, &mut to);
//!     // After a failure too, so that the other direction ends.
//!     let ended = to.shutdown();
//!     copied.and(ended)
//! }
//!
//! fn relay(client: &mut TcpConnection, addr: SocketAddr) -> Result<(), HandlerError> {
//!     let mut upstream = TcpConnection::connect(addr, Duration::from_secs(5))?;
//!     let (from_upstream, to_upstream) = upstream.halves()?;
//!     let (from_client, to_client) = client.halves()?;
//!     task::scope(|scope| {
//!         let back = scope.spawn(|| pass(from_upstream, to_client))?;
//!         let there = pass(from_client, to_upstream);
//!         let back = back.join().map_err(|_| "a panic")?;
//!         Ok(there.and(back)?)
//!     })
//! }
//!
//! let bind = || Server::<Tcp, Threading>::bind("127.0.0.1:0");
//! let upstream = TestServer::spawn(bind()?, |conn| {
//!     let mut text = String::new();
//!     conn.read_to_string(&mut text)?;
//!     conn.write_all(text.to_uppercase().as_bytes())
//! });
//! let addr = upstream.addr().socket_addr().unwrap();
//! let server = TestServer::spawn(bind()?, move |client| relay(client, addr));
//! let mut client = server.connect();
//! client.write_all(b"hello").unwrap();
//! client.shutdown(Shutdown::Write).unwrap();
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "HELLO");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! `io::copy` moves at most 8 KiB at a time. For bulk, copy from a
//! [`BufReader::with_capacity(64 * 1024, from)`](std::io::BufReader::with_capacity): `io::copy` uses its buffer, and
//! makes an eighth of the system calls.
//!
//! The server's deadlines apply to both directions: bytes that move in either direction keep the client's connection
//! from being idle, and the server aborts the connection of a client that takes nothing for the
//! [`write_timeout`](crate::Builder::write_timeout).
//!
//! [`Relay`](crate::net::Relay) is such a relay in one wait, without a second thread or coroutine. `Relay` also passes on
//! resets, and holds no buffer while both sides are silent.
//!
//! One future can wait for both directions and for a channel too: in [`block_on`], with
//! [`poll_read`](crate::Connection::poll_read) and [`poll_write`](crate::Connection::poll_write) of a connection or
//! of its halves.
//!
//! # Writing from elsewhere
//!
//! [`Connection::writer`](crate::Connection::writer) returns a [`Writer`], through which other handlers and threads
//! write to a connection. The `write_all` calls of several writers do not interleave. A write
//! waits for a slow reader as the handler's own writes do; [`set_write_timeout`](crate::net::Writer::set_write_timeout) and
//! [`timeout`] bound the wait. A slow client holds up every task that writes to it. To send the same bytes to many
//! clients, give each client a bounded queue and let its own handler write.
//!
//! # What ends a wait
//!
//! | a wait | at the deadline of a [`timeout`] | when the connection of the handler is aborted |
//! |---|---|---|
//! | [`block_on`] | fails with [`TimedOut`]; its future is dropped | fails with [`ConnectionAborted`]; its future is dropped |
//! | a read or write of the handler's connection | fails with [`TimedOut`], and can be tried again | fails with [`TimedOut`] |
//! | `connect`, a read or write of a [`Dialed`] connection | fails with [`TimedOut`] | fails with [`ConnectionAborted`] |
//! | [`sleep`] | returns early | unwinds the handler or closure, as a panic does but without a message |
//! | [`scope`], [`join`] | waits for closures, whose own waits end as above | the same |
//! | [`offload`] | goes on | unwinds a coroutine; on a thread it goes on |
//!
//! After the deadline, a read still returns input that has arrived, and [`block_on`] the output of a future that
//! is ready; [`block_on`] does so after an abort too.
//!
//! - A connection is aborted by a [deadline](crate::manual::limits_and_deadlines#deadlines) of the server,
//!   by [`ServerHandle::abort`], and at the drain deadline of a stop. The error's text is the reason, and
//!   every later wait fails too: the handler cleans up, and returns.
//! - The closures that a handler has spawned are aborted with it.
//! - While a handler waits for anything but its own connection, a client that is silent, or has ended its
//!   stream, aborts nothing: only [`request_timeout`](crate::Builder::request_timeout) and
//!   [`lifetime`](crate::Builder::lifetime) count. Neither is set by default, so give such a wait a [`timeout`].
//! - If the handler returns the error of an abort, [`Failure::abort_reason`] has the reason, and
//!   [`is_disconnect`](crate::observe::Failure::is_disconnect) is false.
//! - A stop does not end a wait before the drain deadline: a handler in such a wait is not idle. A
//!   program that wants such a handler to end sooner closes a channel, as in [the first of two
//!   events](#the-first-of-two-events). Under [`Forking`](crate::Forking) the child is killed at the drain
//!   deadline.
//! - Outside of handlers only a `timeout` ends a wait.
//!
//! # What a handler must not do
//!
//! | mistake | what happens | instead |
//! |---|---|---|
//! | holding a lock of `std` over a wait, under `Coroutines` | another coroutine that wants the lock blocks their worker, and so the holder: a deadlock | release the lock before the wait, or use an asynchronous lock |
//! | waiting with `std::sync::mpsc`, a `Condvar`, `recv_blocking` or `std::net` | neither a [`timeout`] nor an abort ends the wait; under `Coroutines` all coroutines of the worker wait | [`block_on`] with an asynchronous channel; the connections of this crate |
//! | [`block_on`] with a future that needs the reactor or the timers of a runtime (`tokio::net`, `tokio::time`) | the future panics, or is never ready | run the future in its runtime, and wait for a channel or the task's handle; [`timeout`] and [`sleep`] for time |
//! | spawning a closure that neither ends nor waits with this crate | [`scope`] does not return, so the handler goes on [after the drain deadline](crate::manual::stopping#what-an-abort-is) | end it by a channel that is closed or an atomic flag |
//! | computing side by side with [`scope`], under `Coroutines` | the closures take turns on one thread | [`offload`] |
//!
//! # Bounds
//!
//! - 1,024 closures of one scope run at once;
//! - in models without coroutines, 1,024 threads run the closures of all handlers of a server, in each process.
//!   They are apart from the threads of the model.
//!
//! Beyond either bound, [`spawn`] fails at once with [`ResourceBusy`]: the closure neither waits for its turn nor
//! runs in the caller. [`spawn`] fails with the system's error if there is no thread, or no memory for the
//! stack of a coroutine. A handler that gets such an error can join a closure and try again, do the work
//! itself, or send its client an error.
//!
//! Next: [several processes](crate::manual::several_processes).
//!
//! [`ConnectionAborted`]: std::io::ErrorKind::ConnectionAborted
//! [`Dialed`]: crate::net::Dialed
//! [`Failure::abort_reason`]: crate::observe::Failure::abort_reason
//! [`ResourceBusy`]: std::io::ErrorKind::ResourceBusy
//! [`ServerHandle::abort`]: crate::ServerHandle::abort
//! [`TimedOut`]: std::io::ErrorKind::TimedOut
//! [`Writer`]: crate::net::Writer
//! [`block_on`]: crate::task::block_on()
//! [`halves`]: crate::Connection::halves
//! [`join`]: crate::task::Spawned::join
//! [`offload`]: crate::task::offload
//! [`scope`]: crate::task::scope()
//! [`sleep`]: crate::task::sleep
//! [`spawn`]: crate::task::Scope::spawn
//! [`timeout`]: crate::task::timeout()
