//! Workers of coroutines that cannot start, that fail later, or that are short of memory: nobody is
//! accepted for the dead.

#[allow(dead_code, reason = "what only other servers need is not used here")]
mod support;

use std::process::Command;

use rustix::process::Signal;
use socketserver::model::Driver;

use support::{Client, Process, command_after, command_under};

const URL: &[&str] = &["tcp://127.0.0.1:0"];

#[test]
fn a_worker_that_cannot_start_fails_the_server() {
    // Each worker has a wake-up event, and a driver that the last ones do not get.
    let words = "serve echo --model coroutines --driver epoll --workers 60";
    let exit = Process::start(command_after("ulimit -n 110", words, URL)).exit();
    let said = exit.stderr.join("\n");
    assert_eq!(exit.code, Some(1), "{said}");
    let start = "socketserver: start the coroutines model: ";
    // Before it there is a line on how few connections so few descriptors leave.
    let last = exit.stderr.last().expect("a line on standard error");
    assert!(last.starts_with(start), "{said}");
    assert!(last.contains("Too many open files"), "{said}");
    assert!(!said.contains("listening"), "{said}");
}

/// The wait of each worker fails from some call on; the clients that it has learn of it, and a stop
/// does not wait for them.
#[track_caller]
fn a_worker_that_fails_later_fails_the_server(driver: &str, inject: &str) {
    let mut strace = Command::new("strace");
    let inject = format!("inject={inject}");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
    let words =
        format!("serve echo --model coroutines --driver {driver} --workers 2 --drain-timeout 1000");
    let mut process = Process::start(command_under(strace, &words, URL));
    let url = process.next_url();
    let connect = |_| Client::try_connect(&url);
    let clients: Vec<_> = (0..6).map_while(connect).collect();
    clients.into_iter().for_each(Client::talk_to_the_end);
    let exit = process.exit();
    let said = exit.stderr.join("\n");
    assert_eq!(exit.code, Some(1), "{said}");
    let first = "socketserver: wait in a worker of coroutines: Invalid argument (os error 22); the server stops";
    assert!(said.starts_with(first), "{said}");
    let last = exit.stderr.last().map(String::as_str);
    let expected = "socketserver: wait in a worker: Invalid argument (os error 22)";
    assert_eq!(last, Some(expected), "{said}");
}

#[test]
fn a_worker_whose_epoll_fails_fails_the_server() {
    a_worker_that_fails_later_fails_the_server("epoll", "epoll_pwait:error=EINVAL:when=20+");
}

#[test]
fn a_worker_whose_io_uring_fails_fails_the_server() {
    match Driver::Auto.pick() {
        (_, Some(why)) => eprintln!("ignored: {why}"),
        _ => {
            a_worker_that_fails_later_fails_the_server(
                "uring",
                "io_uring_enter:error=EINVAL:when=20+",
            );
        }
    }
}

/// The accept loop is a coroutine of the first worker.
#[test]
fn a_first_worker_that_fails_leaves_no_socket_file() {
    let epoll = Some(("epoll", "epoll_pwait:error=EINVAL:when=6+"));
    let uring = match Driver::Auto.pick() {
        (_, Some(why)) => {
            eprintln!("ignored: {why}");
            None
        }
        _ => Some(("uring", "io_uring_enter:error=EINVAL:when=6+")),
    };
    for (driver, inject) in epoll.into_iter().chain(uring) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("s");
        let mut strace = Command::new("strace");
        let inject = format!("inject={inject}");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
        let words = format!("serve echo --model coroutines --driver {driver} --workers 1");
        let url = format!("unix://{}", file.display());
        let mut process = Process::start(command_under(strace, &words, &[&url, URL[0]]));
        process.next_url();
        let url = process.next_url();
        // The waits for each client bring the one that fails nearer.
        let mut clients = 0;
        while let Some(client) = Client::try_connect(&url) {
            client.talk_to_the_end();
            clients += 1;
            assert!(clients < 100, "{driver} does not fail");
        }
        let exit = process.exit();
        assert_eq!(exit.code, Some(1), "{driver}: {exit:?}");
        assert!(!file.exists(), "{driver}");
    }
}

/// Further clients wait in the backlog, where a server that stops finds them.
#[test]
fn a_server_without_memory_for_stacks_accepts_no_more() {
    let words =
        "serve echo --model coroutines --driver epoll --workers 2 --first-byte-timeout none";
    let process = Process::start(command_after("ulimit -v 400000", words, URL));
    let mut process = process;
    let url = process.next_url();
    let mut clients: Vec<_> = (0..4000).map(|_| Client::connect(&url)).collect();
    let said = process.next_line();
    let shortage = "no memory for the stack of a coroutine: Cannot allocate memory (os error 12); trying again within";
    assert!(said.contains(shortage), "{said}");
    let mut last = clients.pop().expect("there are many");
    last.send(b"x");
    // Their stacks are free.
    drop(clients);
    assert_eq!(last.receive(1), b"x");
    drop(last);
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(0));
}
