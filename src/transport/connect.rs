//! Connecting out: a handler that is a client of another server, or a proxy. The connections are of
//! the type that handlers are given, and park in a coroutine as those do.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::UnixAddress;
use crate::coro::net::{Interest, Source};
use crate::coro::offload;
use crate::coro::worker::{Current, current};
use crate::error::{Error, Tried};
use crate::registry::context::Context;
use crate::transport::tcp::TcpConnection;
use crate::transport::unix_stream::UnixConnection;

/// How often a coroutine looks whether a Unix server has room for it, which epoll does not say.
const RETRY: Duration = Duration::from_millis(5);

impl TcpConnection {
    /// Connects to a server, trying each address that `addr` resolves to, each for at most
    /// `timeout`.
    ///
    /// Where it blocks, a coroutine parks; names are resolved on a helper thread then (`offload`).
    /// The connection has the number 0, and its owner closes it: dropping it sends what the kernel
    /// has and ends it. `TCP_NODELAY` is on.
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
    ///     while client.read_line(&mut line, 4096)? > 0 {
    ///         use std::io::Write;
    ///         upstream.write_all(line.as_bytes())?;
    ///         line.clear();
    ///         upstream.read_line(&mut line, 4096)?;
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
    ) -> Result<Self, Error> {
        let shown = format!("connect to {addr:?}");
        let resolve = move || addr.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let addrs = offload(resolve).tried(|| shown.clone())?;
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

fn connect_to(addr: SocketAddr, timeout: Duration) -> io::Result<TcpConnection> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    let addr = SockAddr::from(addr);
    match current() {
        None => socket.connect_timeout(&addr, timeout)?,
        Some(current) => connect_parked(&current, &socket, &addr, Instant::now() + timeout)?,
    }
    Ok(TcpConnection::new(socket, &addr, Context::detached()))
}

/// Connects in a coroutine. The descriptor is in blocking mode again afterwards.
fn connect_parked(
    current: &Current,
    socket: &Socket,
    addr: &SockAddr,
    deadline: Instant,
) -> io::Result<()> {
    let errno = |err: io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
    socket.set_nonblocking(true)?;
    let source = Source::default();
    let mut begun = false;
    let attempt = || {
        if !begun {
            begun = true;
            return match socket.connect(addr).map_err(errno) {
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
    source.complete(
        current,
        socket.as_fd(),
        Interest::Write,
        || Some(deadline),
        attempt,
    )?;
    // The connection gets a source of its own.
    source.release(socket.as_fd());
    socket.set_nonblocking(false)
}

impl UnixConnection {
    /// Connects to a server on a Unix stream socket, waiting for at most `timeout` where its queue
    /// is full.
    ///
    /// The connection has the number 0, and its owner closes it.
    ///
    /// # Errors
    ///
    /// What connect(2) says: `NotFound`, `ConnectionRefused`, `TimedOut`, and so on.
    pub fn connect(addr: impl Into<UnixAddress>, timeout: Duration) -> Result<Self, Error> {
        let addr = addr.into();
        connect_unix(&addr, timeout).tried(|| format!("connect to {addr}"))
    }
}

fn connect_unix(addr: &UnixAddress, timeout: Duration) -> io::Result<UnixConnection> {
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "an unnamed address");
    let addr = addr.to_sock_addr().ok_or_else(unnamed)??;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let deadline = Instant::now() + timeout;
    // The kernel waits for room in the queue of the server as long as the send timeout says
    // (unix(7)).
    let limit = if current().is_some() {
        RETRY
    } else {
        timeout.max(Duration::from_millis(1))
    };
    socket.set_write_timeout(Some(limit))?;
    loop {
        match socket.connect(&addr) {
            // Nothing has begun yet: io_uring interrupts a wait when something completes.
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => match current() {
                Some(current) if Instant::now() < deadline => {
                    current.sleep_until(Instant::now() + RETRY);
                }
                _ => return Err(io::ErrorKind::TimedOut.into()),
            },
            connected => break connected?,
        }
    }
    socket.set_write_timeout(None)?;
    Ok(UnixConnection::new(socket, &addr, Context::detached()))
}
