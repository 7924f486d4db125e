//! Programs that take long: `slowhttptest` in its four modes, a browser, and the fuzzing client of Autobahn for
//! WebSockets. They run by name, as CONTRIBUTING.md says, and fail where their program is missing.

#[path = "../../../tests/support/arguments.rs"]
mod arguments;
#[path = "../../../tests/support/models.rs"]
mod models;
#[path = "../../../tests/examples/program.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod program;

mod browser;
mod slow;
mod web_socket;

use std::io;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::Trial;

fn main() -> ExitCode {
    let all = slow::trials()
        .chain(browser::trials())
        .chain(web_socket::trials());
    let trials = all.map(|trial| trial.with_ignored_flag(true)).collect();
    libtest_mimic::run(&arguments::arguments(), trials).exit_code()
}

/// Makes a trial of a function that panics when it fails.
fn trial(name: String, check: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        check();
        Ok(())
    })
}

/// Runs a program, for so many seconds at most, and returns what it has printed.
fn output(seconds: u32, program: &str, arguments: &[&str], install: &str) -> Output {
    let run = Command::new(program).arg("--version").output();
    if run.is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
        panic!("{program} is missing: {install}");
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after", "5", &seconds.to_string(), program]);
    let output = command.args(arguments).output().expect("run timeout(1)");
    let text = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(
        status.success(),
        "{program} {arguments:?}: {status}\n{text}"
    );
    output
}
