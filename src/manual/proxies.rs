//! Behind a proxy: the addresses of clients that come through HAProxy, nginx, a load balancer.
//!
//! A server behind a proxy sees one peer, the proxy. With the PROXY protocol the proxy sends a header that names the
//! client before the client's first byte: a line of text (version 1), or binary (version 2). [`Proxied<T>`] demands a
//! header on each connection, in every model, and the handler reads what follows the header.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use socketserver::net::Bind;
//! use socketserver::proxied::{Header, Proxied, ProxyConfig};
//! use socketserver::{Connection, Server, Tcp, ThreadPool};
//!
//! fn greet(conn: &mut impl Connection) -> std::io::Result<()> {
//!     let client = conn.peer();
//!     let host = conn.proxy_header().and_then(Header::authority).unwrap_or("no host").to_owned();
//!     writeln!(conn, "hello {client}, welcome to {host}")
//! }
//!
//! let proxy = ProxyConfig::trust(["127.0.0.1"])?;
//! let server = Server::<Proxied<Tcp>, ThreadPool>::builder()
//!     .listen(proxy.listen(Tcp::bind("127.0.0.1:0")?))
//!     .build()?;
//! let addr = server.local_addrs()[0].socket_addr().ok_or("no address")?;
//! let guard = server.spawn(greet)?;
//!
//! // What a proxy does:
//! let mut conn = TcpStream::connect(addr)?;
//! conn.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n")?;
//! let mut answer = String::new();
//! conn.read_to_string(&mut answer)?;
//! assert_eq!(answer, "hello 192.0.2.7:56324, welcome to no host\n");
//! guard.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who may send a header
//!
//! A header decides which client a connection belongs to, so [`ProxyConfig::trust`] lists the proxies: networks,
//! addresses, and `unix` for the peers of a Unix socket. A connection from anywhere else, or a connection that does not
//! begin with a header, [fails](crate::manual::errors) at once. A listener serves either proxies or direct clients: for
//! both, [bind two listeners](crate::net::Either).
//!
//! A header has the [handshake timeout](crate::Builder::handshake_timeout). A connection that waits for its header
//! holds no thread where [a TLS handshake](crate::manual::tls) holds none.
//!
//! # What a header changes
//!
//! | | before the header has come | after |
//! |---|---|---|
//! | [`peer`](crate::net::Accepted::peer), [`ServerHandle::connections`](crate::ServerHandle::connections), events | the proxy | the client |
//! | [`local_addr`](crate::Connection::local_addr) | the socket's | the address that the client has connected to |
//! | [`via`](crate::net::Accepted::via) | none | the proxy |
//! | [rules for networks], [`max_per_address`], [`verify`] | not applied | applied to the client |
//! | [rules for users], on a Unix socket | applied to the proxy's process | applied to the proxy's process |
//!
//! When the header has come, the server judges the client by the client's IP address, or by the proxy's address if the
//! header names no IP address. On a Unix socket the server judges the user and the groups of the process that has
//! connected, which is the proxy, at the accept. [`max_per_user`] counts a connection when its header has come, and only
//! if the client has no IP address.
//!
//! The proxy's own connections, such as the health checks of HAProxy, have a header without a client (`LOCAL` or
//! `UNKNOWN`). The server treats them like direct connections of the proxy.
//! [`Event::Proxied`](crate::observe::Event::Proxied) has both addresses, for logs.
//!
//! A header of version 2 can say more of the client: the host name that the client has asked for, the protocol, an
//! identifier of the connection, the TLS version with the name in the client's certificate, and fields that proxies
//! define themselves. [`proxy_header`] returns the header, on a connection with TLS above it too.
//!
//! # TLS
//!
//! A proxy that passes on TLS connections unopened sends its header before the handshake:
//! [`tls.listen(proxy.listen(listeners))`](crate::proxied::ProxyConfig::listen) makes a server of `Tls<Proxied<Tcp>>`.
//! The server judges the client before the handshake begins.
//!
//! # Datagrams
//!
//! `Proxied<Udp>` takes a header of version 2 off each datagram. [`packet`](crate::Datagram::packet) returns what
//! follows the header; the reply goes to the proxy, without a header.
//!
//! # Being the proxy
//!
//! A handler that connects to a server sends a [`Header`] first: [`Header::new`] with the addresses of its own
//! connection, or the header that it has received. [`Relay`](crate::net::Relay) then passes on the bytes of both
//! sides. The command `socketserver proxy` is such a handler.
//!
//! Next: [Coming from Python](crate::manual::coming_from_python).
//!
//! [`Proxied<T>`]: crate::proxied::Proxied
//! [`ProxyConfig::trust`]: crate::proxied::ProxyConfig::trust
//! [`Header`]: crate::proxied::Header
//! [`Header::new`]: crate::proxied::Header::new
//! [`max_per_address`]: crate::Builder::max_per_address
//! [`max_per_user`]: crate::Builder::max_per_user
//! [rules for networks]: crate::manual::who_may_connect#networks
//! [rules for users]: crate::manual::who_may_connect#users
//! [`verify`]: crate::Builder::verify
//! [`proxy_header`]: crate::net::Accepted::proxy_header
