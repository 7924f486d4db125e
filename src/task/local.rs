//! What belongs to one task, a thread or a coroutine: whose handler it runs, until when it may wait, and
//! what wakes it.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::task::abort::{AbortSignal, Host, Request};
use crate::task::signal::Signal;
use crate::task::wait::{Target, Task};

/// The state of a task. Only its own thread ever touches it.
#[derive(Default)]
pub(crate) struct Local {
    /// Waits end by then.
    deadline: Cell<Option<Instant>>,
    /// The handler that it runs, or a part of it.
    handling: RefCell<Option<Handling>>,
    signal: OnceCell<(Arc<Signal>, Waker)>,
}

/// A handler that is being run.
struct Handling {
    host: Arc<dyn Host>,
    request: Request,
    /// Made by the first wait that needs it, and shared with what runs beside the handler.
    abort: OnceCell<Arc<AbortSignal>>,
    /// Whether that interrupts this task.
    joined: Cell<bool>,
    /// It runs beside a handler, which outlives it.
    is_part: bool,
}

/// What a task takes over from the one that it runs beside.
#[derive(Clone)]
pub(crate) struct Inherited {
    deadline: Option<Instant>,
    handling: Option<(Arc<dyn Host>, Request, Arc<AbortSignal>)>,
}

/// A handler that this task runs, until this is dropped.
#[must_use]
pub(crate) struct Entered {
    task: Task,
    /// What the task was at before: a handler may itself run one of another host.
    before: (Option<Instant>, Option<Handling>),
}

impl Local {
    /// The signal of this task, and its waker; the first call makes them.
    pub(crate) fn signal(&self, target: impl FnOnce() -> Target) -> &(Arc<Signal>, Waker) {
        self.signal.get_or_init(|| {
            let signal = Arc::new(Signal::new(target()));
            let waker = Waker::from(Arc::clone(&signal));
            (signal, waker)
        })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    /// Replaces the deadline, and returns the one before.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        self.deadline.replace(deadline)
    }

    /// Whether this task runs a handler, or a part of one.
    pub(crate) fn is_handling(&self) -> bool {
        self.handling.borrow().is_some()
    }

    /// Why the waits of this task fail, as far as one has [asked for it](Self::watch_abort).
    pub(crate) fn aborted(&self) -> Option<&'static str> {
        self.handling.borrow().as_ref()?.abort.get()?.why()
    }

    /// Has an abort of the handler's request interrupt this task, and says whether there was one.
    pub(crate) fn watch_abort(&self, signal: &Arc<Signal>) -> Option<&'static str> {
        let handling = self.handling.borrow();
        let handling = handling.as_ref()?;
        let abort = handling.abort();
        if !handling.joined.replace(true) {
            abort.join(signal);
        }
        abort.why()
    }

    /// What a task beside this one takes over. The abort of the handler reaches that one too.
    pub(crate) fn inherit(&self) -> Inherited {
        let handling = self.handling.borrow();
        let handling = handling.as_ref().map(|handling| {
            let host = Arc::clone(&handling.host);
            (host, handling.request, Arc::clone(handling.abort()))
        });
        Inherited {
            deadline: self.deadline(),
            handling,
        }
    }

    /// Who runs the handler.
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
            Arc::clone(&self.host).watch(self.request, &abort);
            abort
        })
    }
}

impl Inherited {
    /// Makes the task that calls a part of the handler.
    pub(crate) fn enter(self) -> Entered {
        let handling = self.handling.map(|(host, request, abort)| Handling {
            host,
            request,
            abort: OnceCell::from(abort),
            joined: Cell::new(false),
            is_part: true,
        });
        Entered::new(self.deadline, handling)
    }
}

impl Entered {
    /// Says that the task that calls runs the handler of a request.
    pub(crate) fn handler(host: Arc<dyn Host>, request: Request) -> Self {
        let handling = Handling {
            host,
            request,
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
            ended.host.forget(ended.request);
        }
    }
}
