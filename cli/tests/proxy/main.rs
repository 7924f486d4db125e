//! `socketserver proxy` from outside: streams, messages and datagrams to upstreams of every kind, under every model.

#[path = "../support/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "what only other tests need is not used here")]
#[path = "../support/mod.rs"]
mod support;

mod clients;
mod datagrams;
mod headers;
mod stop;
mod streams;
mod tls;
mod upstreams;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use support::{DEADLINE, Process, Server, command, poll_until};

const LOCAL: &str = "tcp://127.0.0.1:0";

/// The models, with as few workers as show that there are several.
const MODELS: [&str; 8] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "coroutines --workers 2",
    "coroutines --workers 1 --driver epoll",
    "prefork:coroutines --workers 2",
];

/// The command `proxy` with words, upstreams and listeners.
fn proxy_command(words: &str, to: &[&str], listen: &[&str]) -> Command {
    let mut command = command(&format!("proxy {words}"), listen);
    for url in to {
        command.args(["--to", url]);
    }
    command
}

/// A proxy that is ready.
#[track_caller]
fn proxy(words: &str, to: &[&str], listen: &[&str]) -> Server {
    ready(proxy_command(words, to, listen), listen.len())
}

/// Starts a server, and reads what it reports until it has announced its listeners.
#[track_caller]
fn ready(command: Command, listeners: usize) -> Server {
    let process = Process::start(command);
    let mut urls = Vec::new();
    while urls.len() < listeners {
        let line = process.next_line();
        if let Some(url) = line.strip_prefix("listening on ") {
            urls.push(url.to_owned());
        }
    }
    Server { process, urls }
}

/// A built-in service as an upstream.
#[track_caller]
fn service(words: &str, listen: &[&str]) -> Server {
    ready(command(&format!("serve {words}"), listen), listen.len())
}

/// Waits for a line on standard error with all of these parts, and returns it.
#[track_caller]
fn line_with(process: &Process, parts: &[&str]) -> String {
    let end = Instant::now() + DEADLINE;
    let mut seen = Vec::new();
    while Instant::now() < end {
        let line = process.next_line();
        if parts.iter().all(|part| line.contains(part)) {
            return line;
        }
        seen.push(line);
    }
    panic!("no line with {parts:?} within the deadline, but {seen:?}");
}

/// Sends SIGTERM, and checks that the server has served everything.
#[track_caller]
fn stop(mut server: Server) -> Vec<String> {
    server.process.signal(rustix::process::Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stderr
}

fn tcp(url: &str) -> TcpStream {
    let address = url.strip_prefix("tcp://").expect("a URL of TCP");
    let client = TcpStream::connect(address).expect(url);
    limited(client)
}

/// Waits of the stream have a deadline.
fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
        .set_write_timeout(Some(DEADLINE))
        .expect("a deadline");
    stream
}

/// An upstream of this process.
struct Upstream {
    listener: TcpListener,
    url: String,
}

impl Upstream {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        Self { listener, url }
    }

    /// The next connection of the proxy.
    #[track_caller]
    fn accept(&self) -> TcpStream {
        poll_until("the proxy connects", DEADLINE, || self.has_connection())
    }

    /// The connection that waits, if any.
    fn has_connection(&self) -> Option<TcpStream> {
        self.listener.set_nonblocking(true).expect("set");
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).expect("set");
        Some(limited(stream))
    }

    /// Answers each connection with a name and the end of the stream, on a thread that ends with the test.
    fn greets(self, name: &'static str) -> (String, JoinHandle<()>) {
        let url = self.url.clone();
        let thread = thread::spawn(move || {
            for stream in self.listener.incoming() {
                // A check connects and goes.
                let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
            }
        });
        (url, thread)
    }
}

/// A proxy to one upstream.
#[track_caller]
fn proxy_to_one(words: &str) -> (Upstream, Server) {
    let upstream = Upstream::new();
    let proxy = proxy(words, &[&upstream.url], &[LOCAL]);
    (upstream, proxy)
}

/// A proxy to one upstream, and a connection through it: the ends of the client and of the server.
#[track_caller]
fn relay(words: &str) -> (Upstream, Server, TcpStream, TcpStream) {
    let (upstream, proxy) = proxy_to_one(words);
    let client = tcp(&proxy.urls[0]);
    let server = upstream.accept();
    (upstream, proxy, client, server)
}

/// A connection through a proxy that soon ends each one. Where that comes before the upstream is connected to, another
/// client comes.
#[track_caller]
fn brief_relay(upstream: &Upstream, proxy: &Server) -> (TcpStream, TcpStream) {
    let mut client = tcp(&proxy.urls[0]);
    let server = poll_until("the proxy connects", DEADLINE, || {
        let server = upstream.has_connection();
        if server.is_none() && has_ended(&client) {
            client = tcp(&proxy.urls[0]);
        }
        server
    });
    (client, server)
}

/// Whether the end of a stream on which nothing is sent has come, or a reset.
fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    let peeked = stream.peek(&mut [0]).map_err(|err| err.kind());
    stream.set_nonblocking(false).expect("set");
    peeked != Err(ErrorKind::WouldBlock)
}

/// Sends bytes, which arrive.
#[track_caller]
fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("write");
    expect(&mut to, bytes);
}

/// Sends all that the client has to say; it arrives, and so does its end.
#[track_caller]
fn ask(mut client: &TcpStream, mut server: &TcpStream, question: &[u8]) {
    client.write_all(question).expect("write");
    half_close(client);
    assert_eq!(rest(&mut server), question);
}

/// Reads to the end.
#[track_caller]
fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expect("the end of the stream");
    bytes
}

/// Reads to the end or to a reset, and returns which.
#[track_caller]
fn ending(mut stream: &TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map_err(|err| err.kind());
    assert_ne!(end, Err(ErrorKind::WouldBlock), "no end");
    (bytes, end.err())
}

/// Reads a reset, and nothing before it.
#[track_caller]
fn expect_reset(stream: &TcpStream, what: &str) {
    let reset = Some(ErrorKind::ConnectionReset);
    assert_eq!(ending(stream), (Vec::new(), reset), "{what}");
}

/// Reads as many bytes as `expected` has, and compares.
#[track_caller]
fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream
        .read_exact(&mut bytes)
        .expect("bytes within the deadline");
    assert_eq!(bytes, expected);
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set");
}

/// A URL of TCP where nothing listens until this socket does, or another one that is bound to it; the socket keeps others
/// from the port, also those who pick any (socket(7), `SO_REUSEADDR`).
fn closed_port() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("share the port");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("bind");
    let address = socket.local_addr().expect("bound").as_socket();
    let url = format!("tcp://{}", address.expect("an internet address"));
    (socket, url)
}

fn half_close(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("half-close");
}
