//! The commands of the page `docs/instead-of.md`, and of a section of the manual, run as they stand there.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/programs.rs"]
mod programs;
#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use socket2::{Domain, Socket, Type};
use socketserver::tls::Connector;

use programs::{clones, need, run, sends_a_page, sends_by_tftp, syncs};
use support::{Client, Server, ask, assert_echoes, is_root, unchecked};

const PAGE: &str = include_str!("../../docs/instead-of.md");
const MANUAL: &str = include_str!("../../docs/operations.md");

/// A command of the page that is running.
struct Running {
    server: Server,
    /// What a proxy forwards to.
    _upstream: Option<Server>,
    folder: tempfile::TempDir,
}

impl Running {
    fn url(&self) -> &str {
        &self.server.urls[0]
    }

    #[track_caller]
    fn gets(&self, expected: &str) {
        let answer = ask(self.url(), b"", 1 << 16);
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
}

/// What a client finds.
type Check = fn(&Running);

/// Each command of the page, by words that no other has, with what a client finds, and the tools that it needs.
const COMMANDS: &[(&str, Check, &[&str])] = &[
    ("tcp://0.0.0.0:7 -- cat", echoes, &[]),
    ("?backlog=64' --max-connections 40 --log", echoes, &[]),
    ("tcp://0.0.0.0:7 --user nobody -- cat", echoes, &[]),
    (
        "tcp://0.0.0.0:7 --allow 127.0.0.0/8 --deny 127.0.0.9 -- cat",
        refuses_one,
        &[],
    ),
    ("as=100000000,nofile=64", echoes, &[]),
    ("echo $TCPREMOTEIP", |it| it.gets("127.0.0.1\n"), &[]),
    (
        "--user nobody -- git daemon",
        |it| clones(it.url()),
        &["git"],
    ),
    (
        "--read-only /srv/www -- micro-httpd",
        |it| sends_a_page(it.url()),
        &["micro-httpd"],
    ),
    ("busybox httpd", |it| sends_a_page(it.url()), &["busybox"]),
    ("in.tftpd", |it| sends_by_tftp(it.url()), &["in.tftpd"]),
    (
        "serve daytime",
        |it| assert!(ask(it.url(), b"", 99).ends_with(b"\r\n")),
        &[],
    ),
    ("rsync --daemon", |it| syncs(it.url()), &["rsync"]),
    (
        "--max-connections 20 --max-per-address 4 --rate 25",
        refuses_one,
        &[],
    ),
    ("as=512M,cpu=60", |it| it.gets("10\n0027\nC\n"), &[]),
    ("refuse:busy", is_busy, &[]),
    ("serve echo", echoes, &[]),
    ("--max-connections 10 --", echoes, &[]),
    ("--allow 127.0.0.0/8 --user nobody", echoes, &[]),
    ("sh -c 'echo hello'", |it| it.gets("hello\n"), &[]),
    ("unix:///run/echo.sock?mode=660", has_mode, &[]),
    ("unix:@echo", echoes, &[]),
    (
        "key.pem -- micro-httpd",
        sends_a_page_over_tls,
        &["micro-httpd"],
    ),
    ("--umask 027 --no-network", echoes, &[]),
    ("as=1G", |it| clones(it.url()), &["git"]),
    ("--chdir /srv -- pwd", prints_its_folder, &[]),
    ("0.0.0.0:8080 --to tcp://", echoes, &[]),
    ("unix:///run/front.sock?mode=660", has_mode, &[]),
    ("--max-connections 50", echoes, &[]),
    ("--session-timeout 30", echoes, &[]),
    ("key.pem --to", echoes_over_tls, &[]),
    ("--to tls://", echoes, &[]),
    ("fd://web --to tcp://", echoes, &[]),
    ("--exit-when-idle 300", echoes, &[]),
];

fn echoes(it: &Running) {
    assert_echoes(it.url());
}

fn refuses_one(it: &Running) {
    assert_echoes(it.url());
    let to: SocketAddr = programs::address(it.url()).parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from: SocketAddr = "127.0.0.9:0".parse().expect("an address");
    socket.bind(&from.into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    socket
        .set_read_timeout(Some(support::DEADLINE))
        .expect("a deadline");
    let mut stream = TcpStream::from(socket);
    let read = stream.read(&mut [0]);
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

fn is_busy(it: &Running) {
    let mut first = Client::connect(it.url());
    first.echo("the one that is served");
    it.gets("busy\n");
}

fn has_mode(it: &Running) {
    assert_echoes(it.url());
    let path = it.url().strip_prefix("unix://").expect("a path");
    let mode = fs::metadata(path).expect("a socket file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o660);
}

fn sends_a_page_over_tls(it: &Running) {
    need("curl");
    let page = format!("https://{}/page.txt", programs::address(it.url()));
    let certificate = it.folder.path().join("cert.pem");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--cacert"])
        .arg(certificate);
    assert_eq!(run(curl.arg(page)), "this is www/page.txt\n");
}

fn echoes_over_tls(it: &Running) {
    let connector = Connector::builder().roots(it.folder.path().join("cert.pem"));
    let connector = connector.build().expect("a connector");
    let to: SocketAddr = programs::address(it.url()).parse().expect("an address");
    let client = connector.connect(to, "127.0.0.1", support::DEADLINE);
    let mut client = client.expect("connect");
    client.write_all(b"hello").expect("write");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"hello");
}

fn prints_its_folder(it: &Running) {
    let srv = it.folder.path().canonicalize().expect("a path").join("srv");
    it.gets(&format!("{}\n", srv.display()));
}

/// The commands in the right column of the tables, and those of a section of the manual.
fn commands() -> Vec<&'static str> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let (_, command) = row.rsplit_once("| `").expect("two columns");
        command.strip_suffix("` |").expect("a command")
    });
    let (_, section) = MANUAL
        .split_once("## What a program may do\n")
        .expect("a section");
    let (section, _) = section.split_once("\n## ").expect("the next section");
    let examples = section.lines().filter_map(|line| line.strip_prefix("    "));
    let commands: Vec<_> = rows.chain(examples).collect();
    for command in &commands {
        assert!(command.starts_with("socketserver "), "{command}");
    }
    commands
}

/// A command with the ports, paths and names of a test in place of those of the page.
fn for_test(command: &str, folder: &Path) -> String {
    let folder = folder.display().to_string();
    let mut command = command.replacen("socketserver", env!("CARGO_BIN_EXE_socketserver"), 1);
    for (any, own) in [("//0.0.0.0:", "//127.0.0.1:0"), ("//[::]:", "//[::]:0")] {
        if let Some((start, rest)) = command.split_once(any) {
            let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            command = format!("{start}{own}{rest}");
        }
    }
    command
        .replace("/srv", &format!("{folder}/srv"))
        .replace("/run", &format!("{folder}/run"))
        .replace("unix:@echo", &format!("unix:{}", support::unique_name()))
}

#[track_caller]
fn start(command: &str) -> Running {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, open).expect("open the directory");
    fs::create_dir(folder.path().join("run")).expect("a directory");
    programs::fill(folder.path());
    if command.contains("cert.pem") {
        need("openssl");
        let openssl = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 30 \
            -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let mut make = Command::new("openssl");
        run(make.args(openssl.split_whitespace()).current_dir(&folder));
    }
    if command.contains("git daemon") && command.contains("--user nobody") {
        let nobody = run(Command::new("id").args(["-u", "nobody"]));
        programs::give_repository(folder.path(), nobody.trim().parse().expect("a number"));
    }
    let mut command = for_test(command, folder.path());
    let upstream = command.contains(" proxy ").then(|| upstream(folder.path()));
    let upstreams = upstream.iter().flat_map(|server| &server.urls);
    for (url, of_page) in
        upstreams.zip(["//127.0.0.1:9090", "//127.0.0.1:5353", "//127.0.0.1:8443"])
    {
        let address = url.split_once("//").expect("an address").1;
        command = command.replace(of_page, &format!("//{address}"));
    }
    let mut shell = Command::new("sh");
    let mut script = format!("exec {command}");
    if command.contains("fd://web") {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        shell.stdin(OwnedFd::from(listener));
        let passed = "export LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$; exec 3<&0 </dev/null";
        script = format!("{passed}; {script}");
    }
    shell.args(["-c", &script]).current_dir(&folder);
    shell.env("PATH", programs::PATH).env("HOME", folder.path());
    shell
        .env_remove("NOTIFY_SOCKET")
        .env_remove("RUST_BACKTRACE");
    let mut server = Server::start(shell, 1);
    // A client of both kinds of address.
    server.urls[0] = server.urls[0].replace("tcp://[::]", "tcp://127.0.0.1");
    Running {
        server,
        _upstream: upstream,
        folder,
    }
}

/// An echo server: the upstreams of the page, the last one with TLS, if there is a certificate.
fn upstream(folder: &Path) -> Server {
    let file = format!("unix://{}/run/web.sock", folder.display());
    let plain = ["tcp://127.0.0.1:0?tls=off", "udp://127.0.0.1:0"];
    let urls = if folder.join("cert.pem").exists() {
        [&plain[..], &["tcp://127.0.0.1:0"]].concat()
    } else {
        [&plain[..], &[file.as_str()]].concat()
    };
    let words = if urls.contains(&"tcp://127.0.0.1:0") {
        "serve echo --tls-cert cert.pem --tls-key key.pem"
    } else {
        "serve echo"
    };
    let mut command = support::command(words, &urls);
    command.current_dir(folder);
    Server::start(command, urls.len())
}

#[test]
fn every_command_of_the_page_does_what_it_says() {
    let commands = commands();
    assert_eq!(commands.len(), COMMANDS.len());
    let root = is_root("commands with --user, and in.tftpd");
    for (words, check, tools) in COMMANDS {
        let found: Vec<_> = commands
            .iter()
            .filter(|command| command.contains(words))
            .collect();
        let [command] = found[..] else {
            panic!("{words:?} is in {} commands of the page", found.len());
        };
        tools.iter().for_each(|tool| need(tool));
        if !root && (command.contains("--user") || command.contains("in.tftpd")) {
            unchecked(&format!("{command}: that needs root"));
            continue;
        }
        let needs = |option: &str| command.contains(option);
        if needs("--read-only") && !kernel::has_landlock(command)
            || needs("--no-network") && !kernel::has_networks(command)
        {
            continue;
        }
        check(&start(command));
    }
}
