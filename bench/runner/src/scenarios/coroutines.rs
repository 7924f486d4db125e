//! Coroutines against the event loops that they stand in for.

use super::{
    Bound, Echo, Load, Metric, Overall, Promise, Scenario, Subject, Versus, When, promise, subject,
};
use crate::programs::Program::{C, Go, Python, Rust, Server};

/// The numbers of connections that echo is measured with.
const POINTS: [u32; 4] = [1, 64, 1000, 5000];

/// More than this, and a thread for each connection is not tried.
const THREADS_MAX: u32 = 1000;

/// The size of the buffer that the rivals have for each connection, and that of those which are sent 16 KiB.
pub(super) const BUFFER: &str = "4096";
pub(super) const LARGE_BUFFER: &str = "16384";

pub(super) const EPOLL: &str = "socketserver/coroutines+epoll";
pub(super) const URING: &str = "socketserver/coroutines+uring";
pub(super) const EPOLL_LOOP: &str = "epoll loop in C";
const URING_LOOPS: [&str; 2] = ["uring loop, single", "uring loop, multi"];
pub(super) const THREADS: &str = "thread per connection";
pub(crate) const TOKIO: &str = "tokio";
const MAY: &str = "may";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    const ALL: [Self; 2] = [Self::Tcp, Self::Unix];

    /// As the peers call it.
    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }

    /// As the command calls it.
    const fn url(self) -> &'static str {
        match self {
            Self::Tcp => "tcp://127.0.0.1:0",
            Self::Unix => "unix:@",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Unix => "Unix",
        }
    }

    fn scenario(self, connections: u32) -> String {
        match self {
            Self::Tcp => format!("echo-{connections}"),
            Self::Unix => format!("unix-echo-{connections}"),
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for transport in Transport::ALL {
        scenarios.extend(POINTS.map(|connections| echo(transport, connections)));
    }
    scenarios.extend([echo_16k(), pipelined_echo(), requests()]);
    scenarios
}

/// What is promised of the four points together.
pub(super) fn overall() -> Vec<Overall> {
    let overall = |transport: Transport| Overall {
        scenarios: POINTS.map(|point| transport.scenario(point)).to_vec(),
        promise: promise(EPOLL, Metric::Cpu, TOKIO, Bound::AtMost(0.9)),
    };
    Transport::ALL.map(overall).into()
}

/// The options of coroutines on one worker.
pub(super) fn model(driver: &'static str) -> Vec<&'static str> {
    let options = "coroutines --workers 1 --max-connections 12000 --driver";
    options.split(' ').chain([driver]).collect()
}

/// All that echo until the client ends; `once` makes those that can answer once and close.
fn rivals(handler: &'static str, transport: Transport, buffer: &'static str) -> Vec<Subject> {
    let word = transport.word();
    let sized = |more: &[&'static str]| [&[handler, word, buffer], more].concat();
    vec![
        subject(EPOLL_LOOP, C("epoll_loop.c", vec![handler, word])),
        subject(URING_LOOPS[0], Rust("uring_loop", sized(&["single"]))),
        subject(URING_LOOPS[1], Rust("uring_loop", sized(&["multi"]))),
        subject(TOKIO, Rust("tokio_echo", sized(&[]))),
        subject("tokio, multi-thread", Rust("tokio_echo", sized(&["multi"]))),
        subject(MAY, Rust("may_echo", sized(&[]))),
        subject("Go", Go("echo.go", sized(&[]))),
        subject(THREADS, Rust("thread_per_connection", vec![handler, word])).up_to(THREADS_MAX),
    ]
}

fn ours(transport: Transport) -> Vec<Subject> {
    let url = transport.url();
    vec![
        subject(EPOLL, Server(url, model("epoll"))),
        subject(URING, Server(url, model("uring"))),
        subject(
            "socketserver/threading",
            Server(url, vec!["threading", "--max-connections", "12000"]),
        )
        .up_to(THREADS_MAX),
    ]
}

fn echo(transport: Transport, connections: u32) -> Scenario {
    let load = Load::Echo(Echo {
        connections,
        size: 64,
        depth: 1,
    });
    let about = format!(
        "{} echo of 64 bytes, connections: {connections}",
        transport.title()
    );
    let mut scenario = Scenario::new(transport.scenario(connections), about, load);
    scenario.baseline = EPOLL_LOOP;
    scenario.subjects = rivals("echo", transport, BUFFER);
    scenario.subjects.extend(ours(transport));
    scenario
        .subjects
        .retain(|subject| connections <= subject.connections_max);
    if transport == Transport::Tcp {
        scenario.group = "tcp-echo";
        scenario.promises = tcp_promises(connections);
        if connections == 64 {
            let args = vec!["ThreadingTCPServer", "echo"];
            let python = subject("CPython ThreadingTCPServer", Python("server.py", args));
            scenario.subjects.push(python);
        }
    } else {
        scenario.group = "unix-echo";
    }
    if transport == Transport::Tcp || connections == 64 {
        scenario.when = When::Always;
    }
    scenario
}

/// What each point promises by itself.
fn tcp_promises(connections: u32) -> Vec<Promise> {
    let mut promises = vec![
        promise(EPOLL, Metric::Cpu, EPOLL_LOOP, Bound::AtMost(1.05)),
        promise(EPOLL, Metric::Cpu, MAY, Bound::Below(1.0)),
    ];
    if connections == 1000 {
        promises.push(promise(EPOLL, Metric::Cpu, THREADS, Bound::AtMost(0.5)));
    }
    if connections >= 1000 {
        promises.push(promise(URING, Metric::Cpu, EPOLL_LOOP, Bound::AtMost(0.95)));
        promises.push(Promise {
            subject: URING,
            metric: Metric::Cpu,
            versus: Versus::Best(&URING_LOOPS),
            bound: Bound::AtMost(1.05),
        });
    }
    promises
}

fn echo_16k() -> Scenario {
    let load = Load::Echo(Echo {
        connections: 64,
        size: 16 * 1024,
        depth: 1,
    });
    let about = "TCP echo of 16 KiB on 64 connections";
    let mut scenario = Scenario::new("echo-16k", about, load);
    scenario.baseline = EPOLL_LOOP;
    scenario.subjects = rivals("echo", Transport::Tcp, LARGE_BUFFER);
    scenario.subjects.extend(ours(Transport::Tcp));
    scenario
}

fn pipelined_echo() -> Scenario {
    let load = Load::Echo(Echo {
        connections: 64,
        size: 64,
        depth: 16,
    });
    let about = "TCP echo of 64 bytes on 64 connections with 16 messages in flight each";
    let mut scenario = Scenario::new("pipelined-echo", about, load);
    scenario.baseline = EPOLL_LOOP;
    scenario.subjects = rivals("echo", Transport::Tcp, BUFFER);
    scenario.subjects.extend(ours(Transport::Tcp));
    scenario
}

/// The command echoes until the client ends, so it is compared with rivals that do so too, and the library with the
/// handler of the peers with those that answer once.
fn requests() -> Scenario {
    const LIBRARY: [(&str, &str); 2] = [
        ("socketserver-lib/coroutines+epoll", "coroutines+epoll"),
        ("socketserver-lib/coroutines+uring", "coroutines+uring"),
    ];
    const ECHO_LOOP: &str = "epoll loop in C, echo";
    const ECHO_TOKIO: &str = "tokio, echo";
    let about = "coroutines, a TCP connection for each request, 32 at once";
    let mut scenario = Scenario::new("coroutine-requests", about, Load::Requests(32));
    scenario.baseline = EPOLL_LOOP;
    scenario.when = When::Always;
    scenario.subjects = rivals("once", Transport::Tcp, BUFFER);
    for (name, model) in LIBRARY {
        scenario
            .subjects
            .push(subject(name, Rust("library", vec!["once", model])));
    }
    scenario.subjects.extend([
        subject(ECHO_LOOP, C("epoll_loop.c", vec!["echo", "tcp"])),
        subject(ECHO_TOKIO, Rust("tokio_echo", vec!["echo", "tcp", BUFFER])),
    ]);
    scenario.subjects.extend(ours(Transport::Tcp));
    scenario.promises = vec![
        promise(LIBRARY[0].0, Metric::Cpu, EPOLL_LOOP, Bound::AtMost(1.05)),
        promise(LIBRARY[0].0, Metric::Cpu, TOKIO, Bound::Below(1.0)),
        promise(EPOLL, Metric::Cpu, ECHO_LOOP, Bound::AtMost(1.05)),
        promise(EPOLL, Metric::Cpu, ECHO_TOKIO, Bound::Below(1.0)),
    ];
    scenario
}
