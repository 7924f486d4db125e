//! The processes that the forking models make: they are shed, watched, and end with those that keep
//! their deadlines and limits.

#[allow(dead_code, reason = "what only other servers need is not used here")]
mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use support::{Client, DEADLINE, Process, children, command, command_under, poll_until, serve};

/// A process that this test has not started itself.
struct Other(OwnedFd);

impl Other {
    #[track_caller]
    fn open(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed()).expect("not zero");
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("the process is there"))
    }

    fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn send(&self, signal: Signal) {
        pidfd_send_signal(&self.0, signal).expect("send a signal");
    }

    #[track_caller]
    fn assert_ends(&self) {
        let timeout = Timespec::try_from(DEADLINE).expect("a short time");
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        let count = poll(&mut ended, Some(&timeout)).expect("poll");
        assert_eq!(count, 1, "the process ends within the deadline");
    }
}

fn sockets(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Starts a server of which strace makes calls fail.
#[track_caller]
fn start_with(inject: &str, words: &str) -> Process {
    let mut strace = Command::new("strace");
    let inject = format!("inject={inject}");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
    let command = command_under(strace, words, &["tcp://127.0.0.1:0"]);
    Process::start(command)
}

#[track_caller]
fn a_full_server_sheds_the_oldest_idle_connection(model: &str) {
    let words = format!("echo --model {model} --max-connections 3 --at-limit shed");
    let server = serve(&words, &["tcp://127.0.0.1:0"]);
    let connect = || {
        let mut client = Client::connect(&server.urls[0]);
        client.echo("hello");
        client
    };
    let mut clients: Vec<_> = (0..3).map(|_| connect()).collect();
    // Each further one takes the place of one that is idle.
    for _ in 0..3 {
        clients.push(connect());
    }
    for shed in &mut clients[..3] {
        assert_eq!(shed.receive(1), b"", "it was shed");
    }
    clients.clear();
    server.stop();
}

#[test]
fn a_full_forking_server_sheds() {
    a_full_server_sheds_the_oldest_idle_connection("forking");
}

#[test]
fn a_full_worker_that_forks_sheds() {
    a_full_server_sheds_the_oldest_idle_connection("prefork:forking --workers 1");
}

#[test]
fn a_full_server_with_threads_sheds() {
    a_full_server_sheds_the_oldest_idle_connection("threading");
}

#[test]
fn a_child_ends_when_its_parent_is_killed() {
    let server = serve("echo --model forking", &["tcp://127.0.0.1:0"]);
    let mut client = Client::connect(&server.urls[0]);
    client.echo("hello");
    let child = Other::open(children(server.process.id())[0]);
    server.process.signal(Signal::KILL);
    child.assert_ends();
    assert_eq!(client.receive(1), b"");
}

#[test]
fn the_children_of_a_worker_that_is_killed_end_with_it() {
    let mut server = serve(
        "echo --model prefork:forking --workers 1",
        &["tcp://127.0.0.1:0"],
    );
    let mut client = Client::connect(&server.urls[0]);
    client.echo("hello");
    let worker = children(server.process.id())[0];
    let child = Other::open(children(worker)[0]);
    Other::open(worker).kill();
    child.assert_ends();
    assert_eq!(client.receive(1), b"");
    // The successor serves, and nothing is left of the limit.
    Client::connect(&server.urls[0]).echo("again");
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.exit().code, Some(0));
}

#[test]
fn a_child_has_no_connection_but_its_own() {
    let server = serve(
        "echo --model forking --client-speaks-first",
        &["tcp://127.0.0.1:0"],
    );
    let mut silent: Vec<_> = (0..5).map(|_| server.accepted_client()).collect();
    let mut client = Client::connect(&server.urls[0]);
    client.echo("hello");
    let child = children(server.process.id())[0];
    assert_eq!(sockets(child), 1);
    // What the parent keeps of the others is whole.
    for client in &mut silent {
        client.echo("at last");
    }
    drop((silent, client));
    server.stop();
}

#[test]
fn a_filter_that_forbids_pidfds_is_named_at_the_start() {
    for model in ["forking", "prefork", "prefork:forking"] {
        let words = format!("serve echo --model {model}");
        let exit = start_with("pidfd_open:error=EPERM", &words).exit();
        let said = exit.stderr.join("\n");
        assert_eq!(exit.code, Some(1), "{model}: {said}");
        assert!(said.contains("pidfd_open"), "{model}: {said}");
        assert!(!said.contains("listening"), "{model}: {said}");
    }
}

/// The first call is that of the start. As long as a child cannot be watched, others are served,
/// deadlines are kept, and the server stops.
#[test]
fn a_child_that_cannot_be_watched_keeps_nobody_waiting() {
    let words = "serve echo --model forking --first-byte-timeout 0.2";
    let mut process = start_with("pidfd_open:error=ENFILE:when=2+", words);
    let url = process.next_url();
    let mut silent = Client::connect(&url);
    poll_until("others are served", DEADLINE, || {
        Client::is_answered(&url).then_some(())
    });
    assert_eq!(silent.receive(1), b"", "its deadline is kept");
    let said = process.next_line();
    let start = "socketserver: watch a child process (pidfd_open): Too many open files in system";
    assert!(said.starts_with(start), "{said}");
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(0));
}

/// A worker that cannot be watched serves all the same, and is reaped.
#[test]
fn a_worker_that_cannot_be_watched_serves() {
    let words = "serve echo --model prefork --workers 2";
    let mut process = start_with("pidfd_open:error=EMFILE:when=2..9", words);
    let mut url = process.next_line();
    if !url.starts_with("listening on ") {
        let start = "socketserver: watch a child process (pidfd_open): Too many open files";
        assert!(url.starts_with(start), "{url}");
        url = process.next_url();
    }
    let url = url.trim_start_matches("listening on ");
    Client::connect(url).echo("hello");
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(0));
}

/// A server amid a stop, whose only worker has no room for the clients in the backlog.
fn stop_without_room(model: &str) -> (Process, Other, [Client; 3]) {
    let words = "--workers 1 --max-connections 1 --log";
    let words = format!("serve chargen --model prefork:{model} {words}");
    let process = Process::start(command(&words, &["tcp://127.0.0.1:0"]));
    let url = poll_until("a listener", DEADLINE, || {
        let line = process.next_line();
        line.strip_prefix("listening on ").map(str::to_owned)
    });
    let busy = Client::connect(&url);
    busy.await_full(&process);
    let waiting = [Client::connect(&url), Client::connect(&url)];
    let worker = Other::open(children(process.id())[0]);
    process.signal(Signal::TERM);
    poll_until("the backlog", DEADLINE, || {
        let line = process.next_line();
        line.ends_with("serving the backlog").then_some(())
    });
    let [first, second] = waiting;
    (process, worker, [busy, first, second])
}

const ROOM: [&str; 3] = ["threading", "coroutines", "forking"];

#[test]
fn a_worker_that_dies_amid_a_stop_loses_none_of_the_backlog() {
    for model in ROOM {
        let (mut process, worker, [busy, mut first, mut second]) = stop_without_room(model);
        worker.kill();
        assert_ne!(first.receive(1), b"", "{model}");
        drop(first);
        assert_ne!(second.receive(1), b"", "{model}");
        drop((busy, second));
        let exit = process.exit();
        assert_eq!(exit.code, Some(0), "{model}: {exit:?}");
    }
}

#[test]
fn a_worker_that_dies_at_the_drain_deadline_leaves_no_client_uncounted() {
    for model in ROOM {
        let (mut process, worker, clients) = stop_without_room(model);
        worker.send(Signal::STOP);
        // No time is left.
        process.signal(Signal::TERM);
        worker.kill();
        let exit = process.exit();
        assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
        drop(clients);
    }
}
