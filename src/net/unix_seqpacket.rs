//! Unix sockets of connections that carry messages, by path or by abstract name (unix(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Type};

use crate::address::{Address, UnixAddress};
use crate::error::Error;
use crate::net::options::Expected;
use crate::net::seqpacket::SeqpacketConnection;
use crate::net::unix_listener::{BoundUnix, UnixListener, backlog};
use crate::net::unix_path::UnixOptions;
use crate::net::{AcceptBatch, Adopt, Bind, Transport};

/// A listener of connections that carry messages with boundaries (`SOCK_SEQPACKET`).
///
/// A [`SeqpacketConnection`] is ordered and reliable as a stream is, and keeps messages apart as datagrams are. The
/// rest is as for [`UnixStream`](crate::UnixStream): socket files, names, modes, and what a stop does. The hook
/// [`whole_request`](crate::Builder::whole_request) is not called: each message is whole.
///
/// # Dropping
///
/// The drop removes the path that this process bound, unless another file has taken its place.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport, UnixAddress};
/// use socketserver::UnixSeqpacket;
///
/// let listener = UnixSeqpacket::bind(UnixAddress::Abstract(b"socketserver-doc-seqpacket".to_vec()))?;
/// assert_eq!(listener[0].url(), "seqpacket:@socketserver-doc-seqpacket");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixSeqpacket(UnixListener);

/// What an adopted descriptor must be.
const EXPECTED: Expected = Expected {
    name: "a Unix seqpacket listener",
    domains: &[Domain::UNIX],
    kind: Type::SEQPACKET,
    listening: true,
};

impl UnixSeqpacket {
    /// Returns options to bind with. [`UnixOptions`] lists them with their defaults.
    pub fn options() -> UnixOptions<Self> {
        UnixOptions::new()
    }

    /// Adopts a descriptor that already listens, as a service manager passes it. The drop leaves
    /// its path alone.
    ///
    /// The listener becomes non-blocking, for every program that shares it. The drop restores the
    /// previous mode.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless the descriptor is a listening seqpacket socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        UnixListener::adopt(EXPECTED, fd).map(Self)
    }
}

impl Transport for UnixSeqpacket {
    type Accepted = SeqpacketConnection;

    const SCHEME: &'static str = "seqpacket";

    fn local_addr(&self) -> Address {
        self.0.local_addr()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, SeqpacketConnection>) -> io::Result<()> {
        let (socket, peer) = self.0.accept(batch.stopping())?;
        SeqpacketConnection::prepare(&socket)?;
        batch.push(|context| SeqpacketConnection::new(socket, &peer, context));
        Ok(())
    }

    fn seal_backlog(&self) -> io::Result<bool> {
        self.0.seal_backlog()
    }

    fn is_adopted(&self) -> bool {
        self.0.is_adopted()
    }
}

impl<A: Into<UnixAddress>> Bind<A> for UnixSeqpacket {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Ok(vec![Self::options().bind(addr)?])
    }
}

impl Adopt for UnixSeqpacket {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        EXPECTED.suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        Self::from_fd(fd)
    }
}

impl AsFd for UnixSeqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UnixOptions<UnixSeqpacket> {
    /// Binds and listens, as the same method for [`UnixStream`](crate::UnixStream) does, with the same errors.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a live server is there.
    /// - else as for [`UnixStream`](crate::UnixStream).
    pub fn bind(&self, addr: impl Into<UnixAddress>) -> Result<UnixSeqpacket, Error> {
        self.bind_only(addr)?.listen()
    }

    /// Binds without listening. Until [`BoundUnixSeqpacket::listen`], clients are refused, and other servers cannot
    /// bind the path.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_only(&self, addr: impl Into<UnixAddress>) -> Result<BoundUnixSeqpacket, Error> {
        BoundUnix::new(self, Type::SEQPACKET, addr.into()).map(BoundUnixSeqpacket)
    }

    /// Sets the length of the backlog: how many connections may wait to be accepted. Default: the
    /// system's maximum (`net.core.somaxconn`, 4096 since Linux 5.4).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = backlog(connections);
        self
    }
}

/// A Unix seqpacket socket that is bound and does not listen yet. See
/// [`BoundUnixStream`](crate::net::BoundUnixStream).
///
/// # Examples
///
/// ```
/// use socketserver::UnixSeqpacket;
/// use socketserver::net::UnixAddress;
///
/// let name = UnixAddress::Abstract(b"socketserver-doc-bound-seqpacket".to_vec());
/// let bound = UnixSeqpacket::options().bind_only(name)?;
/// // Drop privileges and load data here; clients are refused meanwhile.
/// let listener = bound.listen()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct BoundUnixSeqpacket(BoundUnix);

impl BoundUnixSeqpacket {
    /// Listens.
    ///
    /// # Errors
    ///
    /// As listen(2), with the path or name.
    pub fn listen(self) -> Result<UnixSeqpacket, Error> {
        self.0.listen().map(UnixSeqpacket)
    }
}
