//! Events of a server, typed, for logs, metrics and tests.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::State;
use crate::observe::hooks::{AcceptError, Failure, Stall};
use crate::registry::info::{Subject, Traffic};
use crate::registry::table::AbortReason;

/// Receives every event of a server; see [`Builder::observer`](crate::Builder::observer).
///
/// It runs where the event happens: on the accepting thread, on the threads of handlers, and in the
/// processes of [`Forking`](crate::Forking) and [`Prefork`](crate::Prefork). An observer sees the
/// events of its own process; [`ServerHandle::totals`](crate::ServerHandle::totals) counts those of
/// all. An observer should not block, because it delays the server. The server catches its panics.
///
/// # Examples
///
/// ```
/// use socketserver::observe::Event;
/// use socketserver::{Server, Tcp, Threading};
///
/// let server = Server::<Tcp, Threading>::builder()
///     .observer(|event: &Event<'_>| {
///         if let Event::Ended { peer, traffic, .. } = event {
///             println!("{peer} sent {} bytes", traffic.received);
///         }
///     })
///     .bind("127.0.0.1:0")?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Receives one event.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

/// An event of a server. `Display` prints one line.
///
/// # Examples
///
/// ```
/// use socketserver::observe::Event;
///
/// fn log(event: &Event<'_>) {
///     match event {
///         Event::Refused { peer, reason, .. } => println!("refused {peer}: {reason}"),
///         event => println!("{event}"),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A listener has yielded a connection or datagram.
    #[non_exhaustive]
    Accepted {
        /// Whether it is a connection or a datagram.
        subject: Subject,
        /// The number of the connection or datagram, unique within its server.
        id: u64,
        /// The address of the peer.
        peer: Address,
    },
    /// A [trusted proxy](crate::proxied) has sent its header, over a connection of which the address of the client
    /// was not known before.
    #[non_exhaustive]
    Proxied {
        /// Whether it is a connection or a datagram.
        subject: Subject,
        /// The number of the connection or datagram, unique within its server.
        id: u64,
        /// The address of the client; that of the proxy, if the header names no client.
        peer: Address,
        /// The address of the proxy, if the header names a client.
        via: Option<Address>,
    },
    /// The server has refused a connection or datagram, which is over.
    #[non_exhaustive]
    Refused {
        /// Whether it is a connection or a datagram.
        subject: Subject,
        /// The number of the connection or datagram, unique within its server.
        id: u64,
        /// The address of the peer.
        peer: Address,
        /// The check that refused it.
        reason: RefuseReason,
    },
    /// The handler is called: once for each connection or datagram, and again each time that a
    /// parked connection wakes.
    #[non_exhaustive]
    Started {
        /// Whether it is a connection or a datagram.
        subject: Subject,
        /// The number of the connection or datagram, unique within its server.
        id: u64,
    },
    /// A connection is parked: it waits for its client without a thread.
    #[non_exhaustive]
    Parked {
        /// A connection, unless a transport of your own parks something else.
        subject: Subject,
        /// The number of the connection, unique within its server.
        id: u64,
    },
    /// A connection or datagram is over.
    #[non_exhaustive]
    Ended {
        /// Whether it was a connection or a datagram.
        subject: Subject,
        /// The number of the connection or datagram, unique within its server.
        id: u64,
        /// The address of the peer.
        peer: Address,
        /// Bytes in both directions, and the age of the connection; zero for a datagram.
        traffic: Traffic,
        /// How it ended.
        how: EndReason,
    },
    /// A handler has failed, or a reply could not be delivered.
    Failed(&'a Failure<'a>),
    /// The server could not accept, or could not run the handler. Errors of system calls are
    /// reported at most once a second.
    AcceptFailed(&'a AcceptError),
    /// A coroutine keeps its worker busy. Emitted only with the hook
    /// [`on_stall`](crate::Builder::on_stall).
    Stalled(&'a Stall),
    /// The server has reached a limit. Emitted once, until the server is below the limit again.
    LimitReached(Limit),
    /// The server has entered a state, as this process sees it.
    State(State),
    /// A worker process has started.
    #[non_exhaustive]
    WorkerStarted {
        /// The index of the worker, from 0; its successor has the same.
        index: usize,
        /// The process id of the worker.
        pid: u32,
    },
    /// A worker process has ended.
    #[non_exhaustive]
    WorkerEnded {
        /// The index of the worker, from 0; its successor has the same.
        index: usize,
        /// The process id of the worker.
        pid: u32,
        /// The exit status or the signal, as text: `exit status 1`, `signal 9`.
        exit: String,
    },
}

/// Why a server refused a connection or datagram.
///
/// # Examples
///
/// ```
/// use socketserver::observe::RefuseReason;
///
/// assert_eq!(RefuseReason::Rate.to_string(), "too fast");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The `verify` hook returned `false`.
    Verify,
    /// `max_connections` are live.
    Limit,
    /// The access rules do not admit the peer: [`Access`](crate::access::Access).
    Access,
    /// The peer's address has its maximum of connections.
    Address,
    /// The peer's user has its maximum of connections.
    User,
    /// It exceeds the rate of new connections.
    Rate,
}

/// How a connection or datagram ended.
///
/// # Examples
///
/// ```
/// use socketserver::observe::{AbortReason, EndReason};
///
/// let end = EndReason::Aborted(AbortReason::Idle);
/// assert!(end.to_string().starts_with("was aborted"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The handler has returned, or the client has closed a parked connection.
    Completed,
    /// The handler has failed, or the reply could not be delivered.
    Failed,
    /// The server has aborted the connection.
    Aborted(AbortReason),
}

/// A limit that a server has reached.
///
/// # Examples
///
/// ```
/// use socketserver::observe::{Event, Limit};
///
/// fn is_full(event: &Event<'_>) -> bool {
///     matches!(event, Event::LimitReached(Limit::Connections))
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`max_connections`](crate::Builder::max_connections).
    Connections,
    /// The descriptors of this process (`RLIMIT_NOFILE`).
    Descriptors,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { subject, id, peer } => {
                write!(f, "{subject} {id} from {peer} accepted")
            }
            Self::Proxied {
                subject,
                id,
                peer,
                via,
            } => match via {
                Some(via) => write!(f, "{subject} {id} from {peer} came through {via}"),
                None => write!(f, "{subject} {id} from {peer} is the proxy's own"),
            },
            Self::Refused {
                subject,
                id,
                peer,
                reason,
            } => write!(f, "{subject} {id} from {peer} refused: {reason}"),
            Self::Started { subject, id } => write!(f, "{subject} {id} started"),
            Self::Parked { subject, id } => write!(f, "{subject} {id} parked"),
            Self::Ended {
                subject,
                id,
                peer,
                traffic,
                how,
            } => write!(f, "{subject} {id} from {peer} {how}: {traffic}"),
            Self::Failed(failure) => write!(f, "{failure}"),
            Self::AcceptFailed(err) => write!(f, "{err}"),
            Self::Stalled(stall) => write!(f, "{stall}"),
            Self::LimitReached(Limit::Connections) => {
                f.write_str("the limit on connections is reached")
            }
            Self::LimitReached(Limit::Descriptors) => {
                f.write_str("this process has no descriptors for more connections")
            }
            Self::State(state) => write!(f, "{state}"),
            Self::WorkerStarted { index, pid } => {
                write!(f, "worker {index} started as process {pid}")
            }
            Self::WorkerEnded { index, pid, exit } => {
                write!(f, "worker {index}, process {pid}, ended with {exit}")
            }
        }
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verify => "not verified",
            Self::Limit => "too many connections",
            Self::Access => "not allowed",
            Self::Address => "too many connections from its address",
            Self::User => "too many connections of its user",
            Self::Rate => "too fast",
        })
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Failed => f.write_str("failed"),
            Self::Aborted(reason) => write!(f, "was aborted ({})", reason.text()),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            sent,
            age,
        } = self;
        write!(
            f,
            "{received} bytes received, {sent} sent, {} ms",
            Duration::as_millis(age)
        )
    }
}
