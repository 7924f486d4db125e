//! Unix stream sockets, by path or by abstract name (unix(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Socket, Type};

use crate::address::{Address, UnixAddress};
use crate::error::{Error, Tried};
use crate::net::listener::Listener;
use crate::net::options::Expected;
use crate::net::stream::Stream;
use crate::net::unix_path::{UnixBinding, UnixOptions};
use crate::net::{AcceptBatch, Bind, Transport};
use crate::sys::sockopt;

/// A Unix stream listener.
///
/// # Dropping
///
/// A path that this process bound is removed when the listener is dropped, unless another file has
/// taken its place.
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
pub struct UnixStream {
    listener: Listener,
    local: Address,
    _path: Option<UnixBinding>,
}

/// A connection that [`UnixStream`] accepted.
pub type UnixConnection = Stream<UnixStream>;

/// Who is at the other end of a Unix connection (unix(7), `SO_PEERCRED`), as of its connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// Process id, in this process's PID namespace; 0 if it has none there.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl UnixStream {
    /// Options to bind with. See [`UnixOptions`] for each and its default.
    pub fn options() -> UnixOptions<Self> {
        UnixOptions::new()
    }

    /// Takes over a descriptor that already listens, as a service manager passes it. Its path, if
    /// any, is not removed.
    ///
    /// It is made non-blocking, which whoever shares it sees too, until it is dropped: then it is
    /// as it was.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless it is a listening stream socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let expected = Expected {
            name: "a Unix stream listener",
            domains: &[Domain::UNIX],
            kind: Type::STREAM,
            listening: true,
        };
        expected.adopt(fd, |socket| {
            let local = Address::from_sock_addr(&socket.local_addr()?);
            Ok(Self {
                listener: Listener::adopted(socket)?,
                local,
                _path: None,
            })
        })
    }
}

impl Transport for UnixStream {
    type Accepted = UnixConnection;

    const SCHEME: &'static str = "unix";

    fn local_addr(&self) -> Address {
        self.local.clone()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, UnixConnection>) -> io::Result<()> {
        let (socket, peer) = self.listener.accept().map_err(|err| {
            // After `seal_backlog` the queue is empty when there is nothing to accept.
            let empty = batch.stopping() && err.kind() == io::ErrorKind::InvalidInput;
            if empty {
                io::ErrorKind::WouldBlock.into()
            } else {
                err
            }
        })?;
        batch.push(|context| Stream::new(socket, &peer, context));
        Ok(())
    }

    /// Clients are refused from now on; those that wait in the queue are not (unix_stream_connect
    /// and unix_accept in net/unix/af_unix.c).
    fn seal_backlog(&self) -> io::Result<bool> {
        let own = !self.is_adopted();
        if own {
            self.listener.shutdown_reading()?;
        }
        Ok(own)
    }

    fn is_adopted(&self) -> bool {
        self.listener.is_adopted()
    }
}

impl<A: Into<UnixAddress>> Bind<A> for UnixStream {
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        Ok(vec![Self::options().bind(addr)?])
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl UnixConnection {
    /// The process, user and group that connected.
    ///
    /// # Errors
    ///
    /// What getsockopt(2) says.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        let libc::ucred { pid, uid, gid } = sockopt::peer_credentials(self.as_fd())?;
        Ok(Credentials { pid, uid, gid })
    }
}

impl UnixOptions<UnixStream> {
    /// Binds and listens.
    ///
    /// Servers that bind the same path at once do it one after the other: each holds an abstract
    /// socket whose name stands for the directory and the file, which servers of other paths do not
    /// take. It leaves nothing behind, works where they share a network namespace, and is done
    /// without where the system forbids abstract names.
    ///
    /// # Errors
    ///
    /// - `AddrInUse`: a live server listens there, or one has bound the path and not begun to listen
    ///   within a second. A socket file that a dead one left behind is replaced.
    /// - `AlreadyExists`: the path is a file of another kind; it is left alone.
    /// - `InvalidInput`: the path or name is longer than 107 bytes, or the address is
    ///   [`UnixAddress::Unnamed`].
    /// - else what bind(2), chmod(2), chown(2) or listen(2) says, with the path.
    pub fn bind(&self, addr: impl Into<UnixAddress>) -> Result<UnixStream, Error> {
        self.bind_only(addr)?.listen()
    }

    /// Binds without listening: clients are refused until [`BoundUnixStream::listen`] is called, and
    /// so are other servers.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_only(&self, addr: impl Into<UnixAddress>) -> Result<BoundUnixStream, Error> {
        let addr = addr.into();
        let (socket, path) = self.bind_socket(Type::STREAM, &addr)?;
        Ok(BoundUnixStream {
            socket,
            addr,
            path,
            backlog: self.backlog,
        })
    }

    /// How many connections wait in the kernel to be accepted. Default: as many as the system
    /// allows (`net.core.somaxconn`, 4096 since Linux 5.4).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = i32::try_from(connections).unwrap_or(i32::MAX);
        self
    }
}

/// A Unix stream socket that is bound and does not listen yet.
///
/// No other server can bind its path: one that tries fails after a second. A process that is forked
/// meanwhile has the same socket, and keeps the path from others for as long as it runs.
///
/// # Examples
///
/// ```
/// use socketserver::UnixStream;
///
/// let path = std::env::temp_dir().join(format!("socketserver-doc-bound-{}", std::process::id()));
/// let bound = UnixStream::options().bind_only(&path)?;
/// // Drop privileges, load what has to be loaded; then let clients in.
/// let listener = bound.listen()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct BoundUnixStream {
    socket: Socket,
    addr: UnixAddress,
    path: Option<UnixBinding>,
    backlog: i32,
}

impl BoundUnixStream {
    /// Listens.
    ///
    /// # Errors
    ///
    /// What listen(2) says, with the path or name.
    pub fn listen(self) -> Result<UnixStream, Error> {
        let Self {
            socket,
            addr,
            mut path,
            backlog,
        } = self;
        let listened = socket.listen(backlog).and_then(|()| {
            Ok((
                Address::from_sock_addr(&socket.local_addr()?),
                Listener::own(socket)?,
            ))
        });
        let (local, listener) = listened.tried(|| format!("listen on {addr}"))?;
        path.as_mut().map(UnixBinding::unlock);
        Ok(UnixStream {
            listener,
            local,
            _path: path,
        })
    }
}
