//! The servers under the names that Python programmers look for.
//!
//! Each is an alias: a [`Server`] of a transport and a model. `docs/coming-from-python.md` has every
//! name of Python's module beside its counterpart here.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::python::ThreadingTcpServer;
//!
//! ThreadingTcpServer::bind("127.0.0.1:8080")?
//!     .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
//! # Ok::<(), socketserver::Error>(())
//! ```

use crate::model::{Forking, Threading};
use crate::net::{Tcp, Udp, UnixDatagram, UnixStream};
use crate::server::Server;

/// Serves TCP, one connection after the other.
#[doc(alias = "TCPServer")]
pub type TcpServer = Server<Tcp>;
/// Serves UDP, one datagram after the other.
#[doc(alias = "UDPServer")]
pub type UdpServer = Server<Udp>;
/// Serves a Unix stream socket, one connection after the other.
pub type UnixStreamServer = Server<UnixStream>;
/// Serves a Unix datagram socket, one datagram after the other.
pub type UnixDatagramServer = Server<UnixDatagram>;

/// Serves TCP, each connection on a thread.
#[doc(alias = "ThreadingTCPServer")]
pub type ThreadingTcpServer = Server<Tcp, Threading>;
/// Serves UDP, each datagram on a thread.
#[doc(alias = "ThreadingUDPServer")]
pub type ThreadingUdpServer = Server<Udp, Threading>;
/// Serves a Unix stream socket, each connection on a thread.
pub type ThreadingUnixStreamServer = Server<UnixStream, Threading>;
/// Serves a Unix datagram socket, each datagram on a thread.
pub type ThreadingUnixDatagramServer = Server<UnixDatagram, Threading>;

/// Serves TCP, each connection in a process.
#[doc(alias = "ForkingTCPServer")]
pub type ForkingTcpServer = Server<Tcp, Forking>;
/// Serves UDP, each datagram in a process.
#[doc(alias = "ForkingUDPServer")]
pub type ForkingUdpServer = Server<Udp, Forking>;
/// Serves a Unix stream socket, each connection in a process.
pub type ForkingUnixStreamServer = Server<UnixStream, Forking>;
/// Serves a Unix datagram socket, each datagram in a process.
pub type ForkingUnixDatagramServer = Server<UnixDatagram, Forking>;
