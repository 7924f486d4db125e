//! The binary as a process, and clients for what it serves. Every wait has a deadline.

#[path = "../../../tests/support/interrupted.rs"]
mod interrupted;
#[path = "../../../tests/support/poll.rs"]
mod poll;

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub(crate) use interrupted::uninterrupted;
pub(crate) use poll::poll_until;

/// How long a test waits for anything before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// `MSG_DONTWAIT` (send(2)).
const DONTWAIT: i32 = 0x40;

const BINARY: &str = env!("CARGO_BIN_EXE_socketserver");

/// Writes an executable file. Another program writes it, because a process that a thread of the tests forks meanwhile
/// has all files of the tests open until its execve(2), and a file that is open for writing is not executed (ETXTBSY).
#[allow(dead_code, reason = "for tests with programs of their own")]
#[track_caller]
pub(crate) fn write_program(path: &Path, content: &[u8], mode: u32) {
    let mut install = Command::new("install");
    let mode = format!("--mode={mode:o}");
    install.args([mode.as_str(), "/dev/stdin"]).arg(path);
    let install = install.stdin(Stdio::piped()).spawn();
    let mut install = install.expect("run install(1)");
    let mut input = install.stdin.take().expect("a pipe");
    input.write_all(content).expect("the content is read");
    drop(input);
    let status = install.wait().expect("wait for install(1)");
    assert!(status.success(), "install {}", path.display());
}

/// The binary with arguments: words, and then `--listen` with each URL.
pub(crate) fn command(words: &str, urls: &[&str]) -> Command {
    with_arguments(Command::new(BINARY), words, urls)
}

/// The binary, started by another command: a program, its arguments, and the binary with its own.
pub(crate) fn command_under(mut command: Command, words: &str, urls: &[&str]) -> Command {
    command.arg(BINARY);
    with_arguments(command, words, urls)
}

/// The binary, started by a shell that sets up what `Command` cannot.
pub(crate) fn command_after(shell: &str, words: &str, urls: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{shell}; exec \"$0\" \"$@\""));
    command_under(command, words, urls)
}

/// The binary, which inherits `fd` as descriptor 3.
pub(crate) fn command_with(fd: impl Into<OwnedFd>, words: &str, urls: &[&str]) -> Command {
    let mut command = command_after("exec 3<&0 </dev/null", words, urls);
    command.stdin(Stdio::from(fd.into()));
    command
}

fn with_arguments(mut command: Command, words: &str, urls: &[&str]) -> Command {
    command.args(words.split_whitespace());
    for url in urls {
        command.args(["--listen", url]);
    }
    command.stdin(Stdio::null());
    // A backtrace is many lines.
    command
        .env_remove("NOTIFY_SOCKET")
        .env_remove("RUST_BACKTRACE");
    command
}

/// A process of the binary. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    pidfd: OwnedFd,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// How a process ended, and the lines that nobody had read before.
#[derive(Debug, PartialEq)]
pub(crate) struct Exit {
    /// The exit status; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the binary");
        let pid = Pid::from_child(&child);
        Self {
            pidfd: pidfd_open(pid, PidfdFlags::empty()).expect("open a pidfd"),
            stdout: lines(child.stdout.take().expect("piped")),
            stderr: lines(child.stderr.take().expect("piped")),
            child,
        }
    }

    #[track_caller]
    pub(crate) fn next_line(&self) -> String {
        let line = self.stderr.recv_timeout(DEADLINE);
        line.expect("a line on standard error within the deadline")
    }

    /// A line on standard output, where a terminal may be that ends lines in its own way.
    #[track_caller]
    pub(crate) fn next_output(&self) -> String {
        let line = self.stdout.recv_timeout(DEADLINE);
        let line = line.expect("a line on standard output within the deadline");
        line.trim_end_matches('\r').to_owned()
    }

    /// A line, if there is one within `time`.
    pub(crate) fn line_within(&self, time: Duration) -> Option<String> {
        self.stderr.recv_timeout(time).ok()
    }

    /// Reads the line that announces a listener, and returns its URL.
    #[track_caller]
    pub(crate) fn next_url(&self) -> String {
        let line = self.next_line();
        let url = line.strip_prefix("listening on ");
        url.unwrap_or_else(|| panic!("no announcement: {line}"))
            .to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).expect("send a signal");
    }

    /// Waits until the process has ended, and every process that it forked.
    #[track_caller]
    pub(crate) fn exit(&mut self) -> Exit {
        let (stdout, stderr) = (rest(&self.stdout), rest(&self.stderr));
        let timeout = Timespec::try_from(DEADLINE).expect("a short time");
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let count = poll(&mut ended, Some(&timeout)).expect("poll");
        assert_eq!(count, 1, "the process ends within the deadline");
        let code = self.child.wait().expect("wait for the process").code();
        Exit {
            code,
            stdout,
            stderr,
        }
    }

    /// Waits for the end of a server, which must have served everything, and have said only what it
    /// listens on.
    #[track_caller]
    pub(crate) fn stopped(&mut self) {
        let silent = Exit {
            code: Some(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        assert_eq!(self.exit(), silent);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread, so that waiting for one can have a deadline. What the watchdog of
/// coroutines says is left out: on a busy machine any worker may be kept from running.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        for line in lines.filter(|line| !line.contains(" has kept its worker busy for ")) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// All lines up to the end of the pipe, which every process that has it must have closed.
#[track_caller]
fn rest(lines: &Receiver<String>) -> Vec<String> {
    let mut rest = Vec::new();
    loop {
        match lines.recv_timeout(DEADLINE) {
            Ok(line) => rest.push(line),
            Err(RecvTimeoutError::Disconnected) => return rest,
            Err(RecvTimeoutError::Timeout) => panic!("no exit within the deadline, after {rest:?}"),
        }
    }
}

/// Asserts that a command fails with an exit status and one line that has all of the parts.
#[allow(dead_code, reason = "for servers that do not start")]
#[track_caller]
pub(crate) fn fails(command: Command, code: i32, parts: &[&str]) {
    let exit = Process::start(command).exit();
    let [line] = exit.stderr.as_slice() else {
        panic!("not one line: {exit:?}");
    };
    assert_eq!((exit.code, exit.stdout.len()), (Some(code), 0), "{line}");
    assert!(line.starts_with("socketserver: "), "{line}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is missing in: {line}");
    }
}

/// A server that is ready.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// What it says it listens on.
    pub(crate) urls: Vec<String>,
}

/// Serves on each of the URLs, which must name one listener each.
#[track_caller]
pub(crate) fn serve(words: &str, urls: &[&str]) -> Server {
    Server::start(command(&format!("serve {words}"), urls), urls.len())
}

impl Server {
    #[track_caller]
    pub(crate) fn start(command: Command, listeners: usize) -> Self {
        let process = Process::start(command);
        let urls = (0..listeners).map(|_| process.next_url()).collect();
        Self { process, urls }
    }

    /// Connects a client that says nothing, and waits until it has been accepted: the server has
    /// another socket then.
    #[track_caller]
    pub(crate) fn accepted_client(&self) -> Client {
        let pid = self.process.id();
        let before = sockets(pid);
        let client = Client::connect(&self.urls[0]);
        poll_until("the client is accepted", DEADLINE, || {
            (sockets(pid) != before).then_some(())
        });
        client
    }

    #[track_caller]
    pub(crate) fn stop(self) {
        self.stop_by(Signal::TERM);
    }

    #[track_caller]
    pub(crate) fn stop_by(mut self, signal: Signal) {
        self.process.signal(signal);
        self.process.stopped();
    }
}

/// How many sockets a process and its descendants have (proc_pid_fd(5)).
pub(crate) fn sockets(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors");
    let is_socket = |link: &PathBuf| link.to_string_lossy().starts_with("socket:");
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(is_socket).count() + children(pid).into_iter().map(sockets).sum::<usize>()
}

/// The children of a process (proc_tid_children(5)), none if it has ended.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether no thread of a process or of one below it runs, or would if it had a processor.
fn is_asleep(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let mut stats = threads
        .flatten()
        .map(|thread| fs::read_to_string(thread.path().join("stat")));
    // The state follows the name, which is in parentheses (proc_pid_stat(5)).
    let sleeps = |stat: String| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    stats.all(|stat| stat.is_ok_and(sleeps)) && children(pid).into_iter().all(is_asleep)
}

/// A client of any transport.
pub(crate) struct Client {
    socket: Socket,
    is_stream: bool,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(url: &str) -> Self {
        let (scheme, rest) = url.split_once(':').expect("a URL");
        let is_stream = matches!(scheme, "tcp" | "unix");
        let kind = match scheme {
            "tcp" | "unix" => Type::STREAM,
            "seqpacket" => Type::SEQPACKET,
            _ => Type::DGRAM,
        };
        let (domain, addr) = match (scheme, rest.strip_prefix("//")) {
            ("tcp" | "udp", Some(rest)) => {
                let addr: SocketAddr = rest.parse().expect(url);
                (Domain::for_address(addr), addr.into())
            }
            (_, Some(path)) => (Domain::UNIX, SockAddr::unix(path).expect(url)),
            (_, None) => (Domain::UNIX, abstract_address(rest)),
        };
        let socket = Socket::new(domain, kind, None).expect("make a socket");
        if domain == Domain::UNIX && kind == Type::DGRAM {
            // Only a bound sender can be answered.
            socket
                .bind(&abstract_address(&unique_name()))
                .expect("bind");
        }
        socket.connect_timeout(&addr, DEADLINE).expect(url);
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let result = socket.set_write_timeout(Some(DEADLINE));
        result.expect("a deadline");
        Self { socket, is_stream }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, request: &[u8]) {
        if self.is_stream {
            self.socket.write_all(request).expect("write");
        } else {
            uninterrupted(|| self.socket.send(request)).expect("send");
        }
    }

    /// Reads `max` bytes of a stream, or less at its end; or a datagram of at most so many.
    #[track_caller]
    pub(crate) fn receive(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max];
        let mut count = self.read(&mut bytes).expect("read");
        while self.is_stream && count > 0 && count < max {
            match self.read(&mut bytes[count..]).expect("read") {
                0 => break,
                more => count += more,
            }
        }
        bytes.truncate(count);
        bytes
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.socket.read(buf))
    }

    /// Says something and hears it again.
    #[track_caller]
    pub(crate) fn echo(&mut self, text: &str) {
        self.send(text.as_bytes());
        assert_eq!(self.receive(text.len()), text.as_bytes());
    }

    /// Talks to an echo server until it ends the conversation, as it does when it has to stop.
    pub(crate) fn talk_to_the_end(mut self) {
        let end = Instant::now() + DEADLINE;
        while self.socket.write_all(b"x").is_ok() {
            assert!(Instant::now() < end, "the conversation has no end");
            match self.read(&mut [0]) {
                Ok(1..) => {}
                Ok(0) => return,
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return,
                Err(err) => panic!("the end of the conversation within the deadline: {err}"),
            }
        }
    }

    /// Waits until `server`, which sends without end, has filled the Unix socket of a client that
    /// reads nothing: it has sent something, and all of it is asleep.
    pub(crate) fn await_full(&self, server: &Process) {
        poll_until("the socket is full", DEADLINE, || {
            let unread = rustix::io::ioctl_fionread(&self.socket).expect("count what is unread");
            (unread > 0 && is_asleep(server.id())).then_some(())
        });
    }

    /// Sends until its Unix socket is full, and all of `server` is asleep. Returns how many bytes.
    #[allow(dead_code, reason = "for proxies")]
    pub(crate) fn send_until_full(&self, server: &Process) -> usize {
        let mut sent = 0;
        poll_until("the socket is full", DEADLINE, || {
            let before = sent;
            while let Ok(count) = self.socket.send_with_flags(&[0; 4096], DONTWAIT) {
                sent += count;
            }
            (sent == before && is_asleep(server.id())).then_some(sent)
        })
    }

    pub(crate) fn end_of_input(&self) {
        self.socket.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Whether nothing arrives within `time`.
    pub(crate) fn hears_nothing_for(&mut self, time: Duration) -> bool {
        self.socket
            .set_read_timeout(Some(time))
            .expect("a deadline");
        let result = self.read(&mut [0]);
        self.socket
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        result.is_err_and(|err| err.kind() == ErrorKind::WouldBlock)
    }
}

/// Who sends UDP datagrams from whatever port of 127.0.0.1 it likes.
pub(crate) struct Forger(Socket);

impl Forger {
    /// `None` where raw sockets are not allowed: root may have them (raw(7)).
    pub(crate) fn new() -> Option<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).ok()?;
        Some(Self(socket))
    }

    #[track_caller]
    pub(crate) fn send(&self, port: u16, url: &str, data: &[u8]) {
        let to = url.strip_prefix("udp://").expect("a URL of UDP");
        let to: SocketAddr = to.parse().expect(url);
        // RFC 768: source, destination, length, no checksum.
        let mut packet = Vec::new();
        for field in [port, to.port(), 8 + data.len() as u16, 0] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(data);
        let to = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], to.port())));
        self.0.send_to(&packet, &to).expect("send");
    }
}

/// Sends one request and returns its answer, at most `max` bytes of it: the stream up to its end,
/// or a datagram.
#[track_caller]
pub(crate) fn ask(url: &str, request: &[u8], max: usize) -> Vec<u8> {
    let mut client = Client::connect(url);
    // A server that speaks first may have ended its connection by now, and an empty message would fail.
    if !(request.is_empty() && url.starts_with("seqpacket:")) {
        client.send(request);
    }
    if client.is_stream {
        client.end_of_input();
    }
    client.receive(max)
}

/// Asserts that an echo server answers.
#[track_caller]
pub(crate) fn assert_echoes(url: &str) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(1000).collect();
    assert_eq!(ask(url, &every_byte, 2000), every_byte, "{url}");
}

/// A name for the abstract namespace, with its `@`, that nobody else has.
pub(crate) fn unique_name() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    format!("@socketserver-cli-{process}-{number}")
}

fn abstract_address(name: &str) -> SockAddr {
    SockAddr::unix(name.replacen('@', "\0", 1)).expect("a short name")
}

#[allow(dead_code, reason = "for servers that may be gone")]
impl Client {
    /// A client with a connected stream.
    pub(crate) fn from_stream(socket: Socket) -> Self {
        Self {
            socket,
            is_stream: true,
        }
    }

    /// Whether an echo server answers. Where it has a short deadline, a machine that stalls lets it end clients that would
    /// be in time.
    pub(crate) fn is_answered(url: &str) -> bool {
        Self::connect(url).try_echo("x")
    }

    /// As `echo`, on a connection that the server may have ended.
    pub(crate) fn try_echo(&mut self, text: &str) -> bool {
        let mut answer = vec![0; text.len()];
        let sent = self.socket.write_all(text.as_bytes());
        sent.and_then(|()| self.socket.read_exact(&mut answer))
            .is_ok_and(|()| answer == text.as_bytes())
    }

    /// Connects over TCP; `None` where nobody listens any more.
    pub(crate) fn try_connect(url: &str) -> Option<Self> {
        let addr: SocketAddr = url.strip_prefix("tcp://")?.parse().expect(url);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
        socket.connect_timeout(&addr.into(), DEADLINE).ok()?;
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Some(Self {
            socket,
            is_stream: true,
        })
    }
}

#[allow(dead_code, reason = "for tests whose servers fail")]
impl Process {
    /// The lines on standard error that have come and that nobody has read.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stderr.try_iter().collect()
    }

    /// The next line on standard error, or `None` at its end.
    #[track_caller]
    pub(crate) fn line_or_end(&self) -> Option<String> {
        match self.stderr.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line, and no end, within the deadline"),
        }
    }
}

/// Makes a FIFO in the place of a file: who reads it waits for its writer.
#[allow(dead_code, reason = "for files that are read while a test looks")]
pub(crate) fn make_fifo(path: &Path) {
    let _ = fs::remove_file(path);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).expect("a FIFO");
}

/// Waits until a FIFO is being read, and keeps the reader waiting.
#[track_caller]
#[allow(dead_code, reason = "for files that are read while a test looks")]
pub(crate) fn writer_of_fifo(path: &Path) -> fs::File {
    poll_until("the file is read", DEADLINE, || open_to_write(path).ok())
}

/// Without a reader it fails (fifo(7)).
fn open_to_write(path: &Path) -> io::Result<fs::File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(nonblocking).open(path)
}

/// At its end, who still waits for a writer of a FIFO goes on: a worker of a server that a failed test has killed.
#[allow(dead_code, reason = "for files that are read while a test looks")]
pub(crate) struct FreesReader<'a>(pub(crate) &'a Path);

impl Drop for FreesReader<'_> {
    fn drop(&mut self) {
        let _ = open_to_write(self.0);
    }
}

/// Says what was not checked here: on standard error, and in the file that `.ci/run` prints at its
/// end.
#[allow(dead_code, reason = "for tests that need privileges")]
#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
pub(crate) fn unchecked(what: &str) {
    eprintln!("not checked: {what}");
    if let Some(file) = std::env::var_os("UNCHECKED") {
        let file = fs::OpenOptions::new().append(true).create(true).open(file);
        let line = format!("{what}\n");
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("say what was not checked");
    }
}

/// Whether this test may become another user; says so otherwise.
#[allow(dead_code, reason = "for tests that need privileges")]
pub(crate) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        unchecked(&format!("{what}: that needs root"));
    }
    root
}

/// Runs `client` on a thread that is another user, in these supplementary groups.
#[allow(dead_code, reason = "for tests that need privileges")]
pub(crate) fn as_user<R: Send>(uid: u32, groups: &[u32], client: impl FnOnce() -> R + Send) -> R {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let groups: Vec<_> = groups
        .iter()
        .copied()
        .map(rustix::fs::Gid::from_raw)
        .collect();
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(uid),
    );
    let other = || {
        set_thread_groups(&groups).expect("leave the groups");
        set_thread_res_gid(gid, gid, gid).expect("change the group");
        set_thread_res_uid(uid, uid, uid).expect("become another user");
        client()
    };
    // The thread ends with its identity.
    thread::scope(|scope| scope.spawn(other).join().expect("no panic"))
}
