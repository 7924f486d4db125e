//! Transports over another transport, with a layer on each connection.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::buffers;
use crate::error::Error;
use crate::net::halves::{AfterInput, Ending};
use crate::net::input::Input;
use crate::net::{AcceptBatch, Accepted, Bind, Connection, Credentials, Layer, Managed};
use crate::net::{ReadHalf, Transport, Waits, WriteHalf, Writer};
use crate::proxy::header::Header;
use crate::registry::context::Context;

/// A transport over another transport `T`, with a layer `L` on each of its connections.
///
/// The listener's address, URL and stop are those of `T`. If `L` has a default, the transport binds
/// as `T` does; otherwise [`new`](Self::new) takes a function that makes layers. Layers can be
/// stacked. For a transport that is not a stream, see [`AcceptBatch::through`].
///
/// # Examples
///
/// A Unix listener whose layers share a counter.
///
/// ```
/// use std::io;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use socketserver::net::{Layer, Layered};
/// use socketserver::net::{Bind, UnixAddress};
/// use socketserver::{Connection, Server, Threading, UnixStream};
///
/// struct Sum(Arc<AtomicU64>);
///
/// impl<C: Connection> Layer<C> for Sum {
///     fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
///         let count = below.write(buf)?;
///         self.0.fetch_add(count as u64, Ordering::Relaxed);
///         Ok(count)
///     }
/// }
///
/// let sum = Arc::new(AtomicU64::new(0));
/// let address = UnixAddress::Abstract(b"socketserver-doc-layered".to_vec());
/// let listeners = UnixStream::bind(address)?.into_iter().map(|unix| {
///     let sum = Arc::clone(&sum);
///     Layered::new(unix, move || Sum(Arc::clone(&sum)))
/// });
/// let server = Server::<_, Threading>::builder().listen(listeners).build()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Layered<T, L> {
    below: T,
    layer: Box<dyn Fn() -> L + Send + Sync>,
}

impl<T, L> Layered<T, L> {
    /// Puts a layer, made by `layer`, on each connection of `below`. `layer` runs on the accepting
    /// thread and must not block.
    pub fn new(below: T, layer: impl Fn() -> L + Send + Sync + 'static) -> Self {
        Self {
            below,
            layer: Box::new(layer),
        }
    }
}

/// A connection or datagram on which [`Layered`] can put a layer `L`: a connection for any [`Layer`], a
/// datagram for that of [`Proxied`](crate::proxied::Proxied) alone.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Layered, Transport, Under};
/// use socketserver::{Error, Server, Threading};
///
/// fn build<T, L>(listeners: Vec<Layered<T, L>>) -> Result<Server<Layered<T, L>, Threading>, Error>
/// where
///     T: Transport<Accepted: Under<L>>,
///     L: 'static,
/// {
///     Server::builder().listen(listeners).build()
/// }
/// ```
pub trait Under<L>: Managed {
    /// What a handler receives.
    type Over: Managed;

    /// Puts the layer on top.
    fn under(self, layer: L) -> Self::Over;
}

impl<C: Connection + Managed, L: Layer<C>> Under<L> for C {
    type Over = LayeredConnection<C, L>;

    fn under(self, layer: L) -> Self::Over {
        LayeredConnection::new(self, layer)
    }
}

impl<T, L> Transport for Layered<T, L>
where
    T: Transport<Accepted: Under<L>>,
    L: 'static,
{
    type Accepted = <T::Accepted as Under<L>>::Over;

    const SCHEME: &'static str = T::SCHEME;

    fn local_addr(&self) -> Address {
        self.below.local_addr()
    }

    fn url(&self) -> String {
        self.below.url()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Self::Accepted>) -> io::Result<()> {
        let wrap = |below: T::Accepted| below.under((self.layer)());
        batch.through(wrap, |batch| self.below.accept(batch))
    }

    fn waiting(&self) -> Option<usize> {
        self.below.waiting()
    }

    fn seal_backlog(&self) -> io::Result<bool> {
        self.below.seal_backlog()
    }

    fn arriving(&self) -> Option<bool> {
        self.below.arriving()
    }

    fn is_adopted(&self) -> bool {
        self.below.is_adopted()
    }

    fn batch(&self) -> usize {
        self.below.batch()
    }
}

impl<A, T, L> Bind<A> for Layered<T, L>
where
    T: Bind<A, Accepted: Connection>,
    L: Layer<T::Accepted> + Default,
{
    fn bind(addr: A) -> Result<Vec<Self>, Error> {
        let listeners = T::bind(addr)?.into_iter();
        Ok(listeners
            .map(|below| Self::new(below, L::default))
            .collect())
    }
}

impl<T: AsFd, L> AsFd for Layered<T, L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.below.as_fd()
    }
}

impl<T: fmt::Debug, L> fmt::Debug for Layered<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layered").field(&self.below).finish()
    }
}

/// A connection of a [`Layered`] transport: a connection of the transport below, and its layer.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use socketserver::net::{Layer, Layered, LayeredConnection, TcpConnection};
/// use socketserver::{Connection, Server, Tcp, Threading};
///
/// #[derive(Default)]
/// struct Reads(u64);
///
/// impl<C: Connection> Layer<C> for Reads {
///     fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
///         self.0 += 1;
///         below.read(buf)
///     }
/// }
///
/// fn count(conn: &mut LayeredConnection<TcpConnection, Reads>) -> io::Result<()> {
///     let mut line = String::new();
///     conn.read_line_max(&mut line, 1024)?;
///     let Reads(reads) = *conn.layer();
///     writeln!(conn, "{reads} reads")
/// }
///
/// let guard = Server::<Layered<Tcp, Reads>, Threading>::bind("127.0.0.1:0")?.spawn(count)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct LayeredConnection<C, L> {
    /// In a box, so that a type of connections with and without layers is not much larger than one without.
    below: Box<C>,
    layer: L,
    /// Bytes that the layer has returned and the handler has not read.
    input: Input,
    /// `input` is a part of a request, and the connection waits for the rest.
    partial: bool,
    /// The connection has made a writer, whose bytes must not overtake buffered ones.
    unbuffered: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Opened,
    Finished,
}

impl<C: Connection, L: Layer<C>> LayeredConnection<C, L> {
    pub(crate) fn new(below: C, layer: L) -> Self {
        Self {
            below: Box::new(below),
            layer,
            input: Input::default(),
            partial: false,
            unbuffered: false,
            state: State::New,
        }
    }

    /// Returns the connection below. Its reads and writes bypass the layer.
    pub const fn below(&self) -> &C {
        &self.below
    }

    /// Returns the layer of this connection.
    pub const fn layer(&self) -> &L {
        &self.layer
    }

    /// Returns the layer of this connection, mutably.
    pub const fn layer_mut(&mut self) -> &mut L {
        &mut self.layer
    }

    /// Whether the layer below has read who the client is: the server judges that first, and opens this layer then.
    fn is_to_be_judged(&self) -> bool {
        self.below.context().is_to_be_judged()
    }

    fn holds_input(&self) -> bool {
        !self.input.is_empty() || self.layer.has_input()
    }

    /// Lets the layer send its last bytes, once.
    fn finish(&mut self) -> io::Result<()> {
        if self.state != State::Opened {
            return Ok(());
        }
        self.state = State::Finished;
        self.layer.finish(&mut self.below)
    }

    /// Opens the layer by `open`, unless it is open. Returns whether it is; if not, the handshake goes on.
    fn open_layer(
        &mut self,
        open: impl FnOnce(&mut L, &mut C) -> io::Result<bool>,
    ) -> io::Result<bool> {
        if self.state != State::New {
            return Ok(true);
        }
        self.below.context().begin_handshake();
        let opened = open(&mut self.layer, &mut self.below);
        if matches!(opened, Ok(false)) {
            return Ok(false);
        }
        self.below.context().end_handshake();
        opened.inspect(|_| self.state = State::Opened)
    }

    fn receive_input(&mut self) -> io::Result<()> {
        if !self.layer.has_input() {
            self.layer.flush(&mut self.below)?;
            // The connection below waits without a buffer.
            self.below.fill_buf()?;
        }
        let mut buffer = buffers::take();
        match self.layer.read(&mut self.below, &mut buffer) {
            Ok(count) => {
                self.input.fill(buffer, count);
                Ok(())
            }
            Err(err) => {
                buffers::give(buffer);
                Err(err)
            }
        }
    }
}

impl<C: Connection, L: Layer<C>> Accepted for LayeredConnection<C, L> {
    fn context(&self) -> &Context {
        self.below.context()
    }

    fn peer(&self) -> Address {
        self.layer.peer(&self.below)
    }

    fn peer_credentials(&self) -> io::Result<Credentials> {
        self.below.peer_credentials()
    }

    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        self.below.peer_groups()
    }

    fn via(&self) -> Option<Address> {
        self.layer.via(&self.below)
    }

    fn proxy_header(&self) -> Option<&Header> {
        self.layer.proxy_header(&self.below)
    }
}

impl<C: Connection + Managed, L: Layer<C>> Managed for LayeredConnection<C, L> {
    fn admit(&self) -> io::Result<()> {
        self.below.admit()?;
        self.layer.admit(&self.below)
    }

    fn open(&mut self) -> io::Result<()> {
        self.below.open()?;
        if self.is_to_be_judged() {
            return Ok(());
        }
        self.open_layer(|layer, below| layer.open(below).map(|()| true))
            .map(drop)
    }

    fn try_open(&mut self) -> io::Result<bool> {
        let opened = self.below.try_open()? && !self.is_to_be_judged();
        Ok(opened && self.open_layer(L::try_open)?)
    }

    fn wait(&mut self) -> io::Result<Waits<'_>> {
        self.layer.flush(&mut self.below)?;
        if self.holds_input() && !self.partial {
            return Ok(Waits::Ready);
        }
        if self.input.is_empty() {
            self.input.release();
        }
        self.below.wait()
    }

    fn has_input(&self) -> bool {
        self.holds_input() && !self.partial || self.below.has_input()
    }

    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        let held = self.input.bytes();
        let judge = |more: &[u8]| is_whole(&[held, more].concat());
        let whole = if held.is_empty() {
            self.layer.gather(&mut self.below, is_whole)?
        } else {
            is_whole(held) || self.layer.gather(&mut self.below, &judge)?
        };
        self.partial = !whole;
        Ok(whole)
    }

    fn leave_unread(&mut self) {
        self.below.leave_unread();
    }

    fn close(&mut self) -> io::Result<()> {
        let finished = self.finish();
        if self.holds_input() {
            self.below.leave_unread();
        }
        let closed = self.below.close();
        finished.and(closed)
    }

    fn refuse(&mut self) {
        self.below.refuse();
    }

    fn refuse_with(&mut self, message: &[u8]) {
        self.layer.refuse_with(&mut self.below, message);
    }
}

impl<C: Connection, L: Layer<C>> Connection for LayeredConnection<C, L> {
    fn next_message(&mut self) -> io::Result<bool> {
        if self.holds_input() {
            self.below.context().end_request();
            // The layer may hold only the end of the input.
            let comes = !self.fill_buf()?.is_empty();
            if comes {
                self.below.context().begin_request();
            }
            return Ok(comes);
        }
        self.input.release();
        self.layer.flush(&mut self.below)?;
        // The received bytes may be no input of the layer, but its end.
        Ok(self.below.next_message()? && !self.fill_buf()?.is_empty())
    }

    fn halves(&mut self) -> io::Result<(ReadHalf<'_>, WriteHalf<'_>)> {
        self.layer.flush(&mut self.below)?;
        let (reading, writing) = self.layer.halves(self.below.halves()?)?;
        let input = &mut self.input;
        let state = &mut self.state;
        let writing = Ending::new(writing, || *state = State::Finished);
        Ok((AfterInput::half(input, reading), WriteHalf::new(writing)))
    }

    fn writer(&mut self) -> io::Result<Writer> {
        self.layer.flush(&mut self.below)?;
        let below = self.below.writer()?;
        let writer = self.layer.writer(below)?;
        self.below.set_write_buffer(0)?;
        self.unbuffered = true;
        Ok(writer)
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.input.is_empty() {
            return Poll::Ready(Ok(self.input.take(buf)));
        }
        self.layer.poll_read(&mut self.below, cx, buf)
    }

    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.layer.poll_write(&mut self.below, cx, buf)
    }

    fn poll_failed(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Error> {
        self.below.poll_failed(cx)
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        self.layer.send_file(&mut self.below, file, offset, length)
    }

    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.unread(bytes);
        Ok(())
    }

    fn peer_gone(&self) -> bool {
        self.below.peer_gone()
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        if self.unbuffered {
            return self.flush();
        }
        self.below.set_write_buffer(capacity)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_read_timeout(timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.layer.set_write_timeout(&mut self.below, timeout)
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.finish()?;
        }
        self.below.shutdown(how)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.state = State::Finished;
        self.below.reset()
    }

    fn unsent(&self) -> Option<u64> {
        self.below.unsent()
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.layer.local_addr(&self.below)
    }
}

impl<C: Connection, L: Layer<C>> Read for LayeredConnection<C, L> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.input.is_empty() {
            return Ok(self.input.take(buf));
        }
        if !self.layer.has_input() {
            self.layer.flush(&mut self.below)?;
        }
        self.layer.read(&mut self.below, buf)
    }
}

impl<C: Connection, L: Layer<C>> BufRead for LayeredConnection<C, L> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() {
            self.input.release();
            self.receive_input()?;
        }
        Ok(self.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }
}

impl<C: Connection, L: Layer<C>> Write for LayeredConnection<C, L> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.layer.write(&mut self.below, buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layer.flush(&mut self.below)
    }
}

impl<C: fmt::Debug, L> fmt::Debug for LayeredConnection<C, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayeredConnection")
            .field("below", &self.below)
            .field("unread", &self.input.bytes().len())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
