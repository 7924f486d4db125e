//! Standard error that is slow, full, closed or not read costs lines, and nothing else; and clients
//! cannot fill it.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use socket2::{Domain, Socket, Type};

use support::{
    Client, DEADLINE, Forger, Process, Server, assert_echoes, command, command_after,
    command_under, serve, unique_name,
};

const LOCAL: &str = "tcp://127.0.0.1:0";

const MODELS: [&str; 7] = [
    "sequential",
    "threading",
    "pool",
    "forking",
    "prefork --workers 2",
    "prefork:forking --workers 2",
    "coroutines --workers 2",
];

/// More than their lines fit into a pipe of a page.
const CLIENTS: usize = 60;

/// A server whose standard error is read when the test likes.
struct Unread {
    child: Child,
    pidfd: OwnedFd,
    reader: OwnedFd,
    /// What was read.
    text: Vec<u8>,
}

impl Unread {
    fn start(command: Command, pipe_size: usize) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        fcntl_setpipe_size(&writer, pipe_size).expect("set its size");
        Self::start_with(command, reader.into(), writer.into())
    }

    fn start_with(mut command: Command, reader: OwnedFd, writer: OwnedFd) -> Self {
        let child = command.stdout(Stdio::null()).stderr(writer).spawn();
        let child = child.expect("start the binary");
        Self {
            pidfd: pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd"),
            child,
            reader,
            text: Vec::new(),
        }
    }

    /// Reads what is there, after waiting for something; false at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        assert!(readable(&self.reader, DEADLINE), "a line, or the end");
        let mut buf = [0; 4096];
        let count = rustix::io::read(&self.reader, &mut buf).expect("read");
        self.text.extend_from_slice(&buf[..count]);
        count > 0
    }

    fn read_all_there_is(&mut self) {
        while readable(&self.reader, Duration::ZERO) {
            self.read();
        }
    }

    /// Reads until there is a line that has `part`.
    #[track_caller]
    fn read_to(&mut self, part: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.text).into_owned();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(line) = whole.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            assert!(self.read(), "no {part:?} in {text}");
        }
    }

    /// Asks the server to end, and returns its exit status.
    #[track_caller]
    fn end(&mut self) -> Option<i32> {
        pidfd_send_signal(&self.pidfd, Signal::TERM).expect("send a signal");
        assert!(readable(&self.pidfd, DEADLINE), "ends within the deadline");
        self.child.wait().expect("wait").code()
    }

    /// All lines, each of which must be whole.
    #[track_caller]
    fn lines(&mut self) -> Vec<String> {
        while self.read() {}
        let text = String::from_utf8(std::mem::take(&mut self.text)).expect("UTF-8");
        assert!(text.ends_with('\n'), "{text}");
        for line in text.lines() {
            let whole = line.starts_with("socketserver: ") || line.starts_with("listening on ");
            let one = line.matches("socketserver: ").count() <= 1;
            assert!(whole && one, "{line:?} in {text}");
        }
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn readable(fd: impl AsFd, time: Duration) -> bool {
    let time = Timespec::try_from(time).expect("a short time");
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)).expect("poll") > 0
}

const DROPPED: &str = " dropped: standard error was not read";

/// How many lines there would have been.
fn count(lines: &[String]) -> u64 {
    let told = |line: &String| {
        let number = line.strip_suffix(DROPPED)?.split(' ').nth(1)?;
        Some(number.parse::<u64>().expect(line))
    };
    lines.iter().map(|line| told(line).unwrap_or(1)).sum()
}

/// Serves clients while nobody reads, reads, serves more of them, and stops.
fn serve_unread(command: Command, pipe_size: usize) -> Vec<String> {
    let mut server = Unread::start(command, pipe_size);
    let line = server.read_to("listening on ");
    let url = line.strip_prefix("listening on ").expect("a URL");
    let serve = || (0..CLIENTS).for_each(|_| Client::connect(url).echo("served"));
    serve();
    server.read_all_there_is();
    serve();
    server.read_all_there_is();
    assert_eq!(server.end(), Some(0));
    server.lines()
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_which_are_counted() {
    for model in MODELS {
        let words = format!("serve echo --log --model {model}");
        let all = serve_unread(command(&words, &[LOCAL]), 1 << 20);
        assert!(all.len() > 6 * CLIENTS, "{model}: {all:#?}");
        assert!(!all.iter().any(|line| line.ends_with(DROPPED)), "{all:#?}");
        let some = serve_unread(command(&words, &[LOCAL]), 4096);
        assert!(some.iter().any(|line| line.ends_with(DROPPED)), "{some:#?}");
        // A coroutine that a busy machine keeps waiting has a line of its own.
        if !model.starts_with("coroutines") {
            assert_eq!(count(&some), all.len() as u64, "{model}: {some:#?}");
        }
    }
}

#[test]
fn a_server_stops_while_nobody_reads() {
    for model in MODELS {
        let words = format!("serve echo --log --model {model}");
        let mut server = Unread::start(command(&words, &[LOCAL]), 4096);
        let line = server.read_to("listening on ");
        let url = line.strip_prefix("listening on ").expect("a URL");
        (0..CLIENTS).for_each(|_| Client::connect(url).echo("served"));
        assert_eq!(server.end(), Some(0), "{model}");
        server.lines();
    }
}

/// As for users other than the one who made the pipe: it cannot be opened once more.
#[test]
fn a_pipe_that_may_not_be_opened_costs_lines_too() {
    let mut strace = Command::new("strace");
    strace.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        "/proc/self/fd/2",
    ]);
    strace.args(["-e", "trace=openat", "-e", "inject=openat:error=EACCES"]);
    let command = command_under(
        strace,
        "serve echo --log --model prefork --workers 2",
        &[LOCAL],
    );
    let lines = serve_unread(command, 4096);
    assert!(
        lines.iter().any(|line| line.ends_with(DROPPED)),
        "{lines:#?}"
    );
}

#[test]
fn a_socket_that_nobody_reads_costs_lines_too() {
    let (reader, writer) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("sockets");
    writer.set_send_buffer_size(1).expect("the smallest buffer");
    let command = command("serve echo --log", &[LOCAL]);
    let mut server = Unread::start_with(command, reader.into(), writer.into());
    let line = server.read_to("listening on ");
    let url = line.strip_prefix("listening on ").expect("a URL");
    (0..CLIENTS).for_each(|_| Client::connect(url).echo("served"));
    server.read_all_there_is();
    assert_eq!(server.end(), Some(0));
    let lines = server.lines();
    assert!(
        lines.iter().any(|line| line.ends_with(DROPPED)),
        "{lines:#?}"
    );
}

#[test]
fn a_manager_in_the_abstract_namespace_is_told_when_clients_can_connect() {
    let listener = format!("unix:{}", unique_name());
    let name = unique_name();
    let address = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("bind");
    let mut command = command("serve echo", &[&listener]);
    command.env("NOTIFY_SOCKET", &name);
    let server = Server::start(command, 1);
    wait_for_ready(&manager);
    assert_echoes(&listener);
    server.stop();
}

/// Waits until a service manager is told that the server is ready.
#[track_caller]
fn wait_for_ready(manager: &UnixDatagram) {
    manager
        .set_read_timeout(Some(DEADLINE))
        .expect("a deadline");
    let mut message = [0; 100];
    let count = support::uninterrupted(|| manager.recv(&mut message));
    let count = count.expect("a notification within the deadline");
    assert_eq!(&message[..count], b"READY=1\nSTATUS=running\n");
}

#[test]
fn standard_error_that_is_closed_or_full_costs_nothing_else() {
    for model in MODELS {
        for shell in ["exec 2>&-", "exec 2>/dev/full"] {
            let listener = format!("unix:{}", unique_name());
            let directory = tempfile::tempdir().expect("a temporary directory");
            let manager = directory.path().join("notify");
            let words = format!("serve echo --log --model {model}");
            let mut command = command_after(shell, &words, &[&listener]);
            command.env("NOTIFY_SOCKET", &manager);
            let manager = UnixDatagram::bind(&manager).expect("bind");
            let mut process = Process::start(command);
            wait_for_ready(&manager);
            assert_echoes(&listener);
            process.signal(Signal::TERM);
            process.stopped();
        }
    }
}

// What clients can bring about.

/// Lets `send` happen while the server is stopped, so that it finds what is left of the senders.
#[track_caller]
fn while_stopped(server: &Server, send: impl FnOnce()) {
    server.process.signal(Signal::STOP);
    send();
    server.process.signal(Signal::CONT);
}

#[test]
fn senders_that_are_gone_or_have_no_address_are_no_news() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for model in [
        "sequential",
        "threading",
        "forking",
        "coroutines --driver epoll",
    ] {
        // Forked children have to be continued by themselves: they are made afterwards.
        let name = unique_name();
        let listener = format!("unixgram:{name}");
        let server = serve(&format!("echo --model {model}"), &[&listener]);
        let to = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
        let file = directory.path().join("sender");
        while_stopped(&server, || {
            let unbound = UnixDatagram::unbound().expect("a socket");
            let named = UnixDatagram::bind(&file).expect("bind");
            let gone = SocketAddr::from_abstract_name(&unique_name()[1..]).expect("a name");
            let gone = UnixDatagram::bind_addr(&gone).expect("bind");
            for socket in [&unbound, &named, &gone] {
                (0..3).for_each(|_| {
                    socket.send_to_addr(b"x", &to).expect("send");
                });
            }
            fs::remove_file(&file).expect("remove the file");
        });
        assert_echoes(&listener);
        server.stop();
    }
}

#[test]
fn a_sender_with_port_0_is_no_news() {
    let Some(raw) = Forger::new() else {
        eprintln!("skipped: only root may forge the port of a sender");
        return;
    };
    let server = serve("echo", &["udp://127.0.0.1:0"]);
    (0..50).for_each(|_| raw.send(0, &server.urls[0], b"x"));
    assert_echoes(&server.urls[0]);
    server.stop();
}

#[test]
fn failures_that_clients_cause_are_a_line_a_second_with_a_count() {
    for model in ["threading", "prefork --workers 4", "forking"] {
        let start = Instant::now();
        let name = unique_name();
        let listener = format!("unixgram:{name}");
        let mut server = serve(&format!("echo --model {model}"), &[&listener]);
        let to = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
        let mine = SocketAddr::from_abstract_name(&unique_name()[1..]).expect("a name");
        // It never reads: its queue is full soon (unix(7), max_dgram_qlen).
        let client = UnixDatagram::bind_addr(&mine).expect("bind");
        client
            .set_write_timeout(Some(DEADLINE))
            .expect("a deadline");
        let mut said = Vec::new();
        while !said
            .iter()
            .any(|line: &String| line.ends_with(" more since the last report)"))
        {
            assert!(Instant::now() < start + DEADLINE, "{model}: {said:#?}");
            for _ in 0..20 {
                client.send_to_addr(b"x", &to).expect("send");
            }
            said.extend(server.process.line_within(Duration::from_millis(10)));
        }
        server.process.signal(Signal::TERM);
        let exit = server.process.exit();
        let most = 1 + start.elapsed().as_secs();
        said.extend(exit.stderr);
        assert_eq!(exit.code, Some(0), "{model}");
        assert!(said.len() as u64 <= most, "{model}: {said:#?}");
    }
}
