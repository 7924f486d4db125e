//! `socketserver serve`: from arguments to a server that has ended.

use anyhow::Context;
use socketserver::{
    Forking, Model as ServerModel, Prefork, Report, Sequential, Server, ThreadPool, Threading,
};

use crate::args::{Inner, Model, Serve};
use crate::listen::Any;
use crate::{services, signals};

/// Serves until a signal stops it.
pub(crate) fn run(args: Serve) -> anyhow::Result<Report> {
    let workers = args.workers.map(|workers| workers as usize);
    let pool = || workers.map_or_else(ThreadPool::default, ThreadPool::new);
    let processes = workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    match args.model {
        Model::One(Inner::Sequential) => serve(args, Sequential::default()),
        Model::One(Inner::Threading) => serve(args, Threading::default()),
        Model::One(Inner::Pool) => serve(args, pool()),
        Model::One(Inner::Forking) => serve(args, Forking::default()),
        Model::Prefork(Inner::Sequential) => {
            serve(args, Prefork::new(processes, Sequential::default()))
        }
        Model::Prefork(Inner::Threading) => {
            serve(args, Prefork::new(processes, Threading::default()))
        }
        Model::Prefork(Inner::Pool) => serve(args, Prefork::new(processes, ThreadPool::default())),
        Model::Prefork(Inner::Forking) => serve(args, Prefork::new(processes, Forking::default())),
    }
}

#[expect(clippy::print_stderr, reason = "the command reports on standard error")]
fn serve<M: ServerModel>(args: Serve, model: M) -> anyhow::Result<Report> {
    let mut builder = Server::<Any>::builder()
        .model(model)
        .drain_timeout(args.drain_timeout)
        .on_error(|failure| {
            if !failure.is_disconnect() {
                eprintln!("socketserver: {failure}");
            }
        })
        .on_accept_error(|err| eprintln!("socketserver: {err}"));
    if let Some(max) = args.max_connections {
        builder = builder.max_connections(max);
    }
    let mut urls = Vec::new();
    for url in &args.listen {
        let listeners = url.listen()?;
        urls.extend(listeners.iter().map(socketserver::Transport::url));
        builder = builder.listen(listeners);
    }
    let server = builder.on_ready(move || announce(&urls)).build()?;
    signals::install(&server.handle())?;
    let service = args.service;
    server
        .serve_forever(move |request| services::serve(service, request))
        .context("serve")
}

#[expect(clippy::print_stderr, reason = "the command reports on standard error")]
fn announce(urls: &[String]) {
    for url in urls {
        eprintln!("listening on {url}");
    }
    // Without a service manager there is nobody to tell, and one that does not listen is none of a
    // server's worries.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
