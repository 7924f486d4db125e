//! Waiting for descriptors in a coroutine: an attempt first, then the edge that epoll reports.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use slab::Slab;

use crate::coro::epoll::Event;
use crate::coro::worker::{Current, TaskId, Wake};

/// A descriptor's place in the epoll instance of the worker that it waits on. Empty until it first
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
    reader: Option<TaskId>,
    writer: Option<TaskId>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

impl SourceState {
    /// Notes an event, and returns who waited for it.
    pub(crate) fn update(sources: &mut Slab<Self>, event: Event) -> [Option<TaskId>; 2] {
        let (index, generation) = (event.token as u32, (event.token >> 32) as u32);
        let source = sources
            .get_mut(index as usize)
            .filter(|source| source.generation == generation);
        let Some(source) = source else {
            return [None, None];
        };
        source.readable |= event.readable;
        source.writable |= event.writable;
        source.hung_up |= event.hung_up;
        let reader = if event.readable {
            source.reader.take()
        } else {
            None
        };
        let writer = if event.writable {
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
        wait_any(current, &[(self, fd)], interest, deadline)
    }

    /// The key on this worker, after adding the descriptor to its epoll instance if need be.
    fn key(&self, current: &Current, fd: BorrowedFd<'_>) -> io::Result<SourceKey> {
        if let Some(key) = self.own_key(current) {
            return Ok(key);
        }
        let worker = current.worker();
        let mut sources = worker.sources.borrow_mut();
        let generation = worker.next_source();
        let entry = sources.vacant_entry();
        let index = u32::try_from(entry.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        worker
            .epoll
            .borrow()
            .add(fd, u64::from(generation) << 32 | u64::from(index))?;
        entry.insert(SourceState {
            generation,
            readable: false,
            writable: false,
            hung_up: false,
            reader: None,
            writer: None,
        });
        let key = SourceKey {
            worker: worker.id(),
            index,
        };
        self.0.set(Some(key));
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

/// Parks the coroutine until an edge comes at one of several descriptors.
///
/// # Errors
///
/// `TimedOut` at the deadline; `ConnectionAborted` when the worker ends what is left.
pub(crate) fn wait_any(
    current: &Current,
    sources: &[(&Source, BorrowedFd<'_>)],
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let worker = current.worker();
    let keys: Vec<_> = sources
        .iter()
        .map(|(source, fd)| source.key(current, fd.as_fd()))
        .collect::<io::Result<_>>()?;
    let mut ready = false;
    for key in &keys {
        let mut states = worker.sources.borrow_mut();
        let state = &mut states[key.index as usize];
        ready |= std::mem::take(state.ready(interest));
        *state.waiting(interest) = Some(current.id());
    }
    let woken = if ready {
        Wake::Ready
    } else {
        current.park(deadline)
    };
    for key in &keys {
        *worker.sources.borrow_mut()[key.index as usize].waiting(interest) = None;
    }
    match woken {
        Wake::Ready => Ok(()),
        Wake::TimedOut => Err(io::ErrorKind::TimedOut.into()),
        Wake::Cancelled => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the server has cut what was left",
        )),
    }
}

impl Source {
    /// Leaves the worker that runs here, so that the descriptor can wait elsewhere.
    pub(crate) fn release(&self, fd: BorrowedFd<'_>) {
        if let Some(key) = self.0.take() {
            key.with_worker(|worker| {
                worker.sources.borrow_mut().try_remove(key.index as usize);
                worker.epoll.borrow().remove(fd);
            });
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(key) = self.0.get() {
            key.with_worker(|worker| {
                let mut sources = worker.sources.borrow_mut();
                sources.try_remove(key.index as usize);
            });
        }
    }
}
