//! The `socketserver` command: puts a service on a socket, and compares the models.

mod args;
mod compare;
mod inherited;
mod limits;
mod listen;
mod serve;
mod services;
mod signals;
mod workload;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use socketserver::Report;

use args::Command;
use serve::Task;

fn main() -> ExitCode {
    let result = match args::parse() {
        Err(code) => return code,
        Ok(Command::Serve(args)) => serve::run(Task::Service(args.service), args.options),
        Ok(Command::Workload(work)) => workload::run(work),
        Ok(Command::Compare(args)) => compare::run(&args).map(|()| Report::default()),
    };
    match result {
        Ok(Report { cut: 0, .. }) => ExitCode::SUCCESS,
        Ok(Report { cut, .. }) => {
            let requests = if cut == 1 { "request" } else { "requests" };
            say(format_args!(
                "socketserver: the drain deadline has cut {cut} {requests}"
            ));
            ExitCode::from(3)
        }
        Err(err) => {
            say(format_args!("socketserver: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line on standard error. Where that is closed or full, there is nobody to tell.
fn say(line: fmt::Arguments<'_>) {
    // In one piece: worker processes write to the same place.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
