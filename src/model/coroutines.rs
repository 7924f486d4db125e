//! A coroutine for each connection or datagram.

use std::fmt;
use std::io;
use std::mem::transmute;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::accept::Acceptor;
use crate::accept::batch::Batch;
use crate::accept::dispatch::{Dispatch, Model, Serving};
use crate::accept::report::Report;
use crate::connection::life::{Opening, Service};
use crate::connection::outbox::{NOBODY, Outbox};
use crate::error::{Error, Tried};
use crate::model::on_room;
use crate::model::orphan::end_with_supervisor;
use crate::net::{Accepted, Managed, Transport};
use crate::observe::hooks::{AcceptError, Reaction, Stall, Step};
use crate::registry::table::AbortReason;
use crate::task::coro::driver::Kind;
use crate::task::coro::inbox::{Message, Start};
use crate::task::coro::overflow;
use crate::task::coro::runtime::Runtime;
use crate::task::coro::stack::{self, StackGauge};
use crate::task::coro::uring;
use crate::task::coro::watchdog::Watchdog;
use crate::task::coro::worker::{Failed, Worker};

/// Runs the handler for each connection or datagram in a coroutine. The handler blocks as in any
/// model, which suspends the coroutine instead of blocking a thread.
///
/// There is a worker thread for each processor. A coroutine stays on one worker; when a read, a
/// write or [`sleep`](crate::task::sleep) would block, the worker runs another coroutine. A new
/// connection or datagram goes to the worker with the fewest coroutines. The calling thread is the
/// first worker, and also accepts. Serving fails if a worker cannot start, or fails later.
///
/// Blocking calls outside this crate (a database client, `std::fs`, `std::thread::sleep`, a lock
/// that is held across a read) block the worker and all of its coroutines.
///
/// A stack overflow ends the process, after a message that names [`stack_size`](Self::stack_size).
/// For this message the model installs a handler for `SIGSEGV` and `SIGBUS` when it first serves;
/// the handler passes on every fault outside the guards of its stacks.
///
/// # Threads
///
/// Several workers call one handler, so the handler is `Send` and `Sync`, as in any model, and
/// cannot capture a value that belongs to one thread.
///
/// ```compile_fail,E0277
/// # use socketserver::{Coroutines, Server, Tcp};
/// # let model = unsafe { Coroutines::new() };
/// let counter = std::rc::Rc::new(1);
/// Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?.serve_forever(move |_| {
///     let _ = *counter;
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// Values that a handler creates stay on its thread, so they may belong to it. The handler borrows
/// the connection, so no thread that outlives the handler can have it:
///
/// ```compile_fail,E0521
/// # use socketserver::net::TcpConnection;
/// # use socketserver::{Coroutines, Server, Tcp};
/// # let model = unsafe { Coroutines::new() };
/// Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?.serve_forever(|conn: &mut TcpConnection| {
///     std::thread::spawn(move || conn);
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use socketserver::{Coroutines, Server, Tcp};
///
/// // SAFETY: the handler calls nothing that restores a thread-local after a read or a write.
/// let model = unsafe { Coroutines::new() };
/// let guard = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?.spawn(|conn| {
///     let mut buf = [0; 1024];
///     loop {
///         let count = conn.read(&mut buf)?;
///         if count == 0 {
///             return Ok::<_, std::io::Error>(());
///         }
///         conn.write_all(&buf[..count])?;
///     }
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Coroutines {
    workers: usize,
    stack_size: usize,
    gauge: Option<StackGauge>,
    driver: Driver,
}

/// The system interface that coroutines wait with.
///
/// # Examples
///
/// ```
/// use socketserver::Coroutines;
/// use socketserver::model::Driver;
///
/// // SAFETY: no handler restores a thread-local after a read or a write.
/// let model = unsafe { Coroutines::new() }.driver(Driver::Epoll);
/// # drop(model);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Driver {
    /// [`Uring`](Self::Uring) if the kernel has all that it needs, otherwise
    /// [`Epoll`](Self::Epoll).
    #[default]
    Auto,
    /// epoll(7).
    Epoll,
    /// io_uring(7) of Linux 6.1 or newer. Many containers forbid it.
    Uring,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "io_uring or epoll",
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        })
    }
}

impl Driver {
    /// Resolves [`Auto`](Self::Auto). Returns the driver for this system and, if `Auto` fell back
    /// to epoll, the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// let (driver, fallback) = socketserver::model::Driver::Auto.pick();
    /// if let Some(why) = fallback {
    ///     eprintln!("coroutines over {driver}: {why}");
    /// }
    /// ```
    #[must_use]
    pub fn pick(self) -> (Self, Option<Error>) {
        match self {
            Self::Auto => match uring::available() {
                Ok(()) => (Self::Uring, None),
                Err(err) => (Self::Epoll, Some(Error::new("use io_uring", err))),
            },
            driver => (driver, None),
        }
    }

    fn kind(self) -> Result<Kind, Error> {
        let uring = || uring::available().map(|()| Kind::Uring);
        match self {
            Self::Auto => Ok(uring().unwrap_or(Kind::Epoll)),
            Self::Epoll => Ok(Kind::Epoll),
            Self::Uring => uring().tried(|| "use io_uring".to_owned()),
        }
    }
}

impl Coroutines {
    /// Creates the model with a worker for each processor and stacks of 256 KiB, of which only
    /// touched pages use memory.
    ///
    /// # Safety
    ///
    /// The coroutines of one worker share its thread, and switch where they block. The caller
    /// promises that no code which runs across a blocking call of a handler relies on thread-locals
    /// being restored in last-in-first-out order. Such code sets a thread-local to a reference to
    /// its own stack frame, calls a closure that reads, writes or sleeps, and restores the old
    /// value afterwards (scoped thread-locals, some tracing guards); two coroutines would leave a
    /// dangling reference. Ordinary thread-locals, and code that does not span a blocking call, are
    /// fine.
    #[expect(
        unsafe_code,
        reason = "the contract is the caller's; nothing here relies on it being unsafe"
    )]
    pub unsafe fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            workers: processors,
            stack_size: 256 * 1024,
            gauge: None,
            driver: Driver::Auto,
        }
    }

    /// Sets what the workers wait with. Default: [`Driver::Auto`].
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Sets the number of worker threads, including the calling one. Default: one for each
    /// processor. At least 1.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads.max(1);
        self
    }

    /// Sets the size of a coroutine's stack in bytes. Default: 256 KiB. At least 16 KiB. A stack
    /// overflow ends the process with a fault, after a message on standard error.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes.max(16 * 1024);
        self
    }

    /// Measures how much of their stacks handlers use, to choose [`stack_size`](Self::stack_size).
    /// Default: no gauge. A gauge fills the whole stack of each coroutine, which costs memory and
    /// time: it is not for production.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::model::StackGauge;
    /// use socketserver::{Coroutines, Server, Tcp};
    ///
    /// let gauge = StackGauge::default();
    /// // SAFETY: the handler calls nothing that restores a thread-local after a read or a write.
    /// let model = unsafe { Coroutines::new() }.stack_gauge(&gauge);
    /// let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    /// // … after some connections:
    /// println!("the deepest handler used {} bytes", gauge.high_water());
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn stack_gauge(mut self, gauge: &StackGauge) -> Self {
        self.gauge = Some(gauge.clone());
        self
    }

    /// Returns how many coroutines this process can have, if the kernel limits them: before Linux
    /// 6.13 each stack takes two mappings, of which `vm.max_map_count` allows 65,530 by default.
    /// Further clients wait in the backlog.
    #[must_use]
    pub fn capacity() -> Option<usize> {
        stack::capacity()
    }
}

/// The error of waits in coroutines that the server has aborted.
const ABORTED: &str = "the server has aborted what was left";

/// The remedy in the message of a stack overflow.
const LARGER_STACKS: &str =
    "raise it with Coroutines::stack_size, or keep large values on the heap";

impl Model for Coroutines {
    const NAME: &'static str = "coroutines";

    fn serve<T: Transport>(self, mut serving: Serving<T>) -> Result<Report, Error> {
        let start = || "start the coroutines model".to_owned();
        let driver = self.driver.kind()?;
        overflow::set_remedy(LARGER_STACKS);
        let service = Arc::clone(&serving.service);
        let on_shortage = on_room(&service.shared);
        let runtime = Runtime::new(
            self.workers,
            self.stack_size,
            self.gauge,
            driver,
            on_shortage,
        );
        let runtime = runtime.tried(start)?;
        let first = Worker::new(Arc::clone(&runtime), 0).tried(start)?;
        let watchdog = watch(&runtime, &service).tried(start)?;
        end_with_supervisor(&serving);
        let workers = Workers::start(&runtime, &service).tried(start);
        let workers = workers.map_err(|err| {
            err.with_remedy("use fewer workers, or raise the limits on descriptors and memory")
        })?;
        let result = Arc::new(Mutex::new(None));
        let accept: Box<dyn FnOnce() + Send + '_> = {
            let (runtime, result) = (Arc::clone(&runtime), Arc::clone(&result));
            let serving = &mut serving;
            Box::new(move || {
                serving.outbox = Some(Outbox::new(&runtime));
                let mut spread = Spread(runtime);
                let report =
                    Acceptor::new(serving, &mut spread, Self::NAME).and_then(Acceptor::serve);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                spread.0.close();
            })
        };
        #[expect(
            unsafe_code,
            reason = "the accept loop borrows from this function, which waits for it"
        )]
        // SAFETY: only the lifetime changes. The coroutine runs in `run` below, on this thread alone. When that returns,
        // the coroutine has ended or is leaked and never resumed, so nothing uses `serving` any more. If it unwinds,
        // `serving`, a parameter, is dropped after the worker.
        let accept = unsafe { transmute::<Box<dyn FnOnce() + Send + '_>, Start>(accept) };
        runtime.inboxes[0].send(Message::Start(accept, NOBODY));
        let ran = first.run();
        // A worker that has failed leaks its coroutines, and the listeners must not stay open.
        drop(serving);
        if let Err(failed) = ran {
            workers.failure.note(failed, &service);
            // The accept loop was one of its coroutines, so the drain deadline can no longer be
            // kept.
            service.shared.registry.abort_all();
            runtime.cancel(ABORTED);
        }
        let joined = workers.join();
        drop(watchdog);
        joined?;
        let report = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        report.unwrap_or_else(|| {
            Err(Error::new(
                "accept",
                io::Error::other("the accept loop panicked"),
            ))
        })
    }
}

/// The threads of all workers but the first.
struct Workers {
    runtime: Arc<Runtime>,
    threads: Vec<thread::JoinHandle<()>>,
    failure: Arc<Failure>,
}

impl Workers {
    /// Starts the workers, and waits until each has its driver and its first stack.
    fn start<R: Managed>(runtime: &Arc<Runtime>, service: &Arc<Service<R>>) -> io::Result<Self> {
        let mut workers = Self {
            runtime: Arc::clone(runtime),
            threads: Vec::new(),
            failure: Arc::default(),
        };
        let (sender, receiver) = channel();
        for index in 1..runtime.inboxes.len() {
            let (runtime, service) = (Arc::clone(runtime), Arc::clone(service));
            let (sender, failure) = (sender.clone(), Arc::clone(&workers.failure));
            let run = move || {
                let worker = match Worker::new(runtime, index) {
                    Ok(worker) => worker,
                    Err(err) => return drop(sender.send(Err((index, err)))),
                };
                // The receiver waits for one message of each worker.
                drop(sender.send(Ok(())));
                if let Err(failed) = worker.run() {
                    failure.note(failed, &service);
                }
            };
            let thread = thread::Builder::new().name("socketserver-coro".to_owned());
            let thread = thread.spawn(run);
            workers.threads.push(thread.map_err(|err| at(index, &err))?);
        }
        drop(sender);
        for _ in &workers.threads {
            let received = receiver.recv();
            let started =
                received.unwrap_or_else(|_| Err((0, io::Error::other("a worker panicked"))));
            started.map_err(|(index, err)| at(index, &err))?;
        }
        Ok(workers)
    }

    /// Ends the workers and joins their threads. Returns the error of a worker that has failed.
    fn join(mut self) -> Result<(), Error> {
        self.end();
        let failed = self.failure.0.lock();
        let failed = failed.unwrap_or_else(PoisonError::into_inner).take();
        failed
            .map_or(Ok(()), Err)
            .tried(|| "wait in a worker".to_owned())
    }

    fn end(&mut self) {
        self.runtime.close();
        for thread in self.threads.drain(..) {
            // A worker panics only through a bug, which the panic hook has reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    /// Ends the workers that were started before another failed to start.
    fn drop(&mut self) {
        self.end();
    }
}

/// Adds the number of the worker.
fn at(index: usize, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("worker {index}: {err}"))
}

/// The error of the first worker that has failed.
#[derive(Debug, Default)]
struct Failure(Mutex<Option<io::Error>>);

impl Failure {
    /// Fails the server: the other workers drain, and the connections of the failed worker are
    /// aborted at once.
    fn note<R: Managed>(&self, failed: Failed, service: &Service<R>) {
        let Failed { error, labels } = failed;
        let shared = &service.shared;
        let stranded = labels.into_iter().filter(|label| *label != NOBODY);
        for label in stranded {
            shared.registry.abort_here(label, AbortReason::Worker);
            shared.admission.return_lost_permit();
        }
        service.hooks.report(&AcceptError {
            listener: None,
            step: Step::Driver,
            reaction: Reaction::Fail,
            error: io::Error::new(error.kind(), error.to_string()),
            unreported: 0,
        });
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        drop(first);
        shared.lifecycle.give_up();
    }
}

/// Starts the watchdog, if there is a stall hook.
fn watch<R: Managed>(
    runtime: &Arc<Runtime>,
    service: &Arc<Service<R>>,
) -> io::Result<Option<Watchdog>> {
    if service.hooks.stall.is_none() {
        return Ok(None);
    }
    let service = Arc::clone(service);
    let report = move |label, time| {
        let id = (label != NOBODY).then_some(label);
        service.hooks.stalled(&Stall {
            id,
            peer: id.and_then(|id| service.shared.registry.peer(id)),
            time,
        });
    };
    Watchdog::start(&runtime.heartbeats, report).map(Some)
}

/// Sends each connection or datagram to the worker with the fewest coroutines.
#[derive(Debug)]
struct Spread(Arc<Runtime>);

impl Dispatch for Spread {
    fn room(&self) -> usize {
        self.0.room()
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Accepted>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        while let Some(job) = batch.next_job(serving) {
            let label = job.request.id();
            let outbox = serving.outbox.clone();
            let outbox = outbox.filter(|_| job.request.ends_with_others());
            let run = move || match outbox {
                Some(outbox) => outbox.serve(job),
                None => job.run(Opening::Waits),
            };
            self.0.start(Box::new(run), label);
        }
        // A lone worker runs the new coroutines before the accept loop waits again: more clients may
        // have come by then, and need no wait.
        self.0.hand_over();
        Ok(())
    }

    fn tend(&mut self) -> Result<(), (Step, io::Error)> {
        let shortage = self.0.take_shortage();
        shortage.map_or(Ok(()), |err| {
            let what = format!("no memory for the stack of a coroutine: {err}");
            Err((Step::Dispatch, io::Error::new(err.kind(), what)))
        })
    }

    fn abort(&mut self) {
        self.0.cancel(ABORTED);
    }
}
