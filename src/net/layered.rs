//! A transport over another: each connection of the one below has a layer of its own on it.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::address::Address;
use crate::buffers;
use crate::error::Error;
use crate::net::stream::Input;
use crate::net::{AcceptBatch, Accepted, Bind, Connection, Managed, Transport, Waits};
use crate::registry::context::Context;

/// What a [`Layered`] transport does with the bytes of one connection: counts, limits, encrypts them.
///
/// Every method is given the connection below, and has a default that passes on to it, so a layer has
/// only what it changes. All input of a handler comes through [`read`](Self::read), all of its output
/// goes through [`write`](Self::write).
///
/// # Examples
///
/// A server whose clients send in no hurry: a layer that reads at most ten bytes at once. (See
/// `examples/counting.rs` for a whole one.)
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
    /// Speaks to the peer before the handler does: a handshake, a header. Called once for each
    /// connection, where its handler runs, so it may wait; the handshake timeout applies. Default:
    /// nothing is said.
    ///
    /// # Errors
    ///
    /// Why the connection cannot be handled: its handler is not called, and the request has failed.
    fn open(&mut self, below: &mut C) -> io::Result<()> {
        let _ = below;
        Ok(())
    }

    /// Reads as [`Read::read`] does. What was written has been flushed when it is called, unless
    /// [`has_input`](Self::has_input). Default: reads from the connection below.
    ///
    /// # Errors
    ///
    /// Those of the connection below, and the layer's own.
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        below.read(buf)
    }

    /// Writes as [`Write::write`] does. Default: writes to the connection below.
    ///
    /// # Errors
    ///
    /// Those of the connection below, and the layer's own.
    fn write(&mut self, below: &mut C, buf: &[u8]) -> io::Result<usize> {
        below.write(buf)
    }

    /// Sends what the layer and the connection below have buffered. Default: the layer has nothing.
    ///
    /// # Errors
    ///
    /// What could not be sent.
    fn flush(&mut self, below: &mut C) -> io::Result<()> {
        below.flush()
    }

    /// Whether the next [`read`](Self::read) returns at once, because the layer has taken more from
    /// the connection below than it has given, or the end of the input. Such a connection is not
    /// parked. Default: it has not.
    fn has_input(&self) -> bool {
        false
    }

    /// Takes what has come, without waiting, as [`Managed::gather`] does: `is_whole` judges what a
    /// handler would read. Default: judges what the connection below has, which suits a layer that
    /// leaves the bytes as they are.
    ///
    /// # Errors
    ///
    /// What receiving says. The connection is over then.
    fn gather(&mut self, below: &mut C, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool>
    where
        C: Managed,
    {
        Ok(self.has_input() || below.gather(is_whole)?)
    }

    /// Says the last words: called once, before the end of what is written is told to the peer, on a
    /// connection that was [opened](Self::open). Default: flushes.
    ///
    /// # Errors
    ///
    /// What could not be sent. The connection below is ended all the same.
    fn finish(&mut self, below: &mut C) -> io::Result<()> {
        self.flush(below)
    }

    /// Turns away a connection beyond a limit, which was not opened, with a message that may be empty.
    /// Runs on the accepting thread and must not wait. Default: the connection below tells it.
    fn refuse_with(&mut self, below: &mut C, message: &[u8])
    where
        C: Managed,
    {
        below.refuse_with(message);
    }

    /// Who the peer is. Default: the peer of the connection below.
    fn peer(&self, below: &C) -> Address {
        below.peer()
    }

    /// The address of this end. Default: that of the connection below.
    ///
    /// # Errors
    ///
    /// As [`Connection::local_addr`].
    fn local_addr(&self, below: &C) -> io::Result<Address> {
        below.local_addr()
    }
}

/// A transport over another one, `T`, with a layer `L` on each of its connections.
///
/// What concerns the listener, such as its address, its URL and how it stops, is as of `T`. It can be
/// bound as `T` is where the layer has a default; else [`new`](Self::new) says how one is made.
/// Layers can be stacked. For a transport whose requests are no streams, see [`AcceptBatch::through`].
///
/// # Examples
///
/// Unix sockets whose layers have something in common.
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
    /// Puts the layer that `layer` makes on each connection of `below`. It is called on the accepting
    /// thread and must not wait.
    pub fn new(below: T, layer: impl Fn() -> L + Send + Sync + 'static) -> Self {
        Self {
            below,
            layer: Box::new(layer),
        }
    }
}

impl<T, L> Transport for Layered<T, L>
where
    T: Transport<Accepted: Connection>,
    L: Layer<T::Accepted>,
{
    type Accepted = LayeredConnection<T::Accepted, L>;

    const SCHEME: &'static str = T::SCHEME;

    fn local_addr(&self) -> Address {
        self.below.local_addr()
    }

    fn url(&self) -> String {
        self.below.url()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Self::Accepted>) -> io::Result<()> {
        let wrap = |below| LayeredConnection::new(below, (self.layer)());
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

/// A connection that a [`Layered`] transport accepted: one of the transport below, and its layer.
pub struct LayeredConnection<C, L> {
    below: C,
    layer: L,
    /// What the layer has given and was not yet read.
    input: Input,
    /// That is a part of a request, of which more is waited for.
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
    fn new(below: C, layer: L) -> Self {
        Self {
            below,
            layer,
            input: Input::default(),
            partial: false,
            state: State::New,
        }
    }

    /// The connection below. What it reads and writes does not come through the layer.
    pub const fn below(&self) -> &C {
        &self.below
    }

    /// The layer of this connection.
    pub const fn layer(&self) -> &L {
        &self.layer
    }

    /// The layer of this connection, to change it.
    pub const fn layer_mut(&mut self) -> &mut L {
        &mut self.layer
    }

    fn holds_input(&self) -> bool {
        !self.input.is_empty() || self.layer.has_input()
    }

    /// Lets the layer say its last words, once.
    fn finish(&mut self) -> io::Result<()> {
        if self.state != State::Opened {
            return Ok(());
        }
        self.state = State::Finished;
        self.layer.finish(&mut self.below)
    }

    fn receive_input(&mut self) -> io::Result<()> {
        if !self.layer.has_input() {
            self.layer.flush(&mut self.below)?;
            // It waits without a buffer.
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
        self.below.admit()
    }

    fn open(&mut self) -> io::Result<()> {
        self.below.open()?;
        if self.state != State::New {
            return Ok(());
        }
        self.below.context().begin_handshake();
        let opened = self.layer.open(&mut self.below);
        self.below.context().end_handshake();
        opened?;
        self.state = State::Opened;
        Ok(())
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
            // It may be the end of the input that the layer has.
            let comes = !self.fill_buf()?.is_empty();
            if comes {
                self.below.context().begin_request();
            }
            return Ok(comes);
        }
        self.input.release();
        self.layer.flush(&mut self.below)?;
        self.below.next_message()
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
