//! Socket options that several transports share, and checks of adopted descriptors.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netdevice::index_to_name;
use socket2::{Domain, SockRef, Socket, Type};

use crate::address::{Address, UnixAddress};
use crate::error::{Error, Tried};

/// Sizes of the kernel's buffers, for SO_RCVBUF and SO_SNDBUF (socket(7)).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) receive: Option<usize>,
    pub(crate) send: Option<usize>,
}

impl Buffers {
    pub(crate) fn apply(self, socket: &Socket) -> io::Result<()> {
        self.receive
            .map_or(Ok(()), |size| socket.set_recv_buffer_size(size))?;
        self.send
            .map_or(Ok(()), |size| socket.set_send_buffer_size(size))
    }
}

/// Options of an internet socket, set before it is bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InetOptions {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: Option<bool>,
    pub(crate) buffers: Buffers,
}

impl InetOptions {
    fn bind(
        self,
        kind: Type,
        addr: SocketAddr,
        more: &dyn Fn(&Socket) -> io::Result<()>,
    ) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), kind, None)?;
        socket.set_reuse_address(self.reuse_address)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let (Some(only), true) = (self.only_v6, addr.is_ipv6()) {
            socket.set_only_v6(only)?;
        }
        self.buffers.apply(&socket)?;
        more(&socket)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    }

    /// Binds one socket for each address that `addr` resolves to and this host has; with port 0,
    /// all on one port. Returns each with its bound address.
    pub(crate) fn bind_all(
        self,
        kind: Type,
        addr: impl ToSocketAddrs + Debug,
        more: &dyn Fn(&Socket) -> io::Result<()>,
    ) -> Result<Vec<(Socket, SocketAddr)>, Error> {
        let mut addrs: Vec<_> = addr
            .to_socket_addrs()
            .tried(|| format!("resolve {addr:?}"))?
            .collect();
        addrs.sort_unstable_by_key(SocketAddr::is_ipv6);
        addrs.dedup();
        // The port that the kernel picked for the first address may be taken on the second: pick
        // again.
        let mut picks_left = if addrs.len() > 1 && addrs[0].port() == 0 {
            16
        } else {
            0
        };
        loop {
            match self.bind_each(kind, &addrs, more) {
                Err(err) if err.is_addr_in_use() && picks_left > 0 => picks_left -= 1,
                Ok(sockets) if sockets.is_empty() => {
                    let nothing = io::Error::new(
                        io::ErrorKind::AddrNotAvailable,
                        "no address that this host has",
                    );
                    return Err(Error::new(format!("bind {addr:?}"), nothing));
                }
                result => return result,
            }
        }
    }

    fn bind_each(
        self,
        kind: Type,
        addrs: &[SocketAddr],
        more: &dyn Fn(&Socket) -> io::Result<()>,
    ) -> Result<Vec<(Socket, SocketAddr)>, Error> {
        let mut sockets = Vec::with_capacity(addrs.len());
        let mut port = None;
        for &addr in addrs {
            let addr = with_port(addr, port);
            let socket = match self.bind(kind, addr, more) {
                // `localhost` resolves to ::1 even on hosts without IPv6.
                Err(err) if addrs.len() > 1 && is_absent(&err) => continue,
                result => result.map_err(|err| self.error("bind", addr, err))?,
            };
            let local = socket
                .local_addr()
                .tried(|| format!("read the address of {addr}"))?;
            let local = local.as_socket().unwrap_or(addr);
            port = port.or_else(|| Some(local.port()));
            sockets.push((socket, local));
        }
        Ok(sockets)
    }

    /// Describes what was tried with an address, and adds a remedy for common errors of bind(2) and
    /// listen(2).
    pub(crate) fn error(self, tried: &str, addr: SocketAddr, err: io::Error) -> Error {
        let remedy = self.remedy(addr, err.kind());
        let err = Error::new(format!("{tried} {addr}"), err);
        match remedy {
            Some(remedy) => err.with_remedy(remedy),
            None => err,
        }
    }

    fn remedy(self, addr: SocketAddr, kind: io::ErrorKind) -> Option<&'static str> {
        let any = addr.ip().is_unspecified();
        Some(match kind {
            io::ErrorKind::PermissionDenied if addr.port() < 1024 => {
                "ports below net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE, or a socket passed by the service manager"
            }
            // The owner of the port is unknown here: it may be a socket that this program bound a
            // moment ago.
            io::ErrorKind::AddrInUse if any && addr.is_ipv6() && self.only_v6 != Some(true) => {
                "another socket, of this process or of another, has the port (ss -lntup shows whose); \
                 [::] takes it for IPv4 too, unless it is bound for IPv6 alone (only_v6, in a URL ?v6only)"
            }
            io::ErrorKind::AddrInUse if any && addr.is_ipv4() => {
                "another socket, of this process or of another, has the port (ss -lntup shows whose); \
                 one of [::] takes it for IPv4 too, unless it is bound for IPv6 alone (only_v6, in a URL ?v6only)"
            }
            io::ErrorKind::AddrInUse => {
                "another socket, of this process or of another, has the port (ss -lntup shows whose); choose another one"
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
            io::ErrorKind::InvalidInput if lacks_zone(addr) => {
                "a link-local address needs its interface: [fe80::1%eth0]"
            }
            _ => return None,
        })
    }
}

/// Replaces port 0 by the port that another socket got. The rest stays: the zone of a link-local
/// address is part of it.
fn with_port(mut addr: SocketAddr, port: Option<u16>) -> SocketAddr {
    if let (0, Some(port)) = (addr.port(), port) {
        addr.set_port(port);
    }
    addr
}

/// Returns whether the address needs an interface and has none (RFC 4007, section 6).
fn lacks_zone(addr: SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

/// Returns the URL of a listener. The zone of a link-local address is shown as the name of its
/// interface, which stays the same when its number changes. The name is looked up in the network
/// namespace of `socket`.
pub(crate) fn url(scheme: &str, socket: BorrowedFd<'_>, addr: &Address) -> String {
    let zone = |index| index_to_name(socket, index).ok();
    match addr {
        Address::Inet(SocketAddr::V6(v6)) if v6.scope_id() != 0 => {
            zone(v6.scope_id()).map(|zone| format!("{scheme}://[{}%{zone}]:{}", v6.ip(), v6.port()))
        }
        _ => None,
    }
    .unwrap_or_else(|| format!("{scheme}://{addr}"))
}

/// Returns whether the host lacks the address or its whole family.
fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    )
}

/// The kind of socket that a descriptor must be to be adopted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) name: &'static str,
    pub(crate) domains: &'static [Domain],
    pub(crate) kind: Type,
    pub(crate) listening: bool,
}

impl Expected {
    /// Adopts an open descriptor: checks its family, its type and whether it listens, and makes a
    /// transport of it.
    pub(crate) fn adopt<T>(
        self,
        fd: OwnedFd,
        make: impl FnOnce(Socket) -> io::Result<T>,
    ) -> Result<T, Error> {
        let socket = Socket::from(fd);
        let (number, name) = (socket.as_raw_fd(), self.name);
        let address = match socket
            .local_addr()
            .map(|addr| Address::from_sock_addr(&addr))
        {
            Ok(Address::Unix(UnixAddress::Unnamed)) | Err(_) => String::new(),
            Ok(address) => format!(" ({address})"),
        };
        self.check(&socket)
            .and_then(|()| socket.set_cloexec(true))
            .and_then(|()| make(socket))
            .tried(|| format!("adopt descriptor {number}{address} as {name}"))
    }

    /// Returns whether a descriptor is a socket of this family and type, listening or not.
    pub(crate) fn suits(self, fd: BorrowedFd<'_>) -> bool {
        let any = Self {
            listening: false,
            ..self
        };
        any.check(&SockRef::from(&fd)).is_ok()
    }

    fn check(self, socket: &Socket) -> io::Result<()> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let (domain, kind) = (socket.domain()?, socket.r#type()?);
        if !self.domains.contains(&domain) {
            return Err(wrong(format!(
                "its family is {domain:?}, not one of {:?}",
                self.domains
            )));
        }
        if kind != self.kind {
            return Err(wrong(format!("its type is {kind:?}, not {:?}", self.kind)));
        }
        if self.listening && !socket.is_listener()? {
            return Err(wrong(
                "it does not listen (listen(2) was not called on it)".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Returns the error for a descriptor that none of several transports can adopt.
pub(crate) fn unsuitable(fd: &OwnedFd) -> Error {
    let socket = SockRef::from(fd);
    let kind = socket
        .domain()
        .and_then(|domain| Ok((domain, socket.r#type()?)));
    let err = kind.map_or_else(
        |err| err,
        |(domain, kind)| {
            let what =
                format!("no transport here has the family {domain:?} with the type {kind:?}");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        },
    );
    Error::new(format!("adopt descriptor {}", fd.as_raw_fd()), err)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_port_is_filled_in_and_the_zone_stays() {
        let open: SocketAddr = "[fe80::77%3]:0".parse().unwrap();
        let filled = "[fe80::77%3]:4711".parse().unwrap();
        assert_eq!(with_port(open, Some(4711)), filled);
        assert_eq!(with_port(open, None), open);
        assert_eq!(with_port(filled, Some(1)), filled);
    }

    #[test]
    fn the_url_has_the_name_of_the_zone_where_there_is_one() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let url = |addr: &str| {
            let addr = addr.parse::<SocketAddr>().unwrap();
            url("tcp", socket.as_fd(), &addr.into())
        };
        // The loopback interface is the first in each network namespace.
        assert_eq!(url("[fe80::77%1]:80"), "tcp://[fe80::77%lo]:80");
        assert_eq!(url("[fe80::77%99999]:80"), "tcp://[fe80::77%99999]:80");
        assert_eq!(url("[::1]:80"), "tcp://[::1]:80");
        assert_eq!(url("127.0.0.1:80"), "tcp://127.0.0.1:80");
    }

    #[test]
    fn the_remedy_fits_the_address() {
        let remedy = |addr: &str, only_v6| {
            let options = InetOptions {
                only_v6,
                ..InetOptions::default()
            };
            let in_use = io::ErrorKind::AddrInUse;
            options.remedy(addr.parse().unwrap(), in_use).unwrap()
        };
        for addr in ["[::]:7000", "0.0.0.0:7000"] {
            assert!(remedy(addr, None).contains("only_v6"), "{addr}");
        }
        assert!(!remedy("[::]:7000", Some(true)).contains("only_v6"));
        assert!(!remedy("[::1]:7000", None).contains("only_v6"));
        assert!(!remedy("127.0.0.1:7000", None).contains("only_v6"));
    }
}
