//! Bytes in, bytes out: the conversations of `corpus`, each sent in one write, and byte by byte.

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Client;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use socketserver::testing::TestServer;
use socketserver::{Server, ThreadPool, Threading, UnixStream};
use socketserver_http::Http;
use support::rows::{self, Row, shown};
use support::{DEADLINE, handler};

/// The files of rows.
const FILES: [(&str, &str); 10] = [
    ("request_line", include_str!("corpus/request_line.txt")),
    ("targets", include_str!("corpus/targets.txt")),
    ("fields", include_str!("corpus/fields.txt")),
    ("length", include_str!("corpus/length.txt")),
    ("coding", include_str!("corpus/coding.txt")),
    ("chunks", include_str!("corpus/chunks.txt")),
    ("trailers", include_str!("corpus/trailers.txt")),
    ("connection", include_str!("corpus/connection.txt")),
    ("responses", include_str!("corpus/responses.txt")),
    ("limits", include_str!("corpus/limits.txt")),
];
const TIMEOUTS: &str = include_str!("corpus/timeouts.txt");

/// How a client sends.
#[derive(Clone, Copy)]
enum Way {
    /// In one write.
    Whole,
    /// Each byte once the server has taken the one before the last.
    Bytes,
    /// In one write, and the client's own side stays open.
    Stays,
}

fn main() -> ExitCode {
    // The panics that handlers are asked for would hide those of the tests.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().contains("as asked") {
            hook(panic);
        }
    }));
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let limited = || {
        Http::new(handler::handle)
            .target_bytes(200)
            .head_bytes(1000)
            .headers(20)
            .body_bytes(1000)
            .requests(5)
    };
    let threads = Server::<UnixStream>::builder().model(Threading::default());
    let threads = threads.bind(path("threads")).expect("bind");
    let _threads = TestServer::spawn(threads, limited().serve());
    // A connection that waits is parked here, between any two bytes.
    let pool = Server::<UnixStream>::builder().model(ThreadPool::new(2));
    let pool = pool.bind(path("pool")).expect("bind");
    let _pool = TestServer::spawn(pool, limited().serve());
    let short = Duration::from_millis(200);
    let hurried = limited()
        .head_timeout(short)
        .body_timeout(short)
        // A client that a busy machine holds up has not sent its request yet.
        .idle_timeout(Duration::from_secs(1));
    let hasty = Server::<UnixStream>::builder().model(Threading::default());
    let hasty = hasty.bind(path("hasty")).expect("bind");
    let _hasty = TestServer::spawn(hasty, hurried.serve());

    let mut trials = Vec::new();
    let mut names = BTreeSet::new();
    for (file, text) in FILES {
        for row in rows::parse(text) {
            assert!(names.insert(row.name.clone()), "twice: {}", row.name);
            trials.extend([
                trial(file, "whole", &row, path("threads"), Way::Whole),
                trial(file, "bytes", &row, path("threads"), Way::Bytes),
                trial(file, "parked", &row, path("pool"), Way::Bytes),
            ]);
        }
    }
    for row in rows::parse(TIMEOUTS) {
        trials.push(trial("timeouts", "stays", &row, path("hasty"), Way::Stays));
    }
    let threads = path("threads");
    trials.push(Trial::test("a_refused_client_may_go_on", move || {
        a_refused_client_may_go_on(&threads);
        Ok(())
    }));
    libtest_mimic::run(&support::arguments(), trials).exit_code()
}

fn trial(file: &str, kind: &str, row: &Row, path: PathBuf, way: Way) -> Trial {
    let row = row.clone();
    Trial::test(format!("{file}::{kind}::{}", row.name), move || {
        let answer = shown(&converse(&path, &row.sent, way));
        if answer == row.answer {
            return Ok(());
        }
        Err(format!("expected\n{}received\n{answer}", row.answer).into())
    })
}

/// Sends bytes, and receives to the end.
fn converse(path: &Path, sent: &[u8], way: Way) -> Vec<u8> {
    let mut client = Client::connect(path).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let sends = match way {
        Way::Whole | Way::Stays => client.write_all(sent),
        Way::Bytes => {
            set_socket_send_buffer_size(&client, 1).expect("a small buffer");
            sent.chunks(1).try_for_each(|byte| {
                writable(&client);
                client.write_all(byte)
            })
        }
    };
    if let Err(err) = sends {
        // The server need not take what follows a request that it has refused.
        assert_eq!(err.kind(), ErrorKind::BrokenPipe, "send");
    }
    if !matches!(way, Way::Stays) {
        // The server may have closed.
        let _ = client.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        // Bytes that the client has sent after the last answer may meet a closed socket.
        Err(err) if err.kind() == ErrorKind::ConnectionReset && matches!(way, Way::Bytes) => {}
        end => drop(end.expect("receive")),
    }
    answer
}

/// RFC 9112, section 9.6: the server receives for a while what a client sends after the answer, so that no reset takes
/// the answer away.
fn a_refused_client_may_go_on(path: &Path) {
    let refused = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nContent-Length: 9\r\n\r\n";
    let malformed = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n";
    for sent in [refused, malformed] {
        let mut client = Client::connect(path).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(sent.as_bytes()).expect("send");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("receive");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        for _ in 0..10 {
            client
                .write_all(&[b'a'; 1000])
                .expect("the server receives");
        }
    }
}

/// Waits until there is room: in the smallest buffer, two bytes on their way leave none.
fn writable(client: &Client) {
    let mut polled = [PollFd::new(client, PollFlags::OUT)];
    let deadline = Timespec::try_from(DEADLINE).expect("a time");
    let ready = poll(&mut polled, Some(&deadline)).expect("poll");
    assert_eq!(ready, 1, "the server takes nothing");
}
