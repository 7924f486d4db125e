//! The clients of the examples whose handlers wait for more than their own client.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::{Error, Message, WebSocket, client};

use crate::program::{Client, DEADLINE, Program, connect, set_deadlines};
use crate::talk::store;

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
    let servers = shares(addr, &upstream, 20);

    // An idle connection that the server has ended is replaced before it is used. Other trials
    // start processes, which have copies of a descriptor until they execute their program.
    servers.iter().for_each(Client::end_input);
    drop(servers);
    drop(shares(addr, &upstream, 4));

    // Each failure gives its permit back.
    for _ in 0..5 {
        let client = asks(addr, "in vain");
        let mut server = accept(&upstream);
        assert_eq!(server.line(), "in vain");
        drop(server);
        assert_eq!(client.rest(), "");
    }
    drop(shares(addr, &upstream, 8));
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
/// after the other. Returns the servers' ends.
fn shares(addr: SocketAddr, upstream: &TcpListener, count: usize) -> Vec<Client<TcpStream>> {
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
    servers
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

/// Connects with little room for input, and subscribes.
fn subscribe(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    set_deadlines(SockRef::from(&socket));
    socket.connect(&addr.into()).expect("connect");
    let mut client = TcpStream::from(socket);
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
    // The kernel's buffers take less than 64 MiB.
    let dropped = (1..16_384).any(|number| {
        let line = format!("{number:>4000}");
        let answer = publisher.ask(&line);
        assert_eq!(quick.line(), line);
        sent = std::mem::take(&mut sent) + &line + "\n";
        answer == "1 subscribers"
    });
    assert!(dropped, "a queue has no bound");
    let mut received = Vec::new();
    // A reset ends it as well.
    let _ = slow.read_to_end(&mut received);
    assert!(sent.as_bytes().starts_with(&received), "lines are missing");
    let unsent = sent.len() - received.len();
    assert!(
        unsent >= 64 * 4001,
        "its queue was sent after it was dropped"
    );
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
