//! Testing: a server under test, and its clients.
//!
//! [`TestServer`](crate::testing::TestServer) serves on a thread until it is stopped or dropped, and
//! connects clients to it. Its methods panic with the error if an operation fails. A client's reads and
//! writes time out after 10 s, so a test ends.
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use socketserver::testing::TestServer;
//! use socketserver::{Connection, Server, Tcp, Threading};
//!
//! fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
//!     let mut line = String::new();
//!     while conn.next_message()? {
//!         conn.read_line_max(&mut line, 16)?;
//!         conn.write_all(line.to_uppercase().as_bytes())?;
//!         line.clear();
//!     }
//!     Ok(())
//! }
//!
//! fn server() -> TestServer<Tcp> {
//!     let server = Server::<Tcp, Threading>::bind("127.0.0.1:0").unwrap();
//!     TestServer::spawn(server, shout)
//! }
//!
//! # /*
//! #[test]
//! # */
//! fn lines_come_back_in_capitals() {
//!     let server = server();
//!     let mut client = BufReader::new(server.connect());
//!     client.get_mut().write_all(b"hello\n").unwrap();
//!     let mut answer = String::new();
//!     client.read_line(&mut answer).unwrap();
//!     assert_eq!(answer, "HELLO\n");
//! }
//!
//! # /*
//! #[test]
//! # */
//! fn a_line_that_is_too_long_fails_its_connection_alone() {
//!     let server = server();
//!     let mut client = server.connect();
//!     client.write_all(&[b'a'; 100]).unwrap();
//!     assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
//!     drop(client);
//!     let handle = server.handle().clone();
//!     assert_eq!(server.stop().aborted, 0);
//!     assert_eq!(handle.totals().failed, 1);
//! }
//! # lines_come_back_in_capitals();
//! # a_line_that_is_too_long_fails_its_connection_alone();
//! ```
//!
//! - Bind to port 0, or to a path in a temporary directory: tests run side by side.
//! - [`TestServer::handle`](crate::testing::TestServer::handle) has the totals, the state and the live
//!   connections. A count is final once [`TestServer::stop`](crate::testing::TestServer::stop) has
//!   returned: a client may see the end of its stream before the server has counted the connection.
//! - `connect` connects a client over TCP, a Unix stream or UDP. For another transport, connect a client of
//!   your own to [`TestServer::addr`](crate::testing::TestServer::addr).
//! - A [`Handler`](crate::Handler) type is served through a closure:
//!   `TestServer::spawn(server, move |conn| handler.handle(conn))`.
//!
//! # One client, without a thread
//!
//! [`Server::handle_request`](crate::Server::handle_request) accepts one connection and hands it to the
//! model. Under [`Sequential`](crate::Sequential), the default, the handler runs on the calling thread, and
//! has returned when `handle_request` returns:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::time::Duration;
//! use socketserver::{Handled, Server, Tcp};
//!
//! let mut server = Server::<Tcp>::bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! let mut client = TcpStream::connect(addr).unwrap();
//! let handled = server.handle_request(Some(Duration::from_secs(10)), |conn| conn.write_all(b"hello\n"))?;
//! assert_eq!(handled, Handled::Served);
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "hello\n");
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Events instead of sleeps
//!
//! [`ServerHandle::wait_for`](crate::ServerHandle::wait_for) waits for a state of the server. For any other
//! event, an [`Observer`](crate::observe::Observer) sends to a channel, and the test receives from the channel:
//!
//! ```
//! use std::sync::mpsc::channel;
//! use std::time::Duration;
//! use socketserver::observe::Event;
//! use socketserver::testing::TestServer;
//! use socketserver::{Next, Server, Tcp, Threading};
//!
//! let (parked, wait) = channel();
//! let server = Server::<Tcp, Threading>::builder()
//!     .observer(move |event: &Event<'_>| {
//!         if let Event::Parked { id, .. } = event {
//!             let _ = parked.send(*id);
//!         }
//!     })
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |_conn| Next::Park);
//! let _client = server.connect();
//! assert_eq!(wait.recv_timeout(Duration::from_secs(10)), Ok(1));
//! assert_eq!(server.handle().live(), 1);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Models that fork
//!
//! [`Forking`](crate::Forking) and [`Prefork`](crate::Prefork) serve only in a process with one thread,
//! so neither `TestServer` nor Rust's test harness can run them. A handler does not know its model:
//! test the handler under `Threading`, and the whole program as a separate process. A test with a
//! `main` of its own (`harness = false`) can serve under both models; the page on [several
//! processes](crate::manual::several_processes) has examples that end by themselves.
//!
//! Next: [coroutines](crate::manual::coroutines).
