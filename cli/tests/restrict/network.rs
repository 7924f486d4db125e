//! Programs without a network.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use super::kernel::has_networks;
use super::support::{self, Client, Server, ask, command, is_root, unchecked, write_program};
use super::{ANY, DROPS, MODELS, folder, set_mode};

/// Tries to reach sockets outside, and prints a line for each.
const REACH: &str = r#"
import socket, sys
port, name, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
for family, address in [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "\0" + name), (socket.AF_UNIX, path)]:
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(address)
        print("reached")
    except OSError as err:
        print(err.strerror)
print(socket.if_nameindex())
print(sys.stdin.readline())
"#;

/// A TCP socket, an abstract one and a socket file, and a program that tries to reach them.
struct Outside {
    folder: TempDir,
    tcp: TcpListener,
    name: String,
    _abstract: Socket,
    _file: UnixListener,
}

impl Outside {
    fn new() -> Self {
        let folder = folder();
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let name = support::unique_name();
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None);
        let unix = unix.expect("a socket");
        let address = SockAddr::unix(name.replacen('@', "\0", 1)).expect("a name");
        unix.bind(&address).expect("bind");
        unix.listen(8).expect("listen");
        let path = folder.path().join("socket");
        let file = UnixListener::bind(&path).expect("bind");
        set_mode(&path, 0o777);
        Self {
            folder,
            tcp,
            name,
            _abstract: unix,
            _file: file,
        }
    }

    /// What the program prints, line by line.
    #[track_caller]
    fn reached(&self, mut command: Command) -> Vec<String> {
        let port = self.tcp.local_addr().expect("an address").port();
        let path = self.folder.path().join("socket");
        command.args(["--", "/usr/bin/python3", "-c", REACH, &port.to_string()]);
        command.arg(self.name.trim_start_matches('@')).arg(path);
        let server = Server::start(command, 1);
        let text = ask(&server.urls[0], b"the connection\n", 1 << 16);
        server.stop();
        let text = String::from_utf8(text).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }
}

const CUT_OFF: [&str; 6] = [
    "Network is unreachable",
    "Connection refused",
    "reached",
    "[(1, 'lo')]",
    "the connection",
    "",
];

#[test]
fn without_a_network_a_program_has_its_connection() {
    if !has_networks("programs without a network") {
        return;
    }
    let outside = Outside::new();
    let with = |words: &str| outside.reached(command(&format!("exec {words}"), ANY));
    assert_eq!(with("")[..3], ["reached"; 3]);
    for model in MODELS {
        let words = format!("--no-network --model {model}");
        assert_eq!(with(&words), CUT_OFF, "{model}");
    }
    if is_root("a network that is left before privileges are given up") {
        assert_eq!(with(&format!("--no-network {DROPS}")), CUT_OFF);
    }
}

/// The command as a user without privileges, who needs a namespace of users.
#[test]
fn a_user_leaves_the_network_too() {
    if !is_root("a server that a user starts") {
        return;
    }
    let outside = Outside::new();
    let folder = folder();
    let binary = folder.path().join("socketserver");
    let bytes = fs::read(env!("CARGO_BIN_EXE_socketserver")).expect("read the binary");
    write_program(&binary, &bytes, 0o755);
    let user = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=4242", "--clear-groups"]);
        command
    };
    let mut namespace = user();
    let namespace = namespace.args(["unshare", "-U", "-n", "true"]).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        unchecked("a server that a user starts: the kernel forbids namespaces of users");
        return;
    }
    let server = || {
        let mut command = user();
        let options = ["exec", "--no-network", "--listen", ANY[0]];
        command.arg(&binary).args(options);
        command
    };
    assert_eq!(outside.reached(server()), CUT_OFF);
    // The capabilities of the namespace are not those of programs.
    let mut command = server();
    command.args(["--", "grep", "^Cap[IPEA]", "/proc/self/status"]);
    let server = Server::start(command, 1);
    let text = String::from_utf8(ask(&server.urls[0], b"", 999)).expect("UTF-8");
    server.stop();
    let kept = text.split_whitespace().filter(|word| !word.contains("Cap"));
    let kept: Vec<_> = kept.collect();
    assert_eq!(kept, ["0000000000000000"; 4], "{text}");
}

/// The socket is that of the server; a new one reaches nothing.
#[test]
fn a_datagram_socket_works_without_a_network() {
    if !has_networks("datagrams without a network") {
        return;
    }
    let script = "import socket
ours = socket.socket(fileno=0)
data, sender = ours.recvfrom(99)
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(data, sender)
except OSError as err:
    ours.sendto(err.strerror.encode(), sender)";
    let mut command = command("exec --no-network", &["udp://127.0.0.1:0"]);
    command.args(["--", "/usr/bin/python3", "-c", script]);
    let server = Server::start(command, 1);
    let mut client = Client::connect(&server.urls[0]);
    client.send(b"datagram");
    assert_eq!(client.receive(99), b"Network is unreachable");
    server.stop();
}
