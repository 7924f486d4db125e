//! The PROXY protocol, versions 1 and 2: the addresses of clients that come through a proxy such as HAProxy or nginx.
//!
//! [`ProxyConfig::listen`] wraps listeners: [`Proxied<Tcp>`](Proxied), `Proxied<UnixStream>`, `Proxied<Udp>`,
//! `Proxied<UnixDatagram>`, and below TLS `Tls<Proxied<Tcp>>`. [The manual](crate::manual::proxies) has a page about
//! it.
//!
//! # What is accepted
//!
//! Every connection has to come from a trusted address and to begin with a header; other bytes end it. A datagram has
//! its own header, of version 2, in front of its data. The server takes exactly the header off the connection: the
//! handler, or the next layer, such as TLS, reads the bytes behind it, also those of the same segment. They lie in the
//! connection's buffer, no longer in the kernel. A header has the
//! [handshake timeout](crate::Builder::handshake_timeout). Under `ThreadPool`, `Threading`, and `Sequential` in one
//! process, a connection that waits for it holds no thread.
//!
//! A version 1 line is read strictly: single spaces, ports without a sign or a zero in front, CR LF within 107 bytes.
//! Of version 2, the length, the TLVs and a CRC32C TLV are checked. `UNKNOWN`, `LOCAL` and families that the
//! specification leaves open are accepted, and the proxy's own address applies.
//!
//! # What the header changes
//!
//! [`Accepted::peer`](crate::net::Accepted::peer) is then the client, and
//! [`Connection::local_addr`](crate::Connection::local_addr) the address that it has connected to;
//! [`Accepted::via`](crate::net::Accepted::via) is the proxy, and
//! [`Accepted::proxy_header`](crate::net::Accepted::proxy_header) has the rest. Events,
//! [`ServerHandle::connections`](crate::ServerHandle::connections),
//! the [access rules](crate::access) for networks, [`max_per_address`](crate::Builder::max_per_address) and the
//! [`verify`](crate::Builder::verify) hook use the client's address. A connection is judged once, when its header has
//! come, before a TLS handshake. So a proxy may have any number of connections whose header is on its way.
//!
//! On a Unix socket the users and groups of the access rules are those of the proxy's process, and
//! [`max_per_user`](crate::Builder::max_per_user) counts the connections whose client has no IP address.

pub(crate) mod config;
pub(crate) mod layer;
pub(crate) mod trust;

pub use crate::proxy::header::{Header, Version};
pub use crate::proxy::tlv::{ClientTls, Kind};
pub use config::ProxyConfig;
pub use layer::{Proxied, ProxiedConnection, ProxyLayer};
