//! Frames that no client sends in good faith: the attacker loses the stream or the connection, and others are served.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};
use socketserver::testing::TestServer;
use socketserver::{HandlerError, Server, Tcp, ThreadPool, Threading, UnixStream};
use socketserver_http::{Content, Http, IntoResponse, Request};
use support::DEADLINE;
use support::frames::{
    ACK, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, FRAME_SIZE_ERROR, Frame, GET, GOAWAY,
    HEADERS, INITIAL_WINDOW_SIZE, PADDED, PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, headers, request, reset, setting,
};

/// How many requests of a connection run at once.
const STREAMS: u32 = 10;

/// More frames than any server needs to see the flood.
const MANY: u32 = 20_000;

/// The indexed field `:status: 200` (RFC 7541, appendix A).
const OK: u8 = 0x88;

type Check = fn(&Path, &Gate);

const ROWS: [(&str, Check); 31] = [
    ("10.5: requests that are reset at once", rapid_reset),
    ("10.5: requests that are reset while they run", slow_reset),
    ("5.1.2: more requests than may run", too_many),
    (
        "6.4: a handler sees that its client has cancelled",
        |path, gate| {
            cancelled(path, gate, "/long");
        },
    ),
    ("6.4: so does content of a response", |path, gate| {
        cancelled(path, gate, "/stream");
    }),
    ("10.5.1: CONTINUATION without an end", |path, _| {
        continuations(path, &[0x40]);
    }),
    ("6.10: CONTINUATION without content", |path, _| {
        continuations(path, &[]);
    }),
    ("10.5: PING", |path, _| {
        flood(path, &frame(PING, 0, 0, &[0; 8]));
    }),
    ("10.5: answers to no PING", |path, _| {
        flood(path, &frame(PING, ACK, 0, &[0; 8]));
    }),
    ("10.5: SETTINGS", |path, _| {
        flood(path, &frame(SETTINGS, 0, 0, &setting(3, 100)));
    }),
    ("5.3: PRIORITY", |path, _| {
        flood(path, &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]));
    }),
    ("5.5: unknown frames", |path, _| {
        flood(path, &frame(0x99, 0, 0, &[]));
    }),
    ("10.5: DATA without content", |path, _| {
        empty_data(path, 0);
    }),
    ("6.1: DATA that is padding", |path, _| {
        empty_data(path, PADDED);
    }),
    ("10.5.1: fields that the table makes large", hpack_bomb),
    ("10.5.1: a list of fields that is too large", large_list),
    ("6.9: a window that stays shut", shut_window),
    ("6.9: a window that stays shut beside another", one_window),
    ("6.9: answers that are not received", unread_answers),
    ("6.9: an answer that is received late", late_reader),
    ("8.3.1: host and authority that differ", |path, _| {
        malformed(path, &[GET, &field("host", "b")].concat(), Refusal::Status);
    }),
    ("8.3.1: user information in the authority", |path, _| {
        let block = [0x82, 0x86, 0x84, 0x41, 3, b'u', b'@', b'a'];
        malformed(path, &block, Refusal::Status);
    }),
    ("8.3.1: a target beyond ASCII", |path, _| {
        malformed(path, &request("GET", "/\u{fc}"), Refusal::Status);
    }),
    ("8.3.1: an asterisk that is no target", |path, _| {
        malformed(path, &request("GET", "*"), Refusal::Status);
    }),
    ("8.5: a tunnel without a port", |path, _| {
        let block = [field(":method", "CONNECT"), field(":authority", "a")].concat();
        malformed(path, &block, Refusal::Status);
    }),
    ("8.2: names in capital letters", |path, _| {
        let mut client = Client::connect(path, &[]);
        client.send(&headers(1, &[GET, &field("X-A", "b")].concat()));
        assert_eq!(client.reason(), Some(PROTOCOL_ERROR));
    }),
    ("8.2.2: fields of HTTP/1", |path, _| {
        let block = [GET, &field("transfer-encoding", "chunked")].concat();
        malformed(path, &block, Refusal::Reset);
    }),
    ("8.1.1: a body that is longer than its length", wrong_length),
    ("8.1: a client that waits for 100 Continue", expectation),
    ("8.1: a body that is announced and too large", announced),
    ("4.2: a frame that is too large", |path, _| {
        let mut client = Client::connect(path, &[]);
        client.try_send(&frame(DATA, 0, 1, &[0; 16 * 1024 + 1]));
        assert_eq!(client.reason(), Some(FRAME_SIZE_ERROR));
    }),
];

/// Requests that wait.
#[derive(Default)]
struct Gate {
    waiting: AtomicUsize,
    open: Mutex<bool>,
    change: Condvar,
}

impl Gate {
    fn note(&self) {
        let _open = self.open.lock().expect("no panic");
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.change.notify_all();
    }

    /// Waits until the gate opens.
    fn pass(&self) {
        self.note();
        let mut open = self.open.lock().expect("no panic");
        while !*open {
            open = self.change.wait(open).expect("no panic");
        }
    }

    fn open(&self) {
        *self.open.lock().expect("no panic") = true;
        self.change.notify_all();
    }

    /// Waits until so many requests wait.
    fn wait_for(&self, count: usize) {
        let open = self.open.lock().expect("no panic");
        let waited = self.change.wait_timeout_while(open, DEADLINE, |_| {
            self.waiting.load(Ordering::SeqCst) < count
        });
        let timeout = waited.expect("no panic").1;
        assert!(!timeout.timed_out(), "fewer than {count} requests run");
    }
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, check) in ROWS {
        trials.push(Trial::test(format!("threads::9113 {name}"), move || {
            let gate = Arc::new(Gate::default());
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("socket");
            let server = Server::<UnixStream>::builder().model(Threading::default());
            let server = server.bind(&*path).expect("bind");
            let server = TestServer::spawn(server, http(&gate).serve());
            attack(server, &path, &gate, check);
            Ok(())
        }));
        trials.push(Trial::test(format!("pool::9113 {name}"), move || {
            let gate = Arc::new(Gate::default());
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("socket");
            let server = Server::<UnixStream>::builder().model(ThreadPool::new(4));
            let server = server.bind(&*path).expect("bind");
            let server = TestServer::spawn(server, http(&gate).serve());
            attack(server, &path, &gate, check);
            Ok(())
        }));
    }
    for target in ["/large", "/medium"] {
        trials.push(Trial::test(
            format!("threads::slow_reader {target}"),
            move || {
                slow_reader(target);
                Ok(())
            },
        ));
    }
    trials.push(Trial::test("threads::one_address_leaves_room", || {
        one_address_leaves_room();
        Ok(())
    }));
    libtest_mimic::run(&support::arguments(), trials).exit_code()
}

/// A client of an address of its own.
fn connect_from(source: [u8; 4], server: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source = SocketAddr::from((source, 0));
    socket.bind(&source.into()).expect("bind");
    socket
        .connect_timeout(&server.into(), DEADLINE)
        .expect("connect");
    Client::over(socket, &[])
}

/// The process has 1,024 threads for requests of HTTP/2. An address with many connections takes no more than it leaves.
fn one_address_leaves_room() {
    const THREADS: usize = 1024;
    let gate = Arc::new(Gate::default());
    let server = Server::<Tcp, Threading>::bind("127.0.0.1:0").expect("bind");
    let http = http(&gate).streams(THREADS as u32);
    let server = TestServer::spawn(server, http.serve());
    let addr = server.addr().socket_addr().expect("an address of TCP");
    let block = request("GET", "/wait");
    let send_all = |client: &mut Client, count: u32| {
        let requests: Vec<_> = (0..count)
            .flat_map(|at| headers(2 * at + 1, &block))
            .collect();
        client.send(&requests);
    };
    let mut greedy: Vec<_> = (0..12)
        .map(|_| connect_from([127, 0, 0, 1], addr))
        .collect();
    for client in &mut greedy {
        send_all(client, 100);
    }
    gate.wait_for(THREADS / 2);
    let refused = greedy.iter_mut().map(|client| {
        // Requests are taken up in turn, so that is the last answer.
        client.send(&headers(201, GET));
        let mut count = 0;
        loop {
            let frame = client.receive_until(|frame| frame.kind == RST_STREAM);
            assert_eq!(frame.code(), REFUSED_STREAM);
            if frame.stream == 201 {
                return count;
            }
            count += 1;
        }
    });
    assert_eq!(refused.sum::<usize>(), 1200 - THREADS / 2);
    assert_eq!(gate.waiting.load(Ordering::SeqCst), THREADS / 2);
    // Others are served at once, and leave room in turn.
    for last in 2..6 {
        let mut other = connect_from([127, 0, 0, last], addr);
        assert_eq!(other.ask(1, GET)[0], OK, "127.0.0.{last}");
    }
    let mut second = connect_from([127, 0, 0, 2], addr);
    send_all(&mut second, 300);
    gate.wait_for(THREADS / 2 + THREADS / 4);
    let mut third = connect_from([127, 0, 0, 3], addr);
    assert_eq!(third.ask(1, GET)[0], OK);
    assert_eq!(gate.waiting.load(Ordering::SeqCst), THREADS * 3 / 4);
    gate.open();
    drop((greedy, second, third));
    let _ = server.stop();
}

/// How long a response may wait for a client that reads slowly, and how long that waits before each frame.
const LIMIT: Duration = Duration::from_secs(4);
const PACE: Duration = Duration::from_millis(500);

/// The client reads all the time, and the kernel tells the server so only after a limit or two. The handler of one answer
/// waits for room all along, that of the other has ended.
fn slow_reader(target: &str) {
    let gate = Arc::new(Gate::default());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("socket");
    let server = Server::<UnixStream>::bind(&*path).expect("bind");
    let server = TestServer::spawn(server, http(&gate).body_timeout(LIMIT).serve());
    let is_served = (0..5).any(|_| match reads_slowly(&path, target) {
        Ok(()) => true,
        Err(longest) => {
            // A busy machine may keep the client from reading, which is no fault of the server.
            assert!(longest > LIMIT / 2, "the server gives up");
            false
        }
    });
    assert!(is_served, "the machine is too busy");
    let _ = server.stop();
}

/// Receives an answer. Returns the longest time between two reads, if the server has given it up.
fn reads_slowly(path: &Path, target: &str) -> Result<(), Duration> {
    let mut client = Client::connect(path, &setting(INITIAL_WINDOW_SIZE, 0x7fff_ffff));
    client.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    client.send(&headers(1, &request("GET", target)));
    let (mut longest, mut before) = (Duration::ZERO, Instant::now());
    for count in 0.. {
        match client.receive() {
            Some(frame) if frame.ends_stream() => break,
            Some(frame) if frame.kind != RST_STREAM => {}
            _ => return Err(longest),
        }
        if count < 16 {
            socketserver::task::sleep(PACE);
        }
        longest = longest.max(before.elapsed());
        before = Instant::now();
    }
    Ok(())
}

type Answer = Result<Response<Content>, HandlerError>;

fn http(
    gate: &Arc<Gate>,
) -> Http<impl Fn(&mut Request<'_>) -> Answer + Send + Sync + 'static + use<>> {
    let (gate, done) = (Arc::clone(gate), Arc::clone(gate));
    Http::new(
        move |request: &mut Request<'_>| match request.uri().path() {
            "/wait" => {
                gate.pass();
                "waited\n".into_response()
            }
            "/body" => {
                let count = std::io::copy(request.body_mut(), &mut std::io::sink())?;
                format!("{count} bytes\n").into_response()
            }
            "/long" => {
                assert!(!request.body_mut().peer_gone());
                gate.pass();
                assert!(request.body_mut().peer_gone());
                gate.note();
                "cancelled".into_response()
            }
            "/stream" => {
                let gate = Arc::clone(&gate);
                Content::stream(move |out| {
                    assert!(!out.peer_gone());
                    gate.pass();
                    assert!(out.peer_gone());
                    gate.note();
                    Ok(())
                })
                .into_response()
            }
            // More than a socket buffers, and less than HTTP/2 does.
            "/medium" => vec![b'a'; 260 * 1024].into_response(),
            "/large" => vec![b'a'; 1024 * 1024].into_response(),
            "/endless" => Content::stream(|out| {
                loop {
                    out.write_all(&[b'a'; 16 * 1024])?;
                }
            })
            .into_response(),
            "/" => "hello\n".into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        },
    )
    .on_access({
        let gate = Arc::clone(&done);
        move |access| {
            let path = access.request().map(|request| request.uri.path());
            if path == Some("/medium") {
                gate.note();
            }
        }
    })
    .streams(STREAMS)
    .body_timeout(Duration::from_millis(500))
}

/// Attacks beside a client in good faith, which is served before and after.
fn attack(server: TestServer<UnixStream>, path: &Path, gate: &Gate, check: Check) {
    let mut good = Client::connect(path, &[]);
    assert_eq!(good.ask(1, GET)[0], OK);
    check(path, gate);
    assert_eq!(good.ask(3, GET)[0], OK, "on the connection from before");
    let mut other = Client::connect(path, &[]);
    assert_eq!(other.ask(1, GET)[0], OK, "on a new connection");
    gate.open();
    drop((good, other));
    let _ = server.stop();
}

fn rapid_reset(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    let pairs = (0..500).flat_map(|number| {
        let stream = 2 * number + 1;
        [headers(stream, GET), reset(stream)].concat()
    });
    let pairs: Vec<u8> = pairs.collect();
    client.try_send(&pairs);
    client.reason();
}

/// A reset request has left HTTP/2, and its handler still runs: it counts.
fn slow_reset(path: &Path, gate: &Gate) {
    let mut client = Client::connect(path, &[]);
    let block = request("GET", "/wait");
    for number in 0..STREAMS {
        client.send(&headers(2 * number + 1, &block));
        gate.wait_for(number as usize + 1);
        client.send(&reset(2 * number + 1));
    }
    for number in STREAMS..2 * STREAMS {
        client.send(&headers(2 * number + 1, &block));
        assert_eq!(client.is_reset(2 * number + 1), REFUSED_STREAM);
    }
    assert_eq!(gate.waiting.load(Ordering::SeqCst), STREAMS as usize);
}

/// Of HTTP/2 by a reset, of HTTP/1 by the end of the connection.
fn cancelled(path: &Path, gate: &Gate, target: &str) {
    let mut client = Client::connect(path, &[]);
    client.send(&headers(1, &request("GET", target)));
    let mut old = std::os::unix::net::UnixStream::connect(path).expect("connect");
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    old.write_all(head.as_bytes()).expect("send");
    gate.wait_for(2);
    drop(old);
    client.send(&reset(1));
    client.send(&frame(PING, 0, 0, &[0; 8]));
    // Frames are taken up in turn.
    client.receive_until(|frame| frame.kind == PING);
    gate.open();
    gate.wait_for(4);
}

fn too_many(path: &Path, gate: &Gate) {
    let mut client = Client::connect(path, &[]);
    let block = request("GET", "/wait");
    for number in 0..=STREAMS {
        client.send(&headers(2 * number + 1, &block));
    }
    assert_eq!(client.is_reset(2 * STREAMS + 1), REFUSED_STREAM);
    gate.wait_for(STREAMS as usize);
    gate.open();
    let ended = client.receive_until(Frame::ends_stream);
    assert!(ended.stream < 2 * STREAMS);
}

fn continuations(path: &Path, fragment: &[u8]) {
    let mut client = Client::connect(path, &[]);
    client.send(&frame(HEADERS, END_STREAM, 1, GET));
    let one = frame(CONTINUATION, 0, 1, fragment);
    send_many(&mut client, &one);
}

/// Sends a frame again and again, until the server ends the connection.
fn flood(path: &Path, one: &[u8]) {
    let mut client = Client::connect(path, &[]);
    send_many(&mut client, one);
}

fn send_many(client: &mut Client, one: &[u8]) {
    let many = one.repeat(1000);
    let _ = (0..MANY / 1000).all(|_| client.try_send(&many));
    // The connection ends before the deadline.
    client.reason();
}

/// Frames of a body that never gets longer.
fn empty_data(path: &Path, flags: u8) {
    let mut client = Client::connect(path, &[]);
    let block = request("POST", "/body");
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    let padding: &[u8] = if flags == PADDED { &[0] } else { &[] };
    send_many(&mut client, &frame(DATA, flags, 1, padding));
}

/// One field of 4 kB in the table, and a thousand references to it.
fn hpack_bomb(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    // A literal with indexing: a name of one letter, and a value of 4,000 bytes (127 + 0x21 + 0x1e << 7).
    let mut block = [GET, &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]].concat();
    block.extend([b'b'; 4000]);
    block.extend([0xbe; 1000]);
    client.send(&headers(1, &block));
    refused(&mut client, 1);
}

/// Many small fields.
fn large_list(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    let block = [GET, &field("x", "b").repeat(3000)].concat();
    let mut parts = block.chunks(1000);
    let first = parts.next().expect("a first part");
    let mut bytes = frame(HEADERS, END_STREAM, 1, first);
    let rest: Vec<_> = parts.collect();
    for (at, part) in rest.iter().enumerate() {
        let flags = if at + 1 == rest.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, part));
    }
    client.send(&bytes);
    refused(&mut client, 1);
}

/// The request is answered with an error, or reset, or the connection ends.
fn refused(client: &mut Client, stream: u32) {
    while let Some(frame) = client.receive() {
        if frame.stream == stream && frame.kind == HEADERS {
            assert_ne!(frame.payload[0], OK, "the request was served");
            return;
        }
        if frame.kind == RST_STREAM || frame.kind == GOAWAY {
            return;
        }
    }
}

fn shut_window(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &setting(INITIAL_WINDOW_SIZE, 0));
    client.send(&headers(1, GET));
    let head = client.receive_until(|frame| frame.kind == HEADERS);
    assert_eq!(head.payload[0], OK);
    // The response has no room, so it is given up.
    client.is_reset(1);
    // Without content no window is needed.
    let answer = client.ask(3, &request("HEAD", "/"));
    assert_eq!(answer[0], OK);
}

/// What the client takes of one response keeps no other, which it gives no room.
fn one_window(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &setting(INITIAL_WINDOW_SIZE, 0));
    client.send(&headers(1, &request("GET", "/large")));
    client.send(&headers(3, &request("GET", "/endless")));
    for stream in [0, 3] {
        let wide = 0x7fff_0000_u32.to_be_bytes();
        client.send(&frame(WINDOW_UPDATE, 0, stream, &wide));
    }
    client.receive_until(|frame| {
        // The server has always more to send.
        socketserver::task::sleep(Duration::from_millis(1));
        frame.kind == RST_STREAM && frame.stream == 1
    });
}

/// The windows are wide open, but the client does not read: the server's buffers are full, and it gives up.
fn unread_answers(path: &Path, _: &Gate) {
    let wide = setting(INITIAL_WINDOW_SIZE, 0x7fff_ffff);
    let mut client = Client::connect(path, &wide);
    client.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    let block = request("GET", "/large");
    for number in 0..MANY {
        if !client.try_send(&headers(2 * number + 1, &block)) {
            return;
        }
    }
    panic!("the server takes everything");
}

/// The handler has ended, and the rest of its answer waits in the server until the client reads.
fn late_reader(path: &Path, gate: &Gate) {
    let wide = setting(INITIAL_WINDOW_SIZE, 0x7fff_ffff);
    let mut client = Client::connect(path, &wide);
    client.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    client.send(&headers(1, &request("GET", "/medium")));
    gate.wait_for(1);
    assert_eq!(client.answer(1)[0], OK);
}

enum Refusal {
    /// 400.
    Status,
    Reset,
}

fn malformed(path: &Path, block: &[u8], refusal: Refusal) {
    let mut client = Client::connect(path, &[]);
    match refusal {
        // The indexed field `:status: 400`.
        Refusal::Status => assert_eq!(client.ask(1, block)[0], 0x8c),
        Refusal::Reset => {
            client.send(&headers(1, block));
            assert_eq!(client.is_reset(1), PROTOCOL_ERROR);
        }
    }
    assert_eq!(client.ask(3, GET)[0], OK, "on the same connection");
}

/// RFC 9110, section 10.1.1. A handler that does not read the body promises nothing.
fn expectation(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    let expects = field("expect", "100-continue");
    let block = [request("POST", "/body"), expects.clone()].concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    let head = client.receive_until(|frame| frame.stream == 1);
    assert!(head.kind == HEADERS && !head.ends_stream(), "{head:?}");
    client.send(&frame(DATA, END_STREAM, 1, b"body"));
    assert_eq!(client.answer(1)[0], OK);
    let block = [request("POST", "/"), expects].concat();
    client.send(&frame(HEADERS, END_HEADERS, 3, &block));
    assert_eq!(client.answer(3)[0], OK);
}

/// The limit is 2 MiB. The client sends nothing of its body.
fn announced(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    let length = field("content-length", "3000000");
    let block = [
        request("POST", "/body"),
        length,
        field("expect", "100-continue"),
    ]
    .concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    let head = client.answer(1);
    // `:status: 413`, with its name from the static table.
    assert_eq!(head[..5], [0x48, 0x83, 0x68, 0x2c, 0xff], "{head:x?}");
}

fn wrong_length(path: &Path, _: &Gate) {
    let mut client = Client::connect(path, &[]);
    let block = [request("POST", "/body"), field("content-length", "3")].concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    client.send(&frame(DATA, END_STREAM, 1, b"four"));
    let reset = client.receive_until(|frame| frame.stream == 1 && frame.kind != WINDOW_UPDATE);
    assert_eq!((reset.kind, reset.code()), (RST_STREAM, PROTOCOL_ERROR));
}
