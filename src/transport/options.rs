//! Socket options that several transports share, and the checks of adopted descriptors.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use crate::error::{Error, Tried};

/// Sizes of the kernel's buffers, as SO_RCVBUF and SO_SNDBUF take them (socket(7)).
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

/// What an internet socket is bound with.
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
    /// all get one port.
    pub(crate) fn bind_all(
        self,
        kind: Type,
        addr: impl ToSocketAddrs + Debug,
        more: &dyn Fn(&Socket) -> io::Result<()>,
    ) -> Result<Vec<Socket>, Error> {
        let mut addrs: Vec<_> = addr
            .to_socket_addrs()
            .tried(|| format!("resolve {addr:?}"))?
            .collect();
        addrs.sort_unstable_by_key(SocketAddr::is_ipv6);
        addrs.dedup();
        // A port that the kernel picked for the first address may be taken on the second: pick
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
    ) -> Result<Vec<Socket>, Error> {
        let mut sockets = Vec::with_capacity(addrs.len());
        let mut port = None;
        for &addr in addrs {
            let addr = SocketAddr::new(
                addr.ip(),
                if addr.port() == 0 {
                    port.unwrap_or(0)
                } else {
                    addr.port()
                },
            );
            let socket = match self.bind(kind, addr, more) {
                // `localhost` names ::1 on hosts that have no IPv6 too.
                Err(err) if addrs.len() > 1 && is_absent(&err) => continue,
                result => result.map_err(|err| bind_error(addr, err))?,
            };
            let local = socket
                .local_addr()
                .tried(|| format!("read the address of {addr}"))?;
            port = port.or_else(|| local.as_socket().map(|addr| addr.port()));
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

/// Whether the host lacks the address or its whole family.
fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    )
}

/// Adds what to do about the errors that bind(2) is known for.
fn bind_error(addr: SocketAddr, err: io::Error) -> Error {
    let remedy = match err.kind() {
        io::ErrorKind::PermissionDenied if addr.port() < 1024 => Some(
            "ports below net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE, or a socket passed by the service manager",
        ),
        io::ErrorKind::AddrInUse => {
            Some("another process listens there (ss -ltnup shows which), or choose another port")
        }
        io::ErrorKind::AddrNotAvailable => Some("no interface of this host has that address"),
        _ => None,
    };
    let err = Error::new(format!("bind {addr}"), err);
    match remedy {
        Some(remedy) => err.with_remedy(remedy),
        None => err,
    }
}

/// What a descriptor has to be, to be adopted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) name: &'static str,
    pub(crate) domains: &'static [Domain],
    pub(crate) kind: Type,
    pub(crate) listening: bool,
}

impl Expected {
    /// Takes over an open descriptor after checking its family, its type and whether it listens.
    pub(crate) fn adopt(self, fd: OwnedFd) -> Result<Socket, Error> {
        let socket = Socket::from(fd);
        self.check(&socket)
            .tried(|| format!("adopt a descriptor as {}", self.name))?;
        Ok(socket)
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
        socket.set_cloexec(true)
    }
}
