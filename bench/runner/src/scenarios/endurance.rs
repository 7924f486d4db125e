//! The end of a server, and what a long life leaves in it.

use std::time::Duration;

use super::Bound::AtMost;
use super::Metric::{Descriptors, Grown, Processes, StopWorst, Threads};
use super::coroutines::{EPOLL, URING, model};
use super::models::{FORKING, POOL, PREFORK, SEQUENTIAL, TCP, THREADING, ours};
use super::{Load, Metric, Promise, Scenario, Stop, Subject, absolute, subject};
use crate::endurance::GROWTH_MAX;
use crate::programs::Program::{Go, Python, Server, Waiting};

/// How many milliseconds a server may take to end.
const STOP_MAX: f64 = 50.0;

const CONNECTIONS: u32 = 100_000;

const IDLE: u32 = 100;

/// For how long a stop lets idle connections be: an argument, and the same as a time.
const DRAIN: [&str; 2] = ["--drain-timeout", "0.3"];
const DRAIN_TIME: Duration = Duration::from_millis(300);

const PREFORK_THREADING: &str = "socketserver/prefork:threading";
const PREFORK_COROUTINES: &str = "socketserver/prefork:coroutines";

/// The models with their options, and how many connections each serves at the same time, if those are few.
fn models() -> Vec<(&'static str, Vec<&'static str>, u32)> {
    let prefork = |model| vec![model, "--workers", "2"];
    vec![
        (SEQUENTIAL, vec!["sequential"], 1),
        (THREADING, vec!["threading"], IDLE),
        (POOL, vec!["pool", "--workers", "8"], 8),
        (FORKING, vec!["forking"], 40),
        (PREFORK_THREADING, prefork("prefork:threading"), IDLE),
        (PREFORK_COROUTINES, prefork("prefork:coroutines"), IDLE),
        (EPOLL, model("epoll"), IDLE),
        (URING, model("uring"), IDLE),
    ]
}

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![stop_unused(), stop_idle(), stop_busy(), growth()]
}

fn stop_promises() -> Vec<Promise> {
    let models = models().into_iter();
    models
        .map(|(name, ..)| absolute(name, StopWorst, AtMost(STOP_MAX)))
        .collect()
}

fn rivals(handler: &'static str) -> Vec<Subject> {
    let python = Python("server.py", vec!["ThreadingTCPServer", handler, "shutdown"]);
    vec![
        subject("CPython ThreadingTCPServer", python),
        subject("Go net/http", Go("http.go", vec!["shutdown", handler])),
    ]
}

fn stop(name: &str, about: &str, stop: Stop, subjects: Vec<Subject>) -> Scenario {
    Scenario {
        baseline: "CPython ThreadingTCPServer",
        subjects,
        promises: stop_promises(),
        ..Scenario::new(name, about, Load::Stop(stop))
    }
}

/// Those that have no request of a known length.
fn idle_subjects() -> Vec<Subject> {
    let mut subjects = rivals("echo");
    subjects.push(subject("nginx", Python("nginx.py", vec!["graceful"])));
    for (name, args, most) in models() {
        let args = [&args[..], &DRAIN].concat();
        subjects.push(Subject {
            drain: DRAIN_TIME,
            ..subject(name, Server(TCP, args)).up_to(most)
        });
    }
    subjects
}

fn stop_unused() -> Scenario {
    stop(
        "stop-unused",
        "SIGTERM to a server without connections",
        Stop::Idle { connections: 0 },
        idle_subjects(),
    )
}

fn stop_idle() -> Scenario {
    stop(
        "stop-idle",
        "SIGTERM while 100 TCP connections are idle (1 with sequential, 8 with pool, 40 with forking); ours wait for \
         them until the drain deadline, here of 300 ms",
        Stop::Idle { connections: IDLE },
        idle_subjects(),
    )
}

fn stop_busy() -> Scenario {
    let mut subjects = rivals("wait");
    subjects.extend(
        models()
            .into_iter()
            .map(|(name, args, _)| subject(name, Waiting(args))),
    );
    stop(
        "stop-busy",
        "SIGTERM 50 ms after a request came that takes 200 ms and must be answered",
        Stop::Busy,
        subjects,
    )
}

fn growth() -> Scenario {
    let mut subjects: Vec<_> = [SEQUENTIAL, THREADING, POOL, FORKING, PREFORK]
        .map(ours)
        .into();
    for (name, args, _) in models() {
        if [PREFORK_COROUTINES, EPOLL, URING].contains(&name) {
            subjects.push(subject(name, Server(TCP, args)));
        }
    }
    let none = |metric: Metric, limit: f64| {
        let promise = move |subject: &Subject| absolute(subject.name, metric, AtMost(limit));
        subjects.iter().map(promise).collect::<Vec<_>>()
    };
    let promises = [
        none(Descriptors, 0.0),
        none(Threads, 0.0),
        none(Processes, 0.0),
        none(Grown, f64::from(GROWTH_MAX)),
    ];
    Scenario {
        promises: promises.into_iter().flatten().collect(),
        subjects,
        ..Scenario::new(
            "growth",
            "what is left of 100,000 TCP connections with a request each, beyond what there was after the first 1,000",
            Load::Growth(CONNECTIONS),
        )
    }
}
