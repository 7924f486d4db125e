//! Authentication: who reaches a handler, and how the others are answered.

use std::sync::mpsc::channel;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use socketserver::HandlerError;
use socketserver_http::{Content, Handler, Http, IntoResponse, Request, RequestExt, Router, auth};

use crate::{DEADLINE, Served, field, outcome};

fn user(request: &mut Request<'_>) -> String {
    request.user().unwrap_or("nobody").to_owned()
}

fn verify(user: &str, password: &str) -> bool {
    auth::constant_time_eq(user, "anna\u{e9}") & auth::constant_time_eq(password, "a:b \u{20ac}")
}

fn check(token: &str) -> Option<String> {
    auth::constant_time_eq(token, "abc==").then(|| "robot".to_owned())
}

fn basic(text: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(text))
}

#[test]
fn a_user_with_the_password_reaches_the_handler() {
    let served = Served::new(auth::basic("a \"realm\"", verify, user));
    let right = basic("anna\u{e9}:a:b \u{20ac}");
    assert_eq!(
        served.outcome("GET", "/", &right, b""),
        (200, "anna\u{e9}".to_owned())
    );
    let refused = "HTTP/1.1 401 Unauthorized\nwww-authenticate: Basic realm=\"a \\\"realm\\\"\", \
        charset=\"UTF-8\"\ncontent-type: text/plain; charset=utf-8\ncontent-length: 33\n\n\
        a user and a password are needed\n";
    for fields in [
        String::new(),
        basic("anna\u{e9}:a:b"),
        basic("anna:a:b \u{20ac}"),
        basic("anna\u{e9}:"),
        basic(":a:b \u{20ac}"),
        basic(""),
        basic("anna\u{e9}"),
        right.clone() + &right,
        right.replace("Basic", "Bearer"),
        right.replace("Authorization", "Proxy-Authorization"),
        "Authorization: Basic \r\n".to_owned(),
        "Authorization: Basic =\r\n".to_owned(),
        "Authorization: Basic \u{e9}\r\n".to_owned(),
        format!("Authorization: Basic {}\r\n", "A".repeat(10_000)),
    ] {
        assert_eq!(served.ask("GET", "/", &fields, b""), refused, "{fields}");
    }
}

#[test]
fn a_refused_body_is_not_asked_for() {
    let served = Served::new(auth::basic("a", verify, user));
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    assert!(served.exchange(head).starts_with("HTTP/1.1 401 "));
}

#[test]
fn a_token_reaches_the_handler() {
    // The realm is copied.
    let realm = "api".to_owned();
    let handler = auth::bearer(&realm, check, user);
    drop(realm);
    let served = Served::new(handler);
    let with = |value: &str| format!("Authorization: {value}\r\n");
    assert_eq!(
        served.outcome("GET", "/", &with("Bearer abc=="), b"").1,
        "robot"
    );
    assert_eq!(
        served.outcome("GET", "/", &with("bearer  abc=="), b"").1,
        "robot"
    );
    for (fields, status, error) in [
        (String::new(), 401, ""),
        (basic("a:b"), 401, ""),
        (with("Bearer abc"), 401, ", error=\"invalid_token\""),
        (with("Bearer ABC=="), 401, ", error=\"invalid_token\""),
        (with("Bearer a b"), 400, ", error=\"invalid_request\""),
        (with("Bearer"), 400, ", error=\"invalid_request\""),
        (
            with("Bearer a").repeat(2),
            400,
            ", error=\"invalid_request\"",
        ),
    ] {
        let answer = served.ask("GET", "/", &fields, b"");
        assert_eq!(outcome(&answer).0, status, "{fields}");
        let challenge = format!("Bearer realm=\"api\"{error}");
        assert_eq!(
            field(&answer, "www-authenticate"),
            Some(&*challenge),
            "{fields}"
        );
    }
}

#[test]
fn one_route_is_protected() {
    let router = Router::new()
        .get("/open", user)
        .get("/private", auth::basic("a", verify, user))
        .nest(
            "/api",
            auth::bearer("api", check, Router::new().get("/{x}", user)),
        );
    let served = Served::new(router);
    assert_eq!(
        served.outcome("GET", "/open", "", b""),
        (200, "nobody".to_owned())
    );
    assert_eq!(served.outcome("GET", "/private", "", b"").0, 401);
    assert_eq!(served.outcome("HEAD", "/private", "", b"").0, 401);
    // No path below the prefix says whether it is there.
    assert_eq!(served.outcome("GET", "/api/none/at/all", "", b"").0, 401);
    let token = "Authorization: Bearer abc==\r\n";
    assert_eq!(served.outcome("GET", "/api/1", token, b"").1, "robot");
    assert_eq!(served.outcome("GET", "/api/none/at/all", token, b"").0, 404);
}

#[test]
fn the_access_log_has_the_user() {
    let (sender, lines) = channel();
    let http = Http::handler(auth::basic("a", |_, password| password == "b", user));
    let served = Served::with(http.on_access(move |access| {
        let _ = sender.send(access.to_string());
    }));
    for (credentials, named) in [
        ("anna:b", "anna"),
        ("a \"b:b", "a\\x20\\\"b"),
        ("anna:c", "-"),
    ] {
        served.ask("GET", "/", &basic(credentials), b"");
        let line = lines.recv_timeout(DEADLINE).expect("a line");
        assert!(
            line.starts_with(&format!("127.0.0.1 - {named} [")),
            "{line}"
        );
    }
}

/// Counts the requests of its connection.
struct Counting;

impl Handler for Counting {
    type Session = u32;

    fn call(
        &self,
        count: &mut u32,
        _: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        *count += 1;
        count.to_string().into_response()
    }
}

#[test]
fn a_protected_handler_keeps_its_session() {
    let served = Served::with(Http::handler(auth::basic("a", verify, Counting)));
    let one = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        basic("anna\u{e9}:a:b \u{20ac}")
    );
    assert!(served.exchange(one.repeat(3).as_bytes()).ends_with("\n\n3"));
}

#[cfg(feature = "htpasswd")]
#[test]
fn a_file_of_passwords_protects_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("users");
    let users = "# made by htpasswd -B\n\
        anna:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n\
        bob:{PLAIN}a:b\n";
    std::fs::write(&path, users).expect("a file");
    let users = auth::Htpasswd::open(&path).expect("a file of passwords");
    let verify = move |user: &str, password: &str| users.verify(user, password);
    let served = Served::new(auth::basic("a", verify, user));
    // The second time the password is remembered.
    for _ in 0..2 {
        for (credentials, status) in [
            ("anna:correct horse", 200),
            ("bob:a:b", 200),
            ("anna:correct hors", 401),
            ("anna:a:b", 401),
            ("bob:correct horse", 401),
            ("eve:correct horse", 401),
        ] {
            let found = served.outcome("GET", "/", &basic(credentials), b"");
            assert_eq!(found.0, status, "{credentials}");
        }
    }
}
