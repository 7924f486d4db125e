//! Other forms of handlers, in bytes: a type with a method for each method of HTTP, and a redirect.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;

use http::uri::Scheme;
use http::{Response, StatusCode};
use socketserver::testing::TestServer;
use socketserver::{HandlerError, Server, Tcp, Threading};
use socketserver_http::python::{Answer, ByMethod, HttpRequestHandler};
use socketserver_http::{Content, Handler, Http, IntoResponse, Request, redirect_to_https};

use support::DEADLINE;

/// Answers three methods with their names, and each other one by default.
struct Three;

impl HttpRequestHandler for Three {
    fn do_get(&self, _: &mut Request<'_>) -> Answer {
        "get".into_response()
    }

    fn do_post(&self, _: &mut Request<'_>) -> Answer {
        (StatusCode::CREATED, "post").into_response()
    }

    fn do_other(&self, request: &mut Request<'_>) -> Answer {
        request.method().to_string().into_response()
    }
}

struct Nothing;

impl HttpRequestHandler for Nothing {}

/// What a client sends, and all that it receives then, with `\n` for each CR LF and without `date`.
struct Exchange {
    name: &'static str,
    sent: &'static [u8],
    answer: &'static str,
}

/// Plays exchanges with a server, and compares.
fn converse<F, R>(http: Http<F>, exchanges: &[Exchange])
where
    F: Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    let server = Server::<Tcp>::builder().model(Threading::default());
    let server = server.bind("127.0.0.1:0").expect("bind");
    let server = TestServer::spawn(server, http.serve());
    for exchange in exchanges {
        let mut client = server.connect();
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(exchange.sent).expect("send");
        client.shutdown(Shutdown::Write).expect("shut down");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("receive");
        let lines = answer
            .split("\r\n")
            .filter(|line| !line.starts_with("date: "));
        let answer = lines.collect::<Vec<_>>().join("\n");
        assert_eq!(answer, exchange.answer, "{}", exchange.name);
    }
    let _ = server.stop();
}

const fn exchange(name: &'static str, sent: &'static [u8], answer: &'static str) -> Exchange {
    Exchange { name, sent, answer }
}

#[test]
fn each_method_has_a_method() {
    let call = |request: &mut Request<'_>| ByMethod::new(Three).call(&mut (), request);
    converse(
        Http::new(call),
        &[
            exchange(
                "GET",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 3\n\nget",
            ),
            exchange(
                "HEAD is answered as GET",
                b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
                "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 3\n\n",
            ),
            exchange(
                "POST",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 201 Created\ncontent-type: text/plain; charset=utf-8\ncontent-length: 4\n\npost",
            ),
            exchange(
                "a method without one of its own",
                b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n",
                "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 8\n\nPROPFIND",
            ),
        ],
    );
}

/// The answer to a method that is not overridden.
macro_rules! refused {
    ($($method:literal $length:literal;)*) => {
        [$(exchange(
            $method,
            concat!($method, " / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
            concat!(
                "HTTP/1.1 501 Not Implemented\ncontent-type: text/plain; charset=utf-8\n",
                "content-length: ", $length, "\n\nthe method ", $method, " is not supported\n"
            ),
        )),*]
    };
}

#[test]
fn what_is_not_overridden_is_answered_501() {
    let call = |request: &mut Request<'_>| ByMethod::new(Nothing).call(&mut (), request);
    let exchanges = refused! {
        "GET" 32;
        "POST" 33;
        "PUT" 32;
        "DELETE" 35;
        "PATCH" 34;
        "OPTIONS" 36;
        "TRACE" 34;
        "PROPFIND" 37;
    };
    converse(Http::new(call), &exchanges);
}

#[test]
fn a_redirect_names_the_host_of_the_request() {
    let call = |request: &mut Request<'_>| -> Result<Response<Content>, HandlerError> {
        redirect_to_https(8443)(request)
    };
    converse(
        Http::new(call),
        &[
            exchange(
                "GET",
                b"GET /b?c HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
                "HTTP/1.1 308 Permanent Redirect\nlocation: https://a.example:8443/b?c\ncontent-length: 0\n\n",
            ),
            exchange(
                "a client without a host",
                b"GET / HTTP/1.0\r\n\r\n",
                "HTTP/1.1 400 Bad Request\ncontent-type: text/plain; charset=utf-8\ncontent-length: 12\n\
                 connection: close\n\nBad Request\n",
            ),
        ],
    );
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let client = |request: &mut Request<'_>| {
        let client = request.body().client();
        client.map_or_else(String::new, |client| client.to_string())
    };
    let named = [exchange(
        "a client behind the proxy",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 9\n\n192.0.2.1",
    )];
    let proxy = "127.0.0.0/8".parse().expect("a network");
    converse(Http::new(client).trust_x_forwarded_for([proxy]), &named);
    let direct = [exchange(
        "a client that names another one",
        named[0].sent,
        "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 9\n\n127.0.0.1",
    )];
    converse(Http::new(client), &direct);
    let other = "192.0.2.0/24".parse().expect("a network");
    converse(Http::new(client).trust_x_forwarded_for([other]), &direct);
    converse(Http::new(client).trust_forwarded([proxy]), &direct);
}

#[test]
fn a_redirect_behind_a_trusted_proxy() {
    let call = |request: &mut Request<'_>| match request.body().scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => "hello".into_response(),
        _ => redirect_to_https(443)(request),
    };
    let hello =
        "HTTP/1.1 200 OK\ncontent-type: text/plain; charset=utf-8\ncontent-length: 5\n\nhello";
    let moved = "HTTP/1.1 308 Permanent Redirect\nlocation: https://a/b\ncontent-length: 0\n\n";
    let secure = b"GET /b HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n";
    let plain = b"GET /b HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\n\r\n";
    let proxy = "127.0.0.0/8".parse().expect("a network");
    let http = Http::new(call).trust_x_forwarded_for([proxy]);
    let of_proxy = [
        exchange("a client of TLS", secure, hello),
        exchange("a client without", plain, moved),
    ];
    converse(http, &of_proxy);
    let direct = [exchange("a client that claims TLS", secure, moved)];
    converse(Http::new(call), &direct);
    // RFC 7239.
    let sent = b"GET /b HTTP/1.1\r\nHost: a\r\nForwarded: for=192.0.2.1;proto=https\r\n\r\n";
    let of_proxy = [
        exchange("a client of TLS", sent, hello),
        exchange("the field of other proxies", secure, moved),
    ];
    converse(Http::new(call).trust_forwarded([proxy]), &of_proxy);
}
