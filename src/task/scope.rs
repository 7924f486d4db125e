//! Closures that run side by side within one call.
#![expect(
    unsafe_code,
    reason = "what runs elsewhere borrows from a caller that waits for it"
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
use crate::task::wait::{Task, beside, through};

/// The most closures of one scope that run at once.
const AT_ONCE: usize = 1024;

/// Runs `body`, which may [`spawn`](Scope::spawn) closures that run beside it, and returns when all of them
/// have ended. As [`std::thread::scope`], they may borrow from the caller's stack.
///
/// In a coroutine they are coroutines of the same worker: they take turns with the caller, and with each
/// other, where they wait. Elsewhere in a handler they run on threads that the server keeps for that: at
/// most 1024 in a process, apart from those of its model; an idle one ends after 10 s. Outside of
/// handlers each has a new thread.
///
/// # Behaviour
///
/// Scopes nest, and what was spawned may spawn in the same scope. A closure belongs to the handler that has
/// spawned it: it has the deadline of the [`timeout`](super::timeout()) around its `spawn`, and what ends
/// the waits of the handler ends its waits too: an abort of the connection, by a deadline or in a stop. `scope` itself
/// waits, whatever happens, until all have ended, so a closure that neither waits with this crate nor ends
/// keeps its handler.
///
/// Under `Coroutines` a scope that is entered while a panic unwinds can spawn
/// nothing.
///
/// # Panics
///
/// If `body` panics, its panic goes on once all closures have ended. If a closure panics and nobody has
/// [joined](Spawned::join) it, its panic goes on here in the same way; the first one, where there are
/// several.
///
/// # Examples
///
/// A proxy: both directions at once, each with its own copy of the two sockets.
///
/// ```
/// use std::io;
/// use std::net::{Shutdown, TcpStream};
/// use socketserver::task;
///
/// fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<u64> {
///     let copied = io::copy(&mut from, &mut to);
///     to.shutdown(Shutdown::Write).and(copied)
/// }
///
/// fn relay(one: &TcpStream, other: &TcpStream) -> io::Result<(u64, u64)> {
///     task::scope(|scope| {
///         let there = scope.spawn(|| copy(one, other))?;
///         let back = copy(other, one)?;
///         let there = there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
///         Ok((there, back))
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
    let all_ended = through(|_| match shared.running.load(Ordering::Acquire) {
        0 => Poll::Ready(()),
        _ => Poll::Pending,
    });
    if all_ended.is_none() {
        // They borrow from frames that would go. Not reached: nothing is spawned while a panic unwinds.
        std::process::abort();
    }
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    if let Some(panic) = shared.panic().take() {
        resume_unwind(panic);
    }
    result
}

/// Spawns closures that end within a call of [`scope`](scope()).
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
    // Invariant, as those of `std::thread::Scope`: neither may be shortened.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// What a scope shares with all that it runs.
struct Shared {
    running: AtomicUsize,
    /// The first one that nobody else was told of.
    panic: Mutex<Option<Panic>>,
    /// Wakes the task that has called.
    owner: Waker,
}

type Panic = Box<dyn Any + Send>;

impl<'scope> Scope<'scope, '_> {
    /// Runs `work` beside the caller: in a coroutine of the same worker, or on another thread. See
    /// [`scope`](scope()).
    ///
    /// # Errors
    ///
    /// At once, without running `work`, where it cannot run now: it neither waits for its turn nor runs
    /// in the caller.
    ///
    /// - `ResourceBusy` while 1024 closures of this scope run, or while all threads that the server has for
    ///   scopes are busy;
    /// - what the system says where it has no thread, or no memory for the stack of a coroutine;
    /// - `ConnectionAborted` in a coroutine while a panic unwinds.
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
        // SAFETY: only the lifetime changes. What `start` borrows is alive for 'scope, which lasts until
        // the call of `scope` returns or unwinds; that waits until each `Counted` is gone, and the one of
        // `start` goes last, after all that it borrows: see `run`. Where `start` is dropped instead,
        // `beside` has failed, here, within 'scope; where it is leaked, the caller is never woken.
        let start: Box<dyn FnOnce() + Send> = unsafe { transmute(start) };
        beside(start)?;
        Ok(Spawned {
            packet,
            shared: Arc::clone(&self.shared),
            scope: PhantomData,
        })
    }
}

/// Runs what was spawned.
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
        // It may be the last one, and drop the result.
        drop(packet);
    }));
    if let Err(panic) = ended {
        counted.0.note(panic);
    }
    // Nothing that is borrowed is left.
    drop(counted);
}

/// One of those that run.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let counted = Self(Arc::clone(shared));
        if shared.running.fetch_add(1, Ordering::Relaxed) < AT_ONCE {
            return Ok(counted);
        }
        let full = format!("{AT_ONCE} closures of this scope run");
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
        // An option is whole after any panic.
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a panic that nobody has joined.
    fn note(&self, panic: Panic) {
        let mut first = self.panic();
        match &*first {
            None => *first = Some(panic),
            // Dropping it might panic once more.
            Some(_) => std::mem::forget(panic),
        }
    }
}

/// The result of what was spawned, on its way to whoever joins it.
struct Packet<T>(Mutex<State<T>>);

enum State<T> {
    /// With who waits for it.
    Runs(Option<Waker>),
    Ended(thread::Result<T>),
    /// Nobody waits for it any more.
    Left,
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
        // No code of others runs under the lock but the clone of a waker of our own.
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

/// A closure that a [`Scope`] has spawned. Dropping this value does not end the closure, which ends
/// within its scope.
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
#[must_use = "a panic of what was spawned ends the scope, unless it is joined"]
pub struct Spawned<'scope, T> {
    packet: Arc<Packet<T>>,
    shared: Arc<Shared>,
    scope: PhantomData<&'scope ()>,
}

impl<T> Spawned<'_, T> {
    /// Waits until it has ended, and returns its result.
    ///
    /// Neither a [`timeout`](super::timeout()) nor an abort ends this wait, but both end those of what is
    /// waited for.
    ///
    /// # Errors
    ///
    /// What it has panicked with. In a coroutine in which a panic unwinds: that it runs still, as a
    /// `&str`.
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
        let ended = through(|context| {
            let mut state = self.packet.state();
            match &mut *state {
                State::Runs(waiter) => {
                    *waiter = Some(context.waker().clone());
                    Poll::Pending
                }
                State::Ended(_) | State::Left => {
                    Poll::Ready(std::mem::replace(&mut *state, State::Left))
                }
            }
        });
        match ended {
            Some(State::Ended(result)) => result,
            _ => Err(Box::new("it runs still, and a panic unwinds")),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.packet.state(), State::Runs(_))
    }
}

impl<T> Drop for Spawned<'_, T> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.packet.state(), State::Left);
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
