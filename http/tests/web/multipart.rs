//! Forms with files.

use std::io::{self, Read, Write};

use socketserver_http::{Field, HttpError, Multipart, Request, RequestExt, Router};

use crate::{DEADLINE, Served, outcome};

const TYPE: &str = "Content-Type: multipart/form-data; boundary=X\r\n";

/// A field with its content, as the server has read it.
fn shown(field: &mut Field<'_>) -> io::Result<String> {
    let mut content = Vec::new();
    field.read_to_end(&mut content)?;
    let (name, file, kind) = (field.name(), field.file_name(), field.content_type());
    let content = content.escape_ascii();
    Ok(format!(
        "{name} {} {} {content}\n",
        file.unwrap_or("-"),
        kind.unwrap_or("-")
    ))
}

fn each(
    request: &mut Request<'_>,
    mut visit: impl FnMut(&mut Field<'_>) -> io::Result<String>,
) -> io::Result<String> {
    let mut multipart: Multipart<'_> = request.multipart()?;
    let mut text = String::new();
    while let Some(mut field) = multipart.next_field()? {
        text += &visit(&mut field)?;
    }
    Ok(text)
}

fn served() -> Served {
    let router = Router::new()
        .post("/", |request: &mut Request<'_>| each(request, shown))
        .post("/names", |request: &mut Request<'_>| {
            each(request, |field| Ok(format!("{}\n", field.name())))
        })
        // A byte of each content.
        .post("/some", |request: &mut Request<'_>| {
            each(request, |field| {
                let mut byte = [0];
                let count = field.read(&mut byte)?;
                Ok(format!(
                    "{}:{} ",
                    field.name(),
                    byte[..count].escape_ascii()
                ))
            })
        })
        .post("/text", |request: &mut Request<'_>| {
            each(request, |field| Ok(field.text(3)?))
        })
        .post("/all", |request: &mut Request<'_>| {
            each(request, |field| Ok(field.text(u64::MAX)?))
        })
        .post("/count", |request: &mut Request<'_>| {
            request.body_mut().set_limit(u64::MAX);
            each(request, |field| {
                let count = io::copy(field, &mut io::sink())?;
                Ok(format!("{} {count}\n", field.name()))
            })
        })
        .post("/small", |request: &mut Request<'_>| {
            request.body_mut().set_limit(50);
            each(request, shown)
        })
        .post("/twice", |request: &mut Request<'_>| {
            let mut multipart = request.multipart()?;
            while multipart.next_field()?.is_some() {}
            // Behind the end, it stays there.
            let end = multipart.next_field()?.is_none();
            Ok::<_, HttpError>(end.to_string())
        });
    Served::new(router)
}

/// A body: each field has its head and its content.
fn body(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content) in fields {
        body.extend_from_slice(format!("--X\r\n{head}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--X--\r\n");
    body
}

const PLAIN: &str = "Content-Disposition: form-data; name=\"a\"";
const FILE: &str = "content-disposition: form-data; name=\"f\"; filename=\"../a b.txt\"\r\n\
    Content-Type: text/plain; charset=utf-8";

#[test]
fn fields_are_read_in_order() {
    let served = served();
    let all = body(&[
        (PLAIN, b"1"),
        (FILE, b"line\r\n--Y\r--\n\r\n-"),
        (PLAIN, b""),
    ]);
    let expected =
        "a - - 1\nf ../a b.txt text/plain; charset=utf-8 line\\r\\n--Y\\r--\\n\\r\\n-\na - - \n";
    assert_eq!(
        served.outcome("POST", "/", TYPE, &all),
        (200, expected.to_owned())
    );
    // A line that has the boundary at its beginning alone is an end, and this is none.
    let near = body(&[(FILE, b"\r\n--Y\r\n --X"), (PLAIN, b"2")]);
    let (status, content) = served.outcome("POST", "/", TYPE, &near);
    assert_eq!(status, 200, "{content}");
    assert!(
        content.ends_with("\\r\\n--Y\\r\\n --X\na - - 2\n"),
        "{content}"
    );
    // Fields that are left before their end.
    for (target, expected) in [("/names", "a\nf\na\n"), ("/some", "a:1 f:l a: ")] {
        let found = served.outcome("POST", target, TYPE, &all);
        assert_eq!(found, (200, expected.to_owned()));
    }
    assert_eq!(served.outcome("POST", "/twice", TYPE, &all).1, "true");
    // No field at all, something before the first boundary, something behind the last one.
    let around = [b"preamble\r\n", &body(&[(PLAIN, b"1")])[..], b"epilogue"].concat();
    assert_eq!(served.outcome("POST", "/", TYPE, &around).1, "a - - 1\n");
    assert_eq!(served.outcome("POST", "/", TYPE, b"--X--").1, "");
    assert_eq!(
        served
            .outcome("POST", "/all", TYPE, &body(&[(PLAIN, b"12")]))
            .1,
        "12"
    );
}

#[test]
fn the_names_of_a_field_are_read_strictly() {
    let served = served();
    for (parameters, names) in [
        (&b"form-data; name=a"[..], "a -"),
        (b"form-data;name=a;filename=b;", "a b"),
        (b"Form-Data ; FILENAME = \"b\" ; Name = \"a\"", "a b"),
        (b"form-data; name=\"\"; filename=\"\"", " "),
        (b"form-data; name=\"a\"; other=x; filename=\"b;c\"", "a b;c"),
        (
            b"form-data; name=\"up; filename=evil.php\"",
            "up; filename=evil.php -",
        ),
        (
            b"form-data; filename=\"a; name=evil; b\"; name=\"real\"",
            "real a; name=evil; b",
        ),
        // Programs escape quotation marks and backslashes, browsers escape neither backslashes nor by them.
        (
            b"form-data; name=\"a\\\"b\\\\\"; filename=\"c\\d\"",
            "a\"b\\ c\\d",
        ),
        (b"form-data; name=\"a%22\"", "a%22 -"),
        (
            "form-data; name=\"\u{e9}\"; filename=\"\u{20ac}\"".as_bytes(),
            "\u{e9} \u{20ac}",
        ),
    ] {
        let head = [
            b"--X\r\nContent-Disposition: ",
            parameters,
            b"\r\n\r\n1\r\n--X--\r\n",
        ]
        .concat();
        let found = served.outcome("POST", "/", TYPE, &head);
        let expected = (200, format!("{names} - 1\n"));
        assert_eq!(found, expected, "{}", parameters.escape_ascii());
    }
    for parameters in [
        &b"form-data; name=\"a\"; filename=\"\xe9.txt\""[..],
        b"form-data; name=\"a\"; filename*=UTF-8''b",
        b"form-data; name=\"a\"; Name=\"b\"",
        b"form-data; name=a; filename=b; filename=c",
        b"attachment; name=\"a\"",
        b"form-data name=\"a\"",
        b"form-data; filename=\"b\"",
        b"form-data; name",
        b"form-data; name=",
        b"form-data; x; name=a",
        b"form-data; name=\"a\"b",
        b"form-data; name=\"a\" filename=\"b\"",
        b"form-data; name=a b",
        b"form-data; name=a\"b\"",
        b"form-data; name=\"a\\\"; filename=b",
    ] {
        let head = [
            b"--X\r\nContent-Disposition: ",
            parameters,
            b"\r\n\r\n1\r\n--X--\r\n",
        ]
        .concat();
        let (status, content) = served.outcome("POST", "/", TYPE, &head);
        assert_eq!(status, 400, "{} {content}", parameters.escape_ascii());
    }
    let twice = format!("{TYPE}{TYPE}");
    assert_eq!(served.outcome("POST", "/", &twice, b"--X--").0, 400);
}

#[test]
fn it_does_not_matter_how_the_body_is_cut() {
    let served = served();
    let all = body(&[(PLAIN, b"1\r\n-"), (FILE, b"two")]);
    let expected = served.outcome("POST", "/", TYPE, &all);
    assert_eq!(expected.0, 200);
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{TYPE}Transfer-Encoding: chunked\r\n\r\n");
    for size in 1..all.len() {
        let mut sent = head.clone().into_bytes();
        for piece in all.chunks(size) {
            sent.extend(format!("{:x}\r\n", piece.len()).bytes());
            sent.extend_from_slice(piece);
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(outcome(&served.exchange(&sent)), expected, "{size}");
    }
}

#[test]
fn the_connection_goes_on_behind_a_form() {
    let served = served();
    let all = body(&[(PLAIN, b"1")]);
    let one = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{TYPE}Content-Length: {}\r\n\r\n",
        all.len()
    );
    let two = [one.as_bytes(), &all, one.as_bytes(), &all].concat();
    let answers = served.exchange(&two);
    assert_eq!(answers.matches("a - - 1\n").count(), 2, "{answers}");
}

#[test]
fn a_malformed_body_is_400() {
    let served = served();
    let head = format!("--X\r\n{PLAIN}\r\n\r\n");
    let cases: [&[u8]; 22] = [
        b"",
        b"\r\n",
        b"--",
        b"--X",
        b"--X-",
        b"--X\r",
        b"--X\r\n",
        b"--X\r\n\r\n",
        b"--X\n\nabc\n--X--\n",
        b"--Y\r\n\r\n--Y--\r\n",
        b"--Xx\r\n\r\n\r\n--X--\r\n",
        b"--X  ",
        b"--X\r\nContent-Disposition: form-data\r\n\r\n1\r\n--X--\r\n",
        b"--X\r\nContent-Type: text/plain\r\n\r\n1\r\n--X--\r\n",
        b"--X\r\nno colon\r\n\r\n1\r\n--X--\r\n",
        b"--X\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n1\r\n--X--\r\n",
        b"--X\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--X--\r\n",
        b"--X\r\nContent-Disposition: form-data; name=\"a\\\"\r\n\r\n1\r\n--X--\r\n",
        &[head.as_bytes(), b"1"].concat(),
        &[head.as_bytes(), b"1\r\n--X"].concat(),
        &[head.as_bytes(), b"1\r\n--X-"].concat(),
        &[head.as_bytes(), b"1\r\n--Xx"].concat(),
    ];
    for body in cases {
        for target in ["/", "/names", "/some"] {
            let (status, content) = served.outcome("POST", target, TYPE, body);
            assert_eq!(status, 400, "{target} {} {content}", body.escape_ascii());
        }
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_answered() {
    let served = served();
    let whole = body(&[(PLAIN, b"1"), (FILE, b"two")]);
    let end = whole.len() - b"\r\n".len();
    for cut in 0..end {
        let (status, content) = served.outcome("POST", "/", TYPE, &whole[..cut]);
        assert_eq!(status, 400, "{cut} {content}");
    }
    assert_eq!(served.outcome("POST", "/", TYPE, &whole[..end]).0, 200);
    for at in 0..whole.len() {
        for byte in [0, b'\r', b'\n', b'-', b'"', b'\\', b';', 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            let (status, _) = served.outcome("POST", "/", TYPE, &changed);
            assert!([200, 400].contains(&status), "{at} {byte} {status}");
        }
    }
}

#[test]
fn the_type_needs_a_boundary() {
    let served = served();
    let long = "a".repeat(71);
    for (value, status) in [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=\"\"", 400),
        ("multipart/form-data; boundary=\u{e9}", 415),
        (&format!("multipart/form-data; boundary={long}"), 400),
        ("multipart/mixed; boundary=X", 415),
        ("text/plain; boundary=X", 415),
        ("", 415),
    ] {
        let fields = format!("Content-Type: {value}\r\n");
        // It would be an end with any of these boundaries.
        let body = format!("--X--\r\n----\r\n--{long}--");
        let (found, content) = served.outcome("POST", "/", &fields, body.as_bytes());
        assert_eq!(found, status, "{value} {content}");
    }
    assert_eq!(served.outcome("POST", "/", "", b"--X--").0, 415);
    for boundary in [
        "----WebKitFormBoundaryAbCdEf0123456789",
        "----geckoformboundary0123456789abcdef",
        "------------------------d74496d66958873e",
        "0123456789abcdef0123456789abcdef",
        "'()+_,-./:=?",
    ] {
        let quoted = boundary.starts_with('\'');
        let value = if quoted {
            format!("\"{boundary}\"")
        } else {
            boundary.to_owned()
        };
        let fields = format!("Content-Type: multipart/form-data; boundary={value}\r\n");
        let body = body(&[(PLAIN, b"1")]);
        let body = String::from_utf8(body)
            .expect("text")
            .replace("--X", &format!("--{boundary}"));
        let found = served.outcome("POST", "/", &fields, body.as_bytes());
        assert_eq!(found, (200, "a - - 1\n".to_owned()), "{value}");
    }
    for value in [
        "multipart/form-data; boundary=\"X\"",
        &format!("multipart/form-data; boundary={}", &long[1..]),
        "Multipart/Form-Data; charset=utf-8; Boundary=X",
    ] {
        let fields = format!("Content-Type: {value}\r\n");
        let body = format!("--X--\r\n--{}--", &long[1..]);
        let found = served.outcome("POST", "/", &fields, body.as_bytes());
        assert_eq!(found.0, 200, "{value}");
    }
}

#[test]
fn limits_are_answered_413() {
    let served = served();
    let fields = |count| body(&vec![(PLAIN, &b""[..]); count]);
    assert_eq!(served.outcome("POST", "/", TYPE, &fields(1000)).0, 200);
    assert_eq!(served.outcome("POST", "/", TYPE, &fields(1001)).0, 413);
    // A head within its limit, and one beyond it, or beyond that of the parser.
    let padded = |count| format!("{PLAIN}\r\nX-Padding: {}", "a".repeat(count));
    assert_eq!(
        served
            .outcome("POST", "/", TYPE, &body(&[(&padded(10_000), b"1")]))
            .0,
        200
    );
    assert_eq!(
        served
            .outcome("POST", "/", TYPE, &body(&[(&padded(50_000), b"1")]))
            .0,
        413
    );
    let many = format!("{PLAIN}{}", "\r\nX-A: b".repeat(100));
    assert_eq!(
        served.outcome("POST", "/", TYPE, &body(&[(&many, b"1")])).0,
        400
    );
    let preamble = [&[b'a'; 50_000][..], b"\r\n--X--"].concat();
    assert_eq!(served.outcome("POST", "/", TYPE, &preamble).0, 413);
    // That of the whole body.
    assert_eq!(served.outcome("POST", "/small", TYPE, b"--X--").0, 200);
    assert_eq!(
        served
            .outcome("POST", "/small", TYPE, &body(&[(PLAIN, &[b'a'; 50])]))
            .0,
        413
    );
    // Of a text.
    for (content, status) in [(&b"abc"[..], 200), (b"abcd", 413), (b"\xff", 400)] {
        let found = served.outcome("POST", "/text", TYPE, &body(&[(PLAIN, content)]));
        assert_eq!(found.0, status, "{}", content.escape_ascii());
    }
}

#[test]
fn a_large_file_goes_through_in_pieces() {
    let served = served();
    let count = 8 * 1024 * 1024;
    // Boundaries that are none, at every offset of a piece.
    let content: Vec<u8> = b"\r\n--\r\r\n--x"
        .iter()
        .copied()
        .cycle()
        .take(count)
        .collect();
    let all = body(&[(FILE, &content), (PLAIN, b"12")]);
    let found = served.outcome("POST", "/count", TYPE, &all);
    assert_eq!(found, (200, format!("f {count}\na 2\n")));
}

#[test]
fn a_client_that_waits_amid_a_form_is_answered_408() {
    let router = Router::new().post("/", |request: &mut Request<'_>| each(request, shown));
    let http = socketserver_http::Http::handler(router);
    let served = Served::with(http.body_timeout(std::time::Duration::from_millis(50)));
    let mut client = served.0.connect();
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let sent = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{TYPE}Content-Length: 99\r\n\r\n--X\r\n{PLAIN}\r\n\r\n1"
    );
    client.write_all(sent.as_bytes()).expect("send");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("receive");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}
