//! The handler under test: the path says what it does.

use std::io::{self, Read, Write};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use socketserver::HandlerError;
use socketserver_http::{Content, IntoResponse, Request};

type Answer = Result<Response<Content>, HandlerError>;

/// Answers a request.
pub(crate) fn handle(request: &mut Request<'_>) -> Answer {
    if request.method() == Method::CONNECT {
        return connect(request);
    }
    match request.uri().path() {
        "/echo" => {
            let mut body = Vec::new();
            request.body_mut().read_to_end(&mut body)?;
            plain(body)
        }
        "/some" => {
            let mut some = [0; 3];
            request.body_mut().read_exact(&mut some)?;
            plain(some.to_vec())
        }
        "/count" => count(request),
        "/more" => {
            request.body_mut().set_limit(2000);
            count(request)
        }
        "/trailers" => {
            io::copy(request.body_mut(), &mut io::sink())?;
            fields(request.body().trailers())
        }
        "/field" => fields(request.headers()),
        "/upgrade" => Ok(Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "shout")
            .body(shout())?),
        "/fail" => Err("failed as asked".into()),
        "/panic" => panic!("panicked as asked"),
        path => match canned(path) {
            Some(answer) => answer,
            None => target(request),
        },
    }
}

fn plain(body: impl Into<Content>) -> Answer {
    Ok(Response::new(body.into()))
}

/// What the server has understood of the target.
fn target(request: &Request<'_>) -> Answer {
    let host = request.headers().get("host");
    let host = host.map_or("none", |host| host.to_str().unwrap_or("?"));
    plain(format!("{} {} {host}\n", request.method(), request.uri()))
}

fn count(request: &mut Request<'_>) -> Answer {
    let count = io::copy(request.body_mut(), &mut io::sink())?;
    plain(format!("{count} bytes\n"))
}

/// The fields `x-…`, and those that must not be there.
fn fields(fields: &HeaderMap) -> Answer {
    let fields = fields.iter().filter(|(name, _)| *name != "host");
    let mut text: Vec<_> = fields
        .map(|(name, value)| format!("{name}={value:?}\n"))
        .collect();
    text.sort();
    plain(text.concat())
}

fn connect(request: &Request<'_>) -> Answer {
    match request.uri().host() {
        Some("tunnel") => plain(shout()),
        Some("refused") => StatusCode::FORBIDDEN.into_response(),
        _ => target(request),
    }
}

/// Another protocol: answers one line in capital letters.
fn shout() -> Content {
    Content::upgrade(|conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.to_uppercase().as_bytes())
    })
}

fn stream() -> Content {
    Content::chunks(["one", "two", "three"])
}

/// Responses that depend on nothing.
fn canned(path: &str) -> Option<Answer> {
    let with = |status: u16, fields: &[(&'static str, &'static str)], content: Content| {
        let mut response = Response::new(content);
        *response.status_mut() = StatusCode::from_u16(status)?;
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            response.headers_mut().append(*name, value);
        }
        Ok(response)
    };
    Some(match path {
        "/stream" => plain(stream()),
        "/stream-trailers" => plain(Content::stream(|out| {
            out.write_all(b"data")?;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            trailers.insert("content-length", HeaderValue::from_static("42"));
            out.set_trailers(trailers);
            Ok(())
        })),
        "/close" => with(200, &[("connection", "close")], "bye\n".into()),
        "/head" => with(200, &[("content-length", "11")], stream()),
        "/204" => with(204, &[("content-length", "3")], "abc".into()),
        "/204-stream" => with(204, &[], stream()),
        "/205" => with(205, &[], "abc".into()),
        "/304" => with(304, &[("etag", "\"a\"")], "abc".into()),
        "/304-stream" => with(304, &[], stream()),
        "/103" => with(103, &[("link", "</a>")], Content::empty()),
        "/101" => with(101, &[("upgrade", "a")], Content::empty()),
        "/599" => with(599, &[], "abc".into()),
        "/liar" => with(200, &[("content-length", "1")], "abc".into()),
        "/coding" => with(
            200,
            &[
                ("transfer-encoding", "gzip, chunked"),
                ("connection", "keep-alive"),
                ("connection", "x"),
            ],
            "abc".into(),
        ),
        "/date" => with(
            200,
            &[("date", "Thu, 01 Jan 1970 00:00:00 UTC")],
            "abc".into(),
        ),
        "/cookies" => with(
            200,
            &[("set-cookie", "a=b"), ("set-cookie", "c=d")],
            Content::empty(),
        ),
        "/split" => HeaderValue::from_str("a\r\nSet-Cookie: b")
            .map_err(Into::into)
            .and_then(|_| plain("split\n")),
        "/short" => plain(Content::sized_reader(io::repeat(b'a').take(2), 5)),
        "/broken" => plain(Content::stream(|out| {
            out.write_all(b"data")?;
            out.flush()?;
            Err(io::Error::other("broken as asked"))
        })),
        "/empty" => plain(""),
        "/empty-stream" => plain(Content::stream(|_| Ok(()))),
        "/empty-write" => plain(Content::stream(|out| {
            out.write_all(b"")?;
            out.flush()?;
            out.write_all(b"data")?;
            out.write_all(b"")
        })),
        _ => return None,
    })
}
