//! The io_uring driver: the kernel completes receives, a batch of them per system call; other waits are polls of
//! the same ring.
#![expect(
    unsafe_code,
    reason = "entries of the ring name buffers and descriptors"
)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use crate::task::coro::driver::{Directions, Drive, Edge, Event, Waker};

/// The size of the submission queue; the completion queue has four times as many entries. A full queue only costs
/// a further system call.
const ENTRIES: u32 = 1024;

/// The kind of a completion, in the two highest bits of its user data. Both are clear in the tokens of watched
/// descriptors (see [`Worker::next_source`](crate::task::coro::worker::Worker)).
const RECEIVE: u64 = 1 << 62;
const WAKE: u64 = 2 << 62;
/// The completion of a cancellation.
const CANCEL: u64 = 3 << 62;
const KINDS: u64 = 3 << 62;

/// `IORING_RECVSEND_POLL_FIRST`: waits before the first attempt, as input has rarely arrived by then.
const POLL_FIRST: u16 = 1;

/// The pause of a worker when the kernel has no memory for a submission.
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(1);

/// A descriptor and a buffer that the kernel borrows until the receive completes.
#[derive(Debug)]
pub(crate) struct Lent {
    fd: RawFd,
    buffer: *mut [u8],
}

impl Lent {
    /// Lends a descriptor and a buffer to a driver.
    ///
    /// # Safety
    ///
    /// If a driver accepts them, both stay valid, and no other code accesses the buffer, until the event of the
    /// receive has come.
    pub(crate) unsafe fn new(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Self {
        Self {
            fd: fd.as_raw_fd(),
            buffer,
        }
    }
}

pub(crate) struct Uring {
    ring: IoUring,
    waker: OwnedFd,
    /// The flags of io_uring_enter(2) for a wait.
    enter: EnterFlags,
}

impl Uring {
    pub(crate) fn new(waker: &Waker) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(4 * ENTRIES)
            .dontfork()
            .build(ENTRIES)?;
        check(&ring)?;
        // Without NO_IOWAIT, the kernel counts a waiting worker as waiting for a disk.
        let enter = if ring.params().is_feature_no_iowait() {
            EnterFlags::NO_IOWAIT
        } else {
            EnterFlags::empty()
        };
        let waker = waker.as_fd().try_clone_to_owned()?;
        let mut driver = Self { ring, waker, enter };
        driver.poll_waker()?;
        Ok(driver)
    }

    fn poll_waker(&mut self) -> io::Result<()> {
        let fd = self.waker.as_raw_fd();
        self.poll(fd, libc::POLLIN, WAKE)
    }

    /// Polls a descriptor until the poll is cancelled. Each edge is a completion.
    fn poll(&mut self, fd: RawFd, events: i16, data: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd), events as u32).multi(true);
        // SAFETY: a poll names no memory, and its descriptor is open now: the kernel looks it up at the
        // submission, which follows at once.
        unsafe { self.push(entry.build().user_data(data)) }?;
        self.submit()
    }

    /// Adds an entry to the submission queue.
    ///
    /// # Safety
    ///
    /// The memory and the descriptor that the entry names stay valid until its last completion.
    unsafe fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: as the caller promises.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Submits the queued entries.
    fn submit(&self) -> io::Result<()> {
        tolerate(self.ring.submit())
    }

    /// Submits the cancellation of a poll or a receive.
    fn end(&mut self, entry: squeue::Entry) {
        // SAFETY: a cancellation names neither memory nor a descriptor.
        let pushed = unsafe { self.push(entry.user_data(CANCEL)) };
        // If the submission fails, the entry stays in the queue for the next wait, which reports the error.
        let _ = pushed.and_then(|()| self.submit());
    }
}

impl Drive for Uring {
    fn watch(
        &mut self,
        fd: BorrowedFd<'_>,
        token: u64,
        directions: Directions,
        before: Directions,
    ) -> io::Result<()> {
        if before != Directions::default() {
            self.forget(token);
        }
        let mut events = libc::POLLRDHUP;
        if directions.read {
            events |= libc::POLLIN;
        }
        if directions.write {
            events |= libc::POLLOUT;
        }
        self.poll(fd.as_raw_fd(), events, token)
    }

    /// Cancels the poll at once: a poll keeps the socket open after its descriptor is closed. `IORING_OP_POLL_REMOVE`
    /// would fail with `EALREADY` while an event of the poll is in flight (`io_poll_disarm`).
    fn forget(&mut self, token: u64) {
        self.end(opcode::AsyncCancel::new(token).build());
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> io::Result<()> {
        let blocks = timeout != Some(Duration::ZERO) && self.ring.completion().is_empty();
        let submission = self.ring.submission();
        let has_work = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if blocks || has_work {
            let time = timeout.map(|time| {
                Timespec::new()
                    .sec(time.as_secs())
                    .nsec(time.subsec_nanos())
            });
            let args = time.as_ref().map_or_else(
                || SubmitArgs::new(),
                |time| SubmitArgs::new().timespec(time),
            );
            let submitter = self.ring.submitter();
            let want = usize::from(blocks);
            tolerate(submitter.submit_with_args_and_flags(want, &args, self.enter))?;
        }
        let mut waker_ended = false;
        for completion in self.ring.completion() {
            let (data, result) = (completion.user_data(), completion.result());
            match data & KINDS {
                RECEIVE => on_event(Event::Done {
                    task: data as u32,
                    result,
                }),
                WAKE => waker_ended |= !cqueue::more(completion.flags()),
                CANCEL => {}
                // The end of a cancelled poll.
                _ if result == -libc::ECANCELED => {}
                _ => on_event(Event::Edge(edge(data, result, completion.flags()))),
            }
        }
        if waker_ended {
            self.poll_waker()
        } else {
            Ok(())
        }
    }

    fn receives(&self) -> bool {
        true
    }

    fn receive(&mut self, into: Lent, task: u32) -> bool {
        let len = u32::try_from(into.buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(Fd(into.fd), into.buffer.cast(), len)
            .ioprio(POLL_FIRST)
            .build()
            .user_data(RECEIVE | u64::from(task));
        // SAFETY: the contract of `Lent::new` keeps the buffer and the descriptor valid until the completion.
        unsafe { self.push(entry) }.is_ok()
    }

    fn cancel(&mut self, task: u32) {
        self.end(opcode::AsyncCancel::new(RECEIVE | u64::from(task)).build());
    }
}

/// Returns the edge that a completion of a poll reports.
fn edge(token: u64, result: i32, flags: u32) -> Edge {
    // After a failed poll, the waiter's attempt returns the error.
    let events = u32::try_from(result).unwrap_or(libc::POLLERR as u32);
    let any = |mask: i16| events & mask as u32 != 0;
    let failed = any(libc::POLLERR | libc::POLLHUP);
    let hung_up = failed || any(libc::POLLRDHUP);
    Edge {
        token,
        readable: hung_up || any(libc::POLLIN),
        writable: failed || any(libc::POLLOUT),
        hung_up,
        last: !cqueue::more(flags),
    }
}

/// Ignores transient errors of io_uring_enter(2): the entries stay in the queue, and completions can be read.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    match entered.map_err(|err| (err.raw_os_error(), err)) {
        Ok(_) | Err((Some(libc::EINTR | libc::ETIME | libc::EBUSY), _)) => Ok(()),
        Err((Some(libc::EAGAIN | libc::ENOMEM), _)) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "no event reports that the kernel has memory again"
            )]
            std::thread::sleep(NO_MEMORY_PAUSE);
            Ok(())
        }
        Err((_, err)) => Err(err),
    }
}

/// Checks that the kernel has all features that this driver uses.
///
/// # Errors
///
/// - `PermissionDenied`: io_uring is disabled or filtered.
/// - `Unsupported`: the kernel has no io_uring, or lacks a feature of it.
/// - `InvalidInput`: the kernel is older than Linux 6.1.
pub(crate) fn available() -> io::Result<()> {
    let waker = Waker::new()?;
    Uring::new(&waker).map(drop).map_err(|err| {
        let why = match err.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "forbidden by kernel.io_uring_disabled or by a seccomp filter"
            }
            Some(libc::ENOSYS) => "not in this kernel",
            Some(libc::EINVAL) => "needs Linux 6.1",
            _ => return err,
        };
        io::Error::new(err.kind(), format!("{why} ({err})"))
    })
}

fn check(ring: &IoUring) -> io::Result<()> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::Unsupported, format!("has no {what}"));
    let params = ring.params();
    let features = [
        (params.is_feature_nodrop(), "NODROP"),
        (params.is_feature_ext_arg(), "EXT_ARG"),
        (params.is_feature_fast_poll(), "FAST_POLL"),
    ];
    if let Some((_, feature)) = features.iter().find(|(present, _)| !present) {
        return Err(missing(feature));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let operations = [
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ];
    let absent = operations
        .iter()
        .find(|(code, _)| !probe.is_supported(*code));
    absent.map_or(Ok(()), |(_, operation)| Err(missing(operation)))
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").finish_non_exhaustive()
    }
}
