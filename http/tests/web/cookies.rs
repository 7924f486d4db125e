//! Cookies of requests and of responses.

use http::StatusCode;
use socketserver_http::cookie::{Cookie, CookieJar, SameSite};
use socketserver_http::{Request, RequestExt, Router};

use crate::{Served, outcome};

fn shown(request: &mut Request<'_>) -> String {
    let jar = request.cookies();
    let mut cookies: Vec<_> = jar
        .iter()
        .map(|cookie| format!("{}={}", cookie.name(), cookie.value()))
        .collect();
    cookies.sort();
    cookies.join("|")
}

fn served() -> Served {
    let router = Router::new()
        .get("/", shown)
        .get("/set", |request: &mut Request<'_>| {
            let mut jar = request.cookies();
            let id = Cookie::build(("id", "a b; Path=/x\r\n\u{e9}")).path("/");
            jar.add(id.http_only(true).secure(true).same_site(SameSite::Lax));
            jar.add(("plain|%5F", "1"));
            (StatusCode::CREATED, (jar, "set"))
        })
        .get("/remove", |request: &mut Request<'_>| {
            let mut jar = request.cookies();
            jar.remove(Cookie::build("id").path("/"));
            (jar, "removed")
        })
        .get("/same", |request: &mut Request<'_>| (request.cookies(), ()))
        .get("/invalid", |_: &mut Request<'_>| {
            let mut jar = CookieJar::new();
            jar.add(Cookie::build(("a", "b")).path("/\n"));
            (jar, "invalid")
        })
        .get("/invalid-name", |_: &mut Request<'_>| {
            let mut jar = CookieJar::new();
            jar.add(("a b", "c"));
            (jar, "invalid")
        });
    Served::new(router)
}

/// The fields `Set-Cookie` of an answer, sorted.
fn set(answer: &str) -> Vec<&str> {
    let fields = answer.lines();
    let mut fields: Vec<_> = fields
        .filter_map(|line| line.strip_prefix("set-cookie: "))
        .collect();
    fields.sort_unstable();
    fields
}

#[test]
fn cookies_are_read_and_malformed_ones_are_left_out() {
    let served = served();
    for (fields, expected) in [
        ("", ""),
        ("Cookie: a=1\r\n", "a=1"),
        ("Cookie: a=1; b=2\r\n", "a=1|b=2"),
        ("Cookie: a=1;b=2;\r\n", "a=1|b=2"),
        ("Cookie: a=1\r\nCookie: b=2\r\n", "a=1|b=2"),
        // The first one is that of the longer path.
        ("Cookie: a=1; a=2\r\n", "a=1"),
        ("Cookie: a=%20%3B%C3%A9\r\n", "a= ;\u{e9}"),
        ("Cookie: a=b=c\r\n", "a=b=c"),
        ("Cookie: a=\r\n", "a="),
        ("Cookie: a=\"1\"\r\n", "a=\"1\""),
        ("Cookie: a; =1; ; b=2\r\n", "b=2"),
        ("Cookie: a=%ff; b=2\r\n", "b=2"),
        ("Cookie: \r\n", ""),
        ("Cookie: ;;;=;\r\n", ""),
        ("Cookie: a=\u{e9}; b=2\r\n", "a=\u{e9}|b=2"),
        // Names are compared as they are: the browser's promise about `__Host-` is for no other spelling.
        (
            "Cookie: %5F%5FHost-s=evil; __Host-s=good\r\n",
            "%5F%5FHost-s=evil|__Host-s=good",
        ),
    ] {
        let found = served.outcome("GET", "/", fields, b"");
        assert_eq!(found, (200, expected.to_owned()), "{fields}");
    }
    // Only the piece that is not UTF-8 is left out.
    let sent = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; b=\xff; c=3\r\n\r\n";
    assert_eq!(outcome(&served.exchange(sent)), (200, "a=1|c=3".to_owned()));
    let many = (0..2000)
        .map(|count| format!("{count}=1; "))
        .collect::<String>();
    let found = served.outcome("GET", "/", &format!("Cookie: {many}\r\n"), b"");
    assert_eq!(found.1.split('|').count(), 2000);
}

#[test]
fn added_cookies_are_set() {
    let served = served();
    let answer = served.ask("GET", "/set", "Cookie: other=1\r\n", b"");
    assert_eq!(outcome(&answer), (201, "set".to_owned()));
    let id = "id=a%20b%3B%20Path%3D%2Fx%0D%0A%C3%A9; HttpOnly; SameSite=Lax; Secure; Path=/";
    assert_eq!(set(&answer), [id, "plain|%5F=1"]);
    // What comes back is what was set.
    let (value, _) = id.split_once(';').expect("attributes");
    let back = served.outcome("GET", "/", &format!("Cookie: {value}\r\n"), b"");
    assert_eq!(back.1, "id=a b; Path=/x\r\n\u{e9}".replace("\r\n", "\n"));
}

#[test]
fn removed_cookies_are_removed() {
    let served = served();
    let answer = served.ask("GET", "/remove", "Cookie: id=1; other=2\r\n", b"");
    let [removal] = set(&answer)[..] else {
        panic!("{answer}");
    };
    assert!(
        removal.starts_with("id=; Path=/; Max-Age=0; Expires="),
        "{removal}"
    );
    // The client has none.
    assert!(set(&served.ask("GET", "/remove", "", b"")).is_empty());
    let same = served.ask("GET", "/same", "Cookie: id=1\r\n", b"");
    assert_eq!((outcome(&same).0, set(&same)), (204, vec![]));
}

#[test]
fn a_name_or_an_attribute_that_no_field_can_have_is_500() {
    let served = served();
    for target in ["/invalid", "/invalid-name"] {
        let (status, content) = served.outcome("GET", target, "", b"");
        assert_eq!(
            (status, &*content),
            (500, "Internal Server Error\n"),
            "{target}"
        );
    }
}
