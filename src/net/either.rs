//! Two transports that feed one server.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::error::Error;
use crate::net::options;
use crate::net::{
    AcceptBatch, Accepted, Adopt, Connection, Credentials, Datagram, Managed, Transport,
};
use crate::net::{ReadHalf, Replier, Waits, WriteHalf, Writer};
use crate::proxy::header::Header;
use crate::registry::context::Context;

/// A listener, connection or datagram of one of two transports, so that both feed one server. Nest
/// it for more.
///
/// It is a [`Connection`] if both sides are, and a [`Datagram`] if both are, so one handler serves
/// both.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Bind, Either, UnixAddress};
/// use socketserver::{Connection, Server, Tcp, Threading, UnixStream};
///
/// fn hello(conn: &mut impl Connection) -> std::io::Result<()> {
///     conn.write_all(b"hello world\n")
/// }
///
/// let server = Server::<Either<Tcp, UnixStream>, Threading>::builder()
///     .listen(Tcp::bind("127.0.0.1:0")?.into_iter().map(Either::Left))
///     .listen(UnixStream::bind(UnixAddress::Abstract(b"socketserver-doc-either".to_vec()))?.into_iter().map(Either::Right))
///     .build()?;
/// assert_eq!(server.urls().len(), 2);
/// let guard = server.spawn(hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "there are two sides")]
pub enum Either<L, R> {
    /// A value of the first transport.
    Left(L),
    /// A value of the second transport.
    Right(R),
}

/// Evaluates one expression for either side.
macro_rules! both {
    ($either:expr, $side:pat => $then:expr) => {
        match $either {
            Either::Left($side) => $then,
            Either::Right($side) => $then,
        }
    };
}

impl<L: AsFd, R: AsFd> AsFd for Either<L, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        both!(self, side => side.as_fd())
    }
}

impl<L: Transport, R: Transport> Transport for Either<L, R> {
    type Accepted = Either<L::Accepted, R::Accepted>;

    const SCHEME: &'static str = "either";

    fn local_addr(&self) -> Address {
        both!(self, side => side.local_addr())
    }

    fn url(&self) -> String {
        both!(self, side => side.url())
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Self::Accepted>) -> io::Result<()> {
        match self {
            Self::Left(side) => batch.through(Either::Left, |batch| side.accept(batch)),
            Self::Right(side) => batch.through(Either::Right, |batch| side.accept(batch)),
        }
    }

    fn waiting(&self) -> Option<usize> {
        both!(self, side => side.waiting())
    }

    fn seal_backlog(&self) -> io::Result<bool> {
        both!(self, side => side.seal_backlog())
    }

    fn arriving(&self) -> Option<bool> {
        both!(self, side => side.arriving())
    }

    fn is_adopted(&self) -> bool {
        both!(self, side => side.is_adopted())
    }

    fn batch(&self) -> usize {
        both!(self, side => side.batch())
    }
}

impl<L: Adopt, R: Adopt> Adopt for Either<L, R> {
    fn suits(fd: BorrowedFd<'_>) -> bool {
        L::suits(fd) || R::suits(fd)
    }

    fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        if L::suits(fd.as_fd()) {
            L::adopt(fd).map(Self::Left)
        } else if R::suits(fd.as_fd()) {
            R::adopt(fd).map(Self::Right)
        } else {
            Err(options::unsuitable(&fd))
        }
    }
}

impl<L: Accepted, R: Accepted> Accepted for Either<L, R> {
    fn context(&self) -> &Context {
        both!(self, side => side.context())
    }

    fn peer(&self) -> Address {
        both!(self, side => side.peer())
    }

    fn peer_credentials(&self) -> io::Result<Credentials> {
        both!(self, side => side.peer_credentials())
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        both!(self, side => side.peer_groups())
    }

    fn via(&self) -> Option<Address> {
        both!(self, side => side.via())
    }

    fn proxy_header(&self) -> Option<&Header> {
        both!(self, side => side.proxy_header())
    }
}

impl<L: Managed, R: Managed> Managed for Either<L, R> {
    fn admit(&self) -> io::Result<()> {
        both!(self, side => side.admit())
    }

    fn open(&mut self) -> io::Result<()> {
        both!(self, side => side.open())
    }

    fn try_open(&mut self) -> io::Result<bool> {
        both!(self, side => side.try_open())
    }

    fn wait(&mut self) -> io::Result<Waits<'_>> {
        both!(self, side => side.wait())
    }

    fn has_input(&self) -> bool {
        both!(self, side => side.has_input())
    }

    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        both!(self, side => side.gather(is_whole))
    }

    fn leave_unread(&mut self) {
        both!(self, side => side.leave_unread());
    }

    fn refuse(&mut self) {
        both!(self, side => side.refuse());
    }

    fn refuse_with(&mut self, message: &[u8]) {
        both!(self, side => side.refuse_with(message));
    }

    fn close(&mut self) -> io::Result<()> {
        both!(self, side => side.close())
    }

    fn ends_with_others(&self) -> bool {
        both!(self, side => side.ends_with_others())
    }

    fn close_all(finished: &mut VecDeque<Self>, failed: &mut dyn FnMut(&dyn Accepted, io::Error)) {
        let is_left = |accepted: &&Self| matches!(accepted, Self::Left(_));
        let lefts = finished.iter().filter(is_left).count();
        let mut left = VecDeque::with_capacity(lefts);
        let mut right = VecDeque::with_capacity(finished.len() - lefts);
        for accepted in finished.drain(..) {
            match accepted {
                Self::Left(side) => left.push_back(side),
                Self::Right(side) => right.push_back(side),
            }
        }
        L::close_all(&mut left, failed);
        R::close_all(&mut right, failed);
    }
}

impl<L: Connection, R: Connection> Connection for Either<L, R> {
    fn next_message(&mut self) -> io::Result<bool> {
        both!(self, side => side.next_message())
    }

    fn halves(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        both!(self, side => side.halves())
    }

    fn writer(&mut self) -> io::Result<Writer> {
        both!(self, side => side.writer())
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        both!(self, side => side.poll_read(cx, buf))
    }

    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        both!(self, side => side.poll_write(cx, buf))
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        both!(self, side => side.poll_failed(cx))
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        both!(self, side => side.send_file(file, offset, length))
    }

    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        both!(self, side => side.unread(bytes))
    }

    fn peer_gone(&self) -> bool {
        both!(self, side => side.peer_gone())
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        both!(self, side => side.set_write_buffer(capacity))
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        both!(self, side => side.set_read_timeout(timeout))
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        both!(self, side => side.set_write_timeout(timeout))
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        both!(self, side => side.shutdown(how))
    }

    fn reset(&mut self) -> io::Result<()> {
        both!(self, side => side.reset())
    }

    fn unsent(&self) -> Option<u64> {
        both!(self, side => side.unsent())
    }

    fn local_addr(&self) -> io::Result<Address> {
        both!(self, side => Connection::local_addr(side))
    }
}

impl<L: Datagram, R: Datagram> Datagram for Either<L, R> {
    fn packet(&self) -> &[u8] {
        both!(self, side => side.packet())
    }

    fn set_reply(&mut self, reply: &[u8]) {
        both!(self, side => side.set_reply(reply));
    }

    fn echo(&mut self) {
        both!(self, side => side.echo());
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        both!(self, side => side.send(data))
    }

    fn replier(&self) -> io::Result<Replier> {
        both!(self, side => side.replier())
    }

    fn send_to(&mut self, data: &[u8], to: &Address) -> io::Result<()> {
        both!(self, side => side.send_to(data, to))
    }
}

impl<L: Read, R: Read> Read for Either<L, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        both!(self, side => side.read(buf))
    }
}

impl<L: BufRead, R: BufRead> BufRead for Either<L, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        both!(self, side => side.fill_buf())
    }

    fn consume(&mut self, count: usize) {
        both!(self, side => side.consume(count));
    }
}

impl<L: Write, R: Write> Write for Either<L, R> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        both!(self, side => side.write(buf))
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        both!(self, side => side.write_all(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        both!(self, side => side.flush())
    }
}
