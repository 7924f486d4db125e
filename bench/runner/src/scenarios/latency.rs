//! Latency at a fixed rate, alone and beside heavy requests, counted from when each request was due.

use super::Bound::AtMost;
use super::Metric::{P50, P99};
use super::coroutines::{BUFFER, EPOLL, EPOLL_LOOP, THREADS, TOKIO, URING, model};
use super::models::{FORKING, POOL, PREFORK, SEQUENTIAL, TCP, THREADING, ours, rust};
use super::{Heavy, Load, Offer, Promise, Scenario, Subject, When, absolute, promise, subject};
use crate::programs::Program::{C, Go, Server};

/// No more than there may be processes by default.
const CONNECTIONS: u32 = 32;

const RATES: [u32; 2] = [10_000, 40_000];
const REQUEST_RATES: [u32; 2] = [1000, 5000];

/// More requests a second than a process for each could answer with time to spare.
const FORKING_RATE_MAX: u32 = 1000;

/// Rates that do not divide each other, so that heavy requests come at all times between two light ones.
const LIGHT_RATE: u32 = 1000;
const COMPUTING: Heavy = Heavy {
    kind: "cpu",
    connections: 8,
    rate: 79,
};
const WAITING: Heavy = Heavy {
    kind: "wait",
    connections: 16,
    rate: 197,
};

/// What p99 may be in microseconds where nothing but the machine keeps a request waiting. There it is the machine's, and
/// only medians can be compared.
const P99_MAX: f64 = 1000.0;

const ACCEPT_LOOP: &str = "accept loop";
const TOKIO_OFFLOAD: &str = "tokio, spawn_blocking";
const LIB_THREADING: &str = "socketserver-lib/threading";
const LIB_FORKING: &str = "socketserver-lib/forking";
const LIB_EPOLL: &str = "socketserver-lib/coroutines+epoll";
const LIB_OFFLOAD: &str = "socketserver-lib/coroutines+offload";

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = RATES.map(echo).into();
    scenarios.extend(REQUEST_RATES.map(requests));
    scenarios.extend([
        mixed(
            "light-alone",
            "1,000 light requests a second on 32 TCP connections, nothing else",
            None,
        ),
        mixed(
            "light-beside-cpu",
            "the same beside 79 a second that take 5 ms of the processor each",
            Some(COMPUTING),
        ),
        mixed(
            "light-beside-waits",
            "the same beside 197 a second that wait for 20 ms each",
            Some(WAITING),
        ),
    ]);
    scenarios
}

fn coroutines() -> [Subject; 2] {
    [
        subject(EPOLL, Server(TCP, model("epoll"))),
        subject(URING, Server(TCP, model("uring"))),
    ]
}

/// What each of ours promises by itself.
fn punctual(subjects: &[Subject]) -> Vec<Promise> {
    let ours = subjects
        .iter()
        .filter(|subject| subject.name.starts_with("socketserver"));
    ours.map(|subject| absolute(subject.name, P99, AtMost(P99_MAX)))
        .collect()
}

fn echo(rate: u32) -> Scenario {
    let mut subjects = vec![
        subject(EPOLL_LOOP, C("epoll_loop.c", vec!["echo", "tcp"])),
        rust(TOKIO, "tokio_echo", &["echo", "tcp", BUFFER]),
        subject("Go", Go("echo.go", vec!["echo", "tcp", BUFFER])),
        rust(THREADS, "thread_per_connection", &["echo", "tcp"]),
    ];
    subjects.extend(coroutines());
    subjects.extend([
        ours(THREADING),
        subject(POOL, Server(TCP, vec!["pool", "--workers", "64"])),
        ours(FORKING),
    ]);
    let mut promises = vec![
        promise(EPOLL, P50, EPOLL_LOOP, AtMost(1.1)),
        promise(EPOLL, P50, TOKIO, AtMost(1.1)),
        promise(THREADING, P50, THREADS, AtMost(1.1)),
    ];
    promises.extend(punctual(&subjects));
    Scenario {
        baseline: EPOLL_LOOP,
        subjects,
        promises,
        when: if rate == RATES[0] {
            When::Always
        } else {
            When::Unhurried
        },
        ..Scenario::new(
            format!("offered-echo-{}k", rate / 1000),
            format!("{rate} messages of 64 bytes a second on {CONNECTIONS} TCP connections"),
            Load::Offered(Offer::Echo {
                connections: CONNECTIONS,
                rate,
                heavy: None,
            }),
        )
    }
}

fn requests(rate: u32) -> Scenario {
    let mut subjects = vec![
        rust(ACCEPT_LOOP, "accept_loop", &["echo"]),
        subject(EPOLL_LOOP, C("epoll_loop.c", vec!["echo", "tcp"])),
        rust(TOKIO, "tokio_echo", &["echo", "tcp", BUFFER]),
        subject("Go", Go("echo.go", vec!["echo", "tcp", BUFFER])),
        rust(THREADS, "thread_per_connection", &["echo", "tcp"]),
        ours(SEQUENTIAL),
        ours(THREADING),
        ours(POOL),
        ours(PREFORK),
    ];
    subjects.extend(coroutines());
    if rate <= FORKING_RATE_MAX {
        subjects.push(subject("fork loop in C", C("fork_loop.c", Vec::new())));
        subjects.push(ours(FORKING));
    }
    let mut promises = vec![
        promise(SEQUENTIAL, P50, ACCEPT_LOOP, AtMost(1.1)),
        promise(THREADING, P50, THREADS, AtMost(1.0)),
        promise(EPOLL, P50, EPOLL_LOOP, AtMost(1.1)),
    ];
    promises.extend(punctual(&subjects));
    Scenario {
        group: "offered-requests",
        baseline: ACCEPT_LOOP,
        subjects,
        promises,
        ..Scenario::new(
            format!("offered-requests-{}k", rate / 1000),
            format!("{rate} TCP connections with a request each a second"),
            Load::Offered(Offer::Requests { rate }),
        )
    }
}

fn mixed(name: &'static str, about: &'static str, heavy: Option<Heavy>) -> Scenario {
    const LIBRARY: [(&str, &str); 7] = [
        (LIB_THREADING, "threading"),
        ("socketserver-lib/pool", "pool of 200"),
        (LIB_FORKING, "forking"),
        ("socketserver-lib/prefork:coroutines", "prefork:coroutines"),
        (LIB_EPOLL, "coroutines+epoll"),
        ("socketserver-lib/coroutines+uring", "coroutines+uring"),
        (LIB_OFFLOAD, "coroutines+offload"),
    ];
    let tokio = ["mixed", "tcp", BUFFER];
    let mut subjects = vec![
        rust(TOKIO, "tokio_echo", &tokio),
        rust(
            TOKIO_OFFLOAD,
            "tokio_echo",
            &["mixed", "tcp", BUFFER, "offload"],
        ),
        subject("Go", Go("echo.go", tokio.to_vec())),
        rust(THREADS, "thread_per_connection", &["mixed", "tcp"]),
    ];
    subjects.extend(LIBRARY.map(|(name, model)| rust(name, "library", &["mixed", model])));
    let promises = if heavy == Some(COMPUTING) {
        vec![
            promise(LIB_THREADING, P99, THREADS, AtMost(1.25)),
            promise(LIB_THREADING, P99, TOKIO, AtMost(0.5)),
            promise(LIB_FORKING, P99, TOKIO, AtMost(0.5)),
            promise(LIB_EPOLL, P99, TOKIO, AtMost(1.1)),
            promise(LIB_OFFLOAD, P99, TOKIO, AtMost(0.5)),
            promise(LIB_OFFLOAD, P99, TOKIO_OFFLOAD, AtMost(1.25)),
        ]
    } else {
        punctual(&subjects)
    };
    Scenario {
        group: "light",
        baseline: TOKIO,
        subjects,
        promises,
        ..Scenario::new(
            name,
            about,
            Load::Offered(Offer::Echo {
                connections: CONNECTIONS,
                rate: LIGHT_RATE,
                heavy,
            }),
        )
    }
}
