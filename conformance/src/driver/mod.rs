//! Plays the server of a scenario on this crate, as `driver.py` does on CPython's module: the same
//! commands on standard input, the same answers on standard output, the same trace in a file.

mod console;
mod place;
mod script;
mod trace;

use std::process::{Child, Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use socketserver::model::{Dispatch, Driver as Waiting, Model};
use socketserver::observe::Failure;
use socketserver::tls::Tls;
use socketserver::{
    Builder, Coroutines, Error, Forking, Handled, Prefork, Report, Sequential, Server,
    ServerHandle, Tcp, ThreadPool, Threading, Udp, UnixDatagram, UnixStream, per_request,
};

use console::{Console, say};
use place::Place;
use script::{Script, at_gate};
use trace::{kind, note};

/// What a scenario sets, and where it runs.
#[derive(Debug)]
struct Spec {
    model: String,
    options: Vec<(String, String)>,
}

impl Spec {
    fn get(&self, name: &str) -> Option<&str> {
        let mut options = self.options.iter();
        options
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|value| value.parse().ok())
    }

    fn millis(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_millis)
    }

    fn is_on(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// Whether the option with this name, a list, has this member.
    fn lists(&self, name: &str, member: &str) -> bool {
        self.get(name)
            .is_some_and(|list| list.split(',').any(|listed| listed == member))
    }
}

/// The scenario that this process plays: hooks and handlers find it here.
static SPEC: std::sync::OnceLock<Spec> = std::sync::OnceLock::new();

fn spec() -> &'static Spec {
    SPEC.get().expect("set before anything is served")
}

/// The handle of the server that is there.
static HANDLE: Mutex<Option<ServerHandle>> = Mutex::new(None);

/// What a command of Python's comes to where ownership rules it out.
const CONSUMED: &str = "impossible: serving and closing consume the server";

/// Plays a scenario: `TRANSPORT MODEL [NAME=VALUE]...`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [transport, model, options @ ..] = args else {
        return ExitCode::from(2);
    };
    let pairs = options.iter().filter_map(|option| option.split_once('='));
    let spec = Spec {
        model: model.clone(),
        options: pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    };
    SPEC.set(spec).expect("set once");
    // Panics are asked for; their messages would drown what matters.
    std::panic::set_hook(Box::new(|_| {}));
    // Scenarios send it to interrupt what waits.
    let ignored = std::sync::Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, ignored).expect("a handler");
    trace::begin();
    match transport.as_str() {
        "tcp" => with_model::<Tcp>(model),
        "tls" => with_model::<Tls<Tcp>>(model),
        "udp" => with_model::<Udp>(model),
        "unix" => with_model::<UnixStream>(model),
        "unixgram" => with_model::<UnixDatagram>(model),
        _ => ExitCode::from(2),
    }
}

fn with_model<T: Place>(model: &str) -> ExitCode {
    match model {
        "sequential" => Driver::<T, _>::dispatching(Sequential::default),
        "threading" => Driver::<T, _>::dispatching(|| {
            let threading = Threading::default();
            if dispatch_fails() {
                threading.stack_size(LARGE_STACK)
            } else {
                threading
            }
        }),
        "pool" => Driver::<T, _>::dispatching(|| ThreadPool::new(4)),
        "forking" => Driver::<T, _>::dispatching(|| {
            let children = spec().number("max_children").unwrap_or(40) as usize;
            Forking::default().max_children(children)
        }),
        "prefork" => Driver::<T, _>::of(|| Prefork::new(1, Threading::default())).run(),
        "coroutines+epoll" => Driver::<T, _>::of(|| coroutines(Waiting::Epoll)).run(),
        // Where the kernel has no io_uring, over epoll once more; the runner says so.
        "coroutines+uring" => Driver::<T, _>::of(|| coroutines(Waiting::Auto)).run(),
        _ => ExitCode::from(2),
    }
}

/// The scripts of scenarios restore no thread-locals after they have blocked.
#[expect(unsafe_code, reason = "the contract of coroutines")]
fn coroutines(waiting: Waiting) -> Coroutines {
    // SAFETY: as said above.
    unsafe { Coroutines::new() }.workers(2).driver(waiting)
}

type Accepted<T, M> = fn(&mut Server<T, M>) -> Result<Handled, Error>;
type Close<T, M> = fn(Server<T, M>) -> Result<Report, Error>;

/// One server and what the runner makes of it.
struct Driver<T: Place, M: Model> {
    model: fn() -> M,
    bound: Option<T::Bound>,
    server: Option<Server<T, M>>,
    other: Option<Vec<T>>,
    address: String,
    foreign: Option<Child>,
    console: Console,
    /// What only models have that accept on the calling thread.
    request: Option<Accepted<T, M>>,
    close: Option<Close<T, M>>,
}

impl<T: Place, M: Model + Dispatch> Driver<T, M> {
    fn dispatching(model: fn() -> M) -> ExitCode {
        let mut driver = Self::of(model);
        driver.request = Some(|server| {
            let timeout = spec()
                .millis("socket_timeout")
                .or_else(|| spec().millis("timeout"));
            if by_closure() {
                return server.handle_request(timeout, script::serve::<T::Accepted>);
            }
            server.handle_request(timeout, per_request(Script::new))
        });
        driver.close = Some(Server::close);
        driver.run()
    }
}

fn by_closure() -> bool {
    spec().get("handler") == Some("function")
}

impl<T: Place, M: Model> Driver<T, M> {
    fn of(model: fn() -> M) -> Self {
        Self {
            model,
            bound: None,
            server: None,
            other: None,
            address: String::new(),
            foreign: None,
            console: Console::start(matches!(spec().model.as_str(), "forking" | "prefork")),
            request: None,
            close: None,
        }
    }

    fn run(mut self) -> ExitCode {
        while let Some(line) = self.console.next() {
            let mut words = line.split(' ');
            let command = words.next().unwrap_or_default();
            if command == "exit" {
                break;
            }
            let start = Instant::now();
            let argument = words.next().unwrap_or_default();
            let result = self.obey(command, argument);
            let result = result.unwrap_or_else(|err| format!("raised {}", error_kind(&err)));
            say(&format!(
                "done {command} {} {result}",
                start.elapsed().as_millis()
            ));
        }
        ExitCode::SUCCESS
    }

    fn obey(&mut self, command: &str, argument: &str) -> Result<String, Error> {
        let returned = Ok("returned".to_owned());
        match command {
            "bind" => {
                let bound = T::bind_only(&T::address())?;
                self.address = T::bound_address(&bound);
                say(&format!("address {}", self.address));
                self.bound = Some(bound);
                if argument != "only" {
                    self.activate()?;
                }
                returned
            }
            "activate" => self.activate().and(returned),
            "serve" => match self.server.take() {
                Some(server) if by_closure() => {
                    server.serve_forever(script::serve::<T::Accepted>)?;
                    returned
                }
                Some(server) => server.serve_forever(per_request(Script::new)).and(returned),
                None => Ok(CONSUMED.to_owned()),
            },
            "request" => match (self.server.as_mut(), self.request) {
                (Some(server), Some(request)) => Ok(match request(server)? {
                    Handled::Stopping => "returned: stopping".to_owned(),
                    _ => "returned".to_owned(),
                }),
                _ => Ok(CONSUMED.to_owned()),
            },
            "poll" => Ok(self.poll()),
            "close" => {
                self.bound = None;
                match (self.server.take(), self.close) {
                    (Some(server), Some(close)) => close(server).and(returned),
                    _ => returned,
                }
            }
            "leave" => {
                self.server = None;
                returned
            }
            "rebind" => self.rebind().map(|()| "bound".to_owned()),
            "leak" => Ok(self.leak(argument.parse().unwrap_or(0))),
            "file" => Ok(one_of(std::path::Path::new("s").exists(), "there", "gone")),
            "fd" => Ok(one_of(self.server.is_some(), "open", "closed")),
            "threads" => Ok(threads(argument.parse().unwrap_or(0))),
            "children" => Ok(children()),
            "foreign_child" => {
                self.foreign = Some(foreign_child());
                returned
            }
            "foreign_status" => Ok(self.foreign_status()),
            _ => Ok(at_once(command, argument)),
        }
    }

    fn activate(&mut self) -> Result<(), Error> {
        if let Some(bound) = self.bound.take() {
            let builder = Server::<T>::builder().model((self.model)());
            let builder = builder.listen(T::listen(bound)?);
            let server = with_hooks(builder, self.console.is_polled()).build()?;
            *lock() = Some(server.handle());
            self.server = Some(server);
            if dispatch_fails() {
                let (resource, limit) = dispatch_limit();
                let current = getrlimit(resource);
                FULL.set(current).expect("once");
                set_soft_limit(resource, limit, current);
            }
        }
        Ok(())
    }

    fn poll(&self) -> String {
        let Some(server) = &self.server else {
            return CONSUMED.to_owned();
        };
        let limit = rustix::event::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let ready = poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&limit));
        one_of(ready == Ok(1), "ready", "not ready")
    }

    fn rebind(&mut self) -> Result<(), Error> {
        let (_, address) = self.address.split_once(' ').expect("bound before");
        self.other = Some(T::listen(T::bind_only(address)?)?);
        Ok(())
    }

    fn leak(&mut self, times: usize) -> String {
        let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let before = open();
        for _ in 0..times {
            match self.rebind() {
                Ok(()) => return "bound".to_owned(),
                Err(err) if err.is_addr_in_use() => {}
                Err(err) => return format!("raised {}", error_kind(&err)),
            }
        }
        format!("leaks {}", open().saturating_sub(before))
    }

    fn foreign_status(&mut self) -> String {
        let status = self.foreign.as_mut().map(Child::wait);
        match status.and_then(Result::ok).and_then(|status| status.code()) {
            Some(code) => format!("exit status {code}"),
            None => "stolen".to_owned(),
        }
    }
}

fn one_of(condition: bool, yes: &str, no: &str) -> String {
    if condition { yes } else { no }.to_owned()
}

/// The hooks of a scenario.
fn with_hooks<T: Place, M: Model>(mut builder: Builder<T, M>, polled: bool) -> Builder<T, M> {
    let spec = spec();
    let traced = spec.lists("trace", "service_actions");
    if traced || polled {
        // A process that may not have a second thread looks for commands here.
        let period = spec.millis("poll").filter(|_| traced);
        let period = period.unwrap_or(Duration::from_millis(10));
        builder = builder.service_actions(period, move || {
            if traced {
                note("service_actions", None);
            }
            if polled {
                console::look();
            }
            if spec.get("actions") == Some("raise") {
                panic!("as asked");
            }
        });
    }
    let waits = !(spec.get("block_on_close") == Some("0") || spec.is_on("daemon_threads"));
    let drain = spec.millis("drain").unwrap_or(Duration::from_secs(25));
    builder
        .drain_timeout(if waits { drain } else { Duration::ZERO })
        .verify(|request| {
            let id = request_id(request);
            note("verify_request", Some(id));
            match spec.get("verify") {
                Some("raise") => panic!("as asked"),
                Some("no") => false,
                Some("first") => id != 1,
                _ => true,
            }
        })
        .on_timeout(|| note("handle_timeout", None))
        .on_accept_error(|_| {
            if let Some(full) = FULL.get() {
                setrlimit(dispatch_limit().0, *full).expect("lift the limit");
            }
        })
        .on_error(on_error)
}

fn request_id(request: &impl socketserver::net::Accepted) -> u64 {
    request.id()
}

fn on_error(failure: &Failure<'_>) {
    let kind = match failure.io_error() {
        Some(err) => kind(err),
        None if failure.is_panic() => "Panic".to_owned(),
        None if failure.error().to_string().starts_with("child process") => "Killed".to_owned(),
        None => "Value".to_owned(),
    };
    note(&format!("handle_error({kind})"), Some(failure.id()));
    match spec().get("on_error") {
        Some("raise") => panic!("as asked"),
        Some(gate) => {
            if let Some(name) = gate.strip_prefix("gate:") {
                at_gate(name).expect("the runner is there");
            }
        }
        None => {}
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<ServerHandle>> {
    HANDLE
        .lock()
        .expect("nothing panics while it holds the handle")
}

/// The commands that do not wait for their turn.
fn at_once(command: &str, argument: &str) -> String {
    match command {
        "shutdown" => {
            if let Some(handle) = &*lock() {
                handle.shutdown();
            }
        }
        "fds" => return open_descriptors(),
        "nofile" => limit_descriptors(argument == "none"),
        "interrupt" => kill_process(getpid(), Signal::INT).expect("a signal to this process"),
        "close_now" => return CONSUMED.to_owned(),
        _ => return "unknown command".to_owned(),
    }
    "returned".to_owned()
}

/// Whether the first request is to find no thread and no process.
fn dispatch_fails() -> bool {
    spec().get("dispatch").is_some()
}

/// A stack that a limit on the address space leaves no room for.
const LARGE_STACK: usize = 1 << 30;

/// The limit that the first request meets, before the accept error hook lifts it.
static FULL: std::sync::OnceLock<Rlimit> = std::sync::OnceLock::new();

fn dispatch_limit() -> (Resource, u64) {
    match spec().model.as_str() {
        "forking" => (Resource::Nproc, 0),
        _ => (Resource::As, LARGE_STACK as u64 / 2),
    }
}

fn set_soft_limit(resource: Resource, limit: u64, full: Rlimit) {
    match spec().model.as_str() {
        "forking" => {
            // RLIMIT_NPROC does not bind root (setrlimit(2)).
            if rustix::process::getuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody)
                    .expect("become another user");
            }
        }
        "threading" => {}
        // The other models start theirs beforehand.
        _ => return,
    }
    let current = Some(limit);
    setrlimit(resource, Rlimit { current, ..full }).expect("set the limit");
}

/// How many descriptors are open, compared with the first time.
fn open_descriptors() -> String {
    static FIRST: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    match FIRST.set(open) {
        Ok(()) => "noted".to_owned(),
        Err(_) => format!(
            "{:+}",
            open.cast_signed() - FIRST.get().map_or(0, |first| first.cast_signed())
        ),
    }
}

/// Allows no further descriptor, or as many as before.
fn limit_descriptors(to_none: bool) {
    let mut limit = getrlimit(Resource::Nofile);
    // The lowest free descriptor is the first that is refused.
    let probe = rustix::io::dup(rustix::stdio::stdin()).map(|fd| {
        use std::os::fd::AsRawFd;
        u64::try_from(fd.as_raw_fd()).unwrap_or(0)
    });
    limit.current = if to_none {
        probe.ok()
    } else {
        limit.maximum.map(|most| most.min(10_000))
    };
    setrlimit(Resource::Nofile, limit).expect("lower or raise the soft limit");
}

/// How many threads there are, if they are not fewer.
fn threads(most: usize) -> String {
    let count = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    one_of(count < most, "fewer", &count.to_string())
}

/// How many children there are, ended ones too.
fn children() -> String {
    let pid = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/self/task/{pid}/children"));
    list.unwrap_or_default()
        .split_whitespace()
        .count()
        .to_string()
}

/// A child that the server knows nothing of, ended and not yet waited for.
fn foreign_child() -> Child {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let child = Command::new("sh")
        .args(["-c", "exit 72"])
        .spawn()
        .expect("sh");
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&child)), ended).expect("it ends");
    child
}

/// The kind of an error of the server's own.
fn error_kind(err: &Error) -> String {
    kind(err.io_error())
}
