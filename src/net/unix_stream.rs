//! Unix stream sockets, by path or by abstract name (unix(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Type};

use crate::address::{Address, UnixAddress};
use crate::error::Error;
use crate::net::options::Expected;
use crate::net::stream::Stream;
use crate::net::unix_listener::{BoundUnix, UnixListener, backlog};
use crate::net::unix_path::UnixOptions;
use crate::net::{AcceptBatch, Adopt, Bind, Transport};
use crate::sys::sockopt;

/// A Unix stream listener.
///
/// # Dropping
///
/// The drop removes the path that this process bound, unless another file has taken its place.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport, UnixAddress};
/// use socketserver::UnixStream;
///
/// let listener = UnixStream::bind(UnixAddress::Abstract(b"socketserver-doc-stream".to_vec()))?;
/// assert_eq!(listener[0].url(), "unix:@socketserver-doc-stream");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixStream(UnixListener);

/// A connection that [`UnixStream`] accepted.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::{Accepted, UnixConnection};
///
/// fn whoami(conn: &mut UnixConnection) -> io::Result<()> {
///     let user = conn.peer_credentials()?.uid;
///     writeln!(conn, "{user}")
/// }
/// ```
pub type UnixConnection = Stream<UnixStream>;

/// The process at the other end of a Unix connection, when it called connect(2) (unix(7),
/// `SO_PEERCRED`).
///
/// # Examples
///
/// ```
/// use socketserver::net::{Accepted, UnixConnection};
///
/// fn is_root(conn: &UnixConnection) -> bool {
///     conn.peer_credentials().is_ok_and(|peer| peer.uid == 0)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// Process id in this process's PID namespace; 0 if the peer has none there.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Credentials {
    /// Reads those of a connection.
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let libc::ucred { pid, uid, gid } = sockopt::peer_credentials(socket)?;
        Ok(Self { pid, uid, gid })
    }
}

/// What an adopted descriptor must be.
const EXPECTED: Expected = Expected {
    name: "a Unix stream listener",
    domains: &[Domain::UNIX],
    kind: Type::STREAM,
    listening: true,
};

impl UnixStream {
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
    /// `InvalidInput` unless the descriptor is a listening stream socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        UnixListener::adopt(EXPECTED, fd).map(Self)
    }
}

impl Transport for UnixStream {
    type Accepted = UnixConnection;

    const SCHEME: &'static str = "unix";

    fn local_addr(&self) -> Address {
        self.0.local_addr()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, UnixConnection>) -> io::Result<()> {
        let (socket, peer) = self.0.accept(batch.stopping())?;
        batch.push(|context| Stream::new(socket, &peer, context));
        Ok(())
    }

    fn seal_backlog(&self) -> io::Result<bool> {
        self.0.seal_backlog()
    }

    fn is_adopted(&self) -> bool {
        self.0.is_adopted()
    }
}

impl<A: Into<UnixAddress>> Bind<A> for UnixStream {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Ok(vec![Self::options().bind(addr)?])
    }
}

impl Adopt for UnixStream {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        EXPECTED.suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        Self::from_fd(fd)
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UnixOptions<UnixStream> {
    /// Binds and listens.
    ///
    /// Servers that bind the same path at the same time take turns. Each holds a lock: an abstract
    /// socket whose name is a hash of the directory and the file name. The lock leaves no file
    /// behind and works within a network namespace; where the system forbids abstract names,
    /// servers do without it.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a live server listens there, or another server has bound the path and not
    ///   begun to listen within a second. The socket file of a dead server is replaced.
    /// - `AlreadyExists`: the path is a file that is not a socket; it is left alone.
    /// - `InvalidInput`: the path or name is longer than 107 bytes, or the address is
    ///   [`UnixAddress::Unnamed`].
    /// - else as bind(2), chmod(2), chown(2) or listen(2), with the path.
    pub fn bind(&self, addr: impl Into<UnixAddress>) -> Result<UnixStream, Error> {
        self.bind_only(addr)?.listen()
    }

    /// Binds without listening. Until [`BoundUnixStream::listen`], clients are refused, and other
    /// servers cannot bind the path.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_only(&self, addr: impl Into<UnixAddress>) -> Result<BoundUnixStream, Error> {
        BoundUnix::new(self, Type::STREAM, addr.into()).map(BoundUnixStream)
    }

    /// Sets the length of the backlog: how many connections may wait to be accepted. Default: the
    /// system's maximum (`net.core.somaxconn`, 4096 since Linux 5.4).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = backlog(connections);
        self
    }
}

/// A Unix stream socket that is bound and does not listen yet.
///
/// Other servers cannot bind its path: their attempt fails after a second. A process that is forked
/// meanwhile inherits the socket and keeps the path locked until it ends.
///
/// # Examples
///
/// ```
/// use socketserver::UnixStream;
///
/// let path = std::env::temp_dir().join(format!("socketserver-doc-bound-{}", std::process::id()));
/// let bound = UnixStream::options().bind_only(&path)?;
/// // Drop privileges and load data here; clients are refused meanwhile.
/// let listener = bound.listen()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct BoundUnixStream(BoundUnix);

impl BoundUnixStream {
    /// Listens.
    ///
    /// # Errors
    ///
    /// As listen(2), with the path or name.
    pub fn listen(self) -> Result<UnixStream, Error> {
        self.0.listen().map(UnixStream)
    }
}
