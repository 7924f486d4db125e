//! `socketserver serve`: from arguments to a server that has ended.

use socketserver::{
    Coroutines, Driver, Forking, Model as ServerModel, Prefork, Report, Sequential, Server,
    ThreadPool, Threading,
};

use crate::args::{self, Inner, Model, Serve};
use crate::listen::{self, Any};
use crate::{say, services, signals};

/// Serves until a signal stops it.
pub(crate) fn run(args: Serve) -> anyhow::Result<Report> {
    let workers = args.workers.map(|workers| workers as usize);
    match args.model {
        Model::One(Inner::Sequential) => serve(args, Sequential::default()),
        Model::One(Inner::Threading) => serve(args, Threading::default()),
        Model::One(Inner::Pool) => serve(
            args,
            workers.map_or_else(ThreadPool::default, ThreadPool::new),
        ),
        Model::One(Inner::Forking) => serve(args, Forking::default()),
        Model::One(Inner::Coroutines) => {
            let model = coroutines(&args, workers);
            serve(args, model)
        }
        Model::Prefork(Inner::Sequential) => serve(args, prefork(workers, Sequential::default())),
        Model::Prefork(Inner::Threading) => serve(args, prefork(workers, Threading::default())),
        Model::Prefork(Inner::Pool) => serve(args, prefork(workers, ThreadPool::default())),
        Model::Prefork(Inner::Forking) => serve(args, prefork(workers, Forking::default())),
        // The processes are what uses the processors.
        Model::Prefork(Inner::Coroutines) => {
            let model = coroutines(&args, Some(1));
            serve(args, prefork(workers, model))
        }
    }
}

fn prefork<M>(workers: Option<usize>, model: M) -> Prefork<M> {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Prefork::new(workers.unwrap_or_else(processors), model)
}

#[expect(unsafe_code, reason = "the contract of coroutines")]
fn coroutines(args: &Serve, workers: Option<usize>) -> Coroutines {
    // SAFETY: the services read, write and format text; nothing they call restores a thread-local
    // afterwards.
    let model = unsafe { Coroutines::new() };
    // Eight times what the deepest service was measured to use.
    let model = model.stack_size(64 * 1024);
    let model = model.driver(match args.driver {
        args::Driver::Auto => Driver::Auto,
        args::Driver::Epoll => Driver::Epoll,
        args::Driver::Uring => Driver::Uring,
    });
    match workers {
        Some(workers) => model.workers(workers),
        None => model,
    }
}

fn serve<M: ServerModel>(args: Serve, model: M) -> anyhow::Result<Report> {
    let mut builder = Server::<Any>::builder()
        .model(model)
        .drain_timeout(args.drain_timeout)
        .on_error(|failure| {
            if !failure.is_disconnect() {
                say(format_args!("socketserver: {failure}"));
            }
        })
        .on_accept_error(|err| say(format_args!("socketserver: {err}")))
        .on_stall(|stall| say(format_args!("socketserver: {stall}")));
    if let Some(max) = args.max_connections {
        builder = builder.max_connections(max);
    }
    let listeners = listen::all(&args.listen)?;
    let urls: Vec<_> = listeners.iter().map(socketserver::Transport::url).collect();
    builder = builder.listen(listeners);
    let notes = notes(&args);
    let server = builder.on_ready(move || announce(&urls, &notes)).build()?;
    signals::install(&server.handle())?;
    let service = args.service;
    Ok(server.serve_forever(move |request| services::serve(service, request))?)
}

/// What the operator should know of this machine.
fn notes(args: &Serve) -> Vec<String> {
    let mut notes = Vec::new();
    if args.model.inner() != Inner::Coroutines {
        return notes;
    }
    if args.driver == args::Driver::Auto {
        notes.push(match Driver::Auto.pick() {
            (driver, Some(why)) => format!("coroutines over {driver}: {why}"),
            (driver, None) => format!("coroutines over {driver}"),
        });
    }
    if let Some(most) = Coroutines::capacity() {
        notes.push(format!(
            "at most {most} coroutines; raise vm.max_map_count, or use Linux 6.13, for more"
        ));
    }
    notes
}

fn announce(urls: &[String], notes: &[String]) {
    for url in urls {
        say(format_args!("listening on {url}"));
    }
    for note in notes {
        say(format_args!("socketserver: {note}"));
    }
    // Without a service manager there is nobody to tell, and one that does not listen is none of a
    // server's worries.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
