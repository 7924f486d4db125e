//! The trait of connected byte streams.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::buffers;
use crate::net::{Accepted, ReadHalf, WriteHalf, Writer, halves};

/// A connected byte stream. A handler for `&mut impl Connection` serves every stream transport.
///
/// `Read` and `Write` block until the peer is ready, and never fail with `WouldBlock` or
/// `Interrupted`; `TimedOut` means that a timeout has passed. `Read` reads straight into the
/// caller's buffer, unless `BufRead` holds buffered input. Writing is unbuffered until
/// [`set_write_buffer`](Self::set_write_buffer).
///
/// # Examples
///
/// ```
/// use socketserver::Connection;
///
/// fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
///     let mut line = String::new();
///     while conn.next_message()? {
///         conn.read_line_max(&mut line, 1024)?;
///         conn.write_all(line.to_uppercase().as_bytes())?;
///         line.clear();
///     }
///     Ok(())
/// }
/// ```
pub trait Connection: Accepted + BufRead + Write {
    /// Appends bytes to `out` up to and including the next `delimiter`, or up to the end of the
    /// stream. Returns how many.
    ///
    /// [`BufRead::read_until`] has no limit, so a peer can fill the memory.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: `limit` bytes without a delimiter, which have been read into `out`.
    /// - else as [`BufRead::fill_buf`].
    fn read_until_max(
        &mut self,
        delimiter: u8,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        read_until(self, delimiter, out, limit)
    }

    /// Appends the next line to `line`, with its `\n`. Returns its length in bytes: 0 at the end of
    /// the stream.
    ///
    /// [`BufRead::read_line`] has no limit, so a peer can fill the memory.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: the line is longer than `limit` bytes, or is not UTF-8.
    /// - else as [`BufRead::fill_buf`].
    fn read_line_max(&mut self, line: &mut String, limit: usize) -> io::Result<usize> {
        read_line(self, line, limit)
    }

    /// Waits between two messages for the next one. Returns `false` at the end of the stream, and
    /// when the server has ended the connection because it stops. Call it before each message, the
    /// first one too.
    ///
    /// While it waits, the connection is idle, as it is after a handler returns
    /// [`Next::Park`](crate::Next::Park): the idle timeout applies, the server may close the
    /// connection to make room for others, and a stop waits for it no longer than the
    /// [`idle_grace`](crate::Builder::idle_grace). A message begins when `next_message` returns
    /// `true` and ends at the next call; the request timeout applies to it. After a message that
    /// began during a stop, `next_message` returns `false`, unless the client has sent another. It
    /// sends buffered output before it waits; the last answer leaves together with the end of the
    /// stream.
    ///
    /// The default waits for input, and does not react to a stop.
    ///
    /// # Errors
    ///
    /// As [`Read::read`](std::io::Read::read); `TimedOut` after the read timeout.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// fn shout(conn: &mut impl Connection) -> std::io::Result<()> {
    ///     let mut line = String::new();
    ///     while conn.next_message()? {
    ///         conn.read_line_max(&mut line, 1024)?;
    ///         conn.write_all(line.to_uppercase().as_bytes())?;
    ///         line.clear();
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn next_message(&mut self) -> io::Result<bool> {
        self.flush()?;
        Ok(!self.fill_buf()?.is_empty())
    }

    /// Divides the connection into a half that reads and a half that writes, so that both work at the same time:
    /// in two closures of a [`task::scope`](crate::task::scope()), or in two futures.
    ///
    /// The connection's deadlines apply to both: what moves in one direction keeps the connection from being
    /// idle, and a peer that takes no output is aborted although it sends. A half-closed connection lives on:
    /// after the end of the input, the other half still writes. Buffered output is sent first.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the connection, or a [`Layer`](crate::net::Layer) of it, does not implement it. All connections of this
    ///   crate do.
    /// - Buffered output could not be sent.
    ///
    /// # Examples
    ///
    /// Sends what a queue holds, while it reads messages.
    ///
    /// ```
    /// use std::io::{self, Write};
    /// use socketserver::{Connection, task};
    ///
    /// fn converse(conn: &mut impl Connection, news: &async_channel::Receiver<String>) -> io::Result<()> {
    ///     let (mut input, mut output) = conn.halves()?;
    ///     task::scope(|scope| {
    ///         scope.spawn(move || {
    ///             while let Ok(Ok(item)) = task::block_on(news.recv()) {
    ///                 output.write_all(item.as_bytes())?;
    ///             }
    ///             output.shutdown()
    ///         })?;
    ///         let mut line = String::new();
    ///         while input.read_line_max(&mut line, 4096).is_ok_and(|count| count > 0) {
    ///             print!("{line}");
    ///             line.clear();
    ///         }
    ///         // After a failure too, so that the closure ends.
    ///         news.close();
    ///         Ok(())
    ///     })
    /// }
    /// ```
    fn halves(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        Err(halves::unsupported("halves"))
    }

    /// Returns a writer for use outside the handler: for a chat, or for subscriptions. See [`Writer`].
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the connection, or a [`Layer`](crate::net::Layer) of it, does not implement it. All connections of this
    ///   crate do.
    /// - Over a layer: buffered output could not be sent.
    fn writer(&mut self) -> io::Result<Writer> {
        Err(halves::unsupported("writer"))
    }

    /// Polls for input, in a future that [`task::block_on`](crate::task::block_on()) waits for: to wait for the
    /// connection and for something else at the same time.
    ///
    /// Returns `Ready` with the number of bytes in `buf`, 0 at the end of the input. Returns `Pending` when there is
    /// no input, and then wakes the task of `cx` once there may be some. The bytes are in `buf` only after `Ready`; a future that is dropped before has read
    /// nothing. Buffered output is sent first. From `Pending` until the next poll or the end of `block_on`, the
    /// connection counts as reading, so that the idle timeout applies; the [read timeout](Self::set_read_timeout) does not:
    /// [`task::timeout`](crate::task::timeout()) sets one.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the caller is not within `block_on`; or the connection, or a [`Layer`](crate::net::Layer) of it, does not
    ///   implement it.
    /// - else as [`Read::read`](std::io::Read::read).
    ///
    /// # Examples
    ///
    /// Reads, or stops when a channel is closed.
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::io;
    /// use futures_lite::future::or;
    /// use socketserver::{Connection, task};
    ///
    /// fn read(conn: &mut impl Connection, stop: &async_channel::Receiver<()>, buf: &mut [u8]) -> io::Result<usize> {
    ///     let input = poll_fn(|cx| conn.poll_read(cx, buf));
    ///     let stopped = async {
    ///         let _ = stop.recv().await;
    ///         Ok(0)
    ///     };
    ///     task::block_on(or(input, stopped))?
    /// }
    /// ```
    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let _ = (cx, buf);
        Poll::Ready(Err(halves::unsupported("poll_read")))
    }

    /// Polls for room for output: the counterpart of [`poll_read`](Self::poll_read).
    ///
    /// Returns `Ready` with the number of bytes of `buf` that were sent, at least one if `buf` is not empty. What
    /// [`write`](std::io::Write::write) has buffered is sent first; `buf` itself bypasses the write buffer. It does not wait for
    /// the turn of [writers](crate::net::Writer).
    ///
    /// # Errors
    ///
    /// As [`poll_read`](Self::poll_read).
    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let _ = (cx, buf);
        Poll::Ready(Err(halves::unsupported("poll_write")))
    }

    /// Polls for the failure of a connection whose input has ended: its peer has reset it, or has closed a Unix socket.
    /// For futures that have more to send, and nothing at the moment. Default: pending for ever.
    ///
    /// Returns `Ready` with the error; `Unsupported` if the caller is not within [`block_on`](crate::task::block_on).
    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        let _ = cx;
        Poll::Pending
    }

    /// Sends `length` bytes of a file, from the byte `offset` on; buffered output is sent first. Returns how many bytes
    /// were sent: fewer than `length` if the file has ended. The position of the file is neither used nor changed.
    ///
    /// A connection over TCP or a Unix socket, also behind the PROXY protocol, sends with sendfile(2): nothing is copied
    /// into the process. While it sends, the descriptor is in non-blocking mode. The default reads and writes, and so do
    /// TLS, files that sendfile(2) does not take, and programs in which `SIGPIPE` has its default action.
    ///
    /// A peer that takes nothing for the [write timeout](crate::Builder::write_timeout) of the server is aborted, as it
    /// is by a write. Reading from a disk blocks the thread, that of a worker of [`Coroutines`](crate::manual::coroutines)
    /// too.
    ///
    /// # Errors
    ///
    /// - The file cannot be read at an offset: a pipe, a directory.
    /// - else as [`Write::write`]. A part may have been sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io::{self, Write};
    /// use socketserver::Connection;
    ///
    /// fn send(conn: &mut impl Connection, file: &File) -> io::Result<()> {
    ///     let length = file.metadata()?.len();
    ///     write!(conn, "{length} bytes follow\n")?;
    ///     match conn.send_file(file, 0, length)? {
    ///         sent if sent == length => Ok(()),
    ///         // The file was truncated meanwhile, and the peer waits for the rest.
    ///         _ => Err(io::ErrorKind::UnexpectedEof.into()),
    ///     }
    /// }
    /// ```
    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        copy_file(file, offset, length, |bytes| self.write_all(bytes))
    }

    /// Puts bytes back in front of the input, for a protocol that has read further than its message.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the connection does not implement it. All connections of this crate do.
    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _ = bytes;
        Err(halves::unsupported("unread"))
    }

    /// Returns whether the peer has ended its side of the connection, this end no longer reads, or the connection has failed; for a handler
    /// that computes for long, and need not go on. Never waits, and reads nothing. Default: `false`.
    ///
    /// A client that has only ended its side, and still waits for the answer, cannot be told from one that has
    /// closed the connection. It is one system call (poll(2), `POLLRDHUP`).
    fn peer_gone(&self) -> bool {
        false
    }

    /// Buffers writes in `capacity` bytes. The buffer is sent when it is full, on flush, before the
    /// connection waits for input, and at its end. Default: 0, which sends each write at once.
    ///
    /// # Errors
    ///
    /// What was buffered before could not be sent.
    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()>;

    /// Makes a read that waits longer than `timeout` fail with `TimedOut`. Default: `None`, which
    /// waits forever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Makes a write that waits longer than `timeout` fail with `TimedOut`. Default: `None`, which
    /// waits forever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends one direction of the connection, or both. `Shutdown::Write` sends what is buffered,
    /// then the end of the stream; reading still works.
    ///
    /// # Errors
    ///
    /// What was buffered could not be sent, or `NotConnected`.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()>;

    /// Ends the connection with a reset, once it is dropped: so that the peer does not take what it has received for
    /// the whole. Output that the peer has not taken is lost. Over a layer, nothing that ends the layer's stream is
    /// sent.
    ///
    /// Unix sockets have no reset: the peer sees the end of the stream.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the connection does not implement it. All connections of this crate do.
    /// - else as setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{self, Read};
    /// use socketserver::Connection;
    ///
    /// fn forward(conn: &mut impl Connection, source: &mut impl Read) -> io::Result<()> {
    ///     let copied = io::copy(source, conn);
    ///     if copied.is_err() {
    ///         conn.reset()?;
    ///     }
    ///     copied.map(drop)
    /// }
    /// ```
    fn reset(&mut self) -> io::Result<()> {
        Err(halves::unsupported("reset"))
    }

    /// Returns how many bytes of output the kernel holds because the peer has not taken them. Default: unknown.
    fn unsent(&self) -> Option<u64> {
        None
    }

    /// Returns the address of this end of the connection.
    ///
    /// # Errors
    ///
    /// As getsockname(2).
    fn local_addr(&self) -> io::Result<Address>;
}

/// [`Connection::send_file`] of anything that writes.
pub(super) fn copy_file(
    file: &File,
    offset: u64,
    length: u64,
    mut write_all: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut sent = 0;
    let mut buffer = buffers::take_large();
    while sent < length {
        let left = usize::try_from(length - sent).unwrap_or(usize::MAX);
        let room = left.min(buffer.len());
        let Some(at) = offset.checked_add(sent) else {
            break;
        };
        match file.read_at(&mut buffer[..room], at) {
            Ok(0) => break,
            Ok(count) => {
                write_all(&buffer[..count])?;
                sent += count as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    buffers::give(buffer);
    Ok(sent)
}

/// [`Connection::read_until_max`] of anything that buffers.
pub(super) fn read_until(
    input: &mut (impl BufRead + ?Sized),
    delimiter: u8,
    out: &mut Vec<u8>,
    limit: usize,
) -> io::Result<usize> {
    let mut taken = 0;
    while taken < limit {
        let bytes = input.fill_buf()?;
        let bytes = &bytes[..bytes.len().min(limit - taken)];
        let (count, done) = bytes
            .iter()
            .position(|&byte| byte == delimiter)
            .map_or((bytes.len(), bytes.is_empty()), |at| (at + 1, true));
        out.extend_from_slice(&bytes[..count]);
        input.consume(count);
        taken += count;
        if done {
            return Ok(taken);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no delimiter within the limit of {limit} bytes"),
    ))
}

/// [`Connection::read_line_max`] of anything that buffers.
pub(super) fn read_line(
    input: &mut (impl BufRead + ?Sized),
    line: &mut String,
    limit: usize,
) -> io::Result<usize> {
    let mut bytes = Vec::new();
    let count = read_until(input, b'\n', &mut bytes, limit)?;
    let text =
        String::from_utf8(bytes).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
    line.push_str(&text);
    Ok(count)
}
