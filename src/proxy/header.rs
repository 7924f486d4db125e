//! A header: who the client is, whatever the version.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::address::Address;
use crate::proxy::tlv::{self, ClientTls, Kind};
use crate::proxy::{v1, v2};

/// A header of the PROXY protocol: what a proxy says of its client.
///
/// [`Accepted::proxy_header`](crate::net::Accepted::proxy_header) returns the one that came with a connection or
/// datagram. A handler that connects to a server sends one: it builds a header, and writes the bytes of
/// [`to_v1`](Self::to_v1) or [`to_v2`](Self::to_v2) before anything else.
///
/// # Examples
///
/// A handler that forwards to a server which wants to know the client.
///
/// ```
/// use std::io::{self, Write};
/// use std::time::Duration;
/// use socketserver::Connection;
/// use socketserver::net::TcpConnection;
/// use socketserver::proxied::Header;
///
/// fn forward(conn: &mut impl Connection) -> io::Result<()> {
///     let mut server = TcpConnection::connect("10.0.0.5:80", Duration::from_secs(5)).map_err(io::Error::other)?;
///     let header = Header::new(&conn.peer(), &conn.local_addr()?).crc32c();
///     server.write_all(&header.to_v2()?)?;
///     io::copy(conn, &mut server).map(drop)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client, and the address that it has connected to.
    pub(super) addresses: Option<(Address, Address)>,
    pub(super) is_local: bool,
    pub(super) is_datagram: bool,
    /// Whether it has a checksum.
    pub(super) sums: bool,
    /// The TLVs, as they are sent, without the checksum.
    pub(super) tlvs: Vec<u8>,
}

/// A version of the PROXY protocol.
///
/// # Examples
///
/// ```
/// use socketserver::proxied::{ProxyConfig, Version};
///
/// let proxy = ProxyConfig::trust(["10.0.0.0/8"])?.version(Version::V2);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the specification has two versions"
)]
pub enum Version {
    /// A line of text, of at most 107 bytes. TCP only.
    V1,
    /// Binary, with TLVs. TCP, UDP and Unix sockets.
    V2,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PROXY header: {}", self.0)
    }
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed.to_string())
    }
}

/// What a parser makes of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The bytes may be the beginning of a header: all of them belong to it, and more are needed.
    Part,
    /// A header, and its length.
    Whole(Header, usize),
}

/// The largest header of version 2: 16 bytes, and what its length can say.
pub(crate) const LONGEST: usize = 16 + u16::MAX as usize;

impl Header {
    /// The header of a client: its address, and the address that it has connected to.
    ///
    /// Two addresses of different kinds, and names, cannot be sent; the receiver then takes the proxy for the client.
    /// An IPv4 address beside an IPv6 address becomes an IPv4-mapped one.
    #[must_use]
    pub fn new(source: &Address, destination: &Address) -> Self {
        let mapped = |addr: &SocketAddr| match addr {
            SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            SocketAddr::V6(_) => *addr,
        };
        let addresses = match (source, destination) {
            (Address::Inet(one), Address::Inet(two)) if one.is_ipv4() != two.is_ipv4() => {
                Some((mapped(one).into(), mapped(two).into()))
            }
            (Address::Inet(_), Address::Inet(_)) | (Address::Unix(_), Address::Unix(_)) => {
                Some((source.clone(), destination.clone()))
            }
            _ => None,
        };
        Self {
            addresses,
            ..Self::unknown()
        }
    }

    /// The header of a connection that the proxy makes for itself, such as a health check.
    #[must_use]
    pub const fn local() -> Self {
        let mut header = Self::unknown();
        header.is_local = true;
        header
    }

    /// A header without addresses.
    pub(super) const fn unknown() -> Self {
        Self {
            addresses: None,
            is_local: false,
            is_datagram: false,
            sums: false,
            tlvs: Vec::new(),
        }
    }

    /// Parses the header at the beginning of `bytes`, of either version. Returns it with its length; `None` if the
    /// bytes are the beginning of a header.
    ///
    /// # Errors
    ///
    /// `InvalidData`: the bytes are no header that the specification allows.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::proxied::Header;
    ///
    /// let bytes = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\nGET / HTTP/1.1\r\n";
    /// let (header, len) = Header::parse(bytes)?.expect("a whole header");
    /// assert_eq!(header.source().expect("an address").to_string(), "192.0.2.7:56324");
    /// assert!(bytes[len..].starts_with(b"GET"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        Ok(match parse(bytes, None, LONGEST)? {
            Parsed::Part => None,
            Parsed::Whole(header, len) => Some((header, len)),
        })
    }

    /// Returns the address of the client; `None` if the header has none: the proxy connects for itself, or does not
    /// know.
    #[must_use]
    pub fn source(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(source, _)| source)
    }

    /// Returns the address that the client has connected to.
    #[must_use]
    pub fn destination(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(_, destination)| destination)
    }

    /// Returns whether the proxy has made the connection for itself, as for a health check.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns whether the client has sent a datagram to the proxy.
    #[must_use]
    pub const fn is_datagram(&self) -> bool {
        self.is_datagram
    }

    /// Returns the host name that the client has asked for, as its SNI.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        std::str::from_utf8(self.tlv(Kind::AUTHORITY)?).ok()
    }

    /// Returns the protocol that the client has agreed on with the proxy (ALPN).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(Kind::ALPN)
    }

    /// Returns the identifier that the proxy has given to the connection.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(Kind::UNIQUE_ID)
    }

    /// Returns the TLS between the client and the proxy.
    #[must_use]
    pub fn tls(&self) -> Option<ClientTls> {
        tlv::tls(&self.tlvs)
    }

    /// Returns the first TLV of a [`Kind`]. The checksum is not among them.
    #[must_use]
    pub fn tlv(&self, kind: Kind) -> Option<&[u8]> {
        tlv::find(&self.tlvs, kind)
    }

    /// Makes it the header of a datagram.
    #[must_use]
    pub const fn datagram(mut self) -> Self {
        self.is_datagram = true;
        self
    }

    /// Adds a TLV. More than 65,535 bytes are cut off.
    #[must_use]
    pub fn with(mut self, kind: Kind, value: &[u8]) -> Self {
        tlv::put(&mut self.tlvs, kind, value);
        self
    }

    /// Adds the TLS between the client and the proxy.
    #[must_use]
    pub fn with_tls(self, tls: &ClientTls) -> Self {
        self.with(Kind::TLS, &tls.bytes())
    }

    /// Adds a checksum to the bytes of [`to_v2`](Self::to_v2).
    #[must_use]
    pub const fn crc32c(mut self) -> Self {
        self.sums = true;
        self
    }

    /// Returns the line of version 1, without the TLVs.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: version 1 has no Unix addresses, no datagrams and no connections of the proxy itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use socketserver::proxied::Header;
    ///
    /// let client: SocketAddr = "192.0.2.7:56324".parse()?;
    /// let proxy: SocketAddr = "192.0.2.1:443".parse()?;
    /// let line = Header::new(&client.into(), &proxy.into()).to_v1()?;
    /// assert_eq!(line, b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_v1(&self) -> io::Result<Vec<u8>> {
        v1::write(self)
    }

    /// Returns the bytes of version 2.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: a Unix path is longer than 108 bytes, or the TLVs are longer than 65,535 bytes together with
    /// the addresses.
    pub fn to_v2(&self) -> io::Result<Vec<u8>> {
        v2::write(self)
    }

    pub(super) fn between(source: Address, destination: Address) -> Self {
        let mut header = Self::unknown();
        header.addresses = Some((source, destination));
        header
    }
}

/// Parses a header of the version that is expected, if only one is, and of at most `max` bytes.
pub(crate) fn parse(
    bytes: &[u8],
    version: Option<Version>,
    max: usize,
) -> Result<Parsed, Malformed> {
    let is = |known: &[u8], one| {
        let common = bytes.len().min(known.len());
        version.is_none_or(|only| only == one) && bytes[..common] == known[..common]
    };
    if is(v1::START, Version::V1) {
        v1::parse(bytes)
    } else if is(&v2::SIGNATURE, Version::V2) {
        v2::parse(bytes, max)
    } else {
        Err(Malformed(match version {
            Some(Version::V1) => "the first bytes are not those of version 1",
            Some(Version::V2) => "the first bytes are not those of version 2",
            None => "the first bytes are not those of a header",
        }))
    }
}

/// An error of a header that cannot be sent.
pub(super) fn cannot_send(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("send a PROXY header: {why}"),
    )
}
