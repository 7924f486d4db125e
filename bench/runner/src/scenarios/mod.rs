//! What is measured: scenarios, each with its load, its servers and what is promised of them.

mod admission;
mod coroutines;
mod counts;
mod endurance;
mod exec;
mod http;
mod latency;
mod memory;
mod models;
mod proxy;
mod table;
mod tasks;
mod tls;

use std::time::Duration;

pub(crate) use self::coroutines::TOKIO;
pub(crate) use self::http::FILES;
use crate::programs::Program;

pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Scenarios of the same group are drawn in the same chart.
    pub(crate) group: &'static str,
    pub(crate) load: Load,
    /// The server that the others are compared with.
    pub(crate) baseline: &'static str,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) promises: Vec<Promise>,
    pub(crate) when: When,
}

/// When a scenario is measured though nobody has named it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Also in a quick run.
    Always,
    /// But in a quick run.
    Unhurried,
    /// Never.
    Named,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// A connection for each request, this many at once.
    Requests(u32),
    /// Messages on long connections.
    Echo(Echo),
    /// This many packets in flight.
    Packets(u32),
    /// Pages over HTTP, on connections that stay.
    Http(Http),
    /// The same, alone and then beside connections that are idle, and ones that send their heads byte by byte.
    HttpBeside {
        http: Http,
        idle: u32,
        dripping: u32,
    },
    /// Operations over TLS by a timetable, alone and then beside hostile clients.
    TlsBeside { offer: Offer, hostile: Hostile },
    /// This many connections that have asked for a page and are idle.
    HttpMemory(u32),
    /// None: the server should sleep.
    Idle,
    /// This many connections that have made an exchange and are idle.
    Memory(u32),
    /// Operations by a timetable.
    Offered(Offer),
    /// A stop.
    Stop(Stop),
    /// So many connections with a request each, and what is left of them.
    Growth(u32),
    /// Operations one after the other, of which nothing but the cost is looked at.
    Counts(Operation),
    /// An echo load, alone and then beside connections that are idle.
    Beside { echo: Echo, processes: u32 },
    /// A TLS connection for each request, this many at once; all resume a session, or none does.
    Handshakes { in_flight: u32, resumed: bool },
    /// A connection for each request, this many at once, alone, then beside idle connections, each with a program, and then
    /// beside them on a server that has 1 GiB of memory.
    BesidePrograms(u32),
    /// Messages through a proxy to a server that sends them back.
    Proxy(Echo),
    /// So many MiB on one connection through a proxy to a server that sends them back.
    Bulk(u32),
    /// A connection for each request through a proxy to a server that sends it back, this many at once.
    ProxyRequests(u32),
    /// This many idle connections through a proxy.
    ProxyMemory(u32),
    /// None: the subject makes operations within itself, on so many processors.
    Tasks { processors: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) connections: u32,
    /// The size of a message.
    pub(crate) size: u32,
    /// How many messages each connection keeps in flight.
    pub(crate) depth: u32,
}

/// A page, and who asks for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Http {
    pub(crate) client: HttpClient,
    pub(crate) connections: u32,
    pub(crate) page: Page,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpClient {
    Wrk,
    /// h2load, with so many streams on each connection.
    H2load {
        streams: u32,
    },
    /// The load program, at this rate.
    Offered {
        rate: u32,
    },
}

/// So many bytes, which are [`LINE`](Self::LINE) again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// Without its first slash.
    pub(crate) path: &'static str,
    pub(crate) size: usize,
}

impl Page {
    pub(crate) const LINE: &'static [u8] = b"hello world\n";

    pub(crate) fn content(self) -> impl Iterator<Item = u8> {
        Self::LINE.iter().copied().cycle().take(self.size)
    }
}

/// What instructions and system calls are counted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A message of 64 bytes, sent back, on a connection that stays.
    Message,
    /// A connection for one message, which its client ends.
    Connection,
    /// A datagram of 64 bytes, sent back.
    Datagram,
}

/// What is sent by a timetable, at `rate` a second.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Messages on long connections, and heavy ones on others.
    Echo {
        connections: u32,
        rate: u32,
        heavy: Option<Heavy>,
    },
    /// A connection for each request.
    Requests { rate: u32 },
}

/// Requests that cost a server something, beside light ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heavy {
    /// As the load calls it: cpu or wait.
    pub(crate) kind: &'static str,
    pub(crate) connections: u32,
    pub(crate) rate: u32,
}

/// Clients that a server has to endure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hostile {
    /// They connect and send nothing.
    pub(crate) silent: u32,
    /// They send their first message byte by byte.
    pub(crate) dripping: u32,
    /// They send what is no handshake, or stop in one.
    pub(crate) misbehaving: u32,
}

/// What a server has to do when it is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// This many connections have made an exchange and are idle.
    Idle { connections: u32 },
    /// A request is being served, and will be for a while.
    Busy,
}

#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// The most connections that it is tried with.
    pub(crate) connections_max: u32,
    /// For how long a stop lets idle connections be.
    pub(crate) drain: Duration,
    /// Why valgrind cannot run it, if so.
    pub(crate) not_under_valgrind: Option<&'static str>,
}

/// A statement about one subject: a metric of it, or the ratio to that of another subject.
pub(crate) struct Promise {
    pub(crate) subject: &'static str,
    pub(crate) metric: Metric,
    pub(crate) versus: Versus,
    pub(crate) bound: Bound,
}

/// A promise about the median that a ratio has over several scenarios.
pub(crate) struct Overall {
    pub(crate) scenarios: Vec<String>,
    pub(crate) promise: Promise,
}

#[derive(Clone, Copy)]
pub(crate) enum Versus {
    Nothing,
    Subject(&'static str),
    /// The one with the better median.
    Best(&'static [&'static str]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Throughput,
    Cpu,
    /// Percentiles of the latency, in microseconds.
    P50,
    P99,
    WakeUps,
    /// Private memory for each connection.
    Memory,
    /// The resident part of the memory of all kinds, for each connection.
    Resident,
    /// How many idle connections there were.
    Idle,
    /// The rate without them.
    Alone,
    /// The rate beside them, relative to that without them.
    Beside,
    /// The rate beside them of a server that has 1 GiB of memory more, relative to that without either.
    Laden,
    /// The p99 of the latency beside idle and slow connections, relative to that without them.
    P99Beside,
    /// The median of the time from the signal to the end of the process, in ms.
    Stop,
    /// The longest time from when a server may end to when it has ended, in ms.
    StopWorst,
    /// What 100,000 connections have left: descriptors, threads, processes, and bytes of private memory.
    Descriptors,
    Threads,
    Processes,
    Grown,
    /// What an operation takes: instructions outside of the kernel, and system calls.
    Instructions,
    Calls,
}

impl Metric {
    /// As a promise calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Cpu => "CPU per operation",
            Self::P50 => "p50 of the latency",
            Self::P99 => "p99 of the latency",
            Self::WakeUps => "wake-ups per second",
            Self::Memory => "private bytes per connection",
            Self::Resident => "resident bytes per connection",
            Self::Idle => "idle connections",
            Self::Alone => "throughput without idle connections",
            Self::Beside => "throughput beside idle connections relative to that without them",
            Self::Laden => {
                "throughput beside idle connections and with 1 GiB relative to that without either"
            }
            Self::P99Beside => {
                "p99 of the latency beside idle and slow connections relative to that without them"
            }
            Self::Stop => "median ms from the signal to the end",
            Self::StopWorst => "worst ms to the end from when nothing is left to wait for",
            Self::Descriptors => "descriptors that are left",
            Self::Threads => "threads that are left",
            Self::Processes => "processes that are left",
            Self::Grown => "private bytes that are left",
            Self::Instructions => "instructions per operation",
            Self::Calls => "system calls per operation",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

/// All of them, in the order in which they are measured.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = models::scenarios();
    all.extend(exec::scenarios());
    all.extend(coroutines::scenarios());
    all.extend(tasks::scenarios());
    all.extend(proxy::scenarios());
    all.extend(http::scenarios());
    all.extend(tls::scenarios());
    all.extend(latency::scenarios());
    all.extend(admission::scenarios());
    all.extend(counts::scenarios());
    all.extend(endurance::scenarios());
    all.extend(memory::scenarios());
    all.extend(table::scenarios());
    all
}

/// What is promised of several scenarios together.
pub(crate) fn overall() -> Vec<Overall> {
    coroutines::overall()
}

impl Scenario {
    /// A scenario that is measured unless there is a hurry, and promises nothing yet.
    pub(crate) fn new(name: impl Into<String>, about: impl Into<String>, load: Load) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            group: match load {
                Load::Requests(_) => "requests",
                Load::Echo(_) => "echo",
                Load::Packets(_) => "packets",
                Load::Http(_) | Load::HttpBeside { .. } | Load::HttpMemory(_) => "http",
                Load::Offered(_) => "offered",
                Load::Stop(_) => "stop",
                Load::Growth(_) => "growth",
                Load::Counts(_) => "counts",
                Load::Proxy(_) | Load::Bulk(_) | Load::ProxyRequests(_) | Load::ProxyMemory(_) => {
                    "proxy"
                }
                Load::Tasks { .. } => "tasks",
                Load::Handshakes { .. } | Load::TlsBeside { .. } => "tls",
                Load::Idle | Load::Memory(_) | Load::Beside { .. } | Load::BesidePrograms(_) => {
                    "idle"
                }
            },
            load,
            baseline: "",
            subjects: Vec::new(),
            promises: Vec::new(),
            when: When::Unhurried,
        }
    }
}

impl Load {
    /// The tools that it needs.
    pub(crate) fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Http(http) | Self::HttpBeside { http, .. } => match http.client {
                HttpClient::Wrk => &["wrk"],
                HttpClient::H2load { .. } => &["h2load", "nghttp"],
                HttpClient::Offered { .. } => &[],
            },
            Self::Counts(_) => &["valgrind", "strace"],
            _ => &[],
        }
    }

    /// The server that a proxy passes everything on to.
    pub(crate) fn upstream(self) -> Option<Program> {
        match self {
            Self::Proxy(_) | Self::Bulk(_) | Self::ProxyRequests(_) | Self::ProxyMemory(_) => {
                Some(Program::C("epoll_loop.c", vec!["echo", "tcp"]))
            }
            _ => None,
        }
    }
}

impl Subject {
    fn up_to(self, connections: u32) -> Self {
        Self {
            connections_max: connections,
            ..self
        }
    }

    fn not_under_valgrind(self, why: &'static str) -> Self {
        Self {
            not_under_valgrind: Some(why),
            ..self
        }
    }
}

fn subject(name: &'static str, program: Program) -> Subject {
    Subject {
        name,
        program,
        connections_max: u32::MAX,
        drain: Duration::ZERO,
        not_under_valgrind: None,
    }
}

/// A promise about the ratio to another subject.
fn promise(subject: &'static str, metric: Metric, versus: &'static str, bound: Bound) -> Promise {
    Promise {
        subject,
        metric,
        versus: Versus::Subject(versus),
        bound,
    }
}

/// A promise about a figure itself.
fn absolute(subject: &'static str, metric: Metric, bound: Bound) -> Promise {
    Promise {
        subject,
        metric,
        versus: Versus::Nothing,
        bound,
    }
}
