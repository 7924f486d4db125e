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
use crate::net::{AcceptBatch, Bind, Transport};
use crate::sys::mmsg;

/// A bound Unix datagram socket: each datagram is a request.
///
/// A sender that has not bound its own socket has no address: writing a reply to it fails, and the
/// error hook is told. So it is with a peer that does not read its replies: one that finds no room
/// is dropped at once, and fails with `TimedOut`. Replies that a peer has not read stay in the send
/// buffer of this socket (unix(7)), and may fill it for all; a larger
/// [`send_buffer`](UnixOptions::send_buffer) helps.
///
/// # Dropping
///
/// A path that this process bound is removed when the socket is dropped, unless another file has
/// taken its place.
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
    socket: Arc<DatagramSocket>,
    local: Address,
    _path: Option<UnixBinding>,
}

/// A datagram that [`UnixDatagram`] received.
pub type UnixPacket = Packet<UnixDatagram>;

impl UnixDatagram {
    /// Options to bind with. See [`UnixOptions`] for each and its default.
    pub fn options() -> UnixOptions<Self> {
        UnixOptions::new()
    }

    /// Takes over a descriptor that is already bound, as a service manager passes it. Its path, if
    /// any, is not removed.
    ///
    /// Whoever shares it sees the send timeout of a second (socket(7), `SO_SNDTIMEO`) that it gets,
    /// until it is dropped: then it is as it was.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless it is a datagram socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let expected = Expected {
            name: "a Unix datagram socket",
            domains: &[Domain::UNIX],
            kind: Type::DGRAM,
            listening: false,
        };
        expected.adopt(fd, |socket| {
            let socket = DatagramSocket::new(socket, MAX_DATAGRAM, Kind::Unix, Whose::Shared)?;
            Ok(Self {
                local: socket.local_addr()?,
                socket,
                _path: None,
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

impl AsFd for UnixDatagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UnixOptions<UnixDatagram> {
    /// The largest datagram that is received whole, in bytes. Default: 65,535. A larger one is
    /// dropped and reported to the error hook, never cut short in silence.
    pub const fn max_datagram(mut self, bytes: usize) -> Self {
        self.max_datagram = bytes;
        self
    }

    /// Binds. Servers that bind the same path at once do it one after the other, as those of
    /// [`UnixStream`](crate::UnixStream) do.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a live server receives there, or one has bound the path and not begun to listen
    ///   within a second. A socket file that a dead one left behind is replaced.
    /// - `AlreadyExists`: the path is a file of another kind; it is left alone.
    /// - `InvalidInput`: the path or name is longer than 107 bytes, or the address is
    ///   [`UnixAddress::Unnamed`].
    /// - else what bind(2), chmod(2) or chown(2) says, with the path.
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
            socket,
            local,
            _path: path,
        })
    }
}
