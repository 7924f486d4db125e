//! TLS: certificates, clients, reloads, and connections to other servers.
//!
//! [`Tls<T>`] puts TLS 1.2 and 1.3 on the connections of any stream transport `T`, in every model. The
//! handler reads and writes as ever. The protocol is that of the crate `rustls`, its cryptography that
//! of `ring`, which needs a C compiler when it is built, and nothing else.
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
//! It comes before the handler, and has the
//! [handshake timeout](crate::Builder::handshake_timeout) (default: 5 s) from its beginning. While it
//! waits for the client, the connection is parked under `ThreadPool`, `Threading`, and `Sequential` in
//! one process, so that clients which never end it hold no thread; it suspends a coroutine, and holds a
//! child of `Forking` or a worker process of `Prefork<Sequential>`. A handshake that fails is a
//! [failure](crate::manual::errors) of its connection, and the client gets an alert.
//!
//! The handler's connection is a [`TlsConnection`], whose [`layer`](crate::net::LayeredConnection::layer)
//! tells what was agreed on: [`version`](crate::tls::TlsLayer::version), [`cipher_suite`](crate::tls::TlsLayer::cipher_suite),
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
//! A reload replaces all of them for the connections that are accepted from then on; others go on. It
//! has three causes:
//!
//! - [`TlsConfig::reload`], in the process that calls it;
//! - [`TlsConfig::request_reload`], in all processes, before each accepts its next connection; a signal
//!   handler may call it, and [`TlsConfig::refresh`] does it at once in one process;
//! - a change of a file, with [`watch_files`](crate::tls::TlsBuilder::watch_files).
//!
//! If a file is bad, what was in force stays in force, and the error says why. So the order in which a
//! renewal replaces the two files is no matter: between the two, the key does not belong to its
//! certificate. A server that gives up its privileges after the start cannot read files that only root
//! may read, and keeps the certificates that it has.
//!
//! # Certificates of clients
//!
//! [`client_authority`](crate::tls::TlsBuilder::client_authority) demands one of each client, or accepts
//! clients without one too ([`optional_clients`](crate::tls::TlsBuilder::optional_clients)). A
//! [`client_rule`](crate::tls::TlsBuilder::client_rule) judges each certificate by its subject, its
//! alternative names or its fingerprint. Revocation lists are not read: give certificates of clients a
//! short life.
//!
//! # Resumption
//!
//! A client that comes back resumes its session by a ticket, in whichever process it arrives. The
//! processes derive the keys of tickets from a secret that the first one has made, and change them every
//! six hours; a key that is over cannot be derived again. A server that starts anew resumes no session
//! of an earlier one. A change of the authority for clients ends the resumption of sessions before it.
//!
//! # Ends
//!
//! A read returns 0 after the peer's *close_notify*, and fails with `UnexpectedEof` if the stream ends
//! without it, which anybody on the way could have brought about. A protocol whose messages have a
//! length or an end of their own needs no such care between messages, and
//! [`next_message`](crate::Connection::next_message) returns `false` at either end. The server sends
//! close_notify when the handler has returned.
//!
//! The client's close_notify is input: if it arrives after the close, it resets the connection, which can
//! destroy an answer on its way. A handler whose client ends its side early reads to the end before it returns.
//!
//! # What plain streams have
//!
//! [`halves`](crate::Connection::halves), polls, [`unread`](crate::Connection::unread), parking and
//! sessions work over TLS. So does a [`Writer`](crate::net::Writer), with these differences:
//!
//! - The write buffer of the connection is off once it has made a writer.
//! - Polls wait for their turn too.
//! - A write that is large leaves as records of 16 KiB. The end of the connection ends the write after a
//!   record, so close_notify does not say that the write was whole.
//!
//! # Connections to other servers
//!
//! A [`Connector`] trusts the authorities of the system, or those of a file, and verifies that the
//! server's certificate is for the name that was asked for. Its connections are
//! [`Dialed`](crate::net::Dialed), so they suspend a coroutine, and end with the handler's own.
//!
//! Next: [who may connect](crate::manual::who_may_connect).
//!
//! [`Tls<T>`]: crate::tls::Tls
//! [`TlsConnection`]: crate::tls::TlsConnection
//! [`TlsConfig::refresh`]: crate::tls::TlsConfig::refresh
//! [`TlsConfig::reload`]: crate::tls::TlsConfig::reload
//! [`TlsConfig::request_reload`]: crate::tls::TlsConfig::request_reload
//! [`Connector`]: crate::tls::Connector
