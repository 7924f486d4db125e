//! Programs that people write on Python's `socketserver`, in both languages, and one client test for
//! both. Where there is no python3, the tests of the Python ones say so; with `CI_STRICT=1` they
//! fail.
#![expect(clippy::print_stderr, reason = "what is not run is said")]

#[path = "support/example.rs"]
mod example;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::SockRef;

use example::{Example, connect, path_in, set_deadlines};

/// Whether a tool is there; says so where it is not.
fn is_there(tool: &str) -> bool {
    let version = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        let is_strict = std::env::var_os("CI_STRICT").is_some_and(|value| value == "1");
        assert!(!is_strict, "there is no {tool}");
        eprintln!("there is no {tool} here: what needs it was not run");
    }
    is_there
}

/// The Python example of this name, if there is a python3.
fn python(name: &str, args: &[&str]) -> Option<Example> {
    is_there("python3").then(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python");
        let mut command = Command::new("python3");
        command.arg(folder.join(format!("{name}.py"))).args(args);
        command.stdin(Stdio::null());
        Example::launch(command)
    })
}

#[test]
fn unix_datagram_log_numbers_the_lines_that_anyone_sends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "log.sock");
    logs(&Example::start("unix_datagram_log", &[&path]), &path);
}

#[test]
fn python_unix_datagram_log_does_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path_in(&directory, "log.sock");
    if let Some(example) = python("unix_datagram_log", &[&path]) {
        logs(&example, &path);
    }
}

fn logs(example: &Example, path: &str) {
    assert_eq!(example.url(), format!("unixgram://{path}"));
    let file = fs::metadata(path).expect("the socket's file");
    assert_eq!(file.permissions().mode() & 0o777, 0o666);
    for (text, line) in [("one\n", "0001 one"), ("two", "0002 two")] {
        let client = UnixDatagram::unbound().expect("a socket");
        client.send_to(text.as_bytes(), path).expect("send");
        assert_eq!(example.output.next(), line);
    }
    if is_there("logger") {
        let status = Command::new("logger")
            .args(["--udp", "--socket", path, "--tag", "someone", "three"])
            .status();
        assert!(status.expect("logger").success());
        let line = example.output.next();
        assert!(line.starts_with("0003 <13>"), "{line}");
        assert!(line.ends_with("someone: three"), "{line}");
    }
}

#[test]
fn key_value_shares_its_store_between_clients_that_stay() {
    let (_example, addr) = Example::on_tcp("key_value");
    stores(addr);
}

#[test]
fn python_key_value_does_the_same() {
    if let Some(example) = python("key_value", &["127.0.0.1:0"]) {
        stores(example.inet("tcp"));
    }
}

fn stores(addr: SocketAddr) {
    let (mut one, mut two) = (connect(addr), connect(addr));
    assert_eq!(one.ask("set colour light blue"), "none");
    assert_eq!(two.ask("get colour"), "value light blue");
    assert_eq!(two.ask("set colour red"), "value light blue");
    assert_eq!(one.ask("del colour"), "value red");
    assert_eq!(two.ask("get colour"), "none");
    assert_eq!(two.ask("get"), "error: set KEY VALUE, get KEY or del KEY");
    two.send(&format!("set long {}\n", "x".repeat(4096)));
    assert_eq!(
        two.rest(),
        "",
        "a line that is too long ends its connection"
    );
    assert_eq!(one.ask("get long"), "none");
}

#[test]
fn tftp_sends_files_and_says_when_there_is_none() {
    let directory = files();
    let path = directory.path().to_str().expect("a path of text");
    let example = Example::start("tftp", &["127.0.0.1:0", path]);
    transfers(example.inet("udp"), directory.path());
}

#[test]
fn python_tftp_does_the_same() {
    let directory = files();
    let path = directory.path().to_str().expect("a path of text");
    if let Some(example) = python("tftp", &["127.0.0.1:0", path]) {
        transfers(example.inet("udp"), directory.path());
    }
}

/// The files of the TFTP servers: none, part of a block, a whole one, many.
const FILES: [(&str, usize); 4] = [
    ("empty", 0),
    ("short", 5),
    ("whole", 512),
    ("long", 200_000),
];

fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, size) in FILES {
        let data: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        fs::write(directory.path().join(name), data).expect("write");
    }
    directory
}

fn transfers(addr: SocketAddr, directory: &Path) {
    for (name, _) in FILES {
        let data = fs::read(directory.join(name)).expect("read");
        assert_eq!(fetch(addr, name), Ok(data), "{name}");
    }
    for name in ["missing", "../secret", ""] {
        assert_eq!(fetch(addr, name), Err("no such file".to_owned()));
    }
    if is_there("curl") {
        for (name, _) in FILES {
            let url = format!("tftp://{addr}/{name}");
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "10", &url])
                .output();
            let output = output.expect("curl");
            let data = fs::read(directory.join(name)).expect("read");
            assert!(output.status.success(), "{name}: {output:?}");
            assert!(
                output.stdout == data,
                "{name}: {} bytes",
                output.stdout.len()
            );
        }
    }
}

/// A TFTP client: asks for a file, and acknowledges each block to the socket that has sent it.
fn fetch(addr: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    set_deadlines(SockRef::from(&client));
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0"].concat();
    client.send_to(&request, addr).expect("send");
    let mut data = Vec::new();
    let mut expected = 1u16;
    loop {
        let mut message = [0; 600];
        let (length, from) = client.recv_from(&mut message).expect("a block in time");
        match message[..4] {
            [0, 3, high, low] if u16::from_be_bytes([high, low]) == expected => {
                assert_ne!(from, addr, "each transfer has a socket of its own");
                data.extend_from_slice(&message[4..length]);
                client.send_to(&[0, 4, high, low], from).expect("send");
                expected = expected.wrapping_add(1);
                if length < 4 + 512 {
                    return Ok(data);
                }
            }
            [0, 5, ..] => {
                let text = String::from_utf8_lossy(&message[4..length]);
                return Err(text.trim_end_matches('\0').to_owned());
            }
            _ => {}
        }
    }
}
