//! Parking: connections that wait for their client without a thread, because their handler has
//! returned `Next::Park`, or before their first byte.
//!
//! The thread that served a connection parks it. The accept loop takes the connection out when it
//! is readable, and dispatches it again. During a stop, connections stay parked until the idle
//! grace is over.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::admission::permits::Permits;
use crate::net::{Managed, Waits};
use crate::registry::table::Activity;
use crate::sys::clock::{Millis, TICK};
use crate::sys::poll;

/// How many connections are taken out at once.
const EVENTS: usize = 64;

/// The parked connections of one process.
pub(crate) struct Parking<R> {
    epoll: OwnedFd,
    state: Mutex<State<R>>,
    /// Whether `unwatched` holds any, for a look without the lock in each turn of the accept loop.
    has_unwatched: AtomicBool,
}

struct State<R> {
    /// Boxed, so that the spare capacity of the map is small.
    parked: HashMap<u64, Box<Parked<R>>>,
    /// The numbers of connections to dispatch: they have input, or a stop has ended them and their
    /// sessions are to finish. Some may have been taken out since.
    ready: Vec<u64>,
    /// The numbers of connections that the kernel has no room to watch. Some may have been taken out since.
    unwatched: BTreeSet<u64>,
    /// When handlers want to be called again although there is no input, with the numbers of their connections.
    alarms: BTreeSet<(Millis, u64)>,
    /// The alarm until which the accept loop waits.
    awaited: Option<Millis>,
    /// The idle grace of a stop is over.
    closed: bool,
}

/// A parked connection with its permit.
#[derive(Debug)]
pub(crate) struct Parked<R> {
    pub(crate) request: R,
    pub(crate) permits: Permits,
}

/// A connection that was taken out to be dispatched.
pub(crate) struct Ready<R> {
    pub(crate) parked: Parked<R>,
    /// Its alarm has come: the handler is to be called although there may be no input.
    pub(crate) is_due: bool,
}

/// Whether the accept loop must wait anew because of a connection that was parked: for its alarm, or to watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Anew,
    AsBefore,
}

/// A connection that was not parked, and why.
pub(crate) enum NotParked<R> {
    /// The connection has input already.
    Ready(R, Permits),
    /// The connection ends: it is a datagram, or the idle grace of a stop is over.
    Over(R, Permits),
    /// The connection could not be watched, or its output could not be sent.
    Failed(R, Permits, io::Error),
}

impl<R: Managed> State<R> {
    /// Takes out one connection, if it is parked here.
    fn take(&mut self, id: u64) -> Option<Parked<R>> {
        let parked = *self.parked.remove(&id)?;
        if let Some(alarm) = parked.request.context().session().alarm_at() {
            self.alarms.remove(&(alarm, id));
        }
        Some(parked)
    }
}

impl<R: Managed> Parking<R> {
    pub(crate) fn new() -> io::Result<Self> {
        let state = State {
            parked: HashMap::new(),
            ready: Vec::new(),
            unwatched: BTreeSet::new(),
            alarms: BTreeSet::new(),
            awaited: None,
            closed: false,
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            state: Mutex::new(state),
            has_unwatched: AtomicBool::new(false),
        })
    }

    /// Parks a connection. Where the kernel has no room to watch it, the accept loop does so later.
    pub(crate) fn park(&self, mut request: R, permits: Permits) -> Result<Wait, NotParked<R>> {
        // Sends buffered output, which may block, so the lock is not taken yet.
        if let Err(err) = request.wait() {
            return Err(NotParked::Failed(request, permits, err));
        }
        let id = request.id();
        // The check of deadlines finds the connection by its slot.
        let context = request.context();
        context.claim_slot(&request.peer());
        context.enter(Activity::Parked);
        // The lock keeps the accept loop from taking events, so the connection is in the map before
        // its event is seen.
        let mut state = self.state();
        if state.closed && !request.context().is_in_handshake() {
            let not_parked = if request.has_input() {
                NotParked::Ready
            } else {
                NotParked::Over
            };
            return Err(not_parked(request, permits));
        }
        let watched = match request.wait() {
            Ok(Waits::For(fd)) => match self.watch(fd, id) {
                Err(Errno::NOSPC | Errno::NOMEM) => Ok(Wait::Anew),
                watched => watched.map(|()| Wait::AsBefore).map_err(io::Error::from),
            },
            Ok(Waits::Ready) => return Err(NotParked::Ready(request, permits)),
            Ok(Waits::Never) => return Err(NotParked::Over(request, permits)),
            Err(err) => Err(err),
        };
        let wait = match watched {
            Ok(wait) => wait,
            Err(err) => return Err(NotParked::Failed(request, permits, err)),
        };
        if wait == Wait::Anew {
            state.unwatched.insert(id);
            self.has_unwatched.store(true, Relaxed);
        }
        let alarm = request.context().session().alarm_at();
        let parked = Parked { request, permits };
        state.parked.insert(id, Box::new(parked));
        let Some(alarm) = alarm else {
            return Ok(wait);
        };
        state.alarms.insert((alarm, id));
        if state.awaited.is_some_and(|awaited| awaited <= alarm) {
            return Ok(wait);
        }
        state.awaited = Some(alarm);
        Ok(Wait::Anew)
    }

    /// Watches the connections for which there was no room. Those that still cannot be watched become ready if they
    /// have input.
    pub(crate) fn watch_rest(&self) -> io::Result<()> {
        self.watch_again(&mut self.state())
    }

    fn watch_again(&self, state: &mut State<R>) -> io::Result<()> {
        let mut result = Ok(());
        for id in state.unwatched.clone() {
            if let Some(parked) = state.parked.get_mut(&id) {
                let is_ready = match parked.request.wait() {
                    Ok(Waits::For(fd)) => match self.watch(fd, id) {
                        Ok(()) => false,
                        Err(err) => {
                            result = Err(err.into());
                            if !poll::is_readable(&fd).unwrap_or(false) {
                                continue;
                            }
                            true
                        }
                    },
                    // Its handler sees what it is.
                    _ => true,
                };
                if is_ready {
                    state.ready.push(id);
                }
            }
            state.unwatched.remove(&id);
        }
        let rest = !state.unwatched.is_empty();
        self.has_unwatched.store(rest, Relaxed);
        result
    }

    /// Whether a connection is to be watched that could not be.
    pub(crate) fn has_unwatched(&self) -> bool {
        self.has_unwatched.load(Relaxed)
    }

    /// The time until the first alarm. The accept loop calls it before it waits, and is woken for an earlier one.
    pub(crate) fn next_alarm(&self) -> Option<Duration> {
        let state = &mut *self.state();
        state.awaited = state.alarms.first().map(|(alarm, _)| *alarm);
        let left = state.awaited?.since(Millis::now());
        // The clock lags behind by up to a tick.
        Some(Duration::from_millis(left + TICK))
    }

    /// Watches a descriptor for one event. It stays in the epoll instance until it is closed.
    fn watch(&self, fd: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        match epoll::add(&self.epoll, fd, EventData::new_u64(id), flags) {
            Err(Errno::EXIST) => epoll::modify(&self.epoll, fd, EventData::new_u64(id), flags),
            added => added,
        }
    }

    /// Takes out up to `max` connections that are ready to be dispatched.
    pub(crate) fn take_ready(&self, max: usize) -> Vec<Ready<R>> {
        let state = &mut *self.state();
        if state.ready.is_empty() {
            self.check(state, max);
        }
        let max = max.max(1);
        let count = state.ready.len().min(max);
        let ready: Vec<_> = state.ready.drain(..count).collect();
        let take = |(id, is_due)| {
            let parked = state.take(id)?;
            Some(Ready { parked, is_due })
        };
        let ready = ready.into_iter().map(|id| (id, false));
        let mut taken: Vec<_> = ready.filter_map(take).collect();
        let now = Millis::now();
        while let Some(&(alarm, id)) = state.alarms.first() {
            if alarm > now || taken.len() >= max {
                break;
            }
            let due = state.take(id);
            taken.extend(due.map(|parked| Ready {
                parked,
                is_due: true,
            }));
        }
        taken
    }

    /// Closes the parking when the idle grace is over: it parks no connection from now on, and
    /// returns those that have neither input nor a session. A connection with a session becomes
    /// ready, so that the session finishes in its model; one whose handshake goes on stays.
    pub(crate) fn close(&self) -> Vec<Parked<R>> {
        let state = &mut *self.state();
        if state.closed {
            // The connections that are left are ready to be dispatched, or in their handshake.
            return Vec::new();
        }
        state.closed = true;
        // Those that cannot be watched now are ready, or idle.
        let _ = self.watch_again(state);
        while self.check(state, EVENTS) > 0 {}
        let mut idle = take(&mut state.parked);
        state.alarms.clear();
        for id in &state.ready {
            state.parked.extend(idle.remove_entry(id));
        }
        let mut over = Vec::new();
        for (id, parked) in idle {
            if parked.request.context().is_in_handshake() {
                // Its client is to be served, so it stays until it has input, or its deadline.
                state.parked.insert(id, parked);
            } else if parked.request.context().session().end() {
                parked.request.context().end();
                state.ready.push(id);
                state.parked.insert(id, parked);
            } else {
                over.push(*parked);
            }
        }
        over
    }

    /// How many connections are parked.
    pub(crate) fn count(&self) -> usize {
        self.state().parked.len()
    }

    /// Whether connections are ready that [`take_ready`](Self::take_ready) has left.
    pub(crate) fn has_ready(&self) -> bool {
        !self.state().ready.is_empty()
    }

    /// Adds up to `max` connections with input to `ready`. Returns how many.
    fn check(&self, state: &mut State<R>, max: usize) -> usize {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = &mut events[..max.clamp(1, EVENTS)];
        // An error, which can only be EINTR, leaves the events for the next call.
        let found = epoll::wait(&self.epoll, events, Some(&Timespec::default()));
        let found = found.map_or(&[][..], |(events, _)| events);
        state
            .ready
            .extend(found.iter().map(|event| event.data.u64()));
        found.len()
    }

    /// Takes out one connection, if it is parked here.
    pub(crate) fn take(&self, id: u64) -> Option<Parked<R>> {
        self.state().take(id)
    }

    /// Takes out all connections.
    pub(crate) fn take_all(&self) -> Vec<Parked<R>> {
        let state = &mut *self.state();
        state.alarms.clear();
        let parked = take(&mut state.parked);
        parked.into_values().map(|parked| *parked).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // A panic leaves the collections whole, also one in the `wait` of a custom transport.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> AsFd for Parking<R> {
    /// Returns a descriptor that polls as readable while a parked connection has input.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl<R> fmt::Debug for Parking<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parking").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::address::Address;
    use crate::net::TcpConnection;
    use crate::registry::context::Abort;
    use crate::registry::table::Slot;

    /// Adds up the memory of a parked connection without a session, outside the kernel.
    #[test]
    fn a_parked_connection_is_small() {
        // A map may have twice the capacity that it needs, and a byte beside each entry.
        let entry = |size| 2 * (size + 1);
        let parts = [
            size_of::<Parked<TcpConnection>>(),
            entry(size_of::<(u64, Box<Parked<TcpConnection>>)>()),
            // The socket in its `Arc`: two counts, the peer, the turns of writers, the descriptor, a flag.
            2 * size_of::<usize>() + size_of::<Address>() + 16 + 2 * size_of::<u32>(),
            entry(size_of::<(u64, Weak<dyn Abort>)>()),
            size_of::<Slot>(),
        ];
        // Three allocations, each with a header.
        let sum = parts.iter().sum::<usize>() + 3 * size_of::<usize>();
        assert!(sum <= 512, "{sum}: {parts:?}");
    }
}
