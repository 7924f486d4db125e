//! HTTP under every model: requests, connections that wait without a thread, time limits, and stops amid
//! conversations. `STOPS=all` stops each server 50 times.

#[path = "../../tests/support/mod.rs"]
mod support;

mod client;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use async_lock::Barrier;
use http::{Response, StatusCode};
use libtest_mimic::Trial;
use socketserver::model::Model;
use socketserver::net::TcpConnection;
use socketserver::{
    Builder, Connection, Forking, HandlerError, Server, ServerHandle, Tcp, ThreadPool, Threading,
    task,
};
use socketserver_http::{Content, Files, Handler, Http, IntoResponse, Request};

use client::Client;
use client::h2::Outcome;
use support::models::{Models, NAMES, UnderModel};
use support::{DEADLINE, ServerProcess, Target, ends_within, is_available, poll_until, say};

type Check = fn(&str);

const SCENARIOS: [(&str, Check); 18] = [
    ("requests", requests),
    ("files_of_a_directory", files_of_a_directory),
    (
        "an_answer_waits_for_no_later_request",
        an_answer_waits_for_no_later_request,
    ),
    ("idle_clients_hold_no_thread", idle_clients_hold_no_thread),
    (
        "heads_in_pieces_hold_no_thread",
        heads_in_pieces_hold_no_thread,
    ),
    ("a_late_head_is_answered_408", a_late_head_is_answered_408),
    ("a_late_body_is_answered_408", a_late_body_is_answered_408),
    ("an_idle_connection_ends", an_idle_connection_ends),
    (
        "the_last_request_of_a_connection",
        the_last_request_of_a_connection,
    ),
    ("a_stop_loses_no_request", a_stop_loses_no_request),
    (
        "a_stop_answers_a_head_in_pieces",
        a_stop_answers_a_head_in_pieces,
    ),
    ("requests_of_h2", requests_of_h2),
    (
        "a_slow_handler_of_h2_is_not_idle",
        a_slow_handler_of_h2_is_not_idle,
    ),
    (
        "a_panic_amid_content_ends_one_request",
        a_panic_amid_content_ends_one_request,
    ),
    (
        "requests_of_h2_run_side_by_side",
        requests_of_h2_run_side_by_side,
    ),
    (
        "idle_clients_of_h2_hold_no_thread",
        idle_clients_of_h2_hold_no_thread,
    ),
    (
        "a_stop_loses_no_request_of_h2",
        a_stop_loses_no_request_of_h2,
    ),
    (
        "forms_with_files_and_passwords",
        forms_with_files_and_passwords,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, _, model, options @ ..] = &args[..]
        && mode == "--server"
    {
        return serve(model, options);
    }
    let trials = NAMES.iter().flat_map(|&model| {
        SCENARIOS.map(|(name, check)| {
            let trial = Trial::test(format!("{model}::{name}"), move || {
                check(model);
                Ok(())
            });
            trial.with_ignored_flag(!is_available(model))
        })
    });
    libtest_mimic::run(&support::arguments(), trials.collect()).exit_code()
}

/// The server: `--server tcp MODEL [OPTION]...`.
fn serve(model: &str, options: &[String]) -> ExitCode {
    // Handlers panic on request; the messages would hide those of the tests.
    std::panic::set_hook(Box::new(|_| {}));
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(2),
        forking: Forking::default(),
        workers: 2,
        breaker: 10,
    };
    let listeners = Tcp::options().bind("127.0.0.1:0").expect("bind");
    let mut builder = Server::<Tcp>::builder().on_ready(|| say("ready"));
    if options.iter().any(|option| option == "idle") {
        builder = builder.idle_timeout(Duration::from_secs(1));
    }
    models.run(model, Serves(builder.listen(listeners), options.to_vec()))
}

struct Serves(Builder<Tcp>, Vec<String>);

impl UnderModel for Serves {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let Self(builder, options) = self;
        let server = builder.model(model).build().expect("build a server");
        for url in server.urls() {
            say(format!("listening on {url}"));
        }
        let files = Files::open(env!("CARGO_MANIFEST_DIR")).expect("open");
        #[cfg(feature = "compress")]
        let files = files.compress(true);
        let mut http = Http::handler(Routes {
            files: files.list(true),
            server: server.handle(),
            meeting: Barrier::new(4),
            #[cfg(all(feature = "htpasswd", feature = "multipart"))]
            form: form::answers(),
        })
        .body_bytes(100_000);
        for option in &options {
            http = match &**option {
                "hasty" => http
                    .head_timeout(Duration::from_millis(300))
                    .body_timeout(Duration::from_millis(300)),
                "brief" => http.idle_timeout(Duration::from_millis(300)),
                "few" => http.requests(3),
                // For the server.
                "idle" => http,
                _ => panic!("unknown option {option}"),
            };
        }
        let handle = server.handle();
        let report = server.serve_forever(http.serve()).expect("serve");
        say(format!(
            "ended aborted={} live={}",
            report.aborted,
            handle.live()
        ));
        ExitCode::SUCCESS
    }
}

/// Answers by the path, and counts the requests of each connection.
struct Routes {
    files: Files,
    server: ServerHandle,
    /// Where four requests meet.
    meeting: Barrier,
    #[cfg(all(feature = "htpasswd", feature = "multipart"))]
    form: Box<form::Answers>,
}

/// What needs features.
#[cfg(all(feature = "htpasswd", feature = "multipart"))]
mod form {
    use std::io::{self, Read};

    use http::Response;
    use socketserver::HandlerError;
    use socketserver_http::{Content, Handler, Request, RequestExt, auth};

    /// A handler of forms, behind a password.
    pub(crate) type Answers =
        dyn Fn(&mut Request<'_>) -> Result<Response<Content>, HandlerError> + Send + Sync;

    pub(crate) fn answers() -> Box<Answers> {
        // `correct horse`
        let users = "anna:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
        let users = auth::Htpasswd::parse(users).expect("users");
        let verify = move |user: &str, password: &str| users.verify(user, password);
        let handler = auth::basic("forms", verify, sizes);
        Box::new(move |request| handler.call(&mut (), request))
    }

    /// Answers with the name and the size of each field.
    fn sizes(request: &mut Request<'_>) -> io::Result<String> {
        let mut form = request.multipart()?;
        let mut text = String::new();
        while let Some(mut field) = form.next_field()? {
            let mut content = Vec::new();
            field.read_to_end(&mut content)?;
            text += &format!("{} {}\n", field.name(), content.len());
        }
        Ok(text)
    }
}

impl Handler for Routes {
    type Session = u32;

    fn call(
        &self,
        count: &mut u32,
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        *count += 1;
        match request.uri().path() {
            "/count" => count.to_string().into_response(),
            "/echo" => {
                let mut body = Vec::new();
                request.body_mut().read_to_end(&mut body)?;
                body.into_response()
            }
            #[cfg(all(feature = "htpasswd", feature = "multipart"))]
            "/form" => (self.form)(request),
            "/stream" => Ok(Response::new(Content::chunks(["one", "two", "three"]))),
            "/meet" => {
                task::block_on(self.meeting.wait())?;
                "met".into_response()
            }
            "/slow" => {
                task::sleep(Duration::from_millis(1500));
                "at last".into_response()
            }
            "/cookies" => {
                let cookies = request.headers().get_all("cookie").iter();
                let cookies: Vec<_> = cookies
                    .filter_map(|cookies| cookies.to_str().ok())
                    .collect();
                cookies.join(" and ").into_response()
            }
            "/torn" => Ok(Response::new(Content::stream(|out| {
                out.write_all(b"half of it")?;
                out.flush()?;
                panic!("panicked as asked")
            }))),
            "/panic" => panic!("panicked as asked"),
            "/list" => {
                let list = self.server.connections();
                let lines = list.iter().map(|connection| format!("{connection}\n"));
                lines.collect::<String>().into_response()
            }
            "/stop" => {
                self.server.shutdown();
                "stopping\n".into_response()
            }
            path => match (path.strip_prefix("/call/"), path.strip_prefix("/files/")) {
                (Some(port), _) => call(port.parse()?)?.into_response(),
                (_, Some(path)) => {
                    let path = path.to_owned();
                    self.files.respond(request, &path)
                }
                _ => StatusCode::NOT_FOUND.into_response(),
            },
        }
    }
}

/// Calls the test, and returns what it says.
fn call(port: u16) -> io::Result<String> {
    let mut test = TcpConnection::connect(("127.0.0.1", port), DEADLINE)?;
    let mut said = String::new();
    test.read_line_max(&mut said, 100)?;
    Ok(said)
}

fn start(model: &str, options: &[&str]) -> (ServerProcess, SocketAddr) {
    let server = ServerProcess::start("tcp", model, options);
    let Target::Tcp(addr) = *server.target() else {
        panic!("it is a TCP server")
    };
    (server, addr)
}

/// Stops the server by a request, and checks that nothing was aborted.
fn stop(mut server: ServerProcess, addr: SocketAddr) {
    // Some servers give a connection little time.
    let answer = poll_until("an answer", DEADLINE, || {
        Client::connect(addr).try_get("/stop").ok()
    });
    assert_eq!(answer.status, 200);
    assert!(answer.closes, "a server that stops keeps no connection");
    assert_eq!(server.ended(), "aborted=0 live=0");
}

/// Waits until a connection is parked that has received so many bytes.
fn wait_until_parked(addr: SocketAddr, id: u64, bytes: usize) {
    let (id, bytes) = (format!("{id} "), format!(" {bytes} bytes received"));
    poll_until("the connection is parked", DEADLINE, || {
        let list = Client::connect(addr).get("/list").text();
        let mut lines = list.lines().filter(|line| line.starts_with(&id));
        lines
            .any(|line| line.contains("parked for") && line.contains(&bytes))
            .then_some(())
    });
}

/// Waits until the first connection is parked.
fn wait_until_quiet(addr: SocketAddr) {
    poll_until("the connection is parked", DEADLINE, || {
        let list = Client::connect(addr).get("/list").text();
        let mut lines = list.lines().filter(|line| line.starts_with("1 "));
        lines.any(|line| line.contains("parked for")).then_some(())
    });
}

fn requests(model: &str) {
    let (server, addr) = start(model, &[]);
    let mut client = Client::connect(addr);
    assert_eq!(client.get("/count").text(), "1");
    // Within a write, and in pieces.
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n");
    client.send(&[b'x'; 70_000]);
    assert_eq!(client.receive().body, [b'x'; 70_000]);
    client
        .send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.send(b"2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.receive().text(), "abcde");
    assert_eq!(client.get("/stream").text(), "onetwothree");
    assert_eq!(client.get("/panic").status, 500);
    // Several at once: the answers come in order.
    client.send(&b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    let counts = [client.receive(), client.receive(), client.receive()];
    assert_eq!(counts.map(|answer| answer.text()), ["6", "7", "8"]);
    drop(client);
    stop(server, addr);
}

/// Files, a listing, and every coding, on the stacks of each model.
fn files_of_a_directory(model: &str) {
    let (server, addr) = start(model, &[]);
    let mut client = Client::connect(addr);
    for path in ["Cargo.toml", "tests/models.rs"] {
        let expected = std::fs::read(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
        let answer = client.get(&format!("/files/{path}"));
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body == expected.expect("a file"), "{path}");
        let mut lengths = Vec::new();
        for coding in ["gzip", "br", "zstd"] {
            let request = format!(
                "GET /files/{path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"
            );
            client.send(request.as_bytes());
            let coded = client.receive();
            assert_eq!(coded.status, 200, "{path} {coding}");
            lengths.push(coded.body.len());
        }
        let is_smaller = |length: &usize| *length < answer.body.len() / 2;
        // Types that are not compressible stay as they are.
        let is_coded = cfg!(feature = "compress") && lengths.iter().all(is_smaller);
        assert!(is_coded || lengths.iter().all(|length| *length == answer.body.len()));
        assert_eq!(is_coded, cfg!(feature = "compress"), "{path}: {lengths:?}");
    }
    let listing = client.get("/files/src/");
    assert!(listing.text().contains("./lib.rs"), "{}", listing.text());
    assert_eq!(client.get("/files/none").status, 404);
    drop(client);
    stop(server, addr);
}

fn an_answer_waits_for_no_later_request(model: &str) {
    let (server, addr) = start(model, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("non-blocking");
    let mut client = Client::connect(addr);
    let second = format!("GET /call/{port} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(format!("GET /count HTTP/1.1\r\nHost: a\r\n\r\n{second}").as_bytes());
    // The second handler runs, and has no answer yet.
    let (mut called, _) = poll_until("a call", DEADLINE, || listener.accept().ok());
    assert_eq!(client.receive().text(), "1");
    called.write_all(b"go on\n").expect("answer the call");
    assert_eq!(client.receive().text(), "go on\n");
    drop(client);
    stop(server, addr);
}

fn idle_clients_hold_no_thread(model: &str) {
    let (server, addr) = start(model, &[]);
    let request = b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
    // More than any model has threads, processes or coroutines that wait.
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/count").text(), "1");
    }
    wait_until_parked(addr, 1, request.len());
    for client in &mut clients {
        assert_eq!(client.get("/count").text(), "2", "the session stays");
    }
    drop(clients);
    stop(server, addr);
}

fn heads_in_pieces_hold_no_thread(model: &str) {
    let (server, addr) = start(model, &[]);
    let head = b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&head[..20]);
    }
    wait_until_parked(addr, 1, 20);
    for at in 20..head.len() {
        for client in &mut clients {
            client.send(&head[at..=at]);
        }
    }
    for client in &mut clients {
        assert_eq!(client.receive().text(), "1");
    }
    drop(clients);
    stop(server, addr);
}

fn a_late_head_is_answered_408(model: &str) {
    let (server, addr) = start(model, &["hasty"]);
    let mut client = Client::connect(addr);
    client.send(b"GET /count HT");
    let answer = client.receive();
    assert_eq!((answer.status, answer.closes), (408, true));
    drop(client);
    stop(server, addr);
}

fn a_late_body_is_answered_408(model: &str) {
    let (server, addr) = start(model, &["hasty"]);
    let mut client = Client::connect(addr);
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.receive();
    assert_eq!((answer.status, answer.closes), (408, true));
    drop(client);
    stop(server, addr);
}

fn an_idle_connection_ends(model: &str) {
    let (server, addr) = start(model, &["brief"]);
    let mut silent = Client::connect(addr);
    // A client that a busy machine holds up is silent for too long, and begins anew.
    let (mut client, answer) = poll_until("a client that is fast enough", DEADLINE, || {
        let mut client = Client::connect(addr);
        let answer = client.try_get("/count").ok()?;
        Some((client, answer))
    });
    assert_eq!(answer.text(), "1");
    assert!(client.has_ended());
    assert!(silent.has_ended());
    stop(server, addr);
}

fn the_last_request_of_a_connection(model: &str) {
    let (server, addr) = start(model, &["few"]);
    let mut client = Client::connect(addr);
    let closes = [(); 3].map(|()| client.get("/count").closes);
    assert_eq!(closes, [false, false, true]);
    assert!(client.has_ended());
    stop(server, addr);
}

/// How many requests are answered before the stop, by how many clients, and the longest pause before a request in
/// microseconds.
const ANSWERS: u64 = 500;
const CLIENTS: u64 = 64;
const PAUSE: u64 = 5000;

fn a_stop_loses_no_request(model: &str) {
    let all = std::env::var_os("STOPS").is_some_and(|which| which == "all");
    for seed in 0..if all { 50 } else { 1 } {
        let (mut server, addr) = start(model, &[]);
        let (left, stops) = (AtomicU64::new(ANSWERS), AtomicBool::new(false));
        let lost = thread::scope(|scope| {
            let (left, stops) = (&left, &stops);
            // All clients are connected before the stop.
            let clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
            let talks = clients
                .into_iter()
                .zip(seed * CLIENTS..)
                .map(|(client, number)| {
                    scope.spawn(move || talk_until_the_stop(client, number, left, stops))
                });
            let talks: Vec<_> = talks.collect();
            talks
                .into_iter()
                .filter_map(|talk| talk.join().expect("a client"))
                .collect::<Vec<_>>()
        });
        assert_eq!(lost, [""; 0]);
        assert_eq!(server.ended(), "aborted=0 live=0");
    }
}

/// Sends requests until the connection ends. Returns what was lost.
fn talk_until_the_stop(
    mut client: Client,
    seed: u64,
    left: &AtomicU64,
    stops: &AtomicBool,
) -> Option<String> {
    // Different pauses for each client (Knuth's multiplier of a linear congruential generator).
    let mut random = seed;
    for number in 0.. {
        // A stop ends a connection that has been idle for the grace: a client looks for the end before it sends.
        let pause = Duration::from_micros((random >> 33) % PAUSE);
        if ends_within(client.socket(), pause) {
            return None;
        }
        let take = |left: u64| left.checked_sub(1);
        let enough = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        // Who still waits in the backlog does not ask for the stop.
        let stop = number > 0 && enough.is_err() && !stops.swap(true, Ordering::Relaxed);
        let answer = match client.try_get(if stop { "/stop" } else { "/count" }) {
            Ok(answer) if answer.status == 200 => answer,
            other => return Some(format!("request {number}: {other:?}")),
        };
        if answer.closes {
            return None;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
    }
    None
}

fn a_stop_answers_a_head_in_pieces(model: &str) {
    let (mut server, addr) = start(model, &[]);
    let mut client = Client::connect(addr);
    assert_eq!(client.get("/count").text(), "1");
    client.send(b"GET /count HTTP/1.1\r\n");
    assert_eq!(Client::connect(addr).get("/stop").status, 200);
    client.send(b"Host: a\r\n\r\n");
    let answer = client.receive();
    assert_eq!((answer.text(), answer.closes), ("2".to_owned(), true));
    assert_eq!(server.ended(), "aborted=0 live=0");
}

fn requests_of_h2(model: &str) {
    let (server, addr) = start(model, &[]);
    client::h2::with(addr, async |client| {
        let body = vec![b'x'; 70_000];
        assert_eq!(client.get("/count").await.text(), "1");
        assert_eq!(client.post("/echo", &body).await.body, body);
        assert_eq!(client.get("/stream").await.text(), "onetwothree");
        assert_eq!(client.get("/panic").await.status, 500);
        assert_eq!(client.post("/echo", &[b'x'; 100_001]).await.status, 413);
        assert_eq!(
            client.get("/count").await.text(),
            "1",
            "a session for each request"
        );
        let cookies = client.get_with("/cookies", &[("cookie", "a=1"), ("cookie", "b=2")]);
        assert_eq!(cookies.await.text(), "a=1; b=2");
    });
    stop(server, addr);
}

fn requests_of_h2_run_side_by_side(model: &str) {
    let (server, addr) = start(model, &[]);
    client::h2::with(addr, async |client| {
        for _ in 0..3 {
            let requests = [(); 4].map(|()| client.send("/meet"));
            for answer in requests {
                assert_eq!(client::h2::answer(answer).await.text(), "met");
            }
        }
    });
    stop(server, addr);
}

fn idle_clients_of_h2_hold_no_thread(model: &str) {
    let (server, addr) = start(model, &[]);
    client::h2::with(addr, async |client| {
        for _ in 0..3 {
            assert_eq!(client.get("/count").await.text(), "1");
            wait_until_quiet(addr);
        }
    });
    stop(server, addr);
}

fn a_stop_loses_no_request_of_h2(model: &str) {
    let all = std::env::var_os("STOPS").is_some_and(|which| which == "all");
    for _ in 0..if all { 50 } else { 1 } {
        let (mut server, addr) = start(model, &[]);
        let (left, stops) = (AtomicU64::new(100), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    client::h2::with(addr, async |client| {
                        loop {
                            let take = |left: u64| left.checked_sub(1);
                            let enough =
                                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
                            let stop = enough.is_err() && !stops.swap(true, Ordering::Relaxed);
                            let path = if stop { "/stop" } else { "/count" };
                            match client.outcome(path).await {
                                Outcome::Answer(answer) => assert_eq!(answer.status, 200),
                                // The client may send it again elsewhere.
                                Outcome::NotProcessed => break,
                            }
                        }
                    });
                });
            }
        });
        assert_eq!(server.ended(), "aborted=0 live=0");
    }
}

fn a_slow_handler_of_h2_is_not_idle(model: &str) {
    let (server, addr) = start(model, &["idle"]);
    client::h2::with(addr, async |client| {
        assert_eq!(client.get("/slow").await.text(), "at last");
    });
    drop(server);
}

fn a_panic_amid_content_ends_one_request(model: &str) {
    let (server, addr) = start(model, &[]);
    client::h2::with(addr, async |client| {
        // The reset may come before what was sent earlier.
        if let Ok(torn) = client.send("/torn").await {
            let mut torn = torn.into_body();
            let mut last = torn.data().await;
            while let Some(Ok(_)) = last {
                last = torn.data().await;
            }
            assert!(last.is_some_and(|end| end.is_err()), "no whole response");
        }
        for _ in 0..2 {
            assert_eq!(client.get("/count").await.text(), "1");
            wait_until_quiet(addr);
        }
    });
    stop(server, addr);
}

/// A parser and a helper thread wait as any handler does.
fn forms_with_files_and_passwords(model: &str) {
    if cfg!(not(all(feature = "htpasswd", feature = "multipart"))) {
        return;
    }
    let (server, addr) = start(model, &[]);
    let mut client = Client::connect(addr);
    let send = |client: &mut Client, password: &str| {
        // `anna:` and the password.
        let head = format!(
            "POST /form HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {password}\r\n\
             Content-Type: multipart/form-data; boundary=X\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        client.send(head.as_bytes());
        let field =
            |name: &str| format!("--X\r\nContent-Disposition: form-data; name={name}\r\n\r\n");
        let body = field("a") + &"x".repeat(50_000) + "\r\n" + &field("b") + "\r\n--X--";
        for piece in body.as_bytes().chunks(1000) {
            client.send(format!("{:x}\r\n", piece.len()).as_bytes());
            client.send(piece);
            client.send(b"\r\n");
        }
        client.send(b"0\r\n\r\n");
        client.receive()
    };
    // Verified, and remembered.
    for _ in 0..2 {
        let answer = send(&mut client, "YW5uYTpjb3JyZWN0IGhvcnNl");
        assert_eq!((answer.status, &*answer.text()), (200, "a 50000\nb 0\n"));
    }
    assert_eq!(send(&mut client, "YW5uYTpjb3JyZWN0IGhvcnM=").status, 401);
    drop(client);
    stop(server, addr);
}
