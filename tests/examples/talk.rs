//! The clients: one conversation for each example, with any of its programs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, prlimit};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::is_there;
use crate::program::{
    Client, DEADLINE, End, Example, Program, ask_udp, connect, connect_unix, path_in, set_deadlines,
};

pub(crate) use crate::at_once::{chat, pool, proxy, pubsub, websocket};

pub(crate) fn counting(program: Program) {
    let (_example, addr) = program.on_tcp();
    let (mut first, mut second) = (connect(addr), connect(addr));
    assert_eq!(first.ask("one"), "4 received, 0 sent: one");
    assert_eq!(second.ask("three"), "6 received, 0 sent: three");
    assert_eq!(first.ask(""), "5 received, 24 sent: ");
}

pub(crate) fn hello(program: Program) {
    let (_example, addr) = program.on_tcp();
    assert_eq!(connect(addr).rest(), "hello world\n");
    assert_eq!(connect(addr).rest(), "hello world\n");
}

pub(crate) fn udp_echo(program: Program) {
    let example = program.start(&["127.0.0.1:0"]);
    let addr = example.inet("udp");
    for datagram in ["one", "", "three"] {
        assert_eq!(ask_udp(addr, datagram), datagram);
    }
}

pub(crate) fn http_hello(program: Program) {
    let (_example, addr) = program.on_tcp();
    let get = |request: &str| {
        let mut client = connect(addr);
        client.send(request);
        client.rest()
    };
    // The server answers other clients while one is silent.
    let _silent = connect(addr);
    let page = get("GET / HTTP/1.1\r\nHost: example\r\n\r\n");
    let (head, body) = page.split_once("\r\n\r\n").expect("a head and a body");
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nConnection: close"
    );
    assert_eq!(body, "hello world\n");
    let start = |answer: String| answer.lines().next().map(str::to_owned);
    assert_eq!(
        start(get("GET /other HTTP/1.1\r\n\r\n")).as_deref(),
        Some("HTTP/1.1 404 Not Found")
    );
    let long = format!("GET / HTTP/1.1\r\nLong: {}\r\n\r\n", "x".repeat(9000));
    for nonsense in ["nonsense\r\n\r\n", &long] {
        assert_eq!(
            start(get(nonsense)).as_deref(),
            Some("HTTP/1.1 400 Bad Request")
        );
    }
}

pub(crate) fn login(program: Program) {
    let (_example, addr) = program.on_tcp();
    let [mut ada, mut bob] = [connect(addr), connect(addr)];
    assert_eq!(ada.ask("login Ada"), "hello, Ada");
    assert_eq!(bob.ask("who is there?"), "say: login NAME");
    assert_eq!(bob.ask("login Bob"), "hello, Bob");
    for line in 1..=3 {
        assert_eq!(ada.ask("one more"), format!("Ada, line {line}: one more"));
        assert_eq!(bob.ask("me too"), format!("Bob, line {line}: me too"));
    }
    ada.end_input();
    assert_eq!(ada.rest(), "");
    let mut stranger = connect(addr);
    for _ in 0..3 {
        assert_eq!(stranger.ask("hello?"), "say: login NAME");
    }
    assert_eq!(stranger.rest(), "", "and no more tries");
}

pub(crate) fn request_handler(program: Program) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "shout.sock");
    let example = program.start(&[&path]);
    assert_eq!(example.url(), format!("unix://{path}"));
    let user = rustix::process::getuid().as_raw();
    let greeting = format!("hello, user {user}");

    let mut client = connect_unix(&path);
    assert_eq!(client.line(), greeting);
    assert_eq!(client.ask("loud"), "LOUD");
    client.end_input();
    assert_eq!(client.rest(), "");
    assert_eq!(example.errors.next(), format!("user {user} sent 1 lines"));

    let mut client = connect_unix(&path);
    assert_eq!(client.line(), greeting);
    client.send_bytes(b"\xff\n");
    assert_eq!(
        client.rest(),
        "",
        "a line that is not UTF-8 ends its connection"
    );
    assert_eq!(example.errors.next(), format!("user {user} sent 0 lines"));
}

pub(crate) fn two_transports(program: Program) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "reverse.sock");
    let example = program.start(&["127.0.0.1:0", &path]);
    let addr = example.inet("tcp");
    assert_eq!(example.url(), format!("unix://{path}"));
    let (mut tcp, mut unix) = (connect(addr), connect_unix(&path));
    assert_eq!(tcp.ask("stressed"), "desserts");
    assert_eq!(unix.ask("drawer"), "reward");
    assert_eq!(tcp.ask("live"), "evil");
}

pub(crate) fn graceful_stop(program: Program) {
    let (mut example, addr) = program.on_tcp();
    let (mut busy, mut silent, mut boss) = (connect(addr), connect(addr), connect(addr));
    for client in [&mut busy, &mut silent, &mut boss] {
        assert_eq!(client.line(), "your line?");
    }
    boss.send("stop\n");
    assert_eq!(boss.rest(), "");
    busy.send("late\n");
    assert_eq!(busy.rest(), "LATE\n", "an answer, and no other question");
    assert_eq!(silent.rest(), "");
    assert_eq!(example.errors.next(), "0 of 3 clients were aborted");
    assert!(example.end().success());
}

pub(crate) fn background(program: Program) {
    let mut command = program.command(&["127.0.0.1:0"]);
    command.stdin(Stdio::piped());
    let mut example = Example::launch(command);
    let mut input = example.child.stdin.take().expect("piped");
    let mut count = |example: &Example| {
        input.write_all(b"\n").expect("write to its standard input");
        example.output.next()
    };
    let addr = example.inet("tcp");
    assert_eq!(count(&example), "0 came");
    let mut client = connect(addr);
    assert_eq!(client.line(), "who are you?");
    assert_eq!(count(&example), "1 came");
    assert_eq!(client.ask("Ada"), "hello Ada");
    drop(input);
    assert_eq!(example.output.next(), "1 served, 0 aborted");
    assert!(example.end().success());
}

pub(crate) fn hooks(program: Program) {
    let example = program.start(&["127.0.0.1:0", "127.0.0.2"]);
    let addr = example.inet("tcp");

    let other = SocketAddr::from(([127, 0, 0, 2], 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&other.into()).expect("bind");
    let connected = socket.connect_timeout(&addr.into(), DEADLINE);
    connected.expect("connect");
    assert_eq!(Client::new(TcpStream::from(socket)).rest(), "");
    example.errors.wait_for("refused: 127.0.0.2");
    example.errors.wait_for("still accepting");

    assert_eq!(connect(addr).ask("21"), "42");
    let failure = |request: &str| {
        let mut client = connect(addr);
        client.send(request);
        assert_eq!(client.rest(), "");
        example.errors.wait_for("failed: connection ")
    };
    let nonsense = failure("many\n");
    assert!(nonsense.starts_with("3 from 127.0.0.1:"), "{nonsense}");
    assert!(nonsense.ends_with(": invalid digit found in string"));
    let large = failure(&format!("{}\n", i64::MAX));
    assert!(large.ends_with(": too large"), "{large}");

    // The program may open no more descriptors, until the limit is lifted.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(3);
    let old = prlimit(Some(example.pid()), Resource::Nofile, limit).expect("lower its limit");
    let mut client = connect(addr);
    let error = example.errors.wait_for("accepting: accept on tcp://");
    assert!(error.contains("Too many open files"), "{error}");
    prlimit(Some(example.pid()), Resource::Nofile, old).expect("raise its limit");
    assert_eq!(client.ask("5"), "10");
}

pub(crate) fn inetd(program: Program) {
    let example = program.start(&["127.0.0.1:0", "sh", "-c", "echo $$; exec cat"]);
    let addr = example.inet("tcp");
    let (mut one, mut two) = (connect(addr), connect(addr));
    let pids = BTreeSet::from([one.line(), two.line(), example.child.id().to_string()]);
    assert_eq!(pids.len(), 3, "each in a process of its own: {pids:?}");
    assert_eq!(two.ask("to the second"), "to the second");
    assert_eq!(one.ask("to the first"), "to the first");
    one.end_input();
    assert_eq!(one.rest(), "");

    let example = program.start(&["127.0.0.1:0", "/no/such/program"]);
    assert_eq!(connect(example.inet("tcp")).rest(), "");
    let error = example.errors.wait_for("connection 1 from 127.0.0.1:");
    let reason = error.ends_with(": No such file or directory (os error 2)");
    assert!(reason, "{error}");
}

pub(crate) fn prefork(program: Program) {
    let (example, addr) = program.on_tcp();
    assert_eq!(example.errors.next(), "all workers accept");
    let children = format!("/proc/{0}/task/{0}/children", example.child.id());
    let children = fs::read_to_string(children).expect("its children");
    let workers: Vec<_> = children.split_whitespace().collect();
    assert_eq!(workers.len(), 4);

    let server = |number| {
        let answer = connect(addr).rest();
        let start = format!("connection {number} in process ");
        let pid = answer.trim_end().strip_prefix(&start);
        pid.expect(&answer).to_owned()
    };
    let first = server(1);
    assert!(workers.contains(&&*first), "{first} is none of {workers:?}");

    let mut ends = Vec::new();
    for worker in &workers {
        let pid = worker.parse().ok().and_then(Pid::from_raw);
        let pid = pid.expect("a process id");
        ends.push(End::of(pid));
        kill_process(pid, Signal::KILL).expect("kill a worker");
    }
    ends.iter().for_each(End::wait);
    example.errors.wait_for("worker process: ");
    let second = server(2);
    assert!(!workers.contains(&&*second), "{second} was killed");
}

pub(crate) fn poll_loop(program: Program) {
    let mut example = program.start(&["127.0.0.1:0"]);
    let (tcp, udp) = (example.inet("tcp"), example.inet("udp"));
    assert_eq!(ask_udp(udp, "?"), "0 greeted\n");
    for _ in 0..2 {
        assert_eq!(connect(tcp).rest(), "hello world\n");
    }
    assert_eq!(ask_udp(udp, "?"), "2 greeted\n");
    assert_eq!(ask_udp(udp, "stop\n"), "2 greeted\n");
    assert!(example.end().success());
}

pub(crate) fn adopted_socket(program: Program) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound");
    let mut command = program.command(&[]);
    command.stdin(OwnedFd::from(listener));
    let example = Example::launch(command);
    assert_eq!(example.inet("tcp"), addr);
    assert_eq!(connect(addr).rest(), "hello world\n");

    let (_example, addr) = program.on_tcp();
    assert_eq!(connect(addr).rest(), "hello world\n");
}

pub(crate) fn messages(program: Program) {
    own_transport(program);
}

pub(crate) fn own_transport(program: Program) {
    // Other trials and other runs use names too.
    let name = format!("{program:?} {}", std::process::id()).replace('"', "");
    let example = program.start(&[&name]);
    assert_eq!(example.url(), format!("seqpacket:@{name}"));
    let addr = SockAddr::unix(format!("\0{name}")).expect("a name");
    // More clients than workers or threads of a pool: each stays connected, and the next is served.
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        set_deadlines(SockRef::from(&client));
        client.connect(&addr).expect("connect");
        for message in ["one", "three"] {
            client.send(message.as_bytes()).expect("send");
        }
        let mut message = [0; 100];
        for expected in ["one", "three"] {
            let length = client.read(&mut message).expect("a message in time");
            assert_eq!(&message[..length], expected.as_bytes());
        }
        clients.push(client);
    }
}

pub(crate) fn unix_datagram_log(program: Program) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = &path_in(&directory, "log.sock");
    let example = program.start(&[path]);
    assert_eq!(example.url(), format!("unixgram://{path}"));
    let file = fs::metadata(path).expect("the socket's file");
    assert_eq!(file.permissions().mode() & 0o777, 0o666);
    for (text, line) in [("one\n", "0001 one"), ("two", "0002 two")] {
        let client = UnixDatagram::unbound().expect("a socket");
        client.send_to(text.as_bytes(), path).expect("send");
        assert_eq!(example.output.next(), line);
    }
    if is_there("logger") {
        let status = Command::new("logger")
            .args(["--udp", "--socket", path, "--tag", "someone", "three"])
            .status();
        assert!(status.expect("logger").success());
        let line = example.output.next();
        assert!(line.starts_with("0003 <13>"), "{line}");
        assert!(line.ends_with("someone: three"), "{line}");
    }
}

pub(crate) fn key_value(program: Program) {
    let (_example, addr) = program.on_tcp();
    store(addr);
}

pub(crate) fn resolver(program: Program) {
    let (_example, addr) = program.on_tcp();
    let (mut client, mut other) = (connect(addr), connect(addr));
    assert_eq!(client.ask("127.0.0.1"), "127.0.0.1");
    let local = other.ask("localhost");
    assert!(
        local
            .split(' ')
            .any(|addr| addr == "127.0.0.1" || addr == "::1"),
        "{local}"
    );
    // The resolver needs no name server for this name.
    let nonsense = client.ask("no\0name");
    assert!(nonsense.starts_with("error: "), "{nonsense}");
    assert_eq!(client.ask("::1"), "::1");
}

pub(crate) fn store(addr: SocketAddr) {
    let (mut one, mut two) = (connect(addr), connect(addr));
    assert_eq!(one.ask("set colour light blue"), "none");
    assert_eq!(two.ask("get colour"), "value light blue");
    assert_eq!(two.ask("set colour red"), "value light blue");
    assert_eq!(one.ask("del colour"), "value red");
    assert_eq!(two.ask("get colour"), "none");
    assert_eq!(two.ask("get"), "error: set KEY VALUE, get KEY or del KEY");
    two.send(&format!("set long {}\n", "x".repeat(4096)));
    assert_eq!(
        two.rest(),
        "",
        "a line that is too long ends its connection"
    );
    assert_eq!(one.ask("get long"), "none");
}

/// The files of the TFTP server: none, part of a block, a whole one, many.
const FILES: [(&str, usize); 4] = [
    ("empty", 0),
    ("short", 5),
    ("whole", 512),
    ("long", 200_000),
];

pub(crate) fn tftp(program: Program) {
    let directory = tempfile::tempdir().expect("a directory");
    let files = FILES.map(|(name, size)| {
        let data: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        fs::write(directory.path().join(name), &data).expect("write");
        (name, data)
    });
    let example = program.start(&["127.0.0.1:0", &path_in(&directory, "")]);
    let addr = example.inet("udp");
    for name in ["missing", "../secret", ""] {
        assert_eq!(fetch(addr, name), Err("no such file".to_owned()));
    }
    let curl = is_there("curl");
    for (name, data) in files {
        if curl {
            let url = format!("tftp://{addr}/{name}");
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "10", &url])
                .output();
            let output = output.expect("curl");
            assert!(output.status.success(), "{name}: {output:?}");
            assert!(output.stdout == data, "{name}: {}", output.stdout.len());
        }
        assert_eq!(fetch(addr, name), Ok(data), "{name}");
    }
}

/// A TFTP client: requests a file, and acknowledges each block to the socket that has sent it.
fn fetch(addr: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&client));
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0"].concat();
    client.send_to(&request, addr).expect("send");
    let mut data = Vec::new();
    let mut expected = 1u16;
    loop {
        let mut message = [0; 600];
        let (length, from) = client.recv_from(&mut message).expect("a block in time");
        match message[..4] {
            [0, 3, high, low] if u16::from_be_bytes([high, low]) == expected => {
                assert_ne!(from, addr, "each transfer has a socket of its own");
                data.extend_from_slice(&message[4..length]);
                client.send_to(&[0, 4, high, low], from).expect("send");
                expected = expected.wrapping_add(1);
                if length < 4 + 512 {
                    return Ok(data);
                }
            }
            [0, 5, ..] => {
                let text = String::from_utf8_lossy(&message[4..length]);
                return Err(text.trim_end_matches('\0').to_owned());
            }
            _ => {}
        }
    }
}
