//! TCP over IPv4 and IPv6 (tcp(7), ip(7), ipv6(7)).

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::address::Address;
use crate::error::Error;
use crate::net::listener::Listener;
use crate::net::options::{self, Expected, InetOptions};
use crate::net::stream::Stream;
use crate::net::{AcceptBatch, Accepted, Adopt, Bind, Transport};
use crate::sys::{sock_diag, sockopt};

/// A TCP listener.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport};
/// use socketserver::Tcp;
///
/// // "localhost" has an IPv4 and, on most hosts, an IPv6 address: one listener for each, on one
/// // port.
/// let listeners = Tcp::bind("localhost:0")?;
/// assert!(listeners.iter().all(|listener| listener.local_addr().port() == listeners[0].local_addr().port()));
///
/// // Options are set before the address is bound.
/// let listener = Tcp::options().backlog(16).only_v6(true).bind("[::1]:0");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Tcp {
    listener: Listener,
    local: Address,
}

/// A connection that [`Tcp`] accepted.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::TcpConnection;
///
/// fn address(conn: &mut TcpConnection) -> io::Result<()> {
///     let address = conn.peer_addr();
///     writeln!(conn, "{address}")
/// }
/// ```
pub type TcpConnection = Stream<Tcp>;

/// What an adopted descriptor must be.
const EXPECTED: Expected = Expected {
    name: "a TCP listener",
    domains: &[Domain::IPV4, Domain::IPV6],
    kind: Type::STREAM,
    listening: true,
};

impl Tcp {
    /// Returns options to bind with. [`TcpOptions`] lists them with their defaults.
    pub fn options() -> TcpOptions {
        TcpOptions::default()
    }

    /// Adopts a descriptor that already listens, as a service manager passes it.
    ///
    /// The listener becomes non-blocking, for every program that shares it. The drop restores the
    /// previous mode.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless the descriptor is a listening stream socket of the IPv4 or IPv6
    /// family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        EXPECTED.adopt(fd, |socket| {
            let local = Address::from_sock_addr(&socket.local_addr()?);
            let listener = Listener::adopted(socket)?;
            Ok(Self { listener, local })
        })
    }
}

impl Transport for Tcp {
    type Accepted = TcpConnection;

    const SCHEME: &'static str = "tcp";

    fn local_addr(&self) -> Address {
        self.local.clone()
    }

    fn url(&self) -> String {
        options::url(Self::SCHEME, self.as_fd(), &self.local)
    }

    fn is_adopted(&self) -> bool {
        self.listener.is_adopted()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, TcpConnection>) -> io::Result<()> {
        let (socket, peer) = self.listener.accept()?;
        if batch.stopping() {
            // The connection may have been established after `seal_backlog`, and inherited its
            // IP_MINTTL.
            self.least_hops(socket.as_fd(), 0)?;
        }
        batch.push(|context| Stream::new(socket, &peer, context));
        Ok(())
    }

    fn waiting(&self) -> Option<usize> {
        sockopt::backlog_len(self.as_fd()).ok()
    }

    /// Sets `IP_MINTTL` to 255: only packets that passed no router have that TTL, and hardly any
    /// host sends them with it, so no handshake begins. Handshakes under way complete, because the
    /// kernel looks up their connections before the listener. A client that connects now retries
    /// after a second and is then refused, before it has sent anything.
    fn seal_backlog(&self) -> io::Result<bool> {
        let own = !self.is_adopted();
        if own {
            self.least_hops(self.as_fd(), 255)?;
        }
        Ok(own)
    }

    fn arriving(&self) -> Option<bool> {
        sock_diag::in_handshake(self.local.socket_addr()?).ok()
    }
}

impl Tcp {
    /// Drops packets whose TTL or hop limit is below `hops` (ip(7) `IP_MINTTL`,
    /// `IPV6_MINHOPCOUNT`).
    fn least_hops(&self, socket: BorrowedFd<'_>, hops: u8) -> io::Result<()> {
        let ipv6 = self
            .local
            .socket_addr()
            .is_some_and(|local| local.is_ipv6());
        sockopt::least_hops(socket, ipv6, hops)
    }
}

impl<A: ToSocketAddrs + Debug> Bind<A> for Tcp {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Self::options().bind(addr)
    }
}

impl Adopt for Tcp {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        EXPECTED.suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        Self::from_fd(fd)
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl TcpConnection {
    /// Returns the peer's socket address.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "every peer of this transport has an internet address"
    )]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer()
            .socket_addr()
            .expect("a TCP peer has an internet address")
    }
}

/// Options of a [`Tcp`] listener, set before the address is bound. Accepted connections inherit
/// them.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use socketserver::Tcp;
///
/// let listeners =
/// Tcp::options().backlog(128).keepalive(Duration::from_secs(60)).bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TcpOptions {
    inet: InetOptions,
    backlog: i32,
    nodelay: bool,
    keepalive: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        let inet = InetOptions {
            reuse_address: true,
            ..InetOptions::default()
        };
        // The kernel caps the backlog at net.core.somaxconn (listen(2)).
        Self {
            inet,
            backlog: i32::MAX,
            nodelay: true,
            keepalive: None,
        }
    }
}

impl TcpOptions {
    /// Sets the length of the backlog: how many connections may wait to be accepted. Default: the
    /// system's maximum (`net.core.somaxconn`, 4096 since Linux 5.4).
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = if connections > i32::MAX as u32 {
            i32::MAX
        } else {
            connections as i32
        };
        self
    }

    /// `SO_REUSEADDR`: the address can be bound while connections of an earlier server are in
    /// `TIME_WAIT`. Default: true.
    pub const fn reuse_address(mut self, on: bool) -> Self {
        self.inet.reuse_address = on;
        self
    }

    /// `SO_REUSEPORT`: several sockets can listen on the address. Default: false, because a socket
    /// that closes resets the connections in its backlog, and because two servers could share a
    /// port by mistake.
    pub const fn reuse_port(mut self, on: bool) -> Self {
        self.inet.reuse_port = on;
        self
    }

    /// `IPV6_V6ONLY`: an IPv6 wildcard address accepts no IPv4. Default: the system's
    /// (`net.ipv6.bindv6only`, off: `[::]` accepts both).
    pub const fn only_v6(mut self, on: bool) -> Self {
        self.inet.only_v6 = Some(on);
        self
    }

    /// `TCP_NODELAY`: small writes are sent at once. Default: true, because most handlers write
    /// whole answers.
    pub const fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// `SO_KEEPALIVE`: the kernel probes a connection that has been silent for `idle`, to notice a
    /// peer that is gone. Default: no probes.
    pub const fn keepalive(mut self, idle: Duration) -> Self {
        self.keepalive = Some(idle);
        self
    }

    /// `SO_RCVBUF`, in bytes. Default: the system's, which adapts to the connection.
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.inet.buffers.receive = Some(bytes);
        self
    }

    /// `SO_SNDBUF`, in bytes. Default: the system's, which adapts to the connection.
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.inet.buffers.send = Some(bytes);
        self
    }

    /// Binds and listens: one listener for each address that `addr` resolves to and this host has.
    /// With port 0 the kernel picks a free port, the same for all.
    ///
    /// A link-local IPv6 address needs its interface: `("fe80::1%eth0", 8080)`, by name or by
    /// number, or the scope of a [`SocketAddrV6`](std::net::SocketAddrV6).
    ///
    /// # Errors
    ///
    /// As bind(2) or listen(2), with the address and, for common errors, a remedy. Nothing stays
    /// bound.
    pub fn bind(&self, addr: impl ToSocketAddrs + Debug) -> Result<Vec<Tcp>, Error> {
        self.bind_only(addr)?.listen()
    }

    /// Binds without listening. Until [`BoundTcp::listen`], clients are refused.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_only(&self, addr: impl ToSocketAddrs + Debug) -> Result<BoundTcp, Error> {
        let sockets = self.inet.bind_all(Type::STREAM, addr, &|socket| {
            socket.set_tcp_nodelay(self.nodelay)?;
            self.keepalive.map_or(Ok(()), |idle| {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
            })
        })?;
        Ok(BoundTcp {
            sockets,
            options: self.clone(),
        })
    }
}

/// TCP sockets that are bound and do not listen yet.
///
/// # Examples
///
/// ```
/// use socketserver::Tcp;
///
/// let bound = Tcp::options().bind_only("127.0.0.1:0")?;
/// // Drop privileges and load data here; clients are refused meanwhile.
/// let listeners = bound.listen()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct BoundTcp {
    sockets: Vec<(Socket, SocketAddr)>,
    options: TcpOptions,
}

impl BoundTcp {
    /// Returns the bound addresses, with the real port.
    ///
    /// # Errors
    ///
    /// None: the addresses are known since the sockets were bound.
    pub fn local_addrs(&self) -> io::Result<Vec<Address>> {
        Ok(self
            .sockets
            .iter()
            .map(|&(_, local)| Address::Inet(local))
            .collect())
    }

    /// Listens on all sockets.
    ///
    /// # Errors
    ///
    /// As listen(2), with the address: `AddrInUse` if another socket has begun to listen on it.
    pub fn listen(self) -> Result<Vec<Tcp>, Error> {
        let Self { sockets, options } = self;
        let listen = |(socket, local): (Socket, SocketAddr)| {
            socket
                .listen(options.backlog)
                .and_then(|()| Listener::own(socket))
                .map(|listener| Tcp {
                    listener,
                    local: Address::Inet(local),
                })
                .map_err(|err| options.inet.error("listen on", local, err))
        };
        sockets.into_iter().map(listen).collect()
    }
}
