//! What an operation costs in instructions and system calls: ours, tokio, and what one would write by hand. One operation at a
//! time, so that no batch is shared.

use super::Bound::AtMost;
use super::Metric::{Calls, Instructions};
use super::admission::LISTED;
use super::coroutines::{BUFFER, EPOLL, EPOLL_LOOP, THREADS, TOKIO, URING, model};
use super::models::{FORKING, POOL, SEQUENTIAL, TCP, THREADING, UDP, rust, served};
use super::{Load, Operation, Scenario, Subject, When, absolute, admission, promise, subject};
use crate::programs::Program::{C, Server};

const URING_LOOP: &str = "uring loop, single";
const MMSG_LOOP: &str = "mmsg loop in C";

/// What valgrind 3.19 cannot run.
const NO_URING: &str =
    "valgrind lets no other thread run, and no signal in, while one waits in io_uring_enter(2)";
const NO_FORKING: &str = "valgrind knows no pidfd_open(2)";
const NO_FORKS: &str = "callgrind counts each process by itself";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            // A call more here is one for each message that anybody sends. The watchdog of coroutines has a few of its own.
            promises: vec![
                absolute(EPOLL, Calls, AtMost(3.1)),
                absolute(URING, Calls, AtMost(2.1)),
                absolute(THREADING, Calls, AtMost(2.0)),
            ],
            ..scenario(
                "counts-messages",
                "a message of 64 bytes, sent back, on one TCP connection",
                Operation::Message,
                streams(),
            )
        },
        scenario(
            "counts-connections",
            "a TCP connection for each message of 64 bytes, one at a time",
            Operation::Connection,
            connections(),
        ),
        Scenario {
            promises: vec![promise(LISTED, Instructions, THREADING, AtMost(1.03))],
            ..scenario(
                "counts-admission",
                "the same, where 10,000 networks decide who may connect, and where a PROXY header (v1) names the client",
                Operation::Connection,
                admission::subjects(THREADING, &["threading"]).into(),
            )
        },
        scenario(
            "counts-datagrams",
            "a UDP datagram of 64 bytes, sent back, one at a time",
            Operation::Datagram,
            datagrams(),
        ),
    ]
}

/// The first of the subjects is what the others are compared with.
fn scenario(name: &str, about: &str, operation: Operation, subjects: Vec<Subject>) -> Scenario {
    Scenario {
        baseline: subjects[0].name,
        subjects,
        when: When::Named,
        ..Scenario::new(name, about, Load::Counts(operation))
    }
}

fn streams() -> Vec<Subject> {
    let mut subjects = vec![
        subject(EPOLL_LOOP, C("epoll_loop.c", vec!["echo", "tcp"])),
        rust(URING_LOOP, "uring_loop", &["echo", "tcp", BUFFER, "single"])
            .not_under_valgrind(NO_URING),
        rust(TOKIO, "tokio_echo", &["echo", "tcp", BUFFER]),
        rust(THREADS, "thread_per_connection", &["echo", "tcp"]),
        rust("accept loop", "accept_loop", &["echo"]),
    ];
    subjects.extend([SEQUENTIAL, THREADING, POOL].map(|name| served(TCP, name, "8")));
    subjects.push(served(TCP, FORKING, "8").not_under_valgrind(NO_FORKING));
    subjects.extend(coroutines(TCP));
    subjects
}

/// Beside them a loop that forks.
fn connections() -> Vec<Subject> {
    let mut subjects = streams();
    let forks = subject("fork loop in C, once", C("fork_loop.c", Vec::new()));
    subjects.push(forks.not_under_valgrind(NO_FORKS));
    subjects
}

fn datagrams() -> Vec<Subject> {
    let mut subjects = vec![
        subject(MMSG_LOOP, C("mmsg_loop.c", vec!["65536", "udp"])),
        rust(TOKIO, "tokio_packets", &["udp"]),
    ];
    subjects.extend([SEQUENTIAL, THREADING, POOL].map(|name| served(UDP, name, "8")));
    subjects.push(served(UDP, FORKING, "8").not_under_valgrind(NO_FORKING));
    subjects.extend(coroutines(UDP));
    subjects
}

fn coroutines(url: &'static str) -> [Subject; 2] {
    [
        subject(EPOLL, Server(url, model("epoll"))),
        subject(URING, Server(url, model("uring"))).not_under_valgrind(NO_URING),
    ]
}
