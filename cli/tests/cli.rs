//! The command line from outside: real processes, real sockets, and what scripts rely on.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tempfile::TempDir;

use support::{
    Client, DEADLINE, Process, Server, ask, assert_echoes, command, command_under, command_with,
    fails, serve, uninterrupted, unique_name,
};

const LOCAL: &str = "tcp://127.0.0.1:0";

const MODELS: [&str; 8] = [
    "sequential",
    "threading",
    "pool",
    "forking",
    "prefork --workers 2",
    "prefork:sequential --workers 2",
    "prefork:pool --workers 2",
    "prefork:forking --workers 2",
];

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn url(scheme: &str, directory: &TempDir, name: &str) -> String {
    format!("{scheme}://{}", directory.path().join(name).display())
}

/// The URLs of a stream and of a datagram socket file.
fn socket_files(directory: &TempDir) -> [String; 2] {
    ["unix", "unixgram"].map(|scheme| url(scheme, directory, scheme))
}

fn path_of(url: &str) -> &Path {
    Path::new(url.split_once("://").expect("a URL").1)
}

/// Serves on every transport at once, checks each of them, and stops.
#[track_caller]
fn on_every_transport(words: &str, check: impl Fn(&str)) {
    let directory = temp();
    let [stream, datagram] = socket_files(&directory);
    let messages = url("seqpacket", &directory, "q");
    let udp = "udp://127.0.0.1:0";
    let server = serve(words, &[LOCAL, udp, &stream, &datagram, &messages]);
    server.urls.iter().for_each(|url| check(url));
    server.stop();
}

#[track_caller]
fn fails_to_listen(url: &str, parts: &[&str]) {
    fails(command("serve echo", &[url]), 1, parts);
}

#[track_caller]
fn is_wrong_usage(words: &str, parts: &[&str]) {
    fails(command(words, &[]), 2, parts);
}

// Services.

#[test]
fn echo_returns_what_it_gets() {
    on_every_transport("echo", assert_echoes);
}

#[test]
fn echo_has_abstract_names() {
    let scheme = |scheme| format!("{scheme}:{}", unique_name());
    let urls = ["unix", "unixgram", "seqpacket"].map(scheme);
    let server = serve("echo", &[&urls[0], &urls[1], &urls[2]]);
    assert_eq!(server.urls, urls);
    urls.iter().for_each(|url| assert_echoes(url));
    server.stop();
}

#[test]
fn discard_takes_a_stream_and_ends_with_it() {
    let directory = temp();
    let server = serve("discard", &[LOCAL, &url("unix", &directory, "s")]);
    for url in &server.urls {
        assert_eq!(ask(url, &[b'x'; 100_000], 1), b"", "{url}");
    }
    server.stop();
}

#[test]
fn discard_does_not_answer_a_datagram() {
    let directory = temp();
    let urls = ["udp://127.0.0.1:0", &url("unixgram", &directory, "d")];
    let server = serve("discard", &urls);
    let mut clients: Vec<_> = server.urls.iter().map(|url| Client::connect(url)).collect();
    for client in &mut clients {
        client.send(b"x");
    }
    // A graceful stop serves what has arrived: an answer would be here when the server has ended.
    server.stop();
    for client in &mut clients {
        assert!(client.hears_nothing_for(Duration::from_millis(1)));
    }
}

#[test]
fn chargen_shifts_each_line_by_one() {
    let lines = concat!(
        r##" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg"##,
        "\r\n",
        r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh"##,
        "\r\n",
    );
    on_every_transport("chargen", |url| {
        // A datagram gets as many characters as it has; a connection goes on until we close it.
        let is_datagram = url.starts_with("udp:") || url.starts_with("unixgram:");
        let request = if is_datagram { 148 } else { 0 };
        let answer = ask(url, &vec![b'x'; request], 148);
        // A message is a line.
        let count = if url.starts_with("seqpacket:") { 1 } else { 2 };
        let expected: String = lines.split_inclusive('\n').take(count).collect();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{url}");
    });
}

#[test]
fn daytime_says_the_time_in_words() {
    on_every_transport("daytime", |url| {
        let answer = String::from_utf8(ask(url, b"", 100)).unwrap();
        let date = answer.strip_suffix("\r\n").expect("a line");
        let seconds = httpdate::parse_http_date(date).expect("a date");
        let off = SystemTime::now().duration_since(seconds).unwrap();
        assert!(off < DEADLINE, "{url}: {answer}");
    });
}

#[test]
fn time_says_the_seconds_since_1900() {
    on_every_transport("time", |url| {
        let now = || {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (since_1970.as_secs() + 2_208_988_800) as u32
        };
        let before = now();
        let answer = u32::from_be_bytes(ask(url, b"", 100).try_into().expect("four bytes"));
        let after = now();
        assert!(
            (before..=after).contains(&answer),
            "{url}: {answer}, from {before} to {after}"
        );
    });
}

#[test]
fn hello_greets() {
    on_every_transport("hello", |url| {
        assert_eq!(ask(url, b"", 100), b"hello world\n", "{url}");
    });
}

// Models.

#[test]
fn every_model_serves_streams_and_datagrams_and_stops() {
    for model in MODELS {
        on_every_transport(&format!("echo --model {model}"), assert_echoes);
    }
}

#[test]
fn max_connections_makes_the_second_client_wait() {
    let server = serve("echo --max-connections 1", &[LOCAL]);
    let mut first = Client::connect(&server.urls[0]);
    first.echo("first");
    let mut second = Client::connect(&server.urls[0]);
    second.send(b"second");
    assert!(second.hears_nothing_for(Duration::from_millis(100)));
    first.echo("still first");
    drop(first);
    assert_eq!(second.receive(6), b"second");
    drop(second);
    server.stop();
}

// Listeners.

#[test]
fn each_listener_is_announced_with_its_real_address() {
    let directory = temp();
    let [stream, datagram] = socket_files(&directory);
    let picked = ["tcp://127.0.0.1:", "tcp://[::1]:", "udp://[::1]:"];
    let [tcp4, tcp6, udp6] = picked.map(|url| format!("{url}0"));
    let server = serve("echo", &[&tcp4, &stream, &tcp6, &datagram, &udp6]);
    assert_eq!((&server.urls[1], &server.urls[3]), (&stream, &datagram));
    for (at, start) in [(0, picked[0]), (2, picked[1]), (4, picked[2])] {
        let port = server.urls[at].strip_prefix(start).expect(start);
        assert_ne!(port.parse::<u16>().expect(port), 0);
    }
    server.urls.iter().for_each(|url| assert_echoes(url));
    server.stop();
}

#[test]
fn a_name_binds_each_of_its_addresses_on_one_port() {
    let mut addrs: Vec<_> = ("localhost", 0).to_socket_addrs().unwrap().collect();
    addrs.retain(|addr| UdpSocket::bind(addr).is_ok());
    addrs.sort_unstable();
    addrs.dedup();
    for scheme in ["tcp", "udp"] {
        let command = command("serve echo", &[&format!("{scheme}://localhost:0")]);
        let server = Server::start(command, addrs.len());
        let (_, port) = server.urls[0].rsplit_once(':').unwrap();
        for addr in &mut addrs {
            addr.set_port(port.parse().unwrap());
        }
        let url = |addr| format!("{scheme}://{addr}");
        let expected: Vec<_> = addrs.iter().map(url).collect();
        assert_eq!(server.urls, expected);
        expected.iter().for_each(|url| assert_echoes(url));
        server.stop();
    }
}

#[test]
fn a_service_manager_is_told_when_clients_can_connect() {
    let directory = temp();
    let listener = url("unix", &directory, "s");
    for model in ["threading", "prefork"] {
        let manager = UnixDatagram::bind(directory.path().join(model)).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = command(&format!("serve echo --model {model}"), &[&listener]);
        command.env("NOTIFY_SOCKET", directory.path().join(model));
        let mut process = Process::start(command);
        let mut message = [0; 100];
        let received = uninterrupted(|| manager.recv(&mut message));
        let count = received.expect("a notification");
        assert_eq!(&message[..count], b"READY=1\nSTATUS=running\n");
        assert_echoes(&listener);
        assert_eq!(process.next_url(), listener);
        process.signal(Signal::TERM);
        process.stopped();
    }
}

#[test]
fn a_service_manager_is_not_told_of_a_server_that_fails() {
    let directory = temp();
    let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mut command = command("serve echo", &[LOCAL, "tcp://192.0.2.1:0"]);
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    fails(command, 1, &["bind 192.0.2.1:0: "]);
    assert!(manager.recv(&mut [0]).is_err());
}

#[test]
fn a_stale_socket_file_is_replaced_and_goes_with_the_server() {
    let directory = temp();
    let urls = socket_files(&directory);
    for model in ["threading", "prefork", "forking"] {
        let mut dead = serve("echo", &[&urls[0], &urls[1]]);
        dead.process.signal(Signal::KILL);
        assert_eq!(dead.process.exit().code, None);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "{model}");
        let server = serve(&format!("echo --model {model}"), &[&urls[0], &urls[1]]);
        urls.iter().for_each(|url| assert_echoes(url));
        server.stop();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{model}");
    }
}

#[test]
fn a_live_socket_file_is_an_error() {
    let directory = temp();
    let [stream, datagram] = socket_files(&directory);
    let server = serve("echo", &[&stream, &datagram]);
    for url in [&stream, &datagram] {
        let bind = format!("bind {}: ", path_of(url).display());
        fails_to_listen(url, &[&bind, "a server answers there"]);
        assert_echoes(url);
    }
    server.stop();
}

#[test]
fn a_file_that_took_the_place_of_the_socket_stays() {
    let directory = temp();
    let listener = url("unix", &directory, "s");
    let server = serve("echo", &[&listener]);
    let other = directory.path().join("other");
    fs::write(&other, "other").unwrap();
    fs::rename(&other, path_of(&listener)).unwrap();
    server.stop();
    assert_eq!(fs::read(path_of(&listener)).unwrap(), b"other");
}

// Inherited descriptors.

/// Asserts that a socket which is passed on as a descriptor is announced as `url` and served.
#[track_caller]
fn is_served(url: &str, socket: impl Into<OwnedFd>) {
    let command = command_with(socket, "serve echo", &["fd://3"]);
    let server = Server::start(command, 1);
    assert_eq!(server.urls, [url]);
    assert_echoes(url);
    server.stop();
}

#[test]
fn an_inherited_socket_is_served_and_keeps_its_file() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    is_served(&format!("tcp://{}", tcp.local_addr().unwrap()), tcp);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    is_served(&format!("udp://{}", udp.local_addr().unwrap()), udp);
    let directory = temp();
    let [stream, datagram] = socket_files(&directory);
    is_served(&stream, UnixListener::bind(path_of(&stream)).unwrap());
    is_served(&datagram, UnixDatagram::bind(path_of(&datagram)).unwrap());
    assert!(path_of(&stream).exists() && path_of(&datagram).exists());
}

#[test]
fn a_descriptor_that_cannot_be_served_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let cannot = |socket: OwnedFd, why: &str| {
        let command = command_with(socket, "serve echo", &["fd://3"]);
        fails(command, 1, &["listen on fd://3: ", why]);
    };
    cannot(connected.into(), "does not listen");
    cannot(tempfile::tempfile().unwrap().into(), "not a socket");
    fails_to_listen("fd://99", &["listen on fd://99: ", "not open"]);
    fails_to_listen("fd://0", &["listen on fd://0: ", "standard streams"]);
}

// Failures.

#[test]
fn an_address_that_cannot_be_bound_is_an_error() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (scheme, addr) in [("tcp", tcp.local_addr()), ("udp", udp.local_addr())] {
        let addr = addr.unwrap();
        let bind = format!("bind {addr}: ");
        fails_to_listen(&format!("{scheme}://{addr}"), &[&bind, "in use"]);
        let absent = format!("{scheme}://192.0.2.1:0");
        fails_to_listen(&absent, &["bind 192.0.2.1:0: ", "no interface"]);
    }
}

#[test]
fn a_path_that_cannot_be_bound_is_an_error() {
    let directory = temp();
    let file = url("unix", &directory, "file");
    fs::write(path_of(&file), "contents").unwrap();
    let missing = url("unix", &directory, "missing/s");
    let length = directory.path().as_os_str().len();
    let long = url("unix", &directory, &"x".repeat(108 - length - 1));
    let bind = |url: &str| format!("bind {}: ", path_of(url).display());
    fails_to_listen(&missing, &[&bind(&missing), "No such file or directory"]);
    fails_to_listen(&long, &[&bind(&long), "at most 107 bytes"]);
    fails_to_listen(&file, &[&bind(&file), "not a socket"]);
    assert_eq!(fs::read(path_of(&file)).unwrap(), b"contents");
    // One byte less is served.
    serve("echo", &[&long[..long.len() - 1]]).stop();
    // When one listener fails, those before it leave nothing behind.
    let first = url("unix", &directory, "first");
    let both = command("serve echo", &[&first, &missing]);
    fails(both, 1, &[&bind(&missing)]);
    assert!(!path_of(&first).exists());
}

#[test]
fn a_model_that_cannot_start_is_an_error() {
    // Not by a limit on memory: what is left then is not always enough for the error.
    let mut strace = Command::new("strace");
    strace.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "inject=clone3:error=EAGAIN:when=5+",
    ]);
    let few_threads = command_under(strace, "serve echo --model pool --workers 8", &[LOCAL]);
    fails(few_threads, 1, &["start the pool model: "]);
}

#[test]
fn wrong_usage_is_an_error_that_names_what_is_wrong() {
    is_wrong_usage("", &["command"]);
    is_wrong_usage("serve", &["<SERVICE>"]);
    is_wrong_usage("serve smtp", &["'smtp'", "echo, discard"]);
    is_wrong_usage("serve echo --loud", &["'--loud'"]);
    is_wrong_usage("serve echo --model best", &["'best'", "--model"]);
    is_wrong_usage("serve echo --listen ftp://x:1", &["'ftp://x:1'", "tcp://"]);
    is_wrong_usage("serve echo --listen tcp://x", &["'tcp://x'", "port"]);
    is_wrong_usage("serve echo --workers 2 --model forking", &["--workers"]);
    is_wrong_usage("serve echo --workers 0 --model pool", &["'0'", "--workers"]);
    let too_many = "serve echo --workers 10001 --model prefork:pool";
    is_wrong_usage(too_many, &["--workers", "at most 10000"]);
    is_wrong_usage("serve echo --max-connections 0", &["'0'", "--max-conn"]);
    is_wrong_usage("serve echo --drain-timeout x", &["'x'", "--drain-timeout"]);
}

#[test]
fn help_and_version_are_on_standard_output() {
    let prints = |words: &str, part: &str| {
        let exit = Process::start(command(words, &[])).exit();
        assert_eq!((exit.code, exit.stderr.len()), (Some(0), 0), "{exit:?}");
        let text = exit.stdout.join("\n");
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    };
    let version = format!("socketserver {}", env!("CARGO_PKG_VERSION"));
    prints("--version", &version);
    for help in ["--help", "-h", "serve --help", "serve -h"] {
        prints(help, "Example");
        prints(help, "\n  socketserver serve hello");
    }
    prints("serve --help", "[default: tcp://127.0.0.1:7007]");
}

// Stopping.

#[test]
fn an_interrupt_stops_the_server_too() {
    let server = serve("echo", &[LOCAL]);
    assert_echoes(&server.urls[0]);
    server.stop_by(Signal::INT);
}

#[test]
fn clients_that_are_served_or_wait_are_answered_after_the_stop() {
    let directory = temp();
    let file = url("unix", &directory, "s");
    for (model, url) in MODELS
        .iter()
        .flat_map(|model| [(model, LOCAL), (model, &file)])
    {
        let mut server = serve(&format!("echo --model {model}"), &[url]);
        let mut served = server.accepted_client();
        let mut waits = Client::connect(&server.urls[0]);
        waits.send(b"waits");
        waits.end_of_input();
        server.process.signal(Signal::TERM);
        served.echo("served");
        served.talk_to_the_end();
        assert_eq!(waits.receive(100), b"waits", "{model}, {url}");
        server.process.stopped();
    }
}

/// A server that sends without end, and a client that reads nothing: its handler waits to write.
#[track_caller]
fn stuck(options: &str) -> (Server, Client, TempDir) {
    let directory = temp();
    let server = serve(
        &format!("chargen {options}"),
        &[&url("unix", &directory, "socket")],
    );
    let client = Client::connect(&server.urls[0]);
    client.await_full(&server.process);
    (server, client, directory)
}

#[test]
fn the_drain_deadline_aborts_a_client_that_does_not_read() {
    for model in MODELS {
        let (mut server, _stuck, _directory) =
            stuck(&format!("--drain-timeout 0.2 --model {model}"));
        server.process.signal(Signal::TERM);
        assert!(has_aborted(&mut server, model).starts_with("1 "), "{model}");
    }
}

#[test]
fn a_second_signal_aborts_what_is_left() {
    for model in MODELS {
        let (mut server, _stuck, _directory) =
            stuck(&format!("--drain-timeout 1000 --model {model}"));
        // Two signals of one kind could arrive as one.
        server.process.signal(Signal::TERM);
        server.process.signal(Signal::INT);
        has_aborted(&mut server, model);
    }
}

#[test]
fn the_same_signal_again_aborts_what_is_left() {
    let (mut server, _stuck, _directory) = stuck("--drain-timeout 1000");
    let mut reads = Client::connect(&server.urls[0]);
    server.process.signal(Signal::TERM);
    // The end of its lines shows that the first signal has been seen.
    while !reads.receive(1024).is_empty() {}
    server.process.signal(Signal::TERM);
    has_aborted(&mut server, "threading");
}

/// Waits for the end of a server that has to abort a connection, and returns its last line, from the
/// number of connections on.
#[track_caller]
fn has_aborted(server: &mut Server, model: &str) -> String {
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
    let last = exit.stderr.last().expect("a line on standard error");
    let aborted = last.strip_prefix("socketserver: ");
    let aborted = aborted.filter(|line| line.contains(" aborted at the drain deadline"));
    aborted
        .unwrap_or_else(|| panic!("{model}: {exit:?}"))
        .to_owned()
}
