//! HTTP: a page of "hello world" over HTTP/1.1 and HTTP/2, files of a directory, and connections that are idle or slow.

use super::Bound::{AtLeast, AtMost};
use super::Metric::{Beside, Cpu, Memory, P99, P99Beside, Throughput};
use super::{Http, HttpClient, Load, Page, Scenario, Subject, absolute, promise, subject};
use crate::programs::Program::{Files, Go, Python, Rust};

/// The files that are served.
pub(crate) const FILES: [Page; 2] = [
    Page {
        path: "1k.txt",
        size: 1 << 10,
    },
    Page {
        path: "1m.txt",
        size: 1 << 20,
    },
];

const HELLO: Page = Page {
    path: "",
    size: Page::LINE.len(),
};

const WRK: Http = Http {
    client: HttpClient::Wrk,
    connections: 64,
    page: HELLO,
};

const HYPER: &str = "hyper";
const TINY: &str = "tiny_http";
const NGINX: &str = "nginx";
const COROUTINES: &str = "socketserver-http/coroutines+epoll";
const URING: &str = "socketserver-http/coroutines+uring";
const THREADING: &str = "socketserver-http/threading";

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = vec![hello(), hello_h2(), idle(), drips(), idle_memory()];
    scenarios.extend(FILES.map(files));
    scenarios
}

fn ours() -> [Subject; 3] {
    [
        subject(COROUTINES, Rust("library_http", vec!["coroutines+epoll"])),
        subject(URING, Rust("library_http", vec!["coroutines+uring"])),
        subject(THREADING, Rust("library_http", vec!["threading"])),
    ]
}

fn hello() -> Scenario {
    let mut subjects = vec![
        subject(HYPER, Rust("hyper_http", Vec::new())),
        subject("Go net/http", Go("http.go", Vec::new())),
        subject(NGINX, Python("nginx.py", Vec::new())),
        subject(TINY, Rust("tiny_http", Vec::new())),
    ];
    subjects.extend(ours());
    Scenario {
        baseline: HYPER,
        subjects,
        promises: vec![
            promise(COROUTINES, Cpu, HYPER, AtMost(1.0)),
            promise(COROUTINES, P99, HYPER, AtMost(1.0)),
            promise(THREADING, Throughput, TINY, AtLeast(1.5)),
        ],
        ..Scenario::new(
            "http-hello",
            "HTTP/1.1 hello, wrk on 64 connections that stay",
            Load::Http(WRK),
        )
    }
}

fn hello_h2() -> Scenario {
    let mut subjects = vec![subject(HYPER, Rust("hyper_http", vec!["h2"]))];
    subjects.extend(ours());
    Scenario {
        baseline: HYPER,
        subjects,
        promises: vec![
            promise(COROUTINES, Cpu, HYPER, AtMost(1.05)),
            promise(URING, Cpu, HYPER, AtMost(1.05)),
        ],
        ..Scenario::new(
            "h2-hello",
            "HTTP/2 hello without TLS, h2load on 8 connections that stay, with 32 streams each",
            Load::Http(Http {
                client: HttpClient::H2load { streams: 32 },
                connections: 8,
                page: HELLO,
            }),
        )
    }
}

fn idle() -> Scenario {
    Scenario {
        baseline: COROUTINES,
        subjects: ours().into(),
        promises: [COROUTINES, URING]
            .map(|name| absolute(name, Beside, AtLeast(0.95)))
            .into(),
        ..Scenario::new(
            "http-idle",
            "HTTP/1.1 hello, wrk on 64 connections, alone and then beside 10,000 that are idle after a request",
            Load::HttpBeside {
                http: WRK,
                idle: 10_000,
                dripping: 0,
            },
        )
    }
}

fn drips() -> Scenario {
    const POOL: &str = "socketserver-http/pool";
    Scenario {
        baseline: POOL,
        subjects: vec![subject(POOL, Rust("library_http", vec!["pool"]))],
        promises: vec![absolute(POOL, P99Beside, AtMost(5.0))],
        ..Scenario::new(
            "http-drips",
            "eight threads: 1,000 requests a second on 8 connections, alone and then beside 10,000 that are idle and 1,000 \
             that send heads byte by byte",
            Load::HttpBeside {
                http: Http {
                    client: HttpClient::Offered { rate: 1000 },
                    connections: 8,
                    page: HELLO,
                },
                idle: 10_000,
                dripping: 1000,
            },
        )
    }
}

fn idle_memory() -> Scenario {
    let mut subjects = vec![subject(HYPER, Rust("hyper_http", Vec::new()))];
    subjects.extend(ours());
    Scenario {
        baseline: HYPER,
        subjects,
        promises: [COROUTINES, URING]
            .map(|name| promise(name, Memory, HYPER, AtMost(0.1)))
            .into(),
        ..Scenario::new(
            "http-idle-memory",
            "private memory for each of 10,000 connections that are idle after a request of HTTP/1.1",
            Load::HttpMemory(10_000),
        )
    }
}

fn files(page: Page) -> Scenario {
    const COROUTINES: &str = "socketserver/coroutines+epoll";
    let name = page.path.trim_end_matches(".txt");
    let mut promises = vec![promise(COROUTINES, Throughput, NGINX, AtLeast(0.9))];
    if name == "1k" {
        promises.push(promise(COROUTINES, Cpu, NGINX, AtMost(1.0)));
    }
    Scenario {
        baseline: NGINX,
        subjects: vec![
            subject(NGINX, Python("nginx.py", vec!["files"])),
            subject("CPython http.server", Python("files.py", Vec::new())),
            subject(COROUTINES, Files(super::coroutines::model("epoll"))),
            subject(
                "socketserver/coroutines+uring",
                Files(super::coroutines::model("uring")),
            ),
            subject("socketserver/threading", Files(vec!["threading"])),
        ],
        promises,
        ..Scenario::new(
            format!("files-{name}"),
            format!(
                "a file of {} bytes, wrk on 64 connections that stay",
                page.size
            ),
            Load::Http(Http { page, ..WRK }),
        )
    }
}
