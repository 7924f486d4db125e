//! A page of "hello world" with `socketserver-http`.
//!
//! `library_http threading|pool|coroutines+epoll|coroutines+uring`
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::time::Duration;

use anyhow::{Result, bail};
use bench_peers::announce;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use socketserver::model::{Driver, Model};
use socketserver::{Coroutines, Server, Tcp, ThreadPool, Threading};
use socketserver_http::{Content, Http, Request};

const HOUR: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("threading") => serve(Threading::default()),
        Some("pool") => serve(ThreadPool::new(8)),
        Some("coroutines+epoll") => serve(coroutines(Driver::Epoll)),
        Some("coroutines+uring") => serve(coroutines(Driver::Uring)),
        _ => bail!("the argument is the model, in lower case"),
    }
}

fn coroutines(driver: Driver) -> Coroutines {
    // SAFETY: the handler leaves thread-locals alone.
    unsafe { Coroutines::new() }.workers(1).driver(driver)
}

fn serve<M: Model>(model: M) -> Result<()> {
    let builder = Server::<Tcp>::builder().model(model);
    let builder = builder.max_connections(15_000).idle_timeout(None);
    let server = builder.bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    // Nobody asks for another connection, and hyper has no limits either.
    let http = Http::new(hello).requests(u32::MAX).idle_timeout(HOUR);
    server.serve_forever(http.serve())?;
    Ok(())
}

fn hello(_: &mut Request<'_>) -> Response<Content> {
    let mut response = Response::new(Content::from("hello world\n"));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
