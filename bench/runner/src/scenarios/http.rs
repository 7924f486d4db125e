//! A page of "hello world", as wrk asks for it.

use super::{Load, Scenario, subject};
use crate::programs::Program::{Go, Python, Rust};

const CONNECTIONS: u32 = 64;

pub(super) fn scenarios() -> Vec<Scenario> {
    let about = format!("HTTP/1.1 hello, wrk on {CONNECTIONS} connections that stay");
    let mut scenario = Scenario::new("http-hello", about, Load::Http(CONNECTIONS));
    scenario.baseline = "hyper";
    let ours = [
        ("socketserver-lib/coroutines+epoll", "coroutines+epoll"),
        ("socketserver-lib/coroutines+uring", "coroutines+uring"),
        ("socketserver-lib/threading", "threading"),
    ];
    scenario.subjects = vec![
        subject("hyper", Rust("hyper_http", Vec::new())),
        subject("Go net/http", Go("http.go", Vec::new())),
        subject("nginx", Python("nginx.py", Vec::new())),
    ];
    let ours = ours.map(|(name, model)| subject(name, Rust("library_http", vec![model])));
    scenario.subjects.extend(ours);
    vec![scenario]
}
