//! What listeners are given and give back, from outside: zones, options of one listener, sockets that
//! others have too, and names that clients choose.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

#[path = "../../tests/support/link_local.rs"]
mod link_local;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use support::{
    Client, DEADLINE, Process, Server, assert_echoes, command, command_after, command_with, fails,
    poll_until, serve, uninterrupted, unique_name,
};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

// Zones.

#[test]
fn a_zone_is_a_number_or_a_name_and_announced_by_its_name() {
    let test = "a_zone_is_a_number_or_a_name_and_announced_by_its_name";
    link_local::with_link_local(test, |addr, name| {
        for scheme in ["tcp", "udp"] {
            for zone in [&addr.scope_id().to_string(), name] {
                let server = serve("echo", &[&format!("{scheme}://[{}%{zone}]:0", addr.ip())]);
                let start = format!("{scheme}://[{}%{name}]:", addr.ip());
                let port = server.urls[0].strip_prefix(&start).expect(&start);
                let port = port.parse().expect("a port");
                assert_ne!(port, 0);
                let at = SocketAddrV6::new(*addr.ip(), port, 0, addr.scope_id());
                assert_echoes(&format!("{scheme}://{at}"));
                server.stop();
            }
        }
        // Without one the kernel says no more than that the argument is invalid.
        let url = format!("tcp://[{}]:0", addr.ip());
        let parts = ["bind [", "a link-local address needs its interface"];
        fails(command("serve echo", &[&url]), 1, &parts);
    });
}

// Options of one listener.

#[test]
fn both_wildcards_have_one_port_when_ipv6_is_alone() {
    for scheme in ["tcp", "udp"] {
        let first = serve("echo", &[&format!("{scheme}://0.0.0.0:0")]);
        let (_, port) = first.urls[0].rsplit_once(':').unwrap();
        let both = format!("{scheme}://[::]:{port}");
        // That may be a socket of the very same command.
        let parts = [&format!("bind [::]:{port}: "), "of this process", "?v6only"];
        fails(command("serve echo", &[&both]), 1, &parts);
        let second = serve("echo", &[&format!("{both}?v6only")]);
        assert_eq!(second.urls, [both]);
        assert_echoes(&format!("{scheme}://[::1]:{port}"));
        assert_echoes(&format!("{scheme}://127.0.0.1:{port}"));
        second.stop();
        first.stop();
    }
}

#[test]
fn a_port_that_the_same_command_has_bound_is_no_other_process() {
    let port = {
        let free = TcpListener::bind("0.0.0.0:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let urls = [
        format!("tcp://0.0.0.0:{port}"),
        format!("tcp://[::]:{port}"),
    ];
    let command = command("serve echo", &[&urls[0], &urls[1]]);
    fails(command, 1, &["of this process or of another", "?v6only"]);
}

#[test]
fn a_backlog_and_a_mode_reach_the_kernel_and_are_not_announced() {
    let directory = temp();
    let schemes = ["unix", "unixgram", "seqpacket"];
    let paths = schemes.map(|scheme| directory.path().join(scheme));
    let urls = schemes.map(|scheme| {
        let path = directory.path().join(scheme);
        format!("{scheme}://{}", path.display())
    });
    let given = [
        format!("{}?mode=640&backlog=3", urls[0]),
        format!("{}?mode=0602", urls[1]),
        format!("{}?mode=600&backlog=3", urls[2]),
    ];
    let server = serve(
        "echo",
        &[
            &given[0],
            &given[1],
            &given[2],
            "tcp://127.0.0.1:0?backlog=1",
        ],
    );
    assert_eq!(server.urls[..3], urls);
    let tcp = server.urls[3].clone();
    assert!(!tcp.contains('?'), "{tcp}");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        paths.each_ref().map(|path| mode(path)),
        [0o640, 0o602, 0o600]
    );
    server.urls.iter().for_each(|url| assert_echoes(url));
    server.stop();

    // One connection is served, two wait in a backlog of one (listen(2)), and the next finds no room.
    let words = "echo --max-connections 1 --at-limit wait";
    let server = serve(words, &["tcp://127.0.0.1:0?backlog=1"]);
    let _served = server.accepted_client();
    let addr = server.urls[0].strip_prefix("tcp://").unwrap();
    let addr = addr.parse().unwrap();
    let connect = |limit| TcpStream::connect_timeout(&addr, limit);
    let _waiting = [(); 2].map(|()| connect(DEADLINE).unwrap());
    assert!(connect(Duration::from_millis(200)).is_err());
}

#[test]
fn options_that_a_listener_does_not_have_are_wrong_usage() {
    let is_wrong = |url: &str, parts: &[&str]| fails(command("serve echo", &[url]), 2, parts);
    let there = ["has no option \"v6\"; it has v6only and backlog=N"];
    is_wrong("tcp://[::]:0?v6", &there);
    is_wrong("udp://[::]:0?backlog=1", &["\"backlog\"", "v6only"]);
    is_wrong(
        "unix:///s?user=1",
        &["\"user\"", "backlog=N and mode=OCTAL"],
    );
    is_wrong("fd://3?mode=1", &["\"mode\"", "it has tls=off"]);
    is_wrong("tcp://[::]:0?v6only&v6only", &["v6only is given twice"]);
    is_wrong("unix:///s?mode=9", &["mode", "octal"]);
    is_wrong("tcp://[::]:0?backlog=x", &["backlog", "number"]);
}

// Sockets that others have too.

fn blocks(socket: &impl AsFd) -> bool {
    let flags = fcntl_getfl(socket).expect("flags");
    !flags.contains(OFlags::NONBLOCK)
}

#[test]
fn an_inherited_listener_blocks_again_after_the_server() {
    let directory = temp();
    for (index, model) in [
        "threading",
        "forking",
        "prefork --workers 2",
        "prefork:forking",
    ]
    .iter()
    .enumerate()
    {
        let words = format!("serve echo --model {model}");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(
            command_with(tcp.try_clone().unwrap(), &words, &["fd://3"]),
            1,
        );
        assert!(!blocks(&tcp), "{model}");
        // A child or a worker that has ended has not restored it.
        assert_echoes(&server.urls[0]);
        assert_echoes(&server.urls[0]);
        assert!(!blocks(&tcp), "{model}");
        server.stop();
        assert!(blocks(&tcp), "{model}");

        let path = directory.path().join(index.to_string());
        let unix = UnixListener::bind(path).unwrap();
        let server = Server::start(
            command_with(unix.try_clone().unwrap(), &words, &["fd://3"]),
            1,
        );
        assert_echoes(&server.urls[0]);
        server.stop();
        assert!(blocks(&unix), "{model}");

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Server::start(
            command_with(udp.try_clone().unwrap(), &words, &["fd://3"]),
            1,
        );
        assert_echoes(&server.urls[0]);
        assert!(udp.write_timeout().unwrap().is_some(), "{model}");
        server.stop();
        assert_eq!(udp.write_timeout().unwrap(), None, "{model}");
    }
}

/// The workers still accept what is in the queue when their parent begins to wait for them.
#[test]
fn an_inherited_listener_does_not_block_before_the_last_worker_has_ended() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let words = "serve echo --model prefork --workers 1 --drain-timeout 1000";
    let urls = ["fd://3", "tcp://127.0.0.1:0"];
    let mut server = Server::start(command_with(tcp.try_clone().unwrap(), words, &urls), 2);
    let mut client = Client::connect(&server.urls[0]);
    client.echo("served");
    let own = server.urls[1].rsplit_once(':').unwrap().1.parse().unwrap();
    let own = inode_of(own);
    assert!(has_socket(server.process.id(), &own));
    server.process.signal(Signal::TERM);
    // The parent closes its own listener when its drain begins.
    poll_until("the parent drains", DEADLINE, || {
        (!has_socket(server.process.id(), &own)).then_some(())
    });
    assert!(!blocks(&tcp));
    client.talk_to_the_end();
    server.process.stopped();
    assert!(blocks(&tcp));
}

/// The inode of the socket that listens on a port of 127.0.0.1 (proc_pid_net(5), tcp).
fn inode_of(port: u16) -> String {
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let local = format!("0100007F:{port:04X}");
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.get(1) == Some(&local.as_str()) && fields[3] == "0A");
    format!("socket:[{}]", line.expect("a listener")[9])
}

fn has_socket(pid: u32, link: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    open.flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(link)))
}

// The lock of a path.

/// A worker or a child that had it would keep the path from the next server.
#[test]
fn no_process_of_a_server_keeps_the_lock_of_its_path() {
    let directory = temp();
    let urls = ["unix", "unixgram"].map(|scheme| {
        let path = directory.path().join(scheme);
        format!("{scheme}://{}", path.display())
    });
    for model in ["threading", "forking", "prefork --workers 2"] {
        let server = serve(&format!("echo --model {model}"), &[&urls[0], &urls[1]]);
        let client = server.accepted_client();
        let pid = server.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        let locks = fs::read_to_string("/proc/net/unix").unwrap();
        for line in locks
            .lines()
            .filter(|line| line.contains("@socketserver-path-"))
        {
            let inode = line.split_whitespace().nth(6).expect("an inode");
            let link = format!("socket:[{inode}]");
            for pid in children.clone().chain([pid]) {
                assert!(!has_socket(pid, &link), "{model}: process {pid} has {line}");
            }
        }
        drop(client);
        server.stop();
    }
}

// Names that clients choose.

/// A line feed, a line of our own, and an escape sequence that clears the screen.
const FORGED: &str = "x\nsocketserver: connection 9 accepted\x1b[2J";
const SHOWN: &str = r"x\nsocketserver: connection 9 accepted\x1b[2J";

#[test]
fn the_name_of_a_client_stays_on_its_line() {
    let directory = temp();
    let url = format!("unix://{}", directory.path().join("s").display());
    let mut server = serve("echo --log", &[&url]);
    let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let name = directory.path().join(FORGED);
    client.bind(&SockAddr::unix(&name).unwrap()).unwrap();
    let target = directory.path().join("s");
    client.connect(&SockAddr::unix(target).unwrap()).unwrap();
    (&client).write_all(b"x").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(
        std::io::copy(&mut &client, &mut std::io::sink()).unwrap(),
        1
    );
    drop(client);
    server.process.signal(Signal::TERM);
    let lines = server.process.exit().stderr;
    for line in &lines {
        assert!(
            line.starts_with("socketserver: ") && !line.contains('\x1b'),
            "{line:?}"
        );
        assert!(!line.starts_with("socketserver: connection 9"), "{line:?}");
    }
    let shown = format!("{}/{SHOWN}", directory.path().display());
    assert!(lines.iter().any(|line| line.contains(&shown)), "{lines:#?}");
}

#[test]
fn the_path_of_a_listener_stays_on_its_line() {
    let directory = temp();
    let path = directory.path().join("Łódź\n");
    let url = format!("unix://{}", path.to_str().unwrap());
    let shown = format!("{}/Łódź\\n", directory.path().display());
    let server = serve("echo", &[&url]);
    assert_eq!(server.urls, [format!("unix://{shown}")]);
    let missing = PathBuf::from(format!("{}/missing\n/s", directory.path().display()));
    let url = format!("unix://{}", missing.to_str().unwrap());
    let bind = format!(
        "bind {}/missing\\n/s: No such file",
        directory.path().display()
    );
    fails(command("serve echo", &[&url]), 1, &[&bind]);
    server.stop();
}

/// A reply that cannot be sent is said without `--log`.
#[test]
fn the_name_of_a_sender_that_is_gone_stays_on_its_line() {
    let directory = temp();
    let path = directory.path().join("d");
    let server = serve("echo", &[&format!("unixgram://{}", path.display())]);
    let name = directory.path().join(FORGED);
    let sender = UnixDatagram::bind(&name).unwrap();
    // It has a name when it sends, and no file when it is answered: the server stands still.
    server.process.signal(Signal::STOP);
    sender.send_to(b"x", &path).unwrap();
    fs::remove_file(&name).unwrap();
    server.process.signal(Signal::CONT);
    // A second one is answered after the first.
    let second = UnixDatagram::bind(directory.path().join("e")).unwrap();
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    second.send_to(b"y", &path).unwrap();
    uninterrupted(|| second.recv(&mut [0])).unwrap();
    let mut process = server.process;
    process.signal(Signal::TERM);
    for line in process.exit().stderr {
        assert!(
            line.starts_with("socketserver: datagram 1 from "),
            "{line:?}"
        );
        assert!(line.contains(SHOWN), "{line:?}");
    }
}

/// A listening socket, or a bound socket for datagrams, of each kind.
fn socket_of_kind(kind: &str, directory: &Path) -> Socket {
    let (domain, socket_type) = match kind {
        "tcp" => (Domain::IPV4, Type::STREAM),
        "udp" => (Domain::IPV4, Type::DGRAM),
        "unix" => (Domain::UNIX, Type::STREAM),
        "unixgram" => (Domain::UNIX, Type::DGRAM),
        _ => (Domain::UNIX, Type::SEQPACKET),
    };
    let socket = Socket::new(domain, socket_type, None).expect("a socket");
    if domain == Domain::UNIX {
        let path = directory.join(unique_name());
        socket
            .bind(&SockAddr::unix(path).expect("a short path"))
            .expect("bind");
    } else {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bind");
    }
    if socket_type != Type::DGRAM {
        socket.listen(5).expect("listen");
    }
    socket
}

/// Options, the kinds of inherited sockets that they do not suit, and a part of the error.
const UNSUITABLE: [(&str, &[&str], &str); 9] = [
    (
        "serve echo --allow-user root",
        &["tcp", "udp"],
        "are for unix listeners, of which there is none",
    ),
    (
        "serve echo --max-per-user 2",
        &["tcp", "udp", "unixgram"],
        "are for unix listeners, of which there is none",
    ),
    (
        "serve echo --allow-group root",
        &["unixgram"],
        "refuse every datagram of a unixgram listener",
    ),
    (
        "serve echo --deny 10.0.0.1",
        &["unix", "unixgram", "seqpacket"],
        "are for tcp and udp listeners, of which there is none",
    ),
    (
        "serve echo --proxy-protocol v2 --proxy-trust 10.0.0.0/8",
        &["unix", "unixgram"],
        "has no peer of a Unix listener",
    ),
    (
        "serve echo --proxy-protocol v2 --proxy-trust unix",
        &["tcp", "udp"],
        "has no address",
    ),
    (
        "serve echo --proxy-protocol v1 --proxy-trust 10.0.0.0/8 --proxy-trust unix",
        &["udp", "unixgram"],
        "v1 has no datagrams",
    ),
    (
        "serve echo --proxy-protocol any --proxy-trust unix",
        &["seqpacket"],
        "not for seqpacket listeners",
    ),
    (
        "proxy --to tcp://127.0.0.1:1",
        &["udp", "unixgram", "seqpacket"],
        "are of different kinds",
    ),
];

/// The ways in which a socket is inherited: by its number, and by the name that a service manager gives it, or gives to
/// all.
const INHERITED: [(&str, &str); 3] = [
    ("", "fd://3"),
    (
        "; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:other",
        "fd://web",
    ),
    ("; export LISTEN_PID=$$ LISTEN_FDS=1", "fd://unknown"),
];

/// The binary, which inherits a socket as descriptor 3, and something else as descriptor 4.
fn inheriting(socket: Socket, variables: &str, words: &str, url: &str) -> Command {
    let shell = format!("exec 3<&0 4</dev/null </dev/null{variables}");
    let mut command = command_after(&shell, words, &[url]);
    command.stdin(OwnedFd::from(socket));
    command
}

#[test]
fn options_have_to_suit_inherited_sockets() {
    let directory = tempfile::tempdir().unwrap();
    for (words, kinds, why) in UNSUITABLE {
        for (kind, (variables, url)) in kinds
            .iter()
            .flat_map(|kind| INHERITED.map(|how| (kind, how)))
        {
            let socket = socket_of_kind(kind, directory.path());
            let exit = Process::start(inheriting(socket, variables, words, url)).exit();
            let text = exit.stderr.join("\n");
            let lines = exit.stderr.len();
            assert_eq!(
                (exit.code, lines),
                (Some(2), 1),
                "{words} {kind} {url}: {text}"
            );
            assert!(text.contains(why), "{words} {kind} {url}: {text}");
        }
    }
}

#[test]
fn options_that_suit_an_inherited_socket_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    for (words, kind) in [
        ("--allow-user root --max-per-user 2", "unix"),
        ("--allow-group root", "seqpacket"),
        ("--deny 10.0.0.1", "udp"),
        (
            "--proxy-protocol v1 --proxy-trust unix --deny 10.0.0.1",
            "unix",
        ),
        ("--proxy-protocol v2 --proxy-trust 10.0.0.0/8", "udp"),
    ] {
        for (variables, url) in [INHERITED[0], INHERITED[2]] {
            let socket = socket_of_kind(kind, directory.path());
            let words = format!("serve echo {words}");
            Server::start(inheriting(socket, variables, &words, url), 1).stop();
        }
    }
}
