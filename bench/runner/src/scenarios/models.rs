//! The models of threads and processes, and datagrams, against what one would write by hand.

use super::Bound::{AtLeast, AtMost, Below};
use super::Metric::{Cpu, Throughput, WakeUps};
use super::{Echo, Load, Scenario, Subject, When, absolute, promise, subject};
use crate::programs::Program::{C, Python, Rust, Server};

pub(super) const TCP: &str = "tcp://127.0.0.1:0";
pub(super) const UDP: &str = "udp://127.0.0.1:0";

pub(super) const SEQUENTIAL: &str = "socketserver/sequential";
pub(super) const THREADING: &str = "socketserver/threading";
pub(super) const POOL: &str = "socketserver/pool";
pub(super) const FORKING: &str = "socketserver/forking";
pub(super) const PREFORK: &str = "socketserver/prefork";

const ACCEPT_LOOP: &str = "accept loop";
const ACCEPT_LOOP_ECHO: &str = "accept loop, echo";
const SPAWN: &str = "thread::spawn";
const SPAWN_ECHO: &str = "thread::spawn, echo";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        threading_requests(),
        threading_echo(1),
        threading_echo(64),
        sequential_requests(),
        pool_requests(),
        forking_requests(),
        udp_echo(),
        unix_datagram_echo(8),
        unix_datagram_echo(40),
        idle(),
    ]
}

/// A model of the command, with its options, on TCP.
pub(super) fn ours(name: &'static str) -> Subject {
    served(TCP, name, "8")
}

/// The same on any transport, with so many threads in a pool.
pub(super) fn served(url: &'static str, name: &'static str, threads: &'static str) -> Subject {
    let model = match name {
        SEQUENTIAL => vec!["sequential"],
        THREADING => vec!["threading"],
        POOL => vec!["pool", "--workers", threads],
        FORKING => vec!["forking"],
        PREFORK => vec!["prefork", "--workers", "2"],
        _ => unreachable!("{name} is none of the five"),
    };
    subject(name, Server(url, model))
}

pub(super) fn rust(name: &'static str, program: &'static str, args: &[&'static str]) -> Subject {
    subject(name, Rust(program, args.to_vec()))
}

fn threading_requests() -> Scenario {
    const LIBRARY: &str = "socketserver-lib/threading";
    Scenario {
        baseline: SPAWN,
        subjects: vec![
            rust(SPAWN, "thread_per_connection", &["once"]),
            rust(SPAWN_ECHO, "thread_per_connection", &["echo"]),
            ours(THREADING),
            rust(LIBRARY, "library", &["once", "threading"]),
        ],
        promises: vec![
            promise(THREADING, Throughput, SPAWN, AtLeast(2.0)),
            promise(LIBRARY, Throughput, SPAWN, AtLeast(2.0)),
        ],
        when: When::Always,
        ..Scenario::new(
            "threading-requests",
            "threads, a TCP connection for each request",
            Load::Requests(32),
        )
    }
}

fn threading_echo(connections: u32) -> Scenario {
    Scenario {
        group: "threading-echo",
        baseline: SPAWN_ECHO,
        subjects: vec![
            rust(SPAWN_ECHO, "thread_per_connection", &["echo"]),
            ours(THREADING),
        ],
        promises: vec![promise(THREADING, Throughput, SPAWN_ECHO, AtLeast(1.0))],
        ..Scenario::new(
            format!("threading-echo-{connections}"),
            format!("threads, ping-pong, TCP connections: {connections}"),
            Load::Echo(Echo {
                connections,
                size: 64,
                depth: 1,
            }),
        )
    }
}

fn sequential_requests() -> Scenario {
    const LIBRARY: &str = "socketserver-lib/sequential";
    Scenario {
        baseline: ACCEPT_LOOP,
        subjects: vec![
            rust(ACCEPT_LOOP, "accept_loop", &["once"]),
            rust(ACCEPT_LOOP_ECHO, "accept_loop", &["echo"]),
            ours(SEQUENTIAL),
            rust(LIBRARY, "library", &["once", "sequential"]),
        ],
        promises: vec![
            promise(LIBRARY, Cpu, ACCEPT_LOOP, AtMost(1.1)),
            promise(SEQUENTIAL, Cpu, ACCEPT_LOOP_ECHO, AtMost(1.1)),
        ],
        when: When::Always,
        ..Scenario::new(
            "sequential-requests",
            "one thread, a TCP connection for each request",
            Load::Requests(32),
        )
    }
}

fn pool_requests() -> Scenario {
    const LIBRARY: &str = "socketserver-lib/pool";
    Scenario {
        baseline: ACCEPT_LOOP,
        subjects: vec![
            rust(ACCEPT_LOOP, "accept_loop", &["once"]),
            rust(ACCEPT_LOOP_ECHO, "accept_loop", &["echo"]),
            ours(POOL),
            rust(LIBRARY, "library", &["once", "pool"]),
            rust("channel to threads", "thread_pool", &["once", "channel"]),
            rust("threads that accept", "thread_pool", &["once", "accept"]),
        ],
        promises: vec![
            promise(LIBRARY, Cpu, ACCEPT_LOOP, AtMost(1.1)),
            promise(POOL, Cpu, ACCEPT_LOOP_ECHO, AtMost(1.1)),
        ],
        ..Scenario::new(
            "pool-requests",
            "eight threads, a TCP connection for each request",
            Load::Requests(32),
        )
    }
}

fn forking_requests() -> Scenario {
    const FORK_LOOP: &str = "fork loop in C";
    const PYTHON: &str = "CPython ForkingTCPServer";
    Scenario {
        group: "forking-requests",
        baseline: FORK_LOOP,
        subjects: vec![
            subject(FORK_LOOP, C("fork_loop.c", Vec::new())),
            ours(FORKING),
            subject(
                PYTHON,
                Python("server.py", vec!["ForkingTCPServer", "once"]),
            ),
        ],
        promises: vec![
            promise(FORKING, Throughput, PYTHON, AtLeast(5.0)),
            promise(FORKING, Throughput, FORK_LOOP, AtLeast(0.9)),
        ],
        when: When::Always,
        ..Scenario::new(
            "forking-requests",
            "a process for each TCP connection",
            Load::Requests(32),
        )
    }
}

fn udp_echo() -> Scenario {
    const LARGE: &str = "mmsg loop in C";
    const SMALL: &str = "mmsg loop in C, 2 KiB";
    const TOKIO: &str = "tokio";
    let coroutines = |name, driver| subject(name, Server(UDP, super::coroutines::model(driver)));
    Scenario {
        baseline: LARGE,
        subjects: vec![
            subject(LARGE, C("mmsg_loop.c", vec!["65536", "udp"])),
            subject(SMALL, C("mmsg_loop.c", vec!["2048", "udp"])),
            subject(SEQUENTIAL, Server(UDP, vec!["sequential"])),
            coroutines("socketserver/coroutines+epoll", "epoll"),
            coroutines("socketserver/coroutines+uring", "uring"),
            rust(TOKIO, "tokio_packets", &["udp"]),
        ],
        promises: vec![
            promise(SEQUENTIAL, Cpu, TOKIO, AtMost(0.75)),
            promise(SEQUENTIAL, Cpu, LARGE, AtMost(1.1)),
            promise(SEQUENTIAL, Cpu, SMALL, AtMost(1.1)),
        ],
        when: When::Always,
        ..Scenario::new(
            "udp-echo",
            "one thread, UDP echo, 128 packets of 64 bytes in flight",
            Load::Packets(128),
        )
    }
}

/// Few packets in flight, as the kernel lets eleven wait for a Unix socket that is not read, and the load has four. With eight
/// the server and its load wait for each other in turn.
fn unix_datagram_echo(in_flight: u32) -> Scenario {
    const UNIX: &str = "unixgram:@";
    const LOOP: &str = "mmsg loop in C";
    let coroutines = |name, driver| subject(name, Server(UNIX, super::coroutines::model(driver)));
    Scenario {
        baseline: LOOP,
        subjects: vec![
            subject(LOOP, C("mmsg_loop.c", vec!["65536", "unix"])),
            subject(SEQUENTIAL, Server(UNIX, vec!["sequential"])),
            coroutines("socketserver/coroutines+epoll", "epoll"),
            coroutines("socketserver/coroutines+uring", "uring"),
            rust("tokio", "tokio_packets", &["unix"]),
        ],
        promises: vec![
            promise(SEQUENTIAL, Cpu, LOOP, AtMost(1.1)),
            promise(SEQUENTIAL, Cpu, "tokio", Below(1.0)),
        ],
        ..Scenario::new(
            format!("unix-datagram-echo-{in_flight}"),
            format!("one thread, Unix datagram echo, {in_flight} packets of 64 bytes in flight"),
            Load::Packets(in_flight),
        )
    }
}

fn idle() -> Scenario {
    const PYTHON: &str = "CPython ThreadingTCPServer";
    const ALL: [&str; 5] = [SEQUENTIAL, THREADING, POOL, FORKING, PREFORK];
    let coroutines = |name, driver| subject(name, Server(TCP, super::coroutines::model(driver)));
    const COROUTINES: [&str; 2] = [
        "socketserver/coroutines+epoll",
        "socketserver/coroutines+uring",
    ];
    let python = Python("server.py", vec!["ThreadingTCPServer", "once"]);
    let mut subjects = vec![subject(PYTHON, python)];
    subjects.extend(ALL.map(ours));
    subjects.push(coroutines(COROUTINES[0], "epoll"));
    subjects.push(coroutines(COROUTINES[1], "uring"));
    Scenario {
        baseline: PYTHON,
        subjects,
        promises: ALL
            .iter()
            .chain(&COROUTINES)
            .map(|name| absolute(name, WakeUps, AtMost(0.0)))
            .collect(),
        ..Scenario::new(
            "idle",
            "nothing to do for 5 s, all servers at the same time",
            Load::Idle,
        )
    }
}
