//! A first server: bind, serve, talk to it, stop it.
//!
//! A server that answers each line with the same line in capitals:
//!
//! ```no_run
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
//! fn main() -> Result<(), socketserver::Error> {
//!     let server = Server::<Tcp, Threading>::bind("127.0.0.1:8080")?;
//!     println!("listening on {}", server.urls().join(" and "));
//!     server.serve_forever(shout)?;
//!     Ok(())
//! }
//! ```
//!
//! `nc 127.0.0.1 8080` talks to the server; Ctrl-C ends the server. The calls:
//!
//! - [`Server::bind`] binds and listens. Clients can connect from here on: they wait in the kernel's
//!   backlog until the server serves. Port 0 picks a free port, which [`Server::local_addrs`] and
//!   [`Server::urls`] name.
//! - [`Server::serve_forever`] takes the handler, serves on the calling thread, and returns when the
//!   server has been [stopped](crate::manual::stopping). The call consumes the server.
//! - The handler is called once for each connection, under [`Threading`](crate::Threading) on a thread
//!   of its own. Its reads and writes block. When the handler returns, the server sends buffered output
//!   and closes the connection. The page on [handlers](crate::manual::handlers_and_sessions) has what a
//!   handler may return.
//! - [`Connection::next_message`] waits until the client has sent more, and returns `false` at the end
//!   of the stream. A connection that waits there is *idle*: a stop may end it.
//! - [`Connection::read_line_max`] is `read_line` with a limit. Without a limit, a client that sends a
//!   long line decides how much memory the server uses.
//!
//! # With options, on a thread of its own
//!
//! [`Server::builder`] returns a [`Builder`](crate::Builder), which has every option of a server.
//! [`Server::spawn`] serves on a new thread and returns a [`ServerGuard`](crate::ServerGuard), which
//! stops the server when it is dropped. This program is its own client, and ends:
//!
//! ```
//! use std::error::Error;
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
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
//! fn main() -> Result<(), Box<dyn Error>> {
//!     let server = Server::<Tcp>::builder()
//!         .model(Threading::default())
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
//! # Other transports
//!
//! A Unix stream socket takes the same handler. Its address is a path, or a name of the abstract
//! namespace ([`UnixAddress`](crate::net::UnixAddress)); the server removes the file when it ends:
//!
//! ```
//! # use socketserver::Connection;
//! # fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
//! #     let mut line = String::new();
//! #     while conn.next_message()? {
//! #         conn.read_line_max(&mut line, 1024)?;
//! #         conn.write_all(line.to_uppercase().as_bytes())?;
//! #         line.clear();
//! #     }
//! #     Ok(())
//! # }
//! use socketserver::{Server, Threading, UnixStream};
//!
//! let directory = tempfile::tempdir().unwrap();
//! let path = directory.path().join("shout.sock");
//! let guard = Server::<UnixStream, Threading>::bind(&path)?.spawn(shout)?;
//! guard.stop()?;
//! assert!(!path.exists());
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A datagram transport gives its handler a [`Datagram`]: the packet that arrived, and room for one
//! reply, which the server sends when the handler has returned:
//!
//! ```
//! use std::net::UdpSocket;
//! use socketserver::{Datagram, Server, Udp};
//!
//! let server = Server::<Udp>::bind("127.0.0.1:0")?;
//! let addr = server.local_addrs()[0].socket_addr().unwrap();
//! let guard = server.spawn(|datagram| {
//!     let reply = datagram.packet().to_ascii_uppercase();
//!     datagram.set_reply(&reply);
//! })?;
//!
//! let client = UdpSocket::bind("127.0.0.1:0").unwrap();
//! client.send_to(b"hello", addr).unwrap();
//! let mut answer = [0; 16];
//! let count = client.recv(&mut answer).unwrap();
//! assert_eq!(&answer[..count], b"HELLO");
//! guard.stop()?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! A seqpacket socket ([`UnixSeqpacket`](crate::UnixSeqpacket)) has properties of both: clients connect, and each
//! message arrives whole. Its connections do not implement [`Connection`](crate::Connection); a
//! [`SeqpacketConnection`](crate::net::SeqpacketConnection) sends and receives messages:
//!
//! ```
//! use std::io;
//! use socketserver::net::{SeqpacketConnection, UnixAddress};
//! use socketserver::{Server, Threading, UnixSeqpacket};
//!
//! fn shout(conn: &mut SeqpacketConnection) -> io::Result<()> {
//!     let mut buf = [0; 1024];
//!     while conn.next_message()? {
//!         if let Some(message) = conn.recv(&mut buf)? {
//!             message.make_ascii_uppercase();
//!             conn.send(message)?;
//!         }
//!     }
//!     Ok(())
//! }
//!
//! let name = UnixAddress::Abstract(b"socketserver-doc-shout".to_vec());
//! let guard = Server::<UnixSeqpacket, Threading>::bind(name)?.spawn(shout)?;
//! guard.stop()?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! | transport | clients connect | what arrives | address |
//! |---|---|---|---|
//! | [`Tcp`](crate::Tcp) | yes | bytes, in order | IP address and port |
//! | [`UnixStream`](crate::UnixStream) | yes | bytes, in order | path or name |
//! | [`UnixSeqpacket`](crate::UnixSeqpacket) | yes | messages, whole and in order | path or name |
//! | [`Udp`](crate::Udp) | no | datagrams, in any order; the network may lose some | IP address and port |
//! | [`UnixDatagram`](crate::UnixDatagram) | no | datagrams, in order | path or name |
//!
//! Options of one listener belong to its transport: [`Tcp::options`](crate::Tcp::options),
//! [`Udp::options`](crate::Udp::options), [`UnixStream::options`](crate::UnixStream::options). Several
//! listeners may feed one server: [`Builder::listen`](crate::Builder::listen).
//!
//! Next: [choosing a model](crate::manual::choosing_a_model).
//!
//! [`Server::bind`]: crate::Server::bind
//! [`Server::builder`]: crate::Server::builder
//! [`Server::local_addrs`]: crate::Server::local_addrs
//! [`Server::serve_forever`]: crate::Server::serve_forever
//! [`Server::spawn`]: crate::Server::spawn
//! [`Server::urls`]: crate::Server::urls
//! [`Connection::next_message`]: crate::Connection::next_message
//! [`Connection::read_line_max`]: crate::Connection::read_line_max
//! [`Datagram`]: crate::Datagram
