//! What a layered transport puts on each connection.

use std::fs::File;
use std::io;
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::net::connection::copy_file;
use crate::net::halves::unsupported;
use crate::net::{Connection, Managed, ReadHalf, WriteHalf, Writer};
use crate::proxy::header::Header;

/// Transforms the bytes of one connection of a [`Layered`](crate::net::Layered) transport: counts, limits
/// or encrypts them.
///
/// Every method receives the connection below, and its default calls that, so a layer implements
/// only what it changes. All input of a handler comes from [`read`](Self::read), and all of its
/// output goes to [`write`](Self::write).
///
/// # Examples
///
/// A layer that reads at most ten bytes at once. (`examples/counting.rs` is a whole program.)
///
/// ```
/// use std::io;
/// use socketserver::net::{Layer, Layered};
/// use socketserver::{Connection, Server, Tcp, Threading};
///
/// #[derive(Default)]
/// struct Sips;
///
/// impl<C: Connection> Layer<C> for Sips {
///     fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
///         let sip = buf.len().min(10);
///         below.read(&mut buf[..sip])
///     }
/// }
///
/// fn shout(conn: &mut impl Connection) -> io::Result<()> {
///     let mut line = String::new();
///     while conn.next_message()? {
///         conn.read_line_max(&mut line, 1024)?;
///         conn.write_all(line.to_uppercase().as_bytes())?;
///         line.clear();
///     }
///     Ok(())
/// }
///
/// let server = Server::<Layered<Tcp, Sips>, Threading>::bind("127.0.0.1:0")?;
/// let guard = server.spawn(shout)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Layer<C: Connection>: Send + 'static {
    /// Checks a new connection, as [`Managed::admit`] does. Default: `Ok`.
    ///
    /// # Errors
    ///
    /// The connection is dropped, and the error is reported as its failure.
    fn admit(&self, below: &C) -> io::Result<()> {
        let _ = below;
        Ok(())
    }

    /// Exchanges the first bytes with the peer, before the handler: a handshake, or a header.
    /// Called once for each connection, where its handler runs, so it may wait; the handshake
    /// timeout applies. Default: nothing.
    ///
    /// # Errors
    ///
    /// The handler is not called, and the error is reported as a failure of the connection.
    fn open(&mut self, below: &mut C) -> io::Result<()> {
        let _ = below;
        Ok(())
    }

    /// Advances as [`open`](Self::open) does, but does not wait for input: returns `false` if some
    /// is missing, and is called again once there is more. [`Managed::gather`] receives without
    /// blocking. For models in which a wait would hold a thread. Default: `open`, and `true`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    fn try_open(&mut self, below: &mut C) -> io::Result<bool>
    where
        C: Managed,
    {
        self.open(below).map(|()| true)
    }

    /// Reads as [`Read::read`](std::io::Read::read) does. Output has been flushed before the call, unless
    /// [`has_input`](Self::has_input). Default: reads from the connection below.
    ///
    /// # Errors
    ///
    /// The errors of the connection below, and of the layer.
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        below.read(buf)
    }

    /// Writes as [`Write::write`](std::io::Write::write) does. Default: writes to the connection below.
    ///
    /// # Errors
    ///
    /// The errors of the connection below, and of the layer.
    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        below.write(buf)
    }

    /// Sends a file as [`Connection::send_file`] does. Default: reads it, and [writes](Self::write) it through the layer.
    /// A layer that does not change what it sends passes the file to the connection below.
    ///
    /// # Errors
    ///
    /// As [`Connection::send_file`].
    fn send_file(
        &mut self,
        below: &mut C,
        file: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<u64> {
        copy_file(file, offset, length, |mut bytes| {
            while !bytes.is_empty() {
                match self.write(below, bytes)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => bytes = &bytes[count..],
                }
            }
            Ok(())
        })
    }

    /// Sends what the layer and the connection below have buffered. Default: flushes the connection
    /// below.
    ///
    /// # Errors
    ///
    /// Buffered output could not be sent.
    fn flush(&mut self, below: &mut C) -> io::Result<()> {
        below.flush()
    }

    /// Returns whether the next [`read`](Self::read) returns at once, because the layer holds
    /// input, or knows that the input has ended. Such a connection is not parked. Default: `false`.
    fn has_input(&self) -> bool {
        false
    }

    /// Receives waiting input, without blocking, as [`Managed::gather`] does. `is_whole` judges the
    /// bytes that a handler would read. Default: passes it the bytes of the connection below, which
    /// suits a layer that does not change them.
    ///
    /// # Errors
    ///
    /// Receiving failed. The connection is over.
    fn gather(&mut self, below: &mut C, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool>
    where
        C: Managed,
    {
        Ok(self.has_input() || below.gather(is_whole)?)
    }

    /// Sends the layer's last bytes, before the end of the stream. Called once, on a connection
    /// that was [opened](Self::open). Default: flushes.
    ///
    /// # Errors
    ///
    /// The bytes could not be sent. The connection below is closed all the same.
    fn finish(&mut self, below: &mut C) -> io::Result<()> {
        self.flush(below)
    }

    /// Divides the layer for [`Connection::halves`]: each of the halves below gets its part of the layer. At
    /// [`WriteSide::shutdown`](crate::net::WriteSide::shutdown) the writing half sends the layer's last bytes;
    /// [`finish`](Self::finish) is not called then. Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the layer cannot be divided.
    fn halves<'a>(
        &'a mut self,
        below: (ReadHalf<'a>, WriteHalf<'a>),
    ) -> io::Result<(ReadHalf<'a>, WriteHalf<'a>)> {
        drop(below);
        Err(unsupported("halves"))
    }

    /// Makes a writer for [`Connection::writer`] of the writer below. What the layer has buffered was flushed
    /// before. Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: only the handler can write through the layer.
    fn writer(&mut self, below: Writer) -> io::Result<Writer> {
        drop(below);
        Err(unsupported("writer"))
    }

    /// Sets the limit of a write, as [`Connection::set_write_timeout`] does. Default: sets that of the connection
    /// below.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_write_timeout(&mut self, below: &mut C, timeout: Option<Duration>) -> io::Result<()> {
        below.set_write_timeout(timeout)
    }

    /// Polls for input as [`Connection::poll_read`] does. Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the layer cannot be polled. Else as [`read`](Self::read).
    fn poll_read(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let _ = (below, cx, buf);
        Poll::Ready(Err(unsupported("poll_read")))
    }

    /// Polls for room as [`Connection::poll_write`] does. Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the layer cannot be polled. Else as [`write`](Self::write).
    fn poll_write(
        &mut self,
        below: &mut C,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let _ = (below, cx, buf);
        Poll::Ready(Err(unsupported("poll_write")))
    }

    /// Refuses a connection beyond a limit, which was not opened. `message` is for the peer and may
    /// be empty. Runs on the accepting thread and must not block. Default: the connection below
    /// sends it.
    fn refuse_with(&mut self, below: &mut C, message: &[u8])
    where
        C: Managed,
    {
        below.refuse_with(message);
    }

    /// Returns the peer's address. Default: that of the connection below.
    fn peer(&self, below: &C) -> Address {
        below.peer()
    }

    /// Returns the address of the proxy, as [`Accepted::via`](crate::net::Accepted::via) does. Default: that of the
    /// connection below.
    fn via(&self, below: &C) -> Option<Address> {
        below.via()
    }

    /// Returns the header of the proxy, as [`Accepted::proxy_header`](crate::net::Accepted::proxy_header) does.
    /// Default: that of the connection below.
    fn proxy_header<'a>(&'a self, below: &'a C) -> Option<&'a Header> {
        below.proxy_header()
    }

    /// Returns the address of this end. Default: that of the connection below.
    ///
    /// # Errors
    ///
    /// As [`Connection::local_addr`].
    fn local_addr(&self, below: &C) -> io::Result<Address> {
        below.local_addr()
    }
}
