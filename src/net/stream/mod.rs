//! Connected stream sockets: reading, writing, and a close that loses no reply.

mod receiving;
mod sending;
mod writer;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::net::halves::{ReadHalf, ReadSide, WriteHalf, WriteSide};
use crate::net::link::{FLAGS, Input, Link};
use crate::net::stream::receiving::{Receiver, Receiving};
use crate::net::stream::sending::{Sender, Sending};
use crate::net::stream::writer::SocketWriter;
use crate::net::writer::Writer;
use crate::net::{Accepted, Connection, Credentials, Managed, Waits};
use crate::registry::context::{Abort, Context};
use crate::sys::{self, sockopt};

/// A connection that a stream transport `T` accepted.
///
/// Its methods are those of [`Connection`], [`Accepted`], [`BufRead`] and [`Write`], and those here
/// that only some transports have. The descriptor ([`AsFd`]) is in blocking mode.
///
/// # Dropping
///
/// When the handler has returned, the server closes the connection in good order: it sends buffered
/// output and the end of the stream. If the handler left input unread, the server then receives and
/// discards input, up to 256 KiB and until the peer takes no output for 2 s, because close(2) with
/// unread input resets the connection, which can destroy the reply on its way (RFC 9112 section
/// 9.6). So does input that comes later, such as a close_notify of TLS, while the kernel still holds a
/// part of a long reply: the close waits until TCP has sent all of it once, or the peer has taken
/// nothing for 2 s, or the server stops. Under [`Sequential`](crate::Sequential) and
/// [`ThreadPool`](crate::ThreadPool), where that would hold up other clients, it does not wait: there
/// a handler whose client may send late can [`shutdown`](Connection::shutdown) the writing side and
/// read to the end itself.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read, Write};
/// use socketserver::net::TcpConnection;
/// use socketserver::{Server, Tcp, Threading};
///
/// fn echo(conn: &mut TcpConnection) -> io::Result<()> {
///     let mut buf = [0; 1024];
///     loop {
///         match conn.read(&mut buf)? {
///             0 => return Ok(()),
///             count => conn.write_all(&buf[..count])?,
///         }
///     }
/// }
///
/// let guard = Server::<Tcp, Threading>::bind("127.0.0.1:0")?.spawn(echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Stream<T> {
    link: Link,
    input: Receiving,
    output: Sending,
    transport: PhantomData<fn() -> T>,
}

impl<T: 'static> Stream<T> {
    pub(crate) fn new(socket: Socket, peer: &SockAddr, context: Context) -> Self {
        Self {
            link: Link::new(socket, peer, Input::Bytes, context),
            input: Receiving::default(),
            output: Sending::default(),
            transport: PhantomData,
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.link.socket.socket
    }

    /// The socket, if it is a Unix one.
    fn unix_socket(&self) -> io::Result<BorrowedFd<'_>> {
        match self.link.socket.peer {
            Address::Unix(_) => Ok(self.link.fd()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    const fn receiver(&mut self) -> Receiver<'_> {
        Receiver {
            link: &self.link,
            state: &mut self.input,
        }
    }

    const fn sender(&mut self) -> Sender<'_> {
        Sender {
            link: &self.link,
            state: &mut self.output,
        }
    }
}

impl<T: 'static> Accepted for Stream<T> {
    fn context(&self) -> &Context {
        &self.link.context
    }

    fn peer(&self) -> Address {
        self.link.socket.peer.clone()
    }

    fn peer_credentials(&self) -> io::Result<Credentials> {
        Credentials::of(self.unix_socket()?)
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        sockopt::peer_groups(self.unix_socket()?)
    }
}

impl<T: 'static> Managed for Stream<T> {
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        self.flush()?;
        if self.input.has_input() || self.input.ended {
            return Ok(Waits::Ready);
        }
        // A connection that waits long holds no buffers.
        if self.input.input.is_empty() {
            self.input.input.release();
        }
        self.output.pending = Vec::new();
        self.link.source.release(self.link.fd());
        Ok(Waits::For(self.link.fd()))
    }

    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        self.receiver().gather(is_whole)
    }

    fn leave_unread(&mut self) {
        self.input.left = true;
    }

    fn close(&mut self) -> io::Result<()> {
        if self.input.is_reset {
            // close(2) sends the reset.
            return Ok(());
        }
        // MORE: the end of the stream follows in the same segment. A client that checks for the end
        // before it sends again finds it.
        let sent = self.sender().send_pending(SendFlags::MORE);
        let unread = !self.input.input.is_empty() || self.input.left;
        let ended = self.input.ended && !self.link.context.is_ended();
        let mut more = false;
        // If the peer has ended its side too, no more arrives, and close(2) ends the stream in good
        // order.
        if sent.is_err() || !ended || Arc::strong_count(&self.link.socket) > 1 {
            // shutdown(2) ends the stream now, even if a writer or another process holds a copy of
            // the descriptor.
            let shut_down = self.socket().shutdown(Shutdown::Write);
            more = shut_down.is_ok() && !self.input.ended && self.receiver().linger(unread);
        }
        if unread || more {
            self.link.context.note_crossing();
        }
        sent
    }

    fn refuse_with(&mut self, message: &[u8]) {
        if !message.is_empty() {
            // The part that fits into the send buffer: all of it in a new socket.
            let _ = send(self.socket(), message, FLAGS);
        }
        self.refuse();
    }

    fn refuse(&mut self) {
        // Sends the end of the stream and receives the client's first bytes, so that close(2) does
        // not reset the connection. Both fail if the peer is gone.
        let _ = self.socket().shutdown(Shutdown::Write);
        let unread = recv(self.socket(), &mut [0; 4096], RecvFlags::DONTWAIT);
        if unread.is_ok_and(|(count, _)| count > 0) {
            self.link.context.note_crossing();
        }
    }

    fn has_input(&self) -> bool {
        self.input.has_input() || self.link.socket.has_input()
    }
}

impl<T: 'static> BufRead for Stream<T> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.must_wait() {
            // Buffered output is sent before the connection waits for an answer to it.
            self.flush()?;
            self.receiver().fill_buf()?;
        }
        Ok(self.input.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        self.input.input.consume(count);
    }
}

impl<T: 'static> Connection for Stream<T> {
    fn next_message(&mut self) -> io::Result<bool> {
        if self.input.must_wait() && !self.input.is_last {
            self.flush()?;
            self.output.pending = Vec::new();
        }
        self.receiver().next_message()
    }

    fn halves(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        self.flush()?;
        let Self {
            link,
            input,
            output,
            ..
        } = self;
        let receiver = Receiver { link, state: input };
        let sender = Sender {
            link,
            state: output,
        };
        Ok((ReadHalf::new(receiver), WriteHalf::new(sender)))
    }

    fn writer(&mut self) -> io::Result<Writer> {
        let context = self.link.context.for_writer();
        Ok(Writer::new(SocketWriter::new(&self.link.socket, context)))
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.input.input.is_empty() {
            ready!(self.sender().poll_send_pending(cx))?;
        }
        self.receiver().poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sender().poll_write(cx, buf)
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        self.link.poll_failed(cx)
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        self.sender().send_file(file, offset, length)
    }

    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.input.unread(bytes);
        Ok(())
    }

    fn peer_gone(&self) -> bool {
        sys::poll::is_hung_up(self.link.fd())
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        self.output.capacity = capacity;
        self.flush()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.receiver().set_read_timeout(timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.sender().set_write_timeout(timeout)
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.flush()?;
        self.socket().shutdown(how)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.output.pending.clear();
        self.input.is_reset = true;
        self.socket().set_linger(Some(Duration::ZERO))
    }

    fn unsent(&self) -> Option<u64> {
        sockopt::unsent(self.link.fd()).ok()
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::from_sock_addr(&self.socket().local_addr()?))
    }
}

impl<T: 'static> Read for Stream<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.input.is_empty() {
            self.flush()?;
        }
        self.receiver().read(buf)
    }
}

impl<T: 'static> Write for Stream<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sender().write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.sender().write_all(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sender().flush()
    }
}

impl<T> AsFd for Stream<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.fd()
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.link.context.id())
            .field("peer", &self.link.socket.peer)
            .field("fd", &self.link.socket.socket)
            .field("unread", &self.input.input.bytes().len())
            .field("unsent", &self.output.pending.len())
            .finish()
    }
}
