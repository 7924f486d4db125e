//! What it costs to look at who connects: in a list of 10,000 networks, and behind a PROXY header.

use super::Bound::AtLeast;
use super::Metric::Throughput;
use super::coroutines::{EPOLL, model};
use super::models::{TCP, THREADING};
use super::{Echo, Load, Scenario, Subject, When, promise, subject};
use crate::programs::NETWORKS;
use crate::programs::Program::Server;

pub(super) const LISTED: &str = "10,000 networks";
const HEADER: &str = "PROXY header";
const BOTH: &str = "both";

/// The same server once more: what two rounds differ by that differ in nothing.
const AGAIN: &str = "once more";

/// The part of the rate that must be left.
const RATE_MIN: f64 = 0.98;

pub(super) fn scenarios() -> Vec<Scenario> {
    let requests = (
        "requests-admission",
        "a TCP connection for each request, 32 at once",
        Load::Requests(32),
    );
    let echo = (
        "echo-admission",
        "64 bytes back and forth on 32 TCP connections",
        Load::Echo(Echo {
            connections: 32,
            size: 64,
            depth: 1,
        }),
    );
    let models = [
        ("threading", THREADING, vec!["threading"]),
        ("coroutines", EPOLL, model("epoll")),
    ];
    let mut scenarios = Vec::new();
    for (group, about, load) in [requests, echo] {
        for (name, plain, model) in &models {
            let mut subjects = Vec::from(subjects(plain, model));
            subjects.insert(1, subject(AGAIN, Server(TCP, model.clone())));
            scenarios.push(Scenario {
                group,
                baseline: plain,
                subjects,
                promises: [LISTED, HEADER]
                    .map(|name| promise(name, Throughput, plain, AtLeast(RATE_MIN)))
                    .into(),
                when: When::Named,
                ..Scenario::new(
                    format!("{group}-{name}"),
                    format!("{about}, where 10,000 networks decide who may connect, and where a PROXY header (v1) names the client"),
                    load,
                )
            });
        }
    }
    scenarios
}

/// Each feature alone and both, beside the server without them.
pub(super) fn subjects(plain: &'static str, model: &[&'static str]) -> [Subject; 4] {
    let networks = ["--deny", NETWORKS].as_slice();
    let header = ["--proxy-protocol", "v1", "--proxy-trust", "127.0.0.0/8"].as_slice();
    let served = |name, features: &[&[_]]| {
        let args = [model, &features.concat()].concat();
        subject(name, Server(TCP, args))
    };
    [
        served(plain, &[]),
        served(LISTED, &[networks]),
        served(HEADER, &[header]),
        served(BOTH, &[networks, header]),
    ]
}
