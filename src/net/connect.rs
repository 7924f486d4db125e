//! Outgoing connections, for handlers that are clients or proxies. They block a thread and suspend
//! a coroutine, as accepted connections do.

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ioctl_fionbio};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::UnixAddress;
use crate::error::{Error, Tried};
use crate::net::dialed::Dialed;
use crate::net::seqpacket::SeqpacketConnection;
use crate::net::tcp::TcpConnection;
use crate::net::unix_stream::UnixConnection;
use crate::registry::context::Context;
use crate::sys::errno;
use crate::sys::poll::Interest;
use crate::task::offload;
use crate::task::wait::{Source, after};

impl TcpConnection {
    /// Connects to a server. Tries each address that `addr` resolves to in turn, each for at most
    /// `timeout`.
    ///
    /// A coroutine is suspended while it waits, and resolves names on a helper thread
    /// ([`offload`]). A socket address, or its text, needs no thread. The connection has the number
    /// 0 and no server: see [`Dialed`]. `TCP_NODELAY` is on.
    ///
    /// # Errors
    ///
    /// As connect(2) for the last address: `ConnectionRefused`, `TimedOut`, and so on.
    ///
    /// # Examples
    ///
    /// A proxy that forwards each line to another server.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use socketserver::net::TcpConnection;
    /// use socketserver::python::ThreadingTcpServer;
    /// use socketserver::Connection;
    ///
    /// ThreadingTcpServer::bind("127.0.0.1:8080")?.serve_forever(|client| {
    ///     let mut upstream = TcpConnection::connect("127.0.0.1:9090", Duration::from_secs(5))?;
    ///     let mut line = String::new();
    ///     while client.read_line_max(&mut line, 4096)? > 0 {
    ///         use std::io::Write;
    ///         upstream.write_all(line.as_bytes())?;
    ///         line.clear();
    ///         upstream.read_line_max(&mut line, 4096)?;
    ///         client.write_all(line.as_bytes())?;
    ///         line.clear();
    ///     }
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// })?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn connect(
        addr: impl ToSocketAddrs + Debug + Send + 'static,
        timeout: Duration,
    ) -> Result<Dialed<Self>, Error> {
        let shown = format!("connect to {addr:?}");
        let addrs = match known(&addr) {
            Some(addr) => vec![addr],
            None => {
                let resolve = move || addr.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                offload(resolve).tried(|| shown.clone())?
            }
        };
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
        for addr in addrs {
            match connect_to(addr, timeout) {
                Ok(connection) => return Ok(connection),
                Err(err) => last = err,
            }
        }
        Err(last).tried(|| shown)
    }
}

/// Returns the address, if it needs no name resolution.
fn known(addr: &dyn Any) -> Option<SocketAddr> {
    let parsed = |text: &str| text.parse().ok();
    let text = addr.downcast_ref::<&str>().copied();
    let text = text.or_else(|| addr.downcast_ref::<String>().map(String::as_str));
    let pair = addr.downcast_ref::<(IpAddr, u16)>().copied();
    addr.downcast_ref::<SocketAddr>()
        .copied()
        .or_else(|| pair.map(SocketAddr::from))
        .or_else(|| text.and_then(parsed))
}

fn connect_to(addr: SocketAddr, timeout: Duration) -> io::Result<Dialed<TcpConnection>> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    let addr = SockAddr::from(addr);
    // Called again, connect(2) says how the attempt goes.
    let attempt = || match socket.connect(&addr).map_err(errno) {
        Ok(()) | Err(Errno::ISCONN) => Ok(((), false)),
        Err(Errno::INPROGRESS | Errno::ALREADY) => Err(Errno::AGAIN),
        Err(err) => Err(err),
    };
    let deadline = after(Some(timeout));
    let source = Source::watching_abort();
    source.complete(socket.as_fd(), Interest::Write, || deadline, attempt)?;
    // The connection has a source of its own.
    source.release(socket.as_fd());
    // One system call; socket2 makes two.
    ioctl_fionbio(&socket, false)?;
    let connection = TcpConnection::new(socket, &addr, Context::detached());
    Ok(Dialed(connection))
}

impl UnixConnection {
    /// Connects to a server on a Unix stream socket. Waits for at most `timeout` while its backlog
    /// is full.
    ///
    /// A coroutine that finds the backlog full connects on a helper thread ([`offload`]), because
    /// Linux has no event for room in it. The connection has the number 0 and no server: see
    /// [`Dialed`].
    ///
    /// # Errors
    ///
    /// As connect(2): `NotFound`, `ConnectionRefused`, `TimedOut`, and so on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    /// use socketserver::net::{UnixAddress, UnixConnection};
    /// use socketserver::{Server, Threading, UnixStream};
    ///
    /// let address = UnixAddress::Abstract(b"socketserver-doc-connect".to_vec());
    /// let server = Server::<UnixStream, Threading>::bind(address.clone())?;
    /// let guard = server.spawn(|conn| conn.write_all(b"hello world\n"))?;
    ///
    /// let mut dialed = UnixConnection::connect(address, Duration::from_secs(5))?;
    /// let mut greeting = String::new();
    /// dialed.read_to_string(&mut greeting)?;
    /// assert_eq!(greeting, "hello world\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(addr: impl Into<UnixAddress>, timeout: Duration) -> Result<Dialed<Self>, Error> {
        let addr = addr.into();
        let connected = connect_unix(&addr, Type::STREAM, timeout);
        let connected = connected.tried(|| format!("connect to {addr}"));
        connected.map(|(socket, peer)| Dialed(Self::new(socket, &peer, Context::detached())))
    }
}

impl SeqpacketConnection {
    /// Connects to a server on a Unix seqpacket socket, as [`UnixConnection::connect`] does for streams.
    ///
    /// # Errors
    ///
    /// As connect(2): `NotFound`, `ConnectionRefused`, `TimedOut`, and so on.
    ///
    /// # Examples
    ///
    /// See [`SeqpacketConnection`].
    pub fn connect(addr: impl Into<UnixAddress>, timeout: Duration) -> Result<Dialed<Self>, Error> {
        let addr = addr.into();
        let connected = connect_unix(&addr, Type::SEQPACKET, timeout).and_then(|(socket, addr)| {
            Self::prepare(&socket)?;
            Ok(Self::new(socket, &addr, Context::detached()))
        });
        connected.map(Dialed).tried(|| format!("connect to {addr}"))
    }
}

fn connect_unix(
    addr: &UnixAddress,
    kind: Type,
    timeout: Duration,
) -> io::Result<(Socket, SockAddr)> {
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "an unnamed address");
    let addr = addr.to_sock_addr().ok_or_else(unnamed)??;
    let deadline = after(Some(timeout));
    let socket = Socket::new(Domain::UNIX, kind.nonblocking(), None)?;
    let connected = socket.connect(&addr);
    socket.set_nonblocking(false)?;
    let socket = match connected {
        // The backlog is full, and Linux has no event for room in it (unix_stream_connect in
        // net/unix/af_unix.c): only a blocking connect(2) waits for room.
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
            let addr = addr.clone();
            offload(move || connect_blocking(socket, &addr, deadline))?
        }
        connected => connected.map(|()| socket)?,
    };
    Ok((socket, addr))
}

/// Connects in blocking mode. The send timeout limits how long connect(2) blocks (unix(7)).
fn connect_blocking(
    socket: Socket,
    addr: &SockAddr,
    deadline: Option<Instant>,
) -> io::Result<Socket> {
    // The kernel takes zero as "no timeout" (socket(7)).
    let least = Duration::from_millis(1);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        socket.set_write_timeout(left.map(|left| left.max(least)))?;
        match socket.connect(addr) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            connected => {
                connected?;
                socket.set_write_timeout(None)?;
                return Ok(socket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_looked_up_for_names_alone() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(known(&address), Some(address));
        assert_eq!(known(&"127.0.0.1:80"), Some(address));
        assert_eq!(known(&"127.0.0.1:80".to_owned()), Some(address));
        assert_eq!(known(&(address.ip(), 80_u16)), Some(address));
        assert_eq!(known(&"localhost:80"), None);
        assert_eq!(known(&("127.0.0.1", 80_u16)), None);
    }
}
