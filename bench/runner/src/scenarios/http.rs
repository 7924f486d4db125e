//! A page of "hello world", as wrk asks for it.

use super::Bound::{AtLeast, AtMost};
use super::Metric::{Cpu, P99, Throughput};
use super::{Load, Scenario, promise, subject};
use crate::programs::Program::{Go, Python, Rust};

const CONNECTIONS: u32 = 64;

const HYPER: &str = "hyper";
const TINY: &str = "tiny_http";
const COROUTINES: &str = "socketserver-http/coroutines+epoll";
const THREADING: &str = "socketserver-http/threading";

pub(super) fn scenarios() -> Vec<Scenario> {
    let about = format!("HTTP/1.1 hello, wrk on {CONNECTIONS} connections that stay");
    let mut scenario = Scenario::new("http-hello", about, Load::Http(CONNECTIONS));
    scenario.baseline = HYPER;
    scenario.subjects = vec![
        subject(HYPER, Rust("hyper_http", Vec::new())),
        subject("Go net/http", Go("http.go", Vec::new())),
        subject("nginx", Python("nginx.py", Vec::new())),
        subject(TINY, Rust("tiny_http", Vec::new())),
        subject(COROUTINES, Rust("library_http", vec!["coroutines+epoll"])),
        subject(
            "socketserver-http/coroutines+uring",
            Rust("library_http", vec!["coroutines+uring"]),
        ),
        subject(THREADING, Rust("library_http", vec!["threading"])),
    ];
    scenario.promises = vec![
        promise(COROUTINES, Cpu, HYPER, AtMost(1.0)),
        promise(COROUTINES, P99, HYPER, AtMost(1.0)),
        promise(THREADING, Throughput, TINY, AtLeast(1.5)),
    ];
    vec![scenario]
}
