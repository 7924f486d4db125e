//! The clients of the examples whose handlers wait for more than their own client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::{Error, Message, WebSocket, client};

use crate::program::{Client, DEADLINE, Program, connect, set_deadlines};
use crate::talk::store;

pub(crate) fn chat(program: Program) {
    let (_example, addr) = program.on_tcp();
    let mut first = connect(addr);
    assert_eq!(first.ask("alone"), "1: alone");
    let mut silent = connect(addr);
    assert_eq!(silent.ask("hello"), "2: hello");
    assert_eq!(first.line(), "2: hello");

    // A person that does not read is dropped; the others get all lines, although one is silent.
    let mut slow = with_small_buffer(addr);
    slow.write_all(b"slow\n").expect("send");
    let mut sent = String::new();
    for number in 0..=lines_that_buffers_hold() {
        let line = match number {
            0 => "3: slow".to_owned(),
            _ => format!("1: {number:>LONG$}"),
        };
        if number > 0 {
            first.send(&format!("{}\n", &line["1: ".len()..]));
        }
        assert_eq!(first.line(), line);
        assert_eq!(silent.line(), line);
        sent = sent + &line + "\n";
    }
    is_cut_short(slow, &sent);
    assert_eq!(first.ask("still there?"), "1: still there?");
    assert_eq!(silent.line(), "1: still there?");
    silent.end_input();
    assert_eq!(silent.rest(), "", "a person that leaves");
    assert_eq!(first.ask("alone again"), "1: alone again");
}

/// The length of the lines that fill buffers.
const LONG: usize = 4000;

/// The largest buffer that the kernel makes for a socket, in bytes.
fn most(of: &str) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{of}")).expect("/proc");
    let most = limits.split_whitespace().nth(2).map(str::parse);
    most.expect("a maximum").expect("a number")
}

/// More lines than the buffers of the kernel and a queue of 64 lines hold together.
fn lines_that_buffers_hold() -> usize {
    (most("wmem") + 65_536) / LONG + 100
}

/// Connects with little room for input.
fn with_small_buffer(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    set_deadlines(SockRef::from(&socket));
    socket.connect(&addr.into()).expect("connect");
    socket.into()
}

/// A client that did not read gets the first lines, without a gap, and not those after its queue was
/// full.
fn is_cut_short(mut slow: TcpStream, sent: &str) {
    let mut received = Vec::new();
    // A reset ends it as well.
    let _ = slow.read_to_end(&mut received);
    assert!(sent.as_bytes().starts_with(&received), "lines are missing");
    assert!(received.len() + LONG < sent.len(), "it was not dropped");
}

/// The proxy is in front of the key-value store, and then of servers that the test plays.
pub(crate) fn proxy(program: Program) {
    let stores = ["one", "two"].map(|name| {
        let (store, addr) = Program::Itself("key_value").on_tcp();
        assert_eq!(connect(addr).ask(&format!("set name {name}")), "none");
        (store, addr.to_string())
    });
    let [(first, one), (second, two)] = stores;
    let example = program.start(&["127.0.0.1:0", &one, &two]);
    let addr = example.inet("tcp");
    for name in ["two", "one", "two", "one"] {
        let mut client = connect(addr);
        assert_eq!(
            client.ask("get name"),
            format!("value {name}"),
            "their turns"
        );
        client.end_input();
        assert_eq!(client.rest(), "");
    }
    let mut client = connect(addr);
    assert_eq!(client.ask("get name"), "value two");
    drop(second);
    assert_eq!(client.rest(), "", "a server that is gone is the end");
    for _ in 0..2 {
        assert_eq!(
            connect(addr).ask("get name"),
            "value one",
            "the other server"
        );
    }
    drop(first);
    assert_eq!(connect(addr).rest(), "", "there is no server");

    let upstream = TcpListener::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&upstream));
    let behind = upstream.local_addr().expect("bound").to_string();
    let example = program.start(&["127.0.0.1:0", &behind]);
    let addr = example.inet("tcp");
    let connected = || {
        let client = with_small_buffer(addr);
        let (server, _) = upstream.accept().expect("a connection in time");
        server.set_nodelay(true).expect("set an option");
        set_deadlines(SockRef::from(&server));
        (client, server)
    };
    let (client, server) = connected();
    asks_and_pauses(client, server, connected);
    let (client, server) = connected();
    asks_and_pauses(server, client, connected);
}

/// One end asks and ends its side; the other one sends more than the buffers of the kernel hold. The
/// first one pauses amid that, while others talk through the proxy.
fn asks_and_pauses(
    mut asks: TcpStream,
    mut sends: TcpStream,
    others: impl Fn() -> (TcpStream, TcpStream),
) {
    asks.write_all(b"question").expect("send");
    asks.shutdown(Shutdown::Write).expect("end one side");
    let mut question = String::new();
    sends
        .read_to_string(&mut question)
        .expect("the end in time");
    assert_eq!(question, "question");

    let block: Vec<u8> = (0..=250).cycle().take(251 * 1000).collect();
    let count = (2 * most("wmem") + most("rmem")) / block.len() + 8;
    let sent = block.clone();
    let sender = thread::spawn(move || {
        for _ in 0..count {
            sends.write_all(&sent).expect("send all of it");
        }
    });
    let mut received = vec![0; block.len()];
    asks.read_exact(&mut received).expect("the first part");
    assert!(received == block);
    let (mut client, mut server) = others();
    for _ in 0..100 {
        let mut byte = [0];
        client.write_all(b"x").expect("send");
        server.read_exact(&mut byte).expect("a byte in time");
        server.write_all(&byte).expect("send");
        client.read_exact(&mut byte).expect("a byte in time");
    }
    assert!(
        !sender.is_finished(),
        "the proxy takes what its peer does not"
    );
    for _ in 1..count {
        asks.read_exact(&mut received).expect("the rest in time");
        assert!(received == block);
    }
    assert_eq!(asks.read(&mut received).expect("the end in time"), 0);
    sender.join().expect("no panic");
}

/// The pool is in front of the key-value store, and then of servers that the test plays.
pub(crate) fn pool(program: Program) {
    let (_upstream, behind) = Program::Itself("key_value").on_tcp();
    let example = program.start(&["127.0.0.1:0", &behind.to_string()]);
    store(example.inet("tcp"));

    let upstream = TcpListener::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&upstream));
    let behind = upstream.local_addr().expect("bound").to_string();
    let example = program.start(&["127.0.0.1:0", &behind]);
    let addr = example.inet("tcp");
    shares(addr, &upstream, 20);
    // An idle connection that the server has ended is replaced before it is used.
    shares(addr, &upstream, 4);

    // Each failure gives its permit back.
    for _ in 0..5 {
        let client = asks(addr, "in vain");
        let mut server = accept(&upstream);
        assert_eq!(server.line(), "in vain");
        drop(server);
        assert_eq!(client.rest(), "");
    }
    shares(addr, &upstream, 8);
}

fn asks(addr: SocketAddr, line: &str) -> Client<TcpStream> {
    let mut client = connect(addr);
    client.send(&format!("{line}\n"));
    client
}

fn accept(upstream: &TcpListener) -> Client<TcpStream> {
    let (server, _) = upstream.accept().expect("a connection in time");
    Client::new(server)
}

/// Sends the commands of many clients at once: four new connections carry them, each a command
/// after the other. Then the server ends them.
fn shares(addr: SocketAddr, upstream: &TcpListener, count: usize) {
    let names = (0..count).map(|number| format!("get {number}"));
    let mut clients: BTreeMap<_, _> = names
        .map(|name| (name.clone(), asks(addr, &name)))
        .collect();
    let mut servers: Vec<_> = (0..4).map(|_| accept(upstream)).collect();
    while !clients.is_empty() {
        let commands: Vec<_> = servers.iter_mut().map(Client::line).collect();
        upstream.set_nonblocking(true).expect("set the mode");
        assert!(upstream.accept().is_err(), "there are four permits");
        upstream.set_nonblocking(false).expect("set the mode");
        for (server, command) in servers.iter_mut().zip(commands) {
            assert!(
                server.is_silent(),
                "a command came before the answer to another"
            );
            server.send(&format!("value of {command}\n"));
            let mut client = clients.remove(&command).expect("a command of a client");
            assert_eq!(client.line(), format!("value of {command}"));
        }
    }
    // A drop does not suffice: other trials start processes, which have copies of all descriptors
    // until they execute their program.
    servers.iter().for_each(Client::end_input);
}

/// The descriptors of this process are for one crowd at a time.
static CROWD: Mutex<()> = Mutex::new(());

/// How many subscribers a program serves at once: each has a thread in some models.
fn subscribers(program: Program) -> usize {
    match program {
        Program::Under(_, "pool") => 6,
        Program::Under(_, "threading") => 100,
        // The limit is for the server too, which takes fewer connections by itself.
        _ => {
            let mut limit = getrlimit(Resource::Nofile);
            limit.current = limit.maximum;
            setrlimit(Resource::Nofile, limit).expect("raise the limit to its maximum");
            let most = limit.current.unwrap_or(u64::MAX).saturating_sub(1000);
            most.clamp(100, 10_000) as usize
        }
    }
}

pub(crate) fn pubsub(program: Program) {
    let _crowd = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let count = subscribers(program);
    let (_example, addr) = program.on_tcp();
    let mut publisher = connect(addr);
    assert_eq!(publisher.ask("alone"), "0 subscribers");
    drops_the_slow(addr, &mut publisher);

    let mut crowd: Vec<_> = (0..count).map(|_| subscribe(addr)).collect();
    let mut expect = |text: &str| {
        for subscriber in &mut crowd {
            let mut line = vec![0; text.len()];
            subscriber.read_exact(&mut line).expect("a line in time");
            assert_eq!(line, text.as_bytes());
        }
    };
    expect("subscribed\n");
    for text in ["one", "two", "three"] {
        assert_eq!(publisher.ask(text), format!("{count} subscribers"));
    }
    expect("one\ntwo\nthree\n");
}

fn subscribe(addr: SocketAddr) -> TcpStream {
    let mut client = with_small_buffer(addr);
    client.write_all(b"subscribe\n").expect("send");
    client
}

/// A subscriber that does not read is dropped, and the other one gets all lines.
fn drops_the_slow(addr: SocketAddr, publisher: &mut Client<TcpStream>) {
    let (mut slow, mut quick) = (subscribe(addr), Client::new(subscribe(addr)));
    let mut greeting = [0; 11];
    slow.read_exact(&mut greeting).expect("a line in time");
    assert_eq!((&greeting, &*quick.line()), (b"subscribed\n", "subscribed"));
    let mut sent = String::new();
    let dropped = (0..lines_that_buffers_hold()).any(|number| {
        let line = format!("{number:>LONG$}");
        let answer = publisher.ask(&line);
        assert_eq!(quick.line(), line);
        sent = std::mem::take(&mut sent) + &line + "\n";
        answer == "1 subscribers"
    });
    assert!(dropped, "a queue has no bound");
    is_cut_short(slow, &sent);
    assert_eq!(publisher.ask("still there?"), "1 subscribers");
    assert_eq!(quick.line(), "still there?");
    drop(quick);
    // Its handler finds out at the next line, or at the one after.
    let gone = (0..1000).any(|_| publisher.ask("gone?") == "0 subscribers");
    assert!(gone, "a subscriber that has gone stays");
}

/// A client that counts the pushes.
struct Pushed {
    socket: WebSocket<TcpStream>,
    pushes: u32,
}

impl Pushed {
    /// Waits for a message. Returns its text, or `None` for a push.
    fn next(&mut self) -> Option<String> {
        let message = self.socket.read().expect("a message in time");
        let text = message.into_text().expect("text").as_str().to_owned();
        let is_push = text == (self.pushes + 1).to_string();
        self.pushes += u32::from(is_push);
        (!is_push).then_some(text)
    }

    fn text(&mut self) -> String {
        loop {
            if let Some(text) = self.next() {
                return text;
            }
        }
    }

    fn wait_for_pushes(&mut self, count: u32) {
        for _ in 0..count {
            assert_eq!(self.next(), None);
        }
    }
}

pub(crate) fn websocket(program: Program) {
    let example = program.start(&["127.0.0.1:0", "10"]);
    let addr = example.inet("tcp");
    let mut silent = connect(addr);
    let stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("connect");
    set_deadlines(SockRef::from(&stream));
    let (socket, _) = client(format!("ws://{addr}/"), stream).expect("a handshake");
    let mut client = Pushed { socket, pushes: 0 };
    client.wait_for_pushes(2);
    client.socket.send("hello".into()).expect("send");
    assert_eq!(client.text(), "hello");

    // A frame in two parts, around a push: within its header, its mask or its payload. The first of
    // two pushes may have been on its way before the first part.
    for cut in [1, 4, 8] {
        let (mask, payload) = ([1, 2, 3, 4], b"in parts");
        let mut frame = vec![0x81, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        let (first, second) = frame.split_at(cut);
        client.socket.get_mut().write_all(first).expect("send");
        client.wait_for_pushes(2);
        client.socket.get_mut().write_all(second).expect("send");
        assert_eq!(client.text(), "in parts");
    }

    // Messages without a pause do not keep pushes back.
    let before = client.pushes;
    while client.pushes < before + 2 {
        client.socket.send("again".into()).expect("send");
        assert_eq!(client.text(), "again");
    }

    client.socket.close(None).expect("close");
    let end = loop {
        match client.socket.read() {
            Ok(Message::Text(_) | Message::Close(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(Error::ConnectionClosed)), "{end:?}");
    silent.send("GET / HTTP/1.1\r\n\r\n");
    assert!(!silent.rest().contains(" 101 "));
}
