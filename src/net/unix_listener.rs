//! Listening Unix sockets: what streams and connections with messages share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{SockAddr, Socket, Type};

use crate::address::{Address, UnixAddress};
use crate::error::{Error, Tried};
use crate::net::listener::Listener;
use crate::net::options::Expected;
use crate::net::unix_path::{UnixBinding, UnixOptions};

/// A Unix socket that listens.
#[derive(Debug)]
pub(super) struct UnixListener {
    /// Dropped first: the open socket keeps other files from getting its inode number.
    _path: Option<UnixBinding>,
    listener: Listener,
    local: Address,
    /// `SO_SNDBUF` of accepted connections, which do not inherit that of their listener.
    send_buffer: Option<usize>,
}

impl UnixListener {
    /// Adopts a descriptor.
    pub(super) fn adopt(expected: Expected, fd: OwnedFd) -> Result<Self, Error> {
        expected.adopt(fd, |socket| {
            let local = Address::from_sock_addr(&socket.local_addr()?);
            Ok(Self {
                _path: None,
                listener: Listener::adopted(socket)?,
                local,
                send_buffer: None,
            })
        })
    }

    pub(super) fn local_addr(&self) -> Address {
        self.local.clone()
    }

    /// Accepts a connection. `stopping`: the backlog may be sealed.
    pub(super) fn accept(&self, stopping: bool) -> io::Result<(Socket, SockAddr)> {
        let (socket, peer) = self.listener.accept().map_err(|err| {
            // After `seal_backlog`, accept(2) reports an empty backlog as EINVAL.
            let empty = stopping && err.kind() == io::ErrorKind::InvalidInput;
            if empty {
                io::ErrorKind::WouldBlock.into()
            } else {
                err
            }
        })?;
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        Ok((socket, peer))
    }

    /// shutdown(2) makes later connects fail; the backlog can still be accepted (unix_stream_connect and unix_accept
    /// in net/unix/af_unix.c).
    pub(super) fn seal_backlog(&self) -> io::Result<bool> {
        let own = !self.is_adopted();
        if own {
            self.listener.shutdown_reading()?;
        }
        Ok(own)
    }

    pub(super) const fn is_adopted(&self) -> bool {
        self.listener.is_adopted()
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A Unix socket that is bound and does not listen yet.
#[derive(Debug)]
pub(super) struct BoundUnix {
    socket: Socket,
    addr: UnixAddress,
    path: Option<UnixBinding>,
    backlog: i32,
    send_buffer: Option<usize>,
}

impl BoundUnix {
    pub(super) fn new<T>(
        options: &UnixOptions<T>,
        kind: Type,
        addr: UnixAddress,
    ) -> Result<Self, Error> {
        let (socket, path) = options.bind_socket(kind, &addr)?;
        Ok(Self {
            socket,
            addr,
            path,
            backlog: options.backlog,
            send_buffer: options.buffers.send,
        })
    }

    pub(super) fn listen(self) -> Result<UnixListener, Error> {
        let Self {
            socket,
            addr,
            mut path,
            backlog,
            send_buffer,
        } = self;
        let listened = socket.listen(backlog).and_then(|()| {
            Ok((
                Address::from_sock_addr(&socket.local_addr()?),
                Listener::own(socket)?,
            ))
        });
        let (local, listener) = listened.tried(|| format!("listen on {addr}"))?;
        path.as_mut().map(UnixBinding::unlock);
        Ok(UnixListener {
            _path: path,
            listener,
            local,
            send_buffer,
        })
    }
}

/// Converts the length of a backlog for listen(2).
pub(super) fn backlog(connections: u32) -> i32 {
    i32::try_from(connections).unwrap_or(i32::MAX)
}
