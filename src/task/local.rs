//! The state of one task, which is a thread or a coroutine: its handler, its deadline and its signal.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::sys::poll::{Directions, Interest};
use crate::task::abort::{AbortSignal, HandlerId, Host};
use crate::task::signal::Signal;
use crate::task::wait::{Target, Task};

/// The state of a task. Only the thread of the task accesses it.
#[derive(Default)]
pub(crate) struct Local {
    /// The deadline of all waits.
    deadline: Cell<Option<Instant>>,
    /// The handler that the task runs, in whole or in part.
    handling: RefCell<Option<Handling>>,
    signal: OnceCell<(Arc<Signal>, Waker)>,
    /// The number of waits by the signal that are under way: more than one where they nest.
    waits: Cell<usize>,
    /// How many waits for futures the task is in, one within the other.
    depth: Cell<usize>,
    /// The connection that futures of the innermost wait poll.
    polled: RefCell<Polled>,
}

/// A connection that futures of a wait poll, and the directions.
#[derive(Default)]
pub(crate) struct Polled {
    connection: Option<(Arc<dyn Host>, HandlerId)>,
    directions: Directions,
}

/// A running handler.
struct Handling {
    host: Arc<dyn Host>,
    handler: HandlerId,
    /// Created by the first wait that needs it; the tasks of a scope share it.
    abort: OnceCell<Arc<AbortSignal>>,
    /// Whether `abort` interrupts this task.
    joined: Cell<bool>,
    /// Whether a scope has spawned this task; the handler outlives it.
    is_part: bool,
}

/// The state that a spawned task takes over from its spawner.
#[derive(Clone)]
pub(crate) struct Inherited {
    deadline: Option<Instant>,
    handling: Option<(Arc<dyn Host>, HandlerId, Arc<AbortSignal>)>,
}

/// Marks the task that calls as running a handler, until this guard is dropped.
#[must_use]
pub(crate) struct Entered {
    task: Task,
    /// The former state: a handler may itself run a server whose handlers run in the same task.
    before: (Option<Instant>, Option<Handling>),
}

impl Local {
    /// Returns the signal of this task, and its waker; the first call creates them.
    pub(crate) fn signal(&self, target: impl FnOnce() -> Target) -> &(Arc<Signal>, Waker) {
        self.signal.get_or_init(|| {
            let signal = Arc::new(Signal::new(target()));
            let waker = Waker::from(Arc::clone(&signal));
            (signal, waker)
        })
    }

    /// Begins a wait by the signal.
    pub(crate) fn begin_wait(&self) {
        self.waits.set(self.waits.get() + 1);
    }

    /// Ends a wait by the signal. Returns whether it was within another one.
    pub(crate) fn end_wait(&self) -> bool {
        let outer = self.waits.get() - 1;
        self.waits.set(outer);
        outer > 0
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    /// Replaces the deadline, and returns the former one.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        self.deadline.replace(deadline)
    }

    /// Returns whether this task runs a handler, in whole or in part.
    pub(crate) fn is_handling(&self) -> bool {
        self.handling.borrow().is_some()
    }

    /// Returns the reason of an abort, if the handler was aborted and a wait
    /// [watches for it](Self::watch_abort).
    pub(crate) fn aborted(&self) -> Option<&'static str> {
        self.handling.borrow().as_ref()?.abort.get()?.why()
    }

    /// Lets an abort of the handler interrupt this task, and returns the reason if it was aborted already.
    pub(crate) fn watch_abort(&self, signal: &Arc<Signal>) -> Option<&'static str> {
        let handling = self.handling.borrow();
        let handling = handling.as_ref()?;
        let abort = handling.abort();
        if !handling.joined.replace(true) {
            abort.join(signal);
        }
        abort.why()
    }

    /// Returns the state for a task that this one spawns: an abort of the handler reaches it too.
    pub(crate) fn inherit(&self) -> Inherited {
        let handling = self.handling.borrow();
        let handling = handling.as_ref().map(|handling| {
            let host = Arc::clone(&handling.host);
            (host, handling.handler, Arc::clone(handling.abort()))
        });
        Inherited {
            deadline: self.deadline(),
            handling,
        }
    }

    /// Begins a wait for futures, within others perhaps. Returns the state of the wait around it.
    pub(crate) fn begin_polls(&self) -> Polled {
        self.depth.set(self.depth.get() + 1);
        self.polled.take()
    }

    /// Ends a wait for futures, and tells the server that they poll no longer.
    pub(crate) fn end_polls(&self, around: Polled) {
        self.depth.set(self.depth.get() - 1);
        let Polled {
            connection,
            directions,
        } = self.polled.replace(around);
        if let Some((host, handler)) = connection {
            host.end_polls(handler, directions);
        }
    }

    /// Returns whether the task is in a wait for futures, so that their wakers wake it.
    pub(crate) fn is_polling(&self) -> bool {
        self.depth.get() > 0
    }

    /// Notes that a future of the current wait waits for a connection.
    pub(crate) fn note_poll(
        &self,
        host: impl FnOnce() -> Arc<dyn Host>,
        handler: HandlerId,
        interest: Interest,
    ) {
        let mut polled = self.polled.borrow_mut();
        let connection = &mut polled.connection;
        connection.get_or_insert_with(|| (host(), handler));
        polled.directions = polled.directions.with(interest);
    }

    /// Notes that no future of the current wait waits for the connection in this direction any more.
    pub(crate) fn forget_poll(&self, interest: Interest) {
        let mut polled = self.polled.borrow_mut();
        polled.directions = polled.directions.without(interest);
    }

    /// Returns the server that runs the handler.
    pub(crate) fn host(&self) -> Option<Arc<dyn Host>> {
        let handling = self.handling.borrow();
        Some(Arc::clone(&handling.as_ref()?.host))
    }

    fn replace(
        &self,
        deadline: Option<Instant>,
        handling: Option<Handling>,
    ) -> (Option<Instant>, Option<Handling>) {
        let deadline = self.deadline.replace(deadline);
        (deadline, self.handling.replace(handling))
    }
}

impl Handling {
    fn abort(&self) -> &Arc<AbortSignal> {
        self.abort.get_or_init(|| {
            let abort = Arc::default();
            Arc::clone(&self.host).watch(self.handler, &abort);
            abort
        })
    }
}

impl Inherited {
    /// Makes the task that calls run a part of the handler.
    pub(crate) fn enter(self) -> Entered {
        let handling = self.handling.map(|(host, handler, abort)| Handling {
            host,
            handler,
            abort: OnceCell::from(abort),
            joined: Cell::new(false),
            is_part: true,
        });
        Entered::new(self.deadline, handling)
    }
}

impl Entered {
    /// Makes the task that calls run a handler.
    pub(crate) fn handler(host: Arc<dyn Host>, handler: HandlerId) -> Self {
        let handling = Handling {
            host,
            handler,
            abort: OnceCell::new(),
            joined: Cell::new(false),
            is_part: false,
        };
        Self::new(None, Some(handling))
    }

    fn new(deadline: Option<Instant>, handling: Option<Handling>) -> Self {
        let task = Task::here();
        let before = task.local().replace(deadline, handling);
        Self { task, before }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (deadline, handling) = (self.before.0, self.before.1.take());
        let (_, ended) = self.task.local().replace(deadline, handling);
        let Some(ended) = ended else { return };
        let Some(abort) = ended.abort.get() else {
            return;
        };
        if ended.joined.get() {
            abort.leave(&self.task.signal().0);
        }
        if !ended.is_part {
            ended.host.forget(ended.handler);
        }
    }
}
