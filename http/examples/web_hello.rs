//! Answers every request with a line: `cargo run -p socketserver-http --example web_hello 127.0.0.1:8000`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::env;
use std::io;

use socketserver::{Server, Tcp, Threading};
use socketserver_http::{Http, Request};

fn answer(request: &mut Request<'_>) -> io::Result<String> {
    let body = io::read_to_string(request.body_mut())?;
    let (method, path) = (request.method(), request.uri().path());
    Ok(format!("{method} {path} with {} bytes\n", body.len()))
}

fn main() -> Result<(), socketserver::Error> {
    let addr = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let server = Server::<Tcp>::builder()
        .model(Threading::default())
        .bind(&*addr)?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    let http = Http::new(answer).access_log(io::stderr());
    server.serve_forever(http.serve())?;
    Ok(())
}
