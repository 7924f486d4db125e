//! The examples whose clients stay, while connections are aborted at random: nothing is left behind.
//!
//! `EXAMPLES_ROUNDS=3000` aborts one connection of each server every 10 ms for 30 s.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libtest_mimic::Trial;
use socket2::SockRef;

use crate::at_once::shares;
use crate::models;
use crate::poll::poll_until;
use crate::program::{DEADLINE, Example, Program, path_in, set_deadlines};

/// What a client sends, and how many lines and then bytes it waits for.
struct Talk(&'static str, usize, usize);

/// The conversations with each example; clients take turns with them.
const TALKS: [(&str, &[Talk]); 14] = [
    ("key_value", &[Talk("set a 1\nget a\ndel a\n", 3, 0)]),
    ("login", &[Talk("login Ada\none\ntwo\n", 3, 0)]),
    ("http_hello", &[Talk("GET / HTTP/1.1\r\n\r\n", 6, 0)]),
    ("request_handler", &[Talk("one\ntwo\n", 3, 0)]),
    ("two_transports", &[Talk("one\ntwo\n", 2, 0)]),
    ("graceful_stop", &[Talk("one\ntwo\n", 4, 0)]),
    ("hooks", &[Talk("21\n", 1, 0)]),
    ("counting", &[Talk("one\ntwo\n", 2, 0)]),
    ("resolver", &[Talk("127.0.0.1\n::1\n", 2, 0)]),
    ("chat", &[Talk("one\n", 1, 0), Talk("two\n", 5, 0)]),
    ("pubsub", &[Talk("news\n", 1, 0), Talk("subscribe\n", 9, 0)]),
    ("pool", &[Talk("get a\nget b\n", 2, 0)]),
    ("proxy", &[Talk("one\ntwo\n", 2, 0)]),
    ("websocket", &[Talk(UPGRADE, 5, 3)]),
];

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The models whose handlers run in the process that can be asked what is left.
const MODELS: [&str; 4] = ["threading", "pool", "coroutines_epoll", "coroutines_uring"];

/// How many clients talk at once: as many as the pool of the example has threads.
const CLIENTS: usize = 8;

/// The time between two aborts.
const PACE: Duration = Duration::from_millis(10);

fn rounds() -> u32 {
    let rounds = std::env::var("EXAMPLES_ROUNDS").ok();
    rounds.map_or(10, |rounds| rounds.parse().expect("a number"))
}

pub(crate) fn trials(is_built: impl Fn(&str) -> bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (example, talks) in TALKS {
        for model in MODELS {
            let name = format!("{example}::{model}::leaves_nothing_behind_after_aborts");
            let trial = Trial::test(name, move || {
                leaves_nothing_behind(example, talks, model);
                Ok(())
            });
            let available = is_built(example) && models::is_available(model);
            trials.push(trial.with_ignored_flag(!available));
        }
    }
    trials
}

fn leaves_nothing_behind(example: &'static str, talks: &'static [Talk], model: &'static str) {
    let directory = tempfile::tempdir().expect("a directory");
    let echo = Echo::start();
    let (tcp, path) = ("127.0.0.1:0".to_owned(), path_in(&directory, "socket"));
    let args = match example {
        "request_handler" => vec![path],
        "two_transports" => vec![tcp, path],
        "websocket" => vec![tcp, "10".to_owned()],
        _ => vec![tcp, echo.addr.to_string()],
    };
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command = Program::Under(example, model).command(&args);
    command.env("ABORTS", "1").stdin(Stdio::piped());
    let mut server = Server::new(Example::launch(command));

    let greets = |_| server.client(move |target| converse(target, &talks[0]).expect("an answer"));
    let clients: Vec<_> = (0..CLIENTS).map(greets).collect();
    join(clients);
    let before = server.quiet("the connections end", |_| true);
    server.suffers(talks);
    // The pool keeps connections, of which it may have needed fewer before.
    let kept = if example == "pool" { 4 } else { 0 };
    let few = |left: Left| {
        // A thread that has waited for several things at once has two descriptors of its own. Which threads of a pool
        // had them before is unknown; other threads end when they were idle for 10 s.
        let of_threads = 2 * left.threads;
        left.descriptors <= before.descriptors + kept + of_threads
    };
    server.quiet("no descriptors are left", few);
    if rounds() >= 1000 {
        server.quiet("no threads are left", |left| left.threads <= before.threads);
    }
    join([server.client(move |target| converse(target, &talks[0]).expect("an answer"))]);
    if example == "pool" {
        // All permits are there.
        let addr = server.target.parse().expect("an address");
        shares(addr, &echo.stop(), 8);
    }
}

fn join(clients: impl IntoIterator<Item = JoinHandle<()>>) {
    for client in clients {
        client.join().expect("no panic");
    }
}

/// What a server has left: connections in its registry and among its permits, and what the kernel
/// counts.
#[derive(Clone, Copy, Debug)]
struct Left {
    connections: usize,
    threads: usize,
    descriptors: usize,
}

/// An example whose connections can be aborted.
struct Server {
    input: ChildStdin,
    target: String,
    example: Example,
}

impl Server {
    fn new(mut example: Example) -> Self {
        let url = example.url();
        let (_, target) = url.split_once("://").expect("a URL");
        Self {
            input: example.child.stdin.take().expect("piped"),
            target: target.to_owned(),
            example,
        }
    }

    /// Starts a client.
    fn client(&self, work: impl FnOnce(&str) + Send + 'static) -> JoinHandle<()> {
        let target = self.target.clone();
        thread::spawn(move || work(&target))
    }

    /// Sends a command, and returns what is left.
    fn obey(&mut self, command: &str) -> Left {
        writeln!(self.input, "{command}").expect("a pipe");
        let line = self.example.output.wait_for("left ");
        let numbers: Vec<usize> = line
            .split(' ')
            .map(|word| word.parse().expect(&line))
            .collect();
        let [listed, live, threads, descriptors] = numbers[..] else {
            panic!("{line}");
        };
        Left {
            connections: listed + live,
            threads,
            descriptors,
        }
    }

    /// Waits until there are no connections, and until `then` is true.
    fn quiet(&mut self, what: &str, then: impl Fn(Left) -> bool) -> Left {
        poll_until(what, 2 * DEADLINE, || {
            let left = self.obey("");
            (left.connections == 0 && then(left)).then_some(left)
        })
    }

    /// Aborts connections at random, while clients talk.
    fn suffers(&mut self, talks: &'static [Talk]) {
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|number| {
            let is_over = Arc::clone(&is_over);
            self.client(move |target| {
                while !is_over.load(Ordering::SeqCst) {
                    let talked = converse(target, &talks[number % talks.len()]);
                    let hangs = talked.is_err_and(|err| err.kind() == io::ErrorKind::WouldBlock);
                    assert!(!hangs, "no answer and no abort within the deadline");
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        let (_keep, never) = channel::<()>();
        let mut random = 1_u32;
        for _ in 0..rounds() {
            let _ = never.recv_timeout(PACE);
            // A linear congruential generator; its upper bits are the better ones.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.obey(&(random >> 16).to_string());
        }
        is_over.store(true, Ordering::SeqCst);
        // A client may wait for another one that has ended.
        while !clients.iter().all(JoinHandle::is_finished) {
            let _ = never.recv_timeout(PACE);
            self.obey("all");
        }
        join(clients);
    }
}

/// Has a conversation up to its end, or up to the end of the connection.
fn converse(target: &str, Talk(says, lines, bytes): &Talk) -> io::Result<()> {
    let stream: OwnedFd = if target.starts_with('/') {
        UnixStream::connect(target)?.into()
    } else {
        TcpStream::connect(target)?.into()
    };
    set_deadlines(SockRef::from(&stream));
    // Reading and writing are the same for both.
    let mut stream = BufReader::new(TcpStream::from(stream));
    stream.get_mut().write_all(says.as_bytes())?;
    for _ in 0..*lines {
        if stream.read_line(&mut String::new())? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.read_exact(&mut vec![0; *bytes])
}

/// A server behind the examples, which sends each line back.
struct Echo {
    addr: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<TcpListener>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("bound");
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut connections = Vec::new();
            loop {
                let (conn, _) = listener.accept().expect("accept");
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let copy = conn.try_clone().expect("a descriptor");
                let echoes = move || {
                    let _ = io::copy(&mut &copy, &mut &copy);
                    // The other descriptor is closed later.
                    let _ = copy.shutdown(Shutdown::Both);
                };
                connections.push((conn, thread::spawn(echoes)));
                connections.retain(|(_, thread)| !thread.is_finished());
            }
            for (conn, _) in connections {
                // The client may have gone.
                let _ = conn.shutdown(Shutdown::Both);
            }
            listener
        });
        Self {
            addr,
            is_over,
            thread,
        }
    }

    /// Ends all connections, and returns the listener.
    fn stop(self) -> TcpListener {
        self.is_over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.addr).expect("connect");
        let listener = self.thread.join().expect("no panic");
        // The thread ends at any connection, and this one may still wait.
        listener.set_nonblocking(true).expect("set the mode");
        while listener.accept().is_ok() {}
        listener.set_nonblocking(false).expect("set the mode");
        set_deadlines(SockRef::from(&listener));
        listener
    }
}
