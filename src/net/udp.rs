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
use crate::net::{AcceptBatch, Accepted, Bind, Transport};
use crate::sys::mmsg;

/// A bound UDP socket: each datagram is a request.
///
/// A reply leaves from the address that its request was sent to, also when the socket is bound to
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
pub type UdpPacket = Packet<Udp>;

impl Udp {
    /// Options to bind with. See [`UdpOptions`] for each and its default.
    pub fn options() -> UdpOptions {
        UdpOptions::default()
    }

    /// Takes over a descriptor that is already bound, as a service manager passes it.
    ///
    /// Whoever shares it sees the send timeout of a second (socket(7), `SO_SNDTIMEO`) that it gets,
    /// until it is dropped: then it is as it was. That a socket which is bound to all addresses says
    /// where each datagram was sent to (ip(7), `IP_PKTINFO`) stays: another program that has adopted
    /// it too needs it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless it is a datagram socket of the IPv4 or IPv6 family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let expected = Expected {
            name: "a UDP socket",
            domains: &[Domain::IPV4, Domain::IPV6],
            kind: Type::DGRAM,
            listening: false,
        };
        expected.adopt(fd, |socket| Self::new(socket, MAX_DATAGRAM, Whose::Shared))
    }

    fn new(socket: Socket, max_datagram: usize, whose: Whose) -> io::Result<Self> {
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the socket has no IP address")
        })?;
        // A socket that is bound to one address answers from it anyway.
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

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UdpPacket {
    /// The sender's socket address.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "every peer of this transport has an internet address"
    )]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer()
            .socket_addr()
            .expect("a UDP peer has an internet address")
    }
}

/// Options of a [`Udp`] socket, set before the address is bound.
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
    /// The largest datagram that is received whole, in bytes. Default: 65,535, more than UDP can
    /// carry. A larger one is dropped and reported to the error hook, never cut short in silence.
    pub const fn max_datagram(mut self, bytes: usize) -> Self {
        self.max_datagram = bytes;
        self
    }

    /// `SO_REUSEADDR`: for UDP it lets several sockets share the port, and the last one bound
    /// receives. Default: false.
    pub const fn reuse_address(mut self, on: bool) -> Self {
        self.inet.reuse_address = on;
        self
    }

    /// `SO_REUSEPORT`: several sockets share the port, and the kernel spreads senders over them.
    /// Default: false.
    pub const fn reuse_port(mut self, on: bool) -> Self {
        self.inet.reuse_port = on;
        self
    }

    /// `IPV6_V6ONLY`: whether an IPv6 wildcard address leaves IPv4 alone. Default: the system's
    /// (`net.ipv6.bindv6only`, off: `[::]` takes both).
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

    /// Binds: one socket for each address that `addr` resolves to and this host has. Port 0 picks a
    /// free one, the same for all.
    ///
    /// A link-local IPv6 address is given with its interface: `("fe80::1%eth0", 8080)`, by name or by
    /// number, which a [`SocketAddrV6`](std::net::SocketAddrV6) has as its scope.
    ///
    /// # Errors
    ///
    /// What bind(2) says, with the address and, for the well-known ones, what to do. Nothing stays
    /// bound.
    pub fn bind(&self, addr: impl ToSocketAddrs + Debug) -> Result<Vec<Udp>, Error> {
        let sockets = self.inet.bind_all(Type::DGRAM, addr, &|_| Ok(()))?;
        let new = |(socket, local)| {
            Udp::new(socket, self.max_datagram, Whose::Own)
                .tried(|| format!("set up the UDP socket bound to {local}"))
        };
        sockets.into_iter().map(new).collect()
    }
}
