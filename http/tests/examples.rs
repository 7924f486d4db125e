//! Every example as its user runs it: a process of its own, and clients that talk to it.

#[path = "../../tests/examples/program.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod program;

use std::fs;
use std::io::ErrorKind::WouldBlock;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use program::{Client, DEADLINE, Example, Program, connect, path_in, set_deadlines, sources};
use socket2::SockRef;
use tungstenite::{Message, WebSocket};

/// Sends a request of HTTP/1.0, and returns the whole response.
fn ask(addr: SocketAddr, method: &str, path: &str, body: &str) -> String {
    ask_with(addr, method, path, "", body)
}

/// The same with fields, each of which ends with CR LF.
fn ask_with(addr: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> String {
    let mut client = connect(addr);
    let length = body.len();
    client.send(&format!(
        "{method} {path} HTTP/1.0\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ));
    client.rest()
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").expect("a whole head").1
}

#[track_caller]
fn assert_status(response: &str, status: u16) {
    let start = format!("HTTP/1.1 {status} ");
    assert!(response.starts_with(&start), "{response}");
}

#[test]
fn web_hello_answers_with_the_length_of_the_body() {
    let (_example, addr) = Program::Itself("web_hello").on_tcp();
    let answer = ask(addr, "POST", "/a", "abc");
    assert_status(&answer, 200);
    assert_eq!(body(&answer), "POST /a with 3 bytes\n");
}

#[test]
fn http_server_serves_files_and_directories() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(path_in(&directory, "sub")).expect("a directory");
    fs::create_dir(path_in(&directory, "site")).expect("a directory");
    for (name, text) in [
        ("a b&c.txt", "spaces"),
        ("style.css", "p {}"),
        ("site/index.html", "<p>index"),
    ] {
        fs::write(path_in(&directory, name), text).expect("a file");
    }
    let mut command = Program::Itself("http_server").command(&["127.0.0.1:0"]);
    command.current_dir(directory.path());
    let example = Example::launch(command);
    let addr = example.inet("tcp");

    let listing = ask(addr, "GET", "/", "");
    assert_status(&listing, 200);
    assert!(listing.contains("<a href=\"./a%20b%26c.txt\">a b&amp;c.txt</a>"));
    assert_eq!(body(&ask(addr, "GET", "/a%20b%26c%2Etxt?q", "")), "spaces");
    assert!(
        ask(addr, "GET", "/style.css", "").contains("content-type: text/css; charset=utf-8\r\n")
    );
    assert_eq!(body(&ask(addr, "GET", "/site/", "")), "<p>index");
    let moved = ask(addr, "GET", "//sub", "");
    assert_status(&moved, 301);
    assert!(moved.contains("location: ./sub/\r\n"), "{moved}");
    let head = ask(addr, "HEAD", "/style.css", "");
    assert!(head.contains("content-length: 4\r\n") && body(&head).is_empty());
    for path in [
        "/none",
        "/style.css/",
        "/../a",
        "/%2e%2e/",
        "/sub/%2e%2e%2fstyle.css",
        "/%00",
    ] {
        assert_status(&ask(addr, "GET", path, ""), 404);
    }
    assert_status(&ask(addr, "POST", "/", ""), 405);
}

#[cfg(feature = "json")]
#[test]
fn json_counter_counts_for_all_clients() {
    let (_example, addr) = Program::Itself("json_counter").on_tcp();
    let post = |body: &str| {
        let fields = "Content-Type: application/json\r\n";
        ask_with(addr, "POST", "/counters/apples", fields, body)
    };
    for (added, sum) in [("3", "3"), ("-1", "2")] {
        let answer = post(&format!("{{\"add\": {added}}}"));
        assert!(answer.contains("content-type: application/json\r\n"));
        assert_eq!(body(&answer), sum);
    }
    for malformed in ["", "{", "[1, 2]", "{\"add\": \"3\"}"] {
        assert_status(&post(malformed), 400);
    }
    let large = format!("\"{}\"", "a".repeat(3 * 1024 * 1024));
    assert_status(&post(&large), 413);
    assert_status(&ask(addr, "POST", "/counters/apples", "{\"add\": 3}"), 415);
    assert_status(&ask(addr, "PUT", "/counters/apples", ""), 405);
    assert_eq!(body(&ask(addr, "GET", "/counters", "")), "{\"apples\":2}");
    assert_status(&ask(addr, "DELETE", "/counters/apples", ""), 204);
    assert_status(&ask(addr, "DELETE", "/counters/apples", ""), 404);
    assert_eq!(body(&ask(addr, "GET", "/counters", "")), "{}");
}

#[test]
fn server_sent_events_go_on_from_the_last_one() {
    let example = Program::Itself("server_sent_events").start(&["127.0.0.1:0", "100"]);
    let addr = example.inet("tcp");
    assert!(ask(addr, "GET", "/", "").contains("new EventSource('/events')"));
    for (field, first) in [("", 0), ("Last-Event-ID: 41\r\n", 42)] {
        let mut client = connect(addr);
        client.send(&format!("GET /events HTTP/1.0\r\n{field}\r\n"));
        wait_for(&mut client, "content-type: text/event-stream\r");
        wait_for(&mut client, "\r");
        // A server that gathered 8 KiB would send none within the deadline.
        for count in first..first + 3 {
            let event = [client.line(), client.line(), client.line()];
            let count = count.to_string();
            assert_eq!(
                event,
                [
                    format!("id: {count}"),
                    format!("data: {count}"),
                    String::new()
                ]
            );
        }
    }
}

fn wait_for(client: &mut Client<TcpStream>, line: &str) {
    while client.line() != line {}
}

#[cfg(feature = "multipart")]
#[test]
fn upload_stores_whole_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let stored = path_in(&directory, "store");
    fs::create_dir(&stored).expect("a directory");
    let example = Program::Itself("upload").start(&["127.0.0.1:0", &stored, "1000"]);
    let addr = example.inet("tcp");
    assert!(ask(addr, "GET", "/", "").contains("enctype=multipart/form-data"));
    let kind = "Content-Type: multipart/form-data; boundary=X\r\n";
    let part = |name: &str, text: &str| {
        let head = format!("Content-Disposition: form-data; name=file; filename=\"{name}\"");
        format!("--X\r\n{head}\r\n\r\n{text}\r\n")
    };
    let send_with = |fields: &str, parts: &[String]| {
        let form = parts.concat() + "--X--\r\n";
        ask_with(addr, "POST", "/", &format!("{kind}{fields}"), &form)
    };
    let send = |parts: &[String]| send_with("", parts);
    let own = "Host: a:1\r\nOrigin: http://a:1\r\n";
    let text = "--X\r\nContent-Disposition: form-data; name=text\r\n\r\nno file\r\n".to_owned();
    let parts = [part("a.txt", "0123456789"), text, part("../b.txt", "")];
    let answer = send_with(own, &parts);
    assert_status(&answer, 201);
    let lines = format!("{stored}/a.txt has 10 bytes\n{stored}/b.txt has 0 bytes\n");
    assert_eq!(body(&answer), lines);
    let content = fs::read(path_in(&directory, "store/a.txt"));
    assert_eq!(content.expect("a file"), b"0123456789");
    assert_status(&send(&[part("b.txt", "x")]), 409);
    assert_eq!(
        fs::read(path_in(&directory, "store/b.txt")).expect("a file"),
        b""
    );
    for origin in ["http://b:1", "https://a", "http://b.a:1", "null"] {
        let fields = format!("Host: a:1\r\nOrigin: {origin}\r\n");
        assert_status(&send_with(&fields, &[part("c.txt", "x")]), 403);
    }

    assert_status(&send(&[part("c.txt", &"x".repeat(1000))]), 413);
    for name in ["..", ".c", "c/", ""] {
        assert_status(&send(&[part(name, "x")]), 400);
    }
    // A form that ends within its file.
    assert_status(&ask_with(addr, "POST", "/", kind, &part("c.txt", "x")), 400);
    assert_status(&ask(addr, "POST", "/", "x"), 415);
    assert_status(&ask(addr, "PUT", "/", "x"), 405);
    assert_eq!(fs::read_dir(&stored).expect("a directory").count(), 2);
}

#[test]
fn metrics_counts_what_its_program_does() {
    let example = Program::Itself("metrics").start(&["127.0.0.1:0", "1"]);
    let addr = example.inet("tcp");
    let count = || {
        let answer = ask(addr, "GET", "/metrics", "");
        assert_status(&answer, 200);
        assert!(answer.contains("content-type: application/openmetrics-text; "));
        let text = body(&answer);
        assert!(text.ends_with("# EOF\n") && text.contains("job_seconds_sum "));
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("jobs_total ")?.parse::<u64>().ok());
        count.expect("a counter")
    };
    let first = count();
    let end = Instant::now() + DEADLINE;
    while count() == first {
        assert!(Instant::now() < end, "no job is counted");
    }
    assert_status(&ask(addr, "GET", "/", ""), 404);
    assert_status(&ask(addr, "POST", "/metrics", ""), 405);
}

/// A client of WebSockets.
fn web_socket(addr: SocketAddr, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("connect");
    set_deadlines(SockRef::from(&stream));
    let (socket, response) =
        tungstenite::client(format!("ws://{addr}{path}"), stream).expect("a handshake");
    assert_eq!(response.status(), 101);
    socket
}

#[test]
fn web_chat_lets_clients_talk_to_each_other() {
    let (_example, addr) = Program::Itself("web_chat").on_tcp();
    let page = ask(addr, "GET", "/", "");
    assert!(body(&page).starts_with("<!doctype html>"));
    assert!(page.contains("content-type: text/html; charset=utf-8\r\n"));
    for (origin, status) in [("http://a:1", 101), ("http://b:1", 200), ("null", 200)] {
        let mut client = connect(addr);
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: a:1\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ));
        assert_status(&client.line(), status);
    }
    let mut clients = Vec::new();
    for count in 0..3 {
        let mut client = web_socket(addr, "/");
        // Its own text comes back once it is among the clients.
        client.send(format!("enters {count}").into()).expect("send");
        clients.push(client);
        for client in &mut clients {
            let message = client.read().expect("a message");
            assert_eq!(message, Message::text(format!("enters {count}")));
        }
    }
    // All at once: each receives all.
    for (count, client) in clients.iter_mut().enumerate() {
        client.send(format!("says {count}").into()).expect("send");
    }
    for client in &mut clients {
        let mut heard: Vec<_> = (0..3)
            .map(|_| client.read().expect("a message").to_string())
            .collect();
        heard.sort();
        assert_eq!(heard, ["says 0", "says 1", "says 2"]);
    }
    // One leaves, and the others go on.
    let mut left = clients.remove(0);
    left.close(None).expect("a close frame");
    while left.read().is_ok() {}
    clients[0].send("still here".into()).expect("send");
    for client in &mut clients {
        assert_eq!(
            client.read().expect("a message"),
            Message::text("still here")
        );
    }
}

#[test]
fn web_chat_aborts_clients_that_do_not_read() {
    let (_example, addr) = Program::Itself("web_chat").on_tcp();
    let mut slow = web_socket(addr, "/");
    slow.send("here".into()).expect("send");
    assert_eq!(slow.read().expect("a message"), Message::text("here"));
    let mut talker = web_socket(addr, "/");
    // More than the queue and the buffers of both sockets take.
    let text = Message::text("x".repeat(4000));
    let count = 5000;
    for _ in 0..count {
        talker.send(text.clone()).expect("send");
        assert_eq!(talker.read().expect("a message"), text);
    }
    let mut heard = 0;
    let end = loop {
        match slow.read() {
            Ok(_) => heard += 1,
            Err(err) => break err,
        }
        assert!(heard < count, "the slow client has heard all");
    };
    let waits = matches!(&end, tungstenite::Error::Io(err) if err.kind() == WouldBlock);
    assert!(!waits, "the slow client is still there");
}

#[test]
fn web_socket_pushes_while_it_reads() {
    let example = Program::Itself("web_socket").start(&["127.0.0.1:0", "10"]);
    let addr = example.inet("tcp");
    assert_status(&ask(addr, "GET", "/", ""), 400);
    let mut socket = web_socket(addr, "/");
    assert_eq!(socket.read().expect("a push"), Message::text("1"));
    let sent = [Message::text("hello"), Message::binary(vec![7; 100_000])];
    for message in &sent {
        socket.send(message.clone()).expect("send");
    }
    let (mut echoes, mut pushes) = (Vec::new(), 1);
    while echoes.len() < sent.len() || pushes < 5 {
        // That takes 10 s at least.
        assert!(pushes < 1000, "there are {} echoes", echoes.len());
        match socket.read().expect("a message") {
            Message::Text(text) if text.parse() == Ok(pushes + 1) => pushes += 1,
            message => echoes.push(message),
        }
    }
    assert_eq!(echoes, sent);
    socket.close(None).expect("a close frame");
    let end = loop {
        match socket.read() {
            Ok(_) => {}
            Err(err) => break err,
        }
    };
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
}

#[test]
fn every_example_is_short_and_listed() {
    let index = fs::read_to_string(sources().join("../README.md")).expect("the index");
    let tests = include_str!("examples.rs");
    for file in fs::read_dir(sources()).expect("a folder") {
        let path = file.expect("a file").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        let lines = fs::read_to_string(&path).expect("a text").lines().count();
        assert!(lines < 60, "{name} has {lines} lines");
        assert!(
            index.contains(&format!("| `{name}` |")),
            "{name} is not in the index"
        );
        assert!(
            tests.contains(&format!("Itself(\"{name}\")")),
            "{name} has no test"
        );
    }
}
