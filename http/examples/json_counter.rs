//! Counters that all clients share, as JSON: `json_counter [ADDRESS]`. `curl http://127.0.0.1:8000/apples` shows
//! one, `curl -d '{"add": 3}' http://127.0.0.1:8000/apples` adds to it.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::{Content, Http, Request};

type Counters = Mutex<BTreeMap<String, i64>>;

/// The number that a request adds; `None` if its content is something else.
fn added(request: &mut Request<'_>) -> Result<Option<i64>, HandlerError> {
    if request.method() != Method::POST {
        return Ok(Some(0));
    }
    match serde_json::from_reader::<_, Value>(request.body_mut()) {
        Ok(content) => Ok(content["add"].as_i64()),
        // A read has failed: the response says why, 413 for example.
        Err(err) if err.is_io() => Err(std::io::Error::from(err).into()),
        Err(_) => Ok(None),
    }
}

fn answer(
    counters: &Counters,
    request: &mut Request<'_>,
) -> Result<Response<Content>, HandlerError> {
    let mut response = Response::builder().header(CONTENT_TYPE, "application/json");
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let content = if let Some(added) = added(request)? {
        let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counters.get(&name).unwrap_or(&0).saturating_add(added);
        if added != 0 {
            counters.insert(name.clone(), count);
        }
        json!({"name": name, "count": count})
    } else {
        response = response.status(StatusCode::BAD_REQUEST);
        json!({"error": "the content has to be {\"add\": NUMBER}"})
    };
    Ok(response.body(format!("{content}\n").into())?)
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = Server::<Tcp, Threading>::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    let counters = Counters::default();
    let http = Http::new(move |request: &mut Request<'_>| answer(&counters, request));
    server.serve_forever(http.serve())?;
    Ok(())
}
