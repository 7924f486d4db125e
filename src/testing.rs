//! A server under test: on a free port, on a thread of its own, stopped when the test is over.
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
use crate::net::{Tcp, Transport, Udp, UnixStream};
use crate::server::{Server, ServerGuard};

/// How long the reads and writes of a client wait before they fail.
const DEADLINE: Duration = Duration::from_secs(10);

/// A server that serves on a thread of its own until it is stopped or dropped.
///
/// Its methods panic where something fails, with what failed: in a test that is the report. The
/// clients that it makes give up a read or a write after 10 s, so that a test ends.
///
/// # Examples
///
/// See [the module](self).
#[derive(Debug)]
pub struct TestServer<T> {
    guard: ServerGuard,
    transport: PhantomData<fn() -> T>,
}

impl<T: Transport> TestServer<T> {
    /// Serves `server` with `handler`. Bind it to port 0, or to a path in a temporary directory.
    ///
    /// # Panics
    ///
    /// No thread can be started.
    pub fn spawn<M, F, O>(server: Server<T, M>, handler: F) -> Self
    where
        M: Model,
        F: Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        let guard = server.spawn(handler);
        Self {
            guard: guard.unwrap_or_else(|err| panic!("{err}")),
            transport: PhantomData,
        }
    }

    /// The server's handle: its state, its counts, its live connections.
    pub const fn handle(&self) -> &ServerHandle {
        self.guard.handle()
    }

    /// The address of its first listener.
    #[must_use]
    pub fn addr(&self) -> &Address {
        &self.handle().local_addrs()[0]
    }

    /// Stops the server, waits until it has drained, and returns how it ended.
    ///
    /// # Panics
    ///
    /// Serving has failed.
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
    /// A client of the server.
    ///
    /// # Panics
    ///
    /// The server cannot be connected to.
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
    /// A client of the server.
    ///
    /// # Panics
    ///
    /// The server cannot be connected to.
    #[must_use]
    pub fn connect(&self) -> StdUnixStream {
        let addr = self.addr();
        let Address::Unix(UnixAddress::Path(path)) = addr else {
            panic!("connect to {addr}: it is no path");
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

impl TestServer<Udp> {
    /// A client of the server, connected to it: `send` and `recv` are enough.
    ///
    /// # Panics
    ///
    /// No socket can be bound.
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
