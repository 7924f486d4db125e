//! What happens in a server, as typed events for logs, metrics and tests.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::State;
use crate::observe::hooks::{AcceptError, Failure, Stall};
use crate::registry::info::Traffic;
use crate::registry::table::AbortReason;

/// Told of everything that happens in a server; see [`Builder::observer`](crate::Builder::observer).
///
/// It is called where things happen: on the accepting thread, on those of handlers, and in the
/// processes of [`Forking`](crate::Forking) and [`Prefork`](crate::Prefork); the totals of the
/// [`ServerHandle`](crate::ServerHandle) are those of all processes. It should not wait: a request
/// waits meanwhile. A panic of it is contained.
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
    /// Called for each event.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Something that has happened in a server. Its text is one line.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was taken from a listener.
    Accepted {
        /// Its number.
        id: u64,
        /// Who sent it.
        peer: Address,
    },
    /// It was turned away, and is over.
    Refused {
        /// Its number.
        id: u64,
        /// Who sent it.
        peer: Address,
        /// Why.
        reason: RefuseReason,
    },
    /// Its handler is called: once, or each time that it comes back from being parked.
    Started {
        /// Its number.
        id: u64,
    },
    /// It waits for its client without a thread.
    Parked {
        /// Its number.
        id: u64,
    },
    /// It is over.
    Ended {
        /// Its number.
        id: u64,
        /// Who sent it.
        peer: Address,
        /// What went over the connection, and for how long; zero for a datagram.
        traffic: Traffic,
        /// How it ended.
        how: EndReason,
    },
    /// Its handler has failed, or its reply could not be delivered.
    Failed(&'a Failure<'a>),
    /// The acceptor has failed at something, and goes on. At most once a second.
    AcceptFailed(&'a AcceptError),
    /// A coroutine keeps its worker busy. Only with the hook
    /// [`on_stall`](crate::Builder::on_stall).
    Stalled(&'a Stall),
    /// A limit is reached: said when it becomes so.
    LimitReached(Limit),
    /// The server's state has changed, as this process sees it.
    State(State),
    /// A worker process was started.
    WorkerStarted {
        /// Its place among the workers, from 0.
        index: usize,
        /// Its process.
        pid: u32,
    },
    /// A worker process has ended.
    WorkerEnded {
        /// Its place among the workers, from 0.
        index: usize,
        /// Its process.
        pid: u32,
        /// With what.
        exit: String,
    },
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The `verify` hook said so.
    Verify,
    /// As many requests are live as may be.
    Limit,
    /// Its address has as many connections as it may.
    Address,
    /// It came faster than the rate.
    Rate,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Its handler has returned, or its client has left while it was parked.
    Completed,
    /// Its handler has failed, or its reply could not be delivered.
    Failed,
    /// The server has aborted it.
    Aborted(AbortReason),
}

/// A limit of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// `max_connections`.
    Connections,
    /// The descriptors of this process.
    Descriptors,
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { id, peer } => write!(f, "request {id} from {peer} accepted"),
            Self::Refused { id, peer, reason } => {
                write!(f, "request {id} from {peer} refused: {reason}")
            }
            Self::Started { id } => write!(f, "request {id} started"),
            Self::Parked { id } => write!(f, "request {id} parked"),
            Self::Ended {
                id,
                peer,
                traffic,
                how,
            } => write!(f, "request {id} from {peer} {how}: {traffic}"),
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
            Self::Address => "too many connections of its address",
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
