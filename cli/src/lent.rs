//! Datagram sockets that a program reads and writes itself: inetd's `wait`. A socket that has a datagram is lent to
//! one handler, and is not watched until that has returned.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SocketAddrAny, recv, recvfrom};
use socketserver::net::{
    Abort, AcceptBatch, Accepted, Address, Context, Managed, Transport, UnixAddress,
};

use crate::bind::Datagrams;

/// A datagram socket that is lent.
#[derive(Debug)]
pub(crate) struct LentSocket(Arc<Lending>);

#[derive(Debug)]
struct Lending {
    socket: Datagrams,
    /// An epoll instance that watches the socket for one datagram, while the socket is not lent.
    epoll: OwnedFd,
    /// How often in a row a datagram was unread.
    unread: AtomicU32,
}

/// A socket that is lent, because a datagram has come.
pub(crate) struct Lent {
    lending: Arc<Lending>,
    context: Context,
    first: Arc<First>,
}

/// The datagram for which the socket is lent. It stays in the socket.
#[derive(Debug, PartialEq)]
struct First {
    /// The beginning of its bytes.
    bytes: Vec<u8>,
    sender: Option<SocketAddrAny>,
}

/// How much of a datagram tells it from the next one.
const BEGINNING: usize = 256;

impl LentSocket {
    /// # Errors
    ///
    /// As epoll_create(2) and epoll_ctl(2).
    pub(crate) fn new(socket: Datagrams) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(0);
        epoll::add(&epoll, &socket, data, EventFlags::IN | EventFlags::ONESHOT)?;
        let unread = AtomicU32::new(0);
        Ok(Self(Arc::new(Lending {
            socket,
            epoll,
            unread,
        })))
    }
}

impl Lending {
    /// Watches the socket again.
    fn watch(&self) {
        let (data, flags) = (EventData::new_u64(0), EventFlags::IN | EventFlags::ONESHOT);
        // The registration exists, so that no memory is needed.
        let _ = epoll::modify(&self.epoll, &self.socket, data, flags);
    }

    /// Returns the first datagram, and leaves it in the socket. An error of the socket is dropped.
    fn first(&self) -> Option<First> {
        let mut bytes = vec![0; BEGINNING];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (count, _, sender) = recvfrom(&self.socket, &mut *bytes, flags).ok()?;
        bytes.truncate(count);
        Some(First { bytes, sender })
    }
}

impl AsFd for LentSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.epoll.as_fd()
    }
}

impl Transport for LentSocket {
    type Accepted = Lent;

    const SCHEME: &'static str = "lent";

    fn local_addr(&self) -> Address {
        self.0.socket.local_addr()
    }

    fn url(&self) -> String {
        self.0.socket.url()
    }

    fn is_adopted(&self) -> bool {
        self.0.socket.is_adopted()
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Lent>) -> io::Result<()> {
        let mut event = [const { MaybeUninit::<epoll::Event>::uninit() }; 1];
        let (events, _) = epoll::wait(&self.0.epoll, &mut event, Some(&Timespec::default()))?;
        if events.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(first) = self.0.first() else {
            self.0.watch();
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let (lending, first) = (Arc::clone(&self.0), Arc::new(first));
        batch.push(|mut context| {
            let abort: Weak<First> = Arc::downgrade(&first);
            context.register(abort);
            Lent {
                lending,
                context,
                first,
            }
        });
        Ok(())
    }
}

impl Abort for First {
    // The handler waits for its program alone, and an abort ends that wait.
    fn abort(&self) {}

    fn peer(&self) -> Address {
        let sender = self.sender.clone();
        let inet = sender.and_then(|sender| SocketAddr::try_from(sender).ok());
        inet.map_or(Address::Unix(UnixAddress::Unnamed), Address::Inet)
    }
}

impl Lent {
    /// The socket, in blocking mode.
    ///
    /// # Errors
    ///
    /// As ioctl(2) and setsockopt(2).
    pub(crate) fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        let socket = &self.lending.socket;
        ioctl_fionbio(socket, false)?;
        set_socket_timeout(socket, Timeout::Send, None)?;
        Ok(socket.as_fd())
    }

    /// How often in a row a datagram for which the socket was lent was still in it afterwards, this one included; 0 if
    /// this one is not, so that another one is first or none. An equal one of the same sender cannot be told from it.
    pub(crate) fn count_unread(&self) -> u32 {
        let is_unread = self.lending.first().as_ref() == Some(&*self.first);
        let before = self.lending.unread.load(Ordering::Relaxed);
        let count = if is_unread {
            before.saturating_add(1)
        } else {
            0
        };
        // One handler has the socket.
        self.lending.unread.store(count, Ordering::Relaxed);
        count
    }
}

impl Accepted for Lent {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        self.first.peer()
    }
}

impl Managed for Lent {
    fn refuse(&mut self) {
        // A datagram that stays in the socket would be refused again and again.
        let _ = recv(&self.lending.socket, &mut [0; 1], RecvFlags::DONTWAIT);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.lending.watch();
    }
}
