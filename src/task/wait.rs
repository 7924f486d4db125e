//! The one wait: the only place that knows whether its caller is a thread, which then blocks, or a
//! coroutine, which is suspended then ([`Task`]).
//!
//! A wait for a descriptor is here, one for anything else in `caller`. An abort of the handler's request ends
//! both: that of the connection itself because its socket is shut down, all others by the task's signal.
//!
//! Who expects to succeed attempts first and waits after `EAGAIN` ([`Source::complete`]); who waits for
//! one of several things waits for all of them at once ([`any`], [`Wakeup::wait`]). A signal ends none of
//! these waits, and what poll(2) fails with is their error.

mod caller;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
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
pub(crate) use crate::task::wait::caller::{Target, Task, beside, uninterruptible, until};
use crate::task::watched;

/// Where an owner waits for its descriptor, as often as it likes: in a coroutine the descriptor stays
/// with the driver of the worker, so that a wait takes no system call of its own. Threads and
/// coroutines of several workers may use it, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Source {
    #[cfg(feature = "coroutines")]
    place: Place,
    /// The receive timeout that the kernel has for threads, in nanoseconds; zero for none.
    kernel_timeout: AtomicU64,
    /// An abort of the handler's request does not reach the descriptor itself, and has to end the wait.
    watches_abort: bool,
}

impl Source {
    /// Of a descriptor that an abort of the handler's request leaves as it is: the waits for it end then.
    pub(crate) fn watching_abort() -> Self {
        Self {
            watches_abort: true,
            ..Self::default()
        }
    }

    /// The coroutine that calls, which is about to wait here.
    #[cfg(feature = "coroutines")]
    fn current(&self) -> Option<Current> {
        current().inspect(|current| {
            if self.watches_abort {
                current.watch_abort();
            }
        })
    }

    /// Repeats `attempt`, which must not block, until it has something else to say than `EAGAIN`.
    ///
    /// `attempt` also says whether it has taken all there was, which saves a coroutine the next one.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, which begins with each wait, and at that of [`timeout`](crate::task::timeout());
    /// `ConnectionAborted` in a coroutine whose worker ends what is left, and where the descriptor is
    /// [apart](Self::watching_abort) when the handler's request is aborted.
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

    /// Receives what is there from a socket in blocking mode; waits until something is, for `limit` at
    /// most.
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
        if self.watches_abort || deadline_here().is_some() {
            let attempt = || Ok((recv(fd, &mut *buf, RecvFlags::DONTWAIT)?.0, false));
            let deadline = || after(limit);
            return complete_blocking(fd, Interest::Read, self.watches_abort, deadline, attempt);
        }
        self.keep_timeout(fd, limit)?;
        loop {
            match recv(fd, &mut *buf, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                // A blocking socket says so only when SO_RCVTIMEO has passed (socket(7)).
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                received => return Ok(received?.0),
            }
        }
    }

    /// As [`receive`](Self::receive), into a buffer of the pool, which is taken only once there is input.
    pub(crate) fn receive_pooled(
        &self,
        fd: BorrowedFd<'_>,
        limit: Option<Duration>,
    ) -> io::Result<(Box<[u8]>, usize)> {
        #[cfg(feature = "coroutines")]
        if let Some(current) = self.current() {
            return self.place.receive_late(&current, fd, || after(limit));
        }
        let mut on_stack = [0; STACK_BUFFER];
        let count = self.receive(fd, &mut on_stack, limit)?;
        Ok(into_pooled(fd, &on_stack, count))
    }

    /// Whether the descriptor may be ready; where it is not, wakes `waker` once it is. The caller has tried,
    /// and has [said so](Self::exhaust).
    ///
    /// # Errors
    ///
    /// `Unsupported` on a thread that is in no [`until`]; else what epoll_ctl(2) fails with.
    #[cfg_attr(not(test), expect(dead_code, reason = "no connection is polled yet"))]
    pub(crate) fn poll(
        &self,
        waker: &Waker,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        #[cfg(feature = "coroutines")]
        if here().is_some() {
            return self.place.poll(waker, fd, interest);
        }
        match Task::here().signal().0.target().thread() {
            Some(blocked) => watched::poll(waker, fd, interest, blocked),
            None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Has the kernel keep the timeout of a thread that receives: a system call only where it changes.
    fn keep_timeout(&self, fd: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<()> {
        let nanos = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let wanted = limit.map_or(0, nanos);
        if self.kernel_timeout.load(Ordering::Relaxed) != wanted {
            set_socket_timeout(fd, Timeout::Recv, limit)?;
            self.kernel_timeout.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes that nothing is left of what [`any`] has reported: the next wait is for more. What is not
    /// noted is reported again.
    pub(crate) fn exhaust(&self, interest: Interest) {
        #[cfg(feature = "coroutines")]
        if let Some(worker) = here() {
            self.place.exhaust(&worker, interest);
        }
        #[cfg(not(feature = "coroutines"))]
        let _ = interest;
    }

    /// Leaves the worker, so that the descriptor can wait elsewhere, or be closed while other processes
    /// have it.
    pub(crate) fn release(&self, fd: BorrowedFd<'_>) {
        #[cfg(feature = "coroutines")]
        self.place.release(fd);
        #[cfg(not(feature = "coroutines"))]
        let _ = fd;
    }
}

/// What a thread that waits for input has room for on its stack.
const STACK_BUFFER: usize = 1024;

/// Moves what has landed in a smaller buffer into one of the pool, with what more there is.
pub(super) fn into_pooled(fd: BorrowedFd<'_>, on_stack: &[u8], count: usize) -> (Box<[u8]>, usize) {
    let mut buffer = buffers::take();
    buffer[..count].copy_from_slice(&on_stack[..count]);
    if count < on_stack.len() {
        return (buffer, count);
    }
    // There may be more. An error shows again when the next one is received.
    let more = recv(fd, &mut buffer[count..], RecvFlags::DONTWAIT);
    (buffer, count + more.map_or(0, |(count, _)| count))
}

/// The end of a wait that begins now; `None` where it has no limit, or one beyond the clock's reach.
pub(crate) fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// As [`Source::complete`], for a descriptor whose source is another's: of a connection that someone
/// else serves, or of a socket that many send from.
///
/// # Errors
///
/// Also `EMFILE` in a coroutine, which waits with a copy of the descriptor.
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

/// Blocks the thread until a descriptor is ready; where it is `watches_abort`, until an abort too.
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
    let _recheck = RecheckOnDrop::new(signal);
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

/// A descriptor that is waited for, among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited<'a> {
    fd: BorrowedFd<'a>,
    interest: Interest,
    /// What a coroutine needs.
    #[cfg_attr(
        not(feature = "coroutines"),
        expect(dead_code, reason = "threads do without")
    )]
    source: Option<&'a Source>,
}

impl<'a> Awaited<'a> {
    /// Waits until there is something to read.
    pub(crate) const fn readable(fd: BorrowedFd<'a>, source: &'a Source) -> Self {
        Self {
            fd,
            interest: Interest::Read,
            source: Some(source),
        }
    }

    /// Waits until the process of a pidfd has ended. For threads: a coroutine does not wait for it.
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

/// What a wait has found.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    /// The places of the descriptors that are ready: none at the deadline, or where something else has
    /// woken a coroutine.
    pub(crate) ready: Vec<usize>,
    /// They were reported as they became ready, and are not again once they are
    /// [exhausted](Source::exhaust); else it is their state that was asked for.
    pub(crate) by_edge: bool,
    /// What the wake-up event has said.
    pub(crate) by: Option<WokenBy>,
    /// Why something could not be watched: then all are said to be ready, at once, to be tried. Without a
    /// [`pause`] that would go on and on.
    pub(crate) unwatched: Option<io::Error>,
}

/// Waits until one of several descriptors is ready, or until `deadline`. In a coroutine it does so also
/// while the worker ends what is left.
///
/// # Errors
///
/// What poll(2) fails with: there is no memory to wait with.
pub(crate) fn any(fds: &[Awaited<'_>], deadline: Option<Instant>) -> io::Result<Woken> {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
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
    let ready = ready.filter_map(|(place, fd)| (!fd.revents().is_empty()).then_some(place));
    Ok(Woken {
        ready: ready.collect(),
        by_edge: false,
        by: None,
        unwatched: None,
    })
}

/// One waiter's view of the wake-up event that all of a server share.
#[derive(Debug)]
pub(crate) struct Wakeup {
    source: Source,
    watch: Watch,
}

impl Wakeup {
    /// Watches `wakeup_event` and, in a worker process, the pipe whose other end only the parent holds.
    pub(crate) fn new(
        wakeup_event: &WakeupEvent,
        lifeline: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        Ok(Self {
            source: Source::default(),
            watch: Watch::new(wakeup_event, lifeline)?,
        })
    }

    /// As [`any`], also until the wake-up event comes, which is taken.
    ///
    /// # Errors
    ///
    /// Also that the wake-up event cannot be taken: without a [`pause`] its waiter would spin.
    pub(crate) fn wait(&self, fds: &[Awaited<'_>], deadline: Option<Instant>) -> io::Result<Woken> {
        let mut all = Vec::with_capacity(1 + fds.len());
        all.push(Awaited::readable(self.watch.as_fd(), &self.source));
        all.extend(fds);
        let mut woken = any(&all, deadline)?;
        if woken.ready.first() == Some(&0) {
            woken.ready.remove(0);
            woken.by = Some(self.watch.take()?);
            self.source.exhaust(Interest::Read);
        }
        woken.ready.iter_mut().for_each(|place| *place -= 1);
        Ok(woken)
    }
}

/// Lets time pass where something that failed would fail again at once.
pub(crate) fn pause(time: Duration) {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        // Also while the worker ends what is left; and what wakes it early does no harm.
        current.suspend_always(Instant::now().checked_add(time));
        return;
    }
    block(time);
}

/// Blocks the thread, also where poll(2) fails.
#[expect(
    clippy::disallowed_methods,
    reason = "the end of a wait that has no event"
)]
fn block(time: Duration) {
    std::thread::sleep(time);
}

/// Whether a wait waits: not in a coroutine that is being ended.
pub(crate) fn can_wait() -> bool {
    #[cfg(feature = "coroutines")]
    if let Some(current) = current() {
        return current.may_suspend();
    }
    true
}

/// Waits for `time`: suspends the coroutine that calls, or blocks the thread where there is none. It ends
/// early at the deadline of a [`timeout`](crate::task::timeout()).
///
/// When the connection of its handler is aborted, or the server aborts what is left (see
/// [`Server`](crate::Server)), it unwinds the handler, as a panic does but without a message, so that its
/// destructors run. In a program where a panic ends the process, and while one unwinds, it returns at
/// once instead.
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

/// Unwinds the handler whose waits fail from now on, where that does no harm.
pub(crate) fn unwind_handler() {
    if !cfg!(panic = "abort") && !std::thread::panicking() {
        let why = Task::here().why().unwrap_or(ABORTED);
        resume_unwind(Box::new(why));
    }
}

/// Lets the other coroutines of this worker run, or the other threads where there is none.
///
/// Reading and writing do so now and then by themselves; a handler that computes for long should
/// call this.
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

/// Runs a call that blocks in another way than this crate's, without blocking the worker: in a
/// coroutine it runs on one of up to 64 helper threads while the coroutine waits; where there is no
/// coroutine, and while a panic unwinds, it runs right here.
///
/// A panic of `work` goes on in the caller. If the connection of the handler is aborted meanwhile, a
/// coroutine is unwound, as by [`sleep`], and the result of `work` is dropped when it is done; where a panic
/// ends the process, it waits for the result. A [`timeout`](crate::task::timeout()) does not end it.
///
/// # Errors
///
/// Returns what `work` returns. Where no helper thread can be started it runs right here, and
/// blocks the worker.
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
