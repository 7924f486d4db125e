//! Sending to the peer of a datagram after its handler has returned.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::Address;
use crate::net::datagram::DatagramSocket;
use crate::sys::mmsg::{Outgoing, RawAddr};

/// Sends datagrams to one peer, from the address to which that has sent: [`Datagram::replier`](crate::Datagram::replier).
///
/// It keeps the socket open, also after the server has ended. Two are equal if they send to the same peer from the same
/// address of the same listener.
///
/// # Examples
///
/// Answers each datagram a second later, from a thread of its own.
///
/// ```
/// use std::sync::mpsc;
/// use std::thread;
/// use std::time::Duration;
/// use socketserver::net::Replier;
/// use socketserver::{Datagram, Sequential, Server, Udp};
///
/// let (sender, late) = mpsc::channel::<(Replier, Vec<u8>)>();
/// thread::spawn(move || {
///     for (replier, bytes) in late {
///         thread::sleep(Duration::from_secs(1));
///         // The peer may be gone.
///         let _ = replier.send(&bytes);
///     }
/// });
/// let guard = Server::<Udp, Sequential>::bind("127.0.0.1:0")?.spawn(move |datagram| {
///     let bytes = datagram.packet().to_vec();
///     sender.send((datagram.replier()?, bytes)).map_err(std::io::Error::other)
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Replier {
    socket: Arc<DatagramSocket>,
    to: RawAddr,
    peer: Address,
    /// The local address of the datagram, on a socket that is bound to all.
    from: Option<IpAddr>,
}

impl Replier {
    pub(super) const fn new(
        socket: Arc<DatagramSocket>,
        to: RawAddr,
        peer: Address,
        from: Option<IpAddr>,
    ) -> Self {
        Self {
            socket,
            to,
            peer,
            from,
        }
    }

    /// Sends a datagram. Where the send buffer is full, it waits for room for a second at most on a UDP socket, and not
    /// at all on a Unix socket.
    ///
    /// # Errors
    ///
    /// - `NotFound` or `ConnectionRefused`: the peer's Unix socket is gone.
    /// - `TimedOut`: there is no room.
    /// - else as sendmsg(2).
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        let Self { to, from, .. } = self;
        self.socket.reply(Outgoing {
            data,
            to,
            from: *from,
        })
    }

    /// Returns the address that it sends to.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.peer
    }

    /// Returns the address that it sends from: where the datagram came to.
    ///
    /// # Errors
    ///
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<Address> {
        let bound = self.socket.local_addr()?;
        Ok(match (self.from, bound.socket_addr()) {
            (Some(ip), Some(bound)) => SocketAddr::new(ip, bound.port()).into(),
            _ => bound,
        })
    }
}

impl PartialEq for Replier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.socket, &other.socket)
            && self.peer == other.peer
            && self.from == other.from
    }
}

impl Eq for Replier {}

impl Hash for Replier {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.hash(state);
        self.from.hash(state);
    }
}

impl fmt::Debug for Replier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
