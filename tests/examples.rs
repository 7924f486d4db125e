//! Every example as its user runs it: a process of its own, and a client that talks to it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, getrlimit, kill_process, pidfd_open, prlimit,
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tempfile::TempDir;

/// How long a test waits for anything before it fails.
const DEADLINE: Duration = Duration::from_secs(10);

/// The examples that have a test here. Its name begins with that of the example.
const TESTED: [&str; 16] = [
    "chat",
    "hello",
    "udp_echo",
    "unix_datagram_log",
    "key_value",
    "http_hello",
    "request_handler",
    "two_transports",
    "graceful_stop",
    "background",
    "hooks",
    "inetd",
    "prefork",
    "poll_loop",
    "adopted_socket",
    "own_transport",
];

#[test]
fn every_example_is_short_and_has_its_test_and_its_line_in_the_index() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let index = fs::read_to_string(directory.join("README.md")).expect("the index");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&directory).expect("examples/") {
        let path = entry.expect("an entry of examples/").path();
        let Some(name) = path.to_str().and_then(|path| path.strip_suffix(".rs")) else {
            continue;
        };
        let name = name.rsplit('/').next().unwrap_or(name).to_owned();
        let lines = fs::read_to_string(&path).expect("a text").lines().count();
        let most = if name == "hello" { 15 } else { 59 };
        assert!(lines <= most, "{name} has {lines} lines, more than {most}");
        // At the end of a command in code, or with arguments.
        let command = |end| {
            index.contains(&format!("cargo run --example {name}{end}"))
                || index.contains(&format!("--features coroutines --example {name}{end}"))
        };
        assert!(command('`') || command(' '), "{name} is not in the index");
        found.insert(name);
    }
    assert_eq!(found, BTreeSet::from(TESTED.map(str::to_owned)));
    for name in TESTED {
        // In two parts, so that this line is not the test.
        let test = format!("#[test]{}fn {name}_", '\n');
        let tested = include_str!("examples.rs").contains(&test);
        assert!(tested, "{name} has no test");
    }
}

#[test]
fn chat_sends_each_line_to_everybody() {
    let (_example, addr) = Example::on_tcp("chat");
    let mut first = connect(addr);
    assert_eq!(first.ask("alone"), "1: alone");
    let mut second = connect(addr);
    assert_eq!(second.ask("hello"), "2: hello");
    assert_eq!(first.line(), "2: hello");
}

#[test]
fn hello_greets_every_client() {
    let (_example, addr) = Example::on_tcp("hello");
    assert_eq!(connect(addr).rest(), "hello world\n");
    assert_eq!(connect(addr).rest(), "hello world\n");
}

#[test]
fn udp_echo_sends_every_datagram_back() {
    let example = Example::start("udp_echo", &["127.0.0.1:0"]);
    let addr = example.inet("udp");
    for datagram in ["one", "", "three"] {
        assert_eq!(ask_udp(addr, datagram), datagram);
    }
}

#[test]
fn unix_datagram_log_numbers_the_lines_that_anyone_sends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "log.sock");
    let example = Example::start("unix_datagram_log", &[&path]);
    assert_eq!(example.url(), format!("unixgram://{path}"));
    let mode = fs::metadata(&path)
        .expect("the socket's file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o666);
    for (text, line) in [("one\n", "0001 one"), ("two", "0002 two")] {
        let client = UnixDatagram::unbound().expect("a socket");
        client.send_to(text.as_bytes(), &path).expect("send");
        assert_eq!(example.output.next(), line);
    }
}

#[test]
fn key_value_shares_its_store_between_clients_that_stay() {
    let (_example, addr) = Example::on_tcp("key_value");
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

#[test]
fn http_hello_serves_its_page_and_turns_nonsense_down() {
    let (_example, addr) = Example::on_tcp("http_hello");
    let get = |request: &str| {
        let mut client = connect(addr);
        client.send(request);
        client.rest()
    };
    // Others are served while one client says nothing.
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

#[test]
fn request_handler_knows_its_user_and_finishes_in_any_case() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "shout.sock");
    let example = Example::start("request_handler", &[&path]);
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
    assert_eq!(client.rest(), "", "what is no text ends its connection");
    assert_eq!(example.errors.next(), format!("user {user} sent 0 lines"));
}

#[test]
fn two_transports_reverses_lines_on_both() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "reverse.sock");
    let example = Example::start("two_transports", &["127.0.0.1:0", &path]);
    let addr = example.inet("tcp");
    assert_eq!(example.url(), format!("unix://{path}"));
    let (mut tcp, mut unix) = (connect(addr), connect_unix(&path));
    assert_eq!(tcp.ask("stressed"), "desserts");
    assert_eq!(unix.ask("drawer"), "reward");
    assert_eq!(tcp.ask("live"), "evil");
}

#[test]
fn graceful_stop_lets_clients_finish_and_cuts_the_silent() {
    let (mut example, addr) = Example::on_tcp("graceful_stop");
    let (mut busy, mut silent, mut boss) = (connect(addr), connect(addr), connect(addr));
    for client in [&mut busy, &mut silent, &mut boss] {
        assert_eq!(client.line(), "your line?");
    }
    boss.send("stop\n");
    assert_eq!(boss.rest(), "");
    busy.send("late\n");
    assert_eq!(busy.rest(), "LATE\n", "an answer, and no other question");
    assert_eq!(silent.rest(), "");
    assert_eq!(example.errors.next(), "1 of 3 clients were cut");
    assert!(example.end().success());
}

#[test]
fn background_counts_its_clients_and_stops_at_the_end_of_input() {
    let mut command = example("background", &["127.0.0.1:0"]);
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
    assert_eq!(example.output.next(), "1 served, 0 cut");
    assert!(example.end().success());
}

#[test]
fn hooks_tell_what_is_turned_away_and_what_fails() {
    let example = Example::start("hooks", &["127.0.0.1:0", "127.0.0.2"]);
    let addr = example.inet("tcp");

    let other = SocketAddr::from(([127, 0, 0, 2], 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&other.into()).expect("bind");
    let connected = socket.connect_timeout(&addr.into(), DEADLINE);
    connected.expect("connect");
    assert_eq!(Client::new(TcpStream::from(socket)).rest(), "");
    example.errors.wait_for("turned away: 127.0.0.2");
    example.errors.wait_for("still accepting");

    assert_eq!(connect(addr).ask("21"), "42");
    let failure = |request: &str| {
        let mut client = connect(addr);
        client.send(request);
        assert_eq!(client.rest(), "");
        example.errors.wait_for("failed: request ")
    };
    let nonsense = failure("many\n");
    assert!(nonsense.starts_with("3 from 127.0.0.1:"), "{nonsense}");
    assert!(nonsense.ends_with(": invalid digit found in string"));
    let large = failure(&format!("{}\n", i64::MAX));
    assert!(large.ends_with(": too large"), "{large}");

    // It may open no descriptor more, until it may again.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(3);
    let old = prlimit(Some(example.pid()), Resource::Nofile, limit).expect("lower its limit");
    let mut client = connect(addr);
    let error = example.errors.wait_for("accepting: accept on tcp://");
    assert!(error.contains("Too many open files"), "{error}");
    prlimit(Some(example.pid()), Resource::Nofile, old).expect("raise its limit");
    assert_eq!(client.ask("5"), "10");
}

#[test]
fn inetd_becomes_the_program_for_each_connection() {
    let program = ["127.0.0.1:0", "sh", "-c", "echo $$; exec cat"];
    let example = Example::start("inetd", &program);
    let addr = example.inet("tcp");
    let (mut one, mut two) = (connect(addr), connect(addr));
    let pids = BTreeSet::from([one.line(), two.line(), example.child.id().to_string()]);
    assert_eq!(pids.len(), 3, "each in a process of its own: {pids:?}");
    assert_eq!(two.ask("to the second"), "to the second");
    assert_eq!(one.ask("to the first"), "to the first");
    one.end_input();
    assert_eq!(one.rest(), "");

    let example = Example::start("inetd", &["127.0.0.1:0", "/no/such/program"]);
    assert_eq!(connect(example.inet("tcp")).rest(), "");
    let error = example.errors.wait_for("request 1 from 127.0.0.1:");
    let reason = error.ends_with(": No such file or directory (os error 2)");
    assert!(reason, "{error}");
}

#[test]
fn prefork_answers_from_its_workers_and_replaces_the_dead() {
    let (example, addr) = Example::on_tcp("prefork");
    assert_eq!(example.errors.next(), "all workers accept");
    let children = format!("/proc/{0}/task/{0}/children", example.child.id());
    let children = fs::read_to_string(children).expect("its children");
    let workers: Vec<_> = children.split_whitespace().collect();
    assert_eq!(workers.len(), 4);

    let server = |request| {
        let answer = connect(addr).rest();
        let start = format!("request {request} in process ");
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

#[test]
fn poll_loop_serves_both_and_ends_when_told() {
    let mut example = Example::start("poll_loop", &["127.0.0.1:0"]);
    let (tcp, udp) = (example.inet("tcp"), example.inet("udp"));
    assert_eq!(ask_udp(udp, "?"), "0 greeted\n");
    for _ in 0..2 {
        assert_eq!(connect(tcp).rest(), "hello world\n");
    }
    assert_eq!(ask_udp(udp, "?"), "2 greeted\n");
    assert_eq!(ask_udp(udp, "stop\n"), "2 greeted\n");
    assert!(example.end().success());
}

#[test]
fn adopted_socket_serves_on_its_standard_input() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("bound");
    let mut command = example("adopted_socket", &[]);
    command.stdin(OwnedFd::from(listener));
    let example = Example::launch(command);
    assert_eq!(example.inet("tcp"), addr);
    assert_eq!(connect(addr).rest(), "hello world\n");

    let (_example, addr) = Example::on_tcp("adopted_socket");
    assert_eq!(connect(addr).rest(), "hello world\n");
}

#[test]
fn own_transport_keeps_messages_apart() {
    let name = format!("socketserver-example-{}", std::process::id());
    let example = Example::start("own_transport", &[&name]);
    assert_eq!(example.url(), format!("seqpacket:@{name}"));
    let mut client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    set_deadlines(SockRef::from(&client));
    let addr = SockAddr::unix(format!("\0{name}")).expect("a name");
    client.connect(&addr).expect("connect");
    for message in ["one", "three"] {
        client.send(message.as_bytes()).expect("send");
    }
    let mut message = [0; 100];
    for expected in ["one", "three"] {
        let length = client.read(&mut message).expect("a message in time");
        assert_eq!(&message[..length], expected.as_bytes());
    }
}

/// The command that runs an example, as cargo has built it.
fn example(name: &str, args: &[&str]) -> Command {
    // It is target/debug/deps/examples-0123456789abcdef.
    let tests = std::env::current_exe().expect("this binary");
    let target = tests.ancestors().nth(2).expect("a folder");
    let program = target.join("examples").join(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let source = sources.join(format!("{name}.rs"));
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    // `cargo test --test examples` alone does not build them.
    assert!(
        changed(&program) >= changed(&source),
        "{} is not there or is out of date; `cargo build --examples` builds it",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// An example that runs. Killed when dropped.
struct Example {
    child: Child,
    output: Lines,
    errors: Lines,
}

impl Example {
    fn start(name: &str, args: &[&str]) -> Self {
        Self::launch(example(name, args))
    }

    fn launch(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start an example");
        let output = Lines::of(child.stdout.take().expect("piped"));
        let errors = Lines::of(child.stderr.take().expect("piped"));
        Self {
            child,
            output,
            errors,
        }
    }

    /// Starts one that takes one TCP address.
    fn on_tcp(name: &str) -> (Self, SocketAddr) {
        let example = Self::start(name, &["127.0.0.1:0"]);
        let addr = example.inet("tcp");
        (example, addr)
    }

    /// The next URL that it says it listens on.
    fn url(&self) -> String {
        let line = self.errors.next();
        line.strip_prefix("listening on ").expect(&line).to_owned()
    }

    /// The address of the next URL, of this scheme.
    fn inet(&self, scheme: &str) -> SocketAddr {
        let url = self.url();
        let addr = url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"));
        addr.and_then(|addr| addr.parse().ok()).expect(&url)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it has ended by itself.
    fn end(&mut self) -> ExitStatus {
        End::of(self.pid()).wait();
        self.child.wait().expect("wait for it")
    }
}

/// The end of a process, which can be waited for with a deadline.
struct End(OwnedFd);

impl End {
    fn of(pid: Pid) -> Self {
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("a process that was not waited for"))
    }

    fn wait(&self) {
        let deadline = Timespec::try_from(DEADLINE).expect("a timespec");
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&deadline));
        assert_eq!(ended, Ok(1), "a process ends within the deadline");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, each waited for within the deadline.
struct Lines(Receiver<String>);

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(lines)
    }

    fn next(&self) -> String {
        self.0
            .recv_timeout(DEADLINE)
            .expect("a line within the deadline")
    }

    /// Passes over lines until one begins like this, and returns the rest of it.
    fn wait_for(&self, start: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut passed = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.0.recv_timeout(left) else {
                panic!("no line began with {start:?}, but there were {passed:?}");
            };
            match line.strip_prefix(start) {
                Some(rest) => return rest.to_owned(),
                None => passed.push(line),
            }
        }
    }
}

/// A stream client, of which every wait has a deadline.
struct Client<S>(BufReader<S>);

impl<S: Read + Write + AsFd> Client<S> {
    fn new(stream: S) -> Self {
        set_deadlines(SockRef::from(&stream));
        Self(BufReader::new(stream))
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.0
            .get_mut()
            .write_all(bytes)
            .expect("send within the deadline");
    }

    fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    fn end_input(&self) {
        SockRef::from(self.0.get_ref())
            .shutdown(Shutdown::Write)
            .expect("end the input");
    }

    /// The next line, without its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0
            .read_line(&mut line)
            .expect("a line within the deadline");
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n"));
        self.line()
    }

    /// All that still comes, up to the end.
    fn rest(mut self) -> String {
        let mut text = String::new();
        self.0
            .read_to_string(&mut text)
            .expect("the end within the deadline");
        text
    }
}

fn set_deadlines(socket: SockRef<'_>) {
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    socket
        .set_write_timeout(Some(DEADLINE))
        .expect("set a deadline");
}

fn connect(addr: SocketAddr) -> Client<TcpStream> {
    Client::new(TcpStream::connect_timeout(&addr, DEADLINE).expect("connect"))
}

fn connect_unix(path: &str) -> Client<UnixStream> {
    Client::new(UnixStream::connect(path).expect("connect"))
}

/// Sends a datagram, and returns the answer.
fn ask_udp(addr: SocketAddr, datagram: &str) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&client));
    client.connect(addr).expect("connect");
    client.send(datagram.as_bytes()).expect("send");
    let mut answer = [0; 1024];
    let length = client
        .recv(&mut answer)
        .expect("an answer within the deadline");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn path_in(directory: &TempDir, name: &str) -> String {
    directory
        .path()
        .join(name)
        .to_str()
        .expect("a path of text")
        .to_owned()
}
