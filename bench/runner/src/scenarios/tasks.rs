//! What coroutines do among themselves, against tasks of tokio's current-thread runtime.

use super::Bound::{AtMost, Below};
use super::Metric::{Cpu, P50};
use super::models::rust;
use super::{Load, Promise, Scenario, TOKIO, absolute, promise};

const OURS: &str = "socketserver-lib/coroutines";

/// Of a round trip over channels, relative to tokio.
const TRIP_MAX: f64 = 1.2;

/// Of a scope, in microseconds.
const SCOPE_MAX: f64 = 1.0;

pub(super) fn scenarios() -> Vec<Scenario> {
    let trip = || [Cpu, P50].map(|metric| promise(OURS, metric, TOKIO, AtMost(TRIP_MAX)));
    let scope = [Cpu, P50].map(|metric| absolute(OURS, metric, Below(SCOPE_MAX)));
    vec![
        scenario(
            "channel",
            1,
            "a message each way over channels of one place, between two coroutines of one worker",
            trip(),
        ),
        scenario(
            "workers",
            2,
            "the same between two workers, each on a processor of its own",
            trip(),
        ),
        scenario(
            "scope",
            1,
            "a scope of two closures in a coroutine; with tokio two tasks that are spawned and joined",
            scope,
        ),
    ]
}

fn scenario(what: &'static str, processors: u32, about: &str, promises: [Promise; 2]) -> Scenario {
    Scenario {
        baseline: TOKIO,
        subjects: vec![
            rust(TOKIO, "tokio_tasks", &[what]),
            rust(OURS, "library_tasks", &[what]),
        ],
        promises: promises.into(),
        ..Scenario::new(format!("tasks-{what}"), about, Load::Tasks { processors })
    }
}
