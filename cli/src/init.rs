//! The first process of a container: it starts this program again as its child, passes signals on to
//! the child, and reaps orphans.
//!
//! The kernel makes orphans children of the first process, and discards signals for which that process
//! has no handler (pid_namespaces(7)). A server reaps its own children alone, so it runs as a child.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitCode};

use rustix::fs::fstat;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, pidfd_open, waitid,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT};

use crate::exec::starter::sys::{self, Fork};
use crate::{log, signals};

/// Supervises the program where this is the first process; returns the program's exit status, or
/// `None` where this process is to serve.
pub(crate) fn run() -> Option<ExitCode> {
    if process::id() != 1 {
        return None;
    }
    // Signals stay pending from here on, and in the program until it has installed its handlers.
    signals::block();
    signals::default_child_signal();
    match start() {
        Ok(program) => Some(ExitCode::from(supervise(program))),
        Err(err) => {
            // The first process serves by itself.
            log::say(format_args!(
                "socketserver: start this program again as a child of process 1: {err}; orphans are not reaped"
            ));
            None
        }
    }
}

/// Starts the program with the arguments, environment and descriptors of this process: they are the program's, also where
/// a variable says that they are this process's.
fn start() -> io::Result<Pid> {
    let mut args = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // In its own group the program gets no signal from a terminal; this process passes that on.
    command.args(args).process_group(0);
    let first = addressee();
    match sys::fork()? {
        Fork::Parent(program) => Ok(program),
        Fork::Child => {
            for ((name, first), (_, own)) in first.into_iter().zip(addressee()) {
                if env::var(name).is_ok_and(|value| value == first) {
                    command.env(name, own);
                }
            }
            let err = command.exec();
            log::say(format_args!(
                "socketserver: start this program again as a child of process 1: {err}"
            ));
            sys::exit(1)
        }
    }
}

/// The variables by which a service manager says for which process its sockets and its watchdog are, and how each names this one
/// (sd_listen_fds(3), sd_watchdog_enabled(3)).
fn addressee() -> [(&'static str, String); 3] {
    let pid = process::id().to_string();
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty());
    let id = pidfd.and_then(|pidfd| Ok(fstat(pidfd)?.st_ino.to_string()));
    [
        ("LISTEN_PID", pid.clone()),
        ("WATCHDOG_PID", pid),
        ("LISTEN_PIDFDID", id.unwrap_or_default()),
    ]
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
        // An error means that the program has just ended.
        let _ = kill_process(program, signal);
    }
}

/// Reaps every child that has ended, by its number. Returns the exit status of the program if that
/// has ended.
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
            // The convention of shells.
            let code = code
                .or_else(|| signal.map(|signal| 128 + signal))
                .unwrap_or(1);
            ended = Some(u8::try_from(code).unwrap_or(1));
        }
    }
    ended
}
