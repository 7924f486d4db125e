//! Where requests come from. A transport is a bound listener that yields requests: connections or
//! datagrams.
//!
//! This module owns the traits; each file beside it is one transport. None of them knows models or
//! servers.

pub(crate) mod connect;
pub(crate) mod datagram;
pub(crate) mod dialed;
pub(crate) mod either;
pub(crate) mod layered;
pub(crate) mod listener;
pub(crate) mod options;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod unix_datagram;
pub(crate) mod unix_lock;
pub(crate) mod unix_path;
pub(crate) mod unix_stream;

pub use crate::address::{Address, UnixAddress};
pub use crate::registry::context::{Abort, Context};
pub use datagram::Packet;
pub use dialed::Dialed;
pub use either::Either;
pub use layered::{Layer, Layered, LayeredConnection};
pub use stream::{Stream, Writer};
pub use tcp::{BoundTcp, Tcp, TcpConnection, TcpOptions};
pub use udp::{Udp, UdpOptions, UdpPacket};
pub use unix_datagram::{UnixDatagram, UnixPacket};
pub use unix_path::UnixOptions;
pub use unix_stream::{BoundUnixStream, Credentials, UnixConnection, UnixStream};

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::error::Error;
use crate::shared::Shared;

/// A source of requests: a bound listener.
///
/// Implement it to serve something that is not a socket; the descriptor of [`AsFd`] must poll as
/// readable whenever [`accept`](Self::accept) would find a request.
///
/// # Examples
///
/// A transport whose requests are the bytes that arrive on a pipe. (See `examples/own_transport.rs`
/// for a whole one.)
///
/// ```
/// use std::io::{self, PipeReader, Read};
/// use std::os::fd::{AsFd, BorrowedFd};
/// use socketserver::net::{AcceptBatch, Managed};
/// use socketserver::net::{Accepted, Address, Context, Transport};
///
/// struct Bytes(PipeReader);
/// struct Byte(u8, Context);
///
/// impl AsFd for Bytes {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.0.as_fd()
///     }
/// }
///
/// impl Transport for Bytes {
///     type Accepted = Byte;
///     const SCHEME: &'static str = "bytes";
///
///     fn local_addr(&self) -> Address {
///         Address::Named("pipe".to_owned())
///     }
///
///     fn accept(&self, batch: &mut AcceptBatch<'_, Byte>) -> io::Result<()> {
///         let mut byte = [0];
///         (&self.0).read_exact(&mut byte)?;
///         batch.push(|context| Byte(byte[0], context));
///         Ok(())
///     }
/// }
///
/// impl Accepted for Byte {
///     fn context(&self) -> &Context {
///         &self.1
///     }
///     fn peer(&self) -> Address {
///         Address::Named("writer".to_owned())
///     }
/// }
///
/// impl Managed for Byte {}
/// ```
pub trait Transport: AsFd + Send + Sync + Sized + 'static {
    /// What is accepted, and given to the handler.
    type Accepted: Managed;

    /// What the address of a listener is shown with: `tcp` in `tcp://127.0.0.1:80`.
    const SCHEME: &'static str;

    /// The bound address, with the real port.
    fn local_addr(&self) -> Address;

    /// The bound address as a URL.
    fn url(&self) -> String {
        match self.local_addr() {
            Address::Unix(addr) if addr.path().is_none() => format!("{}:{addr}", Self::SCHEME),
            addr => format!("{}://{addr}", Self::SCHEME),
        }
    }

    /// Takes requests that are waiting, at least one and at most [`AcceptBatch::room`], and never waits
    /// for one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is waiting. Every other error is classified by the accept loop as
    /// accept(2) has it: per-connection errors are counted, exhaustion backs off, the rest ends
    /// this listener.
    fn accept(&self, batch: &mut AcceptBatch<'_, Self::Accepted>) -> io::Result<()>;

    /// How many requests wait to be accepted, where that is known: a stop serves as many. Default:
    /// unknown.
    fn waiting(&self) -> Option<usize> {
        None
    }

    /// Makes the kernel take in nothing more, while what it has taken in can still be accepted; says
    /// whether it does. Called when a stop begins, and may be called several times. Default: it
    /// cannot, and what comes in after the last [`accept`](Self::accept) is lost.
    ///
    /// # Errors
    ///
    /// As if it could not.
    fn seal_backlog(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether something is on its way in that cannot be accepted yet, after
    /// [`seal_backlog`](Self::seal_backlog); `None` where that cannot be known. Default: nothing is.
    fn arriving(&self) -> Option<bool> {
        Some(false)
    }

    /// Whether the listener was taken over from another program, which may go on with it afterwards.
    /// What was changed about it for serving, such as its blocking mode, is restored when it is
    /// dropped in the process that took it over; so that process keeps it until its worker processes
    /// have ended. Default: no.
    fn is_adopted(&self) -> bool {
        false
    }

    /// How many requests one call of [`accept`](Self::accept) should take at most. Default: 1.
    ///
    /// More than one suits requests that are cheaper taken together; a model that runs its handler
    /// on the accepting thread then runs it for one after the other.
    fn batch(&self) -> usize {
        1
    }
}

/// A transport that can be bound to an address of type `A` with its default options.
pub trait Bind<A>: Transport {
    /// Binds and listens on `addr`: one listener for each address that it resolves to.
    ///
    /// # Errors
    ///
    /// What was tried, on what, and why it failed; nothing stays bound.
    fn bind(addr: A) -> Result<Vec<Self>, Error>;
}

/// What a handler is given: a connection or a datagram.
///
/// What the server does with it besides is in [`Managed`].
pub trait Accepted: Send + 'static {
    /// What the request knows of its server, as [`AcceptBatch::push`] gave it.
    fn context(&self) -> &Context;

    /// Who sent it.
    fn peer(&self) -> Address;

    /// The number of the request: unique and ascending within its server, from 1; 0 for a connection
    /// that was dialed.
    fn id(&self) -> u64 {
        self.context().id()
    }

    /// Whether the server has been asked to stop: a handler that serves many messages on one
    /// connection should end it.
    fn stopping(&self) -> bool {
        self.context().stopping()
    }
}

/// What a server does with a request before and after its handler: admits or refuses it, parks it,
/// closes it.
///
/// Transports implement it for what they accept; handlers have no use for it, so it is not at the
/// root of the crate. Every method has a default, so `impl Managed for Mine {}` is enough for a request
/// that is over once its handler has returned, and whose drop closes it.
pub trait Managed: Accepted {
    /// Whether the request is fit to be handled; asked once, before the `verify` hook. Default:
    /// yes.
    ///
    /// # Errors
    ///
    /// Why it is not: it is dropped, and reported as a failed request.
    fn admit(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gets ready for the handler: called where the handler runs, each time before it is called, so it
    /// may wait for the peer. Default: nothing to do.
    ///
    /// # Errors
    ///
    /// Why it cannot be handled: the handler is not called, and the request has failed.
    fn open(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Gets ready to wait for the client without a thread, after the handler has returned
    /// `Next::Park`, and says on what. May be called several times. Default: never, and the request
    /// is closed.
    ///
    /// # Errors
    ///
    /// What was buffered could not be sent: the request is closed.
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        Ok(Waits::Never)
    }

    /// Whether the client has sent what the handler has not read: a stop does not end such a
    /// connection. Default: it is not known to have.
    fn has_input(&self) -> bool {
        false
    }

    /// Takes what has come, without waiting, for the hook
    /// [`whole_request`](crate::Builder::whole_request); says whether the handler is to be called.
    /// Where it says no, [`wait`](Self::wait) waits for more. Default: it is.
    ///
    /// # Errors
    ///
    /// What receiving says. The request is over then.
    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        let _ = is_whole;
        Ok(true)
    }

    /// Notes that the handler has left input unread which this request has given to one that wraps it:
    /// [`close`](Self::close) then takes more care that no reply is lost. Default: nothing to do.
    fn leave_unread(&mut self) {}

    /// Ends the request in good order after its handler returned: delivers what is still buffered,
    /// tells the peer. A request that is dropped without it ends in whatever way is quickest. Default:
    /// nothing; the request is dropped.
    ///
    /// # Errors
    ///
    /// What could not be delivered. The request is over all the same.
    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Ends a request that the `verify` hook has turned away. Runs on the accepting thread and must
    /// not wait. Default: nothing; the request is dropped.
    fn refuse(&mut self) {}

    /// As [`refuse`](Self::refuse), for a request beyond a limit, whose peer is to be told
    /// `message`, which may be empty. Default: `refuse`, and nothing is told.
    fn refuse_with(&mut self, message: &[u8]) {
        let _ = message;
        self.refuse();
    }

    /// Whether [`close_all`](Self::close_all) is cheaper than as many [`close`](Self::close)s, and
    /// none of them waits. Default: no.
    fn ends_with_others(&self) -> bool {
        false
    }

    /// Closes requests that are done at the same time, and tells `failed` of each whose reply was not
    /// delivered.
    ///
    /// The default closes one after the other; datagrams override it to send all replies at once.
    fn close_all(requests: &mut VecDeque<Self>, failed: &mut dyn FnMut(&dyn Accepted, io::Error))
    where
        Self: Sized,
    {
        for mut request in requests.drain(..) {
            if let Err(err) = request.close() {
                failed(&request, err);
            }
        }
    }
}

/// A connected byte stream, whatever it runs over. A handler written for `&mut impl Connection`
/// serves them all.
///
/// `Read` and `Write` block until the peer is ready, and never fail with `WouldBlock` or
/// `Interrupted`; `TimedOut` says that a timeout has passed. `Read` goes straight into the caller's
/// buffer, unless `BufRead` has buffered input before. Writing is unbuffered until
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
    /// Appends bytes to `out` up to and with the next `delimiter`, or to the end of the stream, and
    /// says how many.
    ///
    /// [`BufRead::read_until`] has no limit, so that a peer can fill the memory; this one does.
    ///
    /// # Errors
    ///
    /// `InvalidData` when `limit` bytes have come without a delimiter (they have been taken); else
    /// as [`BufRead::fill_buf`].
    fn read_until_max(
        &mut self,
        delimiter: u8,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        let mut taken = 0;
        while taken < limit {
            let input = self.fill_buf()?;
            let input = &input[..input.len().min(limit - taken)];
            let (count, done) = input
                .iter()
                .position(|&byte| byte == delimiter)
                .map_or((input.len(), input.is_empty()), |at| (at + 1, true));
            out.extend_from_slice(&input[..count]);
            self.consume(count);
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

    /// Appends the next line to `line`, with its `\n`, and says how many bytes it has: 0 at the end
    /// of the stream.
    ///
    /// [`BufRead::read_line`] has no limit, and the peer decides how long a line is; this one does.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the line is longer than `limit` bytes or is not UTF-8; else as
    /// [`BufRead::fill_buf`].
    fn read_line_max(&mut self, line: &mut String, limit: usize) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let count = self.read_until_max(b'\n', &mut bytes, limit)?;
        let text = String::from_utf8(bytes)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
        line.push_str(&text);
        Ok(count)
    }

    /// Waits between two messages for the next one, and says whether there is one: `false` at the end
    /// of the stream, and when the server has ended the connection because it stops. Call it before
    /// each message, the first one too.
    ///
    /// Here the connection is idle, as it is where a handler returns
    /// [`Next::Park`](crate::Next::Park): the idle timeout counts, it may be closed to make room for
    /// others, and it holds up a stop for no longer than the
    /// [`idle_grace`](crate::Builder::idle_grace). A message, for which the request timeout counts,
    /// begins when this says `true` and ends when it is called again. After a message that has begun
    /// in a stop it says `false`, unless the client has sent another. What is buffered for writing is
    /// sent before it waits; the last answer leaves with the end of the stream.
    ///
    /// The default waits for input, and knows of no stop.
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

    /// Gathers writes into `capacity` bytes and sends them when the buffer is full, on flush,
    /// before the connection waits for input, and at its end. 0, the default, sends each write at
    /// once.
    ///
    /// # Errors
    ///
    /// When what was buffered before could not be sent.
    fn set_write_buffer(&mut self, capacity: usize) -> io::Result<()>;

    /// Makes a read that waits longer than `timeout` fail with `TimedOut`. `None`, the default,
    /// waits for ever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Makes a write that waits longer than `timeout` fail with `TimedOut`. `None`, the default,
    /// waits for ever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a timeout of zero.
    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends one direction of the connection, or both. `Shutdown::Write` sends what is buffered
    /// first, then tells the peer that no more will come; reading goes on.
    ///
    /// # Errors
    ///
    /// When what was buffered could not be sent, or `NotConnected`.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()>;

    /// The address of this end of the connection.
    ///
    /// # Errors
    ///
    /// What getsockname(2) says.
    fn local_addr(&self) -> io::Result<Address>;
}

/// A datagram and its reply. A handler written for `&mut impl Datagram` serves every datagram
/// transport.
///
/// What is written becomes one reply, sent when the handler has returned; if nothing is written,
/// nothing is sent.
///
/// # Examples
///
/// ```
/// use socketserver::Datagram;
///
/// fn echo(datagram: &mut impl Datagram) -> std::io::Result<()> {
///     let copy = datagram.packet().to_vec();
///     datagram.write_all(&copy)
/// }
/// ```
pub trait Datagram: Accepted + Write {
    /// What arrived.
    fn packet(&self) -> &[u8];

    /// Makes `reply` the whole reply, whatever was written before; an empty one is sent too.
    fn set_reply(&mut self, reply: &[u8]);

    /// Makes what arrived the reply, without copying it.
    fn echo(&mut self);

    /// Sends one datagram to the sender at once.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the sender has no address (an unbound Unix socket, UDP source port 0);
    /// `NotFound` or `ConnectionRefused` when it is gone (a Unix socket); `TimedOut` when the socket had
    /// no room for as long as its send timeout; else what sendmsg(2) says.
    fn send(&mut self, data: &[u8]) -> io::Result<()>;

    /// Sends one datagram to `to` at once.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    fn send_to(&mut self, data: &[u8], to: &Address) -> io::Result<()>;
}

/// What a request waits for before its handler is called again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Waits<'a> {
    /// It is over once its handler has returned.
    Never,
    /// There is input already.
    Ready,
    /// Until this descriptor is readable.
    For(BorrowedFd<'a>),
}

/// Where [`Transport::accept`] puts what it takes.
#[derive(Debug)]
pub struct AcceptBatch<'a, R> {
    requests: &'a mut VecDeque<R>,
    room: usize,
    shared: &'a Shared,
}

impl<'a, R> AcceptBatch<'a, R> {
    pub(crate) const fn new(requests: &'a mut VecDeque<R>, room: u64, shared: &'a Shared) -> Self {
        Self {
            requests,
            room: room as usize,
            shared,
        }
    }

    /// Whether the server has been asked to stop: [`Transport::seal_backlog`] may have been called,
    /// here or in another process.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.lifecycle.stopping()
    }

    /// How many requests may still be pushed.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Lets another transport take requests, and wraps each: for a transport that wraps another one
    /// and is no [`Layered`].
    ///
    /// # Errors
    ///
    /// What `accept` returns; the requests that it has pushed before are wrapped all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use socketserver::net::{AcceptBatch, Managed};
    /// use socketserver::net::Transport;
    ///
    /// /// Takes requests of `inner`, which `wrap` makes requests of the type `R` of.
    /// fn accept<T: Transport, R: Managed>(
    ///     inner: &T,
    ///     wrap: fn(T::Accepted) -> R,
    ///     batch: &mut AcceptBatch<'_, R>,
    /// ) -> io::Result<()> {
    ///     batch.through(wrap, |batch| inner.accept(batch))
    /// }
    /// ```
    pub fn through<Q>(
        &mut self,
        wrap: impl Fn(Q) -> R,
        accept: impl FnOnce(&mut AcceptBatch<'_, Q>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut inner = VecDeque::new();
        let result = accept(&mut AcceptBatch {
            requests: &mut inner,
            room: self.room,
            shared: self.shared,
        });
        self.room -= inner.len();
        self.requests.extend(inner.into_iter().map(wrap));
        result
    }

    /// Adds the request that `make` builds around its context.
    ///
    /// # Panics
    ///
    /// Panics when there is no room.
    pub fn push(&mut self, make: impl FnOnce(Context) -> R) {
        self.room = self
            .room
            .checked_sub(1)
            .expect("a transport pushed more requests than it was given room for");
        self.requests
            .push_back(make(self.shared.registry.context()));
    }
}
