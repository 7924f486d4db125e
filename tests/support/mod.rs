//! Shared by the test binaries: clients with deadlines, and servers in processes of their own.
//!
//! A server process is the test binary itself, started again with `--server` and the names of a
//! transport and a model. Its handler obeys the first line of each connection, and prints events as
//! lines on its standard output.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part"
)]

mod arguments;
mod interrupted;
pub(crate) mod models;
mod poll;
pub(crate) mod proxied;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use socket2::{Domain, SockAddr, Socket, Type};

pub(crate) use arguments::arguments;
pub(crate) use interrupted::uninterrupted;
pub(crate) use models::is_available;
pub(crate) use poll::poll_until;

/// How long a test waits for anything before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A stream client of either family.
pub(crate) trait Client: Read + Write + Send {
    fn half_close(&self) -> io::Result<()>;

    fn end_of_input(&self) {
        self.half_close().expect("half-close");
    }
}

impl Client for TcpStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Client for UnixStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A client whose reads are repeated where a signal has interrupted them: a read with a timeout fails also when the
/// process was stopped and goes on (signal(7)).
struct Uninterrupted(Box<dyn Client>);

impl Read for Uninterrupted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buf))
    }
}

impl Write for Uninterrupted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Client for Uninterrupted {
    fn half_close(&self) -> io::Result<()> {
        self.0.half_close()
    }

    fn end_of_input(&self) {
        self.0.end_of_input();
    }
}

/// A client that sends each line as a message, and reads the messages of its server as one stream.
struct SeqpacketClient {
    socket: Socket,
    /// What is left of the last message.
    unread: VecDeque<u8>,
}

impl SeqpacketClient {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self {
            socket,
            unread: VecDeque::new(),
        })
    }
}

impl Read for SeqpacketClient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            let mut message = [0; 8192];
            let count = self.socket.read(&mut message)?;
            self.unread.extend(&message[..count]);
        }
        self.unread.read(buf)
    }
}

impl Write for SeqpacketClient {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let line = buf.split_inclusive(|byte| *byte == b'\n').next();
        let line = line.unwrap_or_default();
        self.socket.send(&line[..line.len().min(4096)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Client for SeqpacketClient {
    fn half_close(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }
}

/// The address of a server's listener, as its URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
    UnixGram(PathBuf),
    Seqpacket(PathBuf),
    /// Through a proxy: a header comes first, or in each datagram.
    Proxied(Box<Self>),
    /// TLS over a stream.
    #[cfg(feature = "tls")]
    Tls(Box<Self>),
}

impl Target {
    pub(crate) fn parse(url: &str) -> Self {
        let (scheme, rest) = url
            .split_once("://")
            .unwrap_or_else(|| panic!("no URL: {url}"));
        match scheme {
            "tcp" => Self::Tcp(rest.parse().expect(url)),
            "udp" => Self::Udp(rest.parse().expect(url)),
            "unix" => Self::Unix(rest.into()),
            "unixgram" => Self::UnixGram(rest.into()),
            "seqpacket" => Self::Seqpacket(rest.into()),
            _ => panic!("unknown URL {url}"),
        }
    }

    /// Whether clients connect, unlike senders of datagrams.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            Self::Udp(_) | Self::UnixGram(_) => false,
            Self::Proxied(below) => below.is_stream(),
            _ => true,
        }
    }

    /// Connects a stream client.
    pub(crate) fn connect(&self) -> Box<dyn Client> {
        self.connect_within(DEADLINE).expect("connect")
    }

    /// Connects a stream client, unless that fails or takes too long, as over TCP with a full
    /// backlog.
    pub(crate) fn connect_within(&self, patience: Duration) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Uninterrupted(self.dial(patience)?)))
    }

    fn dial(&self, patience: Duration) -> io::Result<Box<dyn Client>> {
        Ok(match self {
            Self::Tcp(addr) => {
                let client = TcpStream::connect_timeout(addr, patience)?;
                client.set_read_timeout(Some(DEADLINE))?;
                Box::new(client)
            }
            Self::Unix(path) => {
                let client = UnixStream::connect(path)?;
                client.set_read_timeout(Some(DEADLINE))?;
                Box::new(client)
            }
            Self::Seqpacket(path) => Box::new(SeqpacketClient::connect(path)?),
            Self::Udp(_) | Self::UnixGram(_) => panic!("not a stream: {self:?}"),
            Self::Proxied(below) => match &**below {
                Self::Tcp(addr) => {
                    let client = TcpStream::connect_timeout(addr, patience)?;
                    client.set_read_timeout(Some(DEADLINE))?;
                    Box::new(proxied::Behind::new(client))
                }
                _ => panic!("no stream behind a proxy: {below:?}"),
            },
            #[cfg(feature = "tls")]
            Self::Tls(below) => Box::new(match &**below {
                Self::Tcp(addr) => {
                    let below = TcpStream::connect_timeout(addr, patience)?;
                    tls::plain(below, tls::Authority::shared().client())
                }
                Self::Proxied(below) => {
                    let Self::Tcp(addr) = &**below else {
                        panic!("no TCP behind a proxy: {below:?}")
                    };
                    let below = TcpStream::connect_timeout(addr, patience)?;
                    tls::plain(
                        proxied::Behind::new(below),
                        tls::Authority::shared().client(),
                    )
                }
                Self::Unix(path) => {
                    let below = UnixStream::connect(path)?;
                    tls::plain(below, tls::Authority::shared().client())
                }
                _ => panic!("not a stream: {below:?}"),
            }),
        })
    }

    /// Asks a server that may end the connection before it answers.
    pub(crate) fn try_ask(&self, request: &str) -> io::Result<String> {
        let mut client = self.connect_within(DEADLINE)?;
        client.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Sends one command without waiting for its answer.
    pub(crate) fn send(&self, request: &str) -> Pending {
        match self {
            Self::Udp(addr) => {
                let client = UdpSocket::bind(if addr.is_ipv4() {
                    "127.0.0.1:0"
                } else {
                    "[::1]:0"
                })
                .expect("bind");
                client
                    .set_read_timeout(Some(DEADLINE))
                    .expect("set a deadline");
                client.send_to(request.as_bytes(), addr).expect("send");
                Pending::Udp(client)
            }
            Self::Proxied(below) if !below.is_stream() => {
                let header =
                    String::from_utf8(proxied::header(true)).expect("a header that is text");
                below.send(&(header + request))
            }
            Self::UnixGram(path) => {
                let client = UnixDatagram::bind_addr(&unique_name()).expect("bind");
                client
                    .set_read_timeout(Some(DEADLINE))
                    .expect("set a deadline");
                client
                    .set_write_timeout(Some(DEADLINE))
                    .expect("set a deadline");
                client.send_to(request.as_bytes(), path).expect("send");
                Pending::UnixGram(client)
            }
            _ => {
                let mut client = self.connect();
                client
                    .write_all(format!("{request}\n").as_bytes())
                    .expect("send");
                Pending::Stream(client)
            }
        }
    }

    /// Sends one command and returns its whole answer.
    pub(crate) fn ask(&self, request: &str) -> String {
        self.send(request).answer()
    }
}

/// Returns an abstract name that no other test has.
fn unique_name() -> std::os::unix::net::SocketAddr {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "socketserver-test-{}-{}",
        std::process::id(),
        LAST.fetch_add(1, Ordering::Relaxed)
    );
    std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a short name")
}

/// A command that was sent.
pub(crate) enum Pending {
    Stream(Box<dyn Client>),
    Udp(UdpSocket),
    UnixGram(UnixDatagram),
}

impl Pending {
    /// Waits for the answer: all up to the end of a stream, or one datagram.
    pub(crate) fn answer(self) -> String {
        let mut bytes = vec![0; 65_536];
        match self {
            Self::Stream(mut client) => {
                bytes.clear();
                client.read_to_end(&mut bytes).expect("read to the end");
            }
            Self::Udp(client) => {
                let count = uninterrupted(|| client.recv(&mut bytes)).expect("receive");
                bytes.truncate(count);
            }
            Self::UnixGram(client) => {
                let count = uninterrupted(|| client.recv(&mut bytes)).expect("receive");
                bytes.truncate(count);
            }
        }
        String::from_utf8(bytes).expect("UTF-8")
    }
}

/// Handlers that are told to `hold` report to the gate, and wait to be released. Works across
/// processes.
pub(crate) struct Gate(TcpListener);

impl Gate {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        socket2::SockRef::from(&listener)
            .set_read_timeout(Some(DEADLINE))
            .expect("set a deadline");
        Self(listener)
    }

    /// The command that makes a handler hold at this gate.
    pub(crate) fn hold(&self) -> String {
        format!("hold {}", self.0.local_addr().expect("bound"))
    }

    /// Waits until a handler holds. The drop of the returned value releases it.
    pub(crate) fn wait(&self) -> TcpStream {
        self.0
            .accept()
            .expect("a handler holds within the deadline")
            .0
    }

    /// Whether a handler holds now.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.set_nonblocking(true).expect("set the mode");
        let waiting = self.0.accept().is_ok();
        self.0.set_nonblocking(false).expect("set the mode");
        waiting
    }
}

/// Prints a line with one write, as several processes print.
pub(crate) fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}

/// The handler's end of a gate.
pub(crate) fn hold_at(gate: &str) -> io::Result<()> {
    TcpStream::connect(gate)?.read(&mut [0]).map(|_| ())
}

/// Returns whether the end of the stream arrives within the time.
pub(crate) fn ends_within(stream: &TcpStream, pause: Duration) -> bool {
    let timeout = Timespec::try_from(pause).expect("a short time");
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    // The server sends nothing else unasked.
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

/// A server in a process of its own. The drop kills it.
pub(crate) struct ServerProcess {
    child: Child,
    lines: Receiver<String>,
    /// Lines that were read while another line was awaited.
    seen: Vec<String>,
    pub(crate) targets: Vec<Target>,
    /// The directory of the socket files.
    _directory: tempfile::TempDir,
}

impl ServerProcess {
    /// Starts this test binary again as a server, and waits until it is ready.
    pub(crate) fn start(transport: &str, model: &str, options: &[&str]) -> Self {
        Self::start_as("--server", transport, model, options)
    }

    /// As `start`, with another first argument.
    pub(crate) fn start_as(mode: &str, transport: &str, model: &str, options: &[&str]) -> Self {
        let mut server = Self::launch(mode, transport, model, options);
        loop {
            let line = server.next_line();
            if line == "ready" {
                return server;
            }
            if let Some(url) = line.strip_prefix("listening on ") {
                let target = Target::parse(url);
                let target = match transport {
                    "proxied" | "proxied_udp" | "tls_proxied" => Target::Proxied(Box::new(target)),
                    _ => target,
                };
                #[cfg(feature = "tls")]
                let target = match transport {
                    "tls" | "tls_unix" | "tls_proxied" => Target::Tls(Box::new(target)),
                    _ => target,
                };
                server.targets.push(target);
            }
        }
    }

    /// Starts this test binary again as a server.
    fn launch(mode: &str, transport: &str, model: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // A server may give up its privileges before it binds.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), all).expect("open the directory");
        #[cfg(feature = "tls")]
        if transport.starts_with("tls") {
            let pair = tls::Authority::shared().issue(&["localhost"]);
            pair.write(directory.path(), "server");
        }
        let program = std::env::current_exe().expect("this binary");
        let mut command = Command::new(&program);
        command.args([mode, transport, model]).args(options);
        command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let started = command.spawn();
        let mut child = started
            .unwrap_or_else(|err| panic!("start {program:?} in {:?}: {err}", directory.path()));
        let output = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            targets: Vec::new(),
            _directory: directory,
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.targets[0]
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects a client, whose connection parks after its first answer.
    #[track_caller]
    pub(crate) fn park(&self, text: &str) -> Box<dyn Client> {
        let mut client = self.target().connect();
        let line = format!("{text}\n");
        client
            .write_all(format!("keep {line}").as_bytes())
            .expect("send");
        let mut answer = vec![0; line.len()];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, line.as_bytes());
        client
    }

    fn next_line(&self) -> String {
        self.lines
            .recv_timeout(DEADLINE)
            .expect("a line of the server within the deadline")
    }

    /// Whether a line that begins with `prefix` has arrived.
    pub(crate) fn has_said(&mut self, prefix: &str) -> bool {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().any(|line| line.starts_with(prefix))
    }

    /// Waits for a line that begins with `prefix`, and returns the rest of it.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> String {
        if let Some(at) = self.seen.iter().position(|line| line.starts_with(prefix)) {
            return self.seen.remove(at)[prefix.len()..].to_owned();
        }
        loop {
            let line = self.next_line();
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.to_owned();
            }
            self.seen.push(line);
        }
    }

    /// Asks the server to stop through a handler, and returns the line of its end.
    pub(crate) fn stop(mut self) -> String {
        assert_eq!(self.target().ask("shutdown"), "ok");
        self.ended()
    }

    /// Waits until serving has ended by itself, and returns the line of its end:
    /// `aborted=0 accepted=1 …`.
    pub(crate) fn ended(&mut self) -> String {
        let report = self.wait_for("ended ");
        assert!(
            self.exit_status().success(),
            "a server that has ended exits with 0"
        );
        report
    }

    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        // The pipe ends with the process. A read from it can have a deadline, and wait(2) cannot.
        while self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
        self.child.wait().expect("wait for the server")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("wait for the server");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How often a thread of this process has waited: `voluntary_ctxt_switches` of proc_pid_status(5),
/// which does not count preemptions on a busy machine.
pub(crate) fn waits_of_this_thread() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    let count = count.expect("a count of the kernel's");
    count.trim().parse().expect("a number")
}

/// A process that is known to exist. Its end is an event.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    pub(crate) fn new(pid: &str) -> Self {
        let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a process");
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("watch a process"))
    }

    /// Waits for its end, within the deadline.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let limit = Timespec::try_from(DEADLINE).expect("a short time");
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let ended = poll(&mut fds, Some(&limit)).expect("wait for a process");
        assert_eq!(ended, 1, "the process still exists");
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
