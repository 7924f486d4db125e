//! The `socketserver` command: puts a service on a socket.

mod args;
mod inherited;
mod listen;
mod serve;
mod services;
mod signals;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use socketserver::Report;

fn main() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match serve::run(args) {
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
    let _ = writeln!(io::stderr(), "{line}");
}
