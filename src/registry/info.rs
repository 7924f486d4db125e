//! The public view of the registry: what a handle shows of each connection.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::processes::SLOTS_OF_WORKER;
use crate::registry::table::{Activity, Slot};
use crate::sys::clock::Millis;

/// A live connection of a server, as
/// [`ServerHandle::connections`](crate::ServerHandle::connections) has found it. `Display` prints
/// one line.
///
/// # Examples
///
/// Aborts connections that have been open for an hour:
///
/// ```
/// use std::time::Duration;
/// use socketserver::ServerHandle;
///
/// fn abort_old(handle: &ServerHandle) {
///     for connection in handle.connections() {
///         if connection.age > Duration::from_secs(3600) {
///             handle.abort(connection.id);
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The number of the connection: [`Context::id`](crate::net::Context::id).
    pub id: u64,
    /// The address of the peer. [`UnixAddress::Unnamed`](crate::net::UnixAddress) for Unix sockets,
    /// and an empty [`Address::Named`] for custom transports.
    pub peer: Address,
    /// The time since the connection was accepted.
    pub age: Duration,
    /// What the connection does.
    pub activity: Activity,
    /// The time since the activity began.
    pub since: Duration,
    /// How many bytes the handler has received.
    pub received: u64,
    /// How many bytes the handler has sent.
    pub sent: u64,
    /// The index of the worker process that serves the connection, from 0, under
    /// [`Prefork`](crate::Prefork).
    pub worker: Option<u32>,
}

/// The subject of an event: a connection or a datagram. `Display` prints that word.
///
/// # Examples
///
/// ```
/// use socketserver::observe::Subject;
///
/// assert_eq!(Subject::Datagram.to_string(), "datagram");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a transport yields one or the other"
)]
pub enum Subject {
    /// A connection: its transport called [`Context::register`](crate::net::Context::register).
    Connection,
    /// A datagram, or whatever else a transport of your own yields.
    Datagram,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "connection",
            Self::Datagram => "datagram",
        })
    }
}

/// The traffic of a connection, in [`Event::Ended`](crate::observe::Event::Ended). All zero for
/// datagrams.
///
/// # Examples
///
/// ```
/// use socketserver::observe::Event;
/// use socketserver::{Server, Tcp};
///
/// let builder = Server::<Tcp>::builder().observer(|event: &Event<'_>| {
///     if let Event::Ended { id, traffic, .. } = event {
///         println!("{id}: {} bytes received, {} sent", traffic.received, traffic.sent);
///     }
/// });
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How many bytes the handler has received.
    pub received: u64,
    /// How many bytes the handler has sent.
    pub sent: u64,
    /// The time since the connection was accepted.
    pub age: Duration,
}

impl Traffic {
    pub(crate) fn of(slot: Option<&Slot>) -> Self {
        slot.map_or_else(Self::default, |slot| Self {
            received: slot.received(),
            sent: slot.sent(),
            age: Duration::from_millis(Millis::now().since(slot.accepted())),
        })
    }
}

impl ConnectionInfo {
    pub(super) fn of(slot: &Slot, now: Millis) -> Option<Self> {
        let id = slot.id();
        let (activity, since) = slot.shown();
        let info = Self {
            id,
            peer: slot.peer(),
            age: Duration::from_millis(now.since(slot.accepted())),
            activity,
            since: Duration::from_millis(now.since(since)),
            received: slot.received(),
            sent: slot.sent(),
            worker: slot
                .worker()
                .checked_sub(1)
                .map(|place| u32::from(place) / SLOTS_OF_WORKER as u32),
        };
        // Another connection may have claimed the slot meanwhile.
        (id != 0 && slot.id() == id).then_some(info)
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            peer,
            age,
            activity,
            since,
            received,
            sent,
            worker,
        } = self;
        let [age, since] = [age, since].map(|time| time.as_millis());
        write!(f, "{id} {peer} {age} ms old, {activity} for {since} ms, ")?;
        write!(f, "{received} bytes received, {sent} sent")?;
        match worker {
            Some(worker) => write!(f, ", worker {worker}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Reading => "reading",
            Self::Writing => "writing",
            Self::Idle => "idle",
            Self::Parked => "parked",
            Self::Queued => "queued",
            Self::Handshake => "shaking hands",
        })
    }
}
