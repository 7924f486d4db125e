//! UDP over IPv4 and IPv6 (udp(7)).

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::address::Address;
use crate::error::{Error, Tried};
use crate::net::datagram::{DatagramSocket, Kind, MAX_DATAGRAM, Packet, Whose};
use crate::net::options::{self, Expected, InetOptions};
use crate::net::{AcceptBatch, Accepted, Adopt, Bind, Transport};
use crate::sys::mmsg;

/// A bound UDP socket.
///
/// A reply leaves from the address that the datagram was sent to, even if the socket is bound to
/// all addresses.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport};
/// use socketserver::Udp;
///
/// let socket = Udp::options().max_datagram(1472).receive_buffer(1 << 20).bind("127.0.0.1:0")?;
/// assert!(socket[0].url().starts_with("udp://127.0.0.1:"));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Udp {
    socket: Arc<DatagramSocket>,
    local: Address,
}

/// A datagram that [`Udp`] received.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::UdpPacket;
///
/// fn port(datagram: &mut UdpPacket) -> io::Result<()> {
///     let port = datagram.peer_addr().port();
///     writeln!(datagram, "your port is {port}")
/// }
/// ```
pub type UdpPacket = Packet<Udp>;

/// What an adopted descriptor must be.
const EXPECTED: Expected = Expected {
    name: "a UDP socket",
    domains: &[Domain::IPV4, Domain::IPV6],
    kind: Type::DGRAM,
    listening: false,
};

impl Udp {
    /// Returns options to bind with. [`UdpOptions`] lists them with their defaults.
    pub fn options() -> UdpOptions {
        UdpOptions::default()
    }

    /// Adopts a descriptor that is already bound, as a service manager passes it.
    ///
    /// The socket's send timeout becomes one second (socket(7), `SO_SNDTIMEO`), for every program
    /// that shares the socket. The drop restores the previous one. If the socket is bound to all
    /// addresses, adopting it turns on `IP_PKTINFO` (ip(7)), which the drop leaves on: another
    /// program that has adopted the socket too needs it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless the descriptor is a datagram socket of the IPv4 or IPv6 family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        EXPECTED.adopt(fd, |socket| Self::new(socket, MAX_DATAGRAM, Whose::Shared))
    }

    fn new(socket: Socket, max_datagram: usize, whose: Whose) -> io::Result<Self> {
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the socket has no IP address")
        })?;
        // A socket that is bound to one address replies from it anyway.
        let kind = if local.ip().is_unspecified() {
            mmsg::report_local_ip(socket.as_fd(), local.is_ipv6())?;
            Kind::InetAny
        } else {
            Kind::Inet
        };
        Ok(Self {
            socket: DatagramSocket::new(socket, max_datagram, kind, whose)?,
            local: Address::Inet(local),
        })
    }
}

impl Transport for Udp {
    type Accepted = UdpPacket;

    const SCHEME: &'static str = "udp";

    fn local_addr(&self) -> Address {
        self.local.clone()
    }

    fn url(&self) -> String {
        options::url(Self::SCHEME, self.as_fd(), &self.local)
    }

    fn is_adopted(&self) -> bool {
        self.socket.is_shared()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, UdpPacket>) -> io::Result<()> {
        self.socket.accept(batch)
    }

    fn batch(&self) -> usize {
        mmsg::BATCH_MAX
    }
}

impl<A: ToSocketAddrs + Debug> Bind<A> for Udp {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Self::options().bind(addr)
    }
}

impl Adopt for Udp {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        EXPECTED.suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        Self::from_fd(fd)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UdpPacket {
    /// Returns the sender's socket address: the client's behind a [trusted proxy](crate::proxied), or the proxy's, if
    /// the client has none.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "every sender to this transport has an internet address"
    )]
    pub fn peer_addr(&self) -> SocketAddr {
        let peer = self.peer().socket_addr();
        let via = || self.via().and_then(|via| via.socket_addr());
        peer.or_else(via)
            .expect("a UDP sender has an internet address")
    }
}

/// Options of a [`Udp`] socket, set before the address is bound.
///
/// # Examples
///
/// ```
/// use socketserver::Udp;
///
/// let sockets = Udp::options().reuse_port(true).receive_buffer(1 << 20).bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UdpOptions {
    inet: InetOptions,
    max_datagram: usize,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            inet: InetOptions::default(),
            max_datagram: MAX_DATAGRAM,
        }
    }
}

impl UdpOptions {
    /// Sets the size of the largest datagram that is received, in bytes. Default: 65,535, more than
    /// UDP can carry. A larger datagram is dropped and reported to the error hook; none is
    /// truncated.
    pub const fn max_datagram(mut self, bytes: usize) -> Self {
        self.max_datagram = bytes;
        self
    }

    /// `SO_REUSEADDR`: several sockets can share the port; the one that was bound last receives.
    /// Default: false.
    pub const fn reuse_address(mut self, on: bool) -> Self {
        self.inet.reuse_address = on;
        self
    }

    /// `SO_REUSEPORT`: several sockets can share the port; the kernel distributes senders among
    /// them. Default: false.
    pub const fn reuse_port(mut self, on: bool) -> Self {
        self.inet.reuse_port = on;
        self
    }

    /// `IPV6_V6ONLY`: an IPv6 wildcard address receives no IPv4. Default: the system's
    /// (`net.ipv6.bindv6only`, off: `[::]` receives both).
    pub const fn only_v6(mut self, on: bool) -> Self {
        self.inet.only_v6 = Some(on);
        self
    }

    /// `SO_RCVBUF`, in bytes. Default: the system's (`net.core.rmem_default`).
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.inet.buffers.receive = Some(bytes);
        self
    }

    /// `SO_SNDBUF`, in bytes. Default: the system's (`net.core.wmem_default`).
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.inet.buffers.send = Some(bytes);
        self
    }

    /// Binds one socket for each address that `addr` resolves to and this host has. With port 0 the
    /// kernel picks a free port, the same for all.
    ///
    /// A link-local IPv6 address needs its interface: `("fe80::1%eth0", 8080)`, by name or by
    /// number, or the scope of a [`SocketAddrV6`](std::net::SocketAddrV6).
    ///
    /// # Errors
    ///
    /// As bind(2), with the address and, for common errors, a remedy. Nothing stays bound.
    pub fn bind(&self, addr: impl ToSocketAddrs + Debug) -> Result<Vec<Udp>, Error> {
        let sockets = self.inet.bind_all(Type::DGRAM, addr, &|_| Ok(()))?;
        let new = |(socket, local)| {
            Udp::new(socket, self.max_datagram, Whose::Own)
                .tried(|| format!("set up the UDP socket bound to {local}"))
        };
        sockets.into_iter().map(new).collect()
    }
}
