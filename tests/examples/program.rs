//! Examples as processes, and clients whose every wait has a deadline.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use socket2::SockRef;
use tempfile::TempDir;

/// How long a test waits for anything before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The program that a client talks to. All programs of one example take the same arguments and
/// print the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// The example, as its user runs it.
    Itself(&'static str),
    /// The handler of the example under another model: this binary, started again.
    Under(&'static str, &'static str),
    /// The example as it is written on Python's `socketserver`.
    InPython(&'static str),
}

impl Program {
    pub(crate) fn command(self, args: &[&str]) -> Command {
        let mut command = match self {
            Self::Itself(name) => Command::new(built(name)),
            Self::Under(name, model) => {
                let mut command = Command::new(std::env::current_exe().expect("this binary"));
                command.args(["--serve", name, model]);
                command
            }
            Self::InPython(name) => {
                let mut command = Command::new("python3");
                command.arg(sources().join(format!("python/{name}.py")));
                command
            }
        };
        command.args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn start(self, args: &[&str]) -> Example {
        Example::launch(self.command(args))
    }

    /// Starts a program that takes one TCP address.
    pub(crate) fn on_tcp(self) -> (Example, SocketAddr) {
        let example = self.start(&["127.0.0.1:0"]);
        let addr = example.inet("tcp");
        (example, addr)
    }
}

/// The folder of the examples.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// The path of an example as cargo has built it.
fn built(name: &str) -> PathBuf {
    // This binary is target/debug/deps/examples-0123456789abcdef.
    let tests = std::env::current_exe().expect("this binary");
    let target = tests.ancestors().nth(2).expect("a folder");
    let program = target.join("examples").join(name);
    let source = sources().join(format!("{name}.rs"));
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    // `cargo test --test examples` alone does not build them.
    assert!(
        changed(&program) >= changed(&source),
        "{} is not there or is out of date; `cargo build --examples` builds it",
        program.display()
    );
    program
}

/// An example that runs. The drop kills it.
pub(crate) struct Example {
    pub(crate) child: Child,
    pub(crate) output: Lines,
    pub(crate) errors: Lines,
}

impl Example {
    pub(crate) fn launch(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start an example");
        let output = Lines::of(child.stdout.take().expect("piped"));
        let errors = Lines::of(child.stderr.take().expect("piped"));
        Self {
            child,
            output,
            errors,
        }
    }

    /// The next URL that the example prints.
    pub(crate) fn url(&self) -> String {
        self.errors.wait_for("listening on ")
    }

    /// The address of the next URL, which must have this scheme.
    pub(crate) fn inet(&self, scheme: &str) -> SocketAddr {
        let url = self.url();
        let addr = url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"));
        addr.and_then(|addr| addr.parse().ok()).expect(&url)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until the example has ended by itself.
    pub(crate) fn end(&mut self) -> ExitStatus {
        End::of(self.pid()).wait();
        self.child.wait().expect("wait for it")
    }
}

/// The end of a process, awaited with a deadline.
pub(crate) struct End(OwnedFd);

impl End {
    pub(crate) fn of(pid: Pid) -> Self {
        Self(pidfd_open(pid, PidfdFlags::empty()).expect("a process that was not waited for"))
    }

    pub(crate) fn wait(&self) {
        let deadline = Timespec::try_from(DEADLINE).expect("a timespec");
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&deadline));
        assert_eq!(ended, Ok(1), "a process ends within the deadline");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, each awaited with a deadline.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(lines)
    }

    pub(crate) fn next(&self) -> String {
        self.0
            .recv_timeout(DEADLINE)
            .expect("a line within the deadline")
    }

    /// Skips lines until one begins with `prefix`, and returns the rest of it.
    pub(crate) fn wait_for(&self, start: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut passed = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.0.recv_timeout(left) else {
                panic!("no line began with {start:?}, but there were {passed:?}");
            };
            match line.strip_prefix(start) {
                Some(rest) => return rest.to_owned(),
                None => passed.push(line),
            }
        }
    }
}

/// A stream client whose every wait has a deadline.
pub(crate) struct Client<S>(BufReader<S>);

impl<S: Read + Write + AsFd> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        set_deadlines(SockRef::from(&stream));
        Self(BufReader::new(stream))
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.0
            .get_mut()
            .write_all(bytes)
            .expect("send within the deadline");
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub(crate) fn end_input(&self) {
        SockRef::from(self.0.get_ref())
            .shutdown(Shutdown::Write)
            .expect("end the input");
    }

    /// Returns the next line, without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0
            .read_line(&mut line)
            .expect("a line within the deadline");
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    /// Whether nothing has arrived.
    pub(crate) fn is_silent(&self) -> bool {
        let input = recv(
            self.0.get_ref(),
            &mut [0; 1],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        );
        self.0.buffer().is_empty() && input == Err(Errno::AGAIN)
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n"));
        self.line()
    }

    /// Returns all input up to the end.
    pub(crate) fn rest(mut self) -> String {
        let mut text = String::new();
        self.0
            .read_to_string(&mut text)
            .expect("the end within the deadline");
        text
    }
}

pub(crate) fn set_deadlines(socket: SockRef<'_>) {
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    socket
        .set_write_timeout(Some(DEADLINE))
        .expect("set a deadline");
}

pub(crate) fn connect(addr: SocketAddr) -> Client<TcpStream> {
    Client::new(TcpStream::connect_timeout(&addr, DEADLINE).expect("connect"))
}

pub(crate) fn connect_unix(path: &str) -> Client<UnixStream> {
    Client::new(UnixStream::connect(path).expect("connect"))
}

/// Sends a datagram, and returns the answer.
pub(crate) fn ask_udp(addr: SocketAddr, datagram: &str) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&client));
    client.connect(addr).expect("connect");
    client.send(datagram.as_bytes()).expect("send");
    let mut answer = [0; 1024];
    let length = client
        .recv(&mut answer)
        .expect("an answer within the deadline");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

pub(crate) fn path_in(directory: &TempDir, name: &str) -> String {
    directory
        .path()
        .join(name)
        .to_str()
        .expect("a path of text")
        .to_owned()
}
