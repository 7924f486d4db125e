//! A helper for tests of a server: it serves on a thread of its own and on a free port, and stops
//! the server when the test is over.
//!
//! ```
//! use std::io::{BufRead, Read, Write};
//! use socketserver::testing::TestServer;
//! use socketserver::{Server, Tcp, ThreadPool};
//!
//! fn shout(conn: &mut impl socketserver::Connection) -> std::io::Result<()> {
//!     let mut line = String::new();
//!     conn.read_line(&mut line)?;
//!     conn.write_all(line.to_uppercase().as_bytes())
//! }
//!
//! let server = Server::<Tcp>::builder().model(ThreadPool::new(2)).bind("127.0.0.1:0")?;
//! let server = TestServer::spawn(server, |conn| shout(conn));
//! let mut client = server.connect();
//! client.write_all(b"hello\n").unwrap();
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert_eq!(answer, "HELLO\n");
//! assert_eq!(server.stop().aborted, 0);
//! # Ok::<(), socketserver::Error>(())
//! ```

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use crate::accept::dispatch::Model;
use crate::accept::report::Report;
use crate::address::{Address, UnixAddress};
use crate::handle::ServerHandle;
use crate::handler::IntoOutcome;
use crate::lifecycle::State;
use crate::net::{Dialed, SeqpacketConnection, Tcp, Transport, Udp, UnixSeqpacket, UnixStream};
use crate::server::{Server, ServerGuard};

/// How long a client's connect, and each of its reads and writes, waits before it fails.
const DEADLINE: Duration = Duration::from_secs(10);

/// A server under test, which serves on a thread of its own until it is stopped or dropped.
///
/// The methods panic when an operation fails, which fails the test. The reads and writes of its
/// clients time out after 10 s, so that a test ends.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use socketserver::python::ThreadingTcpServer;
/// use socketserver::testing::TestServer;
///
/// let server = ThreadingTcpServer::bind("127.0.0.1:0")?;
/// let server = TestServer::spawn(server, |conn| conn.write_all(b"hello\n"));
/// let mut answer = String::new();
/// server.connect().read_to_string(&mut answer).unwrap();
/// assert_eq!(answer, "hello\n");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct TestServer<T> {
    guard: ServerGuard,
    transport: PhantomData<fn() -> T>,
}

impl<T: Transport> TestServer<T> {
    /// Serves with `handler` on a new thread, and waits until the server runs. Bind `server` to port
    /// 0, or to a path in a temporary directory.
    ///
    /// # Panics
    ///
    /// - The thread cannot be started.
    /// - The server does not run, with its error: [`Forking`](crate::Forking) and
    ///   [`Prefork`](crate::Prefork) do not start in a process that has other threads, as a test has.
    pub fn spawn<M, F, O>(server: Server<T, M>, handler: F) -> Self
    where
        M: Model,
        F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        let guard = server.spawn(handler);
        let guard = guard.unwrap_or_else(|err| panic!("{err}"));
        let runs = guard.handle().wait_for(State::Running, DEADLINE);
        assert!(runs, "the server does not run within {DEADLINE:?}");
        if guard.handle().state() == State::Closed {
            let report = guard.join().unwrap_or_else(|err| panic!("{err}"));
            panic!("the server has stopped: {report:?}");
        }
        Self {
            guard,
            transport: PhantomData,
        }
    }

    /// Returns the server's handle: its state, its counts, its live connections.
    pub const fn handle(&self) -> &ServerHandle {
        self.guard.handle()
    }

    /// Returns the address of the first listener.
    #[must_use]
    pub fn addr(&self) -> &Address {
        &self.handle().local_addrs()[0]
    }

    /// Stops the server, waits until it has drained, and returns its report.
    ///
    /// # Panics
    ///
    /// - Serving has failed.
    #[must_use = "it says whether connections were aborted"]
    pub fn stop(self) -> Report {
        let report = self.guard.stop();
        report.unwrap_or_else(|err| panic!("{err}"))
    }

    fn socket_addr(&self) -> SocketAddr {
        let addr = self.addr().socket_addr();
        addr.expect("a server of internet sockets has an address")
    }
}

impl TestServer<Tcp> {
    /// Connects a client to the server.
    ///
    /// # Panics
    ///
    /// - The connect fails.
    #[must_use]
    pub fn connect(&self) -> TcpStream {
        let addr = self.socket_addr();
        let client = TcpStream::connect_timeout(&addr, DEADLINE);
        let client = client.unwrap_or_else(|err| panic!("connect to {addr}: {err}"));
        let limited = client
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| client.set_write_timeout(Some(DEADLINE)));
        limited.expect("a socket takes timeouts");
        client
    }
}

impl TestServer<UnixStream> {
    /// Connects a client to the server.
    ///
    /// # Panics
    ///
    /// - The connect fails, or the server is bound to an abstract name.
    #[must_use]
    pub fn connect(&self) -> StdUnixStream {
        let addr = self.addr();
        let Address::Unix(UnixAddress::Path(path)) = addr else {
            panic!("connect to {addr}: the address is not a path");
        };
        let client = StdUnixStream::connect(path);
        let client = client.unwrap_or_else(|err| panic!("connect to {addr}: {err}"));
        let limited = client
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| client.set_write_timeout(Some(DEADLINE)));
        limited.expect("a socket takes timeouts");
        client
    }
}

impl TestServer<UnixSeqpacket> {
    /// Connects a client to the server. Its `recv` and `send` time out after 10 s.
    ///
    /// # Panics
    ///
    /// - The connect fails.
    #[must_use]
    pub fn connect(&self) -> Dialed<SeqpacketConnection> {
        let addr = self.addr();
        let Address::Unix(unix) = &addr else {
            panic!("connect to {addr}: it is no Unix address");
        };
        let client = SeqpacketConnection::connect(unix.clone(), DEADLINE);
        let client = client.unwrap_or_else(|err| panic!("{err}"));
        let limited = client
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| client.set_write_timeout(Some(DEADLINE)));
        limited.expect("the limit is not zero");
        client
    }
}

impl TestServer<Udp> {
    /// Binds a client socket and connects it to the server, so that `send` and `recv` need no
    /// address. Reads time out after 10 s.
    ///
    /// # Panics
    ///
    /// - The socket cannot be bound or connected.
    #[must_use]
    pub fn connect(&self) -> UdpSocket {
        let addr = self.socket_addr();
        let any: IpAddr = match addr {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let client = UdpSocket::bind((any, 0));
        let client = client.and_then(|client| client.connect(addr).map(|()| client));
        let client = client.unwrap_or_else(|err| panic!("connect to {addr}: {err}"));
        let limited = client.set_read_timeout(Some(DEADLINE));
        limited.expect("a socket takes timeouts");
        client
    }
}
