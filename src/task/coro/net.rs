//! Waits of coroutines for descriptors: an attempt first, then a wait for the edge that the driver reports. With
//! the io_uring driver, a receive waits for its completion instead.
#![expect(unsafe_code, reason = "the kernel borrows a buffer")]

use std::fmt;
use std::io;
use std::mem::{forget, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use rustix::net::{RecvFlags, recv};
use slab::Slab;

use crate::buffers;
use crate::sys::poll::Interest;
use crate::task::coro::driver::{Directions, Drive, Edge};
use crate::task::coro::uring::Lent;
use crate::task::coro::worker::{Current, TaskId, Wake, Worker, here};
use crate::task::wait::into_pooled;

/// The locations of a descriptor's states, one for each worker that has waited for it: the worker's number, from 1,
/// in the upper half, and the index in the lower half.
#[derive(Default)]
pub(crate) struct Place {
    /// On the first worker; zero until the first wait. Few descriptors have another.
    first: AtomicU64,
    more: OnceLock<Box<Mutex<Vec<u64>>>>,
}

fn lock(places: &Mutex<Vec<u64>>) -> MutexGuard<'_, Vec<u64>> {
    // A panic leaves the vector whole.
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Identifies the state of a descriptor on the current worker.
#[derive(Clone, Copy, Debug)]
struct Key {
    index: u32,
    generation: u32,
}

/// A worker's state of a descriptor.
#[derive(Debug)]
pub(crate) struct SourceState {
    generation: u32,
    hung_up: bool,
    /// The directions that the driver watches.
    watched: Directions,
    reading: Direction,
    writing: Direction,
}

/// One direction of a descriptor.
#[derive(Debug, Default)]
struct Direction {
    /// Whether an edge has come since the descriptor was last exhausted.
    ready: bool,
    first: Option<Waiter>,
    /// Further waiters.
    more: Vec<Waiter>,
}

/// A waiter for an edge.
#[derive(Debug)]
pub(crate) enum Waiter {
    Task(TaskId),
    /// Its call, clone and drop run foreign code, so none of them may happen while a part of the worker is
    /// borrowed.
    Waker(Waker),
}

/// The size of the stack buffer that the driver receives into while a connection has no buffer.
const STACK_BUFFER: usize = 512;

impl Waiter {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Task(one), Self::Task(other)) => one == other,
            (Self::Waker(one), Self::Waker(other)) => one.will_wake(other),
            _ => false,
        }
    }
}

impl Direction {
    /// Adds a waiter, or returns it if it is a waiter already.
    fn add(&mut self, waiter: Waiter) -> Option<Waiter> {
        if self.waiters().any(|other| other.is(&waiter)) {
            return Some(waiter);
        }
        match &mut self.first {
            first @ None => *first = Some(waiter),
            Some(_) => self.more.push(waiter),
        }
        None
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.first.iter().chain(&self.more)
    }

    fn remove_task(&mut self, id: TaskId) {
        let is_other = |waiter: &Waiter| !matches!(waiter, Waiter::Task(task) if *task == id);
        self.first = self.first.take().filter(is_other);
        self.more.retain(is_other);
    }

    /// Notes an edge, and calls `wake` for each waiter.
    fn update(&mut self, wake: &mut impl FnMut(Waiter)) {
        self.ready = true;
        self.first.take().into_iter().for_each(&mut *wake);
        self.more.drain(..).for_each(wake);
    }
}

impl SourceState {
    fn new(generation: u32) -> Self {
        Self {
            generation,
            hung_up: false,
            watched: Directions::default(),
            reading: Direction::default(),
            writing: Direction::default(),
        }
    }

    const fn token(&self, index: u32) -> u64 {
        (self.generation as u64) << 32 | index as u64
    }

    fn find(sources: &mut Slab<Self>, key: Key) -> Option<&mut Self> {
        let source = sources.get_mut(key.index as usize);
        source.filter(|source| source.generation == key.generation)
    }

    /// Removes the state of a descriptor; `end` unregisters the descriptor from the driver.
    pub(crate) fn remove(worker: &Worker, index: u32, end: impl FnOnce(&mut dyn Drive, u64)) {
        let removed = worker.sources.borrow_mut().try_remove(index as usize);
        if let Some(source) = &removed {
            if source.watched != Directions::default() {
                end(&mut **worker.driver.borrow_mut(), source.token(index));
            }
        }
        // Dropping a waker runs foreign code, so nothing may be borrowed.
        drop(removed);
    }

    /// Notes an edge, and calls `wake` for each waiter.
    pub(crate) fn update(sources: &mut Slab<Self>, edge: Edge, mut wake: impl FnMut(Waiter)) {
        let (index, generation) = (edge.token as u32, (edge.token >> 32) as u32);
        let Some(source) = Self::find(sources, Key { index, generation }) else {
            return;
        };
        source.hung_up |= edge.hung_up;
        if edge.last {
            source.watched = Directions::default();
        }
        if edge.readable {
            source.reading.update(&mut wake);
        }
        if edge.writable {
            source.writing.update(&mut wake);
        }
    }

    const fn direction(&mut self, interest: Interest) -> &mut Direction {
        match interest {
            Interest::Read => &mut self.reading,
            Interest::Write => &mut self.writing,
        }
    }
}

impl Place {
    /// Receives into `buf` from a socket in blocking mode; waits for input.
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
            // A short count means that the socket is exhausted (epoll(7), question 9).
            Ok((count, count < len))
        };
        self.complete(current, fd, Interest::Read, deadline, attempt)
    }

    /// Receives into a buffer that it takes from the pool once there is input.
    pub(crate) fn receive_late(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        deadline: impl Fn() -> Option<Instant>,
    ) -> io::Result<(Box<[u8]>, usize)> {
        if current.worker().driver.borrow().receives() {
            // During the wait the kernel borrows a part of the stack, which is resident in any case.
            let mut on_stack = [0; STACK_BUFFER];
            if let Some(received) = complete_receive(current, fd, &mut on_stack, deadline()) {
                let received = &on_stack[..received?];
                return Ok(into_pooled(fd, received, received.len() == STACK_BUFFER));
            }
        }
        self.complete(current, fd, Interest::Read, deadline, || {
            let mut buffer = buffers::take();
            match recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    let all = count < buffer.len();
                    Ok(((buffer, count), all))
                }
                Err(err) => {
                    buffers::give(buffer);
                    Err(err)
                }
            }
        })
    }

    /// Repeats `attempt`, which must not block, until it succeeds or fails with another error than `EAGAIN`.
    ///
    /// `attempt` also returns whether it has exhausted the descriptor: then the next read waits for an edge first.
    pub(crate) fn complete<R>(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        interest: Interest,
        deadline: impl Fn() -> Option<Instant>,
        mut attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
    ) -> io::Result<R> {
        // A write always attempts first, as the send buffer nearly always has room.
        if interest == Interest::Read && self.is_exhausted(current.worker()) {
            self.wait(current, fd, interest, deadline())?;
        }
        loop {
            match attempt() {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.exhaust(current.worker(), interest);
                    self.wait(current, fd, interest, deadline())?;
                }
                Err(err) => return Err(err.into()),
                Ok((result, all)) => {
                    if all {
                        self.exhaust(current.worker(), interest);
                    }
                    current.spend();
                    return Ok(result);
                }
            }
        }
    }

    /// Suspends the coroutine until an edge comes.
    pub(crate) fn wait(
        &self,
        current: &Current,
        fd: BorrowedFd<'_>,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let key = [(self.key(current.worker(), fd, interest)?, interest)];
        let waiting = Waiting::begin(current, &key);
        if waiting.is_ready(0) {
            return Ok(());
        }
        current.suspend(deadline).into_result(current)
    }

    /// Returns whether an edge has come since the descriptor was last exhausted; if not, wakes `waker` once one
    /// comes.
    ///
    /// # Errors
    ///
    /// `Unsupported`: the thread runs no worker.
    pub(crate) fn poll(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        let Some(worker) = here() else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        // Cloning and dropping a waker run foreign code, so both happen while nothing is borrowed.
        let mut waiter = Some(Waiter::Waker(waker.clone()));
        let key = self.key(&worker, fd, interest)?;
        let mut sources = worker.sources.borrow_mut();
        let Some(source) = SourceState::find(&mut sources, key) else {
            return Poll::Ready(Ok(()));
        };
        let direction = source.direction(interest);
        let ready = direction.ready;
        if !ready {
            waiter = waiter.and_then(|waiter| direction.add(waiter));
        }
        drop(sources);
        drop(waiter);
        if ready {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Returns the key on this worker, and lets its driver watch the direction if it does not yet.
    fn key(&self, worker: &Worker, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Key> {
        let mut sources = worker.sources.borrow_mut();
        let index = match self.index(worker) {
            Some(index) => index,
            None => {
                let entry = sources.vacant_entry();
                let index = u32::try_from(entry.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
                entry.insert(SourceState::new(worker.next_source()));
                self.add(u64::from(worker.id()) << 32 | u64::from(index));
                index
            }
        };
        let state = &mut sources[index as usize];
        let directions = state.watched.with(interest);
        if directions != state.watched {
            let token = state.token(index);
            let mut driver = worker.driver.borrow_mut();
            driver.watch(fd, token, directions, state.watched)?;
            state.watched = directions;
        }
        let generation = state.generation;
        Ok(Key { index, generation })
    }

    /// Returns the index of the state on this worker, if there is one.
    fn index(&self, worker: &Worker) -> Option<u32> {
        let is_here = |place: &u64| (place >> 32) as u32 == worker.id();
        let first = self.first.load(Ordering::Relaxed);
        let place = if first == 0 || is_here(&first) {
            Some(first).filter(is_here)
        } else {
            self.more()
                .and_then(|more| more.iter().copied().find(is_here))
        };
        place.map(|place| place as u32)
    }

    fn add(&self, place: u64) {
        let (free, relaxed) = (0, Ordering::Relaxed);
        if self
            .first
            .compare_exchange(free, place, relaxed, relaxed)
            .is_err()
        {
            let more = self.more.get_or_init(Box::default);
            lock(more).push(place);
        }
    }

    fn more(&self) -> Option<MutexGuard<'_, Vec<u64>>> {
        self.more.get().map(|more| lock(more))
    }

    /// Returns whether a read would certainly fail with `EAGAIN`.
    pub(crate) fn is_exhausted(&self, worker: &Worker) -> bool {
        let Some(index) = self.index(worker) else {
            return false;
        };
        let sources = worker.sources.borrow();
        let source = sources.get(index as usize);
        source.is_some_and(|source| !source.hung_up && !source.reading.ready)
    }

    /// Marks a direction as exhausted: the next wait is for a new edge.
    pub(crate) fn exhaust(&self, worker: &Worker, interest: Interest) {
        let Some(index) = self.index(worker) else {
            return;
        };
        if let Some(source) = worker.sources.borrow_mut().get_mut(index as usize) {
            source.direction(interest).ready = false;
        }
    }
}

/// Registers a coroutine as a waiter of descriptors, until this guard is dropped.
struct Waiting<'a> {
    current: &'a Current,
    keys: &'a [(Key, Interest)],
}

impl<'a> Waiting<'a> {
    fn begin(current: &'a Current, keys: &'a [(Key, Interest)]) -> Self {
        let waiting = Self { current, keys };
        waiting.each(|direction, id| drop(direction.add(Waiter::Task(id))));
        waiting
    }

    fn each(&self, mut then: impl FnMut(&mut Direction, TaskId)) {
        let mut sources = self.current.worker().sources.borrow_mut();
        for (key, interest) in self.keys {
            if let Some(source) = SourceState::find(&mut sources, *key) {
                then(source.direction(*interest), self.current.id());
            }
        }
    }

    /// Returns whether a descriptor is ready; also `true` if its state was removed.
    fn is_ready(&self, index: usize) -> bool {
        let (key, interest) = self.keys[index];
        let mut sources = self.current.worker().sources.borrow_mut();
        let source = SourceState::find(&mut sources, key);
        source.is_none_or(|source| source.direction(interest).ready)
    }

    fn ready(&self) -> Vec<usize> {
        let indices = 0..self.keys.len();
        indices.filter(|index| self.is_ready(*index)).collect()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.each(Direction::remove_task);
    }
}

/// Suspends the coroutine until an edge has come at one of several descriptors, and returns the indices of the
/// ready ones: none at the deadline, or after another wake-up. It suspends even if the worker has been cancelled.
///
/// A descriptor stays ready until it is [exhausted](Place::exhaust).
///
/// # Errors
///
/// A descriptor could not be watched; the coroutine was not suspended.
pub(crate) fn wait_any<'a>(
    current: &Current,
    sources: impl Iterator<Item = (&'a Place, BorrowedFd<'a>, Interest)>,
    deadline: Option<Instant>,
) -> io::Result<Vec<usize>> {
    let key = |(place, fd, interest): (&Place, _, _)| {
        let key = place.key(current.worker(), fd, interest)?;
        Ok((key, interest))
    };
    let keys = sources.map(key).collect::<io::Result<Vec<_>>>()?;
    let waiting = Waiting::begin(current, &keys);
    let ready = waiting.ready();
    if !ready.is_empty() {
        // A caller that always finds a ready descriptor must not starve the other coroutines.
        current.spend();
        return Ok(ready);
    }
    current.suspend_always(deadline);
    Ok(waiting.ready())
}

/// A duplicate of a descriptor, for a wait beside that of the owner: an epoll instance accepts each descriptor
/// only once.
pub(crate) struct Duplicate {
    place: Place,
    fd: OwnedFd,
}

impl Duplicate {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = fd.try_clone_to_owned()?;
        let place = Place::default();
        Ok(Self { place, fd })
    }

    /// Suspends the coroutine until an edge comes; if the descriptor is ready at first, that is an edge.
    pub(crate) fn wait(
        &self,
        current: &Current,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        self.place.exhaust(current.worker(), interest);
        self.place
            .wait(current, self.fd.as_fd(), interest, deadline)
    }
}

impl Drop for Duplicate {
    fn drop(&mut self) {
        // Closing the duplicate is not enough: it stays in the epoll instance while the original is open.
        self.place.release(self.fd.as_fd());
    }
}

impl Wake {
    fn into_result(self, current: &Current) -> io::Result<()> {
        match self {
            Self::Ready => Ok(()),
            Self::TimedOut => Err(io::ErrorKind::TimedOut.into()),
            Self::Cancelled => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                current.why_cancelled(),
            )),
        }
    }
}

/// Receives through the driver. Returns `None` if the driver cannot receive, or if the coroutine must not be
/// suspended.
fn complete_receive(
    current: &Current,
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    deadline: Option<Instant>,
) -> Option<io::Result<usize>> {
    if !current.may_suspend() {
        return None;
    }
    let worker = current.worker();
    let task = current.id().index();
    let until_completion = AbortOnUnwind;
    // SAFETY: this function returns only after the completion, and the guard ends the process if it would unwind
    // before. A suspended coroutine is not dropped while its driver may have an operation in flight (see
    // `Worker::run`). Until then the borrows `buf` and `fd` are held here, and no other code uses the buffer.
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
            woken = current.suspend(deadline);
            if woken != Wake::Ready {
                worker.driver.borrow_mut().cancel(task);
            }
        } else {
            // Only the completion ends this wait: until then the kernel may write into the buffer.
            current.suspend_uninterruptible();
        }
    };
    forget(until_completion);
    match usize::try_from(result) {
        // Received data counts, even after a deadline or an abort.
        Ok(count) => Some(Ok(count)),
        Err(_) => match -result {
            libc::ECANCELED => woken.into_result(current).err().map(Err),
            // The descriptor is in non-blocking mode, or a signal came: `complete` handles both.
            libc::EAGAIN | libc::EINTR => None,
            errno => Some(Err(io::Error::from_raw_os_error(errno))),
        },
    }
}

/// Ends the process if it is dropped, as by a panic: the kernel may still write into a buffer on the stack.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Place {
    /// Removes the descriptor from its workers, so that others can use it.
    pub(crate) fn release(&self, fd: BorrowedFd<'_>) {
        self.leave(|driver, token| driver.unwatch(fd, token));
    }

    /// Removes the states; `end` unregisters the descriptor from the driver of the current worker.
    fn leave(&self, end: impl FnOnce(&mut dyn Drive, u64)) {
        let (Some(worker), true) = (here(), self.first.load(Ordering::Relaxed) != 0) else {
            return;
        };
        let index = self.index(&worker);
        let first = self.first.swap(0, Ordering::Relaxed);
        let more = self.more().map(|mut more| take(&mut *more));
        for place in more.into_iter().flatten().chain([first]) {
            worker.send_forget((place >> 32) as u32, place as u32);
        }
        if let Some(index) = index {
            SourceState::remove(&worker, index, end);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(|driver, token| driver.forget(token));
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.first.load(Ordering::Relaxed);
        f.debug_struct("Place")
            .field("worker", &(place >> 32))
            .field("index", &(place as u32))
            .finish_non_exhaustive()
    }
}
