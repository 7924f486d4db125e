//! A thread pool: runs the handlers of the threading and thread pool models, the offloaded calls of coroutines,
//! and the scopes of handlers on threads.
//!
//! The thread that has been idle for the shortest time gets the next task: its stack is in the cache, and the
//! other threads can end.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) threads: usize,
    /// How many tasks may wait for a thread.
    pub(crate) queue: usize,
    /// How long an idle thread lives; `None`: as long as the pool.
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) stack_size: Option<usize>,
}

/// A pool of threads. Dropping it ends the threads as they become idle, and does not wait for them.
pub(crate) struct Threads {
    pool: Arc<Pool>,
}

/// A reserved thread, or a reserved entry of the queue, for one task.
#[must_use]
pub(crate) struct Reserved<'a>(&'a Pool);

struct Pool {
    limits: Limits,
    state: Mutex<State>,
    /// Called when a thread has become free.
    on_room: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    /// Idle threads; the last one became idle last.
    idle: Vec<Arc<IdleSlot>>,
    /// The handles of the threads that run.
    threads: HashMap<ThreadId, JoinHandle<()>>,
    /// The handles of threads that are about to return: joining them does not block for long.
    ended: Vec<JoinHandle<()>>,
    starting: usize,
    /// The number of live [`Reserved`] values.
    reserved: usize,
    closing: bool,
}

/// The slot on which an idle thread waits for a call.
#[derive(Default)]
struct IdleSlot {
    call: Mutex<Option<Call>>,
    called: Condvar,
}

enum Call {
    Work(Task),
    Leave,
}

impl Threads {
    pub(crate) fn new(limits: Limits, on_room: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            pool: Arc::new(Pool {
                limits,
                state: Mutex::default(),
                on_room: Box::new(on_room),
            }),
        }
    }

    /// Returns how many more tasks fit, on threads and in the queue.
    pub(crate) fn room(&self) -> usize {
        let state = self.pool.state();
        let Limits { threads, queue, .. } = self.pool.limits;
        let free = threads - state.count() + state.idle.len() + state.starting;
        free.saturating_add(queue).saturating_sub(state.queue.len())
    }

    /// Returns whether queued tasks wait for busy threads.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.pool.state();
        state.queue.len() > state.idle.len() + state.starting
    }

    /// Starts threads until there are `count`.
    pub(crate) fn start(&self, count: usize) -> io::Result<()> {
        let mut state = self.pool.state();
        while state.count() < count {
            self.spawn(&mut state)?;
        }
        Ok(())
    }

    /// Reserves a thread, or an entry of the queue, for one task.
    ///
    /// # Errors
    ///
    /// A new thread is needed, and the system cannot start one.
    pub(crate) fn reserve(&self) -> io::Result<Reserved<'_>> {
        let mut state = self.pool.state();
        self.prepare(&mut state)?;
        state.reserved += 1;
        Ok(Reserved(&self.pool))
    }

    /// Runs a task on a free thread, or on a new one.
    ///
    /// # Errors
    ///
    /// The task is dropped.
    ///
    /// - `ResourceBusy`: all threads are busy, and their number is at its limit.
    /// - As [`reserve`](Self::reserve).
    pub(crate) fn run_now(&self, task: Task) -> io::Result<()> {
        let mut state = self.pool.state();
        if !self.prepare(&mut state)? {
            let busy = format!("all {} threads are busy", self.pool.limits.threads);
            drop(state);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, busy));
        }
        Pool::execute(state, task);
        Ok(())
    }

    /// Starts a thread if the next task needs one and the limit allows it. Returns whether a thread is free for
    /// that task.
    fn prepare(&self, state: &mut State) -> io::Result<bool> {
        join(state.ended.drain(..));
        let is_free =
            |state: &State| state.idle.len() + state.starting > state.queue.len() + state.reserved;
        if !is_free(state) && state.count() < self.pool.limits.threads {
            self.spawn(state)?;
        }
        Ok(is_free(state))
    }

    /// Ends the threads as they become idle, and joins them unless one `is_stuck` in a task.
    pub(crate) fn finish(&self, is_stuck: bool) {
        self.pool.close();
        join(std::mem::take(&mut self.pool.state().ended));
        if !is_stuck {
            let threads = std::mem::take(&mut self.pool.state().threads);
            join(threads.into_values());
        }
    }

    fn spawn(&self, state: &mut State) -> io::Result<()> {
        let mut builder = thread::Builder::new().name("socketserver".to_owned());
        if let Some(size) = self.pool.limits.stack_size {
            builder = builder.stack_size(size);
        }
        let pool = Arc::clone(&self.pool);
        // The caller holds the lock, for which the thread waits, so the handle is stored before the thread ends.
        let thread = builder.spawn(move || pool.work())?;
        state.starting += 1;
        state.threads.insert(thread.thread().id(), thread);
        Ok(())
    }
}

impl Reserved<'_> {
    /// Hands the task to an idle thread, or queues it for the next one that becomes free.
    pub(crate) fn execute(self, task: Task) {
        Pool::execute(self.0.state(), task);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.state().reserved -= 1;
    }
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        // Tasks catch their own panics.
        let _ = thread.join();
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(mut state: MutexGuard<'_, State>, task: Task) {
        match state.idle.pop() {
            Some(slot) => {
                drop(state);
                slot.call(Call::Work(task));
            }
            None => state.queue.push_back(task),
        }
    }

    /// Ends the idle threads, and the busy ones as they become idle.
    fn close(&self) {
        let idle = {
            let mut state = self.state();
            state.closing = true;
            std::mem::take(&mut state.idle)
        };
        for slot in idle {
            slot.call(Call::Leave);
        }
    }

    /// The main function of each thread.
    fn work(&self) {
        let slot = Arc::new(IdleSlot::default());
        let mut state = self.state();
        state.starting -= 1;
        loop {
            let (task, idle) = match state.queue.pop_front() {
                Some(task) => (Some(task), false),
                None if state.closing => break,
                None => {
                    state.idle.push(Arc::clone(&slot));
                    (None, true)
                }
            };
            drop(state);
            // In both cases there is room for one more task.
            (self.on_room)();
            let task = if idle { self.next_task(&slot) } else { task };
            let leaves = task.is_none();
            if let Some(task) = task {
                task();
            }
            state = self.state();
            // A task may have been queued while this thread still counted as free.
            if leaves && state.queue.is_empty() {
                break;
            }
        }
        if let Some(thread) = state.threads.remove(&thread::current().id()) {
            state.ended.push(thread);
        }
        drop(state);
        (self.on_room)();
    }
}

impl Pool {
    /// Waits on an idle slot. Returns `None` if the thread is to end.
    fn next_task(&self, slot: &Arc<IdleSlot>) -> Option<Task> {
        let mut limit = self.limits.keep_alive;
        let call = loop {
            if let Some(call) = slot.wait(limit) {
                break Some(call);
            }
            let mut state = self.state();
            let listed = state.idle.iter().position(|other| Arc::ptr_eq(other, slot));
            match listed {
                Some(at) if state.idle.len() > state.reserved => {
                    state.idle.remove(at);
                    break None;
                }
                // Each idle thread is reserved for a task.
                Some(_) => {}
                // The slot was removed by a caller, whose call is about to come.
                None => limit = None,
            }
        };
        match call {
            Some(Call::Work(task)) => Some(task),
            Some(Call::Leave) | None => None,
        }
    }
}

impl State {
    fn count(&self) -> usize {
        self.threads.len()
    }
}

impl IdleSlot {
    fn call(&self, call: Call) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        self.called.notify_one();
    }

    /// Waits for a call, for `limit` at most.
    fn wait(&self, limit: Option<Duration>) -> Option<Call> {
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        let mut call = match limit {
            Some(limit) => {
                let waited = self
                    .called
                    .wait_timeout_while(call, limit, |call| call.is_none());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .called
                .wait_while(call, |call| call.is_none())
                .unwrap_or_else(PoisonError::into_inner),
        };
        call.take()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.pool.state();
        f.debug_struct("Threads")
            .field("limits", &self.pool.limits)
            .field("threads", &state.count())
            .field("idle", &state.idle.len())
            .field("queued", &state.queue.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn at_the_bound_a_task_fails_at_once_and_finds_a_thread_later() {
        let deadline = Duration::from_secs(20);
        let limits = Limits {
            threads: 2,
            queue: 0,
            keep_alive: None,
            stack_size: None,
        };
        let (room, has_room) = channel();
        let threads = Threads::new(limits, move || {
            let _ = room.send(());
        });
        let (ran, has_run) = channel();
        let holds = |threads: &Threads| {
            let (hold, held) = channel::<()>();
            let ran = ran.clone();
            let task = move || {
                ran.send(()).unwrap();
                let _ = held.recv_timeout(deadline);
            };
            threads.run_now(Box::new(task)).map(|()| hold)
        };
        let (first, _second) = (holds(&threads).unwrap(), holds(&threads).unwrap());
        let busy = holds(&threads).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        for _ in 0..2 {
            has_run.recv_timeout(deadline).unwrap();
        }
        drop(first);
        // The hook runs when the thread is idle.
        let _third = loop {
            match holds(&threads) {
                Ok(third) => break third,
                Err(_) => has_room.recv_timeout(deadline).unwrap(),
            }
        };
        has_run.recv_timeout(deadline).unwrap();
        assert!(
            has_run.try_recv().is_err(),
            "a task that failed to start never runs"
        );
    }
}
