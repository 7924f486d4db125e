//! Choosing a model: what each costs, when to take it, and what it forbids.
//!
//! A model decides where the handler of a connection or datagram runs. The handler does not know its
//! model, so a program changes the model in one line: [`Builder::model`](crate::Builder::model), or the
//! second parameter of [`Server`](crate::Server).
//!
//! | model | where a handler runs | what it costs | when to take it | what it forbids |
//! |---|---|---|---|---|
//! | [`Sequential`], the default | on the thread that accepts, one after the other | least of all: no thread is woken for a connection | handlers that never wait for their client: datagrams, short answers | a handler that waits: no other client is served meanwhile |
//! | [`Threading`] | on a thread of its own; a thread that is done waits 10 s for the next connection | a thread for each handler that runs or waits; 1,024 at most ([`max_threads`](crate::Threading::max_threads)) | when in doubt | more handlers at once than threads: further connections wait in the backlog |
//! | [`ThreadPool`] | on one of a fixed number of threads, four for each processor; as many connections wait in a queue | the threads, from the start on | to bound how many handlers run at once: computations, database connections | handlers that wait long for their client: each holds a thread. [Parking](crate::manual::handlers_and_sessions#parking) and [`whole_request`] free the thread |
//! | [`Forking`] | in a process of its own, forked from the process that accepts; 40 at once ([`max_children`](crate::Forking::max_children)) | a fork for each connection | handlers that may crash, change their user, or run another program in their place (`exec`) | other threads in the process; [`spawn`](crate::Server::spawn); state in memory that several connections change |
//! | [`Prefork<M>`](crate::Prefork) | in worker processes that are forked beforehand, each with the model `M`; by default a process for each processor, with [`Threading`] | the memory of each worker | to survive crashes without a fork for each connection; code that is not safe with threads (`Prefork<Sequential>`) | as `Forking`, and [`handle_request`](crate::Server::handle_request) |
//! | [`Coroutines`](crate::manual::coroutines) | in a coroutine on one of a few worker threads, one for each processor | a stack for each handler that runs or waits, of which only touched pages take memory | thousands of handlers that wait at once | blocking calls of other libraries, unless [offloaded](crate::task::offload); [a few uses of thread-locals](crate::manual::coroutines#the-contract); [`handle_request`](crate::Server::handle_request) |
//!
//! In short:
//!
//! 1. A handler that answers at once: `Sequential`.
//! 2. A handler that waits for its client, or for a library that blocks: `Threading`.
//! 3. A handler that uses so much processor time or memory that clients are better served a few at a
//!    time: `ThreadPool`.
//! 4. A handler that may crash, or whose memory must not be shared: `Prefork`, or `Forking` where each
//!    connection needs a process of its own.
//! 5. Thousands of connections, most of them silent: any model, with a handler that
//!    [parks](crate::manual::handlers_and_sessions#parking) between messages; or `Coroutines`, where the
//!    handler waits in the midst of its work.
//!
//! The command `socketserver compare` runs one workload under each model, prints throughput, latency,
//! processor time and memory, and recommends a model.
//!
//! # One handler, every model
//!
//! A function that is generic over [`Model`](crate::model::Model) takes any model:
//!
//! ```
//! use std::io::{Read, Write};
//! use socketserver::model::Model;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Sequential, Server, Tcp, ThreadPool, Threading};
//!
//! fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
//!     let mut line = String::new();
//!     conn.read_line_max(&mut line, 1024)?;
//!     conn.write_all(line.to_uppercase().as_bytes())
//! }
//!
//! fn serve_one(model: impl Model) -> Result<String, socketserver::Error> {
//!     let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
//!     let server = TestServer::spawn(server, shout);
//!     let mut client = server.connect();
//!     client.write_all(b"hello\n").unwrap();
//!     let mut answer = String::new();
//!     client.read_to_string(&mut answer).unwrap();
//!     Ok(answer)
//! }
//!
//! assert_eq!(serve_one(Sequential::default())?, "HELLO\n");
//! assert_eq!(serve_one(Threading::default().max_threads(100))?, "HELLO\n");
//! assert_eq!(serve_one(ThreadPool::new(8).queue(100))?, "HELLO\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # What is the same in every model
//!
//! - [Limits and deadlines](crate::manual::limits_and_deadlines) hold, over all threads and processes.
//! - A handler that fails or panics ends its own connection. A crash of the process ends one connection
//!   under `Forking`, the connections of one worker under `Prefork`, and the server under the other models.
//! - A [stop](crate::manual::stopping) serves the backlog, waits for live connections, and aborts the
//!   connections that are left at the drain deadline.
//! - When a thread or process cannot be started, or the stack of a coroutine cannot be mapped, the
//!   server tries again; the connection waits meanwhile.
//!
//! Next: [handlers and sessions](crate::manual::handlers_and_sessions).
//!
//! [`Forking`]: crate::Forking
//! [`Prefork`]: crate::Prefork
//! [`Sequential`]: crate::Sequential
//! [`ThreadPool`]: crate::ThreadPool
//! [`Threading`]: crate::Threading
//! [`whole_request`]: crate::Builder::whole_request
