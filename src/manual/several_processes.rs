//! Several processes: forking for each connection, worker processes, and what their deaths mean.
//!
//! | | [`Forking`] | [`Prefork<M>`](crate::Prefork) |
//! |---|---|---|
//! | a process is forked | for each connection or datagram | beforehand, and when a worker has died |
//! | the forked process accepts | no: its parent accepts | yes: all workers accept from the same listeners, under model `M` |
//! | how many | 40 children at once; further connections wait in the backlog | a worker for each processor, by default |
//! | a crash ends | one connection | the connections of one worker |
//!
//! # When forking is possible
//!
//! A forked child has one thread. A lock that another thread of its parent held at the fork stays
//! locked in the child for ever (fork(2), signal-safety(7)). So both models fork only in a process with
//! one thread, and serving fails with `Unsupported` in any other: serve from `main`, before anything
//! starts a thread, and not with [`spawn`](crate::Server::spawn). Both models check again at each fork, so
//! hooks that run in the parent must not start a thread later either. Children and workers may start
//! threads, except the workers of `Prefork<Forking>`, which fork themselves.
//!
//! Both models need pidfd_open(2). Where this call is forbidden, serving fails with an error that names
//! the call.
//!
//! # A process for each connection
//!
//! The child closes the listeners, serves, and exits. Its memory, user, working directory and resource
//! limits are its own, and it can become another program
//! ([`exec`](std::os::unix::process::CommandExt::exec)).
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use socketserver::{Forking, Next, Server, Tcp};
//!
//! let server = Server::<Tcp>::builder()
//!     .model(Forking::default().max_children(100))
//!     .bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! // The client waits in the backlog until the server serves.
//! let mut client = TcpStream::connect(addr).unwrap();
//! server.serve_forever(|conn| {
//!     write!(conn, "{}", std::process::id()).map(|()| Next::Stop)
//! })?;
//!
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_ne!(answer, std::process::id().to_string());
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Worker processes
//!
//! `Prefork::new(4, ThreadPool::new(8))` is four processes with eight threads each. A worker that has
//! room takes the next connection.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use socketserver::{Next, Prefork, Server, Tcp, ThreadPool};
//!
//! let server = Server::<Tcp>::builder()
//!     .model(Prefork::new(2, ThreadPool::new(8)))
//!     .on_accept_error(|err| eprintln!("{err}"))
//!     .bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! let mut client = TcpStream::connect(addr).unwrap();
//! let report = server.serve_forever(|conn| {
//!     conn.write_all(b"hello\n").map(|()| Next::Stop)
//! })?;
//! assert_eq!(report.aborted, 0);
//!
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "hello\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # What the processes share
//!
//! | shared by all processes | private to each process |
//! |---|---|
//! | the listeners, and other descriptors that were opened before serving | memory, with the state of the handler: [sharing state](crate::manual::sharing_state#under-forking-and-prefork) |
//! | [`max_connections`], [`max_per_address`], [`max_per_user`], [`rate`], exactly; [who may connect](crate::manual::who_may_connect) | descriptors (`RLIMIT_NOFILE`), [`max_threads`](crate::Threading::max_threads), [`max_children`](crate::Forking::max_children) |
//! | [`ServerHandle`]: state, totals, live connections, stop, pause, limits, aborting one connection | [`retire`], which stops the process that calls it |
//!
//! A hook runs in the process in which its cause occurs: [`on_error`] in the process of the handler,
//! [`service_actions`] in each process that accepts, an observer in every process, for the events of
//! that process, [`on_reload`](crate::Builder::on_reload) in one of the processes that accept. [`on_ready`] runs in the parent, under `Prefork` once all workers accept.
//! [`on_accept_error`] is called at most once a second over all processes, and at once for an error
//! that ends a listener or the server.
//!
//! # What a death means
//!
//! | the process that ends | what follows |
//! |---|---|
//! | a child of `Forking` that crashes or is killed | its client sees the end of the stream, or a reset. [`on_error`] receives how the child ended, and [`Totals::failed`] counts it |
//! | the parent of `Forking` | the kernel kills its children, unless a handler has changed its user or group (prctl(2), `PR_SET_PDEATHSIG`) |
//! | a worker of `Prefork` | its clients see the end of the stream, or a reset. Its permits are free again; [`on_accept_error`] is called, and an observer receives [`WorkerEnded`]. A new worker starts after 0.1 s; the delay doubles, up to 30 s, with each further death of a worker that has served nothing. Amid a stop one starts only if no other worker is left to serve the backlog |
//! | a worker and its successors, [`breaker`] of them in a row that have served nothing (10 by default) | the server stops, and serving fails |
//! | the parent of `Prefork` | its workers drain and end, 3 s after the drain deadline at the latest |
//!
//! A worker that should be replaced in good order, for example because its memory has grown, calls
//! [`retire`]: it accepts nothing more and drains, and its successor starts at once. While its own predecessor still drains, it
//! goes on accepting, and retires when that has ended.
//!
//! # A stop
//!
//! [`ServerHandle::shutdown`] stops the whole server from any of its processes; [`retire`] stops the
//! process that calls it. A SIGTERM reaches one process, a SIGINT from a terminal reaches all processes.
//! Each process has the signal handlers that the program has installed before it serves.
//!
//! Next: [TLS](crate::manual::tls).
//!
//! [`Forking`]: crate::Forking
//! [`ServerHandle`]: crate::ServerHandle
//! [`ServerHandle::shutdown`]: crate::ServerHandle::shutdown
//! [`Totals::failed`]: crate::observe::Totals::failed
//! [`WorkerEnded`]: crate::observe::Event::WorkerEnded
//! [`breaker`]: crate::Prefork::breaker
//! [`max_connections`]: crate::Builder::max_connections
//! [`max_per_address`]: crate::Builder::max_per_address
//! [`max_per_user`]: crate::Builder::max_per_user
//! [`on_accept_error`]: crate::Builder::on_accept_error
//! [`on_error`]: crate::Builder::on_error
//! [`on_ready`]: crate::Builder::on_ready
//! [`rate`]: crate::Builder::rate
//! [`retire`]: crate::ServerHandle::retire
//! [`service_actions`]: crate::Builder::service_actions
