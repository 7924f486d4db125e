//! Routes: which handler answers, and what is answered where there is none.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;

use http::{Method, StatusCode};
use socketserver::HandlerError;
use socketserver_http::{Content, Handler, Http, HttpError, Request, RequestExt, Router};
use tokio::net::TcpStream;

use crate::{DEADLINE, Served, field, outcome};

fn text(text: &'static str) -> impl Handler<Session = ()> {
    move |_: &mut Request<'_>| text
}

/// Answers with the path, and with a parameter.
fn shown(name: &'static str) -> impl Handler<Session = ()> {
    move |request: &mut Request<'_>| -> Result<String, HttpError> {
        let value: String = request.param(name)?;
        Ok(format!("{} {name}={value}", request.uri()))
    }
}

fn number(request: &mut Request<'_>) -> Result<String, HttpError> {
    Ok(request.param::<u8>("number")?.to_string())
}

fn served() -> Served {
    let nested = Router::new()
        .get("/", shown("user"))
        .post("/new", text("new"))
        .get("/{order}", shown("order"))
        .get("/{order}/{user}", shown("user"));
    let router = Router::new()
        .get("/", text("root"))
        .get("/users/me", text("me"))
        .delete("/users/{id}", text("deleted"))
        .get("/users/{id}", shown("id"))
        .put("/users/{id}", |request: &mut Request<'_>| {
            io::read_to_string(request.body_mut())
        })
        .get("/number/{number}", number)
        .get("/missing/{id}", shown("other"))
        .get("/files/{*path}", shown("path"))
        .get("/braces/{{a}}", text("braces"))
        .get("/pictures/p-{id}.png", shown("id"))
        .get("/own", text("get"))
        .route(Method::HEAD, "/own", |_: &mut Request<'_>| {
            (StatusCode::ACCEPTED, "head")
        })
        .route(Method::OPTIONS, "/own", text("options"))
        .route(
            Method::from_bytes(b"PURGE").expect("a token"),
            "/own",
            text("purge"),
        )
        .any("/any", |request: &mut Request<'_>| {
            request.method().to_string()
        })
        .get("/stream", |_: &mut Request<'_>| Content::chunks(["a", "b"]))
        .nest("/of/{user}/orders", nested)
        .nest("/echo/", |request: &mut Request<'_>| {
            request.uri().to_string()
        })
        .get("/echo/own", text("own"));
    Served::new(router)
}

#[test]
fn the_path_and_the_method_find_the_handler() {
    let served = served();
    for (method, target, status, content) in [
        ("GET", "/", 200, "root"),
        ("GET", "/?a=/users", 200, "root"),
        ("GET", "http://b/users/me", 200, "me"),
        ("GET", "/users/you", 200, "/users/you id=you"),
        ("DELETE", "/users/7", 200, "deleted"),
        ("GET", "/number/255", 200, "255"),
        ("GET", "/files/a/b//c/", 200, "/files/a/b//c/ path=a/b//c/"),
        ("GET", "/braces/{a}", 200, "braces"),
        ("GET", "/pictures/p-7.png", 200, "/pictures/p-7.png id=7"),
        ("PURGE", "/own", 200, "purge"),
        ("OPTIONS", "/own", 200, "options"),
        ("PROPFIND", "/any", 200, "PROPFIND"),
        ("OPTIONS", "/any", 200, "OPTIONS"),
        // Percent-decoded after the match, so that a slash can be in a segment.
        ("GET", "/users/a%2Fb%20c", 200, "/users/a%2Fb%20c id=a/b c"),
        ("GET", "/users/%C3%A9", 200, "/users/%C3%A9 id=\u{e9}"),
        ("GET", "/users/a+b", 200, "/users/a+b id=a+b"),
        ("GET", "/users/100%", 200, "/users/100% id=100%"),
        // What needs no escape is the same without one (RFC 3986, section 6.2.2.2), and nothing is decoded twice.
        ("GET", "/%75sers/%6d%65?a=%61", 200, "me"),
        ("GET", "/users/%7E%2D%61", 200, "/users/~-a id=~-a"),
        ("GET", "/users/%2561", 200, "/users/%2561 id=%61"),
        ("GET", "/%6Fwn", 200, "get"),
        // Behind a malformed escape nothing is decoded: that could make another one.
        ("GET", "/%75sers/%%361", 200, "/users/%%361 id=%61"),
        // A parameter is no path.
        (
            "GET",
            "/users/..%2f..%2fetc",
            200,
            "/users/..%2f..%2fetc id=../../etc",
        ),
    ] {
        let found = served.outcome(method, target, "", b"");
        assert_eq!(found, (status, content.to_owned()), "{method} {target}");
    }
    assert_eq!(
        served.outcome("PUT", "/users/7", "", b"abc"),
        (200, "abc".to_owned())
    );
}

#[test]
fn an_unknown_path_is_404_and_paths_are_compared_strictly() {
    let served = served();
    for target in [
        "/none",
        "/users",
        "/users/",
        "/users/me/",
        "/users/a/b",
        "//users/me",
        "/Users/me",
        "/users/%6De/x",
        "/files/",
        "/braces/a",
        "/pictures/p-.png",
        "/pictures/p-7.jpg",
        "/own%2F",
        "/%2Fown",
        "/own/",
        "/number/256",
        "/number/x",
        "/number/-1",
        "/of//orders/1",
    ] {
        assert_eq!(served.outcome("GET", target, "", b"").0, 404, "{target}");
        // A handler of none of these paths has OPTIONS.
        if !target.starts_with("/number") {
            assert_eq!(
                served.outcome("OPTIONS", target, "", b"").0,
                404,
                "{target}"
            );
        }
    }
    assert_eq!(served.outcome("CONNECT", "b:443", "", b"").0, 404);
}

#[test]
fn parameters_have_clear_errors() {
    let served = served();
    for (target, status, content) in [
        ("/users/%ff", 400, "the parameter `id` is not UTF-8\n"),
        ("/users/%C3%28", 400, "the parameter `id` is not UTF-8\n"),
        ("/number/x", 404, "the parameter `number` is malformed\n"),
        ("/missing/1", 500, "Internal Server Error\n"),
    ] {
        let found = served.outcome("GET", target, "", b"");
        assert_eq!(found, (status, content.to_owned()), "{target}");
    }
}

#[test]
fn another_method_is_405_with_those_there_are() {
    let served = served();
    for (method, target, allow) in [
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("POST", "/users/7", "DELETE, GET, HEAD, PUT, OPTIONS"),
        // The path decides first.
        ("DELETE", "/users/me", "GET, HEAD, OPTIONS"),
        ("POST", "/own", "GET, HEAD, OPTIONS, PURGE"),
        ("UNKNOWN", "/own", "GET, HEAD, OPTIONS, PURGE"),
        ("get", "/", "GET, HEAD, OPTIONS"),
        ("HEAD", "/of/anna/orders/new", "POST, OPTIONS"),
    ] {
        let answer = served.ask(method, target, "", b"");
        assert_eq!(outcome(&answer).0, 405, "{method} {target}");
        assert_eq!(field(&answer, "allow"), Some(allow), "{method} {target}");
    }
}

#[test]
fn options_says_which_methods_there_are() {
    let served = served();
    for (target, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/users/7", "DELETE, GET, HEAD, PUT, OPTIONS"),
        ("/of/anna/orders/new", "POST, OPTIONS"),
    ] {
        let expected = format!("HTTP/1.1 204 No Content\nallow: {allow}\n\n");
        assert_eq!(served.ask("OPTIONS", target, "", b""), expected, "{target}");
    }
    let plain = || Router::new().get("/a", text("a")).put("/b", text("b"));
    for (router, allow) in [
        (plain(), Some("GET, HEAD, PUT, OPTIONS")),
        // Which methods those have is not known.
        (plain().any("/c", text("c")), None),
        (plain().nest("/c", text("c")), None),
        (plain().fallback(text("c")), None),
    ] {
        let answer = Served::new(router).ask("OPTIONS", "*", "", b"");
        assert_eq!((outcome(&answer).0, field(&answer, "allow")), (204, allow));
    }
}

#[test]
fn head_has_the_fields_of_get_and_no_content() {
    let served = served();
    let get = served.ask("GET", "/users/me", "", b"");
    let head = served.ask("HEAD", "/users/me", "", b"");
    assert_eq!(get, format!("{head}me"));
    assert_eq!(field(&head, "content-length"), Some("2"));
    let stream = served.ask("HEAD", "/stream", "", b"");
    assert_eq!(outcome(&stream), (200, String::new()));
    // One of its own comes first.
    let own = served.ask("HEAD", "/own", "", b"");
    assert_eq!(outcome(&own), (202, String::new()));
    // The connection goes on behind it.
    let two = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /users/me HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(served.exchange(two).ends_with("\n\nme"));
}

#[test]
fn a_nested_handler_sees_the_path_below_its_prefix() {
    let served = served();
    for (target, content) in [
        ("/of/anna/orders/", "/ user=anna"),
        ("/of/a%20b/orders/?q", "/?q user=a b"),
        ("/of/anna/orders/3?q=/", "/3?q=/ order=3"),
        // The inner one of two parameters.
        ("/of/anna/orders/3/bob", "/3/bob user=bob"),
        ("/echo/", "/"),
        ("/echo//b//?c", "//b//?c"),
        ("/echo/own", "own"),
        ("/echo/owner", "/owner"),
        ("/%65cho/%2e%2e/%2F", "/../%2F"),
    ] {
        let found = served.outcome("GET", target, "", b"");
        assert_eq!(found, (200, content.to_owned()), "{target}");
    }
    let (_, absolute) = served.outcome("GET", "http://b:80/echo/c", "", b"");
    assert_eq!(absolute, "http://b:80/c");
    let deep = Router::new().nest("/b", Router::new().nest("/c", shown("x")));
    let deep = Served::new(Router::new().nest("/{x}", deep));
    let found = deep.outcome("GET", "/a/b/c/d", "", b"");
    assert_eq!(found, (200, "/d x=a".to_owned()));
}

#[test]
fn a_prefix_without_its_slash_is_redirected_on_the_same_host() {
    let served = served();
    for (target, location) in [
        ("/echo", "./echo/"),
        ("/echo?a=b", "./echo/?a=b"),
        ("/of/anna/orders", "./orders/"),
    ] {
        let answer = served.ask("POST", target, "", b"abc");
        assert_eq!(outcome(&answer).0, 308, "{target}");
        assert_eq!(field(&answer, "location"), Some(location), "{target}");
    }
    let tenants = Served::new(Router::new().nest("/{tenant}", text("tenant")));
    for (target, location) in [("/a:b", "./a:b/"), ("/%5Ca", "./%5Ca/")] {
        let answer = tenants.ask("GET", target, "", b"");
        assert_eq!(field(&answer, "location"), Some(location), "{target}");
    }
    assert_eq!(tenants.outcome("GET", "//evil.example", "", b"").0, 404);
    // `CONNECT` has no path.
    let all = Served::new(Router::new().nest("/", text("all")));
    assert_eq!(all.outcome("CONNECT", "b:443", "", b"").0, 404);
    assert_eq!(all.outcome("POST", "/", "", b"").1, "all");
    assert_eq!(all.outcome("GET", "/a/b", "", b"").1, "all");
    // A route of its own comes first.
    let own = Router::new()
        .get("/a", text("own"))
        .nest("/a", text("below"));
    let own = Served::new(own);
    assert_eq!(own.outcome("GET", "/a", "", b"").1, "own");
    assert_eq!(own.outcome("GET", "/a/", "", b"").1, "below");
    // That may be one of everything.
    let rest = Router::new()
        .get("/{*rest}", text("rest"))
        .nest("/a", text("below"));
    let rest = Served::new(rest);
    for (target, content) in [
        ("/a", "rest"),
        ("/a/b", "below"),
        ("/%61/b", "below"),
        ("/a%2Fb", "rest"),
        ("//a/b", "rest"),
        ("/./a/b", "rest"),
    ] {
        let found = rest.outcome("GET", target, "", b"");
        assert_eq!(found, (200, content.to_owned()), "{target}");
    }
}

#[test]
fn a_fallback_answers_the_rest() {
    let fallback =
        |request: &mut Request<'_>| (StatusCode::IM_A_TEAPOT, request.uri().path().to_owned());
    let inner = Router::new().get("/b", text("b"));
    let router = Router::new().get("/a", text("a")).nest("/in", inner);
    let served = Served::new(router.fallback(fallback));
    assert_eq!(
        served.outcome("GET", "/none", "", b""),
        (418, "/none".to_owned())
    );
    assert_eq!(served.outcome("POST", "/a", "", b"").0, 405);
    assert_eq!(served.outcome("GET", "/in", "", b"").0, 308);
    // A nested router answers for all that is below its prefix.
    assert_eq!(served.outcome("GET", "/in/none", "", b"").0, 404);
    let below = Router::new().fallback(fallback);
    let below = Served::new(Router::new().nest("/in", below));
    assert_eq!(
        below.outcome("GET", "/in/none", "", b""),
        (418, "/none".to_owned())
    );
}

#[test]
fn observers_see_the_target_that_was_sent() {
    let below = Router::new()
        .get("/fine", text("fine"))
        .get("/panic", |_: &mut Request<'_>| -> &'static str {
            panic!("as asked")
        });
    let (sender, seen) = channel();
    let http = Http::handler(Router::new().nest("/in", below)).on_access(move |access| {
        let request = access.request().expect("a request");
        let _ = sender.send((request.uri.to_string(), access.status().as_u16()));
    });
    let served = Served::with(http);
    for (target, status) in [
        ("/in/fine?a", 200),
        ("/%69n/fin%65?a", 200),
        ("/in/panic", 500),
        ("/in/none", 404),
    ] {
        served.ask("GET", target, "", b"");
        let seen = seen.recv_timeout(DEADLINE).expect("an access");
        assert_eq!(seen, (target.to_owned(), status));
    }
}

#[test]
fn handlers_are_wrapped_by_functions() {
    fn marked(inner: impl Handler<Session = ()>) -> impl Handler<Session = ()> {
        move |request: &mut Request<'_>| {
            let mut response = inner.call(&mut (), request)?;
            response.headers_mut().insert("x-marked", "yes".parse()?);
            Ok::<_, HandlerError>(response)
        }
    }
    let router = Router::new()
        .get("/marked", marked(text("a")))
        .get("/plain", text("b"));
    let served = Served::new(router);
    assert_eq!(
        field(&served.ask("GET", "/marked", "", b""), "x-marked"),
        Some("yes")
    );
    assert_eq!(
        field(&served.ask("GET", "/plain", "", b""), "x-marked"),
        None
    );
    let all = Served::new(marked(Router::new()));
    let none = all.ask("GET", "/none", "", b"");
    assert_eq!(
        (outcome(&none).0, field(&none, "x-marked")),
        (404, Some("yes"))
    );
}

#[test]
fn an_error_is_answered_as_it_says() {
    fn teapot() -> HttpError {
        let limit = http::HeaderValue::from_static("1");
        HttpError::new(StatusCode::IM_A_TEAPOT, "short and stout")
            .header(http::header::RETRY_AFTER, limit)
            .caused_by("a secret")
    }
    let router = Router::new()
        .get("/own", |_: &mut Request<'_>| Err::<(), _>(teapot()))
        .get("/io", |_: &mut Request<'_>| {
            Err::<(), _>(io::Error::from(teapot()))
        })
        .get("/response", |_: &mut Request<'_>| teapot())
        .get("/json", |_: &mut Request<'_>| {
            let kind = http::HeaderValue::from_static("application/problem+json");
            HttpError::new(StatusCode::IM_A_TEAPOT, "{}").header(http::header::CONTENT_TYPE, kind)
        })
        .get("/other", |_: &mut Request<'_>| {
            Err::<(), HandlerError>("a secret".into())
        });
    let served = Served::new(router);
    for target in ["/own", "/io", "/response"] {
        let answer = served.ask("GET", target, "", b"");
        let expected = "HTTP/1.1 418 I'm a teapot\nretry-after: 1\n\
            content-type: text/plain; charset=utf-8\ncontent-length: 16\n\nshort and stout\n";
        assert_eq!(answer, expected, "{target}");
    }
    let json = served.ask("GET", "/json", "", b"");
    assert_eq!(
        field(&json, "content-type"),
        Some("application/problem+json")
    );
    let (status, content) = served.outcome("GET", "/other", "", b"");
    assert_eq!((status, &*content), (500, "Internal Server Error\n"));
}

#[test]
fn a_mistake_in_a_route_panics_when_it_is_added() {
    type Add = fn(Router) -> Router;
    let mistakes: [(&str, Add); 18] = [
        ("has GET already", |router| {
            router.get("/a", text("")).get("/a", text(""))
        }),
        ("cannot be added", |router| {
            router.get("/{a}", text("")).post("/{b}", text(""))
        }),
        ("cannot be added", |router| {
            router.get("/a", text("")).any("/a", text(""))
        }),
        ("cannot be added", |router| {
            router.any("/a", text("")).get("/a", text(""))
        }),
        ("cannot be added", |router| {
            router.nest("/a", text("")).nest("/a/", text(""))
        }),
        ("cannot be added", |router| {
            router.get("/a/{*b}", text("")).nest("/a", text(""))
        }),
        // The one that a user has written is named.
        ("the prefix \"/a\" cannot be added", |router| {
            router.get("/a/{*b}", text("")).nest("/a", text(""))
        }),
        ("registered route: /a/", |router| {
            router.nest("/a", text("")).get("/a/{*b}", text(""))
        }),
        ("cannot be added", |router| {
            router.get("/a/", text("")).nest("/a", text(""))
        }),
        ("cannot be added", |router| {
            router.any("/a", text("")).any("/a", text(""))
        }),
        ("cannot be added", |router| router.get("/{a}-{b}", text(""))),
        ("cannot be added", |router| router.get("/{", text(""))),
        ("cannot be added", |router| router.get("/{*a}/b", text(""))),
        ("has to begin with a slash", |router| {
            router.get("", text(""))
        }),
        ("has to begin with a slash", |router| {
            router.get("a", text(""))
        }),
        ("has to begin with a slash", |router| {
            router.get("/a b", text(""))
        }),
        ("has to begin with a slash", |router| {
            router.get("/a?b", text(""))
        }),
        ("has to begin with a slash", |router| {
            router.get("/\u{e9}", text(""))
        }),
    ];
    for (at, (expected, add)) in mistakes.into_iter().enumerate() {
        let added = catch_unwind(AssertUnwindSafe(|| add(Router::new())));
        let panic = added.expect_err("a panic");
        let text = panic.downcast_ref::<String>().expect("a text");
        assert!(text.contains(expected), "{at}: {text}");
        assert!(!text.contains('!'), "{at}: {text}");
    }
}

#[test]
fn some_parameters_exclude_each_other() {
    for (one, other, is_added) in [
        ("/{a}", "/{b}/c", true),
        ("/{a}/x", "/{b}/y", true),
        ("/a{x}", "/{*b}", true),
        ("/{a}.txt", "/{b}.png", true),
        ("/{a}.txt", "/{b}", true),
        ("/a-{b}.txt", "/{c}", true),
        ("/a-{b}.txt", "/{*c}", true),
        ("/a", "/{*b}", true),
        ("/{a}", "/{b}", false),
        ("/{a}/b", "/{c}/b", false),
        ("/{*a}", "/{*b}", false),
        ("/{a}", "/{*b}", false),
        ("/{a}/x", "/{*b}", false),
        ("/{a}.txt", "/{*b}", false),
        ("/a-{b}.txt", "/{c}.txt", false),
        ("/a-{b}.txt", "/a-{c}", false),
        ("/a-{b}.txt", "/c-{d}", false),
        ("/a-{b}.txt", "/c-{d}.txt", false),
        ("/a-{b}.txt", "/a-{c}.png", false),
        ("/a-{b}", "/{c}.txt", false),
        ("/a-{b}", "/c-{d}", true),
        ("/x/a-{b}", "/y/{c}.txt", true),
        ("/a-{b}/x", "/{c}.txt/y", false),
    ] {
        for (one, other) in [(one, other), (other, one)] {
            let add = || Router::new().get(one, text("")).get(other, text(""));
            assert_eq!(catch_unwind(add).is_ok(), is_added, "{one} {other}");
        }
    }
}

#[test]
fn routers_serve_http_2() {
    let served = served();
    let answer = h2(&served, "/users/a%20b");
    assert!(answer.ends_with("/users/a%20b id=a b"), "{answer}");
    let answer = h2(&served, "/of/anna/orders/3?q");
    assert!(answer.ends_with("/3?q order=3"), "{answer}");
}

/// The content of the answer over HTTP/2 to `GET`.
fn h2(served: &Served, path: &str) -> String {
    let addr = served.0.addr().ip().zip(served.0.addr().port());
    let ask = async {
        let stream = TcpStream::connect(addr.expect("an address"))
            .await
            .expect("connect");
        let (mut client, connection) = h2::client::handshake(stream).await.expect("a handshake");
        let moving = tokio::spawn(connection);
        let request = http::Request::get(format!("http://a{path}"));
        let request = request.body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("send");
        let mut body = response.await.expect("a response").into_body();
        let mut content = Vec::new();
        while let Some(data) = body.data().await {
            content.extend_from_slice(&data.expect("data"));
        }
        moving.abort();
        String::from_utf8(content).expect("text")
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = async { tokio::time::timeout(DEADLINE, ask).await };
    runtime
        .expect("a runtime")
        .block_on(asked)
        .expect("in time")
}
