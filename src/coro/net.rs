//! Waiting for descriptors in a coroutine: an attempt first, then the edge that the driver reports;
//! or, with a driver that receives, its completion.
#![expect(unsafe_code, reason = "the kernel is lent a buffer")]

use std::cell::Cell;
use std::io;
use std::mem::{forget, take};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::net::{RecvFlags, recv};
use slab::Slab;

use crate::coro::driver::{Directions, Drive, Edge};
use crate::coro::uring::Lent;
use crate::coro::worker::{Current, TaskId, Wake};
use crate::spare;

/// A descriptor's place in the driver of the worker that it waits on. Empty until it first
/// has to wait.
#[derive(Debug, Default)]
pub(crate) struct Source(Cell<Option<SourceKey>>);

/// Where the state of a source is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceKey {
    pub(crate) worker: u64,
    index: u32,
}

/// What a worker knows of a descriptor.
#[derive(Debug)]
pub(crate) struct SourceState {
    generation: u32,
    /// An edge has come since the last attempt that found nothing.
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// What the driver reports.
    watched: Directions,
    reader: Option<TaskId>,
    writer: Option<TaskId>,
}

/// What a driver that receives is lent while a connection has no buffer.
const LANDING: usize = 512;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

impl Directions {
    const fn with(self, interest: Interest) -> Self {
        match interest {
            Interest::Read => Self { read: true, ..self },
            Interest::Write => Self {
                write: true,
                ..self
            },
        }
    }
}

impl SourceState {
    const fn new(generation: u32) -> Self {
        Self {
            generation,
            readable: false,
            writable: false,
            hung_up: false,
            watched: Directions {
                read: false,
                write: false,
            },
            reader: None,
            writer: None,
        }
    }

    const fn token(&self, index: u32) -> u64 {
        (self.generation as u64) << 32 | index as u64
    }

    /// Notes an edge, and returns who waited for it.
    pub(crate) fn update(sources: &mut Slab<Self>, edge: Edge) -> [Option<TaskId>; 2] {
        let (index, generation) = (edge.token as u32, (edge.token >> 32) as u32);
        let source = sources
            .get_mut(index as usize)
            .filter(|source| source.generation == generation);
        let Some(source) = source else {
            return [None, None];
        };
        source.readable |= edge.readable;
        source.writable |= edge.writable;
        source.hung_up |= edge.hung_up;
        if edge.last {
            source.watched = Directions::default();
        }
        let reader = if edge.readable {
            source.reader.take()
        } else {
            None
        };
        let writer = if edge.writable {
            source.writer.take()
        } else {
            None
        };
        [reader, writer]
    }

    const fn ready(&mut self, interest: Interest) -> &mut bool {
        match interest {
            Interest::Read => &mut self.readable,
            Interest::Write => &mut self.writable,
        }
    }

    const fn waiting(&mut self, interest: Interest) -> &mut Option<TaskId> {
        match interest {
            Interest::Read => &mut self.reader,
            Interest::Write => &mut self.writer,
        }
    }
}

impl Source {
    /// Receives what is there into `buf`, waiting until something is, from a socket in blocking mode.
    pub(crate) fn receive(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        buf: &mut [u8],
        deadline: impl Fn() -> Option<Instant>,
    ) -> io::Result<usize> {
        if let Some(received) = complete_receive(current, fd, buf, deadline()) {
            return received;
        }
        let len = buf.len();
        let attempt = || {
            let (count, _) = recv(fd, &mut *buf, RecvFlags::DONTWAIT)?;
            // Less than there was room for is all there was (epoll(7), question 9).
            Ok((count, count < len))
        };
        self.complete(current, fd, Interest::Read, deadline, attempt)
    }

    /// Receives what is there into a spare buffer, which is taken only once something is.
    pub(crate) fn receive_late(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        deadline: impl Fn() -> Option<Instant>,
    ) -> io::Result<(Box<[u8]>, usize)> {
        // While it waits, the kernel has a part of the stack: that is resident anyway.
        let mut landing = [0; LANDING];
        if let Some(received) = complete_receive(current, fd, &mut landing, deadline()) {
            let count = received?;
            let mut buffer = spare::take();
            buffer[..count].copy_from_slice(&landing[..count]);
            if count < LANDING {
                return Ok((buffer, count));
            }
            // There may be more. An error shows again when the next one is received.
            let more = recv(fd, &mut buffer[count..], RecvFlags::DONTWAIT);
            return Ok((buffer, count + more.map_or(0, |(count, _)| count)));
        }
        self.complete(current, fd, Interest::Read, deadline, || {
            let mut buffer = spare::take();
            match recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    let all = count < buffer.len();
                    Ok(((buffer, count), all))
                }
                Err(err) => {
                    spare::give(buffer);
                    Err(err)
                }
            }
        })
    }

    /// Repeats `attempt`, which must not block, until it has something else to say than `EAGAIN`.
    ///
    /// `attempt` also says whether it has taken all there was: then the next one waits for an edge
    /// first.
    pub(crate) fn complete<R>(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        interest: Interest,
        deadline: impl Fn() -> Option<Instant>,
        mut attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
    ) -> io::Result<R> {
        // A write is tried first in any case: it finds room nearly always.
        if interest == Interest::Read && self.is_exhausted(current) {
            self.wait(current, fd, interest, deadline())?;
        }
        loop {
            match attempt() {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.exhaust(current, interest);
                    self.wait(current, fd, interest, deadline())?;
                }
                Err(err) => return Err(err.into()),
                Ok((result, all)) => {
                    if all {
                        self.exhaust(current, interest);
                    }
                    current.spend();
                    return Ok(result);
                }
            }
        }
    }

    /// Parks the coroutine until an edge comes.
    fn wait(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let key = self.key(current, fd, interest)?;
        wait_for(current, &[key], interest, || current.park(deadline)).map(drop)
    }

    /// The key on this worker, after having its driver watch the descriptor if need be.
    fn key(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> io::Result<SourceKey> {
        let worker = current.worker();
        let mut sources = worker.sources.borrow_mut();
        let key = match self.own_key(current) {
            Some(key) => key,
            None => {
                let generation = worker.next_source();
                let entry = sources.vacant_entry();
                let index = u32::try_from(entry.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
                entry.insert(SourceState::new(generation));
                let key = SourceKey {
                    worker: worker.id(),
                    index,
                };
                self.0.set(Some(key));
                key
            }
        };
        let state = &mut sources[key.index as usize];
        let directions = state.watched.with(interest);
        if directions != state.watched {
            let token = state.token(key.index);
            let mut driver = worker.driver.borrow_mut();
            driver.watch(fd, token, directions, state.watched)?;
            state.watched = directions;
        }
        Ok(key)
    }

    fn own_key(&self, current: &Current) -> Option<SourceKey> {
        self.0
            .get()
            .filter(|key| key.worker == current.worker().id())
    }

    /// Whether an attempt to read is known to find nothing.
    fn is_exhausted(&self, current: &Current) -> bool {
        let Some(key) = self.own_key(current) else {
            return false;
        };
        let sources = current.worker().sources.borrow();
        sources
            .get(key.index as usize)
            .is_some_and(|source| !source.hung_up && !source.readable)
    }

    fn exhaust(&self, current: &Current, interest: Interest) {
        let Some(key) = self.own_key(current) else {
            return;
        };
        let mut sources = current.worker().sources.borrow_mut();
        if let Some(source) = sources.get_mut(key.index as usize) {
            *source.ready(interest) = false;
        }
    }
}

/// Parks the coroutine until an edge comes at one of several descriptors, and says at which; also
/// once its worker ends what is left.
///
/// # Errors
///
/// `TimedOut` at the deadline; `ConnectionAborted` when the worker begins to end what is left.
pub(crate) fn wait_any(
    current: &Current,
    sources: &[(&Source, BorrowedFd<'_>)],
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<usize> {
    let keys: Vec<_> = sources
        .iter()
        .map(|(source, fd)| source.key(current, fd.as_fd(), interest))
        .collect::<io::Result<_>>()?;
    let woken = wait_for(current, &keys, interest, || current.park_always(deadline));
    // The caller looks at all of them now: what came before is no news the next time.
    for key in &keys {
        let state = &mut current.worker().sources.borrow_mut()[key.index as usize];
        *state.ready(interest) = false;
    }
    woken
}

fn wait_for(
    current: &Current,
    keys: &[SourceKey],
    interest: Interest,
    park: impl FnOnce() -> Wake,
) -> io::Result<usize> {
    let sources = &current.worker().sources;
    let mut ready = None;
    for (place, key) in keys.iter().enumerate() {
        let state = &mut sources.borrow_mut()[key.index as usize];
        if take(state.ready(interest)) {
            ready.get_or_insert(place);
        }
        *state.waiting(interest) = Some(current.id());
    }
    let woken = if ready.is_some() { Wake::Ready } else { park() };
    for (place, key) in keys.iter().enumerate() {
        let state = &mut sources.borrow_mut()[key.index as usize];
        *state.waiting(interest) = None;
        if *state.ready(interest) {
            ready.get_or_insert(place);
        }
    }
    // Something else than an edge may have woken it: then the first one will be found to be silent.
    woken.into_result().map(|()| ready.unwrap_or_default())
}

impl Wake {
    fn into_result(self) -> io::Result<()> {
        match self {
            Self::Ready => Ok(()),
            Self::TimedOut => Err(io::ErrorKind::TimedOut.into()),
            Self::Cancelled => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server has cut what was left",
            )),
        }
    }
}

/// Lets the driver receive. `None` where it does not, or where the coroutine must not park.
fn complete_receive(
    current: &Current,
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    deadline: Option<Instant>,
) -> Option<io::Result<usize>> {
    if !current.may_park() {
        return None;
    }
    let worker = current.worker();
    let task = current.id().index();
    let until_completion = AbortOnUnwind;
    // SAFETY: this function returns only after the completion, and does not unwind before it, which
    // the guard makes sure of; a coroutine that is parked is not dropped while its driver may have
    // something to tell it (see `Worker::run`). Until then nobody else has the buffer, and whoever
    // owns the descriptor has lent it.
    let lent = unsafe { Lent::new(fd, buf) };
    let begun = worker.driver.borrow_mut().receive(lent, task);
    if !begun {
        forget(until_completion);
        return None;
    }
    let mut woken = Wake::Ready;
    let result = loop {
        if let Some(result) = current.take_completion() {
            break result;
        }
        if woken == Wake::Ready {
            woken = current.park(deadline);
            if woken != Wake::Ready {
                worker.driver.borrow_mut().cancel(task);
            }
        } else {
            // Nothing but the completion ends this: the buffer is the kernel's.
            current.park_through();
        }
    };
    forget(until_completion);
    match usize::try_from(result) {
        // What has come counts, whatever happened meanwhile.
        Ok(count) => Some(Ok(count)),
        Err(_) => match -result {
            libc::ECANCELED => woken.into_result().err().map(Err),
            // The descriptor is not in blocking mode, or a signal came: the other way knows both.
            libc::EAGAIN | libc::EINTR => None,
            errno => Some(Err(io::Error::from_raw_os_error(errno))),
        },
    }
}

/// Ends the process if it is dropped, which a panic would do: the kernel writes into a buffer on a
/// stack that would be gone.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Source {
    /// Leaves the worker that runs here, so that the descriptor can wait elsewhere.
    pub(crate) fn release(&self, fd: BorrowedFd<'_>) {
        self.leave(|driver, token| driver.unwatch(fd, token));
    }

    /// Leaves the worker, if it is the one that runs here; `end` is what its driver is told.
    fn leave(&self, end: impl FnOnce(&mut dyn Drive, u64)) {
        let Some(key) = self.0.take() else { return };
        key.with_worker(|worker| {
            let removed = worker.sources.borrow_mut().try_remove(key.index as usize);
            if let Some(source) = removed.filter(|source| source.watched != Directions::default()) {
                end(&mut **worker.driver.borrow_mut(), source.token(key.index));
            }
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.leave(|driver, token| driver.forget(token));
    }
}
