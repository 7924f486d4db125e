//! The 27 tests that CPython has for its own module, `Lib/test/test_socketserver.py`, each under its
//! upstream name, in this crate's words.
//!
//! What must not share its process runs in one of its own: a server (see `support`), or one of the
//! `CASES`.
#![expect(
    clippy::unwrap_used,
    reason = "a test that fails says where, in a binary without a harness too"
)]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use rustix::process::{Signal, getpid, kill_process};
use socket2::SockRef;
use socketserver::model::{Dispatch, Model};
use socketserver::net::{Bind, TcpConnection, Transport};
use socketserver::python::{TcpServer, ThreadingTcpServer};
use socketserver::{
    Connection, Forking, Handled, Next, Outcome, Server, Tcp, Threading, Udp, UnixDatagram,
    UnixStream,
};
use support::{DEADLINE, Pending, ServerProcess, Target};

#[path = "support/server.rs"]
mod server;

/// How a test runs.
#[derive(Clone, Copy)]
enum Test {
    /// With a server of this transport and model.
    With(&'static str, &'static str),
    Here(fn()),
    /// As the case of this name, in a process of its own.
    Apart(&'static str),
}

use Test::{Apart, Here, With};

const TESTS: [(&str, Test); 27] = [
    ("SocketServerTest.test_TCPServer", With("tcp", "sequential")),
    (
        "SocketServerTest.test_ThreadingTCPServer",
        With("tcp", "threading"),
    ),
    (
        "SocketServerTest.test_ForkingTCPServer",
        With("tcp", "forking"),
    ),
    (
        "SocketServerTest.test_UnixStreamServer",
        With("unix", "sequential"),
    ),
    (
        "SocketServerTest.test_ThreadingUnixStreamServer",
        With("unix", "threading"),
    ),
    (
        "SocketServerTest.test_ForkingUnixStreamServer",
        With("unix", "forking"),
    ),
    ("SocketServerTest.test_UDPServer", With("udp", "sequential")),
    (
        "SocketServerTest.test_ThreadingUDPServer",
        With("udp", "threading"),
    ),
    (
        "SocketServerTest.test_ForkingUDPServer",
        With("udp", "forking"),
    ),
    (
        "SocketServerTest.test_UnixDatagramServer",
        With("unixgram", "sequential"),
    ),
    (
        "SocketServerTest.test_ThreadingUnixDatagramServer",
        With("unixgram", "threading"),
    ),
    (
        "SocketServerTest.test_ForkingUnixDatagramServer",
        With("unixgram", "forking"),
    ),
    ("SocketServerTest.test_shutdown", Here(test_shutdown)),
    (
        "SocketServerTest.test_close_immediately",
        Here(test_close_immediately),
    ),
    (
        "SocketServerTest.test_tcpserver_bind_leak",
        Apart("bind_leak"),
    ),
    (
        "SocketServerTest.test_context_manager",
        Here(test_context_manager),
    ),
    (
        "ErrorHandlerTest.test_sync_handled",
        Here(test_sync_handled),
    ),
    (
        "ErrorHandlerTest.test_sync_not_handled",
        Here(test_sync_not_handled),
    ),
    (
        "ErrorHandlerTest.test_threading_handled",
        Here(test_threading_handled),
    ),
    (
        "ErrorHandlerTest.test_threading_not_handled",
        Here(test_threading_not_handled),
    ),
    (
        "ErrorHandlerTest.test_forking_handled",
        Apart("forking_handled"),
    ),
    (
        "ErrorHandlerTest.test_forking_not_handled",
        Apart("forking_not_handled"),
    ),
    ("SocketWriterTest.test_basics", Here(test_basics)),
    ("SocketWriterTest.test_write", Apart("write")),
    ("MiscTestCase.test_all", Here(test_all)),
    (
        "MiscTestCase.test_shutdown_request_called_if_verify_request_false",
        Here(test_verify_false),
    ),
    ("MiscTestCase.test_threads_reaped", Apart("threads_reaped")),
];

/// What runs in a process of its own, which has no other threads.
const CASES: [(&str, fn()); 9] = [
    ("foreign_child_tcp", || {
        foreign_child(Tcp::bind("127.0.0.1:0"));
    }),
    ("foreign_child_udp", || {
        foreign_child(Udp::bind("127.0.0.1:0"));
    }),
    ("foreign_child_unix", || {
        foreign_child(UnixStream::bind(own_path("s")));
    }),
    ("foreign_child_unixgram", || {
        foreign_child(UnixDatagram::bind(own_path("g")));
    }),
    ("bind_leak", bind_leak),
    ("forking_handled", || {
        forking(|| Err("as asked".into()), "Handler called\nError handled\n");
    }),
    ("forking_not_handled", || {
        forking(|| Ok(Next::Stop), "Handler called\n");
    }),
    ("write", write),
    ("threads_reaped", threads_reaped),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--server") => return server::main(&args[1..]),
        Some("--case") => {
            let case = CASES.iter().find(|(name, _)| *name == args[1]);
            case.expect("a known case").1();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let tests = TESTS.map(|(name, test)| {
        Trial::test(name, move || {
            match test {
                With(transport, model) => serves(transport, model),
                Here(test) => test(),
                Apart(case) => run_case(case),
            }
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
}

/// Runs a case in a process and a directory of its own.
fn run_case(name: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--case", name])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a case");
    let mut stderr = child.stderr.take().expect("piped");
    let (done, wait) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        let _ = done.send(text);
    });
    let text = wait.recv_timeout(DEADLINE);
    if text.is_err() {
        child.kill().expect("kill the case");
    }
    let status = child.wait().expect("wait for the case");
    let text = text.expect("a case ends within the deadline");
    assert!(status.success(), "{name}: {status}: {text}");
}

fn own_path(name: &str) -> std::path::PathBuf {
    std::env::current_dir().expect("a directory").join(name)
}

/// Three clients in sequence send a line and get it back; then the server stops, and nothing of it
/// is left. A forking one leaves children of others alone.
fn serves(transport: &str, model: &str) {
    let server = ServerProcess::start(transport, model, &[]);
    for _ in 0..3 {
        assert_eq!(server.target().ask("echo hello world"), "hello world");
    }
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=4 refused=0 completed=4 failed=0"
    );
    if model == "forking" {
        run_case(&format!("foreign_child_{transport}"));
    }
}

/// The exit status of a child that is not the server's can still be asked for.
fn foreign_child<T: Transport<Accepted: server::Command>>(
    listeners: Result<Vec<T>, socketserver::Error>,
) {
    let foreign = Command::new("sh").args(["-c", "exit 72"]).spawn();
    let mut foreign = foreign.expect("start a child");
    let builder = Server::<T>::builder().model(Forking::default());
    let mut server = builder
        .listen(listeners.expect("bind"))
        .build()
        .expect("build");
    for _ in 0..3 {
        let pending = Target::parse(&server.urls()[0]).send("hello world");
        let handled = server.handle_request(None, |request| {
            let line = server::Command::command(request)?;
            request.write_all(line.as_bytes())
        });
        assert_eq!(handled.expect("serve"), Handled::Served);
        assert_eq!(pending.answer(), "hello world");
    }
    server.close().expect("close");
    let status = foreign.wait().expect("it is still ours to wait for");
    assert_eq!(status.code(), Some(72));
}

fn test_shutdown() {
    for _ in 0..20 {
        let guard = TcpServer::bind("127.0.0.1:0")
            .unwrap()
            .spawn(|_| ())
            .unwrap();
        assert_eq!(guard.stop().unwrap().aborted, 0);
    }
}

fn test_close_immediately() {
    ThreadingTcpServer::bind("127.0.0.1:0")
        .unwrap()
        .close()
        .unwrap();
}

fn bind_leak() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let taken = server.local_addrs()[0].socket_addr().unwrap();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..1024 {
        assert!(TcpServer::bind(taken).unwrap_err().is_addr_in_use());
    }
    assert_eq!(open(), before);
}

fn test_context_manager() {
    let addr = {
        let server = TcpServer::bind("127.0.0.1:0").unwrap();
        server.local_addrs()[0].socket_addr().unwrap()
    };
    let refused = TcpStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Serves one request with this outcome; says what `handle_request` returned, what the client saw,
/// and how often the error hook was told.
fn one_request<M: Model + Dispatch + Default>(outcome: fn() -> Outcome) -> (Handled, String, u32) {
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let mut server = Server::<Tcp, M>::builder()
        .on_error(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .bind("127.0.0.1:0")
        .unwrap();
    let pending = Target::parse(&server.urls()[0]).send("");
    let handled = server.handle_request(None, move |conn: &mut TcpConnection| {
        conn.write_all(b"called")?;
        outcome()
    });
    // The end of the connection says that the request is over.
    let seen = pending.answer();
    server.close().unwrap();
    (handled.unwrap(), seen, told.load(Ordering::SeqCst))
}

fn test_sync_handled() {
    let seen = one_request::<socketserver::Sequential>(|| Err("as asked".into()));
    assert_eq!(seen, (Handled::Served, "called".to_owned(), 1));
}

fn test_sync_not_handled() {
    let seen = one_request::<socketserver::Sequential>(|| Ok(Next::Stop));
    assert_eq!(seen, (Handled::Served, "called".to_owned(), 0));
}

fn test_threading_handled() {
    let seen = one_request::<Threading>(|| Err("as asked".into()));
    assert_eq!(seen, (Handled::Served, "called".to_owned(), 1));
}

fn test_threading_not_handled() {
    let seen = one_request::<Threading>(|| Ok(Next::Stop));
    assert_eq!(seen, (Handled::Served, "called".to_owned(), 0));
}

fn log(line: &str) {
    let file = OpenOptions::new().append(true).create(true).open("log");
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// Serves one request in a child, which logs to a file.
fn forking(outcome: fn() -> Outcome, expected: &str) {
    let mut server = Server::<Tcp, Forking>::builder()
        .on_error(|_| log("Error handled\n"))
        .bind("127.0.0.1:0")
        .unwrap();
    let pending = Target::parse(&server.urls()[0]).send("");
    let handled = server.handle_request(None, move |_| {
        log("Handler called\n");
        outcome()
    });
    assert_eq!(handled.unwrap(), Handled::Served);
    server.close().unwrap();
    assert_eq!(pending.answer(), "");
    assert_eq!(fs::read_to_string("log").unwrap(), expected);
}

fn test_basics() {
    let mut server = TcpServer::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addrs()[0].socket_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let own = client.local_addr().unwrap();
    server
        .handle_request(None, move |conn: &mut TcpConnection| {
            // One descriptor, to read and to write.
            let peer = SockRef::from(&*conn).peer_addr()?.as_socket();
            assert_eq!(peer, Some(own));
            let writer: &mut dyn Write = conn;
            writer.write_all(b"written")
        })
        .unwrap();
    let mut text = String::new();
    (&client).read_to_string(&mut text).unwrap();
    assert_eq!(text, "written");
}

/// More than the buffers of a socket take.
const LARGE: usize = 16 * 1024 * 1024;

/// A write says how much it wrote, the client has it at once, and signals do not cut short a large one
/// short.
fn write() {
    let signalled = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&signalled)).unwrap();
    let mut server = TcpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let (first, read_first) = channel();
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut start = [0; 13];
        client.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"hello client\n");
        first.send(()).unwrap();
        let mut rest = Vec::new();
        while rest.len() < LARGE {
            // The writer waits for room again and again, and is interrupted each time.
            kill_process(getpid(), Signal::USR1).unwrap();
            let end = rest.len() + (LARGE - rest.len()).min(1 << 20);
            let start = rest.len();
            rest.resize(end, 0);
            client.read_exact(&mut rest[start..]).unwrap();
        }
        assert!(rest.iter().all(|&byte| byte == b'x'));
        let mut end = Vec::new();
        assert_eq!(client.read_to_end(&mut end).unwrap(), 0);
    });
    let read_first = std::sync::Mutex::new(read_first);
    let handled = server.handle_request(None, move |conn: &mut TcpConnection| {
        assert_eq!(conn.write(b"hello client\n")?, 13);
        let first = read_first.lock().unwrap().recv_timeout(DEADLINE);
        first.expect("the client has it before the handler goes on");
        conn.write_all(&vec![b'x'; LARGE])
    });
    assert_eq!(handled.unwrap(), Handled::Served);
    client.join().unwrap();
    assert!(signalled.load(Ordering::SeqCst));
}

/// What the crate exports at its root, with what its features add.
const EXPORTS: &str = "
    Builder Connection Coroutines Datagram Error Forking Handled Handler HandlerError IntoOutcome
    Next Outcome Prefork Report RequestHandler Sequential Server ServerGuard ServerHandle Tcp
    ThreadPool Threading Udp UnixDatagram UnixStream per_connection per_request";

fn test_all() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let mut found = std::collections::BTreeSet::new();
    for line in source.lines() {
        if let Some(alias) = line.strip_prefix("pub type ") {
            found.extend(alias.split(' ').next().map(str::to_owned));
        } else if let Some(path) = line.strip_prefix("pub use ") {
            let names = path.rsplit("::").next().unwrap_or_default();
            let names = names.trim_matches(['{', '}', ';']).split(',');
            found.extend(names.map(|name| name.trim_matches([' ', '{', '}', ';']).to_owned()));
        }
    }
    let expected = EXPORTS.split_whitespace().map(str::to_owned).collect();
    assert_eq!(found, expected);
}

fn test_verify_false() {
    let mut server = TcpServer::builder()
        .verify(|_| false)
        .bind("127.0.0.1:0")
        .unwrap();
    let client = Target::parse(&server.urls()[0]).connect();
    let handled = server.handle_request(None, |_| -> Outcome { unreachable!("turned away") });
    assert_eq!(handled.unwrap(), Handled::Refused);
    // One end of the stream, and no reset.
    assert_eq!(Pending::Stream(client).answer(), "");
    let totals = server.handle().totals();
    assert_eq!(
        (totals.accepted, totals.refused, totals.completed),
        (1, 1, 0)
    );
}

fn threads_reaped() {
    let mut server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    for _ in 0..10 {
        let pending = Target::parse(&server.urls()[0]).send("");
        let served =
            server.handle_request(Some(Duration::from_secs(5)), |conn: &mut TcpConnection| {
                let mut line = String::new();
                conn.read_line_max(&mut line, 10).map(|_| ())
            });
        assert_eq!(served.unwrap(), Handled::Served);
        assert_eq!(pending.answer(), "");
    }
    let threads = fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 10, "{threads} threads after ten requests");
}
