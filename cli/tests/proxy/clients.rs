//! Programs that others wrote, through the proxy: curl, dig, Redis, a WebSocket client, HAProxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::certificates::Files;
use crate::support::{DEADLINE, Server, poll_until};
use crate::{LOCAL, Upstream, expect, proxy, stop};

/// A program that is killed when this is dropped.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("start a program"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port(server: &Server) -> &str {
    server.urls[0].rsplit_once(':').expect("a port").1
}

/// What a program prints.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("run a program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// A server of HTTP for curl: it answers each connection once.
fn http() -> (String, thread::JoinHandle<()>) {
    let upstream = Upstream::new();
    let url = upstream.url.clone();
    let server = thread::spawn(move || {
        for stream in upstream.listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n")
                && stream.read(&mut byte).is_ok_and(|count| count > 0)
            {
                head.push(byte[0]);
            }
            // The client may have gone.
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    (url, server)
}

#[test]
fn curl_speaks_tls_to_the_proxy_and_the_proxy_to_the_next_one() {
    let files = Files::new();
    let (upstream, _server) = http();
    for model in ["threading", "coroutines", "prefork:coroutines"] {
        // The inner one ends TLS; the outer one ends that of curl, and begins another.
        let keys = "--tls-cert server.pem --tls-key server.key";
        let inner = files.proxy(&format!("{keys} --model {model}"), &[&upstream]);
        let to = format!("tls://localhost:{}", port(&inner));
        let outer = files.proxy(&format!("{keys} --to-ca ca.pem --model {model}"), &[&to]);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]);
        curl.arg(files.path("ca.pem"))
            .arg(format!("https://localhost:{}/", port(&outer)));
        assert_eq!(output(&mut curl), "hello", "{model}");
        stop(outer);
        stop(inner);
    }
}

#[test]
fn dig_asks_over_udp() {
    // A name server that knows one address.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let url = format!("udp://{}", socket.local_addr().expect("bound"));
    let _server = thread::spawn(move || {
        let mut buf = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buf) {
            // The question ends with its type and class, after the name.
            let name = buf[12..count]
                .iter()
                .position(|byte| *byte == 0)
                .expect("a name");
            let question = &buf[12..12 + name + 5];
            let head = [&buf[..2], &[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
            let answer = [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7];
            socket
                .send_to(&[&head, question, &answer].concat(), from)
                .expect("send");
        }
    });
    for model in ["sequential", "threading", "coroutines"] {
        let proxy = proxy(&format!("--model {model}"), &[&url], &["udp://127.0.0.1:0"]);
        let mut dig = Command::new("dig");
        dig.args([
            "@127.0.0.1",
            "-p",
            port(&proxy),
            "+short",
            "+noedns",
            "+timeout=10",
            "example.org",
            "A",
        ]);
        assert_eq!(output(&mut dig), "192.0.2.7\n", "{model}");
        stop(proxy);
    }
}

#[test]
fn redis_keeps_what_it_was_told() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&path);
    redis.current_dir(folder.path()).stdin(Stdio::null());
    let _redis = Program::start(&mut redis);
    poll_until("redis listens", DEADLINE, || {
        std::os::unix::net::UnixStream::connect(&path).ok()
    });
    for model in ["threading", "coroutines", "prefork --workers 2"] {
        let to = format!("unix://{}", path.display());
        let proxy = proxy(&format!("--model {model}"), &[&to], &[LOCAL]);
        let cli = |words: &[&str]| {
            output(
                Command::new("redis-cli")
                    .args(["-p", port(&proxy)])
                    .args(words),
            )
        };
        assert_eq!(cli(&["set", "key", model]), "OK\n");
        assert_eq!(cli(&["get", "key"]), format!("{model}\n"));
        let long = "x".repeat(100_000);
        assert_eq!(cli(&["set", "long", &long]), "OK\n");
        assert_eq!(cli(&["get", "long"]), format!("{long}\n"));
        stop(proxy);
    }
}

/// Python plays both ends of RFC 6455: an upgrade, then messages in both directions.
#[test]
fn websockets_pass() {
    const PROGRAM: &str = r#"
import base64, hashlib, socket, sys, threading
def exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        assert more
        data += more
    return data
def head(s):
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += exactly(s, 1)
    return data.decode()
def read(s):
    first, length = exactly(s, 2)
    mask = exactly(s, 4) if length & 128 else bytes(4)
    data = exactly(s, length & 127)
    return first & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(data))
def write(s, kind, data, mask=b""):
    body = bytes(b ^ mask[i % 4] for i, b in enumerate(data)) if mask else data
    s.sendall(bytes([128 | kind, len(data) | (128 if mask else 0)]) + mask + body)
def accept(key):
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
def serve(listener):
    s, _ = listener.accept()
    key = [l.split(": ")[1] for l in head(s).split("\r\n") if l.startswith("Sec-WebSocket-Key")][0]
    s.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept(key)}\r\n\r\n".encode())
    while True:
        kind, data = read(s)
        write(s, kind, data)
        if kind == 8:
            s.close()
            return
listener = socket.socket(fileno=3)
server = threading.Thread(target=serve, args=(listener,), daemon=True)
server.start()
c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
key = base64.b64encode(bytes(16)).decode()
c.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
assert accept(key) in head(c)
for text in [b"one", b"", b"x" * 125]:
    write(c, 1, text, b"mask")
    assert read(c) == (1, text)
write(c, 8, b"", b"mask")
assert read(c) == (8, b"") and c.recv(1) == b""
print("done")
"#;
    for model in ["threading", "coroutines"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let proxy = proxy(&format!("--model {model}"), &[&url], &[LOCAL]);
        let mut python = Command::new("sh");
        python.args([
            "-c",
            "exec 3<&0 </dev/null; exec timeout 20 python3 -c \"$0\" \"$1\"",
            PROGRAM,
            port(&proxy),
        ]);
        python.stdin(Stdio::from(OwnedFd::from(listener)));
        let printed = python.output().expect("run Python");
        assert_eq!(printed.stdout, b"done\n", "{model}: {printed:?}");
        stop(proxy);
    }
}

/// HAProxy names the client in a header of version 2, and the proxy sends that on.
#[test]
fn haproxy_is_in_front() {
    for model in ["threading", "coroutines", "forking"] {
        let upstream = Upstream::new();
        let words =
            format!("--proxy-protocol v2 --proxy-trust 127.0.0.1 --send-proxy v1 --model {model}");
        let proxy = proxy(&words, &[&upstream.url], &[LOCAL]);
        let folder = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let configuration = format!(
            "defaults\n mode tcp\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n\
             listen one\n bind fd@3\n server one 127.0.0.1:{} send-proxy-v2\n",
            port(&proxy)
        );
        std::fs::write(folder.path().join("conf"), configuration).expect("write");
        let mut haproxy = Command::new("sh");
        haproxy.args(["-c", "exec 3<&0 </dev/null; exec haproxy -db -f conf"]);
        haproxy
            .current_dir(folder.path())
            .stdin(Stdio::from(OwnedFd::from(listener)));
        let haproxy = Program::start(&mut haproxy);
        let mut client = crate::tcp(&format!("tcp://{address}"));
        let from: SocketAddr = client.local_addr().expect("bound");
        client.write_all(b"hello").expect("write");
        let mut server = upstream.accept();
        let header = format!(
            "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello",
            from.port(),
            address.port()
        );
        expect(&mut server, header.as_bytes());
        server.write_all(b"hi").expect("write");
        expect(&mut client, b"hi");
        drop((client, server, haproxy));
        stop(proxy);
    }
}
