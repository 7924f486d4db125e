//! The servers under the names of Python's `socketserver` module.
//!
//! Each name is an alias: a [`Server`] of a transport and a model. `docs/coming-from-python.md`
//! lists every name of Python's module beside its counterpart here.
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
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::TcpServer;
///
/// TcpServer::bind("127.0.0.1:8080")?.serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "TCPServer")]
pub type TcpServer = Server<Tcp>;
/// Serves UDP, one datagram after the other.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::UdpServer;
///
/// UdpServer::bind("127.0.0.1:8080")?.serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "UDPServer")]
pub type UdpServer = Server<Udp>;
/// Serves a Unix stream socket, one connection after the other.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::UnixStreamServer;
///
/// UnixStreamServer::bind("/run/hello.sock")?.serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type UnixStreamServer = Server<UnixStream>;
/// Serves a Unix datagram socket, one datagram after the other.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::UnixDatagramServer;
///
/// UnixDatagramServer::bind("/run/echo.sock")?.serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type UnixDatagramServer = Server<UnixDatagram>;

/// Serves TCP, each connection on a thread.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ThreadingTcpServer;
///
/// ThreadingTcpServer::bind("127.0.0.1:8080")?
///     .serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "ThreadingTCPServer")]
pub type ThreadingTcpServer = Server<Tcp, Threading>;
/// Serves UDP, each datagram on a thread.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::ThreadingUdpServer;
///
/// ThreadingUdpServer::bind("127.0.0.1:8080")?.serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "ThreadingUDPServer")]
pub type ThreadingUdpServer = Server<Udp, Threading>;
/// Serves a Unix stream socket, each connection on a thread.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ThreadingUnixStreamServer;
///
/// ThreadingUnixStreamServer::bind("/run/hello.sock")?
///     .serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ThreadingUnixStreamServer = Server<UnixStream, Threading>;
/// Serves a Unix datagram socket, each datagram on a thread.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::ThreadingUnixDatagramServer;
///
/// ThreadingUnixDatagramServer::bind("/run/echo.sock")?
///     .serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ThreadingUnixDatagramServer = Server<UnixDatagram, Threading>;

/// Serves TCP, each connection in a process.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ForkingTcpServer;
///
/// ForkingTcpServer::bind("127.0.0.1:8080")?.serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "ForkingTCPServer")]
pub type ForkingTcpServer = Server<Tcp, Forking>;
/// Serves UDP, each datagram in a process.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::ForkingUdpServer;
///
/// ForkingUdpServer::bind("127.0.0.1:8080")?.serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[doc(alias = "ForkingUDPServer")]
pub type ForkingUdpServer = Server<Udp, Forking>;
/// Serves a Unix stream socket, each connection in a process.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ForkingUnixStreamServer;
///
/// ForkingUnixStreamServer::bind("/run/hello.sock")?
///     .serve_forever(|conn| conn.write_all(b"hello\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ForkingUnixStreamServer = Server<UnixStream, Forking>;
/// Serves a Unix datagram socket, each datagram in a process.
///
/// # Examples
///
/// ```no_run
/// use socketserver::Datagram;
/// use socketserver::python::ForkingUnixDatagramServer;
///
/// ForkingUnixDatagramServer::bind("/run/echo.sock")?
///     .serve_forever(|datagram| datagram.echo())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub type ForkingUnixDatagramServer = Server<UnixDatagram, Forking>;
