//! Coroutines: blocking handlers that hold no thread while they wait.
//!
//! [`Coroutines`] runs each handler on a stack of its own, many of them on one thread. Where a read, a
//! write, [`next_message`] or [`task::sleep`] would block, the handler is *suspended*, and its worker
//! thread runs another handler. There is no second kind of function or stream: the handler is the same as
//! under threads, and only the choice of the model differs.
//!
//! ```
//! use std::error::Error;
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
//! use socketserver::{Connection, Coroutines, Server, Tcp};
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
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let server = Server::<Tcp>::builder()
//!         // SAFETY: the handler restores no thread-local after a read or a write.
//!         .model(unsafe { Coroutines::new() })
//!         .max_connections(1000)
//!         .on_error(|failure| eprintln!("{failure}"))
//!         .bind("127.0.0.1:0")?;
//!     let addr = server.local_addrs()[0].socket_addr().ok_or("no address")?;
//!     let guard = server.spawn(shout)?;
//!
//!     let mut client = BufReader::new(TcpStream::connect(addr)?);
//!     client.get_mut().write_all(b"hello\n")?;
//!     let mut answer = String::new();
//!     client.read_line(&mut answer)?;
//!     assert_eq!(answer, "HELLO\n");
//!     drop(client);
//!
//!     let report = guard.stop()?;
//!     assert_eq!(report.aborted, 0);
//!     Ok(())
//! }
//! ```
//!
//! The program of [the first page](crate::manual::first_server) differs in the model, and in the import of
//! its name:
//!
//! ```diff
//! -use socketserver::{Connection, Server, Tcp, Threading};
//! +use socketserver::{Connection, Coroutines, Server, Tcp};
//! -        .model(Threading::default())
//! +        // SAFETY: the handler restores no thread-local after a read or a write.
//! +        .model(unsafe { Coroutines::new() })
//! ```
//!
//! # The contract
//!
//! [`Coroutines::new`] is `unsafe`, because the compiler cannot check one promise. Coroutines of a worker
//! share its thread, and interleave where they wait. The program promises that no code of a handler
//!
//! 1. sets a thread-local to a reference to its own stack frame,
//! 2. then waits (reads, writes, sleeps), and
//! 3. then restores the old value,
//!
//! as scoped thread-locals and some guards of tracing libraries do. Two coroutines that break the promise
//! restore each other's value, and leave a reference to a frame that is gone. Ordinary thread-locals are sound, and so
//! is any code between two waits.
//!
//! # What a handler must not do
//!
//! These mistakes cause no undefined behaviour. Each of the first four keeps a worker, and with it all
//! of the worker's coroutines, from going on:
//!
//! | instead of | use |
//! |---|---|
//! | blocking in another library: a database client, `std::fs`, `std::net`, resolving a name | [`task::offload`], which runs a closure on one of up to 64 helper threads and suspends the caller; [`TcpConnection::connect`] for connecting out |
//! | `std::thread::sleep` | [`task::sleep`] |
//! | computing for long | [`task::yield_now`] now and then, or [`task::offload`] |
//! | holding a `std::sync` lock across a wait | a lock that is released before the wait: [sharing state](crate::manual::sharing_state#under-coroutines) |
//! | deep recursion, large arrays on the stack | the heap, or a larger [`stack_size`] |
//!
//! The functions of [`task`](crate::task) work on ordinary threads too, and in every build of the crate: a
//! handler that uses them still serves under every model. [`Builder::on_stall`] is called when a coroutine
//! has kept its worker busy for 100 ms:
//!
//! ```
//! use std::io::{Read, Write};
//! use socketserver::task::offload;
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Coroutines, Server, Tcp};
//!
//! fn host(conn: &mut impl Connection) -> std::io::Result<()> {
//!     let name = offload(|| std::fs::read_to_string("/proc/sys/kernel/ostype"))?;
//!     conn.write_all(name.as_bytes())
//! }
//!
//! let server = Server::<Tcp>::builder()
//!     // SAFETY: the handler restores no thread-local after a read or a write.
//!     .model(unsafe { Coroutines::new() })
//!     .on_stall(|stall| eprintln!("{stall}"))
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, host);
//! let mut answer = String::new();
//! server.connect().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "Linux\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Threads
//!
//! There is a worker for each processor ([`workers`]); the first worker is the thread that serves, which also
//! accepts. A connection goes to the worker that has the fewest coroutines, and stays there until the
//! connection ends or parks. Local variables of a handler need not be `Send` (`Rc`, `RefCell`). All workers share
//! the state that a handler captures, which is `Send` and `Sync` as in every model. A worker that
//! cannot start, or whose wait fails later, ends the server with its error.
//!
//! # Stacks
//!
//! A stack has 256 KiB ([`stack_size`]), of which only touched pages take memory, and a guard of 16 KiB
//! below. A handler that overflows its stack ends the process with a fault, after a message that names
//! the option to raise. For that message the model installs a handler for SIGSEGV and SIGBUS when it
//! first serves. A [`StackGauge`] measures how much of their stacks handlers use. A gauge touches every
//! stack as a whole, so use it in tests only:
//!
//! ```
//! use std::io::{Read, Write};
//! use socketserver::model::StackGauge;
//! use socketserver::testing::TestServer;
//! use socketserver::{Coroutines, Server, Tcp};
//!
//! let gauge = StackGauge::default();
//! // SAFETY: the handler restores no thread-local after a read or a write.
//! let model = unsafe { Coroutines::new() }.stack_gauge(&gauge);
//! let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |conn| {
//!     let large = std::hint::black_box([b'.'; 50_000]);
//!     conn.write_all(&large)
//! });
//! server.connect().read_to_end(&mut Vec::new()).unwrap();
//! assert_eq!(server.stop().aborted, 0);
//! assert!(gauge.high_water() > 50_000);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! Before Linux 6.13 each stack takes two memory mappings, of which `vm.max_map_count` allows 65,530 by
//! default: [`Coroutines::capacity`] is the number of coroutines that fit. Where there is no memory for
//! a stack, its connection waits, and the server accepts nothing meanwhile.
//!
//! # Drivers
//!
//! A driver is the system interface that workers wait with.
//! [`Driver::Auto`](crate::model::Driver::Auto) is io_uring(7) if the kernel has every operation that
//! the driver needs (Linux 6.1 or newer; containers often forbid io_uring), else epoll(7).
//! [`Driver::pick`](crate::model::Driver::pick) returns the driver for this machine, and the reason if
//! `Auto` is epoll there.
//!
//! # A stop
//!
//! At the drain deadline reads and writes of handlers fail, as in every model. `task::sleep` and
//! `task::offload` have no error to return: there the server unwinds the handler, as a panic does but
//! without a message, so that its destructors run. The server waits for a handler that computes, or blocks
//! its worker.
//!
//! Next: [doing two things at once](crate::manual::doing_two_things).
//!
//! [`Builder::on_stall`]: crate::Builder::on_stall
//! [`Coroutines`]: crate::Coroutines
//! [`Coroutines::capacity`]: crate::Coroutines::capacity
//! [`Coroutines::new`]: crate::Coroutines::new
//! [`StackGauge`]: crate::model::StackGauge
//! [`TcpConnection::connect`]: crate::net::TcpConnection::connect
//! [`next_message`]: crate::Connection::next_message
//! [`stack_size`]: crate::Coroutines::stack_size
//! [`task::offload`]: crate::task::offload
//! [`task::sleep`]: crate::task::sleep
//! [`task::yield_now`]: crate::task::yield_now
//! [`workers`]: crate::Coroutines::workers
