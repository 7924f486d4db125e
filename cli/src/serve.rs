//! From options to a server that has ended: the one match over models.

use socketserver::model::{Driver, Model as ServerModel};
use socketserver::net::Transport;
use socketserver::observe::{Event, Failure};
use socketserver::systemd::Notifier;
use socketserver::{
    Coroutines, Forking, Outcome, Prefork, Report, Sequential, Server, ThreadPool, Threading,
};

use crate::args::{self, Inner, Model, Options};
use crate::bind::{self, Accepted, Any, Wrappers};
use crate::log::{self, say};
use crate::signals;

/// What a server does with each connection and datagram.
pub(crate) trait Task: Send + Sync + 'static {
    /// Called once, when the listeners are bound and the privileges are given up. The process has one thread yet.
    ///
    /// # Errors
    ///
    /// What ends the program before it serves.
    fn start(&mut self, _listeners: &[Any]) -> anyhow::Result<()> {
        Ok(())
    }

    /// Serves one connection or datagram. It must do nothing that the contract of [`Coroutines::new`] forbids.
    ///
    /// # Errors
    ///
    /// What the server reports of this connection or datagram.
    fn serve(&self, accepted: &mut Accepted) -> Outcome;
}

/// Serves until a signal stops it.
pub(crate) fn run(task: impl Task, options: Options) -> anyhow::Result<Report> {
    let task: Box<dyn Task> = Box::new(task);
    let workers = options.workers.map(|workers| workers as usize);
    match options.model {
        Model::One(Inner::Sequential) => serve(task, options, Sequential::default()),
        Model::One(Inner::Threading) => serve(task, options, Threading::default()),
        Model::One(Inner::Pool) => serve(
            task,
            options,
            workers.map_or_else(ThreadPool::default, ThreadPool::new),
        ),
        Model::One(Inner::Forking) => serve(task, options, Forking::default()),
        Model::One(Inner::Coroutines) => {
            let model = coroutines(&options, workers);
            serve(task, options, model)
        }
        Model::Prefork(Inner::Sequential) => {
            serve(task, options, prefork(workers, Sequential::default()))
        }
        Model::Prefork(Inner::Threading) => {
            serve(task, options, prefork(workers, Threading::default()))
        }
        Model::Prefork(Inner::Pool) => {
            serve(task, options, prefork(workers, ThreadPool::default()))
        }
        Model::Prefork(Inner::Forking) => {
            serve(task, options, prefork(workers, Forking::default()))
        }
        // One worker in each process: the processes use the processors.
        Model::Prefork(Inner::Coroutines) => {
            let model = coroutines(&options, Some(1));
            serve(task, options, prefork(workers, model))
        }
    }
}

fn prefork<M>(workers: Option<usize>, model: M) -> Prefork<M> {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Prefork::new(workers.unwrap_or_else(processors), model)
}

#[expect(unsafe_code, reason = "the contract of coroutines")]
fn coroutines(options: &Options, workers: Option<usize>) -> Coroutines {
    // SAFETY: the tasks of this crate read, write, compute, sleep and format text; nothing that they call restores a
    // thread-local after a blocking call.
    let model = unsafe { Coroutines::new() };
    // Eight times the deepest stack that was measured without TLS; a handshake needs more.
    let kib = if options.tls.is_on() { 256 } else { 64 };
    let model = model.stack_size(kib * 1024);
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
    let every_event = options.log;
    let mut builder = Server::<Any>::builder()
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
    builder = options.limits.apply(builder);
    if options.access.is_on() {
        let access = options.access.clone();
        builder = builder.on_reload(move |server| access.reload(server));
    }
    let notifier = Notifier::from_env().unwrap_or_else(|err| {
        say(format_args!(
            "socketserver: {err}; the service manager is not notified"
        ));
        None
    });
    if let Some(notifier) = notifier.clone() {
        builder = notifier.attach(builder);
    }
    if options.log {
        builder = builder.observer(|event: &Event<'_>| say_event(event));
    }
    builder = builder.access(options.access.load()?);
    let wrappers = Wrappers {
        proxy: options.proxied.load()?,
        tls: options.tls.load()?,
    };
    let listeners = bind::all(&options.listen, &wrappers)?;
    log::start();
    options.privileges.drop_for_good()?;
    let urls: Vec<_> = listeners.iter().map(Transport::url).collect();
    task.start(&listeners)?;
    builder = builder.listen(listeners);
    let notes = notes(&options);
    let server = builder.on_ready(move || announce(&urls, &notes)).build()?;
    let handle = server.handle();
    signals::stop(
        handle.clone(),
        options.limits.stop_times(options.drain_timeout),
    );
    let lists = options.access.is_on().then(|| handle.clone());
    signals::reload(lists, wrappers.tls, notifier)?;
    if let Some(note) = short_of_descriptors(&options, handle.limits().max_connections) {
        say(format_args!("socketserver: {note}"));
    }
    Ok(server.serve_forever(move |accepted| task.serve(accepted))?)
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

/// Fewer connections than this are reported, unless `--max-connections` asks for fewer.
const FEW: u64 = 100;

/// A note where the limit on descriptors, after it was raised, leaves few connections, or fewer than
/// `--max-connections` asks for.
fn short_of_descriptors(options: &Options, max_connections: u64) -> Option<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
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
