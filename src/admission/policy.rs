//! The limits of a server, and the policy at a limit.

use std::io;
use std::time::Duration;

/// The limits of a server.
///
/// The [`Builder`](crate::Builder) sets them;
/// [`ServerHandle::set_limits`](crate::ServerHandle::set_limits) changes them while the server
/// serves.
///
/// # Examples
///
/// ```
/// use socketserver::limits::{AtLimit, Rate};
/// use socketserver::python::ThreadingTcpServer;
///
/// let guard = ThreadingTcpServer::bind("127.0.0.1:0")?.spawn(|_conn| ())?;
/// let mut limits = guard.handle().limits();
/// limits.max_connections = 100;
/// limits.per_address = Some(10);
/// limits.rate = Some(Rate::per_second(500));
/// limits.at_limit = AtLimit::RefuseWith(b"busy, try again later\n".to_vec());
/// guard.handle().set_limits(&limits).unwrap();
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many connections and datagrams may be live at once, in all threads and processes.
    pub max_connections: u64,
    /// How many connections one IPv4 address, or one IPv6 network of 64 bits, may have at once.
    /// `None`: no limit.
    ///
    /// Further connections are refused under every policy: queued, they would block other clients.
    /// Connections that were accepted before the limit was set do not count. Datagrams do not
    /// count.
    pub per_address: Option<u64>,
    /// How many connections one user may have at once, over all Unix stream and seqpacket sockets of the server.
    /// `None`: no limit.
    ///
    /// The user is that of the process which called connect(2) (unix(7), `SO_PEERCRED`). As for
    /// `per_address`, further connections are refused under every policy, and datagrams do not
    /// count.
    pub per_user: Option<u64>,
    /// How fast new connections or datagrams are accepted. `None`: no limit.
    pub rate: Option<Rate>,
    /// What happens to connections and datagrams beyond `max_connections` or `rate`.
    pub at_limit: AtLimit,
}

/// A rate of new connections or datagrams: a token bucket.
///
/// # Examples
///
/// On average 100 connections a second, with bursts of at most 20:
///
/// ```
/// use socketserver::limits::Rate;
/// use socketserver::{Server, Tcp};
///
/// let server = Server::<Tcp>::builder()
///     .rate(Rate::per_second(100).burst(20))
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

impl Rate {
    /// Allows `connections` a second, at least one; after a quiet second, as many at once.
    #[must_use]
    pub fn per_second(connections: u32) -> Self {
        Self::per(connections, Duration::from_secs(1))
    }

    /// Allows `connections` in each `period`, at least one; after a quiet period, as many at once.
    #[must_use]
    pub fn per(connections: u32, period: Duration) -> Self {
        let burst = connections.max(1);
        Self {
            interval: (period / burst).max(Duration::from_nanos(1)),
            burst,
        }
    }

    /// Sets how many connections may come at once after a quiet time, at least one.
    #[must_use]
    pub fn burst(self, connections: u32) -> Self {
        Self {
            burst: connections.max(1),
            ..self
        }
    }
}

/// The policy for a connection or datagram that comes at the limit.
///
/// # Examples
///
/// ```
/// use socketserver::limits::AtLimit;
/// use socketserver::{Server, Tcp};
///
/// let server = Server::<Tcp>::builder()
///     .max_connections(100)
///     .at_limit(AtLimit::RefuseWith(b"busy, try again later\n".to_vec()))
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtLimit {
    /// It waits in the backlog, as long as that has room.
    #[default]
    Wait,
    /// It is accepted and closed.
    Refuse,
    /// It is accepted, sent these bytes, at most [`AtLimit::MESSAGE_MAX`], and closed. A peer that
    /// is refused because its address or its user has its maximum gets them too. The sender of a datagram gets no answer.
    RefuseWith(Vec<u8>),
    /// The server aborts the connection that has been idle for longest, in any of its processes.
    ///
    /// It chooses among parked connections first; then among those whose handlers have waited in a
    /// read, or in [`next_message`](crate::Connection::next_message), for at least a second. If
    /// there is none, the new connection waits as under `Wait`.
    ShedOldestIdle,
}

impl AtLimit {
    /// The longest message of [`RefuseWith`](Self::RefuseWith), in bytes.
    pub const MESSAGE_MAX: usize = 256;
}

impl Limits {
    /// Returns an error if a limit is invalid.
    pub(crate) fn check(&self, capacity: u64) -> io::Result<()> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if self.max_connections == 0 {
            return invalid("max_connections is 0".to_owned());
        }
        if self.max_connections > capacity {
            return invalid(format!(
                "max_connections is {}, but this server was built for at most {capacity}",
                self.max_connections
            ));
        }
        if self.per_address == Some(0) {
            return invalid("per_address is 0".to_owned());
        }
        if self.per_user == Some(0) {
            return invalid("per_user is 0".to_owned());
        }
        match &self.at_limit {
            AtLimit::RefuseWith(message) if message.len() > AtLimit::MESSAGE_MAX => {
                invalid(format!(
                    "the refusal message has {} bytes, but at most {} are allowed",
                    message.len(),
                    AtLimit::MESSAGE_MAX
                ))
            }
            _ => Ok(()),
        }
    }
}
