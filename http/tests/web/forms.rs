//! Forms in bodies and queries.

use std::io::{Read, Write};

use socketserver_http::{Form, Http, HttpError, Request, RequestExt, Router};

use crate::{DEADLINE, Served, outcome};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn shown(form: &Form) -> String {
    let fields = form.iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    fields.join(";")
}

fn served() -> Served {
    let router = Router::new()
        .get("/", |request: &mut Request<'_>| {
            request.query().map(|query| shown(&query))
        })
        .post("/", |request: &mut Request<'_>| {
            request.form().map(|form| shown(&form))
        })
        .post("/typed", |request: &mut Request<'_>| {
            let form = request.form()?;
            let all: Vec<_> = form.all("b").collect();
            let sum = form.parse::<u8>("a")?;
            Ok::<_, HttpError>(format!("{sum} {} {:?}", all.join(","), form.get("c")))
        })
        .post("/large", |request: &mut Request<'_>| {
            request.body_mut().set_limit(u64::MAX);
            request.form().map(|form| form.iter().count().to_string())
        })
        .post("/small", |request: &mut Request<'_>| {
            request.body_mut().set_limit(3);
            request.form().map(|form| shown(&form))
        });
    Served::new(router)
}

#[test]
fn a_form_is_read_from_the_body() {
    let served = served();
    for (fields, body, status, content) in [
        (FORM, &b"a=1&b=+%26"[..], 200, "a=1;b= &"),
        (FORM, b"", 200, ""),
        (
            "content-type: Application/X-WWW-Form-Urlencoded ; charset=UTF-8\r\n",
            b"a=1",
            200,
            "a=1",
        ),
        (FORM, b"a=%ff", 400, "a name or a value is not UTF-8\n"),
        (FORM, b"a=\xff", 400, "a name or a value is not UTF-8\n"),
    ] {
        let found = served.outcome("POST", "/", fields, body);
        assert_eq!(
            found,
            (status, content.to_owned()),
            "{}",
            body.escape_ascii()
        );
    }
    let twice = format!("{FORM}{FORM}");
    assert_eq!(served.outcome("POST", "/", &twice, b"a=1").0, 400);
    let many = b"a&".repeat(1001);
    assert_eq!(served.outcome("POST", "/", FORM, &many).0, 400);
}

#[test]
fn another_type_of_content_is_415() {
    let served = served();
    for fields in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/json\r\n",
        "Content-Type: multipart/form-data; boundary=a\r\n",
        "Content-Type: application/x-www-form-urlencoded2\r\n",
        "Content-Type: ;\r\n",
        "Content-Type: \u{e9}\r\n",
    ] {
        let (status, content) = served.outcome("POST", "/", fields, b"a=1");
        assert_eq!(status, 415, "{fields}");
        assert!(
            content.contains("application/x-www-form-urlencoded"),
            "{content}"
        );
    }
}

#[test]
fn a_query_is_a_form() {
    let served = served();
    for (target, status, content) in [
        ("/", 200, ""),
        ("/?", 200, ""),
        ("/?a=1&b=%C3%A9+x&a", 200, "a=1;b=\u{e9} x;a="),
        ("/?a?b=c", 200, "a?b=c"),
        ("/?%ff", 400, "a name or a value is not UTF-8\n"),
    ] {
        let found = served.outcome("GET", target, "", b"");
        assert_eq!(found, (status, content.to_owned()), "{target}");
    }
}

#[test]
fn fields_are_parsed() {
    let served = served();
    for (body, status, content) in [
        (&b"a=255&b=x&c=&b=y"[..], 200, "255 x,y Some(\"\")"),
        (b"a=1", 200, "1  None"),
        (b"b=1", 400, "there is no field `a`\n"),
        (b"a=256", 400, "the field `a` is malformed\n"),
        (b"a=", 400, "the field `a` is malformed\n"),
    ] {
        let found = served.outcome("POST", "/typed", FORM, body);
        assert_eq!(
            found,
            (status, content.to_owned()),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn a_large_form_is_413() {
    let served = served();
    assert_eq!(served.outcome("POST", "/small", FORM, b"a=1").0, 200);
    assert_eq!(served.outcome("POST", "/small", FORM, b"a=12").0, 413);
    // Whatever the limit of the body, a form has one of its own.
    let mut form = b"a=".to_vec();
    form.resize(2 * 1024 * 1024, b'b');
    assert_eq!(
        served.outcome("POST", "/large", FORM, &form),
        (200, "1".to_owned())
    );
    form.push(b'b');
    assert_eq!(served.outcome("POST", "/large", FORM, &form).0, 413);
    // Of no known length.
    let mut chunked = format!("POST /small HTTP/1.1\r\nHost: a\r\n{FORM}").into_bytes();
    chunked.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n4\r\na=12\r\n0\r\n\r\n");
    assert_eq!(outcome(&served.exchange(&chunked)).0, 413);
}

#[test]
fn a_form_that_ends_too_early_is_400_and_a_late_one_408() {
    let cut = format!("POST / HTTP/1.1\r\nHost: a\r\n{FORM}Content-Length: 10\r\n\r\na=1");
    assert_eq!(outcome(&served().exchange(cut.as_bytes())).0, 400);

    let read = |request: &mut Request<'_>| request.form().map(|form| shown(&form));
    let served = Served::with(Http::new(read).body_timeout(std::time::Duration::from_millis(50)));
    let mut client = served.0.connect();
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.write_all(cut.as_bytes()).expect("send");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("receive");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}
