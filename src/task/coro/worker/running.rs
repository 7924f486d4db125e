//! The operations of the running coroutine on its worker.
#![expect(unsafe_code, reason = "reaching the yielder of the running coroutine")]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use corosensei::Yielder;

use crate::task::coro::inbox::{Message, Start};
use crate::task::coro::runtime::Runtime;
use crate::task::coro::worker::{Queue, RUNNING, Running, TaskId, Wake, Worker, here};
use crate::task::local::Local;
use crate::task::signal::Wakeable;
use crate::task::wait::Task;

/// Why a wait fails during a panic.
const PANICKING: &str = "a coroutine cannot wait while a panic unwinds";

/// The coroutine that calls.
pub(crate) struct Current(Rc<Running>);

/// Returns the coroutine that calls; `None` outside of coroutines.
pub(crate) fn current() -> Option<Current> {
    // The destructor of another thread-local may call this after `RUNNING` is dropped.
    let running = RUNNING.try_with(|running| running.borrow().clone());
    running.ok().flatten().map(Current)
}

/// Hides the coroutine that runs, until this guard is dropped.
#[cfg(feature = "tls")]
struct RunsNone(Option<Rc<Running>>);

#[cfg(feature = "tls")]
impl Drop for RunsNone {
    fn drop(&mut self) {
        RUNNING.set(self.0.take());
    }
}

impl Current {
    pub(crate) fn worker(&self) -> &Worker {
        &self.0.worker
    }

    pub(crate) fn id(&self) -> TaskId {
        self.0.id.get()
    }

    /// Suspends the coroutine until it is woken, or until `deadline` or the deadline of `timeout`.
    ///
    /// It returns `Cancelled` at once if the worker has been cancelled, if the handler was aborted, and while a
    /// panic unwinds: the standard library counts panics by thread, so other coroutines would see that panic as
    /// theirs.
    pub(crate) fn suspend(&self, deadline: Option<Instant>) -> Wake {
        self.suspend_until(deadline.into_iter().chain(self.local().deadline()).min())
    }

    /// As [`suspend`](Self::suspend), without the deadline of `timeout`.
    pub(crate) fn suspend_until(&self, deadline: Option<Instant>) -> Wake {
        if !self.may_suspend() {
            return Wake::Cancelled;
        }
        match self.suspend_always(deadline) {
            _ if self.local().aborted().is_some() => Wake::Cancelled,
            wake => wake,
        }
    }

    /// As [`suspend_until`](Self::suspend_until), even if the worker has been cancelled or the handler was aborted.
    pub(crate) fn suspend_always(&self, deadline: Option<Instant>) -> Wake {
        if std::thread::panicking() {
            return Wake::Cancelled;
        }
        let worker = self.worker();
        {
            let mut tasks = worker.tasks.borrow_mut();
            let task = &mut tasks[self.id().index];
            task.suspended = true;
            let here = 0_u8;
            task.top = (&raw const here).addr();
            task.deadline = deadline;
            if let Some(at) = deadline.filter(|at| task.armed.is_none_or(|armed| armed > *at)) {
                task.armed = Some(at);
                worker.timers.borrow_mut().push(at, self.id());
            }
        }
        self.switch()
    }

    /// Returns whether [`suspend`](Self::suspend) would suspend the coroutine.
    pub(crate) fn may_suspend(&self) -> bool {
        self.worker().cancelled.get().is_none()
            && self.local().aborted().is_none()
            && !std::thread::panicking()
    }

    /// Suspends the coroutine until it is woken, in any case: for the completion of a receive, and other conditions
    /// that are sure to come.
    pub(crate) fn suspend_uninterruptible(&self) {
        {
            let mut tasks = self.worker().tasks.borrow_mut();
            tasks[self.id().index].suspended = true;
        }
        self.switch();
    }

    /// Takes the result of the completed receive, if there is one.
    pub(crate) fn take_completion(&self) -> Option<i32> {
        let mut tasks = self.worker().tasks.borrow_mut();
        tasks[self.id().index].completed.take()
    }

    fn switch(&self) -> Wake {
        self.yielder().suspend(())
    }

    /// Runs `work` on the stack of the worker's thread, where no coroutine runs: a wait there blocks the thread.
    #[cfg(feature = "tls")]
    pub(crate) fn on_worker_stack<R>(&self, work: impl FnOnce() -> R + Send) -> R {
        let _suspended = RunsNone(RUNNING.take());
        self.yielder().on_parent_stack(work)
    }

    fn yielder(&self) -> &Yielder<Wake, ()> {
        // SAFETY: the yielder lives on the stack of this coroutine, which is running: `RUNNING` holds it from
        // before its resume until after, and the coroutine sets the pointer before it runs any other code.
        unsafe { &*self.0.yielder.get() }
    }

    /// Lets the other coroutines run, and the worker poll its driver, before this coroutine goes on.
    pub(crate) fn yield_now(&self) {
        self.requeue(&self.worker().later);
    }

    /// Lets the ready coroutines run before this one goes on.
    pub(crate) fn hand_over(&self) {
        self.requeue(&self.worker().queue);
    }

    fn requeue(&self, queue: &RefCell<Queue>) {
        if std::thread::panicking() {
            return;
        }
        queue.borrow_mut().push_back((self.id(), Wake::Ready));
        self.switch();
    }

    /// Returns whether the coroutine's worker belongs to `runtime`.
    pub(crate) fn is_of(&self, runtime: &Runtime) -> bool {
        std::ptr::eq(&raw const *self.0.worker.runtime, runtime)
    }

    /// Starts a coroutine on worker `place` of `runtime`, if that is the worker of this coroutine; returns `start`
    /// otherwise.
    pub(crate) fn start(
        &self,
        runtime: &Runtime,
        place: usize,
        start: Start,
        label: u64,
    ) -> Result<(), Start> {
        let worker = &self.0.worker;
        if worker.place != place || !self.is_of(runtime) {
            return Err(start);
        }
        worker.inbox().began_one();
        worker.starts.borrow_mut().push_back((start, label));
        worker.start_waiting();
        Ok(())
    }

    /// Starts a coroutine on the same worker. It runs when this one waits.
    ///
    /// # Errors
    ///
    /// - The system has no memory for its stack.
    /// - `ConnectionAborted`: a panic unwinds, so this coroutine could not wait for the new one.
    pub(crate) fn start_beside(&self, start: Start) -> io::Result<()> {
        if std::thread::panicking() {
            let err = io::Error::new(io::ErrorKind::ConnectionAborted, PANICKING);
            return Err(err);
        }
        let worker = &self.0.worker;
        if worker.runtime.room() == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let stack = worker.stacks.take()?;
        worker.inbox().began_one();
        worker.start(stack, start, self.0.label, true);
        Ok(())
    }

    /// Counts an operation that need not wait; yields after [`BUDGET`](super::BUDGET) of them.
    pub(crate) fn spend(&self) {
        match self.0.budget.get().checked_sub(1) {
            Some(left) => self.0.budget.set(left),
            None => self.yield_now(),
        }
    }

    /// Returns why waits fail: the reason of the abort or of the cancellation.
    pub(crate) fn why_cancelled(&self) -> &'static str {
        let why = self.local().aborted();
        let why = why.or_else(|| self.worker().cancelled.get());
        why.unwrap_or(PANICKING)
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.worker().runtime)
    }

    pub(crate) fn local(&self) -> &Local {
        &self.0.local
    }

    /// Lets an abort of the handler interrupt this coroutine.
    pub(crate) fn watch_abort(&self) {
        if self.local().is_handling() {
            let task = Task::Coroutine(Self(Rc::clone(&self.0)));
            self.local().watch_abort(&task.signal().0);
        }
    }

    /// Returns the target of this coroutine's signal.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            runtime: self.runtime(),
            place: self.worker().place,
            worker: self.worker().id,
            id: self.id(),
        }
    }
}

/// Wakes a coroutine from any thread; no effect once the coroutine has ended.
#[derive(Debug)]
pub(crate) struct Remote {
    runtime: Arc<Runtime>,
    place: usize,
    worker: u32,
    id: TaskId,
}

impl Wakeable for Remote {
    fn wake(&self) {
        match here() {
            Some(worker) if worker.id == self.worker => worker.wake(self.id, Wake::Ready),
            _ => self.runtime.inboxes[self.place].send(Message::Wake(self.id)),
        }
    }
}
