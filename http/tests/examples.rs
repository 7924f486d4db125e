//! Every example as its user runs it: a process of its own, and clients that talk to it.

#[path = "../../tests/examples/program.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod program;

use std::fs;
use std::net::{SocketAddr, TcpStream};

use program::{Client, DEADLINE, Example, Program, connect, path_in, set_deadlines, sources};
use socket2::SockRef;
use tungstenite::Message;

/// Sends a request of HTTP/1.0, and returns the whole response.
fn ask(addr: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut client = connect(addr);
    let length = body.len();
    client.send(&format!(
        "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
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

#[test]
fn json_counter_counts_for_all_clients() {
    let (_example, addr) = Program::Itself("json_counter").on_tcp();
    let count = |count: i64| format!("{{\"count\":{count},\"name\":\"apples\"}}\n");
    for (added, sum) in [("3", 3), ("-1", 2)] {
        let answer = ask(addr, "POST", "/apples", &format!("{{\"add\": {added}}}"));
        assert!(answer.contains("content-type: application/json\r\n"));
        assert_eq!(body(&answer), count(sum));
    }
    assert_eq!(body(&ask(addr, "GET", "/apples", "")), count(2));
    for malformed in ["", "{", "[1]", "{\"add\": \"3\"}"] {
        assert_status(&ask(addr, "POST", "/apples", malformed), 400);
    }
    let large = format!("\"{}\"", "a".repeat(3 * 1024 * 1024));
    assert_status(&ask(addr, "POST", "/apples", &large), 413);
    assert_eq!(body(&ask(addr, "GET", "/apples", "")), count(2));
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

#[test]
fn upload_stores_whole_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let stored = path_in(&directory, "store");
    fs::create_dir(&stored).expect("a directory");
    let example = Program::Itself("upload").start(&["127.0.0.1:0", &stored, "10"]);
    let addr = example.inet("tcp");
    let answer = ask(addr, "PUT", "/a.txt", "0123456789");
    assert_status(&answer, 201);
    assert_eq!(body(&answer), "a.txt has 10 bytes\n");
    assert_eq!(
        fs::read(path_in(&directory, "store/a.txt")).expect("a file"),
        b"0123456789"
    );

    assert_status(&ask(addr, "PUT", "/b.txt", "0123456789x"), 413);
    assert_status(&ask(addr, "PUT", "/../b.txt", "x"), 400);
    assert_status(&ask(addr, "PUT", "/.b", "x"), 400);
    assert_status(&ask(addr, "POST", "/b.txt", "x"), 405);
    // A client that ends within its file.
    let mut client = connect(addr);
    client.send("PUT /b.txt HTTP/1.0\r\nContent-Length: 10\r\n\r\n0123");
    client.end_input();
    assert_status(&client.rest(), 400);
    assert_eq!(fs::read_dir(&stored).expect("a directory").count(), 1);
}

#[test]
fn web_socket_pushes_while_it_reads() {
    let example = Program::Itself("web_socket").start(&["127.0.0.1:0", "10"]);
    let addr = example.inet("tcp");
    assert_status(&ask(addr, "GET", "/", ""), 400);
    let stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("connect");
    set_deadlines(SockRef::from(&stream));
    let (mut socket, response) =
        tungstenite::client(format!("ws://{addr}/"), stream).expect("a handshake");
    assert_eq!(response.status(), 101);
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
