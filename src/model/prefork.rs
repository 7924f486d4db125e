//! Worker processes that each run another model on the same listeners.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::accept::dispatch::{Model, Serving};
use crate::accept::heartbeat::Heartbeat;
use crate::accept::report::Report;
use crate::counters::count;
use crate::error::{Error, Tried};
use crate::lifecycle::State;
use crate::lifecycle::processes::{SLOTS_OF_WORKER, WorkerSlot};
use crate::model::forking::single_threaded;
use crate::model::threading::Threading;
use crate::model::watching::Watching;
use crate::net::Transport;
use crate::observe::events::Event;
use crate::observe::hooks::{AcceptError, Reaction, Reloading, Step};
use crate::shared::Shared;
use crate::sys::child::{Child, Exit};
use crate::sys::fork::{self, Fork, exit, fork};
use crate::task::wait::{self, Awaited, Wakeup};

/// Forks worker processes that share the listeners; each worker runs model `M`.
///
/// A crash ends only the connections of one worker. The supervisor replaces the worker after 0.1 s;
/// each time that it dies without having served anything the delay doubles, up to 30 s. After
/// [`breaker`](Self::breaker) such deaths in a row, serving fails. A worker whose parent has ended
/// drains and exits. A worker that calls [`ServerHandle::retire`](crate::ServerHandle::retire)
/// drains, and is replaced at once.
///
/// All processes share the server's handle: a stop in one of them stops the server, and its counts
/// are totals of all. A handler changes only its own worker's memory.
///
/// # Errors
///
/// Serving fails with `Unsupported` in a process with several threads, as under
/// [`Forking`](crate::Forking).
///
/// # Examples
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::net::Bind;
/// use socketserver::{Prefork, Server, Tcp, ThreadPool};
///
/// Server::<Tcp>::builder()
///     .model(Prefork::new(4, ThreadPool::new(16)))
///     .bind("127.0.0.1:8080")?
///     .serve_forever(|conn| conn.write_all(b"hello world\n"))?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Prefork<M> {
    workers: usize,
    breaker: u32,
    model: M,
}

impl Default for Prefork<Threading> {
    /// Creates a worker for each processor, with a thread for each connection or datagram.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(processors, Threading::default())
    }
}

impl<M> Prefork<M> {
    /// Creates `workers` processes, at least one and at most 10,000, that each run `model`.
    pub fn new(workers: usize, model: M) -> Self {
        Self {
            workers: workers.clamp(1, 10_000),
            breaker: 10,
            model,
        }
    }

    /// Sets how many times in a row a worker may die without having served anything before serving
    /// fails. Default: 10, which takes about a minute. At least 1.
    pub fn breaker(mut self, deaths: u32) -> Self {
        self.breaker = deaths.max(1);
        self
    }
}

/// The shortest and the longest delay of the successor of a worker that has died.
const AFTER_DEATH: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// The same for another attempt after a fork has failed, as after any exhaustion.
const AFTER_FAILED_FORK: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// The pause after a failed wait.
const WAIT_RETRY: Duration = Duration::from_millis(100);

/// How long after the drain deadline the supervisor kills workers. Workers abort their own
/// connections at the deadline.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(3);

impl<M: Model + Clone> Model for Prefork<M> {
    const NAME: &'static str = "prefork";

    fn serve<T: Transport>(self, serving: Serving<T>) -> Result<Report, Error> {
        let shared = serving.service.shared.clone();
        if shared.lifecycle.processes().is_worker() {
            let nested = io::Error::new(
                io::ErrorKind::Unsupported,
                "a worker process cannot have workers of its own",
            );
            return Err(Error::new("start the prefork model", nested));
        }
        let start = || {
            single_threaded()?;
            Child::can_be_watched()?;
            shared.lifecycle.processes().note_parent();
            let processes = shared.lifecycle.processes();
            processes.make_slots(self.workers)?;
            shared.admission.share()?;
            Ok::<_, io::Error>((
                Wakeup::new(shared.lifecycle.wakeup_event(), None)?,
                io::pipe()?,
            ))
        };
        let (wakeup, (lifeline, alive)) = start().tried(|| "start the prefork model".to_owned())?;
        let new_worker = |index| Worker {
            slot: SLOTS_OF_WORKER * index,
            ..Worker::default()
        };
        let workers = (0..self.workers).map(new_worker).collect();
        let mut supervisor = Supervisor {
            options: &self,
            serving,
            lifeline,
            alive: Some(alive),
            workers,
            wakeup,
            watching: Watching::default(),
            heartbeat: Heartbeat::default(),
            reloading: false,
        };
        supervisor.supervise()
    }
}

/// The parent of the workers.
struct Supervisor<'a, T: Transport, M> {
    options: &'a Prefork<M>,
    serving: Serving<T>,
    /// The read end of a pipe. A worker that sees the end of the pipe knows that the parent has
    /// ended, because only the parent holds the write end.
    lifeline: PipeReader,
    alive: Option<PipeWriter>,
    workers: Vec<Worker>,
    wakeup: Wakeup,
    watching: Watching,
    heartbeat: Heartbeat,
    /// Workers are carrying out a reload.
    reloading: bool,
}

/// A worker process and its predecessor, or the place of a missing one.
#[derive(Debug, Default)]
struct Worker {
    child: Option<Child>,
    /// The `WorkerSlot` of the process, or of its successor.
    slot: usize,
    /// The predecessor, which drains, and its slot.
    leaving: Option<(Child, usize)>,
    since: Option<Instant>,
    /// Deaths in a row without having served anything.
    deaths: u32,
    /// Failed forks in a row.
    unforked: u32,
    /// The time of the next fork, if it is put off.
    due: Option<Instant>,
}

impl<T: Transport, M: Model + Clone> Supervisor<'_, T, M> {
    fn slot(&self, index: usize) -> &WorkerSlot {
        &self.shared().lifecycle.processes().slots()[index]
    }

    fn shared(&self) -> &Shared {
        &self.serving.service.shared
    }

    fn supervise(&mut self) -> Result<Report, Error> {
        let shared = self.shared().clone();
        let mut announced = false;
        while !shared.lifecycle.closing() {
            if shared.lifecycle.stopping() {
                self.serving
                    .service
                    .hooks
                    .enter(&shared.lifecycle, State::LameDuck);
            }
            self.fork_due();
            if !announced && self.all_ready() {
                announced = true;
                let hooks = &self.serving.service.hooks;
                hooks.ready();
                hooks.enter(&shared.lifecycle, State::Running);
            }
            self.wait(self.next_fork());
            self.replace_retired();
            if let Some(err) = self.reap() {
                shared.lifecycle.fail();
                shared.lifecycle.stop_now();
                self.drain();
                return Err(err);
            }
        }
        let report = self.drain();
        if shared.lifecycle.has_failed() {
            let why = "a worker process failed; the accept error hook has received the reason";
            return Err(Error::new("serve", io::Error::other(why)));
        }
        Ok(report)
    }

    fn all_ready(&self) -> bool {
        let is_ready = |worker: &Worker| self.slot(worker.slot).is_ready();
        self.workers.iter().all(is_ready)
    }

    /// Makes way for the successors of workers that were asked to retire.
    fn replace_retired(&mut self) {
        let processes = self.serving.service.shared.lifecycle.processes();
        let slots = processes.slots();
        for worker in &mut self.workers {
            if slots[worker.slot].is_leaving() {
                debug_assert!(worker.leaving.is_none(), "it waits for its predecessor");
                worker.leaving = worker.child.take().map(|child| (child, worker.slot));
                // Each worker has two slots, and uses them in turn.
                worker.slot ^= 1;
            }
        }
    }

    /// Whether clients may be in the backlog of a stop, which is served or counted only by workers.
    fn has_backlog(&self) -> bool {
        let lifecycle = &self.shared().lifecycle;
        !self.serving.listeners.is_empty()
            && lifecycle.state() < State::Draining
            && !lifecycle.has_failed()
    }

    /// Whether a worker accepts, and is not about to leave.
    fn is_accepting(&self) -> bool {
        let accepts =
            |worker: &Worker| worker.child.is_some() && !self.slot(worker.slot).is_leaving();
        self.workers.iter().any(accepts)
    }

    /// When the first of the workers that are missing is due.
    fn next_fork(&self) -> Option<Instant> {
        self.workers.iter().filter_map(|worker| worker.due).min()
    }

    /// Makes all workers due that are missing.
    fn hasten_forks(&mut self) {
        for worker in &mut self.workers {
            worker.due = None;
        }
    }

    /// Forks the workers that are missing and due.
    fn fork_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.child.is_some() || worker.due.is_some_and(|due| due > now) {
                continue;
            }
            self.slot(worker.slot).set_follows(worker.leaving.is_some());
            match fork() {
                Ok(Fork::Child) => self.become_worker(index),
                Ok(Fork::Parent(pid)) => {
                    let worker = &mut self.workers[index];
                    worker.child = Some(Child::adopt(pid));
                    worker.since = Some(Instant::now());
                    (worker.due, worker.unforked) = (None, 0);
                    self.serving.service.hooks.emit(|| Event::WorkerStarted {
                        index,
                        pid: pid.as_raw_pid().unsigned_abs(),
                    });
                }
                Err(err) => {
                    // A failed fork is not a death.
                    let worker = &mut self.workers[index];
                    let before = worker.unforked;
                    worker.unforked += 1;
                    let reaction = self.postpone(index, before, AFTER_FAILED_FORK);
                    self.report_failure(Step::Worker, reaction, err);
                }
            }
        }
    }

    /// Runs in the worker, from the fork to the exit.
    fn become_worker(&mut self, index: usize) -> ! {
        let slot = self.workers[index].slot;
        // Closes the parent's pidfds of the other workers.
        self.workers.clear();
        self.alive = None;
        self.shared().lifecycle.become_worker(slot);
        let served = fork::guard(|| {
            let mut serving = Serving::new(
                std::mem::take(&mut self.serving.listeners),
                Arc::clone(&self.serving.service),
            );
            serving.lifeline = Some(self.lifeline.try_clone()?);
            self.options
                .model
                .clone()
                .serve(serving)
                .map_err(io::Error::from)
        });
        if let Some(Err(err)) = &served {
            let err = io::Error::new(err.kind(), err.to_string());
            if self.shared().lifecycle.has_failed() {
                self.report(Step::Worker, Reaction::Fail, err, 0);
            } else {
                // The parent forks a successor.
                self.report_throttled(Step::Worker, Reaction::Continue, err);
            }
        }
        exit(if matches!(served, Some(Ok(_))) { 0 } else { 1 })
    }

    fn report(&self, step: Step, reaction: Reaction, error: io::Error, unreported: u64) {
        let report = AcceptError {
            listener: None,
            step,
            reaction,
            error,
            unreported,
        };
        self.serving.service.hooks.report(&report);
    }

    /// Reports to the hook, at most once a second in all processes.
    fn report_throttled(&self, step: Step, reaction: Reaction, error: io::Error) {
        if let Some(unreported) = self.serving.service.shared.counters.pass_accept_error() {
            self.report(step, reaction, error, unreported);
        }
    }

    /// Counts a failed system call, and reports it.
    fn report_failure(&self, step: Step, reaction: Reaction, error: io::Error) {
        count(&self.serving.service.shared.counters.counts().accept_errors);
        self.report_throttled(step, reaction, error);
    }

    /// Puts off the next fork of a worker: the delay doubles with each of the `before` failures in
    /// a row.
    fn postpone(&mut self, index: usize, before: u32, [min, max]: [Duration; 2]) -> Reaction {
        let delay = min.saturating_mul(1 << before.min(16)).min(max);
        self.workers[index].due = Some(Instant::now() + delay);
        Reaction::Retry(delay)
    }

    /// Announces the end of a reload, and the next one, which the workers carry out then.
    fn announce_reloads(&mut self) {
        let service = &self.serving.service;
        let (hooks, lifecycle) = (&service.hooks, &service.shared.lifecycle);
        if self.reloading && lifecycle.is_reload_over() {
            self.reloading = false;
            hooks.reloading(Reloading::Ended);
        }
        // A reload that was requested during the start waits for the end of the start.
        if !self.reloading && lifecycle.state() > State::Starting {
            self.reloading = lifecycle.announce_reload(|| hooks.reloading(Reloading::Begins));
        }
    }

    /// Waits until a worker ends, the wake-up event is signalled, or `until` has come.
    fn wait(&mut self, until: Option<Instant>) {
        let now = Instant::now();
        let service = &self.serving.service;
        self.heartbeat
            .beat(&service.hooks, &service.shared.lifecycle, now);
        self.announce_reloads();
        let children = self.workers.iter_mut().flat_map(Worker::children_mut);
        if let Err(err) = self.watching.retry(children, now) {
            let reaction = Reaction::Retry(self.watching.due(now).unwrap_or_default());
            self.report_failure(Step::Watch, reaction, err);
        }
        let due = self.watching.due(now).and_then(|due| now.checked_add(due));
        let beat = self.heartbeat.due();
        let end = until.into_iter().chain(due).chain(beat).min();
        let pidfds = self.workers.iter().flat_map(Worker::children);
        let pidfds = pidfds.filter_map(Child::pidfd);
        let fds = pidfds.map(Awaited::ended).collect();
        if let Err(err) = self.wakeup.wait(fds, end) {
            self.report_failure(Step::Wait, Reaction::Retry(WAIT_RETRY), err);
            wait::pause(WAIT_RETRY);
        }
    }

    /// Reaps the workers that have ended. Returns an error if one has died too often.
    fn reap(&mut self) -> Option<Error> {
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if let Some((child, slot)) = &worker.leaving {
                let (pid, slot, exit) = (child.pid(), *slot, child.try_wait());
                if let Some(exit) = exit {
                    self.workers[index].leaving = None;
                    // If the worker was asked to retire, this is its time: `reclaim` wakes it.
                    self.slot(slot ^ 1).set_follows(false);
                    self.reclaim(index, slot, pid, exit);
                }
            }
            let worker = &self.workers[index];
            let Some((pid, exit)) = worker
                .child
                .as_ref()
                .and_then(|child| Some((child.pid(), child.try_wait()?)))
            else {
                continue;
            };
            let slot = self.slot(worker.slot);
            let (served, retires) = (slot.has_served(), slot.was_asked_to_leave());
            self.workers[index].child = None;
            self.reclaim(index, self.workers[index].slot, pid, exit);
            let is_over = self.shared().lifecycle.closing() && !self.has_backlog();
            if is_over || retires {
                continue;
            }
            if let Some(err) = self.note_death(index, pid, exit, served) {
                return Some(err);
            }
        }
        None
    }

    /// Releases what an ended worker process held: its slot, its permits, its registered
    /// connections.
    fn reclaim(&mut self, index: usize, slot: usize, pid: Pid, exit: Exit) {
        self.watching.retry_now();
        // There may be room for another process again.
        let unforked = self.workers.iter_mut().filter(|worker| worker.unforked > 0);
        unforked.for_each(|worker| worker.due = None);
        let shared = self.shared().clone();
        shared.registry.forget_worker(slot);
        self.slot(slot).clear();
        shared.admission.release();
        shared.lifecycle.give_back_reload(slot as u16 + 1);
        self.serving.service.hooks.emit(|| Event::WorkerEnded {
            index,
            pid: pid.as_raw_pid().unsigned_abs(),
            exit: exit.to_string(),
        });
    }

    /// Counts an unrequested death of a worker, and puts off its successor. Returns an error if the
    /// worker has died too often.
    fn note_death(&mut self, index: usize, pid: Pid, exit: Exit, served: bool) -> Option<Error> {
        let worker = &mut self.workers[index];
        let lasted = worker
            .since
            .is_some_and(|since| since.elapsed() > AFTER_DEATH[1]);
        if served || lasted {
            worker.deaths = 0;
        }
        let before = worker.deaths;
        worker.deaths += 1;
        let ended = io::Error::other(format!("worker {} ended with {exit}", pid.as_raw_pid()));
        let reaction = self.postpone(index, before, AFTER_DEATH);
        self.report_throttled(Step::Worker, reaction, ended);
        (self.workers[index].deaths >= self.options.breaker).then(|| {
            let what = format!(
                "keep worker {index} alive after {} deaths in a row",
                self.options.breaker
            );
            let last = io::Error::other(format!(
                "the last one ended with {exit} before it had served anything"
            ));
            Error::new(what, last)
        })
    }

    /// Waits for the workers, which serve the backlog and drain by themselves, and kills them some time after the deadline.
    /// Forks workers if none is left that serves the backlog: the server was stopped before it had any, all were asked to
    /// retire, as by a service manager that signals every process, or the last ones have died.
    fn drain(&mut self) -> Report {
        let shared = self.shared().clone();
        let (mut kill_at, mut is_last) = (None, false);
        self.hasten_forks();
        loop {
            self.reap();
            self.replace_retired();
            let left = shared.lifecycle.drain_left().unwrap_or_default();
            if self.has_backlog() && !self.is_accepting() && !is_last {
                // A worker that has no time aborts the backlog, and counts it.
                is_last = left.is_zero();
                if is_last {
                    self.hasten_forks();
                    kill_at = None;
                }
                self.fork_due();
            }
            let serves_backlog = self.has_backlog() && !is_last;
            if !serves_backlog {
                // A client that connects now must be refused. Adopted listeners stay open: a drop restores
                // the blocking mode, while the workers still accept from the backlog.
                self.serving.listeners.retain(Transport::is_adopted);
            }
            let has_ended = |worker: &Worker| worker.children().next().is_none();
            if self.workers.iter().all(has_ended) && !serves_backlog {
                break;
            }
            if left.is_zero() {
                let end = *kill_at.get_or_insert_with(|| Instant::now() + KILL_GRACE);
                if Instant::now() >= end {
                    self.kill();
                    // The kill ends the workers soon, and each end wakes the next wait.
                    kill_at = Some(end + Duration::from_secs(3600));
                }
            }
            let until = kill_at.unwrap_or_else(|| Instant::now() + left);
            let waits_to_fork = serves_backlog && !self.is_accepting();
            let due = self.next_fork().filter(|_| waits_to_fork);
            self.wait(due.into_iter().chain([until]).min());
        }
        Report {
            aborted: shared.counters.aborted_count(),
        }
    }

    /// Kills the workers that are left, and counts as aborted the connections that they have not
    /// aborted themselves.
    fn kill(&self) {
        let shared = self.shared();
        let live = shared.admission.live_in_workers();
        let counted = shared.registry.aborted_by_drain();
        shared.counters.count_aborted(live.saturating_sub(counted));
        let children = self.workers.iter().flat_map(Worker::children);
        children.for_each(Child::kill);
    }
}

impl Worker {
    /// The worker's processes.
    fn children(&self) -> impl Iterator<Item = &Child> {
        let leaving = self.leaving.as_ref().map(|(child, _)| child);
        self.child.iter().chain(leaving)
    }

    fn children_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        let leaving = self.leaving.as_mut().map(|(child, _)| child);
        self.child.iter_mut().chain(leaving)
    }
}
