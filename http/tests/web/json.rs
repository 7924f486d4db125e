//! JSON in bodies and in responses.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use socketserver_http::{Json, Request, RequestExt, Router};

use crate::{Served, field, outcome};

#[derive(Deserialize, Serialize)]
struct Item {
    name: String,
    count: u8,
}

fn served() -> Served {
    let router = Router::new()
        .post("/", |request: &mut Request<'_>| {
            request.json::<Item>().map(Json)
        })
        .post("/created", |request: &mut Request<'_>| {
            let item = request.json::<Item>();
            item.map(|item| (StatusCode::CREATED, Json(item)))
        })
        .get("/broken", |_: &mut Request<'_>| {
            // The keys of an object are strings.
            Json(BTreeMap::from([((), 1)]))
        });
    Served::new(router)
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_value_is_read_and_written() {
    let served = served();
    let item = br#"{"count": 255, "other": [], "name": "\u00e9\n"}"#;
    for fields in [
        JSON,
        "content-type: Application/JSON; charset=utf-8\r\n",
        "Content-Type: application/problem+json\r\n",
    ] {
        let answer = served.ask("POST", "/", fields, item);
        let expected = "{\"name\":\"\u{e9}\\n\",\"count\":255}".to_owned();
        assert_eq!(outcome(&answer), (200, expected), "{fields}");
        assert_eq!(field(&answer, "content-type"), Some("application/json"));
    }
    assert_eq!(served.outcome("POST", "/created", JSON, item).0, 201);
    let (status, content) = served.outcome("GET", "/broken", "", b"");
    assert_eq!((status, &*content), (500, "Internal Server Error\n"));
}

#[test]
fn malformed_values_are_400_and_other_types_415() {
    let served = served();
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"{}",
        b"{\"name\": \"a\", \"count\": 256}",
        b"{\"name\": \"a\", \"count\": 1} x",
        b"{\"name\": \"\xff\", \"count\": 1}",
        &b"[".repeat(100_000),
    ] {
        let (status, content) = served.outcome("POST", "/", JSON, body);
        assert_eq!(status, 400, "{}", content);
        // The names of the program's fields are its own.
        assert!(
            content.starts_with("the content is not as expected at line 1, column "),
            "{content}"
        );
        assert!(
            !content.contains("name") && !content.contains("count"),
            "{content}"
        );
    }
    for fields in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: text/json\r\n",
        "Content-Type: application/jsonx\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        assert_eq!(
            served.outcome("POST", "/", fields, b"{}").0,
            415,
            "{fields}"
        );
    }
    let twice = format!("{JSON}{JSON}");
    assert_eq!(served.outcome("POST", "/", &twice, b"{}").0, 400);
    let large = format!("\"{}\"", "a".repeat(3 * 1024 * 1024));
    assert_eq!(served.outcome("POST", "/", JSON, large.as_bytes()).0, 413);
}
