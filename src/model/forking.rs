//! A process for each request.

use std::io;
use std::mem::{ManuallyDrop, forget};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};

use crate::accept::batch::Batch;
use crate::accept::dispatch::Model;
use crate::accept::dispatch::{Dispatch, Serving};
use crate::accept::report::Report;
use crate::address::Address;
use crate::admission::permits::Permits;
use crate::connection::life::{Job, Service, Tally};
use crate::connection::parking::{Parked, Parking};
use crate::counters::Ended;
use crate::error::{Error, HandlerError};
use crate::lifecycle::Idle;
use crate::model::serve_here;
use crate::model::watching::Watching;
use crate::net::{Accepted, Managed, Transport, Waits};
use crate::observe::hooks::{Failure, Step};
use crate::registry::SETTLE;
use crate::registry::context::Registered;
use crate::registry::table::{Activity, Slot};
use crate::shared::Shared;
use crate::sys::child::{Child, Exit};
use crate::sys::fork::{Fork, end_with, exit, fork, guard, thread_count};
use crate::task::wait::{Awaited, Source, Wakeup};

/// Serves each request in a process of its own, forked from the one that accepts.
///
/// What a handler changes in memory is its own, and a crash ends one request. The child closes the
/// listeners, serves, and exits with 0, or with 1 if its handler failed; what else it ends with is
/// reported to the error hook. No destructors of the parent's values and no `atexit` handlers run
/// in it.
///
/// When [`max_children`](Self::max_children) run, accepting pauses and requests wait in the kernel.
/// A fork that fails is tried again; its request waits. Children that this model did not fork are
/// left alone.
///
/// A child ends with the process that has forked it, which keeps its deadlines and its limits: the
/// kernel kills it then (prctl(2), `PR_SET_PDEATHSIG`), unless its handler has changed its user or
/// group.
///
/// # Errors
///
/// Serving fails with `Unsupported` in a process that has other threads, where a forked child may
/// do next to nothing (fork(2), signal-safety(7)): start it from `main`, and not with `spawn`.
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
    children: Vec<Serves>,
    watching: Watching,
}

/// A child, and what the parent keeps of its request.
#[derive(Debug)]
struct Serves {
    child: Child,
    request: Forked,
}

#[derive(Debug)]
struct Forked {
    id: u64,
    peer: Address,
    service: Arc<dyn Tally>,
    /// The number of its socket, in the child too.
    socket: Option<RawFd>,
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
        }
    }
}

impl Clone for Forking {
    /// Clones the options; the children belong to one.
    fn clone(&self) -> Self {
        Self {
            max_children: self.max_children,
            ..Self::default()
        }
    }
}

impl Forking {
    /// The most children at once. Default: 40, as in Python. At least 1.
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
            // The request stays in the batch until the fork has succeeded.
            let parent = getpid();
            let pid = match fork()? {
                Fork::Child => serve_and_exit(batch, serving, parent),
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
                id,
                peer: request.peer(),
                socket: service.shared.registry.socket(id),
                registered: request.context().hand_over(),
                service,
                _permits: permits,
            };
            // The child has its own copy. Closed first: the pidfd may need the descriptor.
            drop(request);
            self.children.push(Serves {
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
            .filter_map(|serves| serves.child.pidfd());
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
        let is_unwatched = |serves: &Serves| serves.child.pidfd().is_none();
        if !self.children.iter().any(is_unwatched) {
            return Ok(());
        }
        for index in (0..self.children.len()).rev() {
            if is_unwatched(&self.children[index]) {
                self.reap_one(index);
            }
        }
        let children = self.children.iter_mut().map(|serves| &mut serves.child);
        let watched = self.watching.retry(children, Instant::now());
        watched.map_err(|err| (Step::Watch, err))
    }

    fn tends_in(&self, now: Instant) -> Option<Duration> {
        self.watching.due(now)
    }

    fn abort(&mut self) {
        for serves in &self.children {
            serves.child.kill();
        }
    }

    fn has_child(&self, id: u64) -> bool {
        self.child_of(id).is_some()
    }

    fn abort_one(&mut self, id: u64) {
        if let Some(Serves { child, request }) = self.child_of(id) {
            // Its handler learns why. Where this is not allowed, it ends with the process.
            if child.shut_down(request.socket).is_err() {
                child.kill();
            }
        }
    }

    fn end_one(&mut self, id: u64) {
        if let Some(Serves { child, request }) = self.child_of(id) {
            // Where this is not allowed, it stays until the drain deadline.
            let _ = child.end_input(request.socket);
        }
    }

    fn unsent(&self, id: u64) -> Option<u64> {
        let Serves { child, request } = self.child_of(id)?;
        // Where this is not allowed, what the child itself has noted of its writes has to do.
        child.unsent(request.socket).ok()
    }
}

impl Forking {
    fn child_of(&self, id: u64) -> Option<&Serves> {
        self.children.iter().find(|serves| serves.request.id == id)
    }

    /// Reaps a child, if it has ended.
    fn reap_one(&mut self, index: usize) {
        if let Some(exit) = self.children[index].child.try_wait() {
            let Serves { child, request } = self.children.swap_remove(index);
            request.end(child.pid(), exit);
            // Its descriptor is free.
            drop(child);
            self.watching.hurry();
        }
    }
}

impl Forked {
    /// Counts how the child ended, and reports what it could not report itself.
    fn end(self, pid: Pid, exit: Exit) {
        let slot = self.registered.as_ref().map(Registered::slot);
        let ended = match exit {
            Exit::Status(0) => Ended::Completed,
            Exit::Status(1) => Ended::Failed,
            other => {
                let error = format!("child process {} ended with {other}", pid.as_raw_pid());
                self.service.report(&Failure {
                    id: self.id,
                    peer: self.peer.clone(),
                    error: &*HandlerError::from(error),
                    abort: slot.and_then(Slot::abort_reason),
                    counters: self.service.counters(),
                });
                Ended::Failed
            }
        };
        self.service.tally(self.id, &self.peer, slot, ended);
    }
}

/// Refuses to go on in a process with other threads.
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

/// The life of a child.
fn serve_and_exit<T: Transport>(
    batch: &mut Batch<T::Accepted>,
    serving: &mut Serving<T>,
    parent: Pid,
) -> ! {
    let ended = guard(|| {
        let service = &serving.service;
        let tied = end_with(parent);
        let request = batch.requests.pop_front();
        // Nobody serves these here: a client must not find a listener that nobody accepts from, nor
        // be kept by a copy of its connection once the parent has closed it.
        serving.listeners.clear();
        batch.requests.drain(..).for_each(leave_to_parent);
        let parked = service.parking().map(Parking::take_all);
        for Parked { request, permits } in parked.into_iter().flatten() {
            leave_to_parent(request);
            forget(permits);
        }
        // Closed by `serve`, never dropped: the process ends, and freeing its memory first would
        // only copy pages of the parent.
        let mut request = ManuallyDrop::new(request?);
        Some(match tied {
            Ok(()) => serve(service, &mut request),
            Err(err) => service.reject(&mut *request, err),
        })
    });
    // No destructors: the places under the limit belong to the parent.
    exit(if ended == Some(Some(Ended::Completed)) {
        0
    } else {
        1
    })
}

/// Closes this process's copy of a request, which lives on in the parent.
fn leave_to_parent<R: Managed>(request: R) {
    forget(request.context().hand_over());
}

/// Serves a request to its end. A connection that wants to be parked has nobody to leave it to: the
/// child waits.
fn serve<R: Managed>(service: &Service<R>, request: &mut R) -> Ended {
    loop {
        match service.serve(request) {
            Ended::Parked => {}
            ended => return ended,
        }
        let ended = match wait(request, &service.shared) {
            Ok(Wakes::Input) => continue,
            Ok(Wakes::Over) => service.finish(request, Ended::Completed),
            Ok(Wakes::Aborted) => {
                // Nobody drops the request.
                drop(request.context().session().take());
                Ended::Completed
            }
            Err(err) => return service.reject(request, err),
        };
        return service.close(request, ended);
    }
}

/// Why a connection waits no longer.
enum Wakes {
    /// There is input, or the end of it.
    Input,
    /// It is no connection, or the grace of a stop is over.
    Over,
    /// The client was silent for too long, or the server has aborted the connection.
    Aborted,
}

/// Waits until there is input, or no use in waiting.
fn wait<R: Managed>(request: &mut R, shared: &Shared) -> io::Result<Wakes> {
    let wakeup = Wakeup::new(shared.lifecycle.wakeup_event(), None)?;
    let source = Source::default();
    request.context().enter(Activity::Parked);
    let deadline = shared
        .registry
        .deadlines()
        .parked(request.context())
        .and_then(|limit| Instant::now().checked_add(limit));
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
        let end = deadline.into_iter().chain(grace_end).min();
        let woken = wakeup.wait(&[Awaited::readable(fd, &source)], end)?;
        if !woken.ready.is_empty() {
            let abort = request.context().abort_reason();
            return Ok(abort.map_or(Wakes::Input, |_| Wakes::Aborted));
        }
        // Nothing had come by then.
        if grace_end.is_some_and(|end| now >= end) {
            request.context().end();
            return Ok(Wakes::Over);
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(Wakes::Aborted);
        }
    }
}
