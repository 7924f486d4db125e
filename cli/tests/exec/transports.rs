//! Every kind of listener.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Client, DEADLINE, Process, Server, command_after, poll_until, unique_name};
use crate::{LOCAL, MODELS, await_end_of, command_of, exec, exec_on, line, pids};

#[test]
fn unix_and_seqpacket_connections_are_given_to_their_program() {
    let [unix, seqpacket] =
        ["unix", "seqpacket"].map(|scheme| format!("{scheme}:{}", unique_name()));
    let script = "echo $PROTO $UNIXLOCALPATH $UNIXREMOTEPID $UNIXREMOTEEUID; cat";
    for model in MODELS {
        let server = exec_on(&format!("--model {model}"), &[&unix, &seqpacket], script);
        let own = format!(
            "{} {}",
            std::process::id(),
            rustix::process::getuid().as_raw()
        );
        for url in [&unix, &seqpacket] {
            let name = url.split_once(':').unwrap().1;
            let mut client = Client::connect(url);
            let greeting = format!("UNIX {name} {own}\n");
            assert_eq!(
                client.receive(greeting.len()),
                greeting.as_bytes(),
                "{model}"
            );
            client.echo("a message");
            client.end_of_input();
            assert_eq!(client.receive(1), b"", "{model}");
        }
        server.stop();
    }
}

/// A certificate for localhost, in files of a folder.
fn certificate() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("write");
    fs::write(
        folder.path().join("key.pem"),
        made.signing_key.serialize_pem(),
    )
    .expect("write");
    folder
}

/// Runs Python with `client`, a TLS connection to the server. Returns what it prints.
fn python(server: &Server, text: &str) -> String {
    let port = server.urls[0].rsplit_once(':').expect("a port").1;
    let program = format!(
        "import socket, ssl\n\
         context = ssl._create_unverified_context()\n\
         plain = socket.create_connection(('127.0.0.1', {port}), 20)\n\
         client = context.wrap_socket(plain, server_hostname='localhost')\n\
         def rest():\n\
         \x20   all = b''\n\
         \x20   while part := client.recv(65536): all += part\n\
         \x20   return all\n\
         {text}"
    );
    let output = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::null())
        .output();
    let output = output.expect("run Python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn tls(options: &str, script: &str) -> (Server, tempfile::TempDir) {
    let folder = certificate();
    let options = format!("--tls-cert cert.pem --tls-key key.pem {options}");
    let mut command = command_of(&options, &[LOCAL], script);
    command.current_dir(folder.path());
    let server = Server::start(command, 1);
    if options.contains("coroutines") {
        server.process.next_line();
    }
    (server, folder)
}

#[test]
fn a_program_talks_plain_text_through_tls() {
    for model in MODELS {
        let script =
            "echo $PROTO $TCPREMOTEIP $SSL_PROTOCOL $SSL_TLS_SNI_SERVERNAME; cat; echo end";
        let (server, _folder) = tls(&format!("--model {model}"), script);
        // More than all buffers hold.
        let text = "
data = bytes(range(256)) * 8192
out, got = memoryview(data), b''
import select
client.setblocking(False)
while len(out) or len(got) < len(data):
    try:
        if len(out): out = out[client.send(out[:65536]):]
    except (ssl.SSLWantWriteError, ssl.SSLWantReadError): pass
    try:
        part = client.recv(65536)
        if not part: break
        got += part
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        select.select([client], [client] if len(out) else [], [], 20)
head, _, body = got.partition(b'\\n')
client.setblocking(True)
while len(body) < len(data): body += client.recv(65536)
print(head.decode(), body == data)
";
        let printed = python(&server, text);
        assert_eq!(printed, "TCP 127.0.0.1 TLSv1.3 localhost True\n", "{model}");
        server.stop();
    }
}

#[test]
fn the_ends_of_a_tls_connection_are_those_of_the_program() {
    // The program ends its output; all of it arrives, also what is left in the socket when the program has ended.
    let (server, _folder) = tls("", "head -c 300000 /dev/zero; exit 0");
    assert_eq!(python(&server, "print(len(rest()))"), "300000\n");
    server.stop();
    // The client goes away; the program is ended.
    let (server, _folder) = tls("--half-close-timeout 0.1", "echo $$; exec sleep 1000");
    let printed = python(
        &server,
        "print(client.recv(100).decode())\nplain.close()\nclient.close()",
    );
    await_end_of(&[printed.trim().parse().expect("a process id")]);
    drop(server);
    // Nothing moves.
    let (server, _folder) = tls("--idle-timeout 0.3", "echo $$; exec sleep 1000");
    let text = "
try: print(client.recv(100).decode())
except OSError: print()
print(rest())
";
    // The timeout may pass before a program has started.
    let program = poll_until("a program starts in time", DEADLINE, || {
        python(&server, text).lines().next()?.parse().ok()
    });
    await_end_of(&[program]);
    drop(server);
}

#[test]
fn a_client_that_never_pauses_hears_of_the_end_of_its_program() {
    for model in ["threading", "coroutines"] {
        let (server, _folder) = tls(&format!("--model {model}"), "echo; sleep 0.5");
        let text = "
import time
assert client.recv(1) == b'\\n'
end = time.monotonic() + 20
try:
    while time.monotonic() < end: client.send(bytes(65536))
    print('no end')
except OSError: print('an end')
";
        assert_eq!(python(&server, text), "an end\n", "{model}");
        drop(server);
    }
}

#[test]
fn a_reset_ends_a_program_that_reads_nothing_of_what_comes_through_tls() {
    for model in ["threading", "coroutines"] {
        let options = format!("--model {model} --half-close-timeout none --idle-timeout none");
        let (server, _folder) = tls(&options, "echo $$; exec sleep 1000");
        let text = "
import struct
print(client.recv(100).decode())
client.settimeout(0.2)
try:
    while True: client.send(bytes(65536))
except TimeoutError: pass
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
client.close()
plain.close()
";
        await_end_of(&[python(&server, text).trim().parse().expect("a process id")]);
        drop(server);
    }
}

#[test]
fn a_client_behind_a_proxy_has_its_own_address() {
    let options = "--proxy-protocol any --proxy-trust 127.0.0.1";
    let server = exec(
        options,
        "echo $TCPREMOTEIP $TCPREMOTEPORT $TCPLOCALPORT $REMOTE_ADDR; cat",
    );
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 89\r\n";
    // Bytes of the client that come with the header reach the program too.
    for more in [&b""[..], b"early "] {
        let mut client = Client::connect(&server.urls[0]);
        client.send(&[header, more].concat());
        assert_eq!(line(&mut client), "192.0.2.7 4567 89 192.0.2.7");
        client.send(b"late");
        client.end_of_input();
        assert_eq!(client.receive(100), [more, b"late"].concat());
    }
    server.stop();
}

/// Reads one datagram after the other, and answers with its own process id, until one says that it is to end.
const DATAGRAMS: &str = r#"exec python3 -c '
import os, socket
s = socket.socket(fileno=0)
while True:
    data, peer = s.recvfrom(100)
    s.sendto(str(os.getpid()).encode(), peer)
    if data == b"end": break
'"#;

#[test]
fn a_datagram_socket_is_lent_to_one_program_at_a_time() {
    for model in ["threading", "pool --workers 2", "coroutines"] {
        let unix = format!("unixgram:{}", unique_name());
        let server = exec_on(
            &format!("--model {model}"),
            &["udp://127.0.0.1:0", &unix],
            DATAGRAMS,
        );
        for url in &server.urls {
            let mut client = Client::connect(url);
            let mut ask = |text: &str| -> u32 {
                client.send(text.as_bytes());
                let answer = String::from_utf8(client.receive(100)).expect("text");
                answer.parse().expect("a process id")
            };
            let first = ask("1");
            assert_eq!(ask("2"), first, "{model}");
            assert_eq!(ask("end"), first, "{model}");
            await_end_of(&[first]);
            let second = ask("3");
            assert_ne!(second, first, "{model}");
        }
        // The programs are ended, and that is no abort.
        server.stop();
    }
}

#[test]
fn a_program_that_does_not_read_its_datagram_is_started_again_after_a_pause() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let starts = folder.path().join("starts");
    let script = format!("echo >>{}", starts.display());
    let server = exec_on("", &["udp://127.0.0.1:0"], &script);
    let mut client = Client::connect(&server.urls[0]);
    client.send(b"x");
    for _ in 0..2 {
        let line = server.process.next_line();
        assert!(line.contains("left its datagram unread"), "{line}");
    }
    // Lines are a second apart, and the pauses grow from 10 ms. Without them there would be many starts between the two.
    let starts = fs::read(&starts).expect("a file");
    assert!((3..=9).contains(&starts.len()), "{} starts", starts.len());
    drop(server);
}

/// Reads one datagram, and answers.
const ONE_DATAGRAM: &str = r#"exec python3 -c '
import socket
s = socket.socket(fileno=0)
data, peer = s.recvfrom(100)
s.sendto(data, peer)
'"#;

#[test]
fn equal_datagrams_are_no_unread_ones() {
    let server = exec_on("", &["udp://127.0.0.1:0"], ONE_DATAGRAM);
    let mut client = Client::connect(&server.urls[0]);
    for _ in 0..3 {
        client.send(b"x");
    }
    for _ in 0..3 {
        assert_eq!(client.receive(100), b"x");
    }
    // No line.
    server.stop();
}

#[test]
fn a_server_without_descriptors_for_a_program_pauses_too() {
    let urls = ["udp://127.0.0.1:0"; 10];
    // The lowest limit with which it starts leaves nothing for a program.
    let server = (30..100).find_map(|limit| {
        let mut command = command_after(&format!("ulimit -n {limit}"), "exec", &urls);
        command.args(["--", "/bin/true"]);
        let process = Process::start(command);
        let line = std::iter::from_fn(|| process.line_or_end())
            .find(|line| line.starts_with("listening on "));
        line.map(|line| (process, line))
    });
    let (process, line) = server.expect("a limit with which it starts");
    let url = line.strip_prefix("listening on ").unwrap();
    Client::connect(url).send(b"x");
    let number = || -> u64 {
        let line = crate::await_line(&process, "Too many open files");
        let (_, rest) = line.split_once("connection ").expect("a number");
        let number = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        number.parse().expect("a number")
    };
    // Lines are a second apart, and each start has a number.
    let (first, second) = (number(), number());
    assert!(second - first < 20, "{first} {second}");
}

#[test]
fn a_stream_listener_and_a_datagram_socket_share_a_server() {
    let script =
        format!("if [ \"$LISTEN_FDNAMES\" = connection ]; then echo $$; exit; fi; {DATAGRAMS}");
    let server = exec_on("", &[LOCAL, "udp://127.0.0.1:0"], &script);
    let mut datagrams = Client::connect(&server.urls[1]);
    datagrams.send(b"x");
    assert!(!datagrams.receive(100).is_empty());
    let mut stream = Client::connect(&server.urls[0]);
    assert_eq!(pids(&mut stream).len(), 1);
    server.stop();
}
