//! Datagrams and their replies: received in batches, answered in batches.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::address::Address;
use crate::error::Gone;
use crate::net::{AcceptBatch, Accepted, Datagram, Managed, Replier};
use crate::proxy::header::{Header, Malformed};
use crate::registry::context::Context;
use crate::sys::errno;
use crate::sys::mmsg::{self, Bundling, Outgoing, RawAddr, Room};
use crate::sys::poll::Interest;
use crate::task::offload;
use crate::task::wait::complete_shared;

/// The default of `max_datagram`: the largest datagram that IPv4 carries.
pub(crate) const MAX_DATAGRAM: usize = 65_535;

/// How long a reply waits for room in the send buffer, or in the queue of a Unix peer, before it
/// fails with `TimedOut`.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A datagram that a transport `T` received.
///
/// Its methods are those of [`Datagram`], [`Accepted`] and [`Write`].
///
/// # Dropping
///
/// The server sends the reply when the handler has returned, even if it returned an error. A
/// datagram that is dropped before that is not answered.
///
/// # Examples
///
/// ```
/// use socketserver::net::UdpPacket;
/// use socketserver::{Datagram, Sequential, Server, Udp};
///
/// fn shout(datagram: &mut UdpPacket) {
///     let loud = datagram.packet().to_ascii_uppercase();
///     datagram.set_reply(&loud);
/// }
///
/// let guard = Server::<Udp, Sequential>::bind("127.0.0.1:0")?.spawn(shout)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Packet<T> {
    socket: Arc<DatagramSocket>,
    /// `Some` until the drop.
    packet: Option<Box<mmsg::Packet>>,
    reply: Reply,
    /// The PROXY header in front of the data, and its length; or why the datagram is not admitted.
    header: Result<Option<Box<(Header, usize)>>, Malformed>,
    context: Context,
    transport: PhantomData<fn() -> T>,
}

/// The reply to a datagram.
enum Reply {
    None,
    /// The received bytes.
    Echo,
    Bytes(Vec<u8>),
}

/// The kind of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP, bound to one address.
    Inet,
    /// UDP, bound to all addresses: the kernel reports the local address of each datagram.
    InetAny,
    /// A Unix socket. A reply does not wait for a peer that does not read, because every other
    /// reply would wait with it.
    Unix,
}

/// Whether other programs share the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Own,
    /// The socket was adopted.
    Shared,
}

/// The send timeout that an adopted socket had before. It is restored at the end, because the
/// program that passed the socket on sees the same timeout.
#[derive(Debug)]
struct Adopted {
    /// The process that adopted the socket. Its forked children leave the timeout alone.
    process: u32,
    send_timeout: Mutex<Option<Duration>>,
}

impl Adopted {
    fn set_timeout(&self, socket: &Socket) -> io::Result<()> {
        let timeout = socket.write_timeout()?;
        if timeout != Some(SEND_TIMEOUT) {
            *self.before() = timeout;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        }
        Ok(())
    }

    fn before(&self) -> MutexGuard<'_, Option<Duration>> {
        self.send_timeout
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Boxed: a datagram is moved several times on its way, and its packet is large.
type Packets = Vec<Box<mmsg::Packet>>;

/// A bound datagram socket, and a pool of buffers for it.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: Socket,
    max_datagram: usize,
    kind: Kind,
    adopted: Option<Adopted>,
    bundling: Bundling,
    pool: Mutex<Packets>,
}

impl DatagramSocket {
    pub(crate) fn new(
        socket: Socket,
        max_datagram: usize,
        kind: Kind,
        whose: Whose,
    ) -> io::Result<Arc<Self>> {
        // Replies block for at most this long. Receiving never blocks (MSG_DONTWAIT).
        let adopted = match whose {
            Whose::Own => {
                socket.set_write_timeout(Some(SEND_TIMEOUT))?;
                None
            }
            Whose::Shared => {
                let adopted = Adopted {
                    process: std::process::id(),
                    send_timeout: Mutex::new(Some(SEND_TIMEOUT)),
                };
                adopted.set_timeout(&socket)?;
                Some(adopted)
            }
        };
        Ok(Arc::new(Self {
            socket,
            max_datagram,
            kind,
            adopted,
            bundling: Bundling::new(kind != Kind::Unix),
            pool: Mutex::default(),
        }))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::from_sock_addr(&self.socket.local_addr()?))
    }

    pub(crate) const fn is_shared(&self) -> bool {
        self.adopted.is_some()
    }

    /// Receives waiting datagrams, at most a batch.
    pub(crate) fn accept<T: 'static>(
        self: &Arc<Self>,
        batch: &mut AcceptBatch<'_, Packet<T>>,
    ) -> io::Result<()> {
        let want = batch.room().min(mmsg::BATCH_MAX);
        // The lock is free during the system call: other threads return buffers meanwhile.
        let mut packets = {
            let mut pool = self.pool();
            let kept = pool.len().saturating_sub(want);
            pool.split_off(kept)
        };
        packets.resize_with(want, || Box::new(mmsg::Packet::new(self.max_datagram)));
        let received = mmsg::receive(
            self.socket.as_fd(),
            &mut packets,
            self.kind == Kind::InetAny,
        );
        let count = *received.as_ref().unwrap_or(&0);
        self.pool().extend(packets.drain(count..));
        for packet in packets {
            let socket = Arc::clone(self);
            let packet = Some(packet);
            batch.push(|context| Packet {
                socket,
                packet,
                reply: Reply::None,
                header: Ok(None),
                context,
                transport: PhantomData,
            });
        }
        received.map(|_| ())
    }

    fn pool(&self) -> MutexGuard<'_, Packets> {
        // A vector is intact after a panic of its own methods, and no other code runs under this
        // lock.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a reply waits for room.
    fn room(&self) -> Room {
        if self.kind == Kind::Unix {
            Room::Need
        } else {
            Room::WaitFor
        }
    }

    /// Sends one datagram.
    fn send_one(&self, datagram: Outgoing<'_>, room: Room) -> io::Result<()> {
        let mut result = Ok(());
        let fd = self.socket.as_fd();
        mmsg::send(fd, &[datagram], room, &self.bundling, |_, err| {
            result = Err(err);
        });
        result
    }

    /// Sends a reply.
    pub(super) fn reply(&self, reply: Outgoing<'_>) -> io::Result<()> {
        let result = self.send_one(reply, self.room());
        result.or_else(|err| self.reply_from_anywhere(reply, err))
    }

    /// Sends a reply again that failed with `err`, this time without a source address, if that
    /// address was at fault: a broadcast or multicast datagram was sent to an address that no reply
    /// can have as its source.
    fn reply_from_anywhere(&self, reply: Outgoing<'_>, err: io::Error) -> io::Result<()> {
        let blamed = matches!(
            err.raw_os_error(),
            Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EINVAL)
        );
        if reply.from.is_none() || !blamed {
            return Err(self.reply_error(err));
        }
        let from_anywhere = Outgoing {
            from: None,
            ..reply
        };
        self.send_one(from_anywhere, self.room())
            .map_err(|err| self.reply_error(err))
    }

    /// Explains an error of sending to the sender of a datagram: a Unix socket is gone if its file
    /// is gone, or if no process has it open (unix(7)).
    fn reply_error(&self, err: io::Error) -> io::Error {
        match err.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) if self.kind == Kind::Unix => {
                Gone::because(err)
            }
            _ => send_error(err),
        }
    }

    /// Sends a datagram, and waits for room. The error is the kernel's own.
    fn send(self: &Arc<Self>, data: &[u8], to: &RawAddr, from: Option<IpAddr>) -> io::Result<()> {
        let send = || self.send_one(Outgoing { data, to, from }, Room::Need);
        if self.kind == Kind::Unix {
            return match send() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.send_offloaded(data, to)
                }
                sent => sent,
            };
        }
        let deadline = Instant::now() + SEND_TIMEOUT;
        complete_shared(
            self.as_fd(),
            Interest::Write,
            || Some(deadline),
            || send().map_err(errno),
        )
    }

    /// Sends to a Unix peer whose queue is full. Linux reports room only to a socket that is
    /// connected to the peer (`unix_dgram_poll` in net/unix/af_unix.c), so a thread blocks in
    /// sendmsg(2); for a coroutine, a helper thread.
    fn send_offloaded(self: &Arc<Self>, data: &[u8], to: &RawAddr) -> io::Result<()> {
        if let Some(adopted) = &self.adopted {
            // Another program that adopted the socket too may have ended and restored the timeout.
            adopted.set_timeout(&self.socket)?;
        }
        let (socket, data, to) = (Arc::clone(self), data.to_vec(), *to);
        offload(move || {
            let datagram = Outgoing {
                data: &data,
                to: &to,
                from: None,
            };
            socket.send_one(datagram, Room::WaitFor)
        })
    }
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        let Some(adopted) = &self.adopted else {
            return;
        };
        if adopted.process == std::process::id() {
            // setsockopt(2) accepts what it returned itself, and a drop has no way to report an
            // error.
            let _ = self.socket.set_write_timeout(*adopted.before());
        }
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A blocking socket returns `EAGAIN` only after SO_SNDTIMEO (socket(7)).
fn send_error(err: io::Error) -> io::Error {
    if err.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        err
    }
}

/// Why a sender cannot be answered, if its address shows that.
fn unanswerable(sender: &RawAddr) -> Option<io::Error> {
    let why = if sender.is_unnamed() {
        "the sender has no address to reply to (an unbound Unix socket)"
    } else if sender.has_no_port() {
        "the sender has no address to reply to (UDP source port 0)"
    } else {
        return None;
    };
    Some(io::Error::new(io::ErrorKind::NotConnected, why))
}

fn no_address() -> io::Error {
    let why = "cannot send a datagram to an address that is not a socket address";
    io::Error::new(io::ErrorKind::NotConnected, why)
}

impl<T> Packet<T> {
    fn received(&self) -> &mmsg::Packet {
        self.packet
            .as_ref()
            .expect("a datagram holds its packet until it is dropped")
    }

    /// The data, behind the header if there is one.
    fn data(&self) -> &[u8] {
        let len = match &self.header {
            Ok(Some(header)) => header.1,
            _ => 0,
        };
        self.received().data().get(len..).unwrap_or_default()
    }

    /// Takes a header off the data: `parse` gets the sender and all bytes, and returns the header with its length.
    pub(crate) fn take_header(
        &mut self,
        parse: impl FnOnce(&Address, &[u8]) -> Result<(Header, usize), Malformed>,
    ) {
        let parsed = parse(&self.sender(), self.received().data());
        self.header = parsed.map(|header| Some(Box::new(header)));
    }

    /// The address of the socket that has sent the datagram.
    fn sender(&self) -> Address {
        let sender = &self.received().sender;
        let inet = sender.inet().map(Address::Inet);
        inet.unwrap_or_else(|| Address::from_sock_addr(&sender.to_sock_addr()))
    }

    /// Returns the reply as the kernel takes it: `None` without a reply, an error if the sender has
    /// no address.
    fn outgoing(&self) -> Option<io::Result<Outgoing<'_>>> {
        let packet = self.received();
        let data = match &self.reply {
            Reply::None => return None,
            Reply::Echo => self.data(),
            Reply::Bytes(bytes) => bytes,
        };
        let to = &packet.sender;
        let reply = Outgoing {
            data,
            to,
            from: packet.local,
        };
        Some(unanswerable(to).map_or(Ok(reply), Err))
    }
}

impl<T: 'static> Accepted for Packet<T> {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        let client = self.proxy_header().and_then(Header::source);
        client.cloned().unwrap_or_else(|| self.sender())
    }

    fn via(&self) -> Option<Address> {
        self.proxy_header()?.source().map(|_| self.sender())
    }

    fn proxy_header(&self) -> Option<&Header> {
        let header = self.header.as_ref().ok()?.as_ref()?;
        Some(&header.0)
    }
}

impl<T: 'static> Managed for Packet<T> {
    fn admit(&self) -> io::Result<()> {
        let packet = self.received();
        if packet.is_truncated() {
            let (size, max) = (packet.size(), self.socket.max_datagram);
            let what = format!(
                "a datagram of {size} bytes was dropped: the longest that the listener receives has {max}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        match self.header {
            Ok(_) => Ok(()),
            Err(malformed) => Err(malformed.into()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        match self.outgoing() {
            Some(reply) => reply.and_then(|reply| self.socket.reply(reply)),
            None => Ok(()),
        }
    }

    fn ends_with_others(&self) -> bool {
        true
    }

    fn close_all(datagrams: &mut VecDeque<Self>, failed: &mut dyn FnMut(&dyn Accepted, io::Error)) {
        // Several sockets can feed one server.
        let same = |one: &Self, next: &Self| Arc::ptr_eq(&one.socket, &next.socket);
        for group in datagrams.make_contiguous().chunk_by_mut(same) {
            reply_to_all(group, failed);
        }
        datagrams.clear();
    }
}

/// Answers datagrams of one socket.
fn reply_to_all<T: 'static>(
    datagrams: &mut [Packet<T>],
    failed: &mut dyn FnMut(&dyn Accepted, io::Error),
) {
    let Some(first) = datagrams.first() else {
        return;
    };
    let socket = Arc::clone(&first.socket);
    {
        let mut answered = Vec::with_capacity(datagrams.len());
        let mut replies = Vec::with_capacity(datagrams.len());
        for datagram in &*datagrams {
            match datagram.outgoing() {
                Some(Ok(reply)) => {
                    replies.push(reply);
                    answered.push(datagram);
                }
                Some(Err(err)) => failed(datagram, err),
                None => {}
            }
        }
        let (fd, room) = (socket.as_fd(), socket.room());
        mmsg::send(fd, &replies, room, &socket.bundling, |index, err| {
            if let Err(err) = socket.reply_from_anywhere(replies[index], err) {
                failed(answered[index], err);
            }
        });
    }
    socket.pool().extend(
        datagrams
            .iter_mut()
            .filter_map(|datagram| datagram.packet.take()),
    );
}

impl<T: 'static> Datagram for Packet<T> {
    fn packet(&self) -> &[u8] {
        self.data()
    }

    fn set_reply(&mut self, reply: &[u8]) {
        self.reply = Reply::Bytes(reply.to_vec());
    }

    fn echo(&mut self) {
        self.reply = Reply::Echo;
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let packet = self.received();
        if let Some(err) = unanswerable(&packet.sender) {
            return Err(err);
        }
        self.socket
            .send(data, &packet.sender, packet.local)
            .map_err(|err| self.socket.reply_error(err))
    }

    fn replier(&self) -> io::Result<Replier> {
        let packet = self.received();
        if let Some(err) = unanswerable(&packet.sender) {
            return Err(err);
        }
        let socket = Arc::clone(&self.socket);
        Ok(Replier::new(
            socket,
            packet.sender,
            self.sender(),
            packet.local,
        ))
    }

    fn send_to(&mut self, data: &[u8], to: &Address) -> io::Result<()> {
        let to = RawAddr::from(to.to_sock_addr().ok_or_else(no_address)??);
        self.socket.send(data, &to, None).map_err(send_error)
    }
}

impl<T> Write for Packet<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.reply {
            Reply::Bytes(bytes) => bytes.extend_from_slice(buf),
            Reply::None => self.reply = Reply::Bytes(buf.to_vec()),
            Reply::Echo => {
                let mut bytes = self.data().to_vec();
                bytes.extend_from_slice(buf);
                self.reply = Reply::Bytes(bytes);
            }
        }
        Ok(buf.len())
    }

    /// Does nothing: the reply is one datagram, which is sent when the handler has returned.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let mut pool = self.socket.pool();
            if pool.len() < 2 * mmsg::BATCH_MAX {
                pool.push(packet);
            }
        }
    }
}

impl<T> fmt::Debug for Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("id", &self.context.id())
            .field("packet", &self.packet)
            .finish_non_exhaustive()
    }
}
