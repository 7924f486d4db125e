//! Outgoing connections, of another type than accepted ones.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::ops::Deref;
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::net::{Accepted, Connection, Credentials, Managed, ReadHalf, WriteHalf, Writer};
use crate::registry::context::Context;

/// A connection to another server, made by
/// [`TcpConnection::connect`](crate::net::TcpConnection::connect),
/// [`UnixConnection::connect`](crate::net::UnixConnection::connect) or
/// [`SeqpacketConnection::connect`](crate::net::SeqpacketConnection::connect).
///
/// It is a [`Connection`] if `C` is, and dereferences to `C` for methods that take `&self`. No server counts
/// it: no limit, no deadline and no stop applies to it, only its own timeouts.
///
/// # Swapping
///
/// A handler borrows its connection, which the server counts and may abort. A dialed connection has
/// another type and lends no `&mut C`, so safe code cannot swap it with the handler's and keep that
/// one:
///
/// ```compile_fail,E0596
/// # use std::time::Duration;
/// # use socketserver::net::TcpConnection;
/// fn keep(conn: &mut TcpConnection) -> Result<(), socketserver::Error> {
///     let mut dialed = TcpConnection::connect("127.0.0.1:9090", Duration::from_secs(5))?;
///     std::mem::swap(conn, &mut dialed);
///     Ok(())
/// }
/// ```
///
/// # Dropping
///
/// The drop closes the connection: the kernel sends what it has taken, a write buffer is lost, and
/// unread input resets the connection. [`close`](Self::close) ends it in good order.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use socketserver::net::TcpConnection;
/// use socketserver::python::ThreadingTcpServer;
///
/// let server = ThreadingTcpServer::bind("127.0.0.1:0")?;
/// let address = server.local_addrs()[0].socket_addr().expect("an internet address");
/// let guard = server.spawn(|conn| conn.write_all(b"hello world\n"))?;
///
/// let mut dialed = TcpConnection::connect(address, Duration::from_secs(5))?;
/// let mut greeting = String::new();
/// dialed.read_to_string(&mut greeting)?;
/// assert_eq!((greeting.as_str(), dialed.peer_addr()), ("hello world\n", address));
/// dialed.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Dialed<C>(pub(crate) C);

impl<C: Managed> Dialed<C> {
    /// Closes the connection in good order: sends buffered output and the end of the stream, and
    /// then, if input was left unread, receives and discards input, up to 256 KiB and until the peer
    /// takes no output for 2 s. It also waits while TCP has not sent all output once, unless the peer
    /// takes nothing for 2 s.
    ///
    /// # Errors
    ///
    /// Buffered output could not be sent. The connection is over all the same.
    pub fn close(mut self) -> io::Result<()> {
        self.0.close()
    }
}

impl<C> Deref for Dialed<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C: Accepted> Accepted for Dialed<C> {
    fn context(&self) -> &Context {
        self.0.context()
    }

    fn peer(&self) -> Address {
        self.0.peer()
    }

    fn peer_credentials(&self) -> io::Result<Credentials> {
        self.0.peer_credentials()
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        self.0.peer_groups()
    }
}

impl<C: Connection> Connection for Dialed<C> {
    fn halves(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        self.0.halves()
    }

    fn writer(&mut self) -> io::Result<Writer> {
        self.0.writer()
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        self.0.poll_failed(cx)
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        self.0.send_file(file, offset, length)
    }

    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.unread(bytes)
    }

    fn peer_gone(&self) -> bool {
        self.0.peer_gone()
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        self.0.set_write_buffer(capacity)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.reset()
    }

    fn unsent(&self) -> Option<u64> {
        self.0.unsent()
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }
}

impl<C: Read> Read for Dialed<C> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<C: BufRead> BufRead for Dialed<C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl<C: Write> Write for Dialed<C> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.0.write_all(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
