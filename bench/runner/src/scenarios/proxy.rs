//! Relays of TCP connections: the command's and the library's against HAProxy, socat and tokio. The server behind it, and the load, have the other processor.

use super::Bound::{AtMost, Below};
use super::Metric::Cpu;
use super::models::rust;
use super::{Echo, Load, Promise, Scenario, Subject, promise, subject};
use crate::programs::Program::{Python, Relay};

const ECHO: Echo = Echo {
    connections: 64,
    size: 64,
    depth: 1,
};

const BULK_MIB: u32 = 256;

const COMMAND: &str = "socketserver proxy/coroutines+epoll";
const OURS: &str = "socketserver-lib/coroutines+epoll";
const OURS_LARGE: &str = "socketserver-lib, 64 KiB";
const TOKIO: &str = "tokio, copy_bidirectional";
const HAPROXY: &str = "HAProxy";
const SOCAT: &str = "socat";

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut echo = scenario(
        "proxy-echo",
        "64 bytes back and forth on 64 connections through a relay",
        Load::Proxy(ECHO),
    );
    echo.promises.extend([
        promise(OURS, Cpu, TOKIO, AtMost(1.0)),
        promise(OURS, Cpu, HAPROXY, AtMost(1.1)),
    ]);
    let mut bulk = scenario(
        "proxy-bulk",
        "256 MiB through a relay and back, 256 KiB on their way, on one connection; an operation is a MiB",
        Load::Bulk(BULK_MIB),
    );
    let library = |ours| promise(ours, Cpu, HAPROXY, AtMost(0.8));
    bulk.promises.extend([OURS, OURS_LARGE].map(library));
    let connections = scenario(
        "proxy-connections",
        "a TCP connection through a relay for each request, 32 at once",
        Load::ProxyRequests(32),
    );
    let mut memory = scenario(
        "proxy-idle-memory",
        "private memory of a relay for each of 3,000 connections (1,000 with threads, 200 with processes) that are idle after \
         an exchange",
        Load::ProxyMemory(3000),
    );
    memory.promises.clear();
    vec![echo, bulk, connections, memory]
}

fn scenario(name: &str, about: &str, load: Load) -> Scenario {
    Scenario {
        baseline: HAPROXY,
        subjects: subjects(),
        promises: command(),
        ..Scenario::new(name, about, load)
    }
}

/// What is promised of the command's relay.
fn command() -> Vec<Promise> {
    vec![
        promise(COMMAND, Cpu, HAPROXY, AtMost(1.1)),
        promise(COMMAND, Cpu, SOCAT, Below(1.0)),
    ]
}

/// HAProxy has buffers of 16 KiB by default, the copies of tokio and std have 8 KiB.
fn subjects() -> Vec<Subject> {
    vec![
        subject(HAPROXY, Python("haproxy.py", vec!["16384"])),
        subject("HAProxy, 64 KiB", Python("haproxy.py", vec!["65536"])),
        subject(SOCAT, Python("listener.py", vec!["socat-relay"])).up_to(200),
        subject(COMMAND, Relay(coroutines("epoll"))),
        subject(
            "socketserver proxy/coroutines+uring",
            Relay(coroutines("uring")),
        ),
        subject("socketserver proxy/threading", Relay(vec!["threading"])).up_to(1000),
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

fn coroutines(driver: &'static str) -> Vec<&'static str> {
    vec!["coroutines", "--workers", "1", "--driver", driver]
}
