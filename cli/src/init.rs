//! The first process of a container: it starts this program again, passes signals on to it, and
//! reaps what else becomes its child.
//!
//! The kernel gives orphans to the first process, and discards signals that it has no handler for
//! (pid_namespaces(7)). A server reaps its own children alone; so it is a child of its own here.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitCode};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT};

use crate::{log, signals};

/// Does that where this is the first process, until the program has ended, whose exit status it
/// returns.
pub(crate) fn run() -> Option<ExitCode> {
    if process::id() != 1 {
        return None;
    }
    // They wait from here on, and in the program until its handlers are there.
    signals::block();
    signals::default_child_signal();
    match start() {
        Ok(program) => Some(ExitCode::from(supervise(program))),
        Err(err) => {
            // It serves all the same, as the first process.
            log::say(format_args!(
                "socketserver: start this program again, to reap orphans as process 1: {err}"
            ));
            None
        }
    }
}

/// Starts the program, with all that this process has.
fn start() -> io::Result<Pid> {
    let mut args = env::args_os();
    let mut command = Command::new(env::current_exe()?);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // A terminal sends its signals to the group of this process, which passes them on: once.
    let child = command.args(args).process_group(0).spawn()?;
    Ok(Pid::from_child(&child))
}

/// Passes on signals and reaps until the program has ended.
fn supervise(program: Pid) -> u8 {
    loop {
        let signal = match signals::next() {
            SIGCHLD => match reap(program) {
                Some(status) => return status,
                None => continue,
            },
            SIGINT => Signal::INT,
            SIGHUP => Signal::HUP,
            _ => Signal::TERM,
        };
        // It fails where the program has just ended.
        let _ = kill_process(program, signal);
    }
}

/// Reaps every child that has ended, by its number; the exit status of the program, if it is one of
/// them.
fn reap(program: Pid) -> Option<u8> {
    let mut ended = None;
    while let Some(pid) = signals::ended_child() {
        let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)
            .ok()
            .flatten();
        if pid == program {
            let code = status.as_ref().and_then(|status| status.exit_status());
            let signal = status
                .as_ref()
                .and_then(|status| status.terminating_signal());
            // As shells have it.
            let code = code
                .or_else(|| signal.map(|signal| 128 + signal))
                .unwrap_or(1);
            ended = Some(u8::try_from(code).unwrap_or(1));
        }
    }
    ended
}
