//! The `socketserver` command: puts a service on a socket.

mod args;
mod inherited;
mod listen;
mod serve;
mod services;
mod signals;

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a command speaks on standard error")]
fn main() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match serve::run(args) {
        Ok(report) if report.cut > 0 => {
            eprintln!(
                "socketserver: the drain deadline has cut {} requests",
                report.cut
            );
            ExitCode::from(3)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("socketserver: {err}");
            ExitCode::FAILURE
        }
    }
}
