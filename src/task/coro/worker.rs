//! One worker: the thread that runs coroutines, one at a time, until all of them wait.

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

/// How many reads and writes a coroutine may do before the others get their turn.
const BUDGET: u32 = 128;

/// Names a coroutine of a worker. An old name never fits a new coroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    index: usize,
    generation: u64,
}

/// Why a suspended coroutine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Ready,
    TimedOut,
    /// The worker ends what is left.
    Cancelled,
}

type Body = Coroutine<Wake, (), (), PooledStack>;

struct Task {
    generation: u64,
    /// Absent while it runs.
    body: Option<Body>,
    running: Rc<Running>,
    /// Whether it waits, and is not in the run queue.
    suspended: bool,
    /// When the wait times out, and the entry among the timers that will look at it.
    deadline: Option<Instant>,
    armed: Option<Instant>,
    /// What its driver has completed for it, until it looks.
    completed: Option<i32>,
    /// Where its stack was when it was suspended; zero before that.
    top: usize,
}

/// How many coroutines run at most before the worker looks at the world again, where more are ready.
pub(crate) const RUNS_MAX: usize = 64;

/// How far ahead of the coroutine that runs the memory of others is fetched.
const PREFETCH_DISTANCE: usize = 2;

/// What a running coroutine reaches its worker with.
struct Running {
    id: Cell<TaskId>,
    /// What the watchdog calls it.
    label: u64,
    /// It runs beside another one, which has the label too.
    is_part: bool,
    worker: Rc<Worker>,
    /// Lives on the coroutine's own stack, from its first resume to its end.
    yielder: Cell<*const Yielder<Wake, ()>>,
    /// Reads and writes left before it must let others run.
    budget: Cell<u32>,
    local: Local,
}

type Queue = VecDeque<(TaskId, Wake)>;

/// The state of one worker. Only its own thread ever touches it.
pub(crate) struct Worker {
    id: u32,
    /// Which of the runtime it is.
    place: usize,
    tasks: RefCell<Slab<Task>>,
    pub(crate) sources: RefCell<Slab<SourceState>>,
    queue: RefCell<Queue>,
    /// Those that let the others run: they go on after the next look at the world.
    later: RefCell<Queue>,
    /// How many have run since the last one.
    runs: Cell<usize>,
    timers: RefCell<Timers<TaskId>>,
    /// Those of edges that have come, called when nothing is borrowed.
    wakers: RefCell<Vec<Waker>>,
    pub(crate) driver: RefCell<Box<dyn Drive>>,
    stacks: StackPool,
    runtime: Arc<Runtime>,
    /// What waits for a stack.
    starts: RefCell<VecDeque<(Start, u64)>>,
    shortage: Cell<Option<Shortage>>,
    next_generation: Cell<u64>,
    next_source: Cell<u32>,
    /// Why what is left is being ended, once it is.
    cancelled: Cell<Option<&'static str>>,
    closed: Cell<bool>,
}

/// A worker whose driver has failed.
pub(crate) struct Failed {
    pub(crate) error: io::Error,
    /// The labels of its coroutines, which will never go on.
    pub(crate) labels: Vec<u64>,
}

thread_local! {
    /// The coroutine that runs on this thread now.
    static RUNNING: RefCell<Option<Rc<Running>>> = const { RefCell::new(None) };
    /// The worker that runs on it, in a coroutine or between two.
    static HERE: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// The worker that runs on this thread, in a coroutine or between two.
pub(crate) fn here() -> Option<Rc<Worker>> {
    // A thread-local of this thread may be dropped after that one.
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

/// Makes a worker the one that runs here, until this is dropped.
struct Here(Option<Rc<Worker>>);

impl Here {
    fn enter(worker: &Rc<Worker>) -> Self {
        // A runtime may itself run in a coroutine of another one.
        Self(HERE.replace(Some(Rc::clone(worker))))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

impl Worker {
    /// A worker with the driver of its runtime and memory for a first coroutine, on the thread that will
    /// run it.
    ///
    /// # Errors
    ///
    /// What could not be had.
    pub(crate) fn new(runtime: Arc<Runtime>, place: usize) -> io::Result<Rc<Self>> {
        let driver = driver::open(runtime.driver, &runtime.inboxes[place].waker)?;
        let worker = Self::with_driver(runtime, place, driver);
        // It goes back to the pool, and stays there.
        drop(worker.stacks.take()?);
        Ok(worker)
    }

    pub(crate) fn with_driver(
        runtime: Arc<Runtime>,
        place: usize,
        driver: Box<dyn Drive>,
    ) -> Rc<Self> {
        // Zero is none.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Rc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
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

    /// Which of its runtime it is.
    pub(crate) const fn place(&self) -> usize {
        self.place
    }

    fn inbox(&self) -> &Inbox {
        &self.runtime.inboxes[self.place]
    }

    /// A generation for a new source, of 30 bits: a driver uses the others. It may come round: an
    /// event of an old source then is one too many for a new one.
    pub(crate) fn next_source(&self) -> u32 {
        let next = self.next_source.get();
        self.next_source.set((next + 1) & (u32::MAX >> 2));
        next
    }

    /// Runs coroutines until the inbox is closed and the last one has ended.
    pub(crate) fn run(self: &Rc<Self>) -> Result<(), Failed> {
        let _here = Here::enter(self);
        loop {
            self.receive();
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
                // The driver may still write into buffers on these stacks.
                std::mem::forget(tasks);
                return Err(Failed { error, labels });
            }
        }
    }

    /// Has the memory of a coroutine that runs soon on its way.
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

    /// Takes what other threads have sent.
    fn receive(self: &Rc<Self>) {
        for message in self.inbox().receive() {
            match message {
                Message::Start(start, label) => self.starts.borrow_mut().push_back((start, label)),
                Message::Wake(id) => self.wake(id, Wake::Ready),
                Message::Cancel(why) => self.cancel(why),
                Message::Close => self.closed.set(true),
            }
        }
    }

    /// Ends what is left: each suspended coroutine goes on, and cannot be suspended again. What waits for memory
    /// never begins.
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
                // Nothing unwinds into the worker: what is started reports its own panics.
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
        // A runtime may itself run in a coroutine of another one.
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

    /// Waits for the world. Where there is something to run, looks at it now and then.
    fn wait(&self) -> io::Result<()> {
        let ready = !self.queue.borrow().is_empty() || !self.inbox().prepare_to_sleep();
        // A look is a system call.
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

    /// Calls the wakers of the edges that have come. They run code of others, which may do anything but
    /// unwind into the worker.
    fn call_wakers(&self) {
        for waker in self.wakers.take() {
            // The panic hook has told of it.
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
                    // It is there: it cannot end before it has heard of this.
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
    /// Which of the coroutines of its worker that are there now.
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
