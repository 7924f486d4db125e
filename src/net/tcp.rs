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
use crate::net::{AcceptBatch, Accepted, Bind, Transport};
use crate::sys::{sock_diag, sockopt};

/// A TCP listener.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport};
/// use socketserver::Tcp;
///
/// // "localhost" has an IPv4 and, on most hosts, an IPv6 address: one listener for each, on one port.
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
pub type TcpConnection = Stream<Tcp>;

impl Tcp {
    /// Options to bind with. See [`TcpOptions`] for each and its default.
    pub fn options() -> TcpOptions {
        TcpOptions::default()
    }

    /// Takes over a descriptor that already listens, as a service manager passes it.
    ///
    /// It is made non-blocking, which whoever shares it sees too, until it is dropped: then it is
    /// as it was.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless it is a listening stream socket of the IPv4 or IPv6 family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let expected = Expected {
            name: "a TCP listener",
            domains: &[Domain::IPV4, Domain::IPV6],
            kind: Type::STREAM,
            listening: true,
        };
        expected.adopt(fd, |socket| {
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
            // It may have been taken in after `seal_backlog`, and inherited that.
            self.least_hops(socket.as_fd(), 0)?;
        }
        batch.push(|context| Stream::new(socket, &peer, context));
        Ok(())
    }

    fn waiting(&self) -> Option<usize> {
        sockopt::backlog_len(self.as_fd()).ok()
    }

    /// Packets must have come over no router, which is what their TTL says when it is 255: hardly
    /// any host sends such, so no handshake begins. Those that have begun end, because their
    /// connections are looked up before the listener. A client that connects now tries again after
    /// a second, and then is refused before it has sent anything.
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
    /// Drops packets whose TTL or hop limit is less (ip(7) `IP_MINTTL`, `IPV6_MINHOPCOUNT`).
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

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl TcpConnection {
    /// The peer's socket address.
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

/// Options of a [`Tcp`] listener. They are set before the address is bound, and accepted
/// connections inherit them.
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
    /// How many connections wait in the kernel to be accepted. Default: as many as the system
    /// allows (`net.core.somaxconn`, 4096 since Linux 5.4).
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = if connections > i32::MAX as u32 {
            i32::MAX
        } else {
            connections as i32
        };
        self
    }

    /// `SO_REUSEADDR`: whether the address can be bound while connections of an earlier server
    /// linger in `TIME_WAIT`. Default: true.
    pub const fn reuse_address(mut self, on: bool) -> Self {
        self.inet.reuse_address = on;
        self
    }

    /// `SO_REUSEPORT`: whether several sockets can listen on the address. Default: false, because
    /// connections that wait on one of them are reset when it closes, and because two servers would
    /// share a port unnoticed.
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

    /// `TCP_NODELAY`: whether small writes are sent at once. Default: true, because most handlers
    /// write whole answers.
    pub const fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// `SO_KEEPALIVE`: probes a connection that has been silent for this long, to notice a peer
    /// that is gone. Default: none.
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
    /// Port 0 picks a free one, the same for all.
    ///
    /// A link-local IPv6 address is given with its interface: `("fe80::1%eth0", 8080)`, by name or by
    /// number, which a [`SocketAddrV6`](std::net::SocketAddrV6) has as its scope.
    ///
    /// # Errors
    ///
    /// What bind(2) or listen(2) says, with the address and, for the well-known ones, what to do.
    /// Nothing stays bound.
    pub fn bind(&self, addr: impl ToSocketAddrs + Debug) -> Result<Vec<Tcp>, Error> {
        self.bind_only(addr)?.listen()
    }

    /// Binds without listening: clients are refused until [`BoundTcp::listen`] is called.
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
#[derive(Debug)]
pub struct BoundTcp {
    sockets: Vec<(Socket, SocketAddr)>,
    options: TcpOptions,
}

impl BoundTcp {
    /// The bound addresses, with the real port.
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

    /// Listens on all of them.
    ///
    /// # Errors
    ///
    /// What listen(2) says, with the address: `AddrInUse` when another socket began to listen on it
    /// meanwhile.
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
