//! Metrics of a program that has nothing else of HTTP: `metrics [ADDRESS [MILLISECONDS]]`. The program works, a job each
//! 100 ms, and a server beside it shows how much: `curl http://127.0.0.1:8000/metrics`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::fmt;
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use socketserver::{HandlerError, Server, ServerGuard, Tcp, Threading, task};
use socketserver_http::{Content, Http, Request, Router};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn show(registry: &Registry) -> Result<Response<Content>, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    let mut response = Response::new(Content::from(text));
    let kind = HeaderValue::from_static(OPEN_METRICS);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Serves metrics beside the program, until the guard is dropped.
fn start_http_server(addr: &str, registry: Registry) -> Result<ServerGuard, socketserver::Error> {
    let server = Server::<Tcp, Threading>::bind(addr)?;
    eprintln!("listening on {}", server.urls().join(" and "));
    let router = Router::new().get("/metrics", move |_: &mut Request<'_>| show(&registry));
    server.spawn(Http::handler(router).serve())
}

fn main() -> Result<(), HandlerError> {
    let (addr, pause) = (std::env::args().nth(1), std::env::args().nth(2));
    let pause = Duration::from_millis(pause.map_or(Ok(100), |millis| millis.parse())?);
    let jobs = Counter::<u64>::default();
    let seconds = Histogram::new(exponential_buckets(0.001, 2.0, 12));
    let mut registry = Registry::default();
    registry.register("jobs", "Jobs that were done", jobs.clone());
    registry.register("job_seconds", "How long a job took", seconds.clone());
    let _guard = start_http_server(addr.as_deref().unwrap_or("127.0.0.1:8000"), registry)?;
    loop {
        let start = Instant::now();
        // The job.
        task::sleep(pause);
        seconds.observe(start.elapsed().as_secs_f64());
        jobs.inc();
    }
}
