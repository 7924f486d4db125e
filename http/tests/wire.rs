//! Bytes in, bytes out: what a server answers to whole conversations, each row of a table.

mod support;

use http::{HeaderMap, Response, StatusCode};
use socketserver_http::{Content, IntoResponse, Request};
use std::io::{self, Read, Write};
use support::{Exchange, converse};

/// The handler under test: the path says what it does.
fn handler(request: &mut Request<'_>) -> Result<Response<Content>, socketserver::HandlerError> {
    match request.uri().path() {
        "/hello" => "hello\n".into_response(),
        "/echo" => {
            let mut body = Vec::new();
            request.body_mut().read_to_end(&mut body)?;
            Content::from(body).into_response()
        }
        "/trailers" => {
            io::copy(request.body_mut(), &mut io::sink())?;
            let trailers = request.body().trailers();
            let mut text: Vec<_> = trailers
                .iter()
                .map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")))
                .collect();
            text.sort();
            format!("{}\n", text.join(",")).into_response()
        }
        "/stream" => Ok(Response::new(Content::chunks(["one", "two", "three"]))),
        "/stream-trailers" => Ok(Response::new(Content::stream(|out| {
            out.write_all(b"data")?;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().expect("a value"));
            out.set_trailers(trailers);
            Ok(())
        }))),
        "/empty" => ().into_response(),
        "/fail" => Err("failed as asked".into()),
        "/panic" => panic!("panicked as asked"),
        "/short" => Ok(Response::new(Content::sized_reader(io::empty(), 5))),
        "/close" => Ok(Response::builder()
            .header("connection", "close")
            .body(Content::from("bye\n"))?),
        "/upgrade" => Ok(Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "shout")
            .body(Content::upgrade(|conn| {
                let mut line = String::new();
                conn.read_line_max(&mut line, 100)?;
                conn.write_all(line.to_uppercase().as_bytes())
            }))?),
        "/unread" => "not read\n".into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

const CASES: &[Exchange] = &[
    Exchange {
        name: "a simple request",
        sent: b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 6\nconnection: close\n\nhello\n",
    },
    Exchange {
        name: "two requests that came together",
        sent: b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 6\n\nhello\nHTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 6\nconnection: close\n\nhello\n",
    },
    Exchange {
        name: "a body with a length",
        sent: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        answer: "HTTP/1.1 200 OK\ncontent-type: application/octet-stream\ncontent-length: 5\nconnection: close\n\nhello",
    },
    Exchange {
        name: "a chunked body",
        sent: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: application/octet-stream\ncontent-length: 11\nconnection: close\n\nhello world",
    },
    Exchange {
        name: "trailers of a request",
        sent: b"POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nX-A: 1\r\nContent-Length: 9\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 6\nconnection: close\n\nx-a=1\n",
    },
    Exchange {
        name: "a stream is chunked",
        sent: b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ntransfer-encoding: chunked\nconnection: close\n\n3\none\n3\ntwo\n5\nthree\n0\n\n",
    },
    Exchange {
        name: "trailers of a response",
        sent: b"GET /stream-trailers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ntransfer-encoding: chunked\nconnection: close\n\n4\ndata\n0\nx-sum: 42\n\n",
    },
    Exchange {
        name: "a stream to HTTP/1.0 ends with the connection",
        sent: b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        answer: "HTTP/1.1 200 OK\nconnection: close\n\nonetwothree",
    },
    Exchange {
        name: "HTTP/1.0 closes",
        sent: b"GET /empty HTTP/1.0\r\n\r\n",
        answer: "HTTP/1.1 204 No Content\nconnection: close\n\n",
    },
    Exchange {
        name: "HEAD has no content",
        sent: b"HEAD /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 6\nconnection: close\n\n",
    },
    Exchange {
        name: "an error is a 500, and the connection goes on",
        sent: b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\nGET /panic HTTP/1.1\r\nHost: a\r\n\r\nGET /close HTTP/1.1\r\nHost: a\r\n\r\n",
        answer: "HTTP/1.1 500 Internal Server Error\ncontent-type: text/plain; charset=utf-8\ncontent-length: 22\n\nInternal Server Error\nHTTP/1.1 500 Internal Server Error\ncontent-type: text/plain; charset=utf-8\ncontent-length: 22\n\nInternal Server Error\nHTTP/1.1 200 OK\ncontent-length: 4\nconnection: close\n\nbye\n",
    },
    Exchange {
        name: "a client that expects 100 Continue",
        sent: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        answer: "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\ncontent-type: application/octet-stream\ncontent-length: 2\nconnection: close\n\nhi",
    },
    Exchange {
        name: "an unread body is discarded",
        sent: b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /close HTTP/1.1\r\nHost: a\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 9\n\nnot read\nHTTP/1.1 200 OK\ncontent-length: 4\nconnection: close\n\nbye\n",
    },
    Exchange {
        name: "a body beyond the limit",
        sent: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n",
        answer: "HTTP/1.1 413 Payload Too Large\ncontent-type: text/plain; charset=utf-8\ncontent-length: 18\nconnection: close\n\nPayload Too Large\n",
    },
    Exchange {
        name: "an upgrade",
        sent: b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\nloud\n",
        answer: "HTTP/1.1 101 Switching Protocols\nupgrade: shout\nconnection: upgrade\n\nLOUD\n",
    },
    Exchange {
        name: "a reader that is too short",
        sent: b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n",
        answer: "HTTP/1.1 200 OK\ncontent-length: 5\n\n",
    },
    Exchange {
        name: "no host",
        sent: b"GET /hello HTTP/1.1\r\n\r\n",
        answer: "HTTP/1.1 400 Bad Request\ncontent-length: 20\nconnection: close\n\nthe host is missing\n",
    },
];

#[test]
fn conversations() {
    converse(handler, CASES);
}
