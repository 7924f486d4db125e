//! Transports. A transport is a bound listener that yields connections or datagrams.
//!
//! This module owns the traits; each file beside it is one transport. Transports know neither
//! models nor servers.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod datagram;
pub(crate) mod dialed;
pub(crate) mod either;
pub(crate) mod halves;
mod input;
pub(crate) mod layer;
pub(crate) mod layered;
mod link;
pub(crate) mod listener;
pub(crate) mod options;
pub(crate) mod relay;
pub(crate) mod replier;
pub(crate) mod seqpacket;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod turns;
pub(crate) mod udp;
pub(crate) mod unix_datagram;
mod unix_listener;
pub(crate) mod unix_lock;
pub(crate) mod unix_path;
pub(crate) mod unix_seqpacket;
pub(crate) mod unix_stream;
pub(crate) mod writer;

pub use crate::address::{Address, UnixAddress};
pub use crate::registry::context::{Abort, Context, StopFlag};
pub use connection::Connection;
pub use datagram::Packet;
pub use dialed::Dialed;
pub use either::Either;
pub use halves::{ReadHalf, ReadSide, WriteHalf, WriteSide};
pub use layer::Layer;
pub use layered::{Layered, LayeredConnection, Under};
pub use relay::{Relay, Relayed};
pub use replier::Replier;
pub use seqpacket::SeqpacketConnection;
pub use stream::Stream;
pub use tcp::{BoundTcp, Tcp, TcpConnection, TcpOptions};
pub use udp::{Udp, UdpOptions, UdpPacket};
pub use unix_datagram::{UnixDatagram, UnixPacket};
pub use unix_path::UnixOptions;
pub use unix_seqpacket::{BoundUnixSeqpacket, UnixSeqpacket};
pub use unix_stream::{BoundUnixStream, Credentials, UnixConnection, UnixStream};
pub use writer::{Writer, WriterSide};

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::Error;
use crate::proxy::header::Header;
use crate::shared::Shared;

/// A bound listener that yields connections or datagrams.
///
/// Implement it to serve something that is not a socket. The descriptor of [`AsFd`] must poll as
/// readable whenever [`accept`](Self::accept) would find something.
///
/// # Examples
///
/// A transport that yields the bytes of a pipe, one at a time. (`examples/own_transport.rs` is a
/// whole program.)
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
    /// The type of what is accepted and given to the handler.
    type Accepted: Managed;

    /// The scheme of a listener's URL: `tcp` in `tcp://127.0.0.1:80`.
    const SCHEME: &'static str;

    /// Returns the bound address, with the real port.
    fn local_addr(&self) -> Address;

    /// Returns the bound address as a URL.
    fn url(&self) -> String {
        match self.local_addr() {
            Address::Unix(addr) if addr.path().is_none() => format!("{}:{addr}", Self::SCHEME),
            addr => format!("{}://{addr}", Self::SCHEME),
        }
    }

    /// Accepts waiting connections or datagrams into `batch`: at least one and at most
    /// [`AcceptBatch::room`]. Never blocks.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is waiting. The accept loop classifies every other error as
    /// accept(2) describes it: it counts errors of one connection, pauses after an exhaustion, and
    /// abandons the listener after anything else.
    fn accept(&self, batch: &mut AcceptBatch<'_, Self::Accepted>) -> io::Result<()>;

    /// Returns the length of the backlog, if it is known: a stop serves as many. Default: unknown.
    fn waiting(&self) -> Option<usize> {
        None
    }

    /// Seals the backlog: the kernel lets in no new connections, while those in the backlog can
    /// still be accepted. Returns whether the transport can do that. A stop calls it first,
    /// possibly several times. Default: `false`; what arrives after the last
    /// [`accept`](Self::accept) is lost.
    ///
    /// # Errors
    ///
    /// Treated as `Ok(false)`.
    fn seal_backlog(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Returns whether something is still arriving that cannot be accepted yet, such as a
    /// handshake, after [`seal_backlog`](Self::seal_backlog); `None` if that cannot be known.
    /// Default: `Some(false)`.
    fn arriving(&self) -> Option<bool> {
        Some(false)
    }

    /// Returns whether the listener was adopted from another program, which may use it again
    /// afterwards. The process that adopted it drops it after its worker processes have ended, and
    /// the drop restores what serving changed, such as the blocking mode. Default: `false`.
    fn is_adopted(&self) -> bool {
        false
    }

    /// Returns how many connections or datagrams one call of [`accept`](Self::accept) should take
    /// at most. Default: 1.
    ///
    /// A larger batch suits datagrams, which are cheaper to receive together. A model that runs the
    /// handler on the accepting thread handles a batch one after the other.
    fn batch(&self) -> usize {
        1
    }
}

/// A transport that can be bound to an address of type `A` with its default options.
///
/// # Examples
///
/// ```
/// use socketserver::Tcp;
/// use socketserver::net::Bind;
///
/// let listeners = Tcp::bind(("127.0.0.1", 0))?;
/// assert_eq!(listeners.len(), 1);
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Bind<A>: Transport {
    /// Binds and listens on `addr`: one listener for each address that it resolves to.
    ///
    /// # Errors
    ///
    /// The error names what was tried and on what. Nothing stays bound.
    fn bind(addr: A) -> Result<Vec<Self>, Error>;
}

/// A transport whose listeners can be adopted from another program, as open descriptors.
///
/// Each transport of this crate has a method `from_fd`; this trait is for code that is generic over them, such as
/// [`systemd::Listeners`](crate::systemd::Listeners). [`Either`] adopts what suits one of its sides.
///
/// # Examples
///
/// ```
/// use std::os::fd::OwnedFd;
/// use socketserver::net::{Adopt, Either, Transport};
/// use socketserver::{Tcp, UnixStream};
///
/// let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
/// let listener: Either<UnixStream, Tcp> = Adopt::adopt(OwnedFd::from(other))?;
/// assert!(listener.url().starts_with("tcp://"));
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Adopt: Transport {
    /// Returns whether the descriptor is a socket of this kind, by its family and type.
    fn suits(fd: BorrowedFd<'_>) -> bool;

    /// Adopts the descriptor.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: it is of another kind. The text has the kind.
    fn adopt(fd: OwnedFd) -> Result<Self, Error>;
}

/// What a handler receives: a connection or a datagram.
///
/// [`Managed`] has the methods that only the server calls.
///
/// # Examples
///
/// ```
/// use socketserver::net::Accepted;
///
/// fn describe(accepted: &impl Accepted) -> String {
///     format!("number {} from {}", accepted.id(), accepted.peer())
/// }
/// ```
pub trait Accepted: Send + 'static {
    /// Returns the context, as [`AcceptBatch::push`] passed it.
    fn context(&self) -> &Context;

    /// Returns the peer's address. Behind a [trusted proxy](crate::proxied) that is the client's, once the proxy's
    /// header has come.
    fn peer(&self) -> Address;

    /// Returns the address of the [trusted proxy](crate::proxied) through which the client has come, if there is
    /// one. [`peer`](Self::peer) is then the client's address.
    ///
    /// A wrapper of your own returns what the connection below does. Default: none.
    fn via(&self) -> Option<Address> {
        None
    }

    /// Returns the header that a [trusted proxy](crate::proxied) has sent before the client's bytes.
    ///
    /// A wrapper of your own returns what the connection below does. Default: none.
    fn proxy_header(&self) -> Option<&Header> {
        None
    }

    /// Returns the number of the connection or datagram: unique and ascending within its server,
    /// from 1; 0 for a dialed connection.
    fn id(&self) -> u64 {
        self.context().id()
    }

    /// Returns the process, user and group at the other end of a Unix stream connection, as they were
    /// when the process called connect(2) (unix(7), `SO_PEERCRED`).
    ///
    /// # Errors
    ///
    /// - `Unsupported`, the default: the connection is no Unix one, or this is a datagram.
    /// - else as getsockopt(2).
    fn peer_credentials(&self) -> io::Result<Credentials> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the supplementary groups of the process at the other end of a Unix stream connection
    /// (getgroups(2), `SO_PEERGROUPS`). Its own group may be missing among them.
    ///
    /// # Errors
    ///
    /// As [`peer_credentials`](Self::peer_credentials).
    fn peer_groups(&self) -> io::Result<Vec<u32>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns whether the server has been asked to stop. A handler that serves many messages on
    /// one connection should then end it.
    fn stopping(&self) -> bool {
        self.context().stopping()
    }
}

/// What a server does with a connection or datagram before and after its handler: it admits or
/// refuses it, parks it, closes it.
///
/// Transports implement this trait; handlers do not need it, so it is not at the root of the crate.
/// Every method has a default: `impl Managed for Mine {}` suits a type that needs nothing after its
/// handler has returned, and whose drop closes it.
///
/// # Examples
///
/// A transport of open files, which are synchronised to the disk after their handler.
///
/// ```
/// use std::fs::File;
/// use std::io;
/// use socketserver::net::{Accepted, Address, Context, Managed};
///
/// struct OpenFile {
///     file: File,
///     context: Context,
/// }
///
/// impl Accepted for OpenFile {
///     fn context(&self) -> &Context {
///         &self.context
///     }
///     fn peer(&self) -> Address {
///         Address::Named("file".to_owned())
///     }
/// }
///
/// impl Managed for OpenFile {
///     fn close(&mut self) -> io::Result<()> {
///         self.file.sync_all()
///     }
/// }
/// ```
pub trait Managed: Accepted {
    /// Checks whether the handler may be called. Called once, before the `verify` hook. Default:
    /// `Ok`.
    ///
    /// # Errors
    ///
    /// The connection or datagram is dropped, and the error is reported as its failure.
    fn admit(&self) -> io::Result<()> {
        Ok(())
    }

    /// Prepares for the handler. Called where the handler runs, before each call of it, so it may
    /// wait for the peer. Default: nothing to do.
    ///
    /// # Errors
    ///
    /// The handler is not called, and the error is reported as its failure.
    fn open(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Prepares for the handler as [`open`](Self::open) does, but does not wait for input: returns
    /// `false` if some is missing. The server then waits for what [`wait`](Self::wait) names,
    /// without a thread, and calls this method again. Default: `open`, and `true`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    fn try_open(&mut self) -> io::Result<bool> {
        self.open().map(|()| true)
    }

    /// Prepares to wait for the client without a thread, after the handler has returned
    /// `Next::Park` or [`try_open`](Self::try_open) `false`, and returns what to wait for. May be called several times. Default:
    /// [`Waits::Never`], which closes.
    ///
    /// # Errors
    ///
    /// Buffered output could not be sent. The connection is closed.
    fn wait(&mut self) -> io::Result<Waits<'_>> {
        Ok(Waits::Never)
    }

    /// Returns whether the client has sent input that the handler has not read; a stop does not end
    /// such a connection. Default: `false`.
    fn has_input(&self) -> bool {
        false
    }

    /// Receives waiting input, without blocking, for the hook
    /// [`whole_request`](crate::Builder::whole_request). Returns whether to call the handler; after
    /// `false`, [`wait`](Self::wait) waits for more. Default: `true`.
    ///
    /// # Errors
    ///
    /// Receiving failed. The connection is over.
    fn gather(&mut self, is_whole: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
        let _ = is_whole;
        Ok(true)
    }

    /// Notes that a wrapper around this connection holds input that the handler has not read:
    /// [`close`](Self::close) must then avoid a reset that would destroy the reply. Default:
    /// nothing to do.
    fn leave_unread(&mut self) {}

    /// Ends the connection in good order after its handler has returned: sends what is buffered,
    /// then the end of the stream. For a datagram, sends the reply. A drop without it ends as fast
    /// as it can. Default: nothing; the value is dropped.
    ///
    /// # Errors
    ///
    /// What was buffered could not be sent. The connection is over all the same.
    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Ends a connection or datagram that the `verify` hook has refused. Runs on the accepting
    /// thread and must not block. Default: nothing; the value is dropped.
    fn refuse(&mut self) {}

    /// As [`refuse`](Self::refuse), for a connection or datagram beyond a limit. `message` is for
    /// the peer and may be empty. Default: `refuse`, without the message.
    fn refuse_with(&mut self, message: &[u8]) {
        let _ = message;
        self.refuse();
    }

    /// Returns whether [`close_all`](Self::close_all) is cheaper than as many calls of
    /// [`close`](Self::close), and none of them blocks. Default: `false`.
    fn ends_with_others(&self) -> bool {
        false
    }

    /// Closes connections or datagrams that finished together, and calls `failed` for each whose
    /// reply was not delivered.
    ///
    /// Default: closes one after the other. Datagrams send all replies in one system call.
    fn close_all(finished: &mut VecDeque<Self>, failed: &mut dyn FnMut(&dyn Accepted, io::Error))
    where
        Self: Sized,
    {
        for mut accepted in finished.drain(..) {
            if let Err(err) = accepted.close() {
                failed(&accepted, err);
            }
        }
    }
}

/// A datagram and its reply. A handler for `&mut impl Datagram` serves every datagram transport.
///
/// All that the handler writes becomes one reply, which is sent when the handler has returned.
/// Without a write there is no reply.
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
    /// Returns the bytes that arrived.
    fn packet(&self) -> &[u8];

    /// Replaces the reply, and what was written before, by `reply`. An empty reply is sent too.
    fn set_reply(&mut self, reply: &[u8]);

    /// Makes the received bytes the reply, without a copy.
    fn echo(&mut self);

    /// Sends one datagram to the sender at once.
    ///
    /// # Errors
    ///
    /// - `NotConnected`: the sender has no address (an unbound Unix socket, UDP source port 0).
    /// - `NotFound` or `ConnectionRefused`: the sender's Unix socket is gone.
    /// - `TimedOut`: the socket had no room for a second.
    /// - else as sendmsg(2).
    fn send(&mut self, data: &[u8]) -> io::Result<()>;

    /// Returns a value that sends to the sender, from the address to which the datagram came, also after the handler
    /// has returned. Default: fails.
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the datagram does not implement it. All datagrams of this crate do.
    /// - `NotConnected`: the sender has no address.
    fn replier(&self) -> io::Result<Replier> {
        Err(halves::unsupported("replier"))
    }

    /// Sends one datagram to `to` at once.
    ///
    /// # Errors
    ///
    /// - `NotConnected`: `to` is not the address of a socket.
    /// - else as [`send`](Self::send).
    fn send_to(&mut self, data: &[u8], to: &Address) -> io::Result<()>;
}

/// What a connection waits for before its handler is called again.
///
/// # Examples
///
/// [`Managed::wait`] of a connection whose input is not buffered.
///
/// ```
/// use std::io;
/// use std::os::fd::{AsFd, OwnedFd};
/// use socketserver::net::Waits;
///
/// fn wait(socket: &OwnedFd) -> io::Result<Waits<'_>> {
///     Ok(Waits::For(socket.as_fd()))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Waits<'a> {
    /// Nothing: the connection is over once its handler has returned.
    Never,
    /// Nothing: input is buffered already.
    Ready,
    /// This descriptor, until it is readable.
    For(BorrowedFd<'a>),
}

/// The place where [`Transport::accept`] puts accepted connections or datagrams.
///
/// # Examples
///
/// A transport that accepts as many as are waiting.
///
/// ```
/// use std::io;
/// use socketserver::net::{AcceptBatch, Context};
///
/// fn accept_all<R>(
///     batch: &mut AcceptBatch<'_, R>,
///     mut take: impl FnMut() -> io::Result<Box<dyn FnOnce(Context) -> R>>,
/// ) -> io::Result<()> {
///     while batch.room() > 0 {
///         batch.push(take()?);
///     }
///     Ok(())
/// }
/// ```
pub struct AcceptBatch<'a, R> {
    accepted: &'a mut dyn FnMut(R),
    room: usize,
    shared: &'a Shared,
}

impl<R> fmt::Debug for AcceptBatch<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptBatch")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl<'a, R> AcceptBatch<'a, R> {
    /// `accepted` takes what is pushed.
    pub(crate) fn new(accepted: &'a mut dyn FnMut(R), room: u64, shared: &'a Shared) -> Self {
        Self {
            accepted,
            room: room as usize,
            shared,
        }
    }

    /// Returns whether the server has been asked to stop. Then [`Transport::seal_backlog`] may have
    /// been called, here or in another process.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.lifecycle.stopping()
    }

    /// Returns how many connections or datagrams may still be pushed.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Lets another transport accept, and wraps each of its connections or datagrams. For a
    /// transport around another one that is not a [`Layered`].
    ///
    /// # Errors
    ///
    /// The error of `accept`. What it pushed before the error is wrapped and kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use socketserver::net::{AcceptBatch, Managed};
    /// use socketserver::net::Transport;
    ///
    /// /// Accepts from `inner` and wraps the result.
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
        let mut accepted = |inner| (self.accepted)(wrap(inner));
        let mut batch = AcceptBatch {
            accepted: &mut accepted,
            room: self.room,
            shared: self.shared,
        };
        let result = accept(&mut batch);
        self.room = batch.room;
        result
    }

    /// Adds the connection or datagram that `make` builds around its context.
    ///
    /// # Panics
    ///
    /// Panics if [`room`](Self::room) is 0.
    pub fn push(&mut self, make: impl FnOnce(Context) -> R) {
        self.room = self
            .room
            .checked_sub(1)
            .expect("a transport pushes at most `room` connections or datagrams");
        (self.accepted)(make(self.shared.registry.context()));
    }
}
