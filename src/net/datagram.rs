//! A datagram and its reply, of whatever transport: received in batches, answered in batches.

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
use crate::net::{AcceptBatch, Accepted, Datagram, Managed};
use crate::registry::context::Context;
use crate::sys::errno;
use crate::sys::mmsg::{self, Bundling, Outgoing, RawAddr, Room};
use crate::sys::poll::Interest;
use crate::task::offload;
use crate::task::wait::complete_shared;

/// The largest datagram that is received whole unless an option says otherwise: the most that IPv4
/// can carry.
pub(crate) const MAX_DATAGRAM: usize = 65_535;

/// How long a reply waits for room in the socket, or in the queue of a Unix peer, before it fails
/// with `TimedOut`.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A datagram that a transport `T` received.
///
/// Its methods are those of [`Datagram`] and [`Accepted`], and of [`Write`].
///
/// # Dropping
///
/// The server sends the reply when the handler has returned, also when it failed; a datagram that
/// is dropped without that is not answered.
pub struct Packet<T> {
    socket: Arc<DatagramSocket>,
    /// There from construction to drop.
    packet: Option<Box<mmsg::Packet>>,
    reply: Reply,
    context: Context,
    transport: PhantomData<fn() -> T>,
}

/// What a datagram is answered with.
enum Reply {
    None,
    /// The packet itself.
    Echo,
    Bytes(Vec<u8>),
}

/// What a datagram socket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP, bound to one address.
    Inet,
    /// UDP, bound to all addresses: the kernel says which one a packet was sent to.
    InetAny,
    /// A Unix socket. A reply does not wait for a peer that does not read: it would keep the others
    /// waiting.
    Unix,
}

/// Whether other programs have a datagram socket too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Own,
    /// It was adopted.
    Shared,
}

/// The send timeout that an adopted socket had, which is restored at the end: whoever passed it on
/// sees the same.
#[derive(Debug)]
struct Adopted {
    /// The process that adopted it; its forked children leave the timeout alone.
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

/// A bound datagram socket and the buffers of datagrams that are done.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    socket: Socket,
    max_datagram: usize,
    kind: Kind,
    adopted: Option<Adopted>,
    bundling: Bundling,
    spare: Mutex<Packets>,
}

impl DatagramSocket {
    pub(crate) fn new(
        socket: Socket,
        max_datagram: usize,
        kind: Kind,
        whose: Whose,
    ) -> io::Result<Arc<Self>> {
        // Replies block, within this bound; receiving never does (MSG_DONTWAIT).
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
            spare: Mutex::default(),
        }))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::from_sock_addr(&self.socket.local_addr()?))
    }

    pub(crate) const fn is_shared(&self) -> bool {
        self.adopted.is_some()
    }

    /// Takes what is waiting, at most a batch of it.
    pub(crate) fn accept<T: 'static>(
        self: &Arc<Self>,
        batch: &mut AcceptBatch<'_, Packet<T>>,
    ) -> io::Result<()> {
        let want = batch.room().min(mmsg::BATCH_MAX);
        // The lock is free again before the system call: other threads return buffers meanwhile.
        let mut packets = {
            let mut spare = self.spare();
            let kept = spare.len().saturating_sub(want);
            spare.split_off(kept)
        };
        packets.resize_with(want, || Box::new(mmsg::Packet::new(self.max_datagram)));
        let received = mmsg::receive(
            self.socket.as_fd(),
            &mut packets,
            self.kind == Kind::InetAny,
        );
        let count = *received.as_ref().unwrap_or(&0);
        self.spare().extend(packets.drain(count..));
        for packet in packets {
            let socket = Arc::clone(self);
            let packet = Some(packet);
            batch.push(|context| Packet {
                socket,
                packet,
                reply: Reply::None,
                context,
                transport: PhantomData,
            });
        }
        received.map(|_| ())
    }

    fn spare(&self) -> MutexGuard<'_, Packets> {
        // A vector is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a reply waits for room.
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
    fn reply(&self, reply: Outgoing<'_>) -> io::Result<()> {
        let result = self.send_one(reply, self.room());
        result.or_else(|err| self.reply_from_anywhere(reply, err))
    }

    /// Sends a reply that failed with `err` once more, if the address that it should leave from was
    /// at fault: a packet that was broadcast or multicast was sent to an address that nothing can
    /// leave from.
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

    /// What an error of sending to the sender of a datagram means: a Unix socket is gone when its
    /// file is, or when nobody has it open (unix(7)).
    fn reply_error(&self, err: io::Error) -> io::Error {
        match err.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) if self.kind == Kind::Unix => {
                Gone::because(err)
            }
            _ => send_error(err),
        }
    }

    /// Sends a datagram, and waits for room; the error is the kernel's own.
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

    /// Sends to a Unix peer whose queue is full. Linux tells of its room only a socket that is
    /// connected to it (`unix_dgram_poll` in net/unix/af_unix.c), so a thread blocks: in a coroutine, one
    /// of those for that.
    fn send_offloaded(self: &Arc<Self>, data: &[u8], to: &RawAddr) -> io::Result<()> {
        if let Some(adopted) = &self.adopted {
            // Another program that adopted it too may have ended meanwhile, and restored it.
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
            // setsockopt(2) does not fail for what it returned itself, and nobody is left to notify.
            let _ = self.socket.set_write_timeout(*adopted.before());
        }
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A blocking socket says `EAGAIN` only when SO_SNDTIMEO has passed (socket(7)).
fn send_error(err: io::Error) -> io::Error {
    if err.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut.into()
    } else {
        err
    }
}

/// Why a sender cannot be answered, if its address says so.
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
    let why = "a datagram cannot be sent to an address that is none of a socket";
    io::Error::new(io::ErrorKind::NotConnected, why)
}

impl<T> Packet<T> {
    fn received(&self) -> &mmsg::Packet {
        self.packet
            .as_ref()
            .expect("a datagram has its packet until it is dropped")
    }

    /// The reply as the kernel takes it; `None` if there is none, an error if it has no address to
    /// go to.
    fn outgoing(&self) -> Option<io::Result<Outgoing<'_>>> {
        let packet = self.received();
        let data = match &self.reply {
            Reply::None => return None,
            Reply::Echo => packet.data(),
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
        let sender = &self.received().sender;
        let inet = sender.inet().map(Address::Inet);
        inet.unwrap_or_else(|| Address::from_sock_addr(&sender.to_sock_addr()))
    }
}

impl<T: 'static> Managed for Packet<T> {
    fn admit(&self) -> io::Result<()> {
        let packet = self.received();
        if packet.is_truncated() {
            let (size, max) = (packet.size(), self.socket.max_datagram);
            let what = format!(
                "a datagram of {size} bytes, more than the max_datagram option allows ({max}), was dropped"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
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
        // Several sockets may feed one server.
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
    socket.spare().extend(
        datagrams
            .iter_mut()
            .filter_map(|datagram| datagram.packet.take()),
    );
}

impl<T: 'static> Datagram for Packet<T> {
    fn packet(&self) -> &[u8] {
        self.received().data()
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
                let mut bytes = self.received().data().to_vec();
                bytes.extend_from_slice(buf);
                self.reply = Reply::Bytes(bytes);
            }
        }
        Ok(buf.len())
    }

    /// Does nothing: the reply is one datagram, sent when the handler has returned.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let mut spare = self.socket.spare();
            if spare.len() < 2 * mmsg::BATCH_MAX {
                spare.push(packet);
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
