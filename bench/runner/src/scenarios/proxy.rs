//! A relay of TCP connections against tokio and HAProxy. The server behind it, and the load, have the other processor.

use super::Bound::AtMost;
use super::Metric::Cpu;
use super::models::rust;
use super::{Echo, Load, Scenario, Subject, promise, subject};
use crate::programs::Program::Python;

const ECHO: Echo = Echo {
    connections: 64,
    size: 64,
    depth: 1,
};

const BULK_MIB: u32 = 256;

const OURS: &str = "socketserver-lib/coroutines+epoll";
const OURS_LARGE: &str = "socketserver-lib, 64 KiB";
const TOKIO: &str = "tokio, copy_bidirectional";
const HAPROXY: &str = "HAProxy";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            promises: vec![
                promise(OURS, Cpu, TOKIO, AtMost(1.0)),
                promise(OURS, Cpu, HAPROXY, AtMost(1.1)),
            ],
            ..scenario(
                "proxy-echo",
                "64 bytes back and forth on 64 connections through a relay",
                Load::Proxy(ECHO),
            )
        },
        Scenario {
            promises: [OURS, OURS_LARGE]
                .map(|ours| promise(ours, Cpu, HAPROXY, AtMost(0.8)))
                .into(),
            ..scenario(
                "proxy-bulk",
                "256 MiB through a relay and back, 256 KiB on their way, on one connection; an operation is a MiB",
                Load::Bulk(BULK_MIB),
            )
        },
    ]
}

fn scenario(name: &str, about: &str, load: Load) -> Scenario {
    Scenario {
        baseline: HAPROXY,
        subjects: subjects(),
        ..Scenario::new(name, about, load)
    }
}

/// HAProxy has buffers of 16 KiB by default, the copies of tokio and std have 8 KiB.
fn subjects() -> Vec<Subject> {
    vec![
        subject(HAPROXY, Python("haproxy.py", vec!["16384"])),
        subject("HAProxy, 64 KiB", Python("haproxy.py", vec!["65536"])),
        rust(TOKIO, "tokio_proxy", &["copy"]),
        rust("tokio, 64 KiB", "tokio_proxy", &["large"]),
        rust(OURS, "library_proxy", &["copy", "epoll"]),
        rust(OURS_LARGE, "library_proxy", &["large", "epoll"]),
        rust(
            "socketserver-lib, one future",
            "library_proxy",
            &["polled", "epoll"],
        ),
        rust(
            "socketserver-lib/coroutines+uring",
            "library_proxy",
            &["copy", "uring"],
        ),
    ]
}
