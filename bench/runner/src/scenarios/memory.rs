//! What idle connections take, and what they leave to the active ones.

use super::{Bound, Echo, Load, Metric, Scenario, When, absolute, subject};
use crate::programs::Program::{self, Go, Rust, Server};

const KIB: f64 = 1024.0;
const TCP: &str = "tcp://127.0.0.1:0";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![idle_memory(), idle_100k()]
}

/// The way in which a handler of the library waits, on both drivers, and what a connection of it may take.
const WAYS: [(&str, [&str; 2], f64); 3] = [
    (
        "lines",
        ["library/lines+epoll", "library/lines+uring"],
        5.0 * KIB,
    ),
    (
        "stack",
        ["library/4 KiB stack+epoll", "library/4 KiB stack+uring"],
        9.0 * KIB,
    ),
    (
        "park",
        ["library/parked+epoll", "library/parked+uring"],
        512.0,
    ),
];

fn idle_memory() -> Scenario {
    let mut scenario = Scenario::new(
        "idle-memory",
        "private memory for each of 4,000 connections (1,000 with threads) that are idle after an exchange",
        Load::Memory(4000),
    );
    scenario.baseline = "tokio";
    scenario.subjects = vec![
        subject("socketserver/coroutines+epoll", coroutines("epoll")),
        subject("socketserver/coroutines+uring", coroutines("uring")),
        subject("socketserver/threading", Server(TCP, vec!["threading"])).up_to(1000),
        subject(
            "tokio",
            Rust("tokio_echo", vec!["echo", "tcp", super::coroutines::BUFFER]),
        ),
        subject(
            "may",
            Rust("may_echo", vec!["echo", "tcp", super::coroutines::BUFFER]),
        ),
        subject(
            "Go",
            Go("echo.go", vec!["echo", "tcp", super::coroutines::BUFFER]),
        ),
    ];
    for (way, names, limit) in WAYS {
        for (name, driver) in names.into_iter().zip(["epoll", "uring"]) {
            scenario
                .subjects
                .push(subject(name, Rust("idle", vec![way, driver])));
            scenario
                .promises
                .push(absolute(name, Metric::Memory, Bound::AtMost(limit)));
        }
    }
    scenario
}

fn coroutines(driver: &'static str) -> Program {
    Server(TCP, super::coroutines::model(driver))
}

/// 100,000 connections, or as many as the runner is told: more than a process may have, so several processes.
fn idle_100k() -> Scenario {
    const NAME: &str = "socketserver/prefork:coroutines";
    let mut scenario = Scenario::new(
        "idle-100k",
        "echo on 64 TCP connections, alone and then beside idle ones: 100,000 for a minute, unless told otherwise",
        Load::Beside {
            echo: Echo {
                connections: 64,
                size: 64,
                depth: 1,
            },
            processes: 8,
        },
    );
    scenario.baseline = NAME;
    scenario.when = When::Named;
    // They are idle for longer than the command lets connections be.
    let model = "prefork:coroutines --workers 8 --max-connections 120000 --idle-timeout none";
    scenario.subjects = vec![subject(NAME, Server(TCP, model.split(' ').collect()))];
    scenario.promises = vec![absolute(NAME, Metric::Beside, Bound::AtLeast(0.9))];
    scenario
}
