//! The layer that takes the header off a connection, or off a datagram.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::{self, Poll};

use crate::address::Address;
use crate::net::{Connection, Layer, Layered, LayeredConnection, Managed, Packet, Under};
use crate::net::{ReadHalf, WriteHalf, Writer};
use crate::proxied::config::Options;
use crate::proxy::header::{Header, Malformed, Parsed, Version, parse};

/// The PROXY protocol over another transport: `Proxied<Tcp>`, `Proxied<UnixStream>`, `Proxied<Udp>`.
///
/// [`ProxyConfig::listen`](crate::proxied::ProxyConfig::listen) makes it from listeners. Connections become
/// [`ProxiedConnection`]s; a datagram of `Udp` stays a [`UdpPacket`](crate::net::UdpPacket), without the header. A
/// reply to a datagram goes to the proxy, without a header.
///
/// # Examples
///
/// A resolver behind a balancer of datagrams.
///
/// ```
/// use socketserver::net::{Accepted, Bind};
/// use socketserver::proxied::{Proxied, ProxyConfig};
/// use socketserver::{Datagram, Sequential, Server, Udp};
///
/// let proxy = ProxyConfig::trust(["10.0.0.0/8"])?;
/// let server = Server::<Proxied<Udp>, Sequential>::builder()
///     .listen(proxy.listen(Udp::bind("127.0.0.1:0")?))
///     .build()?;
/// let guard = server.spawn(|datagram| {
///     let reply = format!("{} asks {} bytes", datagram.peer(), datagram.packet().len());
///     datagram.set_reply(reply.as_bytes());
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type Proxied<T> = Layered<T, ProxyLayer>;

/// A connection that begins with a header of the PROXY protocol.
///
/// `C` is the connection below: `ProxiedConnection<TcpConnection>`.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::{Accepted, TcpConnection};
/// use socketserver::proxied::ProxiedConnection;
///
/// fn describe(conn: &mut ProxiedConnection<TcpConnection>) -> io::Result<()> {
///     let (client, proxy) = (conn.peer(), conn.below().peer_addr());
///     writeln!(conn, "{client} through {proxy}")
/// }
/// ```
pub type ProxiedConnection<C> = LayeredConnection<C, ProxyLayer>;

/// The PROXY protocol of one connection: a [`Layer`]. What its header says,
/// [`Accepted::proxy_header`](crate::net::Accepted::proxy_header) returns.
///
/// # Examples
///
/// A function for listeners of every kind.
///
/// ```
/// use socketserver::net::{Transport, Under};
/// use socketserver::proxied::{Proxied, ProxyConfig, ProxyLayer};
/// use socketserver::{Error, Server, Threading};
///
/// fn build<T>(listeners: Vec<T>) -> Result<Server<Proxied<T>, Threading>, Error>
/// where
///     T: Transport<Accepted: Under<ProxyLayer>>,
/// {
///     let proxy = ProxyConfig::trust(["10.0.0.0/8", "unix"])?;
///     Server::builder().listen(proxy.listen(listeners)).build()
/// }
/// ```
pub struct ProxyLayer {
    options: Arc<Options>,
    /// The beginning of a header that comes in parts.
    part: Vec<u8>,
    header: Option<Box<Header>>,
}

/// Why a peer that no header is accepted from is not served.
const UNTRUSTED: Malformed = Malformed("the peer is not among the trusted proxies");

impl ProxyLayer {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            part: Vec::new(),
            header: None,
        }
    }

    /// The client that the header names.
    fn client(&self) -> Option<&Address> {
        self.header.as_deref()?.source()
    }

    fn check(&self, peer: &Address) -> Result<(), Malformed> {
        if self.options.trust.has(peer) {
            Ok(())
        } else {
            Err(UNTRUSTED)
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Parsed, Malformed> {
        parse(bytes, self.options.version, self.options.max)
    }

    /// Takes from the connection below what belongs to the header. Returns whether the header is complete.
    ///
    /// As long as it is not, everything that has come belongs to it. The rest stays with the connection below.
    fn advance<C: Connection>(&mut self, below: &mut C) -> io::Result<bool> {
        // A wrapper of a program's own may not have passed `admit` on.
        if !below.context().is_unjudged() {
            self.admit(below)?;
        }
        let input = below.fill_buf()?;
        if input.is_empty() {
            let text = "the peer has ended the stream amid the PROXY header";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let (before, count) = (self.part.len(), input.len());
        let parsed = if before == 0 {
            self.parse(input)?
        } else {
            self.part.extend(input);
            self.parse(&self.part)?
        };
        let Parsed::Whole(header, len) = parsed else {
            if before == 0 {
                self.part.extend(input);
            }
            below.consume(count);
            return Ok(false);
        };
        below.consume(len - before);
        self.part = Vec::new();
        below.context().note_header(header.source());
        self.header = Some(Box::new(header));
        Ok(true)
    }
}

impl<C: Connection> Layer<C> for ProxyLayer {
    fn admit(&self, below: &C) -> io::Result<()> {
        self.check(&below.peer())?;
        below.context().await_header();
        Ok(())
    }

    fn open(&mut self, below: &mut C) -> io::Result<()> {
        while !self.advance(below)? {}
        Ok(())
    }

    fn try_open(&mut self, below: &mut C) -> io::Result<bool>
    where
        C: Managed,
    {
        while below.gather(&|input| !input.is_empty())? {
            if self.advance(below)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn gather(&mut self, below: &mut C, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool>
    where
        C: Managed,
    {
        if self.header.is_some() {
            below.gather(is_whole)
        } else {
            below.gather(&|input| !input.is_empty())
        }
    }

    fn halves<'a>(
        &'a mut self,
        below: (ReadHalf<'a>, WriteHalf<'a>),
    ) -> io::Result<(ReadHalf<'a>, WriteHalf<'a>)> {
        Ok(below)
    }

    fn writer(&mut self, below: Writer) -> io::Result<Writer> {
        Ok(below)
    }

    fn poll_read(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        below.poll_read(cx, buf)
    }

    fn poll_write(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        below.poll_write(cx, buf)
    }

    fn send_file(
        &mut self,
        below: &mut C,
        file: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<u64> {
        below.send_file(file, offset, length)
    }

    fn peer(&self, below: &C) -> Address {
        self.client().cloned().unwrap_or_else(|| below.peer())
    }

    fn via(&self, below: &C) -> Option<Address> {
        self.client().map(|_| below.peer())
    }

    fn proxy_header<'a>(&'a self, _below: &'a C) -> Option<&'a Header> {
        self.header.as_deref()
    }

    fn local_addr(&self, below: &C) -> io::Result<Address> {
        let header = self.header.as_deref();
        match header.and_then(Header::destination) {
            Some(destination) => Ok(destination.clone()),
            None => below.local_addr(),
        }
    }
}

impl<T: 'static> Under<ProxyLayer> for Packet<T> {
    type Over = Self;

    fn under(mut self, layer: ProxyLayer) -> Self {
        self.take_header(|sender, bytes| {
            layer.check(sender)?;
            if layer.options.version == Some(Version::V1) {
                return Err(Malformed("version 1 has no datagrams"));
            }
            match parse(bytes, Some(Version::V2), layer.options.max)? {
                Parsed::Whole(header, len) => Ok((header, len)),
                Parsed::Part => Err(Malformed("the datagram ends amid it")),
            }
        });
        self
    }
}

impl fmt::Debug for ProxyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyLayer")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
