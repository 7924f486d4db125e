//! Transports over another transport, with a layer on each connection.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{self, Poll};
use std::time::Duration;

use crate::address::Address;
use crate::buffers;
use crate::error::Error;
use crate::net::halves::{AfterInput, Ending, unsupported};
use crate::net::input::Input;
use crate::net::{AcceptBatch, Accepted, Bind, Connection, Managed, Transport, Waits};
use crate::net::{ReadHalf, WriteHalf};
use crate::registry::context::Context;

/// Transforms the bytes of one connection of a [`Layered`] transport: counts, limits or encrypts
/// them.
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

    /// Reads as [`Read::read`] does. Output has been flushed before the call, unless
    /// [`has_input`](Self::has_input). Default: reads from the connection below.
    ///
    /// # Errors
    ///
    /// The errors of the connection below, and of the layer.
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        below.read(buf)
    }

    /// Writes as [`Write::write`] does. Default: writes to the connection below.
    ///
    /// # Errors
    ///
    /// The errors of the connection below, and of the layer.
    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        below.write(buf)
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

    /// Returns the address of this end. Default: that of the connection below.
    ///
    /// # Errors
    ///
    /// As [`Connection::local_addr`].
    fn local_addr(&self, below: &C) -> io::Result<Address> {
        below.local_addr()
    }
}

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
    below: C,
    layer: L,
    /// Bytes that the layer has returned and the handler has not read.
    input: Input,
    /// `input` is a part of a request, and the connection waits for the rest.
    partial: bool,
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
            below,
            layer,
            input: Input::default(),
            partial: false,
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
        // What has come may be no input of the layer, but its end.
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

    fn poll_read(&mut self, cx: &mut task::Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.input.is_empty() {
            return Poll::Ready(Ok(self.input.take(buf)));
        }
        self.layer.poll_read(&mut self.below, cx, buf)
    }

    fn poll_write(&mut self, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.layer.poll_write(&mut self.below, cx, buf)
    }

    fn unread(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.unread(bytes);
        Ok(())
    }

    fn peer_gone(&self) -> bool {
        self.below.peer_gone()
    }

    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()> {
        self.below.set_write_buffer(capacity)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_read_timeout(timeout)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.below.set_write_timeout(timeout)
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.finish()?;
        }
        self.below.shutdown(how)
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
