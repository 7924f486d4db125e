//! Waits: this module alone knows whether its caller is a thread, which it blocks, or a coroutine, which it
//! suspends ([`Task`]).
//!
//! Waits for descriptors are here, all other waits in `caller`. An abort of the handler ends both: it shuts down
//! the socket of the handler's connection, and interrupts all other waits through the task's signal.
//!
//! [`Source::complete`] attempts an operation first and waits after `EAGAIN`; [`any`] and [`Wakeup::wait`] wait
//! for several descriptors at once. No Unix signal ends these waits (they repeat after `EINTR`); other errors of
//! poll(2) are returned.

mod caller;

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

use rustix::event::PollFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, recv};

use crate::buffers;
use crate::sys::poll::{Interest, poll};
use crate::sys::wakeup::{WakeupEvent, Watch, WokenBy};
#[cfg(feature = "coroutines")]
use crate::task::coro::net::{self, Duplicate, Place};
#[cfg(feature = "coroutines")]
use crate::task::coro::worker::{Current, current, here};
use crate::task::thread;
use crate::task::timeout::timeout;
use crate::task::wait::caller::{ABORTED, RecheckOnDrop, aborted, deadline_here, timed_out};
pub(crate) use crate::task::wait::caller::{
    Target, Task, beside, room_beside, uninterruptible, until,
};
use crate::task::watched;

/// The waits of a descriptor's owner. In a coroutine the descriptor stays registered with the worker's driver,
/// so that a wait takes no system call of its own. Threads and coroutines of several workers may use it, one
/// after the other.
#[derive(Debug, Default)]
pub(crate) struct Source {
    #[cfg(feature = "coroutines")]
    place: Place,
    /// The value of `SO_RCVTIMEO`, which threads use, in nanoseconds; zero for none.
    kernel_timeout: AtomicU64,
    /// Whether an abort of the handler ends the waits; else the abort shuts down the descriptor itself.
    watches_abort: bool,
}

impl Source {
    /// Returns the source of a descriptor that an abort of the handler does not shut down; the abort ends its
    /// waits instead.
    pub(crate) fn watching_abort() -> Self {
        Self {
            watches_abort: true,
            ..Self::default()
        }
    }

    /// Returns the coroutine that calls, prepared for a wait.
    #[cfg(feature = "coroutines")]
    fn current(&self) -> Option<Current> {
        current().inspect(|current| {
            if self.watches_abort {
                current.watch_abort();
            }
        })
    }

    /// Repeats `attempt`, which must not block, until it succeeds or fails with another error than `EAGAIN`.
    ///
    /// `attempt` also returns whether it has exhausted the descriptor; a coroutine then waits before its next
    /// attempt.
    ///
    /// # Errors
    ///
    /// - `TimedOut`: the deadline has passed, which is computed anew for each wait, or that of
    ///   [`timeout`](crate::task::timeout()).
    /// - `ConnectionAborted`: the coroutine's worker has been cancelled, or the handler was aborted and the
    ///   source [watches for that](Self::watching_abort).
    /// - Any other error of `attempt`.
    pub(crate) fn complete<R>(
        &self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        deadline: impl Fn() -> Option<Instant>,
        attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
    ) -> io::Result<R> {
        #[cfg(feature = "coroutines")]
        if let Some(current) = self.current() {
            return self
                .place
                .complete(&current, fd, interest, deadline, attempt);
        }
        complete_blocking(fd, interest, self.watches_abort, deadline, attempt)
    }

    /// Receives from a socket in blocking mode; waits for input, for `limit` at most.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete).
    pub(crate) fn receive(
        &self,
        fd: BorrowedFd<'_>,
        buf: &mut [u8],
        limit: Option<Duration>,
    ) -> io::Result<usize> {
        #[cfg(feature = "coroutines")]
        if let Some(current) = self.current() {
            return self.place.receive(&current, fd, buf, || after(limit));
        }
        self.receive_blocking(fd, limit, |flags| Ok(recv(fd, &mut *buf, flags)?.0))
    }

    /// As [`receive`](Self::receive), into a buffer that it takes from the pool once there is input.
    pub(crate) fn receive_pooled(
        &self,
        fd: BorrowedFd<'_>,
        limit: Option<Duration>,
    ) -> io::Result<(Box<[u8]>, usize)> {
        #[cfg(feature = "coroutines")]
        if let Some(current) = self.current() {
            return self.place.receive_late(&current, fd, || after(limit));
        }
        self.receive_pooled_blocking(fd, limit)
    }

    /// Its buffer is no part of the stack of a coroutine.
    #[inline(never)]
    fn receive_pooled_blocking(
        &self,
        fd: BorrowedFd<'_>,
        limit: Option<Duration>,
    ) -> io::Result<(Box<[u8]>, usize)> {
        self.receive_blocking(fd, limit, |flags| {
            let mut on_stack = [const { MaybeUninit::uninit() }; STACK_BUFFER];
            let ((received, room), _) = recv(fd, &mut on_stack, flags)?;
            Ok(into_pooled(fd, received, room.is_empty()))
        })
    }

    /// Blocks the thread until `receive`, which passes the flags on to recv(2), has received.
    fn receive_blocking<R>(
        &self,
        fd: BorrowedFd<'_>,
        limit: Option<Duration>,
        mut receive: impl FnMut(RecvFlags) -> rustix::io::Result<R>,
    ) -> io::Result<R> {
        if self.watches_abort || deadline_here().is_some() {
            let deadline = || after(limit);
            let attempt = || Ok((receive(RecvFlags::DONTWAIT)?, false));
            return complete_blocking(fd, Interest::Read, self.watches_abort, deadline, attempt);
        }
        self.keep_timeout(fd, limit)?;
        match receive(RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            // On a blocking socket, EAGAIN means that SO_RCVTIMEO has passed (socket(7)).
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            received => return Ok(received?),
        }
        // Another such call would have the whole limit, and signals that keep coming would make it endless.
        let end = after(limit);
        let attempt = || Ok((receive(RecvFlags::DONTWAIT)?, false));
        complete_blocking(fd, Interest::Read, false, || end, attempt)
    }

    /// Repeats `attempt`, which must not block, until it succeeds or fails with another error than `EAGAIN`; after
    /// that one, wakes `waker` once the descriptor is ready. `attempt` returns what it does for
    /// [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// - `Unsupported`: the caller is not within [`until`].
    /// - Any other error of `attempt`, or as epoll_ctl(2).
    pub(crate) fn poll_complete<R>(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Interest,
        mut attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
    ) -> Poll<io::Result<R>> {
        let task = Task::here();
        if !task.local().is_waiting() {
            // Another executor would not be woken.
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        if self.is_exhausted(interest) {
            ready!(self.poll(waker, fd, interest))?;
        }
        loop {
            match attempt() {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.exhaust(interest);
                    ready!(self.poll(waker, fd, interest))?;
                }
                Err(err) => return Poll::Ready(Err(err.into())),
                Ok((result, all)) => {
                    if all {
                        self.exhaust(interest);
                    }
                    // A future that always finds the descriptor ready must not starve the other coroutines.
                    task.spend();
                    return Poll::Ready(Ok(result));
                }
            }
        }
    }

    /// Returns whether a read would certainly fail with `EAGAIN`. A write always attempts first, as the send buffer
    /// nearly always has room.
    fn is_exhausted(&self, interest: Interest) -> bool {
        #[cfg(feature = "coroutines")]
        if let Some(worker) = here().filter(|_| interest == Interest::Read) {
            return self.place.is_exhausted(&worker);
        }
        #[cfg(not(feature = "coroutines"))]
        let _ = interest;
        false
    }

    /// Returns whether the descriptor may be ready; if not, wakes `waker` once it is. The caller has made an
    /// attempt, and has marked the descriptor as [exhausted](Self::exhaust).
    ///
    /// # Errors
    ///
    /// `Unsupported` outside of [`until`]; else as epoll_ctl(2).
    pub(crate) fn poll(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        self.poll_for(waker, fd, Some(interest))
    }

    /// As [`poll`](Self::poll), for a descriptor whose input has ended: wakes `waker` once it has failed, and in a
    /// coroutine after other edges too.
    pub(crate) fn poll_failure(&self, waker: &Waker, fd: BorrowedFd<'_>) -> Poll<io::Result<()>> {
        self.poll_for(waker, fd, None)
    }

    /// `interest`: `None` for a failure.
    fn poll_for(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Option<Interest>,
    ) -> Poll<io::Result<()>> {
        #[cfg(feature = "coroutines")]
        if here().is_some() {
            // An edge of a failure is one of input as well.
            let interest = interest.unwrap_or(Interest::Read);
            return self.place.poll(waker, fd, interest);
        }
        match Task::here().signal().0.target().thread() {
            Some(blocked) => watched::poll(waker, fd, interest, blocked),
            None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Sets `SO_RCVTIMEO` for a thread that receives; no system call if it is unchanged.
    fn keep_timeout(&self, fd: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<()> {
        let nanos = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let wanted = limit.map_or(0, nanos);
        if self.kernel_timeout.load(Ordering::Relaxed) != wanted {
            set_socket_timeout(fd, Timeout::Recv, limit)?;
            self.kernel_timeout.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Marks the descriptor as exhausted: the next wait is for a new event. Otherwise [`any`] reports it as ready
    /// again.
    pub(crate) fn exhaust(&self, interest: Interest) {
        #[cfg(feature = "coroutines")]
        if let Some(worker) = here() {
            self.place.exhaust(&worker, interest);
        }
        #[cfg(not(feature = "coroutines"))]
        let _ = interest;
    }

    /// Unregisters the descriptor from the worker's driver, so that it can be used on another worker, or be closed
    /// while other processes have it open.
    pub(crate) fn release(&self, fd: BorrowedFd<'_>) {
        #[cfg(feature = "coroutines")]
        self.place.release(fd);
        #[cfg(not(feature = "coroutines"))]
        let _ = fd;
    }
}

/// The size of the stack buffer that receives the first input of a thread.
const STACK_BUFFER: usize = 1024;

/// Copies what a buffer on the stack has received into one of the pool, and receives further input if the first
/// buffer was filled.
pub(super) fn into_pooled(fd: BorrowedFd<'_>, received: &[u8], filled: bool) -> (Box<[u8]>, usize) {
    let mut buffer = buffers::take();
    let count = received.len();
    buffer[..count].copy_from_slice(received);
    if !filled {
        return (buffer, count);
    }
    // The next receive reports the error again.
    let more = recv(fd, &mut buffer[count..], RecvFlags::DONTWAIT);
    (buffer, count + more.map_or(0, |(count, _)| count))
}

/// Runs `work`, which needs a deep stack and does not wait. A coroutine lends it the stack of the worker, so that its own
/// stays small.
#[cfg(feature = "tls")]
pub(crate) fn on_deep_stack<R>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        return current.on_worker_stack(work);
    }
    work()
}

/// Returns the deadline of a wait that begins now; `None` if it has no limit, or one that overflows the clock.
pub(crate) fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// As [`Source::complete`], for a descriptor without a source of the caller's: that of a connection that another
/// handler serves, or of a socket that many tasks send from.
///
/// # Errors
///
/// Also `EMFILE`: a coroutine waits with a duplicate of the descriptor.
pub(crate) fn complete_shared<R>(
    fd: BorrowedFd<'_>,
    interest: Interest,
    deadline: impl Fn() -> Option<Instant>,
    mut attempt: impl FnMut() -> rustix::io::Result<R>,
) -> io::Result<R> {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        current.watch_abort();
        let mut duplicate = None;
        return loop {
            match attempt() {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let duplicate = match &mut duplicate {
                        Some(duplicate) => duplicate,
                        none => none.insert(Duplicate::new(fd)?),
                    };
                    duplicate.wait(&current, interest, deadline())?;
                }
                done => break Ok(done?),
            }
        };
    }
    complete_blocking(fd, interest, true, deadline, || {
        attempt().map(|result| (result, false))
    })
}

fn complete_blocking<R>(
    fd: BorrowedFd<'_>,
    interest: Interest,
    watches_abort: bool,
    deadline: impl Fn() -> Option<Instant>,
    mut attempt: impl FnMut() -> rustix::io::Result<(R, bool)>,
) -> io::Result<R> {
    loop {
        match attempt() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => block_for(fd, interest, watches_abort, deadline())?,
            done => return Ok(done?.0),
        }
    }
}

/// Blocks the thread until a descriptor is ready; if `watches_abort`, also until an abort of the handler.
fn block_for(
    fd: BorrowedFd<'_>,
    interest: Interest,
    watches_abort: bool,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let task = Task::here();
    let local = task.local();
    let end = deadline.into_iter().chain(local.deadline()).min();
    let signal = &task.signal().0;
    let blocked = signal.target().thread();
    let Some(blocked) = blocked.filter(|_| watches_abort && local.is_handling()) else {
        let mut fds = [PollFd::from_borrowed_fd(fd, interest.into())];
        let ready = poll(&mut fds, end)? > 0;
        return ready.then_some(()).ok_or_else(timed_out);
    };
    let _recheck = RecheckOnDrop::new(local, signal);
    loop {
        signal.clear();
        if let Some(why) = local.watch_abort(signal) {
            return Err(aborted(why));
        }
        if thread::block_for(signal, blocked, fd, interest, end)? {
            return Ok(());
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(timed_out());
        }
    }
}

/// One of the descriptors of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited<'a> {
    fd: BorrowedFd<'a>,
    interest: Interest,
    /// The source, which only a coroutine uses.
    #[cfg_attr(
        not(feature = "coroutines"),
        expect(dead_code, reason = "threads use no source")
    )]
    source: Option<&'a Source>,
}

impl<'a> Awaited<'a> {
    /// Waits for input.
    pub(crate) const fn readable(fd: BorrowedFd<'a>, source: &'a Source) -> Self {
        Self {
            fd,
            interest: Interest::Read,
            source: Some(source),
        }
    }

    /// Waits until the process of a pidfd has ended. For threads only: a coroutine ignores it.
    pub(crate) const fn ended(pidfd: BorrowedFd<'a>) -> Self {
        Self {
            fd: pidfd,
            interest: Interest::Read,
            source: None,
        }
    }

    fn poll_fd(&self) -> PollFd<'a> {
        PollFd::from_borrowed_fd(self.fd, self.interest.into())
    }
}

/// The result of a wait.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    /// The indices of the ready descriptors: empty at the deadline, or after another wake-up of a coroutine.
    pub(crate) ready: Vec<usize>,
    /// Whether readiness is edge-triggered: a descriptor that is [exhausted](Source::exhaust) is not reported
    /// again until it has a new event. Otherwise it is level-triggered.
    pub(crate) by_edge: bool,
    /// The cause of the wake-up event, if it came.
    pub(crate) by: Option<WokenBy>,
    /// Why a descriptor could not be watched. Then all descriptors are reported as ready at once; the caller
    /// must [`pause`], or it would spin.
    pub(crate) unwatched: Option<io::Error>,
}

/// Waits until one of several descriptors is ready, or until `deadline`. A coroutine waits even if its worker has
/// been cancelled.
///
/// # Errors
///
/// As poll(2): the kernel has no memory for the wait.
pub(crate) fn any(fds: &[Awaited<'_>], deadline: Option<Instant>) -> io::Result<Woken> {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        debug_assert!(
            fds.iter().all(|awaited| awaited.source.is_some()),
            "only threads wait for processes"
        );
        let watched = fds.iter().filter_map(|awaited| {
            let source = awaited.source?;
            Some((&source.place, awaited.fd, awaited.interest))
        });
        let (ready, unwatched) = match net::wait_any(&current, watched, deadline) {
            Ok(ready) => (ready, None),
            Err(err) => ((0..fds.len()).collect(), Some(err)),
        };
        return Ok(Woken {
            ready,
            by_edge: true,
            by: None,
            unwatched,
        });
    }
    let mut polled: Vec<_> = fds.iter().map(Awaited::poll_fd).collect();
    poll(&mut polled, deadline)?;
    let ready = polled.iter().enumerate();
    let ready = ready.filter_map(|(index, fd)| (!fd.revents().is_empty()).then_some(index));
    Ok(Woken {
        ready: ready.collect(),
        by_edge: false,
        by: None,
        unwatched: None,
    })
}

/// One waiter's view of the server's wake-up event.
#[derive(Debug)]
pub(crate) struct Wakeup {
    source: Source,
    watch: Watch,
}

impl Wakeup {
    /// Watches `wakeup_event` and, in a worker process, the pipe whose other end is open only in the parent.
    pub(crate) fn new(
        wakeup_event: &WakeupEvent,
        lifeline: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        Ok(Self {
            source: Source::default(),
            watch: Watch::new(wakeup_event, lifeline)?,
        })
    }

    /// As [`any`], also until the wake-up event comes, which it consumes.
    ///
    /// # Errors
    ///
    /// Also if the wake-up event cannot be consumed: the caller must [`pause`], or it would spin.
    pub(crate) fn wait<'a>(
        &'a self,
        mut fds: Vec<Awaited<'a>>,
        deadline: Option<Instant>,
    ) -> io::Result<Woken> {
        let own = fds.len();
        fds.push(Awaited::readable(self.watch.as_fd(), &self.source));
        let mut woken = any(&fds, deadline)?;
        if woken.ready.pop_if(|last| *last == own).is_some() {
            woken.by = Some(self.watch.take()?);
            self.source.exhaust(Interest::Read);
        }
        Ok(woken)
    }
}

/// Pauses for `time` before an operation is tried again that would fail at once.
pub(crate) fn pause(time: Duration) {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        // Even if the worker has been cancelled; an early wake-up is harmless.
        current.suspend_always(Instant::now().checked_add(time));
        return;
    }
    block(time);
}

/// Blocks the thread without poll(2), which may be what fails.
#[expect(clippy::disallowed_methods, reason = "no event ends this wait")]
fn block(time: Duration) {
    std::thread::sleep(time);
}

/// Returns whether a wait can wait: not in a coroutine that is cancelled, aborted or unwinding.
pub(crate) fn can_wait() -> bool {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        return current.may_suspend();
    }
    true
}

/// Waits for `time`.
///
/// It suspends the coroutine that calls, or blocks the thread where there is no coroutine. It ends early at the
/// deadline of a [`timeout`](crate::task::timeout()).
///
/// When the connection of the handler is aborted (see [the module](crate::task#aborts)), `sleep` unwinds the
/// handler, as a panic does but without a message, so that destructors run. In a program built with
/// `panic = "abort"`, and while a panic unwinds, it returns at once instead.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// socketserver::task::sleep(Duration::from_millis(1));
/// ```
pub fn sleep(time: Duration) {
    if time.is_zero() {
        return yield_now();
    }
    let waited = timeout(time, || until(|_| Poll::<Infallible>::Pending));
    if waited.is_err_and(|err| err.kind() == io::ErrorKind::ConnectionAborted) {
        unwind_handler();
    }
}

/// Unwinds a handler that was aborted, unless that would end the process.
pub(crate) fn unwind_handler() {
    if !cfg!(panic = "abort") && !std::thread::panicking() {
        let why = Task::here().why().unwrap_or(ABORTED);
        resume_unwind(Box::new(why));
    }
}

/// Lets the other coroutines of this worker run, or other threads where there is no coroutine.
///
/// Reads and writes yield from time to time by themselves; a handler that computes for long should call
/// `yield_now`.
///
/// # Examples
///
/// ```
/// for number in 0..1000_u32 {
///     if number % 100 == 0 {
///         socketserver::task::yield_now();
///     }
/// }
/// ```
pub fn yield_now() {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        return current.yield_now();
    }
    std::thread::yield_now();
}

/// Runs a call that blocks by other means than this crate's, without blocking the worker.
///
/// In a coroutine, `work` runs on one of up to 64 helper threads while the coroutine is suspended; further calls
/// wait for a free one. `work` runs on the calling thread where there is no coroutine, while a panic unwinds,
/// and if a new helper thread is needed and cannot be started.
///
/// A panic of `work` propagates to the caller. If the connection of the handler is aborted meanwhile, the
/// coroutine unwinds, as in [`sleep`], and the result is dropped once `work` returns; in a program built with
/// `panic = "abort"`, the coroutine waits for the result. A [`timeout`](crate::task::timeout()) does not end the
/// call.
///
/// # Examples
///
/// ```
/// let hosts = socketserver::task::offload(|| std::fs::read_to_string("/etc/hostname"));
/// ```
pub fn offload<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        return crate::task::coro::offload::offload(&current, work);
    }
    work()
}
