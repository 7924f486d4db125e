//! The lifecycle of a server: its state, its stop and its pauses, in memory that all its processes
//! share. A stop that one process requests is seen by all.

pub(crate) mod processes;
mod reloads;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::sys::memory::{SharedMemory, shareable};
use crate::sys::wakeup::WakeupEvent;
use crate::task::wait::{self, Wakeup};

use processes::{Processes, WorkerSlot};
use reloads::Reloads;

/// The state of a server. It only advances, and may skip states.
///
/// With worker processes it is the state of the server as a whole: `Running` once every worker
/// accepts, the later states as soon as one worker has reached them, and `Closed` when the parent
/// has ended. `Display` prints a short phrase.
///
/// # Examples
///
/// A readiness check for a load balancer:
///
/// ```
/// use socketserver::ServerHandle;
/// use socketserver::observe::State;
///
/// fn is_ready(handle: &ServerHandle) -> bool {
///     handle.state() == State::Running
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum State {
    /// The server is bound and does not serve yet: clients wait in the backlog.
    Starting,
    /// The server accepts and serves.
    Running,
    /// The server was asked to stop, and still accepts for the time of
    /// [`Builder::lame_duck`](crate::Builder::lame_duck).
    LameDuck,
    /// The server accepts only the connections that are in the backlog already.
    ServingBacklog,
    /// The listeners are closed. The server waits for live connections, and for the grace of idle
    /// ones ([`Builder::idle_grace`](crate::Builder::idle_grace)).
    Draining,
    /// The drain deadline has come, and the server aborts the connections that are left.
    Aborting,
    /// The server has ended.
    Closed,
}

const STATES: [State; 7] = [
    State::Starting,
    State::Running,
    State::LameDuck,
    State::ServingBacklog,
    State::Draining,
    State::Aborting,
    State::Closed,
];

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::LameDuck => "asked to stop, and still accepting",
            Self::ServingBacklog => "serving the backlog",
            Self::Draining => "draining",
            Self::Aborting => "aborting live connections",
            Self::Closed => "closed",
        })
    }
}

/// The lifecycle that all processes of a server share. All zero at first.
#[derive(Debug, Default)]
struct Page {
    stop: Stop,
    /// The state, as a number of [`State`].
    state: AtomicU32,
    /// Non-zero while accepting is paused.
    paused: AtomicU32,
    /// Non-zero once serving has failed in one of the processes.
    failed: AtomicU32,
    reloads: Reloads,
}

shareable!(Page {
    stop,
    state,
    paused,
    failed,
    reloads
});

/// Owns the state, the stop and the pauses of a server, and the event that wakes everything that
/// waits for them.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    page: SharedMemory<Page>,
    /// The stop of this process alone.
    retirement: Stop,
    processes: Processes,
    wakeup_event: WakeupEvent,
    /// The origin of all times in shared memory.
    origin: Instant,
    times: Times,
}

/// How long each part of a stop lasts at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long the server still accepts.
    pub(crate) lame_duck: Duration,
    /// How long idle connections stay after the lame duck; `None`: as long as the drain.
    pub(crate) idle_grace: Option<Duration>,
    /// How long live connections may last after the lame duck.
    pub(crate) drain: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lame_duck: Duration::ZERO,
            idle_grace: Some(Duration::from_secs(1)),
            drain: Duration::from_secs(25),
        }
    }
}

/// The pause of a wait for a state after the wait has failed for lack of memory.
const RETRY: Duration = Duration::from_millis(100);

impl Lifecycle {
    pub(crate) fn new(times: Times) -> io::Result<Self> {
        Ok(Self {
            page: SharedMemory::new(1)?,
            retirement: Stop::default(),
            processes: Processes::default(),
            wakeup_event: WakeupEvent::new()?,
            origin: Instant::now(),
            times,
        })
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }

    pub(crate) const fn wakeup_event(&self) -> &WakeupEvent {
        &self.wakeup_event
    }

    pub(crate) const fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The time since the server was created, in nanoseconds: the same in all processes.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Asks the server to stop without a lame duck, with the drain timeout that it was built with.
    ///
    /// Async-signal-safe, as [`stop`](Self::stop).
    pub(crate) fn stop_now(&self) {
        self.stop(self.times.drain);
    }

    /// Makes this process the worker whose slot is `index`.
    pub(crate) fn become_worker(&self, index: usize) {
        self.processes.become_worker(index);
        // The process was asked to retire before it became a worker, and does not wait for its predecessor.
        if self.retires() {
            self.processes.ask_for_successor();
        }
    }

    /// Reports to the parent of this worker process that it accepts. Returns whether this process
    /// is a worker.
    pub(crate) fn acknowledge(&self) -> bool {
        let is_worker = self.processes.note_ready();
        if is_worker {
            self.wakeup_event.wake();
        }
        is_worker
    }

    /// Stores that serving has failed, for the parent of a worker process.
    pub(crate) fn fail(&self) {
        self.page().failed.store(1, SeqCst);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.page().failed.load(SeqCst) != 0
    }

    pub(crate) fn state(&self) -> State {
        let index = self.page().state.load(Acquire);
        STATES.get(index as usize).copied().unwrap_or(State::Closed)
    }

    /// Advances to `state`, unless the server has reached it. Returns whether it advanced.
    pub(crate) fn advance(&self, state: State) -> bool {
        let before = self.page().state.fetch_max(state as u32, AcqRel);
        let advanced = before < state as u32;
        if advanced {
            self.wakeup_event.wake();
        }
        advanced
    }

    /// Waits until the server has reached `state`. Returns whether it has.
    pub(crate) fn wait_for(&self, state: State, timeout: Duration) -> bool {
        if self.state() >= state {
            return true;
        }
        let deadline = Instant::now().checked_add(timeout);
        let Ok(wakeup) = Wakeup::new(&self.wakeup_event, None) else {
            return self.state() >= state;
        };
        // A coroutine that is being ended must not wait for a server that waits for the coroutine.
        while self.state() < state
            && wait::can_wait()
            && deadline.is_none_or(|end| Instant::now() < end)
        {
            let woken = wakeup.wait(Vec::new(), deadline);
            if woken.is_ok_and(|woken| woken.unwatched.is_none()) {
                continue;
            }
            // The kernel has no memory for the wait.
            wait::pause(RETRY);
        }
        self.state() >= state
    }

    /// Asks the server to stop, with the times that it was built with.
    ///
    /// Async-signal-safe, as [`stop`](Self::stop).
    pub(crate) fn shutdown(&self) {
        self.stop_with(self.times);
    }

    /// Asks the server to stop within `times`. Deadlines that are set and earlier stay.
    fn stop_with(&self, times: Times) {
        self.page().stop.ask(self.origin.elapsed(), times);
        self.wakeup_event.wake();
    }

    /// The times of a stop without a lame duck.
    const fn at_once(&self, drain: Duration) -> Times {
        Times {
            lame_duck: Duration::ZERO,
            idle_grace: self.times.idle_grace,
            drain,
        }
    }

    /// Asks the server to stop without a lame duck, with a drain of at most `drain`. A deadline
    /// that is set and earlier stays.
    ///
    /// Async-signal-safe: it reads the clock, updates atomics, and writes to a descriptor.
    pub(crate) fn stop(&self, drain: Duration) {
        self.stop_with(self.at_once(drain));
    }

    /// Asks this process alone to stop, if it is a worker or a child; else the server.
    ///
    /// Async-signal-safe, as [`stop`](Self::stop).
    pub(crate) fn retire(&self) {
        let is_child = self.processes.is_child();
        if !is_child && !self.processes.is_worker() {
            return self.shutdown();
        }
        if is_child {
            self.stop_here();
        } else {
            // First: the parent counts on every other worker for the backlog of a stop.
            self.processes.ask_for_successor();
            self.retire_if_due();
        }
        self.wakeup_event.wake();
    }

    /// Stops this worker process if it was asked to retire, and its predecessor has ended.
    pub(crate) fn retire_if_due(&self) {
        let own = self.processes.own();
        if own.is_some_and(WorkerSlot::is_leaving) && !self.retirement.is_asked() {
            self.stop_here();
            self.wakeup_event.wake();
        }
    }

    /// Stops because this process cannot go on. In a worker only the worker stops, and its parent
    /// replaces it; elsewhere the server stops.
    #[cfg(feature = "coroutines")]
    pub(crate) fn give_up(&self) {
        if self.processes.is_worker() {
            self.stop_here();
            self.wakeup_event.wake();
        } else {
            self.fail();
            self.stop_now();
        }
    }

    /// Asks this process alone to stop. The caller sends the wake-up event.
    fn stop_here(&self) {
        let times = self.at_once(self.times.drain);
        self.retirement.ask(self.origin.elapsed(), times);
    }

    /// Whether only this process of the server is to end by now: the others still accept, be it in the lame duck of a stop.
    pub(crate) fn retires(&self) -> bool {
        let accepts = self.left(&self.page().stop.lame_end);
        self.retirement.is_asked() && accepts.is_none_or(|left| !left.is_zero())
    }

    /// Whether the server, or this process of it, has been asked to stop.
    pub(crate) fn stopping(&self) -> bool {
        self.stops().any(Stop::is_asked)
    }

    /// The time until the drain deadline; `None` without a stop.
    pub(crate) fn drain_left(&self) -> Option<Duration> {
        self.stops().filter_map(|stop| self.left(&stop.end)).min()
    }

    /// The time until the lame duck ends; `None` without a stop.
    pub(crate) fn lame_left(&self) -> Option<Duration> {
        let asked = self.stops().filter(|stop| stop.is_asked());
        asked.filter_map(|stop| self.left(&stop.lame_end)).min()
    }

    /// The time until the grace of such idle connections ends; `None` without a stop.
    pub(crate) fn grace_left(&self, idle: Idle) -> Option<Duration> {
        let graces = self.stops().map(|stop| &stop.grace_ends[idle as usize]);
        graces.filter_map(|end| self.left(end)).min()
    }

    /// Whether the grace of such idle connections has ended.
    pub(crate) fn is_grace_over(&self, idle: Idle) -> bool {
        self.grace_left(idle).is_some_and(|left| left.is_zero())
    }

    /// Ends the grace of such idle connections early, in all processes of the server.
    pub(crate) fn end_grace(&self, idle: Idle) {
        let now = deadline(self.origin.elapsed());
        for stop in self.stops().filter(|stop| stop.is_asked()) {
            stop.grace_ends[idle as usize].fetch_min(now, AcqRel);
        }
        self.wakeup_event.wake();
    }

    /// The stop of the server, and the stop of this process.
    fn stops(&self) -> impl Iterator<Item = &Stop> {
        [&self.page().stop, &self.retirement].into_iter()
    }

    fn left(&self, end: &AtomicU64) -> Option<Duration> {
        let end = end.load(Acquire).checked_sub(1)?;
        Some(Duration::from_nanos(end).saturating_sub(self.origin.elapsed()))
    }

    /// Whether the server has stopped accepting new connections: the lame duck is over.
    pub(crate) fn closing(&self) -> bool {
        self.lame_left().is_some_and(|left| left.is_zero())
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.page().paused.store(u32::from(paused), SeqCst);
        self.wakeup_event.wake();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.page().paused.load(SeqCst) != 0
    }

    /// Asks one process of the server to reload. Async-signal-safe.
    pub(crate) fn request_reload(&self) {
        self.page().reloads.ask();
        self.wakeup_event.wake();
    }

    /// Lets the workers carry out what was asked for. Returns whether there is anything new; `before` is called then, and
    /// before any of them begins.
    pub(crate) fn announce_reload(&self, before: impl FnOnce()) -> bool {
        let reloads = &self.page().reloads;
        let is_new = !reloads.is_announced();
        if is_new {
            before();
            reloads.announce();
            self.wakeup_event.wake();
        }
        is_new
    }

    /// Whether the workers have carried out what was announced.
    pub(crate) fn is_reload_over(&self) -> bool {
        self.page().reloads.is_over()
    }

    /// Takes a reload, if one is due and this process is the first. The caller has to carry it out, and to
    /// [finish](Self::finish_reload) it.
    pub(crate) fn take_reload(&self) -> Option<u32> {
        self.page().reloads.take(self.processes.number())
    }

    /// Ends a reload that was taken.
    pub(crate) fn finish_reload(&self, taken: u32) {
        self.page().reloads.finish(taken);
        self.wakeup_event.wake();
    }

    /// Lets another worker carry out a reload that an ended worker, of this number, had taken.
    pub(crate) fn give_back_reload(&self, worker: u16) {
        self.page().reloads.give_back(worker);
        self.wakeup_event.wake();
    }
}

/// The two kinds of idle connections, by what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// A parked connection holds only a permit.
    Parked,
    /// Another idle connection also holds a thread, a process or a coroutine.
    Held,
}

/// The deadlines of a stop, in nanoseconds since `Lifecycle::origin`, plus one; zero without a
/// stop.
#[derive(Debug, Default)]
struct Stop {
    /// The end of the lame duck: the server stops accepting.
    lame_end: AtomicU64,
    /// The end of the grace, for each kind of idle connections.
    grace_ends: [AtomicU64; 2],
    /// The drain deadline.
    end: AtomicU64,
}

shareable!(Stop {
    lame_end,
    grace_ends,
    end
});

/// A time as a stored deadline, where zero means none.
fn deadline(time: Duration) -> u64 {
    u64::try_from(time.as_nanos())
        .unwrap_or(u64::MAX)
        .min(u64::MAX - 1)
        + 1
}

impl Stop {
    /// Requests the stop at `now`. Async-signal-safe.
    fn ask(&self, now: Duration, times: Times) {
        let lame_end = now.saturating_add(times.lame_duck);
        let end = lame_end.saturating_add(times.drain);
        let grace = times.idle_grace.unwrap_or(times.drain);
        let grace_end = lame_end.saturating_add(grace).min(end);
        // The drain deadline is stored last: `is_asked` reads it.
        let deadlines = [
            (&self.lame_end, deadline(lame_end)),
            (&self.grace_ends[0], deadline(grace_end)),
            (&self.grace_ends[1], deadline(grace_end)),
            (&self.end, deadline(end)),
        ];
        for (word, deadline) in deadlines {
            let earlier = |current: u64| (current == 0 || deadline < current).then_some(deadline);
            // Release: a thread that sees the stop sees all writes before it.
            let _ = word.fetch_update(AcqRel, Acquire, earlier);
        }
    }

    fn is_asked(&self) -> bool {
        self.end.load(Acquire) != 0
    }
}

/// Advances the server to `Closed` when dropped.
#[derive(Debug)]
pub(crate) struct Closing(pub(crate) Arc<Lifecycle>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.advance(State::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_deadline_wins() {
        let lifecycle = Lifecycle::new(Times {
            drain: Duration::MAX,
            ..Times::default()
        })
        .unwrap();
        assert_eq!(
            (lifecycle.stopping(), lifecycle.drain_left()),
            (false, None)
        );
        lifecycle.stop(Duration::from_secs(10_000));
        let late = lifecycle.drain_left().unwrap();
        lifecycle.stop(Duration::from_secs(5_000));
        let early = lifecycle.drain_left().unwrap();
        lifecycle.stop(Duration::MAX);
        // The time that has passed shortens both, by much less.
        let won = late - lifecycle.drain_left().unwrap();
        assert!(won >= Duration::from_secs(4_000) && late - early >= Duration::from_secs(4_000));
        lifecycle.stop(Duration::ZERO);
        assert_eq!(lifecycle.drain_left(), Some(Duration::ZERO));
    }

    /// The seconds until idle connections end, rounded up.
    fn grace(lifecycle: &Lifecycle) -> Option<u64> {
        // Read first, so that the time between the two reads cannot make it the smaller one.
        let parked = lifecycle.grace_left(Idle::Parked);
        let left = lifecycle.grace_left(Idle::Held)?;
        assert!(parked >= Some(left));
        Some(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }

    #[test]
    fn the_grace_begins_when_nothing_more_is_accepted_and_ends_with_the_drain() {
        let seconds = |thousands: u64| Duration::from_secs(1000 * thousands);
        let asked = |idle_grace, lame_duck, drain| {
            let times = Times {
                lame_duck: seconds(lame_duck),
                idle_grace,
                drain: seconds(drain),
            };
            let lifecycle = Lifecycle::new(times).unwrap();
            assert_eq!(grace(&lifecycle), None);
            lifecycle.shutdown();
            grace(&lifecycle)
        };
        assert_eq!(asked(Some(seconds(1)), 0, 25), Some(1000));
        assert_eq!(asked(Some(seconds(1)), 10, 25), Some(11_000));
        assert_eq!(asked(Some(seconds(30)), 0, 25), Some(25_000));
        assert_eq!(asked(None, 5, 25), Some(30_000));
        assert_eq!(asked(Some(Duration::ZERO), 0, 25), Some(0));
    }

    #[test]
    fn the_grace_ends_early_where_it_is_asked_to() {
        let lifecycle = Lifecycle::new(Times::default()).unwrap();
        let is_over = || [Idle::Parked, Idle::Held].map(|idle| lifecycle.is_grace_over(idle));
        lifecycle.end_grace(Idle::Held);
        assert_eq!(is_over(), [false, false], "there is no stop yet");
        lifecycle.shutdown();
        lifecycle.end_grace(Idle::Held);
        assert_eq!(is_over(), [false, true]);
        lifecycle.shutdown();
        assert_eq!(is_over(), [false, true], "the grace does not begin anew");
        lifecycle.end_grace(Idle::Parked);
        assert_eq!(is_over(), [true, true]);
    }
}
