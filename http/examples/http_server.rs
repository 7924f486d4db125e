//! The files of the current directory, as `python3 -m http.server` serves them: `http_server [ADDRESS]`.
#![expect(clippy::print_stderr, reason = "an example speaks to its user")]

use std::fs::{File, read_dir};
use std::path::{Component, Path};

use http::header::{CONTENT_TYPE, HeaderName, LOCATION};
use http::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use socketserver_http::python::{Answer, ByMethod, HttpRequestHandler, ThreadingHttpServer};
use socketserver_http::{Content, Http, IntoResponse, Request};

fn respond(status: u16, field: HeaderName, value: &str, content: impl Into<Content>) -> Answer {
    let response = Response::builder().status(status).header(field, value);
    Ok(response.body(content.into())?)
}

struct Files;

impl HttpRequestHandler for Files {
    fn do_get(&self, request: &mut Request<'_>) -> Answer {
        let target = request.uri().path();
        let decoded = percent_decode_str(target).decode_utf8_lossy();
        let path = Path::new(".").join(decoded.trim_start_matches('/'));
        let climbs = path.components().any(|part| part == Component::ParentDir);
        let index = path.join("index.html");
        if climbs || !(path.is_dir() || path.is_file()) {
            return StatusCode::NOT_FOUND.into_response();
        } else if path.is_dir() && !target.ends_with('/') {
            // Two slashes would begin the name of a host.
            let location = format!("/{}/", target.trim_matches('/'));
            return respond(301, LOCATION, &location, ());
        } else if path.is_dir() && !index.is_file() {
            let mut page = "<!doctype html><meta charset=utf-8><ul>\n".to_owned();
            for entry in read_dir(path)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let link = utf8_percent_encode(&name, NON_ALPHANUMERIC);
                let text = name.replace('&', "&amp;").replace('<', "&lt;");
                page += &format!("<li><a href=\"{link}\">{text}</a>\n");
            }
            return respond(200, CONTENT_TYPE, "text/html", page);
        }
        let path = if path.is_dir() { index } else { path };
        let kind = mime_guess::from_path(&path).first_or_octet_stream();
        let content = Content::sized_reader(File::open(&path)?, path.metadata()?.len());
        respond(200, CONTENT_TYPE, kind.as_ref(), content)
    }
}

fn main() -> Result<(), socketserver::Error> {
    let addr = std::env::args().nth(1);
    let server = ThreadingHttpServer::bind(addr.as_deref().unwrap_or("127.0.0.1:8000"))?;
    for url in server.urls() {
        eprintln!("listening on {url}");
    }
    server
        .serve_forever(Http::handler(ByMethod::new(Files)).serve())
        .map(drop)
}
