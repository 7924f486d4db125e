//! Connecting out: a handler that is a client of another server, or a proxy. The connections block as
//! those that handlers are given do, and in a coroutine park as they do.

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::UnixAddress;
use crate::error::{Error, Tried};
use crate::registry::context::Context;
use crate::sys::errno;
use crate::sys::poll::Interest;
use crate::task::offload;
use crate::task::wait::{Source, after};
use crate::transport::dialed::Dialed;
use crate::transport::tcp::TcpConnection;
use crate::transport::unix_stream::UnixConnection;

impl TcpConnection {
    /// Connects to a server, trying each address that `addr` resolves to, each for at most
    /// `timeout`.
    ///
    /// Where it blocks, a coroutine is suspended; a name is resolved on a helper thread then
    /// ([`offload`]). A socket address, also as text, takes no thread.
    /// The connection has the number 0, and its owner ends it: see [`Dialed`]. `TCP_NODELAY` is on.
    ///
    /// # Errors
    ///
    /// What connect(2) says of the last address: `ConnectionRefused`, `TimedOut`, and so on.
    ///
    /// # Examples
    ///
    /// A proxy that asks another server for each line.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use socketserver::{Connection, TcpConnection, ThreadingTcpServer};
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

/// The address itself, where nothing has to be looked up for it.
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
    let mut begun = false;
    let attempt = || {
        if !begun {
            begun = true;
            return match socket.connect(&addr).map_err(errno) {
                Ok(()) => Ok(((), false)),
                Err(Errno::INPROGRESS) => Err(Errno::AGAIN),
                Err(err) => Err(err),
            };
        }
        match socket.take_error().map_err(errno)? {
            Some(err) => Err(errno(err)),
            None if socket.peer_addr().is_ok() => Ok(((), false)),
            None => Err(Errno::AGAIN),
        }
    };
    let deadline = after(Some(timeout));
    let source = Source::apart();
    source.complete(socket.as_fd(), Interest::Write, || deadline, attempt)?;
    // The connection gets a source of its own.
    source.release(socket.as_fd());
    socket.set_nonblocking(false)?;
    let connection = TcpConnection::new(socket, &addr, Context::detached());
    Ok(Dialed(connection))
}

impl UnixConnection {
    /// Connects to a server on a Unix stream socket, waiting for at most `timeout` where its queue
    /// is full.
    ///
    /// A coroutine that finds it full connects on a helper thread ([`offload`]): Linux has
    /// no event for the room. The connection has the number 0, and its owner ends it: see [`Dialed`].
    ///
    /// # Errors
    ///
    /// What connect(2) says: `NotFound`, `ConnectionRefused`, `TimedOut`, and so on.
    pub fn connect(addr: impl Into<UnixAddress>, timeout: Duration) -> Result<Dialed<Self>, Error> {
        let addr = addr.into();
        connect_unix(&addr, timeout).tried(|| format!("connect to {addr}"))
    }
}

fn connect_unix(addr: &UnixAddress, timeout: Duration) -> io::Result<Dialed<UnixConnection>> {
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "an unnamed address");
    let addr = addr.to_sock_addr().ok_or_else(unnamed)??;
    let deadline = after(Some(timeout));
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let connected = socket.connect(&addr);
    socket.set_nonblocking(false)?;
    let socket = match connected {
        // Its queue is full, of which no event tells (unix_stream_connect in net/unix/af_unix.c): only a
        // call that blocks waits for room.
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
            let addr = addr.clone();
            offload(move || connect_blocking(socket, &addr, deadline))?
        }
        connected => connected.map(|()| socket)?,
    };
    let connection = UnixConnection::new(socket, &addr, Context::detached());
    Ok(Dialed(connection))
}

/// Connects on a thread, for as long as the send timeout says (unix(7)).
fn connect_blocking(
    socket: Socket,
    addr: &SockAddr,
    deadline: Option<Instant>,
) -> io::Result<Socket> {
    // The kernel would take zero as "no timeout" (socket(7)).
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
