//! A server of files, and a client that sees bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use socketserver::{Server, ServerGuard, Tcp, Threading};
use socketserver_http::{Files, Handler, Http};

use crate::support::DEADLINE;

/// A server that runs until it is dropped.
pub(crate) struct Site {
    _guard: ServerGuard,
    pub(crate) addr: SocketAddr,
    ended: Mutex<Receiver<Ended>>,
}

/// What an observer has seen.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) sent: u64,
    pub(crate) error: Option<String>,
}

impl Site {
    pub(crate) fn of(root: &Path) -> Self {
        Self::with(Files::open(root).expect("open"))
    }

    pub(crate) fn with(handler: impl Handler) -> Self {
        let (send, ended) = channel();
        let http = Http::handler(handler).on_access(move |access| {
            let error = access.error().map(|error| error.to_string());
            // The test may have ended.
            let _ = send.send(Ended {
                status: access.status().as_u16(),
                sent: access.sent(),
                error,
            });
        });
        let server = Server::<Tcp>::builder().model(Threading::default());
        let server = server.drain_timeout(Duration::from_millis(100));
        let server = server.bind("127.0.0.1:0").expect("bind");
        let guard = server.spawn(http.serve()).expect("serve");
        let addr = guard.handle().local_addrs()[0].socket_addr();
        Self {
            addr: addr.expect("an address"),
            _guard: guard,
            ended: Mutex::new(ended),
        }
    }

    /// The next request that an observer has seen.
    pub(crate) fn ended(&self) -> Ended {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(DEADLINE).expect("an event")
    }

    pub(crate) fn get(&self, path: &str, fields: &[&str]) -> Answer {
        ask(self.addr, "GET", path, fields)
    }

    pub(crate) fn head(&self, path: &str, fields: &[&str]) -> Answer {
        ask(self.addr, "HEAD", path, fields)
    }
}

/// A response, to the end of the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let values = self.fields.iter().filter(|(field, _)| field == name);
        values.map(|(_, value)| &**value).collect()
    }

    /// The value of a field that is there once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "the field {name} is there twice");
        values.first().copied()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", bytes.escape_ascii()));
        let head = std::str::from_utf8(&bytes[..end]).expect("ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let fields = lines.map(|line| line.split_once(": ").expect("a field"));
        let fields: Vec<_> = fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if fields.iter().any(|(name, _)| name == "transfer-encoding") {
            body = joined(&body);
        }
        Self {
            status: status
                .and_then(|status| status.parse().ok())
                .expect("a status"),
            fields,
            body,
        }
    }
}

/// The content of chunks.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a chunk");
        let size = std::str::from_utf8(&rest[..end]).expect("a number");
        let size = usize::from_str_radix(size, 16).expect("a number");
        let chunk = &rest[end + 2..];
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&chunk[..size]);
        rest = &chunk[size + 2..];
    }
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&addr, DEADLINE).expect("connect");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

/// Sends a request, and receives all that comes.
pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str, fields: &[&str]) -> Answer {
    let mut socket = connect(addr);
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    socket.write_all(request.as_bytes()).expect("send");
    let mut received = Vec::new();
    socket.read_to_end(&mut received).expect("receive");
    Answer::parse(&received)
}

/// Writes a file that was last modified in 2020, at 00:00:00.5 on the first of January.
pub(crate) fn write_old(path: &Path, content: &[u8]) {
    std::fs::write(path, content).expect("a file");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_577_836_800_500);
    let file = std::fs::File::options().write(true).open(path);
    file.expect("open").set_modified(time).expect("a time");
}
