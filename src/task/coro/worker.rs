//! A worker: the thread that runs coroutines, one at a time, and waits for events when all of them wait.

mod running;
mod shortage;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use corosensei::{Coroutine, CoroutineResult, Yielder};
use slab::Slab;

use crate::task::coro::driver::{self, Drive, Event};
use crate::task::coro::inbox::{Inbox, Message, Start};
use crate::task::coro::net::{SourceState, Waiter};
use crate::task::coro::prefetch;
use crate::task::coro::runtime::Runtime;
use crate::task::coro::stack::{PooledStack, StackPool};
use crate::task::coro::timers::Timers;
pub(crate) use crate::task::coro::worker::running::{Current, Remote, current};
use crate::task::coro::worker::shortage::Shortage;
use crate::task::local::Local;

/// The number of reads and writes after which a coroutine yields.
const BUDGET: u32 = 128;

/// Identifies a coroutine of a worker. The generation makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    index: usize,
    generation: u64,
}

/// Why a suspended coroutine is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Ready,
    TimedOut,
    /// The worker was cancelled, or the handler was aborted.
    Cancelled,
}

type Body = Coroutine<Wake, (), (), PooledStack>;

struct Task {
    generation: u64,
    /// `None` while the coroutine runs.
    body: Option<Body>,
    running: Rc<Running>,
    /// Whether the coroutine waits, and is not in the run queue.
    suspended: bool,
    /// The deadline of the wait.
    deadline: Option<Instant>,
    /// The time of the coroutine's timer, which may be earlier than its deadline.
    armed: Option<Instant>,
    /// The result of its completed receive, until the coroutine takes it.
    completed: Option<i32>,
    /// A stack address at its last suspension; zero before the first one.
    top: usize,
}

/// The most coroutines that run before the worker polls its driver again.
pub(crate) const RUNS_MAX: usize = 64;

/// The distance in the run queue between the running coroutine and the one whose memory is prefetched.
const PREFETCH_DISTANCE: usize = 2;

/// The part of a coroutine's state that its own code accesses while it runs.
struct Running {
    id: Cell<TaskId>,
    /// The label for the watchdog.
    label: u64,
    /// Whether a scope has spawned the coroutine; its spawner has the same label.
    is_part: bool,
    worker: Rc<Worker>,
    /// Points to the coroutine's own stack; valid from its first resume to its end.
    yielder: Cell<*const Yielder<Wake, ()>>,
    /// The reads and writes that are left before the coroutine yields.
    budget: Cell<u32>,
    local: Local,
}

type Queue = VecDeque<(TaskId, Wake)>;

/// The state of one worker. Only the worker's thread accesses it.
pub(crate) struct Worker {
    /// Unique in the process, from 1.
    id: u32,
    /// The index of the worker in its runtime.
    place: usize,
    tasks: RefCell<Slab<Task>>,
    pub(crate) sources: RefCell<Slab<SourceState>>,
    queue: RefCell<Queue>,
    /// Coroutines that have yielded: they run after the next poll of the driver.
    later: RefCell<Queue>,
    /// The number of coroutines that have run since the last poll of the driver.
    runs: Cell<usize>,
    timers: RefCell<Timers<TaskId>>,
    /// The wakers of edges that have come, to be called while nothing is borrowed.
    wakers: RefCell<Vec<Waker>>,
    pub(crate) driver: RefCell<Box<dyn Drive>>,
    stacks: StackPool,
    runtime: Arc<Runtime>,
    /// Coroutines that wait for a stack, with their labels.
    starts: RefCell<VecDeque<(Start, u64)>>,
    shortage: Cell<Option<Shortage>>,
    next_generation: Cell<u64>,
    next_source: Cell<u32>,
    /// The reason, once the worker has been cancelled.
    cancelled: Cell<Option<&'static str>>,
    closed: Cell<bool>,
}

/// A worker whose driver has failed.
pub(crate) struct Failed {
    pub(crate) error: io::Error,
    /// The labels of its coroutines, which are never resumed.
    pub(crate) labels: Vec<u64>,
}

thread_local! {
    /// The coroutine that runs on this thread.
    static RUNNING: RefCell<Option<Rc<Running>>> = const { RefCell::new(None) };
    /// The worker that runs on this thread.
    static HERE: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// Returns the worker that runs on this thread, also while no coroutine runs.
pub(crate) fn here() -> Option<Rc<Worker>> {
    // The destructor of another thread-local may call this after `HERE` is dropped.
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

/// Makes a worker the current one of this thread, until this guard is dropped.
struct Here(Option<Rc<Worker>>);

impl Here {
    fn enter(worker: &Rc<Worker>) -> Self {
        // A runtime may run in a coroutine of another runtime.
        Self(HERE.replace(Some(Rc::clone(worker))))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

impl Worker {
    /// Creates a worker with the driver of its runtime and memory for a first coroutine, on the thread that will
    /// run it.
    ///
    /// # Errors
    ///
    /// The system has no driver, or no memory for a stack.
    pub(crate) fn new(runtime: Arc<Runtime>, place: usize) -> io::Result<Rc<Self>> {
        let driver = driver::open(runtime.driver, &runtime.inboxes[place].waker)?;
        let worker = Self::with_driver(runtime, place, driver);
        // The stack returns to the pool, so the first coroutine finds one.
        drop(worker.stacks.take()?);
        Ok(worker)
    }

    pub(crate) fn with_driver(
        runtime: Arc<Runtime>,
        place: usize,
        driver: Box<dyn Drive>,
    ) -> Rc<Self> {
        // Zero means no worker.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        runtime.inboxes[place].worker.store(id, Ordering::Relaxed);
        Rc::new(Self {
            id,
            place,
            tasks: RefCell::default(),
            sources: RefCell::default(),
            queue: RefCell::default(),
            later: RefCell::default(),
            runs: Cell::new(0),
            timers: RefCell::default(),
            wakers: RefCell::default(),
            driver: RefCell::new(driver),
            stacks: StackPool::new(runtime.stack_size, runtime.gauge.clone()),
            runtime,
            starts: RefCell::default(),
            shortage: Cell::new(None),
            next_generation: Cell::new(0),
            next_source: Cell::new(0),
            cancelled: Cell::new(None),
            closed: Cell::new(false),
        })
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Returns the index of the worker in its runtime.
    pub(crate) const fn place(&self) -> usize {
        self.place
    }

    fn inbox(&self) -> &Inbox {
        &self.runtime.inboxes[self.place]
    }

    /// Lets another worker of the runtime remove the state of a descriptor.
    pub(crate) fn send_forget(&self, worker: u32, index: u32) {
        let is_other = |inbox: &&Inbox| inbox.worker.load(Ordering::Relaxed) == worker;
        if worker != self.id
            && let Some(inbox) = self.runtime.inboxes.iter().find(is_other)
        {
            inbox.send(Message::Forget(index));
        }
    }

    /// Returns a generation of 30 bits for a new source; the io_uring driver uses the other two bits. It may wrap:
    /// a stale event then causes one spurious wake-up.
    pub(crate) fn next_source(&self) -> u32 {
        let next = self.next_source.get();
        self.next_source.set((next + 1) & (u32::MAX >> 2));
        next
    }

    /// Runs coroutines until the inbox is closed and the last one has ended.
    pub(crate) fn run(self: &Rc<Self>) -> Result<(), Failed> {
        let _here = Here::enter(self);
        loop {
            // A look into the inbox takes a lock. As often as the driver is polled is enough while coroutines run.
            if self.runs.get() == 0 || self.queue.borrow().is_empty() {
                self.receive();
            }
            self.start_waiting();
            let ready = self.queue.borrow().len();
            self.runs.set(self.runs.get() + ready);
            for _ in 0..ready {
                self.prefetch_next();
                let next = self.queue.borrow_mut().pop_front();
                if let Some((id, wake)) = next {
                    self.resume(id, wake);
                }
            }
            if self.closed.get()
                && self.tasks.borrow().is_empty()
                && self.starts.borrow().is_empty()
            {
                return Ok(());
            }
            if let Err(error) = self.wait() {
                self.inbox().fail();
                self.starts.take();
                let tasks = self.tasks.take();
                let running = tasks.iter().map(|(_, task)| &task.running);
                let whole = running.filter(|running| !running.is_part);
                let labels = whole.map(|running| running.label).collect();
                // The driver may still write into buffers on these stacks, so they are leaked.
                std::mem::forget(tasks);
                return Err(Failed { error, labels });
            }
        }
    }

    /// Prefetches the memory of a coroutine that runs soon.
    fn prefetch_next(&self) {
        let queue = self.queue.borrow();
        let tasks = self.tasks.borrow();
        let soon = queue
            .get(PREFETCH_DISTANCE)
            .and_then(|(id, _)| tasks.get(id.index));
        if let Some(task) = soon.filter(|task| task.top != 0) {
            prefetch::stack(task.top);
            prefetch::line((&raw const *task.running).addr());
        }
    }

    /// Handles the messages of other threads.
    fn receive(self: &Rc<Self>) {
        for message in self.inbox().receive() {
            match message {
                Message::Start(start, label) => self.starts.borrow_mut().push_back((start, label)),
                Message::Wake(id) => self.wake(id, Wake::Ready),
                Message::Forget(index) => {
                    SourceState::remove(self, index, |driver, token| driver.forget(token));
                }
                Message::Cancel(why) => self.cancel(why),
                Message::Close => self.closed.set(true),
            }
        }
    }

    /// Cancels all coroutines: resumes each suspended one, whose waits fail from now on. Coroutines that wait for
    /// memory never start.
    fn cancel(&self, why: &'static str) {
        self.cancelled.set(Some(why));
        let starts = self.starts.take();
        starts.iter().for_each(|_| self.inbox().ended_one());
        drop(starts);
        let ids: Vec<_> = self
            .tasks
            .borrow()
            .iter()
            .map(|(index, task)| task.id(index))
            .collect();
        for id in ids {
            self.wake(id, Wake::Cancelled);
        }
    }

    fn start(self: &Rc<Self>, stack: PooledStack, start: Start, label: u64, is_part: bool) {
        let generation = self.next_generation.replace(self.next_generation.get() + 1);
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let id = TaskId {
            index: entry.key(),
            generation,
        };
        let running = Rc::new(Running {
            id: Cell::new(id),
            label,
            is_part,
            worker: Rc::clone(self),
            yielder: Cell::new(null()),
            budget: Cell::new(BUDGET),
            local: Local::default(),
        });
        let own = Rc::clone(&running);
        let body =
            Coroutine::with_stack(stack, move |yielder: &Yielder<Wake, ()>, _first: Wake| {
                own.yielder.set(yielder);
                drop(own);
                // A panic must not unwind into the worker; `start` reports its own panics.
                let _ = catch_unwind(AssertUnwindSafe(start));
            });
        entry.insert(Task {
            generation,
            body: Some(body),
            running,
            suspended: false,
            deadline: None,
            armed: None,
            completed: None,
            top: 0,
        });
        self.queue.borrow_mut().push_back((id, Wake::Ready));
    }

    /// Runs a coroutine until it is suspended or ends.
    fn resume(&self, id: TaskId, wake: Wake) {
        let (mut body, running) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks
                .get_mut(id.index)
                .filter(|task| task.generation == id.generation)
            else {
                return;
            };
            let Some(body) = task.body.take() else { return };
            (body, Rc::clone(&task.running))
        };
        running.budget.set(BUDGET);
        let heartbeat = &self.runtime.heartbeats.workers[self.place];
        heartbeat.resume(running.label);
        // A runtime may run in a coroutine of another runtime.
        let outer = RUNNING.replace(Some(running));
        let result = body.resume(wake);
        RUNNING.set(outer);
        heartbeat.suspend();
        match result {
            CoroutineResult::Yield(()) => self.tasks.borrow_mut()[id.index].body = Some(body),
            CoroutineResult::Return(()) => {
                let ended = self.tasks.borrow_mut().remove(id.index);
                drop((ended, body));
                self.retry_at_once();
                self.inbox().ended_one();
            }
        }
    }

    /// Puts a suspended coroutine into the run queue.
    pub(crate) fn wake(&self, id: TaskId, wake: Wake) {
        let mut tasks = self.tasks.borrow_mut();
        if let Some(task) = tasks
            .get_mut(id.index)
            .filter(|task| task.generation == id.generation && task.suspended)
        {
            task.suspended = false;
            task.deadline = None;
            self.queue.borrow_mut().push_back((id, wake));
        }
    }

    /// Waits for events. If coroutines are ready, it only polls the driver, once in `RUNS_MAX` runs.
    fn wait(&self) -> io::Result<()> {
        let ready = !self.queue.borrow().is_empty() || !self.inbox().prepare_to_sleep();
        // A poll costs a system call.
        if ready && self.runs.get() < RUNS_MAX {
            return Ok(());
        }
        let starved = self.shortage.get();
        let timeout = if ready || !self.later.borrow().is_empty() {
            Some(Duration::ZERO)
        } else {
            let first = self.timers.borrow().first();
            let first = first
                .into_iter()
                .chain(starved.map(|starved| starved.until));
            let first = first.min();
            first.map(|at| at.saturating_duration_since(Instant::now()))
        };
        let may_block = timeout != Some(Duration::ZERO);
        if may_block {
            self.runtime.heartbeats.wait(self.place);
        }
        let waited = self
            .driver
            .borrow_mut()
            .wait(timeout, &mut |event| self.on_event(event));
        if may_block {
            self.runtime.heartbeats.work(self.place);
        }
        self.call_wakers();
        self.runs.set(0);
        self.expire();
        let mut later = self.later.borrow_mut();
        self.queue.borrow_mut().append(&mut later);
        waited
    }

    /// Calls the wakers of the edges that have come. They run foreign code, whose panics must not unwind into the
    /// worker.
    fn call_wakers(&self) {
        for waker in self.wakers.take() {
            // The panic hook has reported the panic.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    fn on_event(&self, event: Event) {
        match event {
            Event::Edge(edge) => {
                SourceState::update(
                    &mut self.sources.borrow_mut(),
                    edge,
                    |waiter| match waiter {
                        Waiter::Task(id) => self.wake(id, Wake::Ready),
                        Waiter::Waker(waker) => self.wakers.borrow_mut().push(waker),
                    },
                );
            }
            Event::Done { task, result } => {
                let index = task as usize;
                let id = {
                    let mut tasks = self.tasks.borrow_mut();
                    // The coroutine cannot end before its receive has completed.
                    let Some(task) = tasks.get_mut(index) else {
                        return;
                    };
                    task.completed = Some(result);
                    task.id(index)
                };
                self.wake(id, Wake::Ready);
            }
        }
    }

    /// Wakes the coroutines whose deadline has come.
    fn expire(&self) {
        if self.timers.borrow().first().is_none() {
            return;
        }
        let now = Instant::now();
        loop {
            let Some(id) = self.timers.borrow_mut().pop(now) else {
                return;
            };
            let due = {
                let mut tasks = self.tasks.borrow_mut();
                let task = tasks
                    .get_mut(id.index)
                    .filter(|task| task.generation == id.generation);
                let Some(task) = task else { continue };
                task.armed = None;
                match task.deadline {
                    Some(deadline) if deadline > now => {
                        task.armed = Some(deadline);
                        self.timers.borrow_mut().push(deadline, id);
                        false
                    }
                    Some(_) => true,
                    None => false,
                }
            };
            if due {
                self.wake(id, Wake::TimedOut);
            }
        }
    }
}

impl Task {
    const fn id(&self, index: usize) -> TaskId {
        TaskId {
            index,
            generation: self.generation,
        }
    }
}

impl TaskId {
    /// Returns the index among the live coroutines of the worker.
    pub(crate) const fn index(self) -> u32 {
        self.index as u32
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.tasks.borrow().len();
        f.debug_struct("Worker")
            .field("id", &self.id)
            .field("tasks", &tasks)
            .finish_non_exhaustive()
    }
}
