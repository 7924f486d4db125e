//! A process for each connection or datagram.

use std::io;
use std::mem::{ManuallyDrop, forget};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};

use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Model, Serving};
use crate::accept::report::Report;
use crate::address::Address;
use crate::admission::permits::Permits;
use crate::buffers;
use crate::connection::life::{Job, Opening, Service, Tally};
use crate::connection::parking::{Parked, Parking};
use crate::counters::Ended;
use crate::error::{Error, HandlerError};
use crate::lifecycle::Idle;
use crate::model::serve_here;
use crate::model::watching::Watching;
use crate::net::{Accepted, Managed, Transport, Waits};
use crate::observe::hooks::{Failure, Step};
use crate::registry::context::Registered;
use crate::registry::info::Subject;
use crate::registry::table::{Activity, Slot};
use crate::registry::{Registry, SETTLE};
use crate::shared::Shared;
use crate::sys::child::{Child, Exit, Reach, is_shielded};
use crate::sys::fork::{Fork, end_with, exit, fork, guard, thread_count};
use crate::task::wait::{Awaited, Source, Task, Wakeup, after};

/// Runs the handler for each connection or datagram in a child process.
///
/// A handler changes only its own process's memory, and a crash ends only its own connection. The
/// child closes the listeners, runs the handler, and exits with 0, or with 1 if the handler failed;
/// any other end is reported to the error hook. The child runs no destructors of the parent's
/// values and no `atexit` handlers.
///
/// While [`max_children`](Self::max_children) run, the accept loop pauses and clients wait in the
/// backlog. If fork(2) fails, the connection waits and the model tries again. The model never reaps
/// children of other code.
///
/// The parent keeps deadlines and limits, so its children end with it: when it ends, the kernel
/// kills them (prctl(2), `PR_SET_PDEATHSIG`), unless the handler has changed its user or group.
///
/// # Errors
///
/// Serving fails with `Unsupported` in a process with several threads, whose forked children may
/// call only async-signal-safe functions (fork(2), signal-safety(7)). Serve from `main`, not with
/// `spawn`.
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::python::ForkingTcpServer;
///
/// ForkingTcpServer::bind("127.0.0.1:8080")?
///     .serve_forever(|conn| writeln!(conn, "served by process {}", std::process::id()))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Forking {
    max_children: usize,
    children: Vec<ActiveChild>,
    watching: Watching,
    /// The parent keeps a copy of each child's socket, because pidfd_getfd(2) may be forbidden.
    keeps_copies: bool,
}

/// A child, and the parent's record of what it serves.
#[derive(Debug)]
struct ActiveChild {
    child: Child,
    request: Forked,
}

#[derive(Debug)]
struct Forked {
    subject: Subject,
    id: u64,
    peer: Address,
    service: Arc<dyn Tally>,
    socket: Option<Reach>,
    registered: Option<Registered>,
    /// Returned when the child has ended.
    _permits: Permits,
}

impl Default for Forking {
    fn default() -> Self {
        Self {
            max_children: 40,
            children: Vec::new(),
            watching: Watching::default(),
            keeps_copies: false,
        }
    }
}

impl Clone for Forking {
    /// Clones the options; the clone forks children of its own.
    fn clone(&self) -> Self {
        Self {
            max_children: self.max_children,
            ..Self::default()
        }
    }
}

impl Forking {
    /// Sets the maximum number of children. Default: 40, as in Python. At least 1.
    pub fn max_children(mut self, children: usize) -> Self {
        self.max_children = children.max(1);
        self
    }
}

impl Model for Forking {
    const NAME: &'static str = "forking";

    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error> {
        serve_here(self, serving)
    }
}

impl Dispatch for Forking {
    fn start(&mut self, shared: &Shared) -> io::Result<()> {
        single_threaded()?;
        shared.lifecycle.processes().note_parent();
        shared.admission.share()?;
        // The children inherit these thread-locals. A child that allocated them itself would copy the
        // pages of the heap that the allocator touches.
        drop(Task::here());
        buffers::give(buffers::take());
        self.keeps_copies = is_shielded();
        Child::can_be_watched()
    }

    fn room(&self) -> usize {
        self.max_children - self.children.len()
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        while !batch.requests.is_empty() {
            // The connection stays in the batch until the fork has succeeded.
            let parent = getpid();
            let pid = match fork()? {
                Fork::Child => {
                    self.leave_sockets();
                    serve_and_exit(batch, serving, parent)
                }
                Fork::Parent(pid) => pid,
            };
            let Some(Job {
                request,
                service,
                permits,
            }) = batch.next_job(serving)
            else {
                break;
            };
            let id = request.id();
            let forked = Forked {
                subject: request.context().subject(),
                id,
                peer: request.peer(),
                socket: self.reach(&service.shared.registry, id),
                registered: request.context().hand_over(),
                service,
                _permits: permits,
            };
            // The child has its own copy. The parent closes this copy first: the pidfd may need the
            // descriptor.
            drop(request);
            self.children.push(ActiveChild {
                child: Child::adopt(pid),
                request: forked,
            });
        }
        Ok(())
    }

    fn watch<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        let pidfds = self
            .children
            .iter()
            .filter_map(|active| active.child.pidfd());
        fds.extend(pidfds);
    }

    fn reap(&mut self, ready: &[usize]) {
        if ready.is_empty() {
            return;
        }
        let is_watched = |index: &usize| self.children[*index].child.pidfd().is_some();
        let watched: Vec<_> = (0..self.children.len()).filter(is_watched).collect();
        for &place in ready.iter().rev() {
            self.reap_one(watched[place]);
        }
    }

    fn tend(&mut self) -> Result<(), (Step, io::Error)> {
        let is_unwatched = |active: &ActiveChild| active.child.pidfd().is_none();
        if !self.children.iter().any(is_unwatched) {
            return Ok(());
        }
        for index in (0..self.children.len()).rev() {
            if is_unwatched(&self.children[index]) {
                self.reap_one(index);
            }
        }
        let children = self.children.iter_mut().map(|active| &mut active.child);
        let watched = self.watching.retry(children, Instant::now());
        watched.map_err(|err| (Step::Watch, err))
    }

    fn tends_in(&self, now: Instant) -> Option<Duration> {
        self.watching.due(now)
    }

    fn abort(&mut self) {
        for active in &self.children {
            active.child.kill();
        }
    }

    fn has_child(&self, id: u64) -> bool {
        self.child_of(id).is_some()
    }

    fn abort_one(&mut self, id: u64) {
        if let Some(ActiveChild { child, request }) = self.child_of(id) {
            // The handler gets the reason as an error. If the system forbids pidfd_getfd(2), the
            // child is killed.
            if child.shut_down(request.socket.as_ref()).is_err() {
                child.kill();
            }
        }
    }

    fn end_one(&mut self, id: u64) {
        if let Some(ActiveChild { child, request }) = self.child_of(id) {
            // If the system forbids pidfd_getfd(2), the connection stays until the drain deadline.
            let _ = child.end_input(request.socket.as_ref());
        }
    }

    fn unsent(&self, id: u64) -> Option<u64> {
        let ActiveChild { child, request } = self.child_of(id)?;
        // If the system forbids pidfd_getfd(2), the times that the child notes for its own writes
        // apply.
        child.unsent(request.socket.as_ref()).ok()
    }
}

impl Forking {
    /// How this process reaches the socket of a connection once a child serves it.
    fn reach(&self, registry: &Registry, id: u64) -> Option<Reach> {
        if self.keeps_copies
            && let Some(Ok(copy)) = registry.copy_of_socket(id)
        {
            return Some(Reach::Copy(copy));
        }
        // The number is the same in the child.
        registry.socket(id).map(Reach::Number)
    }

    /// Closes, in a child, the copies of other children's sockets.
    fn leave_sockets(&mut self) {
        for active in &mut self.children {
            active.request.socket = None;
        }
    }

    fn child_of(&self, id: u64) -> Option<&ActiveChild> {
        self.children.iter().find(|active| active.request.id == id)
    }

    /// Reaps a child, if it has ended.
    fn reap_one(&mut self, index: usize) {
        if let Some(exit) = self.children[index].child.try_wait() {
            let ActiveChild { child, request } = self.children.swap_remove(index);
            request.end(child.pid(), exit);
            // Closing the pidfd frees a descriptor for the next retry.
            drop(child);
            self.watching.retry_now();
        }
    }
}

impl Forked {
    /// Counts the end of a child, and reports an end that the child could not report itself.
    fn end(self, pid: Pid, exit: Exit) {
        let slot = self.registered.as_ref().map(Registered::slot);
        if slot.is_some_and(Slot::is_refused) {
            return;
        }
        // A child that has read a PROXY header has stored the client's address.
        let named = slot.map(Slot::peer).filter(|peer| peer.ip().is_some());
        let peer = named.unwrap_or(self.peer);
        let ended = match exit {
            Exit::Status(0) => Ended::Completed,
            Exit::Status(1) => Ended::Failed,
            other => {
                let error = format!("child process {} ended with {other}", pid.as_raw_pid());
                self.service.report(&Failure {
                    subject: self.subject,
                    id: self.id,
                    peer: peer.clone(),
                    error: &*HandlerError::from(error),
                    abort: slot.and_then(Slot::abort_reason),
                    counters: self.service.counters(),
                });
                Ended::Failed
            }
        };
        self.service
            .tally(self.subject, self.id, &peer, slot, ended);
    }
}

/// Returns an error in a process with several threads.
pub(super) fn single_threaded() -> io::Result<()> {
    match thread_count()? {
        1 => Ok(()),
        threads => {
            let why = format!(
                "this process has {threads} threads, and forked children of such a process cannot run handlers; \
                 serve from the main thread before any other thread is started"
            );
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
    }
}

/// Runs in the child, from the fork to the exit.
fn serve_and_exit<T: Transport>(
    batch: &mut Batch<T::Accepted>,
    serving: &mut Serving<T>,
    parent: Pid,
) -> ! {
    let ended = guard(|| {
        let service = &serving.service;
        let bound = end_with(parent);
        let request = batch.requests.pop_front();
        // The child serves no listener, no queued and no parked connection. Without these copies, a
        // listener or connection that the parent closes is closed for its clients.
        serving.listeners.clear();
        batch.requests.drain(..).for_each(leave_to_parent);
        let parked = service.parking().map(Parking::take_all);
        for Parked { request, permits } in parked.into_iter().flatten() {
            leave_to_parent(request);
            forget(permits);
        }
        // `serve` closes the connection, and no destructor runs: the process ends, and freeing
        // memory first would only copy pages of the parent.
        let mut request = ManuallyDrop::new(request?);
        Some(match bound {
            Ok(()) => serve(service, &mut request),
            Err(err) => service.reject(&mut *request, err),
        })
    });
    // The parent owns the permits, and no destructor returns them here.
    exit(if ended == Some(Some(Ended::Completed)) {
        0
    } else {
        1
    })
}

/// Closes this process's copy of a connection that the parent keeps.
fn leave_to_parent<R: Managed>(request: R) {
    forget(request.context().hand_over());
}

/// Serves a connection or datagram to its end. A connection that parks waits here, in the child.
fn serve<R: Managed>(service: &Service<R>, request: &mut R) -> Ended {
    loop {
        match service.serve(request, Opening::Waits) {
            Ended::Parked => {}
            ended => return ended,
        }
        let ended = match wait(request, &service.shared) {
            Ok(Wakes::Input) => continue,
            Ok(Wakes::Over) => service.finish(request, Ended::Completed),
            Ok(Wakes::Aborted) => {
                // Drops the session: the connection itself is never dropped.
                drop(request.context().session().take());
                Ended::Completed
            }
            Err(err) => return service.reject(request, err),
        };
        return service.close(request, ended);
    }
}

/// How a wait for input ends.
enum Wakes {
    /// Input has arrived, or its end; or the handler wants to be called without.
    Input,
    /// There is nothing to wait for, or the grace of a stop is over.
    Over,
    /// The client was silent until a deadline, or the server has aborted the connection.
    Aborted,
}

/// Waits until input arrives, a deadline passes, or the grace of a stop is over.
fn wait<R: Managed>(request: &mut R, shared: &Shared) -> io::Result<Wakes> {
    let wakeup = Wakeup::new(shared.lifecycle.wakeup_event(), None)?;
    let source = Source::default();
    request.context().enter(Activity::Parked);
    let deadline = after(shared.registry.deadlines().parked(request.context()));
    let alarm = after(request.context().session().alarm());
    let fd = match request.wait()? {
        Waits::Ready => return Ok(Wakes::Input),
        Waits::Never => return Ok(Wakes::Over),
        Waits::For(fd) => fd,
    };
    let settled = Instant::now() + SETTLE;
    loop {
        let now = Instant::now();
        let grace = shared.lifecycle.grace_left(Idle::Held);
        let grace_end = grace.and_then(|left| now.checked_add(left));
        let grace_end = grace_end.map(|end| end.max(settled));
        let end = deadline.into_iter().chain(grace_end).chain(alarm).min();
        let woken = wakeup.wait(vec![Awaited::readable(fd, &source)], end)?;
        if !woken.ready.is_empty() {
            let abort = request.context().abort_reason();
            return Ok(abort.map_or(Wakes::Input, |_| Wakes::Aborted));
        }
        // No input has arrived until the end of the grace.
        if grace_end.is_some_and(|end| now >= end) {
            request.context().end();
            return Ok(Wakes::Over);
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(Wakes::Aborted);
        }
        if alarm.is_some_and(|alarm| now >= alarm) {
            return Ok(Wakes::Input);
        }
    }
}
