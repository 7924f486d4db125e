//! `serve http DIR` from outside: files under every model, its options, its log, passwords, and CGI programs.

mod cgi;
mod clients;
mod floods;
mod logs;
mod models;
mod options;
mod start;
#[allow(dead_code, reason = "what only other tests need is not used here")]
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Client, Server, command, write_program};

const LOCAL: &str = "tcp://127.0.0.1:0";

const MODELS: [&str; 8] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "prefork:forking --workers 2",
    "coroutines",
    "prefork:coroutines --workers 2",
];

/// More than a response may have.
const MOST: usize = 64 << 20;

/// A folder with a directory that is served, `www`, and what must not be served beside it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let site = Self { folder };
        site.write("outside.txt", "outside");
        site.write("www/hello.txt", "hello world\n");
        site.write("www/folder/index.html", "<p>index</p>\n");
        site.write("www/empty/.keep", "hidden\n");
        site.write("www/.env", "PASSWORD=secret\n");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(path, text).expect("write a file");
    }

    /// Writes a program: a script with its interpreter.
    fn program(&self, name: &str, text: &str) {
        let path = self.path(&format!("www/{name}"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        write_program(&path, text.as_bytes(), 0o755);
    }

    /// The server, in the folder.
    fn command(&self, options: &str, urls: &[&str]) -> Command {
        let mut command = command(&format!("serve http www {options}"), urls);
        command.current_dir(self.folder.path());
        command
    }

    #[track_caller]
    fn serve_on(&self, options: &str, urls: &[&str]) -> Server {
        let server = Server::start(self.command(options, urls), urls.len());
        if options.contains("coroutines") {
            // The driver.
            server.process.next_line();
        }
        server
    }

    /// Serves with options that have spaces.
    #[track_caller]
    fn serve_args(&self, options: &[&str]) -> Server {
        let mut command = self.command("", &[LOCAL]);
        command.args(options);
        Server::start(command, 1)
    }

    #[track_caller]
    fn serve(&self, options: &str) -> Server {
        self.serve_on(options, &[LOCAL])
    }
}

/// An answer.
#[derive(Debug, PartialEq)]
struct Response {
    status: u16,
    /// Lines, with names in small letters.
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8], is_head: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let (line, _) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let rest = &bytes[end + 4..];
        let is_chunked = head.contains("transfer-encoding: chunked") && !is_head;
        let body = if is_chunked {
            unchunk(rest)
        } else {
            rest.to_vec()
        };
        Self {
            status: status.expect("a status"),
            head,
            body,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The content of chunks, all of which must be there.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("the size of a chunk");
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        if size == 0 {
            return content;
        }
        let begin = end + 1;
        content.extend_from_slice(&bytes[begin..begin + size]);
        bytes = &bytes[begin + size + 2..];
    }
}

/// Sends a request of HTTP/1.1 on a connection of its own, with fields that end with line ends, and a body.
#[track_caller]
fn request(url: &str, line: &str, fields: &str, body: &str) -> Response {
    let mut client = Client::connect(url);
    let text =
        format!("{line} HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n{fields}\r\n{body}");
    client.send(text.as_bytes());
    Response::parse(&client.receive(MOST), line.starts_with("HEAD"))
}

#[track_caller]
fn get(url: &str, path: &str) -> Response {
    request(url, &format!("GET {path}"), "", "")
}

/// Runs a shell command in a folder. Returns its exit status, and all that it has printed.
fn shell(folder: &Path, text: &str) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {text}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("run a shell");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The address of a server, as a client writes it.
fn at(server: &Server) -> &str {
    server.urls[0].strip_prefix("tcp://").expect("TCP")
}
