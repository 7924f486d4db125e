//! Under a service manager: the sockets that it passes, what it is notified of, and its watchdog.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use socket2::{Domain, Socket, Type};

use support::{
    Client, DEADLINE, FreesReader, Process, Server, assert_echoes, children, command,
    command_under, make_fifo, uninterrupted, writer_of_fifo,
};

/// The manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bind");
        set_socket_passcred(&socket, true).expect("ask for credentials");
        Self { socket, directory }
    }

    /// Starts an echo server, with a watchdog that is fed each 50 ms.
    fn start(&self, model: &str) -> Server {
        self.start_at(&self.url(), model)
    }

    fn start_at(&self, url: &str, model: &str) -> Server {
        let mut command = command(&format!("serve echo --model {model}"), &[url]);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.env("WATCHDOG_USEC", "100000");
        Server::start(command, 1)
    }

    fn url(&self) -> String {
        format!("unix://{}", self.directory.path().join("s").display())
    }

    /// The next notice, with the process that sent it; `None` after `time`.
    fn notice_within(&self, time: Duration) -> Option<(u32, String)> {
        self.socket
            .set_read_timeout(Some(time))
            .expect("a deadline");
        let mut buf = [0; 200];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = uninterrupted(|| {
            let bytes = &mut [IoSliceMut::new(&mut buf)];
            let received = recvmsg(&self.socket, bytes, &mut control, RecvFlags::empty());
            Ok(received.map_err(io::Error::from)?.bytes)
        });
        let count = match received {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return None,
            received => received.expect("receive"),
        };
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        let sender = sender.expect("a sender").as_raw_pid().unsigned_abs();
        let text = String::from_utf8(buf[..count].to_vec()).expect("UTF-8");
        Some((sender, text))
    }

    /// The next notice, which is the main process's.
    #[track_caller]
    fn notice(&self, server: &Server) -> String {
        let notice = self.notice_within(DEADLINE);
        let (sender, text) = notice.expect("a notice within the deadline");
        assert_eq!(sender, server.process.id(), "{text}");
        text
    }

    /// The next notice that does not feed the watchdog.
    #[track_caller]
    fn news(&self, server: &Server) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = self.notice(server);
            if text != FED {
                return text;
            }
            assert!(Instant::now() < end, "no news within the deadline");
        }
    }

    /// Skips what was sent before.
    fn skip(&self) {
        while self.notice_within(Duration::from_millis(1)).is_some() {}
    }

    /// Whether the watchdog is not fed for four periods, after what was sent before.
    fn starves(&self) -> bool {
        self.skip();
        self.notice_within(Duration::from_millis(200)).is_none()
    }

    /// Waits until the watchdog starves.
    #[track_caller]
    fn await_starvation(&self) {
        support::poll_until("the watchdog starves", DEADLINE, || {
            self.starves().then_some(())
        });
    }
}

const FED: &str = "WATCHDOG=1\n";
const READY: &str = "READY=1\nSTATUS=running\n";

#[test]
fn a_service_manager_is_notified_in_order_by_the_main_process() {
    for model in [
        "sequential",
        "threading",
        "pool",
        "forking",
        "prefork",
        "coroutines",
    ] {
        let manager = Manager::new();
        let server = manager.start(model);
        assert_eq!(manager.notice(&server), READY, "{model}");
        for _ in 0..3 {
            assert_eq!(manager.notice(&server), FED, "{model}");
        }
        server.process.signal(Signal::HUP);
        let reloading = manager.news(&server);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let micros = micros.unwrap_or_else(|| panic!("{model}: {reloading}"));
        micros.trim_end().parse::<u64>().expect("a time");
        assert_eq!(manager.news(&server), "READY=1\n", "{model}");
        assert_eq!(manager.notice(&server), FED, "{model}");
        let client = (model != "sequential").then(|| {
            let mut client = Client::connect(&manager.url());
            client.echo("live");
            client
        });
        server.process.signal(Signal::TERM);
        let stopping = manager.news(&server);
        assert!(
            stopping.starts_with("STOPPING=1\nSTATUS="),
            "{model}: {stopping}"
        );
        if let Some(client) = client {
            // While the server drains, its loop turns.
            while manager.notice(&server) != FED {}
            drop(client);
        }
        let mut process = server.process;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

/// The list is a FIFO: who reads it waits for its writer.
#[test]
fn a_reload_is_over_once_the_lists_are_read() {
    for model in [
        "sequential",
        "threading",
        "pool",
        "forking",
        "prefork --workers 2",
        "coroutines --driver epoll",
    ] {
        let manager = Manager::new();
        let list = manager.directory.path().join("list");
        fs::write(&list, "").expect("write");
        let words = format!("{model} --deny @{}", list.display());
        let server = manager.start_at("tcp://127.0.0.1:0", &words);
        assert_eq!(manager.notice(&server), READY, "{model}");
        make_fifo(&list);
        let _freed = FreesReader(&list);
        for _ in 0..2 {
            server.process.signal(Signal::HUP);
            let reloading = manager.news(&server);
            assert!(
                reloading.starts_with("RELOADING=1\n"),
                "{model}: {reloading}"
            );
            let mut writer = writer_of_fifo(&list);
            while let Some((_, text)) = manager.notice_within(Duration::from_millis(1)) {
                assert_eq!(text, FED, "{model}: the list is not read yet");
            }
            writer.write_all(b"192.0.2.0/24\n").expect("write");
            drop(writer);
            assert_eq!(manager.news(&server), "READY=1\n", "{model}");
            let line = server.process.next_line();
            assert_eq!(
                line, "socketserver: the access lists were read again",
                "{model}"
            );
        }
        server.stop();
    }
}

#[test]
fn a_reload_outlives_the_worker_that_carries_it_out() {
    let manager = Manager::new();
    let list = manager.directory.path().join("list");
    fs::write(&list, "").expect("write");
    let words = format!("prefork --workers 2 --deny @{}", list.display());
    let server = manager.start_at("tcp://127.0.0.1:0", &words);
    assert_eq!(manager.notice(&server), READY);
    make_fifo(&list);
    let _freed = FreesReader(&list);
    server.process.signal(Signal::HUP);
    assert!(manager.news(&server).starts_with("RELOADING=1\n"));
    let kept = writer_of_fifo(&list);
    // One of them reads.
    let killed = children(server.process.id());
    for worker in &killed {
        let worker = Pid::from_raw(worker.cast_signed()).expect("a process");
        kill_process(worker, Signal::KILL).expect("kill a worker");
    }
    support::poll_until("the workers have ended", DEADLINE, || {
        let now = children(server.process.id());
        (!now.iter().any(|pid| killed.contains(pid))).then_some(())
    });
    drop(kept);
    let mut writer = writer_of_fifo(&list);
    writer.write_all(b"192.0.2.0/24\n").expect("write");
    drop(writer);
    assert_eq!(manager.news(&server), "READY=1\n");
    let mut process = server.process;
    process.signal(Signal::TERM);
    let exit = process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let again = "socketserver: the access lists were read again";
    assert!(exit.stderr.iter().any(|line| line == again), "{exit:?}");
}

#[test]
fn a_handler_that_holds_the_accept_loop_starves_the_watchdog() {
    let manager = Manager::new();
    let server = manager.start("sequential");
    assert_eq!(manager.notice(&server), READY);
    let mut client = Client::connect(&manager.url());
    client.echo("held");
    manager.await_starvation();
    drop(client);
    assert_eq!(manager.notice(&server), FED);
    server.stop();
}

#[test]
fn one_worker_that_turns_feeds_the_watchdog() {
    let manager = Manager::new();
    let server = manager.start("prefork:sequential --workers 2");
    assert_eq!(manager.notice(&server), READY);
    // Each worker serves one client; the first one leaves the other worker free.
    let mut first = Client::connect(&manager.url());
    first.echo("held");
    // A worker counts as alive for two periods after it has turned.
    for _ in 0..6 {
        assert_eq!(manager.notice(&server), FED);
    }
    let mut second = Client::connect(&manager.url());
    second.echo("held");
    manager.await_starvation();
    drop(first);
    assert_eq!(manager.notice(&server), FED);
    drop(second);
    server.stop();
}

#[test]
fn a_server_without_a_free_descriptor_still_notifies() {
    let manager = Manager::new();
    let mut server = manager.start("threading");
    assert_eq!(manager.notice(&server), READY);
    let id = server.process.id();
    let is_free = |fd: &u64| !Path::new(&format!("/proc/{id}/fd/{fd}")).exists();
    let none = Rlimit {
        current: (0..).find(is_free),
        ..getrlimit(Resource::Nofile)
    };
    let pid = Pid::from_raw(id as i32);
    let before = prlimit(pid, Resource::Nofile, none).expect("leave it no descriptor");
    manager.skip();
    for _ in 0..2 {
        assert_eq!(manager.notice(&server), FED);
    }
    server.process.signal(Signal::TERM);
    let stopping = manager.news(&server);
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    prlimit(pid, Resource::Nofile, before).expect("give it descriptors again");
    assert_eq!(server.process.exit().code, Some(0));
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let mut command = command("serve echo", &[&manager.url()]);
    command.env("NOTIFY_SOCKET", manager.directory.path().join("notify"));
    command
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1");
    let server = Server::start(command, 1);
    assert_eq!(manager.notice(&server), READY);
    assert!(manager.starves());
    server.stop();
}

#[test]
fn an_address_of_another_kind_does_not_keep_the_server_from_serving() {
    let manager = Manager::new();
    let mut command = command("serve echo", &[&manager.url()]);
    command.env("NOTIFY_SOCKET", "vsock:2:1234");
    let process = Process::start(command);
    let line = process.next_line();
    assert!(line.contains("NOTIFY_SOCKET=\"vsock:2:1234\""), "{line}");
    assert!(
        line.ends_with("; the service manager is not notified"),
        "{line}"
    );
    process.next_url();
    assert_echoes(&manager.url());
    let mut process = process;
    process.signal(Signal::TERM);
    process.stopped();
}

/// The binary, as `systemd-socket-activate` starts it once a client has come.
fn activated(options: &[&str], words: &str, urls: &[&str]) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    command.args(options);
    command_under(command, words, urls)
}

/// Reads the lines of `systemd-socket-activate`.
#[track_caller]
fn listens(process: &Process, sockets: usize) {
    for _ in 0..sockets {
        let line = process.next_line();
        assert!(line.starts_with("Listening on "), "{line}");
    }
}

/// A port that no other program gets: `systemd-socket-activate` binds no port 0. With `SO_REUSEADDR` it can bind this
/// one too, because this socket does not listen (socket(7)).
fn reserved(scheme: &str) -> (Socket, String) {
    let kind = if scheme == "udp" {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(Domain::IPV4, kind, None).expect("a socket");
    socket.set_reuse_address(true).expect("share the port");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("bind");
    let addr = socket.local_addr().expect("bound").as_socket();
    (socket, addr.expect("an address").to_string())
}

#[test]
fn sockets_are_taken_by_name_whatever_their_kind() {
    for (kind, schemes) in [
        (None, ["unix", "tcp"].as_slice()),
        (Some("--datagram"), &["unixgram", "udp"]),
        (Some("--seqpacket"), &["seqpacket"]),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("s").display().to_string();
        let mut options: Vec<_> = kind.into_iter().chain(["-l", &path]).collect();
        let (_reserved, port) = reserved(schemes[schemes.len() - 1]);
        if schemes.len() > 1 {
            options.extend(["-l", &port]);
        }
        let names = ["--fdname=local:web", "--fdname=local"];
        options.push(names[2 - schemes.len()]);
        let urls = &["fd://local", "fd://web"][..schemes.len()];
        for model in ["threading", "prefork"] {
            let words = format!("serve echo --model {model}");
            let process = Process::start(activated(&options, &words, urls));
            listens(&process, schemes.len());
            // It starts the server.
            let mut client = Client::connect(&format!("{}://{path}", schemes[0]));
            client.send(b"first");
            let line = process.next_line();
            assert!(line.contains("Communication attempt"), "{line}");
            let line = process.next_line();
            assert!(line.starts_with("Execing "), "{line}");
            assert_eq!(client.receive(5), b"first");
            for scheme in schemes {
                let url = process.next_url();
                assert!(url.starts_with(&format!("{scheme}://")), "{url}");
                assert_echoes(&url);
            }
            drop(client);
            let mut process = process;
            process.signal(Signal::TERM);
            process.stopped();
            fs::remove_file(&path).expect("it is the manager's to remove");
        }
    }
}

#[test]
fn a_socket_without_a_url_and_a_url_without_a_socket_are_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("s").display().to_string();
    let options = ["-l", &path, "--fdname=spare"];
    let start = |url: &str| {
        let process = Process::start(activated(&options, "serve echo", &[url]));
        listens(&process, 1);
        let client = Client::connect(&format!("unix://{path}"));
        for _ in 0..2 {
            process.next_line();
        }
        (process, client)
    };
    let (mut process, _client) = start("tcp://127.0.0.1:0");
    let line = process.next_line();
    assert!(
        line.contains("a socket named \"spare\", which is closed"),
        "{line}"
    );
    process.next_url();
    process.signal(Signal::TERM);
    process.stopped();
    fs::remove_file(&path).expect("the file of the manager");
    let (mut process, _client) = start("fd://web");
    let exit = process.exit();
    let text = exit.stderr.join("\n");
    assert_eq!(exit.code, Some(1), "{text}");
    assert!(
        text.contains("listen on fd://web: take the socket \"web\""),
        "{text}"
    );
    assert!(text.contains("it has passed spare"), "{text}");
}
