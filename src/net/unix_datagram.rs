//! Unix datagram sockets, by path or by abstract name (unix(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Type};

use crate::address::{Address, UnixAddress};
use crate::error::{Error, Tried};
use crate::net::datagram::{DatagramSocket, Kind, MAX_DATAGRAM, Packet, Whose};
use crate::net::options::Expected;
use crate::net::unix_path::{UnixBinding, UnixOptions};
use crate::net::{AcceptBatch, Adopt, Bind, Transport};
use crate::sys::mmsg;

/// A bound Unix datagram socket.
///
/// A sender whose own socket is not bound has no address: a reply to it fails, and the error hook
/// receives the error. A reply to a peer whose queue is full is dropped at once and fails with
/// `TimedOut`. Unread replies stay in the send buffer of this socket (unix(7)), where they can take
/// the room of all other replies; a larger [`send_buffer`](UnixOptions::send_buffer) helps.
///
/// # Dropping
///
/// The drop removes the path that this process bound, unless another file has taken its place.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Transport, UnixAddress};
/// use socketserver::UnixDatagram;
///
/// let socket = UnixDatagram::bind(UnixAddress::Abstract(b"socketserver-doc-datagram".to_vec()))?;
/// assert_eq!(socket[0].url(), "unixgram:@socketserver-doc-datagram");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixDatagram {
    /// Dropped first: the open socket keeps other files from getting its inode number.
    _path: Option<UnixBinding>,
    socket: Arc<DatagramSocket>,
    local: Address,
}

/// A datagram that [`UnixDatagram`] received.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::Datagram;
/// use socketserver::net::UnixPacket;
///
/// fn acknowledge(datagram: &mut UnixPacket) -> io::Result<()> {
///     let length = datagram.packet().len();
///     writeln!(datagram, "{length} bytes")
/// }
/// ```
pub type UnixPacket = Packet<UnixDatagram>;

/// What an adopted descriptor must be.
const EXPECTED: Expected = Expected {
    name: "a Unix datagram socket",
    domains: &[Domain::UNIX],
    kind: Type::DGRAM,
    listening: false,
};

impl UnixDatagram {
    /// Returns options to bind with. [`UnixOptions`] lists them with their defaults.
    pub fn options() -> UnixOptions<Self> {
        UnixOptions::new()
    }

    /// Adopts a descriptor that is already bound, as a service manager passes it. The drop leaves
    /// its path alone.
    ///
    /// The socket's send timeout becomes one second (socket(7), `SO_SNDTIMEO`), for every program
    /// that shares the socket. The drop restores the previous one.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless the descriptor is a datagram socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        EXPECTED.adopt(fd, |socket| {
            let socket = DatagramSocket::new(socket, MAX_DATAGRAM, Kind::Unix, Whose::Shared)?;
            Ok(Self {
                _path: None,
                local: socket.local_addr()?,
                socket,
            })
        })
    }
}

impl Transport for UnixDatagram {
    type Accepted = UnixPacket;

    const SCHEME: &'static str = "unixgram";

    fn local_addr(&self) -> Address {
        self.local.clone()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, UnixPacket>) -> io::Result<()> {
        self.socket.accept(batch)
    }

    fn is_adopted(&self) -> bool {
        self.socket.is_shared()
    }

    fn batch(&self) -> usize {
        mmsg::BATCH_MAX
    }
}

impl<A: Into<UnixAddress>> Bind<A> for UnixDatagram {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Ok(vec![Self::options().bind(addr)?])
    }
}

impl Adopt for UnixDatagram {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        EXPECTED.suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        Self::from_fd(fd)
    }
}

impl AsFd for UnixDatagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UnixOptions<UnixDatagram> {
    /// Sets the size of the largest datagram that is received, in bytes. Default: 65,535. A larger
    /// datagram is dropped and reported to the error hook; none is truncated.
    pub const fn max_datagram(mut self, bytes: usize) -> Self {
        self.max_datagram = bytes;
        self
    }

    /// Binds. Servers that bind the same path at the same time take turns, as those of
    /// [`UnixStream`](crate::UnixStream) do.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a live server receives there, or another server has bound the path and not
    ///   finished within a second. The socket file of a dead server is replaced.
    /// - `AlreadyExists`: the path is a file that is not a socket; it is left alone.
    /// - `InvalidInput`: the path or name is longer than 107 bytes, or the address is
    ///   [`UnixAddress::Unnamed`].
    /// - else as bind(2), chmod(2) or chown(2), with the path.
    pub fn bind(&self, addr: impl Into<UnixAddress>) -> Result<UnixDatagram, Error> {
        let addr = addr.into();
        let (socket, mut path) = self.bind_socket(Type::DGRAM, &addr)?;
        let new = || {
            let socket = DatagramSocket::new(socket, self.max_datagram, Kind::Unix, Whose::Own)?;
            Ok::<_, io::Error>((socket.local_addr()?, socket))
        };
        let (local, socket) = new().tried(|| format!("set up the datagram socket {addr}"))?;
        path.as_mut().map(UnixBinding::unlock);
        Ok(UnixDatagram {
            _path: path,
            socket,
            local,
        })
    }
}
