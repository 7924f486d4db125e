//! A coroutine for each request.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::accept::{Acceptor, Batch};
use crate::coro::driver::Kind;
use crate::coro::inbox::Message;
use crate::coro::stack::{self, StackGauge};
use crate::coro::team::Team;
use crate::coro::uring;
use crate::coro::watchdog::Watchdog;
use crate::coro::worker::Worker;
use crate::error::{Error, Tried};
use crate::hooks::Stall;
use crate::model::outbox::Outbox;
use crate::model::{Model, Run, Serving, Take};
use crate::server::Report;
use crate::service::Service;
use crate::transport::{Request, Transport};

/// Serves each request in a coroutine: the handler blocks as in any model, but what blocks is not a
/// thread.
///
/// There is a worker thread for each processor. A coroutine runs on one of them for its whole life;
/// where a read, a write or [`sleep`](crate::sleep) would block, the worker runs another one.
/// Requests go to the worker that has the fewest. The calling thread is the first worker, and
/// accepts.
///
/// Blocking calls that are not this crate's (a database client, `std::fs`, `std::thread::sleep`, a
/// lock that is held across a read) block the worker and all of its coroutines.
///
/// On stack overflow a message names the option to raise; for it, this model installs a handler for `SIGSEGV` and `SIGBUS` when it first serves.
/// It passes on every fault that is not on a guard of its stacks.
///
/// # Threads
///
/// Several workers call one handler, so it is `Send` and `Sync` as in any model: what belongs to
/// one thread cannot be captured.
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
/// What a handler makes itself stays on its thread, so that may belong to it. The connection is
/// lent to the handler, and cannot be given to another thread:
///
/// ```compile_fail,E0521
/// # use socketserver::{Coroutines, Server, Tcp, TcpConnection};
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

/// What coroutines wait with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Driver {
    /// [`Uring`](Self::Uring) where the kernel has all that it needs, else [`Epoll`](Self::Epoll).
    #[default]
    Auto,
    /// epoll(7).
    Epoll,
    /// io_uring(7) of Linux 6.1 or newer. Containers often forbid it.
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
    /// The driver that this means here: never [`Auto`](Self::Auto). If that had to fall back, also
    /// why.
    ///
    /// # Examples
    ///
    /// ```
    /// let (driver, fallback) = socketserver::Driver::Auto.pick();
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
    /// A worker for each processor, and stacks of 256 KiB, of which only what is touched takes
    /// memory.
    ///
    /// # Safety
    ///
    /// Coroutines of one worker share its thread, and take turns where they block. The caller
    /// promises that no code which runs across a blocking call of a handler relies on thread-locals
    /// being restored in last-in-first-out order: code that sets a thread-local to a reference to
    /// its own stack frame, calls a closure that reads or writes or sleeps, and puts the old value
    /// back afterwards (scoped thread-locals, some tracing guards). Two coroutines would leave a
    /// dangling reference. Ordinary thread-locals, and anything that does not span a blocking call,
    /// are fine.
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

    /// What the workers wait with. Default: [`Driver::Auto`].
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// How many worker threads there are, with the calling one. Default: one for each processor. At
    /// least 1.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads.max(1);
        self
    }

    /// The size of a coroutine's stack in bytes. Default: 256 KiB. At least 16 KiB; a handler that
    /// overflows its stack ends the process with a fault, after a message on standard error.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes.max(16 * 1024);
        self
    }

    /// Measures how much of their stacks handlers use, to choose [`stack_size`](Self::stack_size)
    /// by. Default: not measured. It makes every stack resident as a whole and costs its filling
    /// for each request: not for production.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::{Coroutines, Server, StackGauge, Tcp};
    ///
    /// let gauge = StackGauge::default();
    /// // SAFETY: the handler calls nothing that restores a thread-local after a read or a write.
    /// let model = unsafe { Coroutines::new() }.stack_gauge(&gauge);
    /// let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    /// // … after some requests:
    /// println!("the deepest handler used {} bytes", gauge.high_water());
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn stack_gauge(mut self, gauge: &StackGauge) -> Self {
        self.gauge = Some(gauge.clone());
        self
    }

    /// How many coroutines this process can have, where the kernel limits them: before Linux 6.13
    /// each stack takes two mappings, of which `vm.max_map_count` allows 65,530 by default. Further
    /// requests wait to be accepted.
    #[must_use]
    pub fn capacity() -> Option<usize> {
        stack::capacity()
    }
}

impl Model for Coroutines {
    const NAME: &'static str = "coroutines";
}

impl Run for Coroutines {
    fn serve<T: Transport>(self, mut serving: Serving<T>) -> Result<Report, Error> {
        let start = || "start the coroutines model".to_owned();
        let driver = self.driver.kind()?;
        let team = Team::new(self.workers, self.stack_size, self.gauge, driver).tried(start)?;
        let first = Worker::new(Arc::clone(&team), 0).tried(start)?;
        let watchdog = watch(&team, &serving.service).tried(start)?;
        let mut threads = Vec::new();
        for place in 1..self.workers {
            let mate = Arc::clone(&team);
            let thread = thread::Builder::new().name("socketserver-coro".to_owned());
            match thread.spawn(move || Worker::new(mate, place)?.run()) {
                Ok(thread) => threads.push(thread),
                Err(err) => {
                    close(&team, threads);
                    return Err(err).tried(start);
                }
            }
        }
        let result = Arc::new(Mutex::new(None));
        let accept = {
            let (team, result) = (Arc::clone(&team), Arc::clone(&result));
            move || {
                serving.outbox = Some(Outbox::new(&team));
                let mut spread = Spread(team);
                let report =
                    Acceptor::new(&mut serving, &mut spread, Self::NAME).and_then(Acceptor::serve);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                spread.0.close();
            }
        };
        team.inboxes[0].send(Message::Start(Box::new(accept), NOBODY));
        let ran = first.run();
        close(&team, threads);
        drop(watchdog);
        ran.tried(|| "wait in a worker".to_owned())?;
        let report = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        report.unwrap_or_else(|| {
            Err(Error::new(
                "accept requests",
                io::Error::other("the accept loop panicked"),
            ))
        })
    }
}

/// The label of coroutines that serve no request; those of requests begin with 1.
pub(super) const NOBODY: u64 = 0;

/// Starts the watchdog, if there is a hook to tell.
fn watch<R: Request>(team: &Arc<Team>, service: &Arc<Service<R>>) -> io::Result<Option<Watchdog>> {
    if service.hooks.stall.is_none() {
        return Ok(None);
    }
    let service = Arc::clone(service);
    let report = move |label, time| {
        let id = (label != NOBODY).then_some(label);
        service.hooks.stalled(&Stall {
            id,
            peer: id.and_then(|id| service.shared.peer(id)),
            time,
        });
    };
    Watchdog::start(&team.kennel, report).map(Some)
}

/// Ends the workers and joins their threads.
fn close(team: &Team, threads: Vec<thread::JoinHandle<io::Result<()>>>) {
    team.close();
    for thread in threads {
        // What a worker could not wait with has ended its coroutines, and they are counted as cut.
        let _ = thread.join();
    }
}

/// Sends each request to the worker that has the fewest.
#[derive(Debug)]
struct Spread(Arc<Team>);

impl Take for Spread {
    fn room(&self) -> usize {
        self.0.room()
    }

    fn dispatch<T: Transport>(
        &mut self,
        batch: &mut Batch<T::Request>,
        serving: &mut Serving<T>,
    ) -> io::Result<()> {
        while let Some(job) = batch.next_job(serving) {
            let label = job.request.id();
            let outbox = serving.outbox.clone();
            let outbox = outbox.filter(|_| job.request.ends_with_others());
            let run = move || match outbox {
                Some(outbox) => outbox.serve(job),
                None => job.run(),
            };
            self.0.start(Box::new(run), label);
        }
        // By the time that they are served more may have come, and need not be waited for.
        self.0.hand_over();
        Ok(())
    }

    fn cut(&mut self) {
        self.0.cancel();
    }
}
