//! `scope`: closures that run concurrently and end within one call.
#![expect(
    unsafe_code,
    reason = "spawned closures borrow from a caller that waits for them"
)]

use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use crate::task::local::Inherited;
use crate::task::wait::{Task, beside, room_beside, uninterruptible};

/// The most closures of one scope that run at once.
const MAX_RUNNING: usize = 1024;

/// Runs `body`, which may [`spawn`](Scope::spawn) closures that run concurrently, and returns when all of them
/// have ended.
///
/// Like those of [`std::thread::scope`], the closures may borrow from the caller's stack.
///
/// In a coroutine, each closure is a coroutine of the same worker: one runs while the others wait. In a handler
/// on a thread, the closures run on threads that the server keeps for scopes: at most 1024 in each process, in
/// addition to those of its model; an idle thread ends after 10 s. Outside of handlers each closure has a new
/// thread.
///
/// # Behaviour
///
/// Scopes nest, and a closure may spawn in its own scope. A closure inherits the deadline of the
/// [`timeout`](super::timeout()) around its `spawn`, and an abort of the handler's connection ends the waits of
/// its closures too. Neither ends the wait of `scope` for its closures: a closure that never returns keeps its
/// handler for ever.
///
/// In a coroutine, [`spawn`](Scope::spawn) fails while a panic unwinds.
///
/// # Panics
///
/// If `body` panics, the panic propagates once all closures have ended. So does the panic of a closure that
/// was not [joined](Spawned::join); the first one, if there are several.
///
/// # Examples
///
/// A relay copies both directions at once.
///
/// ```
/// use std::io;
/// use socketserver::net::{ReadHalf, WriteHalf};
/// use socketserver::{Connection, task};
///
/// fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
///     let copied = io::copy(&mut from, &mut to);
///     // After a failure too, so that the other direction ends.
///     let ended = to.shutdown();
///     copied.and(ended)
/// }
///
/// fn relay(one: &mut impl Connection, other: &mut impl Connection) -> io::Result<()> {
///     let (from_one, to_one) = one.halves()?;
///     let (from_other, to_other) = other.halves()?;
///     task::scope(|scope| {
///         let back = scope.spawn(|| pass(from_other, to_one))?;
///         let there = pass(from_one, to_other);
///         there.and(back.join().expect("no panic"))
///     })
/// }
/// ```
pub fn scope<'env, R>(body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> R {
    let shared = Arc::new(Shared {
        running: AtomicUsize::new(0),
        panic: Mutex::new(None),
        owner: Task::here().signal().1.clone(),
    });
    let scope = Scope {
        shared: Arc::clone(&shared),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| body(&scope)));
    let all_ended = uninterruptible(|_| match shared.running.load(Ordering::Acquire) {
        0 => Poll::Ready(()),
        _ => Poll::Pending,
    });
    if all_ended.is_none() {
        // Running closures borrow from frames that unwinding would drop. Unreachable: `spawn` fails while a
        // panic unwinds.
        std::process::abort();
    }
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    if let Some(panic) = shared.panic().take() {
        resume_unwind(panic);
    }
    result
}

/// Spawns closures that end before a call of [`scope`](scope()) returns.
///
/// # Examples
///
/// ```
/// use socketserver::task::{self, Scope, Spawned};
///
/// fn sum<'scope>(
///     scope: &'scope Scope<'scope, '_>,
///     numbers: &'scope [u32],
/// ) -> std::io::Result<Spawned<'scope, u32>> {
///     scope.spawn(|| numbers.iter().sum())
/// }
///
/// let numbers = [1, 2, 3, 4];
/// let (low, high) = numbers.split_at(2);
/// let sums = task::scope(|scope| {
///     let (low, high) = (sum(scope, low)?, sum(scope, high)?);
///     Ok::<_, std::io::Error>((low.join().ok(), high.join().ok()))
/// })?;
/// assert_eq!(sums, (Some(3), Some(7)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    shared: Arc<Shared>,
    // Both lifetimes are invariant, as in `std::thread::Scope`, so neither can be shortened.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// The state that a scope shares with its closures.
struct Shared {
    running: AtomicUsize,
    /// The first panic that was not joined.
    panic: Mutex<Option<Panic>>,
    /// Wakes the task that called `scope`.
    owner: Waker,
}

type Panic = Box<dyn Any + Send>;

impl<'scope> Scope<'scope, '_> {
    /// Runs `work` concurrently with the caller: in a coroutine of the same worker, or on another thread. See
    /// [`scope`](scope()).
    ///
    /// # Errors
    ///
    /// `spawn` never waits. When it fails, `work` is dropped without having run.
    ///
    /// - `ResourceBusy`: 1024 closures of this scope are running, or all threads that the server has for scopes
    ///   are busy.
    /// - The system has no further thread, or no memory for the stack of a coroutine.
    /// - `ConnectionAborted`: a panic unwinds in the coroutine that calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::task;
    ///
    /// let words = ["one", "two", "three"];
    /// let letters = task::scope(|scope| {
    ///     let counts: Vec<_> = words.iter().map(|word| scope.spawn(|| word.len())).collect();
    ///     let counts = counts.into_iter().map(|count| count?.join().map_err(|_| std::io::ErrorKind::Other.into()));
    ///     counts.sum::<std::io::Result<usize>>()
    /// })?;
    /// assert_eq!(letters, 11);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<T: Send + 'scope>(
        &'scope self,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<Spawned<'scope, T>> {
        let counted = Counted::new(&self.shared)?;
        let packet = Arc::new(Packet::default());
        let run = {
            let (packet, inherited) = (Arc::clone(&packet), Task::here().local().inherit());
            move || run(work, packet, inherited, counted)
        };
        let start: Box<dyn FnOnce() + Send + 'scope> = Box::new(run);
        // SAFETY: only the lifetime changes. The borrows of `start` live for 'scope, which lasts until the call
        // of `scope` returns or unwinds. `scope` waits until each `Counted` is dropped, and `start` drops its
        // own last, after everything that it borrows: see `run`. If `beside` fails, it drops `start` here,
        // within 'scope; if it leaks `start`, `scope` never returns.
        let start: Box<dyn FnOnce() + Send> = unsafe { transmute(start) };
        beside(start)?;
        Ok(Spawned {
            packet,
            shared: Arc::clone(&self.shared),
            scope: PhantomData,
        })
    }

    /// Returns how many more closures could run now, of all scopes of the server in this process: on threads that are
    /// left for scopes, or in coroutines. Outside of handlers `usize::MAX`.
    ///
    /// Other handlers take room at any time. One that spawns for its client may leave as much as it takes, so that no
    /// client keeps the others out.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::task;
    ///
    /// // A handler would count the closures of each client.
    /// let mut running = 0;
    /// task::scope(|scope| {
    ///     while running < 8 && running < scope.room() {
    ///         let _ = scope.spawn(|| println!("asks an upstream"))?;
    ///         running += 1;
    ///     }
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// assert_eq!(running, 8);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn room(&self) -> usize {
        room_beside()
    }
}

/// Runs a spawned closure.
fn run<T>(
    work: impl FnOnce() -> T,
    packet: Arc<Packet<T>>,
    inherited: Inherited,
    counted: Counted,
) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let entered = inherited.enter();
        let result = catch_unwind(AssertUnwindSafe(work));
        drop(entered);
        packet.finish(result, &counted.0);
        // This may be the last reference, which drops the result.
        drop(packet);
    }));
    if let Err(panic) = ended {
        counted.0.note(panic);
    }
    // From here on, no borrow is left.
    drop(counted);
}

/// Counts one running closure.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let counted = Self(Arc::clone(shared));
        if shared.running.fetch_add(1, Ordering::Relaxed) < MAX_RUNNING {
            return Ok(counted);
        }
        let full = format!("{MAX_RUNNING} closures of this scope are running");
        Err(io::Error::new(io::ErrorKind::ResourceBusy, full))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.owner.wake_by_ref();
        }
    }
}

impl Shared {
    fn panic(&self) -> MutexGuard<'_, Option<Panic>> {
        // Poisoning is ignored: a panic cannot leave an option inconsistent.
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the first panic that was not joined.
    fn note(&self, panic: Panic) {
        let mut first = self.panic();
        match &*first {
            None => *first = Some(panic),
            // Dropping the payload might panic in turn.
            Some(_) => std::mem::forget(panic),
        }
    }
}

/// The result of a spawned closure, until it is joined.
struct Packet<T>(Mutex<State<T>>);

enum State<T> {
    /// With the waker of the task that joins it.
    Runs(Option<Waker>),
    Ended(thread::Result<T>),
    /// Its `Spawned` is dropped, or its result is taken.
    Detached,
}

impl<T> Default for Packet<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self::Runs(None)
    }
}

impl<T> Packet<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // The only foreign code under this lock would be the clone of a waker, and it is one of this crate's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, result: thread::Result<T>, shared: &Shared) {
        let mut state = self.state();
        if let State::Runs(waiter) = &mut *state {
            let waiter = waiter.take();
            *state = State::Ended(result);
            drop(state);
            waiter.into_iter().for_each(Waker::wake);
            return;
        }
        drop(state);
        result
            .err()
            .into_iter()
            .for_each(|panic| shared.note(panic));
    }
}

/// A closure that a [`Scope`] has spawned.
///
/// Dropping this value does not end the closure; its scope waits for it.
///
/// # Examples
///
/// ```
/// use socketserver::task;
///
/// let sum = task::scope(|scope| {
///     let sum = scope.spawn(|| (1..=100).sum::<u32>())?;
///     Ok::<_, std::io::Error>(sum.join().expect("the closure does not panic"))
/// })?;
/// assert_eq!(sum, 5050);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "unless it is joined, a panic of the closure propagates from its scope"]
pub struct Spawned<'scope, T> {
    packet: Arc<Packet<T>>,
    shared: Arc<Shared>,
    scope: PhantomData<&'scope ()>,
}

impl<T> Spawned<'_, T> {
    /// Waits until the closure has ended, and returns its result.
    ///
    /// Neither a [`timeout`](super::timeout()) nor an abort ends this wait; both end the waits of the closure.
    ///
    /// # Errors
    ///
    /// - The payload of the closure's panic.
    /// - A `&str`: the closure is still running, and a panic unwinds in the coroutine that calls, so it cannot
    ///   be suspended.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::task;
    ///
    /// task::scope(|scope| {
    ///     let answer = scope.spawn(|| 6 * 7)?;
    ///     assert_eq!(answer.join().ok(), Some(42));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn join(self) -> thread::Result<T> {
        let ended = uninterruptible(|context| {
            let mut state = self.packet.state();
            match &mut *state {
                State::Runs(waiter) => {
                    *waiter = Some(context.waker().clone());
                    Poll::Pending
                }
                State::Ended(_) | State::Detached => {
                    Poll::Ready(std::mem::replace(&mut *state, State::Detached))
                }
            }
        });
        match ended {
            Some(State::Ended(result)) => result,
            _ => Err(Box::new(
                "the closure is still running, and a panic unwinds",
            )),
        }
    }

    /// Returns whether the closure has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.packet.state(), State::Runs(_))
    }
}

impl<T> Drop for Spawned<'_, T> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.packet.state(), State::Detached);
        if let State::Ended(Err(panic)) = state {
            self.shared.note(panic);
        }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.shared.running.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Spawned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawned")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
