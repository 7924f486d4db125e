//! A page of "hello world" with `socketserver-http`.
//!
//! `library_http threading|coroutines+epoll|coroutines+uring`
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;

use anyhow::{Result, bail};
use bench_peers::announce;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use socketserver::model::{Driver, Model};
use socketserver::{Coroutines, Server, Tcp, Threading};
use socketserver_http::{Content, Http, Request};

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("threading") => serve(Threading::default()),
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
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    for addr in server.local_addrs() {
        announce("tcp", addr.socket_addr().expect("a TCP address"));
    }
    // wrk never asks for another connection, and hyper has no limit either.
    server.serve_forever(Http::new(hello).requests(u32::MAX).serve())?;
    Ok(())
}

fn hello(_: &mut Request<'_>) -> Response<Content> {
    let mut response = Response::new(Content::from("hello world\n"));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
