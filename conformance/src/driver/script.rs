//! The handler: a script of operations on the request, whatever its transport.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use socketserver::net::{Accepted, Packet, Stream, TcpConnection};
use socketserver::tls::TlsConnection;
use socketserver::{Connection, Datagram, HandlerError, Next, Outcome, RequestHandler};

use super::place::peer_name;
use super::spec;
use super::trace::{kind, note, place, shown};

/// What requests share, unless each has a process of its own.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// A request as scripts use it.
pub(super) trait Peer: Accepted + Write {
    /// The next line with its end; what is left, if that is no line.
    fn line(&mut self, at: &mut usize) -> io::Result<Vec<u8>>;

    /// As many bytes, or those up to the end.
    fn take(&mut self, count: u64) -> io::Result<Vec<u8>>;

    /// How many bytes the datagram has, or what was read last.
    fn size(&self, last: &[u8]) -> usize;

    /// Sends at once, past any buffer.
    fn direct(&mut self, data: &[u8]) -> io::Result<()>;

    /// Applies the options of connections.
    fn set_up(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// An operation that only connections have.
    fn on_stream(&mut self, operation: &str) -> io::Result<String>;
}

/// The descriptor of a connection over TLS.
fn below(conn: &TlsConnection<TcpConnection>) -> BorrowedFd<'_> {
    conn.below().as_fd()
}

/// Connections; the function returns the descriptor of one.
macro_rules! streams {
    ($([$($generic:tt)*] $stream:ty, $fd:expr;)*) => {$(
        impl<$($generic)*> Peer for $stream {
            fn line(&mut self, _: &mut usize) -> io::Result<Vec<u8>> {
                let mut line = Vec::new();
                if spec().get("rbuf") == Some("0") {
                    let mut byte = [0];
                    while line.last() != Some(&b'\n') && self.read(&mut byte)? == 1 {
                        line.push(byte[0]);
                    }
                    return Ok(line);
                }
                self.read_until_max(b'\n', &mut line, 65_536)?;
                Ok(line)
            }

            fn take(&mut self, count: u64) -> io::Result<Vec<u8>> {
                let mut data = Vec::new();
                Read::take(self, count).read_to_end(&mut data)?;
                Ok(data)
            }

            fn size(&self, last: &[u8]) -> usize {
                last.len()
            }

            fn direct(&mut self, data: &[u8]) -> io::Result<()> {
                self.write_all(data)
            }

            fn set_up(&mut self) -> io::Result<()> {
                if let Some(limit) = spec().millis("read_timeout") {
                    self.set_read_timeout(Some(limit))?;
                    self.set_write_timeout(Some(limit))?;
                }
                match spec().get("wbuf") {
                    Some("-1") => self.set_write_buffer(8192),
                    Some(size) => self.set_write_buffer(size.parse().expect("a size")),
                    None => Ok(()),
                }
            }

            fn on_stream(&mut self, operation: &str) -> io::Result<String> {
                let yes_or_no = |yes| if yes { "yes" } else { "no" }.to_owned();
                Ok(match operation {
                    "nodelay" => {
                        let on = SockRef::from(&$fd(self)).tcp_nodelay()?;
                        if on { "on" } else { "off" }.to_owned()
                    }
                    "blocking" => yes_or_no(!fcntl_getfl($fd(self))?.contains(OFlags::NONBLOCK)),
                    // There is one descriptor, and reading and writing use it.
                    "same_descriptor" => yes_or_no(SockRef::from(&$fd(self)).peer_addr().is_ok()),
                    "close" => {
                        self.shutdown(Shutdown::Write)?;
                        String::new()
                    }
                    _ => {
                        let mut data = [0; 1000];
                        match recv($fd(self), &mut data, RecvFlags::DONTWAIT) {
                            Ok((count, _)) => shown(&data[..count]),
                            Err(_) => "(nothing)".to_owned(),
                        }
                    }
                })
            }
        }
    )*};
}

streams! {
    [T: Send + 'static] Stream<T>, AsFd::as_fd;
    [] TlsConnection<TcpConnection>, below;
}

impl<T: Send + 'static> Peer for Packet<T> {
    fn line(&mut self, at: &mut usize) -> io::Result<Vec<u8>> {
        let rest = &self.packet()[*at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.map_or(rest.len(), |end| end + 1)];
        *at += line.len();
        Ok(line.to_vec())
    }

    fn take(&mut self, _: u64) -> io::Result<Vec<u8>> {
        Ok(self.packet().to_vec())
    }

    fn size(&self, _: &[u8]) -> usize {
        self.packet().len()
    }

    fn direct(&mut self, data: &[u8]) -> io::Result<()> {
        self.send(data)
    }

    fn on_stream(&mut self, _: &str) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The handler of one request.
#[derive(Debug)]
pub(super) struct Script {
    last: Vec<u8>,
    at: usize,
    written: usize,
}

impl Script {
    /// Made for each request, as Python's `finish_request` does.
    pub(super) fn new() -> Self {
        if spec().lists("trace", "finish_request") {
            // A scenario that looks at it has one request.
            note("finish_request", Some(1));
        }
        Self {
            last: Vec::new(),
            at: 0,
            written: 0,
        }
    }

    fn run<R: Peer>(&mut self, part: &str, request: &mut R) -> Outcome {
        for operation in spec().get(part).unwrap_or_default().split(';') {
            let operation = operation.trim();
            let (name, argument) = operation.split_once(' ').unwrap_or((operation, ""));
            if name.is_empty() {
                continue;
            }
            if name == "raise" && argument == "exit" {
                return Ok(Next::Stop);
            }
            self.step(name, argument, request)?;
        }
        Ok(Next::Close)
    }

    fn write<R: Peer>(&mut self, request: &mut R, data: &[u8]) -> io::Result<()> {
        if matches!(spec().get("handler"), Some("base" | "function")) {
            return request.direct(data);
        }
        let mut rest = data;
        while !rest.is_empty() {
            let count = request.write(rest)?;
            rest = &rest[count..];
        }
        self.written = data.len();
        Ok(())
    }

    fn step<R: Peer>(
        &mut self,
        name: &str,
        argument: &str,
        request: &mut R,
    ) -> Result<(), HandlerError> {
        let tell = |name: &str, text: &str, id| note(&format!("{name}({text})"), Some(id));
        let id = request.id();
        match name {
            "line" => {
                self.last = request.line(&mut self.at)?;
                tell("line", &shown(&self.last), id);
            }
            "try_line" => match request.line(&mut self.at) {
                Ok(line) => tell("line", &shown(&line), id),
                Err(err) => tell("line failed", &kind(&err), id),
            },
            "read" | "rest" => {
                self.last = request.take(argument.parse().unwrap_or(u64::MAX))?;
                tell(name, &shown(&self.last), id);
            }
            "size" => tell("size", &request.size(&self.last).to_string(), id),
            "raw" => tell("raw", &request.on_stream("raw")?, id),
            "echo" => self.write(request, &self.last.clone())?,
            "write" => {
                let text = argument.replace("\\n", "\n").replace("\\s", " ");
                self.write(request, text.as_bytes())?;
            }
            "fill" => self.write(request, &vec![b'x'; argument.parse()?])?,
            "written" => tell("written", &self.written.to_string(), id),
            "flush" => request.flush()?,
            "count" => {
                let count = COUNTED.fetch_add(1, Ordering::SeqCst) + 1;
                self.write(request, count.to_string().as_bytes())?;
            }
            "where" => self.write(request, place().as_bytes())?,
            "peer" => {
                let peer = peer_name(request);
                self.write(request, peer.as_bytes())?;
            }
            "nodelay" | "blocking" | "same_descriptor" | "close" => {
                let text = request.on_stream(name)?;
                self.write(request, text.as_bytes())?;
            }
            "gate" => {
                let gate = argument.to_owned();
                socketserver::task::offload(move || at_gate(&gate))?;
            }
            "shutdown" => {
                if let Some(handle) = &*super::lock() {
                    handle.shutdown();
                }
            }
            "raise" if argument == "panic" => panic!("as asked"),
            "raise" if argument == "gone" => {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
            "raise" => return Err(argument.into()),
            _ => return Err(format!("unknown operation {name}").into()),
        }
        Ok(())
    }
}

impl<R: Peer> RequestHandler<R> for Script {
    fn setup(&mut self, request: &mut R) -> Result<(), HandlerError> {
        note("setup", Some(request.id()));
        request.set_up()?;
        self.run("setup", request).map(|_| ())
    }

    fn handle(&mut self, request: &mut R) -> Outcome {
        note("handle", Some(request.id()));
        self.run("handle", request)
    }

    fn finish(&mut self, request: &mut R) -> Result<(), HandlerError> {
        note("finish", Some(request.id()));
        self.run("finish", request).map(|_| ())
    }
}

/// The handler as a function.
pub(super) fn serve<R: Peer>(request: &mut R) -> Outcome {
    note("handle", Some(request.id()));
    Script::new().run("handle", request)
}

/// Tells the runner, and waits until it lets go.
pub(super) fn at_gate(name: &str) -> io::Result<()> {
    let mut gate = UnixStream::connect("gate")?;
    gate.set_read_timeout(Some(Duration::from_secs(20)))?;
    gate.write_all(format!("{name}\n").as_bytes())?;
    gate.read(&mut [0]).map(|_| ())
}
