//! Connections that wait for their client without a thread: handlers that returned `Next::Park`.
//!
//! Whoever served a connection puts it here; the accept loop takes it out when it is readable and
//! sends it on its way again. In a stop they wait until the grace of idle connections is over.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::admission::permits::Permits;
use crate::net::{Managed, Waits};
use crate::registry::table::Activity;

/// How many connections are taken out at once.
const EVENTS: usize = 64;

/// The connections of one process that wait.
pub(crate) struct Parking<R> {
    epoll: OwnedFd,
    state: Mutex<State<R>>,
}

struct State<R> {
    /// Boxed, so that the room which the map keeps for more is small.
    parked: HashMap<u64, Box<Parked<R>>>,
    /// Those that go on: they have input, as far as it was looked for, or a stop has ended them and
    /// their sessions are to finish. Some may not be here any more.
    ready: Vec<u64>,
    /// The grace of a stop is over.
    closed: bool,
}

/// A connection, and its place under the limit.
#[derive(Debug)]
pub(crate) struct Parked<R> {
    pub(crate) request: R,
    pub(crate) permits: Permits,
}

/// Why a connection is not parked, and the connection.
pub(crate) enum Stays<R> {
    /// There is input already.
    Ready(R, Permits),
    /// It is over: it is no connection, or the grace of a stop is.
    Over(R, Permits),
    /// It could not be watched.
    Failed(R, Permits, io::Error),
}

impl<R: Managed> Parking<R> {
    pub(crate) fn new() -> io::Result<Self> {
        let state = State {
            parked: HashMap::new(),
            ready: Vec::new(),
            closed: false,
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            state: Mutex::new(state),
        })
    }

    /// Lets a connection wait.
    pub(crate) fn park(&self, mut request: R, permits: Permits) -> Result<(), Stays<R>> {
        // Sends what is buffered, which may take a while: before the lock is taken.
        if let Err(err) = request.wait() {
            return Err(Stays::Failed(request, permits, err));
        }
        let id = request.id();
        // Its deadlines are found in the list.
        let context = request.context();
        context.list_slot(&request.peer());
        context.enter(Activity::Parked);
        // While the lock is held nobody takes out what is ready: the connection is here before its
        // event is seen.
        let mut state = self.state();
        if state.closed {
            let stays = if request.has_input() {
                Stays::Ready
            } else {
                Stays::Over
            };
            return Err(stays(request, permits));
        }
        let watched = match request.wait() {
            Ok(Waits::For(fd)) => self.watch(fd, id),
            Ok(Waits::Ready) => return Err(Stays::Ready(request, permits)),
            Ok(Waits::Never) => return Err(Stays::Over(request, permits)),
            Err(err) => Err(err),
        };
        if let Err(err) = watched {
            return Err(Stays::Failed(request, permits, err));
        }
        let parked = Parked { request, permits };
        state.parked.insert(id, Box::new(parked));
        Ok(())
    }

    /// Reports the descriptor once when it is readable. It stays in the epoll instance until it is
    /// closed.
    fn watch(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        match epoll::add(&self.epoll, fd, EventData::new_u64(id), flags) {
            Err(rustix::io::Errno::EXIST) => Ok(epoll::modify(
                &self.epoll,
                fd,
                EventData::new_u64(id),
                flags,
            )?),
            added => Ok(added?),
        }
    }

    /// Takes out up to `max` connections that go on.
    pub(crate) fn take_ready(&self, max: usize) -> Vec<Parked<R>> {
        let state = &mut *self.state();
        if state.ready.is_empty() {
            self.check(state, max);
        }
        let count = state.ready.len().min(max.max(1));
        let ready = state.ready.drain(..count);
        ready
            .filter_map(|id| state.parked.remove(&id).map(|parked| *parked))
            .collect()
    }

    /// Takes in no connection from now on, and takes out those that have neither input nor a session.
    /// A session has to finish in its model: it goes on as if there were input.
    pub(crate) fn close(&self) -> Vec<Parked<R>> {
        let state = &mut *self.state();
        if state.closed {
            // What is still here goes on.
            return Vec::new();
        }
        state.closed = true;
        while self.check(state, EVENTS) > 0 {}
        let mut idle = take(&mut state.parked);
        for id in &state.ready {
            state.parked.extend(idle.remove_entry(id));
        }
        let mut over = Vec::new();
        for (id, parked) in idle {
            if parked.request.context().session().end() {
                parked.request.context().end();
                state.ready.push(id);
                state.parked.insert(id, parked);
            } else {
                over.push(*parked);
            }
        }
        over
    }

    /// Whether connections go on that [`take_ready`](Self::take_ready) had no room for.
    pub(crate) fn has_ready(&self) -> bool {
        !self.state().ready.is_empty()
    }

    /// Notes which connections have input, up to `max` of them, and says how many.
    fn check(&self, state: &mut State<R>, max: usize) -> usize {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let events = &mut events[..max.clamp(1, EVENTS)];
        // An error (only EINTR is possible) leaves the events for the next call.
        let found = epoll::wait(&self.epoll, events, Some(&Timespec::default()));
        let found = found.map_or(&[][..], |(events, _)| events);
        state
            .ready
            .extend(found.iter().map(|event| event.data.u64()));
        found.len()
    }

    /// Takes out one connection, if it waits.
    pub(crate) fn take(&self, id: u64) -> Option<Parked<R>> {
        self.state().parked.remove(&id).map(|parked| *parked)
    }

    /// Takes out all connections.
    pub(crate) fn take_all(&self) -> Vec<Parked<R>> {
        let parked = take(&mut self.state().parked);
        parked.into_values().map(|parked| *parked).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // The collections are whole after any panic of their own methods; a panic of a request's
        // `wait` changes nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> AsFd for Parking<R> {
    /// Polls as readable while a connection has input.
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

    /// What a parked connection without a session takes, but for the kernel. With one it is the size
    /// of its state more.
    #[test]
    fn a_parked_connection_is_small() {
        // A map may have twice the room that it needs, and has a byte beside each entry.
        let entry = |size| 2 * (size + 1);
        let parts = [
            size_of::<Parked<TcpConnection>>(),
            entry(size_of::<(u64, Box<Parked<TcpConnection>>)>()),
            // Its socket, shared with who may abort it: the counts, the peer, the descriptor, a flag.
            2 * size_of::<usize>() + size_of::<Address>() + 2 * size_of::<u32>(),
            entry(size_of::<(u64, Weak<dyn Abort>)>()),
            size_of::<Slot>(),
        ];
        // Each of three allocations has a header.
        let sum = parts.iter().sum::<usize>() + 3 * size_of::<usize>();
        assert!(sum <= 512, "{sum}: {parts:?}");
    }
}
