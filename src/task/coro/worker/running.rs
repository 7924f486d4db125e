//! The coroutine that calls, as it reaches its worker.
#![expect(unsafe_code, reason = "reaching the yielder of the running coroutine")]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::task::coro::inbox::{Message, Start};
use crate::task::coro::runtime::Runtime;
use crate::task::coro::worker::{Queue, RUNNING, Running, TaskId, Wake, Worker, here};
use crate::task::local::Local;
use crate::task::signal::Wakeable;
use crate::task::wait::Task;

/// Why nothing can be waited for then.
const PANICKING: &str = "nothing can be waited for while a panic unwinds";

/// The coroutine that calls.
pub(crate) struct Current(Rc<Running>);

/// The coroutine that calls; `None` on an ordinary thread.
pub(crate) fn current() -> Option<Current> {
    // A thread-local of this thread may be dropped after that one.
    let running = RUNNING.try_with(|running| running.borrow().clone());
    running.ok().flatten().map(Current)
}

impl Current {
    pub(crate) fn worker(&self) -> &Worker {
        &self.0.worker
    }

    pub(crate) fn id(&self) -> TaskId {
        self.0.id.get()
    }

    /// Suspends the coroutine until it is woken, or until `deadline`, or until that of `timeout`.
    ///
    /// It is never suspended while a panic unwinds: the thread counts its panics, and the other coroutines
    /// would run as if it were theirs. And never once the worker has been told to end what is left, or
    /// the request of its handler was aborted.
    pub(crate) fn suspend(&self, deadline: Option<Instant>) -> Wake {
        self.suspend_until(deadline.into_iter().chain(self.local().deadline()).min())
    }

    /// As [`suspend`](Self::suspend), for what a `timeout` does not end.
    pub(crate) fn suspend_until(&self, deadline: Option<Instant>) -> Wake {
        if !self.may_suspend() {
            return Wake::Cancelled;
        }
        match self.suspend_always(deadline) {
            _ if self.local().aborted().is_some() => Wake::Cancelled,
            wake => wake,
        }
    }

    /// As [`suspend`](Self::suspend), also once the worker has been told to end what is left: for whoever
    /// waits for that end.
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

    /// Whether [`suspend`](Self::suspend) suspends.
    pub(crate) fn may_suspend(&self) -> bool {
        self.worker().cancelled.get().is_none()
            && self.local().aborted().is_none()
            && !std::thread::panicking()
    }

    /// Suspends the coroutine until it is woken, whatever the worker has been told: for what the driver
    /// has begun.
    pub(crate) fn suspend_uninterruptible(&self) {
        {
            let mut tasks = self.worker().tasks.borrow_mut();
            tasks[self.id().index].suspended = true;
        }
        self.switch();
    }

    /// What the driver has completed for this coroutine since it was asked last.
    pub(crate) fn take_completion(&self) -> Option<i32> {
        let mut tasks = self.worker().tasks.borrow_mut();
        tasks[self.id().index].completed.take()
    }

    fn switch(&self) -> Wake {
        // SAFETY: the yielder lives on the stack of this coroutine, which is the one that runs:
        // `RUNNING` names it from before its resume until after, and its root has set the pointer
        // before anything else ran.
        let yielder = unsafe { &*self.0.yielder.get() };
        yielder.suspend(())
    }

    /// Lets the others run, and the world be looked at.
    pub(crate) fn yield_now(&self) {
        self.go_on(&self.worker().later);
    }

    /// Lets those run that are ready.
    pub(crate) fn hand_over(&self) {
        self.go_on(&self.worker().queue);
    }

    fn go_on(&self, at_the_end_of: &RefCell<Queue>) {
        if std::thread::panicking() {
            return;
        }
        at_the_end_of
            .borrow_mut()
            .push_back((self.id(), Wake::Ready));
        self.switch();
    }

    /// Whether its worker is one of `runtime`.
    pub(crate) fn is_of(&self, runtime: &Runtime) -> bool {
        std::ptr::eq(&raw const *self.0.worker.runtime, runtime)
    }

    /// Starts a coroutine on the worker at `place` of `runtime`, if that is the one that runs here.
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

    /// Starts a coroutine on the same worker, which runs when this one waits.
    ///
    /// # Errors
    ///
    /// There is no memory for its stack, or a panic unwinds: then nobody could wait for it.
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

    /// Counts a read or a write that did not have to wait; now and then lets the others run.
    pub(crate) fn spend(&self) {
        match self.0.budget.get().checked_sub(1) {
            Some(left) => self.0.budget.set(left),
            None => self.yield_now(),
        }
    }

    /// Why waiting fails: what was given with the order to end what is left.
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

    /// Has an abort of the handler's request interrupt this coroutine.
    pub(crate) fn watch_abort(&self) {
        if self.local().is_handling() {
            let task = Task::Coroutine(Self(Rc::clone(&self.0)));
            self.local().watch_abort(&task.signal().0);
        }
    }

    /// What wakes this coroutine, from any thread.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            runtime: self.runtime(),
            place: self.worker().place,
            worker: self.worker().id,
            id: self.id(),
        }
    }
}

/// A coroutine, as whoever wakes it knows it. It may be over.
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
