//! TLS: certificates, clients, reloads, and connections to other servers.
//!
//! [`Tls<T>`] puts TLS 1.2 and 1.3 on the connections of any stream transport `T`, in every model. The
//! handler reads and writes as on a plain connection. The crate `rustls` implements the protocol, the crate
//! `ring` the cryptography; building `ring` needs a C compiler.
//!
//! ```
//! use std::io::{BufRead, Write};
//! use std::time::Duration;
//! use socketserver::net::Bind;
//! use socketserver::tls::{Connector, Tls, TlsConfig};
//! use socketserver::{Connection, Server, Tcp, ThreadPool};
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
//! # let folder = tempfile::tempdir()?;
//! # let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! # std::fs::write(&cert, made.cert.pem())?;
//! # std::fs::write(&key, made.signing_key.serialize_pem())?;
//! // `cert` and `key` are the paths of PEM files; here the certificate is its own authority.
//! let tls = TlsConfig::builder().certificate(&cert, &key).build()?;
//! let server = Server::<Tls<Tcp>, ThreadPool>::builder()
//!     .listen(tls.listen(Tcp::bind("127.0.0.1:0")?))
//!     .build()?;
//! let addr = server.local_addrs()[0].socket_addr().ok_or("no address")?;
//! let guard = server.spawn(shout)?;
//!
//! let connector = Connector::builder().roots(&cert).build()?;
//! let mut conn = connector.connect(addr, "localhost", Duration::from_secs(5))?;
//! conn.write_all(b"hello\n")?;
//! let mut answer = String::new();
//! conn.read_line(&mut answer)?;
//! assert_eq!(answer, "HELLO\n");
//! conn.close()?;
//! guard.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The handshake
//!
//! The server does the handshake before it calls the handler, within the
//! [handshake timeout](crate::Builder::handshake_timeout) (default: 5 s). What a handshake that waits for
//! its client holds depends on the model:
//!
//! - `ThreadPool`, `Threading`, and `Sequential` in one process: nothing, the connection is parked;
//! - `Coroutines`: a coroutine, which is suspended;
//! - `Forking`: the child process; `Prefork<Sequential>`: the worker process.
//!
//! A handshake that fails is a [failure](crate::manual::errors) of its connection, and the client gets an
//! alert.
//!
//! The handler's connection is a [`TlsConnection`], whose [`layer`](crate::net::LayeredConnection::layer)
//! returns what both sides have agreed on: [`version`](crate::tls::TlsLayer::version), [`cipher_suite`](crate::tls::TlsLayer::cipher_suite),
//! [`server_name`](crate::tls::TlsLayer::server_name) (SNI), [`alpn`](crate::tls::TlsLayer::alpn),
//! [`peer_certificates`](crate::tls::TlsLayer::peer_certificates), [`is_resumed`](crate::tls::TlsLayer::is_resumed).
//!
//! # Certificates of the server
//!
//! [`certificate`](crate::tls::TlsBuilder::certificate) adds a chain with its key, once for each name or
//! kind of key. An [`Error`](crate::Error) of [`build`](crate::tls::TlsBuilder::build) names the file and
//! what is wrong with it: unreadable, empty, PEM of another kind, expired, not valid yet, a key of
//! another certificate.
//!
//! A reload reads all files again, for the connections that are accepted from then on; earlier connections
//! go on. A reload has three causes:
//!
//! - [`TlsConfig::reload`], in the process that calls it;
//! - [`TlsConfig::request_reload`], in all processes, before each accepts its next connection; a signal
//!   handler may call it, and [`TlsConfig::refresh`] does it at once in one process;
//! - a change of a file, with [`watch_files`](crate::tls::TlsBuilder::watch_files).
//!
//! If a file is bad, or a key does not belong to its certificate, the old certificates stay in force, and
//! the error says why. So a renewal may replace the two files in either order: as long as only one is
//! new, they do not belong together. A server that gives up its privileges after the start cannot read files that only root
//! may read, and keeps the certificates that it has.
//!
//! # Certificates of clients
//!
//! [`client_authority`](crate::tls::TlsBuilder::client_authority) demands a certificate of each client; with
//! [`optional_clients`](crate::tls::TlsBuilder::optional_clients) clients without a certificate may connect too. A
//! [`client_rule`](crate::tls::TlsBuilder::client_rule) judges each certificate by its subject, its
//! alternative names or its fingerprint. Revocation lists are not read: give certificates of clients a
//! short life.
//!
//! # Resumption
//!
//! A client that comes back resumes its session by a ticket, whichever process accepts it. The processes
//! derive the keys of tickets from a secret of the process that built the [`TlsConfig`](crate::tls::TlsConfig),
//! and change the keys every six hours; an old key cannot be derived again. A server that starts anew
//! resumes no session of an earlier server. After a change of the authority for clients, no session of
//! before the change is resumed.
//!
//! # Ends
//!
//! A read returns 0 after the peer's *close_notify*, the alert that ends a stream, and fails with
//! `UnexpectedEof` if the stream ends without this alert: an attacker on the way may have cut it short.
//! Between messages that have a length or an end of their own, the difference does not matter, and
//! [`next_message`](crate::Connection::next_message) returns `false` at either end. The server sends
//! close_notify when the handler has returned, and closes the socket.
//!
//! To TCP, the client's close_notify is input: if it arrives after the server has closed the socket, the
//! kernel resets the connection, which can destroy the part of an answer that it has not sent yet. Under
//! `Sequential` and `ThreadPool`, which do not wait for that part, a handler whose client ends its stream
//! early reads to the end before it returns.
//!
//! # What plain streams have
//!
//! [`halves`](crate::Connection::halves), polls, [`unread`](crate::Connection::unread), parking and
//! sessions work over TLS. So does a [`Writer`](crate::net::Writer), with these differences:
//!
//! - The write buffer of the connection is off once the connection has made a writer.
//! - [`poll_write`](crate::Connection::poll_write) of the handler waits while a writer sends.
//! - A large write leaves as records of 16 KiB. The end of the connection ends such a write after a
//!   record, so a close_notify does not prove that the write was whole.
//!
//! # Connections to other servers
//!
//! A [`Connector`] trusts the authorities of the system, or those of a file, and verifies that the
//! server's certificate is for the name that was asked for. Its connections are
//! [`Dialed`](crate::net::Dialed): their waits suspend a coroutine, and fail when the handler's own
//! connection is aborted.
//!
//! Next: [who may connect](crate::manual::who_may_connect).
//!
//! [`Tls<T>`]: crate::tls::Tls
//! [`TlsConnection`]: crate::tls::TlsConnection
//! [`TlsConfig::refresh`]: crate::tls::TlsConfig::refresh
//! [`TlsConfig::reload`]: crate::tls::TlsConfig::reload
//! [`TlsConfig::request_reload`]: crate::tls::TlsConfig::request_reload
//! [`Connector`]: crate::tls::Connector
