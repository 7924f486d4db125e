//! Who may connect: networks, and on Unix sockets users and groups.
//!
//! | question | rule | for which peers | when it is asked |
//! |---|---|---|---|
//! | is the address allowed? | [`Access::allow`], [`Access::deny`] | those with an IP address, datagrams too | after the accept |
//! | is the user allowed, or one of its groups? | [`Access::allow_users`], [`Access::allow_groups`] | those of Unix stream and seqpacket sockets | after the accept |
//! | has the address room? | [`max_per_address`] | those with an IP address, connections alone | after the accept |
//! | has the user room? | [`max_per_user`] | those of Unix stream and seqpacket sockets | after the accept |
//! | does the program want the connection or datagram? | [`Builder::verify`] | all | after the other questions |
//!
//! The server asks in this order. Behind a [proxy](crate::manual::proxies), the server judges the address
//! that the header names, once the header has come; the user of a Unix socket is judged at the accept.
//!
//! A connection that is refused is closed at once. The server takes back its permit, and the token of the
//! [`rate`] that was taken for it, so refused peers keep no other client out. A peer that is not allowed
//! gets no byte; a peer beyond [`max_per_address`] or [`max_per_user`] gets the text of
//! [`AtLimit::RefuseWith`], if that is the policy. A server that is full applies its policy before it judges
//! the peer: with `RefuseWith` every client gets the text, with `ShedOldestIdle` every client gets room.
//! [`Event::Refused`] has the reason; [`Totals::not_allowed`], `over_address` and `over_user` have the counts.
//!
//! # Networks
//!
//! Of the networks that contain an address, the most specific (the longest prefix) decides; a network that
//! is both allowed and denied is denied. An address in no network is denied if [`Access::allow`] was
//! called, and else admitted:
//!
//! | rules | `10.1.2.3` | `10.1.9.9` | `192.0.2.1` |
//! |---|---|---|---|
//! | none | admitted | admitted | admitted |
//! | deny `10.1.0.0/16` | denied | denied | admitted |
//! | allow `10.1.2.0/24` | admitted | denied | denied |
//! | deny `10.1.0.0/16`, allow `10.1.2.0/24` | admitted | denied | denied |
//! | deny `10.1.0.0/16`, allow `10.1.2.0/24`, allow `0.0.0.0/0` | admitted | denied | admitted |
//!
//! IPv4 and IPv6 each have their own networks: `::/0` is every IPv6 address and no IPv4 address. An IPv4
//! client of a listener on `[::]` is judged as IPv4.
//!
//! The search is binary: 18 comparisons for 100,000 networks, which is [the most]. [`Network::list`] reads a
//! list with a network on each line.
//!
//! ```
//! use std::io::{Read, Write};
//! use socketserver::access::{Access, Network};
//! use socketserver::testing::TestServer;
//! use socketserver::{Server, Tcp, Threading};
//!
//! let denied = Network::list("# loopback, for this example\n127.0.0.0/8\n").unwrap();
//! let server = Server::<Tcp, Threading>::builder()
//!     .access(Access::new().deny(denied))
//!     .bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |conn| conn.write_all(b"welcome\n"));
//! let mut answer = String::new();
//! server.connect().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "");
//!
//! // From now on, everyone.
//! server.handle().set_access(&Access::new()).unwrap();
//! server.connect().read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "welcome\n");
//! assert_eq!(server.handle().totals().not_allowed, 1);
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Users
//!
//! The kernel knows the user of each client of a Unix socket, as of its connect(2) (unix(7), `SO_PEERCRED`).
//! [`Accepted::peer_credentials`] and [`Accepted::peer_groups`] return the user and the groups. The
//! [mode](crate::net::UnixOptions::mode) of the socket file and the rules for users together decide who may
//! connect. With a [`max_per_user`] below [`max_connections`], one user's silent connections leave room for
//! other users.
//!
//! ```
//! use std::io::Write;
//! use socketserver::access::Access;
//! use socketserver::net::{Accepted, UnixConnection};
//! use socketserver::{Server, Threading, UnixStream};
//!
//! let path = std::env::temp_dir().join(format!("socketserver-doc-users-{}", std::process::id()));
//! // Root, and the members of group 1000.
//! let server = Server::<UnixStream, Threading>::builder()
//!     .listen([UnixStream::options().mode(0o666).bind(&path)?])
//!     .access(Access::new().allow_users([0]).allow_groups([1000]))
//!     .max_connections(100)
//!     .max_per_user(20)
//!     .build()?;
//! let guard = server.spawn(|conn: &mut UnixConnection| {
//!     let user = conn.peer_credentials()?.uid;
//!     conn.write_all(format!("hello, user {user}\n").as_bytes())
//! })?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! # Changes
//!
//! [`ServerHandle::set_access`] changes the rules of all processes of a server; when it has returned,
//! each new connection is judged by the new rules. Live connections stay, until
//! [`ServerHandle::abort`] ends them. A signal handler cannot read files, so it calls
//! [`ServerHandle::request_reload`], and the hook [`Builder::on_reload`] reads the files in one of the
//! processes.
//!
//! Next: [behind a proxy](crate::manual::proxies).
//!
//! [`Access::allow`]: crate::access::Access::allow
//! [`Access::deny`]: crate::access::Access::deny
//! [`Access::allow_users`]: crate::access::Access::allow_users
//! [`Access::allow_groups`]: crate::access::Access::allow_groups
//! [the most]: crate::access::Access::NETWORKS_MAX
//! [`Accepted::peer_credentials`]: crate::net::Accepted::peer_credentials
//! [`Accepted::peer_groups`]: crate::net::Accepted::peer_groups
//! [`AtLimit::RefuseWith`]: crate::limits::AtLimit::RefuseWith
//! [`Builder::on_reload`]: crate::Builder::on_reload
//! [`Builder::verify`]: crate::Builder::verify
//! [`Event::Refused`]: crate::observe::Event::Refused
//! [`Network::list`]: crate::access::Network::list
//! [`ServerHandle::abort`]: crate::ServerHandle::abort
//! [`ServerHandle::request_reload`]: crate::ServerHandle::request_reload
//! [`ServerHandle::set_access`]: crate::ServerHandle::set_access
//! [`Totals::not_allowed`]: crate::observe::Totals::not_allowed
//! [`max_connections`]: crate::Builder::max_connections
//! [`max_per_address`]: crate::Builder::max_per_address
//! [`max_per_user`]: crate::Builder::max_per_user
//! [`rate`]: crate::Builder::rate
