//! Clients that send slowly, and workers that are killed all the time.
//!
//! `CHAOS_SECONDS=30 cargo test --workspace --test hostile -- --nocapture` kills for longer than
//! the ordinary run.

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use support::models::NAMES;
use support::{
    DEADLINE, Gate, ServerProcess, Target, is_available, is_running, poll_until, uninterrupted,
};

#[path = "support/server.rs"]
mod server;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        raise_descriptors();
        return server::main(&args[1..]);
    }
    raise_descriptors();
    let trial = |name: &str, check: fn()| {
        Trial::test(name, move || {
            check();
            Ok(())
        })
    };
    let mut trials = vec![
        trial("slow_clients_hold_no_thread", slow_clients_hold_no_thread),
        trial(
            "without_whole_requests_slow_clients_hold_threads",
            without_whole_requests_slow_clients_hold_threads,
        ),
    ];
    for model in NAMES
        .into_iter()
        .filter(|model| model.starts_with("prefork"))
    {
        let trial = Trial::test(
            format!("{model}::a_server_outlives_its_workers"),
            move || {
                a_server_outlives_its_workers(model);
                Ok(())
            },
        );
        trials.push(trial.with_ignored_flag(!is_available(model)));
    }
    // One trial after the other: each needs the processors for itself.
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A thousand clients take as many descriptors.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit
            .maximum
            .map_or(Some(4096), |hard| Some(hard.min(4096))),
        ..limit
    };
    if limit.current.is_some_and(|current| current < 4096) {
        setrlimit(Resource::Nofile, raised).expect("raise the limit on descriptors");
    }
}

fn address(server: &ServerProcess) -> SocketAddr {
    match server.target() {
        Target::Tcp(address) => *address,
        other => panic!("not TCP: {other:?}"),
    }
}

/// How many slow clients there are beside the good ones.
const SLOW: usize = 1000;

/// Slow clients, which each send a byte every half second, and never a whole request. The drop ends
/// them.
struct Drip {
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drip {
    fn start(address: SocketAddr, count: usize) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let (ready, wait) = channel();
        let thread = thread::spawn(move || {
            let connect = |_| {
                let mut client = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
                client.write_all(b"e").expect("send");
                client
            };
            let mut clients: Vec<_> = (0..count).map(connect).collect();
            ready.send(()).expect("the test waits");
            let pace = Duration::from_millis(500) / u32::try_from(count).expect("a few");
            let mut next = Instant::now();
            for at in (0..count).cycle() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                next += pace;
                thread::park_timeout(next.saturating_duration_since(Instant::now()));
                // A connection that the server has ended is closed here too.
                let _ = clients[at].write_all(b"x");
            }
        });
        wait.recv_timeout(DEADLINE)
            .expect("all connect within the deadline");
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("slow clients");
        }
    }
}

/// How many threads the pool has.
const THREADS: usize = 8;

/// How many good clients are answered beside the slow ones.
const GOOD: usize = 500;

fn slow_clients_hold_no_thread() {
    // A request may take an hour, so no slow client is aborted before the test is over.
    let options = ["whole=1", "threads=8", "request_ms=3600000"];
    let mut server = ServerProcess::start("tcp", "pool", &options);
    let drip = Drip::start(address(&server), SLOW);
    // Each slow client holds a thread until no thread is left for other clients.
    let gate = Gate::new();
    let holding: Vec<_> = (0..THREADS)
        .map(|_| server.target().send(&gate.hold()))
        .collect();
    let held: Vec<_> = holding.iter().map(|_| gate.wait()).collect();
    drop(held);
    for client in holding {
        assert_eq!(client.answer(), "held, stopping false");
    }
    for _ in 0..GOOD {
        assert_eq!(server.target().ask("echo on"), "on");
    }
    // All slow clients are still connected, and none has a handler: all are parked.
    let list = server.target().ask("list");
    let parked = list.lines().filter(|line| line.contains(" parked for "));
    assert_eq!(parked.count(), SLOW, "{list}");
    drop(drip);
    server.target().ask("shutdown");
    let ended = server.ended();
    assert!(ended.starts_with("aborted=0 live=0 "), "{ended}");
}

fn without_whole_requests_slow_clients_hold_threads() {
    let options = ["threads=8", "request_ms=3600000"];
    let server = ServerProcess::start("tcp", "pool", &options);
    let drip = Drip::start(address(&server), 50);
    let mut good = TcpStream::connect_timeout(&address(&server), DEADLINE).expect("connect");
    good.write_all(b"echo on\n").expect("send");
    let silence = Duration::from_millis(500);
    good.set_read_timeout(Some(silence)).expect("set a timeout");
    let early = uninterrupted(|| good.read(&mut [0])).expect_err("all threads are held");
    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
    drop(drip);
    let mut answer = String::new();
    good.set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    good.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "on");
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    broken: AtomicU64,
    wrong: AtomicU64,
}

/// Asks until `stop` is set.
fn load(target: &Target, seen: &Seen, end: &AtomicBool) {
    let mut number = 0_u64;
    while !end.load(Ordering::SeqCst) {
        number += 1;
        let text = number.to_string();
        let count = match target.try_ask(&format!("echo {text}")) {
            Ok(answer) if answer == text => &seen.answered,
            // A worker was killed before it could answer.
            Ok(answer) if answer.is_empty() => &seen.broken,
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => &seen.broken,
            _ => &seen.wrong,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn children(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children
        .split_whitespace()
        .map(|pid| pid.parse().expect("a number"))
        .collect()
}

const WORKERS: usize = 4;

/// How many workers are killed at least.
const KILLED: usize = 4;

/// Waits until all workers have started.
fn wait_for_workers(server: &ServerProcess) {
    poll_until("all workers have started", DEADLINE, || {
        (children(server.pid()).len() >= WORKERS).then_some(())
    });
}

/// Kills a worker every 100 ms, `KILLED` at least, in a pseudo-random order. Returns their process
/// ids.
fn kill_workers(server: &ServerProcess, time: Duration, mut seed: u64) -> Vec<i32> {
    let (_keep, never) = channel::<()>();
    let end = Instant::now() + time;
    let mut killed = Vec::new();
    while Instant::now() < end || killed.len() < KILLED {
        assert!(
            Instant::now() < end + DEADLINE,
            "workers to kill come within the deadline"
        );
        let _ = never.recv_timeout(Duration::from_millis(100));
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let workers = children(server.pid());
        let Some(&pid) = workers.get((seed >> 33) as usize % workers.len().max(1)) else {
            continue;
        };
        kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("kill a worker");
        killed.push(pid);
    }
    killed
}

#[expect(clippy::print_stderr, reason = "the figures")]
fn a_server_outlives_its_workers(model: &str) {
    let seconds = std::env::var("CHAOS_SECONDS").map_or(1, |text| text.parse().expect("seconds"));
    let seed = u64::from(std::process::id());
    let mut server = ServerProcess::start("tcp", model, &["workers=4", "max_connections=64"]);
    let target = server.target().clone();
    let (seen, end) = (Seen::default(), AtomicBool::new(false));
    wait_for_workers(&server);
    let killed = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| load(&target, &seen, &end)))
            .collect();
        let killed = kill_workers(&server, Duration::from_secs(seconds), seed);
        wait_for_workers(&server);
        end.store(true, Ordering::SeqCst);
        clients
            .into_iter()
            .for_each(|client| client.join().expect("a client"));
        killed
    });
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (answered, broken) = (load(&seen.answered), load(&seen.broken));
    eprintln!(
        "{model}: seed {seed}, {} workers killed, {answered} answered, {broken} broken",
        killed.len()
    );
    assert_eq!(
        load(&seen.wrong),
        0,
        "an answer is right, or the connection broke"
    );
    assert!(answered > 0, "something has happened");
    for number in 0..100 {
        let text = number.to_string();
        assert_eq!(target.ask(&format!("echo {text}")), text);
    }
    nothing_is_left(&mut server, &killed);
}

/// A killed worker leaves no permit, no registered connection and no process behind.
fn nothing_is_left(server: &mut ServerProcess, killed: &[i32]) {
    let end = Instant::now() + DEADLINE;
    // Children of a forking worker end by themselves, a moment after their answer.
    while server.target().ask("live") != "1" {
        assert!(Instant::now() < end, "permits are returned");
    }
    while server.target().ask("list").lines().count() != 1 {
        assert!(Instant::now() < end, "connections leave the registry");
    }
    let workers = children(server.pid());
    server.target().ask("shutdown");
    let ended = server.ended();
    assert!(ended.starts_with("aborted=0 live=0 "), "{ended}");
    for pid in workers.iter().chain(killed) {
        assert!(!is_running(&pid.to_string()), "process {pid} still exists");
    }
}
