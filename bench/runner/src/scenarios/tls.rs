//! TLS against tokio-rustls, and against threads with rustls' own stream.

use super::Bound::AtMost;
use super::Metric::{Cpu, P99Beside, Resident};
use super::coroutines::{BUFFER, LARGE_BUFFER};
use super::models::rust;
use super::{Echo, Hostile, Load, Offer, Scenario, Subject, absolute, promise};

const TOKIO: &str = "tokio-rustls";
const THREADS: &str = "thread per connection, rustls";
const EPOLL: &str = "socketserver-lib/coroutines+epoll";
const URING: &str = "socketserver-lib/coroutines+uring";
const THREADING: &str = "socketserver-lib/threading";

/// Of the processor time, and of the memory of an idle connection.
const CPU_MAX: f64 = 1.05;
const MEMORY_MAX: f64 = 0.7;

pub(super) fn scenarios() -> Vec<Scenario> {
    let echo = |size| {
        Load::Echo(Echo {
            connections: 64,
            size,
            depth: 1,
        })
    };
    let handshakes = |resumed| Load::Handshakes {
        in_flight: 32,
        resumed,
    };
    vec![
        scenario(
            "echo-64",
            "64 bytes back and forth on 64 connections over TLS 1.3",
            echo(64),
            BUFFER,
        ),
        scenario(
            "echo-16k",
            "16 KiB back and forth on 64 connections over TLS 1.3",
            echo(16 * 1024),
            LARGE_BUFFER,
        ),
        scenario(
            "handshakes-full",
            "a TLS 1.3 connection for each request, each with a full handshake, 32 at once",
            handshakes(false),
            BUFFER,
        ),
        scenario(
            "handshakes-resumed",
            "a TLS 1.3 connection for each request, each resumes a session, 32 at once",
            handshakes(true),
            BUFFER,
        ),
        idle_memory(),
        drips(
            "drips",
            "eight threads: 1,000 messages a second on 8 TLS connections",
            Offer::Echo {
                connections: 8,
                rate: 1000,
                heavy: None,
            },
        ),
        drips(
            "drips-handshakes",
            "eight threads: 200 TLS connections with a request each a second",
            Offer::Requests { rate: 200 },
        ),
    ]
}

/// Clients that hold no thread while they say nothing, or too little, or nonsense.
fn drips(what: &str, about: &str, offer: Offer) -> Scenario {
    const POOL: &str = "socketserver-lib/pool";
    Scenario {
        baseline: POOL,
        subjects: vec![rust(POOL, "library_tls", &["pool", "tcp", BUFFER])],
        promises: vec![absolute(POOL, P99Beside, AtMost(5.0))],
        ..Scenario::new(
            format!("tls-{what}"),
            format!(
                "{about}, alone and then beside 1,000 that are silent, 1,000 that send their ClientHello byte by byte, and 240 \
                 that send what is no handshake or stop in one"
            ),
            Load::TlsBeside {
                offer,
                hostile: Hostile {
                    silent: 1000,
                    dripping: 1000,
                    misbehaving: 240,
                },
            },
        )
    }
}

fn scenario(what: &str, about: &str, load: Load, buffer: &'static str) -> Scenario {
    Scenario {
        group: "tls",
        baseline: TOKIO,
        subjects: subjects(buffer).into(),
        promises: vec![
            promise(EPOLL, Cpu, TOKIO, AtMost(CPU_MAX)),
            promise(URING, Cpu, TOKIO, AtMost(CPU_MAX)),
            promise(THREADING, Cpu, THREADS, AtMost(CPU_MAX)),
        ],
        ..Scenario::new(format!("tls-{what}"), about, load)
    }
}

/// What an idle connection takes depends on how its handler waits. A parked one is what the promise is about.
fn idle_memory() -> Scenario {
    const PARKED: [&str; 2] = [
        "socketserver-lib/parked+epoll",
        "socketserver-lib/parked+uring",
    ];
    let idle = |name, way, driver| rust(name, "idle", &[way, driver, "tls"]);
    let mut subjects = Vec::from(subjects(BUFFER));
    subjects.extend([
        idle("socketserver-lib/lines+epoll", "lines", "epoll"),
        idle("socketserver-lib/lines+uring", "lines", "uring"),
        idle(PARKED[0], "park", "epoll"),
        idle(PARKED[1], "park", "uring"),
    ]);
    Scenario {
        subjects,
        promises: PARKED
            .map(|ours| promise(ours, Resident, TOKIO, AtMost(MEMORY_MAX)))
            .into(),
        ..scenario(
            "idle-memory",
            "memory for each of 4,000 TLS connections (1,000 with threads) that are idle after an exchange",
            Load::Memory(4000),
            BUFFER,
        )
    }
}

/// All that echo until the client ends, with a buffer of this size on the heap for each connection.
fn subjects(buffer: &'static str) -> [Subject; 5] {
    let sized = |first| [first, "tcp", buffer];
    [
        rust(TOKIO, "tokio_tls", &sized("echo")),
        rust(THREADS, "thread_tls", &sized("echo")).up_to(1000),
        rust(EPOLL, "library_tls", &sized("coroutines+epoll")),
        rust(URING, "library_tls", &sized("coroutines+uring")),
        rust(THREADING, "library_tls", &sized("threading")).up_to(1000),
    ]
}
