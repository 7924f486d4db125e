//! How many connections a server takes, and what becomes of the others.

use std::io;
use std::time::Duration;

/// The limits of a server, all of which can be changed while it serves:
/// [`ServerHandle::limits`](crate::ServerHandle::limits).
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
    /// How many requests may be live at once, in all threads and processes.
    pub max_connections: u64,
    /// How many connections one IPv4 address, or one IPv6 network of 64 bits, may have at once;
    /// `None`: as many as there may be. Further ones are refused: they cannot wait in the kernel,
    /// where they would be in the way of others. Connections that were there before the limit do not
    /// count. Datagrams do not count.
    pub per_address: Option<u64>,
    /// How fast new connections or datagrams are taken; `None`: as fast as they come.
    pub rate: Option<Rate>,
    /// What becomes of those that come beyond `max_connections` or `rate`.
    pub at_limit: AtLimit,
}

/// A rate of new connections: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

impl Rate {
    /// So many connections a second, and as many at once after a quiet second. At least one.
    #[must_use]
    pub fn per_second(connections: u32) -> Self {
        Self::per(connections, Duration::from_secs(1))
    }

    /// So many connections in each `period`, and as many at once after a quiet one. At least one.
    #[must_use]
    pub fn per(connections: u32, period: Duration) -> Self {
        let burst = connections.max(1);
        Self {
            interval: (period / burst).max(Duration::from_nanos(1)),
            burst,
        }
    }

    /// How many may come at once after a quiet time. At least one.
    #[must_use]
    pub fn burst(self, connections: u32) -> Self {
        Self {
            burst: connections.max(1),
            ..self
        }
    }
}

/// What becomes of a connection that comes at the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtLimit {
    /// It waits in the kernel's queue, as long as that has room.
    #[default]
    Wait,
    /// It is accepted and closed.
    Refuse,
    /// As `Refuse`, after these bytes, at most [`AtLimit::MESSAGE_MAX`]. A peer that is refused for
    /// its address gets them too. Datagrams get no answer.
    RefuseWith(Vec<u8>),
    /// The connection that has been idle for longest makes room: one that is parked, or else one
    /// whose handler has waited for a message, or read, in vain for a second at least. Without such,
    /// it waits.
    /// It may be in any process of the server.
    ShedOldestIdle,
}

impl AtLimit {
    /// How many bytes [`RefuseWith`](Self::RefuseWith) may have.
    pub const MESSAGE_MAX: usize = 256;
}

impl Limits {
    /// What is wrong with them, if anything is.
    pub(crate) fn check(&self, capacity: u64) -> io::Result<()> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if self.max_connections == 0 {
            return invalid("max_connections is 0".to_owned());
        }
        if self.max_connections > capacity {
            return invalid(format!(
                "max_connections is {}, and this server was built for {capacity} at most",
                self.max_connections
            ));
        }
        if self.per_address == Some(0) {
            return invalid("per_address is 0".to_owned());
        }
        match &self.at_limit {
            AtLimit::RefuseWith(message) if message.len() > AtLimit::MESSAGE_MAX => {
                invalid(format!(
                    "the message to those who are refused has {} bytes; {} are possible",
                    message.len(),
                    AtLimit::MESSAGE_MAX
                ))
            }
            _ => Ok(()),
        }
    }
}
