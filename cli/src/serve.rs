//! From options to a server that has ended: the one match over models.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use socketserver::model::{Driver, Model as ServerModel};
use socketserver::net::{Either, Transport};
use socketserver::observe::{Event, Failure, State};
use socketserver::systemd::Notifier;
use socketserver::tls::TlsConfig;
use socketserver::{
    Builder, Coroutines, Forking, Next, Outcome, Prefork, Report, Sequential, Server, ServerHandle,
    ThreadPool, Threading,
};

use crate::args::{self, Inner, Model, Options};
use crate::bind::{self, Accepted, Any, Listener, Wrappers};
use crate::lent::Lent;
use crate::limits;
use crate::log::{self, say};
use crate::privileges::Privileges;
use crate::signals;

/// What a server does with each connection and datagram.
pub(crate) trait Task: Send + Sync + 'static {
    /// Called once, when the listeners are bound, before the privileges are given up. The process has one thread yet.
    ///
    /// # Errors
    ///
    /// What ends the program before it serves.
    fn fork(&mut self, _privileges: &Privileges) -> anyhow::Result<()> {
        Ok(())
    }

    /// Called once, when the listeners are bound and the privileges are given up. The process has one thread yet. Decides
    /// which datagram sockets are lent whole.
    ///
    /// # Errors
    ///
    /// What ends the program before it serves.
    fn start(&mut self, listeners: Vec<Any>) -> anyhow::Result<Vec<Listener>> {
        Ok(lend_none(listeners))
    }

    /// Called once, before the server accepts. It must start no thread: the model may fork.
    ///
    /// # Errors
    ///
    /// What ends the program before it serves.
    fn serving(&self, _server: &ServerHandle) -> anyhow::Result<()> {
        Ok(())
    }

    /// Called once, when the server has ended. It ends at the drain deadline. Returns how many clients it has cut off
    /// then.
    fn finish(&self, _server: &ServerHandle) -> u64 {
        0
    }

    /// Returns what to call when the server enters a state, unless the accept loop is busy with a handler.
    fn observer(&self) -> Option<Box<dyn Fn(State) + Send + Sync>> {
        None
    }

    /// The protocols that TLS clients may choose from (ALPN), the preferred one first.
    fn protocols(&self) -> &'static [&'static str] {
        &[]
    }

    /// How many KiB the stack of a coroutine needs, if its client does not use TLS.
    fn stack_kib(&self) -> usize {
        STACK_KIB
    }

    /// Returns what to call after SIGHUP, in one process of the server.
    fn reloader(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }

    /// Serves one connection or datagram. It must do nothing that the contract of [`Coroutines::new`] forbids.
    ///
    /// # Errors
    ///
    /// What the server reports of this connection or datagram.
    fn serve(&self, accepted: &mut Accepted) -> Outcome;

    /// Serves a socket that [`start`](Self::start) lends, under the same contract.
    ///
    /// # Errors
    ///
    /// What the server reports of this socket.
    fn serve_lent(&self, _lent: &mut Lent) -> Outcome {
        Ok(Next::Close)
    }
}

/// What a task returns from [`Task::start`] that lends no socket.
pub(crate) fn lend_none(listeners: Vec<Any>) -> Vec<Listener> {
    listeners.into_iter().map(Either::Left).collect()
}

/// How many KiB the stack of a coroutine needs: eight times the deepest one that was measured.
pub(crate) const STACK_KIB: usize = 64;

/// How many KiB it needs with TLS.
pub(crate) const TLS_STACK_KIB: usize = 256;

/// How many handlers run at once under `threading` and `forking`, at least: the library's defaults.
const THREADS: usize = 1024;
const CHILDREN: usize = 40;

/// Serves until a signal stops it.
pub(crate) fn run(task: impl Task, options: Options) -> anyhow::Result<Report> {
    let task: Box<dyn Task> = Box::new(task);
    let workers = options.workers.map(|workers| workers as usize);
    // Each connection that the limit allows gets a handler.
    let handlers = options.limits.max_connections.unwrap_or(0);
    let handlers = usize::try_from(handlers).unwrap_or(usize::MAX);
    let threading = Threading::default().max_threads(handlers.max(THREADS));
    let forking = Forking::default().max_children(handlers.max(CHILDREN));
    match options.model {
        Model::One(Inner::Sequential) => serve(task, options, Sequential::default()),
        Model::One(Inner::Threading) => serve(task, options, threading),
        Model::One(Inner::Pool) => serve(
            task,
            options,
            workers.map_or_else(ThreadPool::default, ThreadPool::new),
        ),
        Model::One(Inner::Forking) => serve(task, options, forking),
        Model::One(Inner::Coroutines) => {
            let model = coroutines(&options, workers, task.stack_kib());
            serve(task, options, model)
        }
        Model::Prefork(Inner::Sequential) => {
            serve(task, options, prefork(workers, Sequential::default()))
        }
        Model::Prefork(Inner::Threading) => serve(task, options, prefork(workers, threading)),
        Model::Prefork(Inner::Pool) => {
            serve(task, options, prefork(workers, ThreadPool::default()))
        }
        Model::Prefork(Inner::Forking) => serve(task, options, prefork(workers, forking)),
        // One worker in each process: the processes use the processors.
        Model::Prefork(Inner::Coroutines) => {
            let model = coroutines(&options, Some(1), task.stack_kib());
            serve(task, options, prefork(workers, model))
        }
    }
}

fn prefork<M>(workers: Option<usize>, model: M) -> Prefork<M> {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Prefork::new(workers.unwrap_or_else(processors), model)
}

#[expect(unsafe_code, reason = "the contract of coroutines")]
fn coroutines(options: &Options, workers: Option<usize>, stack_kib: usize) -> Coroutines {
    // SAFETY: the tasks of this crate read, write, compute, sleep and format text; nothing that they call restores a
    // thread-local after a blocking call.
    let model = unsafe { Coroutines::new() };
    let kib = if options.tls.is_on() {
        TLS_STACK_KIB
    } else {
        0
    };
    let model = model.stack_size(kib.max(stack_kib) * 1024);
    let model = model.driver(match options.driver {
        args::Driver::Auto => Driver::Auto,
        args::Driver::Epoll => Driver::Epoll,
        args::Driver::Uring => Driver::Uring,
    });
    match workers {
        Some(workers) => model.workers(workers),
        None => model,
    }
}

fn serve<M: ServerModel>(
    mut task: Box<dyn Task>,
    options: Options,
    model: M,
) -> anyhow::Result<Report> {
    let mut builder = reporting(&options, model);
    let notifier = Notifier::from_env().unwrap_or_else(|err| {
        say(format_args!(
            "socketserver: {err}; the service manager is not notified"
        ));
        None
    });
    if let Some(notifier) = notifier {
        builder = notifier.attach(builder);
    }
    if options.log {
        builder = builder.observer(|event: &Event<'_>| say_event(event));
    }
    builder = builder.access(options.access.load()?);
    let wrappers = Wrappers {
        proxy: options.proxied.load()?,
        tls: options.tls.load(task.protocols())?,
    };
    builder = builder.on_reload(reload_hook(&*task, &options, wrappers.tls.clone()));
    let listeners = bind::all(&options.listen, &wrappers)?;
    log::start();
    task.fork(&options.privileges)?;
    options.privileges.drop_for_good()?;
    let urls: Vec<_> = listeners.iter().map(Transport::url).collect();
    builder = builder.listen(task.start(listeners)?);
    if let Some(observer) = task.observer() {
        builder = builder.observer(move |event: &Event<'_>| {
            if let Event::State(state) = event {
                observer(*state);
            }
        });
    }
    let notes = notes(&options);
    let server = builder.on_ready(move || announce(&urls, &notes)).build()?;
    let handle = server.handle();
    task.serving(&handle)?;
    signals::stop(
        handle.clone(),
        options.limits.stop_times(options.drain_timeout),
    );
    signals::reload(handle.clone(), wrappers.tls);
    if let Some(note) = short_of_descriptors(&options, handle.limits().max_connections) {
        say(format_args!("socketserver: {note}"));
    }
    let task: Arc<dyn Task> = Arc::from(task);
    let serving = Arc::clone(&task);
    let serve = move |accepted: &mut <Listener as Transport>::Accepted| match accepted {
        Either::Left(accepted) => serving.serve(accepted),
        Either::Right(lent) => serving.serve_lent(lent),
    };
    let mut report = server.serve_forever(serve)?;
    report.aborted += task.finish(&handle);
    Ok(report)
}

/// A server with its limits, whose failures are lines on standard error.
fn reporting<M: ServerModel>(options: &Options, model: M) -> Builder<Listener, M> {
    let every_event = options.log;
    let builder = Server::<Listener>::builder()
        .model(model)
        .drain_timeout(options.drain_timeout)
        .on_error(move |failure| {
            // Clients cause these without end, and `--log` has the end of each connection.
            if failure.is_disconnect() || failure.abort_reason().is_some() {
                return;
            }
            if every_event {
                say(format_args!("socketserver: {failure}"));
            } else {
                say_once_a_second(failure);
            }
        })
        .on_accept_error(|err| say(format_args!("socketserver: {err}")))
        .on_stall(|stall| say(format_args!("socketserver: {stall}")));
    options.limits.apply(builder)
}

/// Returns what to do after SIGHUP.
fn reload_hook(
    task: &dyn Task,
    options: &Options,
    tls: Option<TlsConfig>,
) -> impl Fn(&ServerHandle) + Send + Sync + use<> {
    let access = options.access.is_on().then(|| options.access.clone());
    let reload = task.reloader();
    move |server: &ServerHandle| {
        let _ = access.as_ref().map(|access| access.reload(server));
        let _ = tls.as_ref().map(TlsConfig::refresh);
        let _ = reload.as_ref().map(|reload| reload());
    }
}

/// Reports a failure, at most once a second in all processes.
fn say_once_a_second(failure: &Failure<'_>) {
    match failure.once_a_second() {
        None => {}
        Some(0) => say(format_args!("socketserver: {failure}")),
        Some(more) => say(format_args!(
            "socketserver: {failure} ({more} more since the last report)"
        )),
    }
}

/// Reports an event, unless a hook reports it.
fn say_event(event: &Event<'_>) {
    if !matches!(
        event,
        Event::Failed(_) | Event::AcceptFailed(_) | Event::Stalled(_)
    ) {
        say(format_args!("socketserver: {event}"));
    }
}

/// Notes on this machine, for the operator.
fn notes(options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if options.model.inner() != Inner::Coroutines {
        return notes;
    }
    if options.driver == args::Driver::Auto {
        notes.push(match Driver::Auto.pick() {
            (driver, Some(why)) => format!("coroutines over {driver}: {why}"),
            (driver, None) => format!("coroutines over {driver}"),
        });
    }
    if let Some(most) = Coroutines::capacity() {
        notes.push(format!(
            "at most {most} coroutines at once, by vm.max_map_count; for more, raise that, or use Linux 6.13"
        ));
    }
    notes
}

/// The library's default of `--max-connections`.
const CONNECTIONS: u64 = 10_240;

/// Descriptors for everything else, where a connection takes several.
const RESERVED: u64 = 128;

/// Bounds the number of connections by the descriptors that they take, so many each, unless a number was asked for.
/// Returns a note if that is too large.
pub(crate) fn bound_connections(options: &mut Options, descriptors: u64) -> Option<String> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = (hard.saturating_sub(RESERVED) / descriptors).max(1);
    let asked = &mut options.limits.max_connections;
    let asked = *asked.get_or_insert(CONNECTIONS.min(most));
    // Worker processes share the connections, and each has its own limit.
    let is_prefork = matches!(options.model, Model::Prefork(_));
    (asked > most && !is_prefork).then(|| {
        format!(
            "--max-connections {asked} is too large: each connection takes {descriptors} descriptors, and a process \
             may have {hard} here, which is enough for {most}; raise the hard limit, with ulimit -Hn or LimitNOFILE="
        )
    })
}

/// Raises the soft limit on descriptors to the hard one, and reports the note of [`bound_connections`].
pub(crate) fn raise_descriptor_limit(note: Option<&str>) -> anyhow::Result<()> {
    limits::raise_descriptors()?;
    if let Some(note) = note {
        say(format_args!("socketserver: {note}"));
    }
    Ok(())
}

/// Fewer connections than this are reported, unless `--max-connections` asks for fewer.
const FEW: u64 = 100;

/// A note where the limit on descriptors, after it was raised, leaves few connections, or fewer than
/// `--max-connections` asks for.
fn short_of_descriptors(options: &Options, max_connections: u64) -> Option<String> {
    let limit = getrlimit(Resource::Nofile).current?;
    let asked = options.limits.max_connections;
    let is_prefork = matches!(options.model, Model::Prefork(_));
    if let Some(asked) = asked.filter(|&asked| limit < asked && !is_prefork) {
        return Some(format!(
            "--max-connections {asked} is more than the {limit} descriptors that a process may have here; \
             raise the hard limit, with ulimit -Hn or LimitNOFILE=, or use more worker processes"
        ));
    }
    // The reserve of the library: a process needs descriptors for other things too.
    let in_process = limit - (limit / 8).min(64);
    let (who, most) = if is_prefork && in_process < max_connections {
        ("each worker process", in_process)
    } else {
        ("this server", in_process.min(max_connections))
    };
    let remedy = match asked {
        Some(_) => "raise the hard limit, with ulimit -Hn or LimitNOFILE=",
        None => {
            "raise it, with ulimit -n or LimitNOFILE=, or give --max-connections, which raises it \
             as far as the hard limit allows"
        }
    };
    (most < asked.unwrap_or(FEW).min(FEW)).then(|| {
        let connections = if most == 1 { "connection" } else { "connections" };
        format!(
            "{who} takes {most} {connections} at most, because a process may have {limit} descriptors here; {remedy}"
        )
    })
}

fn announce(urls: &[String], notes: &[String]) {
    for url in urls {
        say(format_args!("listening on {url}"));
    }
    for note in notes {
        say(format_args!("socketserver: {note}"));
    }
}
