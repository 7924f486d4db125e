//! Writing to a connection from outside its handler.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

/// Writes to a connection from outside its handler: from another handler or another thread.
/// [`Connection::writer`](crate::Connection::writer) makes one.
///
/// Each write is sent at once and bypasses the connection's own write buffer. A whole
/// [`write_all`](Write::write_all) of one writer does not interleave with those of other writers, nor with
/// those of the handler; what the handler sends by `poll_write`, or has buffered when it calls `poll_read`, does
/// not wait for its turn. A connection with a [`Layer`](crate::net::Layer) that has made a writer buffers no writes.
/// A writer keeps the descriptor open, but the peer sees the end of the connection all the same, and later writes
/// fail. [TLS](crate::manual::tls) adds a few differences.
///
/// # Slow readers
///
/// A write waits as long as the peer takes anything. Once the peer has taken nothing for the server's
/// [write timeout](crate::Builder::write_timeout) (default: 30 s), the server aborts the connection, and the
/// write fails with `TimedOut`. [`set_write_timeout`](Self::set_write_timeout) sets a shorter limit that aborts
/// nothing, [`task::timeout`](crate::task::timeout()) one for the whole write. A write that has failed may have
/// sent a part. What a writer moves keeps its connection from being idle.
///
/// For many clients, of which some are slow, give each a bounded queue, and let its own handler write:
/// `examples/chat.rs`.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use std::sync::Mutex;
/// use socketserver::net::{TcpConnection, Writer};
/// use socketserver::{Connection, Server, Tcp, Threading};
///
/// static CLIENTS: Mutex<Vec<Writer>> = Mutex::new(Vec::new());
///
/// fn enter(conn: &mut TcpConnection) -> io::Result<()> {
///     CLIENTS.lock().unwrap().push(conn.writer()?);
///     Ok(())
/// }
///
/// let server = Server::<Tcp, Threading>::bind("127.0.0.1:0")?;
/// let guard = server.spawn(enter)?;
///
/// // Copies, so that the lock is free while a client is slow to read.
/// let clients = CLIENTS.lock().unwrap().clone();
/// for mut client in clients {
///     // The client may have gone.
///     let _ = client.write_all(b"news\n");
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Writer(Box<dyn AnySide>);

/// What a [`Writer`] writes to: for a [`Layer`](crate::net::Layer) of your own, whose
/// [`writer`](crate::net::Layer::writer) returns a writer.
///
/// A clone writes to the same connection.
///
/// # Examples
///
/// A side that writes in upper case.
///
/// ```
/// use std::io::{self, Write};
/// use std::time::Duration;
/// use socketserver::net::{Writer, WriterSide};
///
/// #[derive(Clone)]
/// struct Upper(Writer);
///
/// impl Write for Upper {
///     fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
///         self.0.write(&buf.to_ascii_uppercase())
///     }
///
///     /// In one turn.
///     fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
///         self.0.write_all(&buf.to_ascii_uppercase())
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         self.0.flush()
///     }
/// }
///
/// impl WriterSide for Upper {
///     fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
///         self.0.set_write_timeout(timeout)
///     }
/// }
/// ```
pub trait WriterSide: Write + Clone + Send + Sync + 'static {
    /// As [`Writer::set_write_timeout`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// A [`WriterSide`] of any type.
trait AnySide: Write + Send + Sync {
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    fn clone_box(&self) -> Box<dyn AnySide>;
}

impl<S: WriterSide> AnySide for S {
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        WriterSide::set_write_timeout(self, timeout)
    }

    fn clone_box(&self) -> Box<dyn AnySide> {
        Box::new(self.clone())
    }
}

impl Writer {
    /// Makes a writer that writes to `side`.
    pub fn new(side: impl WriterSide) -> Self {
        Self(Box::new(side))
    }

    /// Makes a write of this writer, but not of its clones, fail with `TimedOut` when it has waited longer than
    /// `timeout` for its turn, or for the peer to take anything. The connection is not aborted. Default: `None`, the server's write
    /// timeout alone.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        Self(self.0.clone_box())
    }
}

impl Write for Writer {
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

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
