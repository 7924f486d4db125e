//! A page of "hello world" with hyper, on tokio's current-thread runtime: HTTP/1.1, or HTTP/2 with `h2` as an argument.

use std::convert::Infallible;
use std::env;

use anyhow::Result;
use bench_peers::listen_tcp;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::spawn(accept()).await? })
}

async fn accept() -> Result<()> {
    let is_h2 = env::args().nth(1).as_deref() == Some("h2");
    let listener = listen_tcp()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (io, hello) = (TokioIo::new(stream), service_fn(hello));
        // A client that is gone is no failure of the server.
        tokio::spawn(async move {
            if is_h2 {
                let server = http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(io, hello).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, hello).await;
            }
        });
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello world\n")));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    Ok(response)
}
