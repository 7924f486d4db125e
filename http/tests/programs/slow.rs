//! `slowhttptest`: clients that send heads and bodies a few bytes at a time, ask for many ranges, and read slowly. A client in
//! good faith is served all the time, and so is the program's own probe, unless its address has a limit.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use http::{Method, Response};
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};
use socketserver::model::Model;
use socketserver::testing::TestServer;
use socketserver::{Forking, HandlerError, Server, Tcp, ThreadPool, Threading};
use socketserver_http::{Content, Files, Handler, Http, IntoResponse, Request};

use crate::models::{Models, UnderModel};
use crate::program::DEADLINE;
use crate::{output, trial};

/// How long an attack takes.
const SECONDS: &str = "20";

/// How many connections an address has with a pool of eight threads, where requests hold threads for as long as the
/// client likes. The probe comes from the address of the attack, so it waits with it.
const PER_ADDRESS: u64 = 4;

/// A name, the options of the program, and whether the requests of the attack hold threads.
const MODES: [(&str, &[&str], bool); 4] = [
    ("headers", &["-H", "-i", "5"], false),
    ("body", &["-B", "-i", "5", "-s", "8192"], true),
    ("range", &["-R", "-a", "10", "-b", "3000"], false),
    (
        "read",
        &["-X", "-w", "10", "-y", "20", "-n", "2", "-z", "32"],
        true,
    ),
];

pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let all = MODES
        .into_iter()
        .flat_map(|mode| ["pool", "coroutines_epoll"].map(|model| (model, mode)));
    all.map(|(model, (name, options, holds))| {
        let per_address = (holds && model == "pool").then_some(PER_ADDRESS);
        let attack = Attack {
            per_address,
            options,
        };
        trial(format!("slowhttptest::{model}::{name}"), move || {
            let models = Models {
                threading: Threading::default(),
                pool: ThreadPool::new(8),
                forking: Forking::default(),
                workers: 2,
                breaker: 10,
            };
            models.run(model, attack);
        })
    })
}

struct Attack {
    per_address: Option<u64>,
    options: &'static [&'static str],
}

impl UnderModel for Attack {
    fn run<M: Model>(self, model: M) -> ExitCode {
        attack(model, self.per_address, self.options);
        ExitCode::SUCCESS
    }
}

/// Serves files, and takes uploads.
fn answer(files: &Files, request: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
    if request.method() == Method::POST {
        let count = io::copy(request.body_mut(), &mut io::sink())?;
        return format!("{count} bytes\n").into_response();
    }
    files.call(&mut (), request)
}

fn attack<M: Model>(model: M, per_address: Option<u64>, options: &[&str]) {
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join("small"), "hello\n").expect("write");
    fs::write(folder.path().join("large"), vec![b'a'; 4 << 20]).expect("write");
    let files = Files::open(folder.path()).expect("open");
    let server = Server::<Tcp>::builder()
        .model(model)
        .max_per_address(per_address);
    let server = server.bind("127.0.0.1:0").expect("bind");
    let http = Http::new(move |request: &mut Request<'_>| answer(&files, request));
    let server = TestServer::spawn(server, http.serve());
    let addr = server.addr().socket_addr().expect("an address of TCP");

    let (url, prefix) = (format!("http://{addr}/large"), folder.path().join("report"));
    let prefix = prefix.to_str().expect("a path");
    let common = [
        "-c", "300", "-r", "150", "-p", "5", "-l", SECONDS, "-u", &url, "-g", "-o", prefix,
    ];
    let (end, ended) = channel::<()>();
    let (asked, ran) = thread::scope(|scope| {
        let good = scope.spawn(move || ask_until(&ended, addr));
        let install = "as root: apt-get install slowhttptest";
        let ran = output(120, "slowhttptest", &[options, &common].concat(), install);
        drop(end);
        (good.join().expect("a client in good faith is served"), ran)
    });
    let report = fs::read_to_string(format!("{prefix}.csv")).expect("a report");
    let text = String::from_utf8_lossy(&ran.stdout);
    let rows: Vec<Vec<u32>> = report.lines().skip(1).map(numbers).collect();
    let connected = rows.iter().map(|row| row[3]).max();
    assert!(connected > Some(0), "nobody has attacked: {report}{text}");
    assert!(asked > 0, "nobody was served");
    let is_available = rows.iter().all(|row| row[4] > 0);
    assert!(
        is_available || per_address.is_some(),
        "the service was not available: {report}"
    );
    let _ = server.stop();
}

fn numbers(line: &str) -> Vec<u32> {
    let numbers = line
        .split(',')
        .map(|number| number.parse().expect("a number"));
    numbers.collect()
}

/// A connection from an address of its own.
fn connect_from(source: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
        .connect_timeout(&addr.into(), DEADLINE)
        .expect("connect");
    socket.into()
}

/// Asks ten times a second, each time over a new connection. Returns how often.
fn ask_until(ended: &Receiver<()>, addr: SocketAddr) -> u32 {
    let mut count = 0;
    while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
        let mut client = connect_from([127, 0, 0, 3], addr);
        let request = b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.write_all(request).expect("send");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello\n"),
            "{answer}"
        );
        count += 1;
    }
    count
}
