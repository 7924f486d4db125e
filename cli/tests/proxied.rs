//! The PROXY protocol from outside, with the proxies that others have: HAProxy, nginx, and curl in the place of one.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use support::{DEADLINE, Process, Server, command, poll_until, uninterrupted};

const LOCAL: &str = "tcp://127.0.0.1:0";
const TRUST: &str = "--proxy-trust 127.0.0.1 --log";

/// A server that demands headers.
fn serve(words: &str, version: &str) -> Server {
    let words = format!("serve {words} --proxy-protocol {version} {TRUST}");
    let process = Process::start(command(&words, &[LOCAL]));
    // Worker processes are reported before.
    let lines = std::iter::repeat_with(|| process.next_line());
    let mut urls = lines.filter_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let urls = urls.next().into_iter().collect();
    Server { process, urls }
}

fn at(server: &Server) -> &str {
    server.urls[0].split_once("://").expect("a URL").1
}

/// Waits for the line about a client.
#[track_caller]
fn has_line(process: &Process, parts: &[&str]) {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let line = process.next_line();
        if parts.iter().all(|part| line.contains(part)) {
            return;
        }
    }
    panic!("no line with {parts:?} within the deadline");
}

/// A proxy as a process. Killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    /// Keeps the port of a proxy that binds it itself.
    _port: Option<Socket>,
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts a program, in a folder where it finds its configuration in the file `conf`.
    fn start(mut program: Command, configuration: &str, address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::write(folder.path().join("conf"), configuration).expect("write");
        let program = program.current_dir(folder.path());
        let child = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            child: child.expect("start a proxy"),
            address,
            _port: None,
            _folder: folder,
        }
    }

    /// HAProxy, whose server has these options. It inherits its listener.
    fn haproxy(server: &Server, options: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let at = at(server);
        let configuration = format!(
            "defaults\n mode tcp\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n\
             listen one\n bind fd@3\n unique-id-format %pid\n server one {at} {options}\n"
        );
        let mut program = Command::new("sh");
        program
            .args(["-c", "exec 3<&0 </dev/null; exec haproxy -db -f conf"])
            .stdin(Stdio::from(OwnedFd::from(listener)));
        Self::start(program, &configuration, address)
    }

    /// nginx, with its stream module. A socket that does not listen keeps its port for it.
    fn nginx(server: &Server) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("set an option");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bind");
        let address = socket.local_addr().expect("bound");
        let address = address.as_socket().expect("an internet address");
        let at = at(server);
        let configuration = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; master_process off; pid pid; events {{}}\n\
             stream {{ server {{ listen {address} reuseport; proxy_pass {at}; proxy_protocol on; }} }}\n"
        );
        let mut program = Command::new("nginx");
        program
            .args(["-p", ".", "-c", "conf", "-e", "stderr"])
            .stdin(Stdio::null());
        let mut proxy = Self::start(program, &configuration, address);
        proxy._port = Some(socket);
        poll_until("nginx listens", DEADLINE, || {
            TcpStream::connect(address).ok()
        });
        proxy
    }

    /// Says something to the echo server behind the proxy. Returns the client's own address.
    fn echo(&self, text: &str) -> String {
        let mut client = TcpStream::connect(self.address).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(text.as_bytes()).expect("write");
        let mut answer = vec![0; text.len()];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, text.as_bytes());
        client.local_addr().expect("connected").to_string()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn haproxy_names_its_clients_to_every_model() {
    for model in [
        "sequential",
        "pool --workers 2",
        "forking",
        "prefork --workers 2",
        "coroutines",
    ] {
        for (version, options) in [
            ("v1", "send-proxy"),
            ("v2", "send-proxy-v2"),
            ("any", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
        ] {
            let server = serve(&format!("echo --model {model}"), version);
            let proxy = Proxy::haproxy(&server, options);
            let client = proxy.echo("PROXY TCP4 to a server\r\n");
            let through = format!("from {client} came through 127.0.0.1:");
            has_line(&server.process, &[&through]);
            has_line(&server.process, &[&format!("from {client} completed")]);
        }
    }
}

#[test]
fn haproxy_checks_a_server_and_finds_it_up() {
    let server = serve("echo", "v2");
    let check = "send-proxy-v2 check check-send-proxy inter 50ms fall 1";
    let proxy = Proxy::haproxy(&server, check);
    // A check sends a LOCAL header of 16 bytes, and resets the connection.
    for _ in 0..5 {
        has_line(&server.process, &["16 bytes received"]);
    }
    let client = proxy.echo("still served\n");
    has_line(&server.process, &[&client, "came through"]);
}

#[test]
fn nginx_names_its_clients() {
    let server = serve("echo", "any");
    let proxy = Proxy::nginx(&server);
    let client = proxy.echo("hello\n");
    has_line(&server.process, &[&client, "came through"]);
}

/// Runs curl, which sends a header of version 1 as a proxy does.
fn curl(options: &str) -> String {
    let curl = "exec 2>&1; curl --silent --show-error --max-time 20 --http0.9 --haproxy-protocol";
    let output = Command::new("sh")
        .args(["-c", &format!("{curl} {options}")])
        .stdin(Stdio::null())
        .output()
        .expect("run a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_sends_a_header_before_anything_else() {
    let server = serve("hello", "v1");
    assert_eq!(curl(&format!("http://{}/", at(&server))), "hello world\n");
    has_line(&server.process, &["came through 127.0.0.1:"]);
}

#[test]
fn curl_sends_a_header_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(
        folder.path().join("key.pem"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let words =
        format!("serve hello --tls-cert cert.pem --tls-key key.pem --proxy-protocol any {TRUST}");
    let mut command = command(&words, &[LOCAL]);
    command.current_dir(folder.path());
    let server = Server::start(command, 1);
    assert_eq!(
        curl(&format!("--insecure https://{}/", at(&server))),
        "hello world\n"
    );
    has_line(&server.process, &["came through 127.0.0.1:"]);
}

#[test]
fn a_listener_can_do_without_headers() {
    let words = format!("serve echo --proxy-protocol v2 {TRUST}");
    let plain = format!("{LOCAL}?proxy=off");
    let udp = "udp://127.0.0.1:0";
    let server = Server::start(command(&words, &[LOCAL, &plain, udp]), 3);
    support::assert_echoes(&server.urls[1]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = server.urls[2].split_once("://").unwrap().1;
    // A LOCAL header, and data.
    client
        .send_to(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0data", to)
        .unwrap();
    let mut answer = [0; 100];
    let count = uninterrupted(|| client.recv(&mut answer)).unwrap();
    assert_eq!(&answer[..count], b"data");
}

#[test]
fn a_client_without_a_header_is_not_served() {
    let server = serve("hello", "any");
    assert_eq!(
        support::ask(&server.urls[0], b"GET / HTTP/1.1\r\n\r\n", 100),
        b""
    );
    has_line(
        &server.process,
        &["PROXY header: the first bytes are not those of a header"],
    );
    let words = "serve hello --proxy-protocol any --proxy-trust 192.0.2.1";
    let server = Server::start(command(words, &[LOCAL]), 1);
    let _ = TcpStream::connect(at(&server))
        .unwrap()
        .read_to_end(&mut Vec::new());
    has_line(
        &server.process,
        &["the peer is not among the trusted proxies"],
    );
}

/// Sends a line of version 1 about a client, and returns what comes back.
fn ask_as(server: &Server, client: &str) -> String {
    let mut conn = TcpStream::connect(at(server)).expect("connect");
    conn.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let line = format!("PROXY TCP4 {client} 192.0.2.1 5000 7\r\n");
    conn.write_all(line.as_bytes()).expect("write");
    let mut answer = String::new();
    conn.read_to_string(&mut answer).expect("an end");
    answer
}

#[test]
fn who_may_connect_is_the_client_and_not_the_proxy() {
    // The proxy itself is not allowed, and has more than one connection.
    let rules = "--allow 192.0.2.0/24 --deny 192.0.2.128/25";
    for model in [
        "sequential",
        "threading",
        "forking",
        "prefork --workers 2",
        "coroutines --driver epoll",
    ] {
        let server = serve(&format!("hello --model {model} {rules}"), "any");
        assert_eq!(ask_as(&server, "192.0.2.7"), "hello world\n", "{model}");
        for client in ["192.0.2.200", "127.0.0.1"] {
            assert_eq!(ask_as(&server, client), "", "{model}");
            let from = format!("from {client}:5000");
            has_line(&server.process, &[&from, "refused: not allowed"]);
        }
    }
}

#[test]
fn a_client_has_a_limit_and_its_proxy_has_none() {
    let words = "echo --max-per-address 1 --at-limit refuse:busy";
    for model in ["threading", "forking", "prefork --workers 2"] {
        let server = serve(&format!("{words} --model {model}"), "any");
        let held: Vec<_> = ["192.0.2.7", "192.0.2.8"]
            .iter()
            .map(|client| {
                let mut conn = TcpStream::connect(at(&server)).expect("connect");
                conn.set_read_timeout(Some(DEADLINE)).expect("a deadline");
                let line = format!("PROXY TCP4 {client} 192.0.2.1 5000 7\r\nx");
                conn.write_all(line.as_bytes()).expect("write");
                let mut answer = [0];
                conn.read_exact(&mut answer).expect("an answer");
                assert_eq!(&answer, b"x", "{model}: {client}");
                conn
            })
            .collect();
        assert_eq!(ask_as(&server, "192.0.2.8"), "busy", "{model}");
        drop(held);
    }
}

#[test]
fn networks_are_for_the_clients_of_a_unix_listener_too() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let url = format!("unix://{}", folder.path().join("s").display());
    let words = "serve hello --proxy-protocol any --proxy-trust unix --allow 192.0.2.0/24";
    let server = Server::start(command(words, &[&url]), 1);
    for (client, expected) in [("192.0.2.7", "hello world\n"), ("198.51.100.1", "")] {
        let mut conn = UnixStream::connect(folder.path().join("s")).expect("connect");
        conn.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let line = format!("PROXY TCP4 {client} 192.0.2.1 5000 7\r\n");
        conn.write_all(line.as_bytes()).expect("write");
        let mut answer = String::new();
        conn.read_to_string(&mut answer).expect("an end");
        assert_eq!(answer, expected);
    }
    drop(server);
}

#[test]
fn wrong_options_are_errors_at_the_start() {
    for (options, url, why) in [
        ("--proxy-protocol any", LOCAL, "--proxy-trust"),
        ("--proxy-trust 10.0.0.0/8", LOCAL, "--proxy-protocol"),
        (
            "--proxy-protocol v3 --proxy-trust unix",
            LOCAL,
            "[possible values: v1, v2, any]",
        ),
        (
            "--proxy-protocol v1 --proxy-trust 10.0.0.1/8",
            LOCAL,
            "the address has bits beyond the prefix; write 10.0.0.0/8",
        ),
        (
            "--proxy-protocol v1 --proxy-trust proxy.example",
            LOCAL,
            "a network is an address, or the first address",
        ),
        (
            "--proxy-protocol any --proxy-trust unix",
            "seqpacket:///s",
            "not for seqpacket listeners",
        ),
        (
            "--proxy-protocol v1 --proxy-trust unix",
            LOCAL,
            "has no address",
        ),
        (
            "--proxy-protocol v1 --proxy-trust 10.0.0.0/8",
            "unix:///s",
            "has no peer of a Unix listener",
        ),
        (
            "--proxy-protocol v1 --proxy-trust 10.0.0.0/8",
            "udp://127.0.0.1:0",
            "v1 has no datagrams",
        ),
    ] {
        let mut process = Process::start(command(&format!("serve echo {options}"), &[url]));
        let exit = process.exit();
        assert_eq!(
            (exit.code, exit.stderr.len()),
            (Some(2), 1),
            "{:?}",
            exit.stderr
        );
        assert!(exit.stderr[0].contains(why), "{options}: {:?}", exit.stderr);
    }
}
