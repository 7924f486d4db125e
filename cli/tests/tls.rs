//! TLS from outside, with the clients that others have: OpenSSL's, curl, and Python's.

#[path = "support/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use certificates::Files;
use support::{
    Client, DEADLINE, FreesReader, Process, Server, ask, command, make_fifo, poll_until,
    uninterrupted, writer_of_fifo,
};

const LOCAL: &str = "tcp://127.0.0.1:0";

const MODELS: [&str; 7] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "coroutines",
    "prefork:coroutines --workers 2",
];

impl Files {
    /// The server, in the folder of the files.
    fn command(&self, words: &str, urls: &[&str]) -> Command {
        let words = format!("serve {words} --tls-cert server.pem --tls-key server.key");
        let mut command = command(&words, urls);
        command.current_dir(self.folder.path());
        command
    }

    fn serve(&self, words: &str) -> Server {
        let server = Server::start(self.command(words, &[LOCAL]), 1);
        if words.contains("coroutines") {
            // The driver.
            server.process.next_line();
        }
        server
    }

    /// Runs a shell command in the folder. Returns all that it has printed.
    fn shell(&self, text: &str) -> String {
        shell(self.folder.path(), text)
    }

    /// The output of OpenSSL's client, which sends nothing, and reads to the end.
    fn openssl(&self, server: &Server, options: &str) -> String {
        let at = at(server);
        self.shell(&format!(
            "timeout 20 openssl s_client -connect {at} -CAfile ca.pem -ign_eof {options} </dev/null"
        ))
    }

    /// Runs Python with `at`, the port of a server, and `client`, which trusts the authority.
    fn python(&self, server: &Server, text: &str) -> String {
        let port = at(server).rsplit_once(':').expect("a port").1.to_owned();
        let program = format!(
            "import socket, ssl\n\
             client = ssl.create_default_context(cafile='ca.pem')\n\
             def connect(**more):\n\
             \x20   plain = socket.create_connection(('127.0.0.1', {port}), 20)\n\
             \x20   return client.wrap_socket(plain, server_hostname='localhost', **more)\n\
             {text}"
        );
        fs::write(self.path("client.py"), program).expect("write");
        self.shell("python3 client.py")
    }
}

fn shell(folder: &Path, text: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {text}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("run a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The address of a server, as a client writes it.
fn at(server: &Server) -> &str {
    server.urls[0].strip_prefix("tcp://").expect("TCP")
}

#[track_caller]
fn has(output: &str, parts: &[&str]) {
    for part in parts {
        assert!(output.contains(part), "{part:?} is missing in:\n{output}");
    }
}

#[test]
fn openssl_resumes_a_session_in_another_process() {
    let files = Files::new();
    for model in MODELS {
        let server = files.serve(&format!("hello --model {model}"));
        let first = files.openssl(&server, "-tls1_2 -sess_out session");
        has(&first, &["New, TLSv1.2", "Verify return code: 0 (ok)"]);
        for _ in 0..4 {
            let later = files.openssl(&server, "-tls1_2 -sess_in session");
            has(&later, &["Reused, TLSv1.2"]);
        }
    }
}

#[test]
fn python_talks_and_resumes_under_every_model() {
    let files = Files::new();
    for model in MODELS {
        let server = files.serve(&format!("echo --model {model}"));
        let output = files.python(
            &server,
            "session = None\n\
             for round in range(3):\n\
             \x20   conn = connect(session=session)\n\
             \x20   for word in (b'one', b'two', bytes(40000)):\n\
             \x20       conn.sendall(word)\n\
             \x20       got = b''\n\
             \x20       while len(got) < len(word): got += conn.recv(65536)\n\
             \x20       assert got == word\n\
             \x20   session = conn.session\n\
             \x20   print(conn.version(), conn.session_reused)\n\
             \x20   conn.unwrap().close()\n",
        );
        let expected = "TLSv1.3 False\nTLSv1.3 True\nTLSv1.3 True\n";
        assert_eq!(output, expected, "{model}");
        server.stop();
    }
}

#[test]
fn curl_trusts_the_server() {
    let files = Files::new();
    let server = files.serve("hello");
    let port = at(&server).rsplit_once(':').expect("a port").1;
    let url = format!("https://localhost:{port}/");
    let curl = "curl --silent --show-error --max-time 20 --http0.9";
    let output = files.shell(&format!("{curl} --cacert ca.pem {url}"));
    assert_eq!(output, "hello world\n");
    let output = files.shell(&format!("{curl} {url}"));
    has(&output, &["SSL certificate problem"]);
}

#[test]
fn the_name_selects_the_certificate() {
    let files = Files::new();
    files.issue("other", "other.example");
    let words = "hello --tls-cert other.pem --tls-key other.key";
    let server = files.serve(words);
    // The pair that the options name first is that of clients without a name.
    for (options, name) in [
        ("-servername localhost", "CN = localhost"),
        ("-servername other.example", "CN = other.example"),
        ("-noservername", "CN = other.example"),
    ] {
        has(
            &files.openssl(&server, options),
            &[&format!("subject={name}")],
        );
    }
}

#[test]
fn versions_renegotiation_and_certificates_of_clients() {
    let files = Files::new();
    files.issue("client", "alice");
    let server = files.serve("hello --tls-min 1.3");
    has(&files.openssl(&server, "-tls1_3"), &["New, TLSv1.3"]);
    has(
        &files.openssl(&server, "-tls1_2"),
        &["alert protocol version"],
    );
    let server = files.serve("hello");
    has(&files.openssl(&server, "-tls1_1"), &["alert"]);
    let server = files.serve("echo --handshake-timeout none --first-byte-timeout none");
    let address = at(&server);
    // OpenSSL's client renegotiates at a line that begins with R.
    let output = files.shell(&format!(
        "mkfifo input; (timeout 20 openssl s_client -connect {address} -tls1_2 -CAfile ca.pem <input) & \
         exec 3>input; echo R >&3; wait"
    ));
    has(&output, &["RENEGOTIATING", "no renegotiation"]);
    let server = files.serve("hello --tls-client-ca ca.pem");
    let good = files.openssl(&server, "-cert client.pem -key client.key");
    has(&good, &["hello world"]);
    let none = files.openssl(&server, "-tls1_2");
    has(&none, &["alert certificate required"]);
}

/// The certificate that a server shows.
fn shown(files: &Files, server: &Server) -> String {
    files.python(
        server,
        "conn = connect()\n\
         conn.recv(100)\n\
         print(conn.getpeercert(True).hex())\n",
    )
}

#[test]
fn a_signal_reloads_the_certificates_in_every_process() {
    let files = Files::new();
    for model in MODELS {
        files.issue("server", "localhost");
        let server = files.serve(&format!("hello --model {model}"));
        let old = shown(&files, &server);
        files.issue("server", "localhost");
        server.process.signal(Signal::HUP);
        poll_until("a new certificate", DEADLINE, || {
            (shown(&files, &server) != old).then_some(())
        });
        for _ in 0..4 {
            assert_ne!(shown(&files, &server), old, "{model}");
        }
        let line = server.process.next_line();
        assert_eq!(
            line, "socketserver: the TLS files were read again",
            "{model}"
        );
        let new = shown(&files, &server);
        fs::write(files.path("server.key"), "").expect("write");
        server.process.signal(Signal::HUP);
        let line = poll_until("the signal is handled", DEADLINE, || {
            assert_eq!(shown(&files, &server), new, "{model}");
            server.process.line_within(Duration::ZERO)
        });
        for _ in 0..4 {
            assert_eq!(shown(&files, &server), new, "{model}");
        }
        assert_eq!(
            line,
            "socketserver: read the TLS key server.key: the file is empty; the old certificates stay in use",
            "{model}"
        );
        server.stop();
    }
}

/// The key is a FIFO: who reads it waits for its writer. No client comes, before which it would be read too.
#[test]
fn a_reload_is_over_once_the_certificates_are_read() {
    let files = Files::new();
    let key = files.path("server.key");
    let pem = fs::read(&key).expect("read the key");
    for model in ["sequential", "threading", "forking", "prefork --workers 2"] {
        let manager = UnixDatagram::bind(files.path("notify")).expect("bind");
        manager
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        let notice = || {
            let mut text = [0; 200];
            let count = uninterrupted(|| manager.recv(&mut text)).expect("a notice");
            String::from_utf8_lossy(&text[..count]).into_owned()
        };
        let mut command = files.command(&format!("hello --model {model}"), &[LOCAL]);
        command.env("NOTIFY_SOCKET", files.path("notify"));
        let server = Server::start(command, 1);
        assert!(notice().starts_with("READY=1\n"), "{model}");
        make_fifo(&key);
        let _freed = FreesReader(&key);
        server.process.signal(Signal::HUP);
        assert!(notice().starts_with("RELOADING=1\n"), "{model}");
        let mut writer = writer_of_fifo(&key);
        manager.set_nonblocking(true).expect("set the mode");
        let early = manager.recv(&mut [0; 200]);
        assert!(early.is_err(), "{model}: the key is not read yet");
        manager.set_nonblocking(false).expect("set the mode");
        writer.write_all(&pem).expect("write");
        drop(writer);
        assert_eq!(notice(), "READY=1\n", "{model}");
        let line = server.process.next_line();
        assert_eq!(
            line, "socketserver: the TLS files were read again",
            "{model}"
        );
        fs::remove_file(&key).expect("remove");
        fs::write(&key, &pem).expect("write");
        fs::remove_file(files.path("notify")).expect("remove");
        server.stop();
    }
}

#[test]
fn files_that_change_are_read_again() {
    let files = Files::new();
    let server = files.serve("hello");
    let old = shown(&files, &server);
    files.issue("server", "localhost");
    poll_until("the new certificate", DEADLINE, || {
        (shown(&files, &server) != old).then_some(())
    });
    let line = server.process.next_line();
    assert_eq!(line, "socketserver: the TLS files were read again");
    server.stop();
}

#[test]
fn a_listener_can_be_without_tls() {
    let files = Files::new();
    let socket = files.path("socket");
    let plain = format!("unix://{}?tls=off", socket.display());
    let udp = "udp://127.0.0.1:0";
    let server = Server::start(files.command("hello", &[LOCAL, &plain, udp]), 3);
    assert_eq!(ask(&server.urls[1], b"", 100), b"hello world\n");
    let mut datagram = Client::connect(&server.urls[2]);
    datagram.send(b"how are you?");
    assert_eq!(datagram.receive(100), b"hello world\n");
    has(&files.openssl(&server, ""), &["hello world"]);
    server.stop();
}

#[test]
fn an_error_is_one_line() {
    let files = Files::new();
    fs::write(files.path("empty.pem"), "").expect("write");
    files.issue("other", "localhost");
    for (words, code, parts) in [
        (
            "--tls-cert none.pem --tls-key server.key",
            1,
            ["read the TLS certificate none.pem: ", "No such file"],
        ),
        (
            "--tls-cert empty.pem --tls-key server.key",
            1,
            ["read the TLS certificate empty.pem: ", "the file is empty"],
        ),
        (
            "--tls-cert server.pem --tls-key other.key",
            1,
            [
                "use the TLS key other.key: ",
                "does not belong to the certificate server.pem",
            ],
        ),
        (
            "--tls-cert server.key --tls-key server.pem",
            1,
            [
                "server.key: it holds a private key",
                "check the order of the files",
            ],
        ),
        ("--tls-cert server.pem", 2, ["--tls-key", "not provided"]),
        (
            "--tls-cert server.pem --tls-key server.key --tls-key other.key",
            2,
            ["--tls-cert and --tls-key come in pairs", "--help"],
        ),
        (
            "--tls-cert server.pem --tls-key server.key --tls-min 1.1",
            2,
            ["1.1", "a version is 1.2 or 1.3"],
        ),
    ] {
        let mut command = command(&format!("serve hello {words}"), &[LOCAL]);
        command.current_dir(files.folder.path());
        let exit = Process::start(command).exit();
        let [line] = exit.stderr.as_slice() else {
            panic!("not one line: {exit:?}");
        };
        assert!(line.starts_with("socketserver: "), "{line}");
        assert_eq!(exit.code, Some(code), "{line}");
        has(line, &parts);
    }
}

#[test]
fn a_client_without_tls_is_reported() {
    let files = Files::new();
    let server = files.serve("hello");
    let mut client = Client::connect(&server.urls[0]);
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.receive(100), b"");
    let line = server.process.next_line();
    has(
        &line,
        &[
            "socketserver: connection 1 from ",
            "does not speak TLS",
            "GET / HTTP",
        ],
    );
}

/// The commands in the manual's section on TLS.
#[test]
fn the_commands_of_the_manual_run() {
    let manual = include_str!("../../docs/operations.md");
    let (_, section) = manual.split_once("\n## TLS\n").expect("a section");
    let section = section.split("\n## ").next().expect("a first part");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    let commands: Vec<_> = lines.collect();
    let [request, serve, first, second] = commands[..] else {
        panic!("other commands: {commands:?}");
    };
    let folder = tempfile::tempdir().expect("a temporary directory");
    shell(folder.path(), request);
    let words = serve.strip_prefix("socketserver ").expect("the server");
    let words = words.replace("tcp://127.0.0.1:7443", LOCAL);
    let mut command = command(&words, &[]);
    command.current_dir(folder.path());
    let server = Server::start(command, 1);
    let port = at(&server).rsplit_once(':').expect("a port").1;
    let run = |line: &str| {
        let line = line.replace(":7443", &format!(":{port}"));
        shell(folder.path(), &format!("timeout 20 {line}"))
    };
    has(&run(first), &["hello world"]);
    has(&run(second), &["hello world"]);
    server.stop();
}

#[test]
fn a_key_of_root_is_read_before_privileges_are_given_up() {
    use std::os::unix::fs::PermissionsExt;
    if !support::is_root("keys of a server without privileges") {
        return;
    }
    let files = Files::new();
    let mode = |name: &str, mode: u32| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(files.path(name), mode).expect("set the mode");
    };
    mode("", 0o755);
    mode("server.key", 0o600);
    for model in MODELS {
        let words = format!("hello --model {model} --user 54321 --group 4242");
        let server = files.serve(&words);
        let old = shown(&files, &server);
        server.process.signal(Signal::HUP);
        assert_eq!(shown(&files, &server), old, "{model}");
        let line = server.process.next_line();
        has(
            &line,
            &["Permission denied", "the old certificates stay in use"],
        );
        server.stop();
    }
}
