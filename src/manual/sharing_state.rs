//! Sharing state: between handlers of one process, and of several.
//!
//! A handler is one value that all threads call through `&self`. All connections share the state that a
//! handler captures, so that state is `Send` and `Sync`; local variables belong to one call.
//!
//! | model | the state that a handler captures is shared by |
//! |---|---|
//! | `Sequential`, `Threading`, `ThreadPool`, `Coroutines` | all connections of the server |
//! | `Forking` | no other connection: each child has a copy of its parent's memory |
//! | `Prefork<M>` | the connections of one worker: each worker has a copy of its parent's memory |
//!
//! # Counters
//!
//! An atomic suits a single number. [`Totals`](crate::observe::Totals) already has the server's own
//! counts, over all processes.
//!
//! # Collections
//!
//! Use a [`Mutex`], and do not hold it while the handler waits for its client. A read waits until the
//! client sends, a write until the client has taken enough; every other connection that wants the lock
//! would wait as long. Copy the value, release the lock, and then write:
//!
//! ```
//! use std::collections::HashMap;
//! use std::io::{BufRead, BufReader, Write};
//! use std::sync::{Mutex, PoisonError};
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Server, Tcp, Threading};
//!
//! #[derive(Default)]
//! struct Words(Mutex<HashMap<String, u32>>);
//!
//! impl Words {
//!     /// Counts a word. The lock ends with this function.
//!     fn count(&self, word: &str) -> u32 {
//!         let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let count = words.entry(word.to_owned()).or_default();
//!         *count += 1;
//!         *count
//!     }
//! }
//!
//! fn serve(conn: &mut impl Connection, words: &Words) -> std::io::Result<()> {
//!     let mut line = String::new();
//!     while conn.next_message()? {
//!         conn.read_line_max(&mut line, 256)?;
//!         let count = words.count(line.trim_end());
//!         writeln!(conn, "{count}")?;
//!         line.clear();
//!     }
//!     Ok(())
//! }
//!
//! let words = Words::default();
//! let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, move |conn| serve(conn, &words));
//! for expected in ["1\n", "2\n"] {
//!     let mut client = BufReader::new(server.connect());
//!     client.get_mut().write_all(b"hello\n").unwrap();
//!     let mut answer = String::new();
//!     client.read_line(&mut answer).unwrap();
//!     assert_eq!(answer, expected);
//! }
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A handler that panics while it holds a `Mutex` poisons the lock, and the server goes on: with `unwrap`
//! every later connection would fail. `PoisonError::into_inner` takes the value as it is, which is right
//! where no panic can leave it half changed.
//!
//! Put state that the program also uses, while the server serves or afterwards, into an
//! [`Arc`](std::sync::Arc), and let the handler capture a clone.
//!
//! # Under `Coroutines`
//!
//! Many handlers share a thread, and take turns where they read, write, sleep or wait for a message.
//! Across such a wait, do not hold
//!
//! - a lock of `std::sync`: another coroutine of the thread that wants the lock blocks the thread, and
//!   with it the coroutine that holds the lock. That is a deadlock;
//! - a borrow of a `RefCell` in a thread-local: another coroutine of the thread that borrows the `RefCell`
//!   panics.
//!
//! The lock of the example above is released before each wait, so the example serves under `Coroutines`
//! too. The page on [coroutines](crate::manual::coroutines#what-a-handler-must-not-do) has the other
//! rules.
//!
//! # Under `Forking` and `Prefork`
//!
//! A handler changes its own process's copy of the state. The copy ends with the process: after one
//! connection under [`Forking`](crate::Forking), with the worker under [`Prefork`](crate::Prefork).
//! Files, pipes and sockets that the program opens before it serves are open in every process.
//! Processes share state through such descriptors, a database, or memory that is mapped as shared.
//! All processes share the server's own state: its limits, totals, connections and stop.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use socketserver::{Forking, Next, Server, Tcp};
//!
//! let visits = Arc::new(AtomicU64::new(0));
//! let server = Server::<Tcp, Forking>::bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! let mut client = TcpStream::connect(addr).unwrap();
//!
//! let (copy, handle) = (Arc::clone(&visits), server.handle());
//! server.serve_forever(move |conn| {
//!     let visit = copy.fetch_add(1, Ordering::Relaxed) + 1;
//!     writeln!(conn, "visit {visit}").map(|()| Next::Stop)
//! })?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "visit 1\n");
//! assert_eq!(visits.load(Ordering::Relaxed), 0, "the child has counted in its own memory");
//! assert_eq!(handle.totals().completed, 1, "the server counts over all processes");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # State of one connection
//!
//! Keep such state in local variables of the handler, or in a
//! [session](crate::manual::handlers_and_sessions#sessions) if the handler parks. Such state needs no lock.
//!
//! Next: [errors](crate::manual::errors).
//!
//! [`Mutex`]: std::sync::Mutex
