//! Clients that people use, each against a server in a process of its own: curl, Python's `http.client`, nghttp, h2load
//! and wrk. Large bodies pass without being held: `BODY_GIB=4` makes them 4 GiB instead of 64 MiB.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};

use http::{Response, StatusCode};
use libtest_mimic::Trial;
use socketserver::model::Model;
use socketserver::{Builder, Forking, HandlerError, Server, Tcp, ThreadPool, Threading};
use socketserver_http::{Content, Http, IntoResponse, Request};

use support::models::{Models, UnderModel};
use support::{ServerProcess, Target, is_available, say};

type Check = fn(&ServerProcess, &str);

/// A name, the program that it needs, and what it does with a server and its URL.
const CHECKS: [(&str, &str, Check); 10] = [
    ("curl_over_http_1", "curl", |_, url| curl("--http1.1", url)),
    ("curl_over_http_2", "curl", |_, url| {
        curl("--http2-prior-knowledge", url);
    }),
    ("curl_goes_on_after_an_answer", "curl", curl_goes_on),
    ("curl_waits_for_100_continue", "curl", curl_waits),
    ("python", "python3", python),
    ("nghttp", "nghttp", nghttp),
    ("h2load", "h2load", h2load),
    ("wrk", "wrk", wrk),
    ("large_bodies_over_http_1", "curl", |server, url| {
        large_bodies(server, url, &["--http1.1"]);
        let chunked = ["--http1.1", "-H", "Transfer-Encoding: chunked"];
        large_bodies(server, url, &chunked);
    }),
    ("large_bodies_over_http_2", "curl", |server, url| {
        large_bodies(server, url, &["--http2-prior-knowledge"]);
    }),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [mode, _, model] = &args[..]
        && mode == "--server"
    {
        return serve(model);
    }
    let mut trials = Vec::new();
    for model in ["threading", "coroutines_epoll"] {
        for (name, program, check) in CHECKS {
            let trial = Trial::test(format!("{model}::{name}"), move || {
                let server = ServerProcess::start("tcp", model, &[]);
                let Target::Tcp(addr) = *server.target() else {
                    panic!("it is a TCP server")
                };
                check(&server, &format!("http://{addr}"));
                Ok(())
            });
            let is_installed = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok();
            trials.push(trial.with_ignored_flag(!is_available(model) || !is_installed));
        }
    }
    libtest_mimic::run(&support::arguments(), trials).exit_code()
}

/// The server: `--server tcp MODEL`.
fn serve(model: &str) -> ExitCode {
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(2),
        forking: Forking::default(),
        workers: 2,
        breaker: 10,
    };
    let listeners = Tcp::options().bind("127.0.0.1:0").expect("bind");
    let builder = Server::<Tcp>::builder().on_ready(|| say("ready"));
    models.run(model, Serves(builder.listen(listeners)))
}

struct Serves(Builder<Tcp>);

impl UnderModel for Serves {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = self.0.model(model).build().expect("build a server");
        for url in server.urls() {
            say(format!("listening on {url}"));
        }
        let http = Http::new(answer).body_bytes(u64::MAX);
        server.serve_forever(http.serve()).expect("serve");
        ExitCode::SUCCESS
    }
}

fn answer(request: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
    let size = request.uri().query().unwrap_or_default().parse();
    match request.uri().path() {
        "/hello" => "hello\n".into_response(),
        "/echo" => {
            let mut body = Vec::new();
            request.body_mut().read_to_end(&mut body)?;
            body.into_response()
        }
        "/count" => {
            let count = io::copy(request.body_mut(), &mut io::sink())?;
            count.to_string().into_response()
        }
        "/sized" => Content::sized_reader(io::repeat(b'a'), size?).into_response(),
        "/stream" => Content::reader(io::repeat(b'a').take(size?)).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Runs a program, which must succeed, and returns what it prints.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("run");
    let errors = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{command:?}: {status}\n{errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// curl, silent but for errors, with a deadline.
fn curl_command() -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--max-time", "600"]);
    curl
}

fn curl(version: &str, url: &str) {
    let ask = |args: &[&str]| run(curl_command().arg(version).args(args));
    let at = |path: &str| format!("{url}{path}");
    assert_eq!(ask(&[&at("/hello")]), "hello\n");
    assert_eq!(ask(&["-d", "some text", &at("/echo")]), "some text");
    let head = ask(&["-I", &at("/hello")]).to_lowercase();
    assert!(head.contains("content-length: 6"), "{head}");
    assert_eq!(ask(&[&at("/stream?5")]), "aaaaa");
    let status = ["-w", "%{http_code}", &at("/none")];
    assert_eq!(ask(&status), "Not Found\n404");
}

/// Requests on one connection. (curl 7.88 ends one of HTTP/2 by prior knowledge after its first request.)
fn curl_goes_on(_: &ServerProcess, url: &str) {
    let mut curl = curl_command();
    // A line counts the connections that each request has opened.
    curl.args(["--http1.1", "-w", " %{num_connects}\n"]);
    curl.args(["-d", "in chunks", "-H", "Transfer-Encoding: chunked"]);
    let answers = run(curl.args(["/echo", "/count", "/none"].map(|path| format!("{url}{path}"))));
    assert_eq!(answers, "in chunks 1\n9 0\nNot Found\n 0\n");
}

fn curl_waits(_: &ServerProcess, url: &str) {
    let output = curl_command()
        .args([
            "-v",
            "--http1.1",
            "-d",
            "waited",
            "-H",
            "Expect: 100-continue",
        ])
        // It would go on by itself after a second.
        .args(["--expect100-timeout", "600", &format!("{url}/echo")])
        .output()
        .expect("run");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("< HTTP/1.1 100 Continue"), "{log}");
    assert_eq!(output.stdout, b"waited");
}

/// One connection, whose answers are checked.
const PYTHON: &str = r#"
import http.client, sys
conn = http.client.HTTPConnection(sys.argv[1], timeout=60)
def ask(method, path, body=None, **options):
    conn.request(method, path, body, **options)
    answer = conn.getresponse()
    return answer.status, answer.read(), answer
conn.connect()
sock = conn.sock
assert ask("GET", "/hello")[:2] == (200, b"hello\n")
assert ask("HEAD", "/hello")[:2] == (200, b"")
assert ask("POST", "/echo", b"some text")[:2] == (200, b"some text")
assert ask("POST", "/echo", iter([b"in ", b"chunks"]), encode_chunked=True)[:2] == (200, b"in chunks")
status, body, answer = ask("GET", "/stream?100000")
assert answer.getheader("Transfer-Encoding") == "chunked" and body == b"a" * 100000
assert ask("GET", "/none")[0] == 404
assert conn.sock is sock, "the connection was kept"
status, body, answer = ask("GET", "/hello", headers={"Connection": "close"})
assert answer.getheader("Connection") == "close" and conn.sock is None
"#;

fn python(_: &ServerProcess, url: &str) {
    let addr = url.trim_start_matches("http://");
    run(Command::new("python3").args(["-c", PYTHON, addr]));
}

fn nghttp(_: &ServerProcess, url: &str) {
    let body = tempfile::NamedTempFile::new().expect("a file");
    fs::write(body.path(), "some text").expect("write");
    let path = body.path().to_str().expect("text");
    let echo = run(Command::new("nghttp").args(["-d", path, &format!("{url}/echo")]));
    assert_eq!(echo, "some text");
    // Many streams of one connection, with trailers.
    let log = run(Command::new("nghttp").args([
        "-nv",
        "-m",
        "20",
        "--trailer",
        "x-sum: 42",
        "-d",
        path,
        &format!("{url}/echo"),
    ]));
    assert_eq!(log.matches(":status: 200").count(), 20, "{log}");
}

fn h2load(_: &ServerProcess, url: &str) {
    let url = format!("{url}/hello");
    let log = run(Command::new("h2load").args(["-n", "2000", "-c", "4", "-m", "8", &url]));
    let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(log.contains(all), "{log}");
    assert!(log.contains("status codes: 2000 2xx"), "{log}");
}

fn wrk(_: &ServerProcess, url: &str) {
    let url = format!("{url}/hello");
    let log = run(Command::new("wrk").args(["-t", "1", "-c", "8", "-d", "1s", &url]));
    assert!(log.contains("requests in"), "{log}");
    assert!(!log.contains("Socket errors"), "{log}");
    assert!(!log.contains("Non-2xx"), "{log}");
}

/// By how much the memory of a server may grow while it passes a body, in KiB.
const GROWTH_MAX: u64 = 2 * 1024;

/// Bodies in each direction, which the server must not hold.
fn large_bodies(server: &ServerProcess, url: &str, options: &[&str]) {
    let gib: Option<u64> = env::var("BODY_GIB")
        .ok()
        .map(|gib| gib.parse().expect("GiB"));
    let size = gib.map_or(64 << 20, |gib| gib << 30);
    let body = tempfile::NamedTempFile::new().expect("a file");
    let sparse: &File = body.as_file();
    sparse.set_len(size).expect("a sparse file");
    let ask = |args: &[&str]| {
        let mut curl = curl_command();
        run(curl.args(["--max-time", "7200"]).args(options).args(args))
    };
    let path = body.path().to_str().expect("text");
    let up = || ask(&["-T", path, &format!("{url}/count")]);
    let down = |kind: &str, size: u64| {
        let (format, url) = ("%{size_download}", format!("{url}/{kind}?{size}"));
        ask(&["-o", "/dev/null", "-w", format, &url])
    };
    // The first requests take what all others take too.
    down("sized", 1 << 20);
    ask(&["-T", "/dev/null", &format!("{url}/count")]);
    let before = reset_peak(server.pid());
    assert_eq!(up(), size.to_string());
    assert_eq!(down("sized", size), size.to_string());
    assert_eq!(down("stream", size), size.to_string());
    let growth = memory(server.pid(), "VmHWM:") - before;
    assert!(growth <= GROWTH_MAX, "{growth} KiB for {size} bytes");
}

/// Makes the present memory of a process its greatest (proc_pid_clear_refs(5)), and returns it in KiB.
fn reset_peak(pid: u32) -> u64 {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak");
    memory(pid, "VmHWM:")
}

/// A line of proc_pid_status(5), in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).expect(name)
}
