//! What is measured: a table of scenarios, each with its load, its servers and what is promised of them.

use crate::programs::Program::{self, C, Python, Rust, Server};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) load: Load,
    /// The server that the others are compared with.
    pub(crate) baseline: &'static str,
    pub(crate) subjects: &'static [Subject],
    pub(crate) promises: &'static [Promise],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// A connection for each request, this many at once.
    Requests(u32),
    /// Ping-pong on this many connections.
    Echo(u32),
    /// This many packets in flight.
    Packets(u32),
    /// None: the server should sleep.
    Idle,
}

pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
}

/// A statement about one subject: a metric of it, or the ratio to that of another subject.
pub(crate) struct Promise {
    pub(crate) subject: &'static str,
    pub(crate) metric: Metric,
    pub(crate) versus: Option<&'static str>,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Throughput,
    Cpu,
    WakeUps,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const fn subject(name: &'static str, program: Program) -> Subject {
    Subject { name, program }
}

const fn promise(
    subject: &'static str,
    metric: Metric,
    versus: &'static str,
    bound: Bound,
) -> Promise {
    Promise {
        subject,
        metric,
        versus: Some(versus),
        bound,
    }
}

const fn sleeps(subject: &'static str) -> Promise {
    Promise {
        subject,
        metric: Metric::WakeUps,
        versus: None,
        bound: Bound::AtMost(0.0),
    }
}

const TCP: &str = "tcp://127.0.0.1:0";
const UDP: &str = "udp://127.0.0.1:0";

const SEQUENTIAL: Subject = subject("socketserver/sequential", Server(TCP, &["sequential"]));
const THREADING: Subject = subject("socketserver/threading", Server(TCP, &["threading"]));
const POOL: Subject = subject(
    "socketserver/pool",
    Server(TCP, &["pool", "--workers", "8"]),
);
const FORKING: Subject = subject("socketserver/forking", Server(TCP, &["forking"]));
const PREFORK: Subject = subject(
    "socketserver/prefork",
    Server(TCP, &["prefork", "--workers", "2"]),
);

const ACCEPT_LOOP: Subject = subject("accept loop", Rust("accept_loop", &["once"]));
const ACCEPT_LOOP_ECHO: Subject = subject("accept loop, echo", Rust("accept_loop", &["echo"]));
const SPAWN: Subject = subject("thread::spawn", Rust("thread_per_connection", &["once"]));
const SPAWN_ECHO: Subject = subject(
    "thread::spawn, echo",
    Rust("thread_per_connection", &["echo"]),
);

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "threading-requests",
        about: "threads, a TCP connection for each request",
        load: Load::Requests(32),
        baseline: "thread::spawn",
        subjects: &[
            SPAWN,
            SPAWN_ECHO,
            THREADING,
            subject(
                "socketserver-lib/threading",
                Rust("library", &["once", "threading"]),
            ),
        ],
        promises: &[
            promise(
                "socketserver/threading",
                Metric::Throughput,
                "thread::spawn",
                Bound::AtLeast(2.0),
            ),
            promise(
                "socketserver-lib/threading",
                Metric::Throughput,
                "thread::spawn",
                Bound::AtLeast(2.0),
            ),
        ],
    },
    Scenario {
        name: "threading-echo-1",
        about: "threads, ping-pong on 1 TCP connection",
        load: Load::Echo(1),
        baseline: "thread::spawn, echo",
        subjects: &[SPAWN_ECHO, THREADING],
        promises: &[promise(
            "socketserver/threading",
            Metric::Throughput,
            "thread::spawn, echo",
            Bound::AtLeast(1.0),
        )],
    },
    Scenario {
        name: "threading-echo-64",
        about: "threads, ping-pong on 64 TCP connections",
        load: Load::Echo(64),
        baseline: "thread::spawn, echo",
        subjects: &[SPAWN_ECHO, THREADING],
        promises: &[promise(
            "socketserver/threading",
            Metric::Throughput,
            "thread::spawn, echo",
            Bound::AtLeast(1.0),
        )],
    },
    Scenario {
        name: "sequential-requests",
        about: "one thread, a TCP connection for each request",
        load: Load::Requests(32),
        baseline: "accept loop",
        subjects: &[
            ACCEPT_LOOP,
            ACCEPT_LOOP_ECHO,
            SEQUENTIAL,
            subject(
                "socketserver-lib/sequential",
                Rust("library", &["once", "sequential"]),
            ),
        ],
        promises: &[
            promise(
                "socketserver-lib/sequential",
                Metric::Cpu,
                "accept loop",
                Bound::AtMost(1.1),
            ),
            promise(
                "socketserver/sequential",
                Metric::Cpu,
                "accept loop, echo",
                Bound::AtMost(1.1),
            ),
        ],
    },
    Scenario {
        name: "pool-requests",
        about: "eight threads, a TCP connection for each request",
        load: Load::Requests(32),
        baseline: "accept loop",
        subjects: &[
            ACCEPT_LOOP,
            ACCEPT_LOOP_ECHO,
            POOL,
            subject("socketserver-lib/pool", Rust("library", &["once", "pool"])),
            subject(
                "channel to threads",
                Rust("thread_pool", &["once", "channel"]),
            ),
            subject(
                "threads that accept",
                Rust("thread_pool", &["once", "accept"]),
            ),
        ],
        promises: &[
            promise(
                "socketserver-lib/pool",
                Metric::Cpu,
                "accept loop",
                Bound::AtMost(1.1),
            ),
            promise(
                "socketserver/pool",
                Metric::Cpu,
                "accept loop, echo",
                Bound::AtMost(1.1),
            ),
        ],
    },
    Scenario {
        name: "forking-requests",
        about: "a process for each TCP connection",
        load: Load::Requests(32),
        baseline: "fork loop in C",
        subjects: &[
            subject("fork loop in C", C("fork_loop.c", &[])),
            FORKING,
            subject(
                "CPython ForkingTCPServer",
                Python("server.py", &["ForkingTCPServer", "once"]),
            ),
        ],
        promises: &[
            promise(
                "socketserver/forking",
                Metric::Throughput,
                "CPython ForkingTCPServer",
                Bound::AtLeast(5.0),
            ),
            promise(
                "socketserver/forking",
                Metric::Throughput,
                "fork loop in C",
                Bound::AtLeast(0.9),
            ),
        ],
    },
    Scenario {
        name: "udp-echo",
        about: "one thread, UDP echo, 128 packets of 64 bytes in flight",
        load: Load::Packets(128),
        baseline: "mmsg loop in C",
        subjects: &[
            subject("mmsg loop in C", C("udp_mmsg.c", &["65536"])),
            subject("mmsg loop in C, 2 KiB", C("udp_mmsg.c", &["2048"])),
            subject("socketserver/sequential", Server(UDP, &["sequential"])),
            subject("tokio", Rust("tokio_udp", &[])),
        ],
        promises: &[
            promise(
                "socketserver/sequential",
                Metric::Cpu,
                "tokio",
                Bound::AtMost(0.75),
            ),
            promise(
                "socketserver/sequential",
                Metric::Cpu,
                "mmsg loop in C",
                Bound::AtMost(1.1),
            ),
            promise(
                "socketserver/sequential",
                Metric::Cpu,
                "mmsg loop in C, 2 KiB",
                Bound::AtMost(1.1),
            ),
        ],
    },
    Scenario {
        name: "idle",
        about: "nothing to do for 5 s, all servers at the same time",
        load: Load::Idle,
        baseline: "CPython ThreadingTCPServer",
        subjects: &[
            subject(
                "CPython ThreadingTCPServer",
                Python("server.py", &["ThreadingTCPServer", "once"]),
            ),
            SEQUENTIAL,
            THREADING,
            POOL,
            FORKING,
            PREFORK,
        ],
        promises: &[
            sleeps("socketserver/sequential"),
            sleeps("socketserver/threading"),
            sleeps("socketserver/pool"),
            sleeps("socketserver/forking"),
            sleeps("socketserver/prefork"),
        ],
    },
];
