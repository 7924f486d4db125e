//! The `socketserver` command: from its arguments to its exit status.

mod access;
mod accounts;
mod args;
mod bind;
mod compare;
mod exec;
mod inherited;
mod init;
mod lent;
mod limits;
mod listen;
mod log;
mod privileges;
mod proxied;
mod proxy;
mod resolve;
mod serve;
mod services;
mod shared;
mod signals;
mod throttle;
mod tls;
mod web;
mod workload;

use std::panic;
use std::process::ExitCode;

use socketserver::Report;

use args::{Command, Serve, Served};
use log::say;
use services::BuiltIn;

fn main() -> ExitCode {
    if let Some(code) = init::run() {
        return code;
    }
    // First of all, so that no signal is lost.
    let handlers = signals::install();
    panic::set_hook(Box::new(log::panicked));
    let command = match args::parse() {
        Err(code) => return code,
        Ok(command) => command,
    };
    let result = handlers.and_then(|handlers| match command {
        Command::Serve(serve) => serve_one(*serve),
        Command::Exec(exec) => exec::run(exec),
        Command::Proxy(proxy) => proxy::run(*proxy),
        Command::Workload(work) => workload::run(work),
        Command::Compare(args) => {
            handlers.remove();
            compare::run(&args).map(|()| Report::default())
        }
    });
    let code = match result {
        Ok(Report { aborted: 0, .. }) => ExitCode::SUCCESS,
        Ok(Report { aborted, .. }) => {
            let connections = if aborted == 1 {
                "connection was"
            } else {
                "connections were"
            };
            say(format_args!(
                "socketserver: {aborted} {connections} aborted at the drain deadline or a second \
                 signal; raise --drain-timeout to wait longer"
            ));
            ExitCode::from(3)
        }
        Err(err) => {
            say(format_args!("socketserver: {err:#}"));
            ExitCode::FAILURE
        }
    };
    log::finish();
    code
}

fn serve_one(serve: Serve) -> anyhow::Result<Report> {
    let Serve {
        service,
        directory,
        allow_amplification,
        web,
        options,
    } = serve;
    match (service, directory) {
        (Served::Http, directory) => web::run(web, &directory.unwrap_or_default(), options),
        (Served::BuiltIn(service), _) => {
            serve::run(BuiltIn::new(service, allow_amplification), options)
        }
    }
}
