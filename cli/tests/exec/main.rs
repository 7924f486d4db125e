//! `exec` from outside: what programs get, and how they end.

mod chaos;
mod ends;
mod programs;
mod start;
#[allow(dead_code, reason = "what only other tests need is not used here")]
#[path = "../support/mod.rs"]
mod support;
mod transports;

use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::thread;

use support::{Client, DEADLINE, Process, Server, command, poll_until};

const LOCAL: &str = "tcp://127.0.0.1:0";

const MODELS: [&str; 8] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "prefork:forking --workers 2",
    "coroutines",
    "prefork:coroutines --workers 2",
];

/// How many starters a server with one of these models has.
fn starters(model: &str) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = usize::from(model.ends_with("--workers 2")) * 2;
    processors.max(workers).min(4)
}

/// The command with options, listeners and a script of sh(1).
fn command_of(options: &str, urls: &[&str], script: &str) -> Command {
    let mut command = command(&format!("exec {options}"), urls);
    command.args(["--", "/bin/sh", "-c", script]);
    command
}

fn exec_on(options: &str, urls: &[&str], script: &str) -> Server {
    let server = Server::start(command_of(options, urls, script), urls.len());
    if options.contains("coroutines") {
        // The driver.
        server.process.next_line();
    }
    server
}

fn exec(options: &str, script: &str) -> Server {
    exec_on(options, &[LOCAL], script)
}

/// Reads a line of numbers: process ids.
#[track_caller]
fn pids(client: &mut Client) -> Vec<u32> {
    let line = line(client);
    let pids = line
        .split_whitespace()
        .map(|pid| pid.parse().expect("a process id"));
    pids.collect()
}

/// A client whose program has printed its process ids. A deadline of the server may end programs before that, and
/// another client comes then.
#[track_caller]
fn started(server: &Server) -> (Client, Vec<u32>) {
    poll_until("a program starts in time", DEADLINE, || {
        let mut client = Client::connect(&server.urls[0]);
        let pids = pids(&mut client);
        (!pids.is_empty()).then_some((client, pids))
    })
}

#[track_caller]
fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    loop {
        match &client.receive(1)[..] {
            [b'\n'] | [] => return String::from_utf8(line).expect("text"),
            byte => line.extend(byte),
        }
    }
}

/// Whether a process runs: it exists and is no zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| state != b'Z')
}

#[track_caller]
fn await_end_of(pids: &[u32]) {
    poll_until("the processes end", DEADLINE, || {
        let any = pids.iter().any(|pid| is_alive(*pid));
        (!any).then_some(())
    });
}

/// Waits for the line of a log.
#[track_caller]
fn await_line(process: &Process, part: &str) -> String {
    loop {
        let line = process.next_line();
        if line.contains(part) {
            return line;
        }
    }
}
