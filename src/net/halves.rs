//! The two halves of a connection, which read and write at the same time.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::net::connection::{read_line, read_until};
use crate::net::input::Input;

/// The reading half of a connection: [`Connection::halves`](crate::Connection::halves).
///
/// It reads as its connection does, except that a wait for input does not send what the other half has
/// buffered.
///
/// # Examples
///
/// ```
/// use std::io;
/// use socketserver::net::{ReadHalf, WriteHalf};
///
/// fn count(mut input: ReadHalf<'_>) -> io::Result<u64> {
///     io::copy(&mut input, &mut io::sink())
/// }
/// ```
pub struct ReadHalf<'a>(Box<dyn ReadSide + 'a>);

/// The writing half of a connection: [`Connection::halves`](crate::Connection::halves).
///
/// It buffers writes as its connection does, and sends what is buffered when the buffer is full, on flush, and
/// at [`shutdown`](Self::shutdown). What it has not sent when it is dropped, the connection sends.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::WriteHalf;
///
/// fn say(mut output: WriteHalf<'_>) -> io::Result<()> {
///     output.write_all(b"bye\n")?;
///     output.shutdown()
/// }
/// ```
pub struct WriteHalf<'a>(Box<dyn WriteSide + 'a>);

/// What a [`ReadHalf`] reads from: for a [`Layer`](crate::net::Layer) of your own, whose
/// [`halves`](crate::net::Layer::halves) returns halves.
///
/// # Examples
///
/// A side that reads in upper case.
///
/// ```
/// use std::io::{self, BufRead, Read};
/// use std::task::{Context, Poll};
/// use std::time::Duration;
/// use socketserver::net::{ReadHalf, ReadSide};
///
/// struct Upper<'a> {
///     below: ReadHalf<'a>,
///     input: Vec<u8>,
/// }
///
/// impl Read for Upper<'_> {
///     fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
///         let count = self.fill_buf()?.read(buf)?;
///         self.consume(count);
///         Ok(count)
///     }
/// }
///
/// impl BufRead for Upper<'_> {
///     fn fill_buf(&mut self) -> io::Result<&[u8]> {
///         if self.input.is_empty() {
///             self.input = self.below.fill_buf()?.to_ascii_uppercase();
///             self.below.consume(self.input.len());
///         }
///         Ok(&self.input)
///     }
///
///     fn consume(&mut self, count: usize) {
///         self.input.drain(..count);
///     }
/// }
///
/// impl ReadSide for Upper<'_> {
///     fn next_message(&mut self) -> io::Result<bool> {
///         Ok(!self.input.is_empty() || self.below.next_message()?)
///     }
///
///     fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
///         self.below.set_read_timeout(timeout)
///     }
/// }
/// ```
pub trait ReadSide: BufRead + Send {
    /// As [`Connection::next_message`](crate::Connection::next_message), except that the output of the other
    /// half stays buffered.
    ///
    /// # Errors
    ///
    /// As [`Read::read`].
    fn next_message(&mut self) -> io::Result<bool>;

    /// As [`Connection::poll_read`](crate::Connection::poll_read). Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the side cannot be polled. Else as [`Read::read`].
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let _ = (cx, buf);
        Poll::Ready(Err(unsupported("poll_read")))
    }

    /// As [`Connection::set_read_timeout`](crate::Connection::set_read_timeout).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// What a [`WriteHalf`] writes to: the counterpart of [`ReadSide`].
///
/// # Examples
///
/// A side that writes in upper case.
///
/// ```
/// use std::io::{self, Write};
/// use std::time::Duration;
/// use socketserver::net::{WriteHalf, WriteSide};
///
/// struct Upper<'a>(WriteHalf<'a>);
///
/// impl Write for Upper<'_> {
///     fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
///         self.0.write(&buf.to_ascii_uppercase())
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         self.0.flush()
///     }
/// }
///
/// impl WriteSide for Upper<'_> {
///     fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
///         self.0.set_write_timeout(timeout)
///     }
///
///     fn shutdown(&mut self) -> io::Result<()> {
///         self.0.shutdown()
///     }
/// }
/// ```
pub trait WriteSide: Write + Send {
    /// As [`Connection::poll_write`](crate::Connection::poll_write). Default: fails.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the side cannot be polled. Else as [`Write::write`].
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let _ = (cx, buf);
        Poll::Ready(Err(unsupported("poll_write")))
    }

    /// As [`Connection::set_write_timeout`](crate::Connection::set_write_timeout).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Sends what is buffered, then the end of the stream. The other half still reads.
    ///
    /// # Errors
    ///
    /// What was buffered could not be sent, or `NotConnected`.
    fn shutdown(&mut self) -> io::Result<()>;
}

/// The error of what a connection or layer does not implement.
pub(super) fn unsupported(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("this connection, or a layer of it, does not implement {what}"),
    )
}

impl<'a> ReadHalf<'a> {
    /// Makes a half that reads from `side`.
    pub fn new(side: impl ReadSide + 'a) -> Self {
        Self(Box::new(side))
    }

    /// Appends bytes up to a delimiter: [`Connection::read_until_max`](crate::Connection::read_until_max).
    ///
    /// # Errors
    ///
    /// As [`Connection::read_until_max`](crate::Connection::read_until_max).
    pub fn read_until_max(
        &mut self,
        delimiter: u8,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        read_until(self, delimiter, out, limit)
    }

    /// Appends the next line: [`Connection::read_line_max`](crate::Connection::read_line_max).
    ///
    /// # Errors
    ///
    /// As [`Connection::read_line_max`](crate::Connection::read_line_max).
    pub fn read_line_max(&mut self, line: &mut String, limit: usize) -> io::Result<usize> {
        read_line(self, line, limit)
    }

    /// Waits for the next message: [`ReadSide::next_message`].
    ///
    /// # Errors
    ///
    /// As [`Read::read`].
    pub fn next_message(&mut self) -> io::Result<bool> {
        self.0.next_message()
    }

    /// Polls for input: [`Connection::poll_read`](crate::Connection::poll_read).
    ///
    /// # Errors
    ///
    /// As [`Connection::poll_read`](crate::Connection::poll_read).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buf)
    }

    /// Sets the read timeout: [`Connection::set_read_timeout`](crate::Connection::set_read_timeout).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

impl<'a> WriteHalf<'a> {
    /// Makes a half that writes to `side`.
    pub fn new(side: impl WriteSide + 'a) -> Self {
        Self(Box::new(side))
    }

    /// Polls for room: [`Connection::poll_write`](crate::Connection::poll_write).
    ///
    /// # Errors
    ///
    /// As [`Connection::poll_write`](crate::Connection::poll_write).
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    /// Sets the write timeout: [`Connection::set_write_timeout`](crate::Connection::set_write_timeout).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    /// Sends what is buffered, then the end of the stream: [`WriteSide::shutdown`].
    ///
    /// # Errors
    ///
    /// What was buffered could not be sent, or `NotConnected`.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.0.shutdown()
    }
}

impl Read for ReadHalf<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl BufRead for ReadHalf<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl Write for WriteHalf<'_> {
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

impl fmt::Debug for ReadHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf").finish_non_exhaustive()
    }
}

impl fmt::Debug for WriteHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf").finish_non_exhaustive()
    }
}

/// The reading half of a connection that holds input: reads that first.
pub(super) struct AfterInput<'a> {
    input: &'a mut Input,
    reading: ReadHalf<'a>,
}

impl<'a> AfterInput<'a> {
    /// Returns a half that reads `input` first, if there is any.
    pub(super) fn half(input: &'a mut Input, reading: ReadHalf<'a>) -> ReadHalf<'a> {
        if input.is_empty() {
            return reading;
        }
        ReadHalf::new(Self { input, reading })
    }
}

impl Read for AfterInput<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return self.reading.read(buf);
        }
        Ok(self.input.take(buf))
    }
}

impl BufRead for AfterInput<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() {
            return self.reading.fill_buf();
        }
        Ok(self.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        if self.input.is_empty() {
            self.reading.consume(count);
        } else {
            self.input.consume(count);
        }
    }
}

impl ReadSide for AfterInput<'_> {
    fn next_message(&mut self) -> io::Result<bool> {
        Ok(!self.input.is_empty() || self.reading.next_message()?)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            return self.reading.poll_read(cx, buf);
        }
        Poll::Ready(Ok(self.input.take(buf)))
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.reading.set_read_timeout(timeout)
    }
}

/// A writing half that tells its connection of the end of the stream.
pub(super) struct Ending<'a, F> {
    writing: WriteHalf<'a>,
    ended: F,
}

impl<'a, F: FnMut() + Send> Ending<'a, F> {
    pub(super) const fn new(writing: WriteHalf<'a>, ended: F) -> Self {
        Self { writing, ended }
    }
}

impl<F> Write for Ending<'_, F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writing.write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.writing.write_all(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writing.flush()
    }
}

impl<F: FnMut() + Send> WriteSide for Ending<'_, F> {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writing.poll_write(cx, buf)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.writing.set_write_timeout(timeout)
    }

    fn shutdown(&mut self) -> io::Result<()> {
        (self.ended)();
        self.writing.shutdown()
    }
}
