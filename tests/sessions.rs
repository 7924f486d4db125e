//! The sessions of connections, from setup to end, under every model.
//!
//! The handler of the server process prints each step of a session as a line, with the number of
//! its connection. Clients tell the handler what to do.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use socketserver::model::Model;
use socketserver::net::{Accepted, TcpConnection};
use socketserver::{
    Connection, Forking, HandlerError, Next, Outcome, RequestHandler, Server, ServerHandle, Tcp,
    ThreadPool, Threading, per_request,
};
use support::models::{Models, NAMES, UnderModel};
use support::{Client, DEADLINE, ServerProcess, Target, arguments, is_available, poll_until, say};

type Check = fn(&str);

const SCENARIOS: [(&str, Check); 10] = [
    ("three_lines_are_one_session", three_lines_are_one_session),
    (
        "a_silent_client_does_not_keep_a_session_parked",
        a_silent_client_does_not_keep_a_session_parked,
    ),
    (
        "a_reset_is_handled_and_finished",
        a_reset_is_handled_and_finished,
    ),
    ("a_failed_handler_finishes", a_failed_handler_finishes),
    (
        "a_stop_finishes_parked_sessions",
        a_stop_finishes_parked_sessions,
    ),
    (
        "a_stop_finishes_a_session_with_a_partial_request",
        a_stop_finishes_a_session_with_a_partial_request,
    ),
    (
        "a_stop_waits_for_sessions_that_finish",
        a_stop_waits_for_sessions_that_finish,
    ),
    (
        "a_worker_that_retires_finishes_parked_sessions",
        a_worker_that_retires_finishes_parked_sessions,
    ),
    (
        "an_aborted_session_is_dropped",
        an_aborted_session_is_dropped,
    ),
    (
        "an_idle_session_is_dropped_after_the_timeout",
        an_idle_session_is_dropped_after_the_timeout,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, _, model, options @ ..] = &args[..]
        && mode == "--server"
    {
        return serve(model, options);
    }
    let mut trials = Vec::new();
    for model in NAMES {
        for &(name, check) in &SCENARIOS {
            let (forks, has_workers) = (model.ends_with("forking"), model.starts_with("prefork"));
            let applies = match name {
                // A child waits for the next byte, not for a whole line.
                "a_stop_finishes_a_session_with_a_partial_request" => !forks,
                // Under forking, the child would retire, not the server.
                "a_worker_that_retires_finishes_parked_sessions" => has_workers && !forks,
                _ => true,
            };
            if !applies {
                continue;
            }
            let trial = Trial::test(format!("{model}::{name}"), move || {
                check(model);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(!is_available(model)));
        }
    }
    let name = "pool::the_drain_deadline_drops_sessions_without_a_thread";
    trials.push(Trial::test(name, || {
        the_drain_deadline_drops_sessions_without_a_thread();
        Ok(())
    }));
    libtest_mimic::run(&arguments(), trials).exit_code()
}

/// Prints its steps, counts the lines of its client, and obeys some of them.
struct Session {
    id: u64,
    lines: u32,
    /// Whether `finish` asks its client for a line.
    asks: bool,
    /// How many calls without input are to come.
    naps: u32,
    handle: ServerHandle,
}

/// How long a session is parked without input.
const NAP: Duration = Duration::from_millis(60);

impl Session {
    fn say(&self, step: &str) {
        say(format!("session {} {step}", self.id));
    }

    /// Prints a step, with its process and thread.
    fn say_where(&self, step: &str) {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        self.say(&format!("{step} in {} on {thread}", process::id()));
    }
}

impl RequestHandler<TcpConnection> for Session {
    fn setup(&mut self, conn: &mut TcpConnection) -> Result<(), HandlerError> {
        self.id = conn.id();
        self.say_where("setup");
        Ok(())
    }

    fn handle(&mut self, conn: &mut TcpConnection) -> Outcome {
        self.say("handle");
        if self.naps > 0 {
            self.naps -= 1;
            conn.write_all(b"awake\n")?;
            return Ok(if self.naps == 0 {
                Next::Park
            } else {
                Next::ParkFor(NAP)
            });
        }
        let mut line = String::new();
        conn.read_line_max(&mut line, 1024)?;
        self.lines += 1;
        match line.trim_end() {
            // The end of the stream.
            "" => return Ok(Next::Close),
            "ask" => self.asks = true,
            "fail" => return Err("failed as asked".into()),
            "panic" => panic!("panicked as asked"),
            "stop" => return Ok(Next::Stop),
            "abort" => {
                self.handle.abort(1);
                return Ok(Next::Close);
            }
            "retire" => {
                self.handle.retire();
                return Ok(Next::Close);
            }
            "list" => {
                for connection in self.handle.connections() {
                    writeln!(conn, "{connection}")?;
                }
                return Ok(Next::Close);
            }
            "nap" => {
                self.naps = 2;
                writeln!(conn, "{}", self.lines)?;
                return Ok(Next::ParkFor(NAP));
            }
            // Asks the server to stop, and keeps its thread.
            "outlive" => {
                self.handle.shutdown();
                conn.read_line_max(&mut line, 1024)?;
            }
            _ => {}
        }
        writeln!(conn, "{}", self.lines)?;
        Ok(Next::Park)
    }

    fn finish(&mut self, conn: &mut TcpConnection) -> Result<(), HandlerError> {
        self.say_where("finish");
        if self.asks {
            conn.write_all(b"done?\n")?;
            let mut line = String::new();
            conn.read_line_max(&mut line, 1024)?;
            self.say(line.trim_end());
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.say("dropped");
    }
}

/// The server: `--server tcp MODEL [OPTION]...`.
fn serve(model: &str, options: &[String]) -> ExitCode {
    // Handlers panic on request; the messages would hide those of the tests.
    std::panic::set_hook(Box::new(|_| {}));
    let has = |name: &str| options.iter().any(|option| option == name);
    let mut builder = Server::<Tcp>::builder().on_ready(|| say("ready"));
    if has("idle") {
        builder = builder.idle_timeout(Duration::from_millis(400));
    }
    if has("patient") {
        builder = builder
            .first_byte_timeout(None)
            .handshake_timeout(None)
            .idle_timeout(None)
            .write_timeout(None);
    }
    if has("whole") {
        builder = builder.whole_request(|input| input.contains(&b'\n'));
    }
    if has("short") {
        builder = builder.drain_timeout(Duration::from_millis(200));
    }
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(if has("one") { 1 } else { 3 }),
        forking: Forking::default(),
        workers: if has("one") { 1 } else { 2 },
        breaker: 10,
    };
    let listeners = Tcp::options().bind("127.0.0.1:0").expect("bind");
    models.run(model, Serves(builder.listen(listeners)))
}

struct Serves(socketserver::Builder<Tcp>);

impl UnderModel for Serves {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = self.0.model(model).build().expect("build a server");
        for url in server.urls() {
            say(format!("listening on {url}"));
        }
        let handle = server.handle();
        let make = {
            let handle = handle.clone();
            move || Session {
                id: 0,
                lines: 0,
                asks: false,
                naps: 0,
                handle: handle.clone(),
            }
        };
        let report = server.serve_forever(per_request(make)).expect("serve");
        let live = handle.live();
        say(format!("ended aborted={} live={live}", report.aborted));
        ExitCode::SUCCESS
    }
}

/// Sends a line, and expects an answer.
#[track_caller]
fn ask(client: &mut dyn Client, line: &str, answer: &str) {
    client
        .write_all(format!("{line}\n").as_bytes())
        .expect("send");
    expect(client, answer);
}

#[track_caller]
fn expect(client: &mut dyn Client, line: &str) {
    let mut answer = vec![0; line.len() + 1];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), format!("{line}\n"));
}

#[track_caller]
fn expect_end(client: &mut dyn Client) {
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "");
}

/// Returns the first client, whose first line was answered, and which is parked.
fn parked(server: &ServerProcess, line: &str) -> Box<dyn Client> {
    let mut client = server.target().connect();
    ask(&mut *client, line, "1");
    wait_until_parked(server, 1, line.len() + 1);
    client
}

/// Waits until a connection that has sent so many bytes is parked.
fn wait_until_parked(server: &ServerProcess, id: u64, bytes: usize) {
    let (id, bytes) = (format!("{id} "), format!(" {bytes} bytes received"));
    poll_until("the connection is parked", DEADLINE, || {
        let list = server.target().ask("list");
        let mut lines = list.lines().filter(|line| line.starts_with(&id));
        lines
            .any(|line| line.contains("parked for") && line.contains(&bytes))
            .then_some(())
    });
}

/// Stops the server, and returns the steps of the first session, without process and thread.
fn stop(mut server: ServerProcess) -> Vec<String> {
    assert_eq!(server.target().ask("stop"), "");
    assert_eq!(server.ended(), "aborted=0 live=0");
    steps(&mut server, 1)
}

/// Returns the steps of a session, after its server has ended.
fn steps(server: &mut ServerProcess, id: u64) -> Vec<String> {
    let prefix = format!("session {id} ");
    let mut steps = Vec::new();
    while server.has_said(&prefix) {
        let step = server.wait_for(&prefix);
        let name = step.split_once(" in ").map_or(&*step, |(name, _)| name);
        steps.push(name.to_owned());
    }
    steps
}

fn three_lines_are_one_session(model: &str) {
    let server = ServerProcess::start("tcp", model, &[]);
    let mut client = parked(&server, "one");
    ask(&mut *client, "two", "2");
    wait_until_parked(&server, 1, 8);
    ask(&mut *client, "three", "3");
    client.end_of_input();
    expect_end(&mut *client);
    let handled = ["setup", "handle", "handle", "handle", "handle"];
    let ended = ["finish", "dropped"];
    assert_eq!(stop(server), [&handled[..], &ended].concat());
}

fn a_silent_client_does_not_keep_a_session_parked(model: &str) {
    // Without deadlines, nothing else wakes the accept loop.
    for options in [&["patient"][..], &["patient", "whole"]] {
        let server = ServerProcess::start("tcp", model, options);
        let mut client = server.target().connect();
        ask(&mut *client, "nap", "1");
        expect(&mut *client, "awake");
        expect(&mut *client, "awake");
        // The alarm is over: the session waits for a line.
        ask(&mut *client, "two", "2");
        client.end_of_input();
        expect_end(&mut *client);
        let steps = stop(server);
        assert_eq!(
            steps[..5],
            ["setup", "handle", "handle", "handle", "handle"],
            "{options:?}"
        );
    }
}

fn a_reset_is_handled_and_finished(model: &str) {
    for options in [&[][..], &["whole"]] {
        let mut server = ServerProcess::start("tcp", model, options);
        let Target::Tcp(addr) = *server.target() else {
            panic!("it is a TCP server")
        };
        let mut client = TcpStream::connect(addr).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        ask(&mut client, "one", "1");
        wait_until_parked(&server, 1, 4);
        let socket = socket2::SockRef::from(&client);
        socket.set_linger(Some(Duration::ZERO)).expect("reset");
        drop(client);
        server.wait_for("session 1 dropped");
        // The server has received the line.
        let steps = stop(server);
        assert_eq!(
            steps,
            ["setup", "handle", "handle", "finish"],
            "{options:?}"
        );
    }
}

fn a_failed_handler_finishes(model: &str) {
    for how in ["fail", "panic"] {
        let server = ServerProcess::start("tcp", model, &[]);
        let mut client = parked(&server, "one");
        writeln!(client, "{how}").expect("send");
        expect_end(&mut *client);
        let steps = stop(server);
        let expected = ["setup", "handle", "handle", "finish", "dropped"];
        assert_eq!(steps, expected, "{how}");
    }
}

fn a_stop_finishes_parked_sessions(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &[]);
    let mut client = parked(&server, "one");
    let set_up = server.wait_for("session 1 setup");
    assert_eq!(server.target().ask("stop"), "");
    expect_end(&mut *client);
    let finished = server.wait_for("session 1 finish");
    assert_eq!(server.ended(), "aborted=0 live=0");
    assert_eq!(steps(&mut server, 1), ["handle", "dropped"]);

    let split = |place: &str| {
        let (process, thread) = place.split_once(" on ").expect("a thread");
        (process.to_owned(), thread.to_owned())
    };
    let ((process, thread), (finished_in, finished_on)) = (split(&set_up), split(&finished));
    assert_eq!(finished_in, process, "it has one process");
    let is_servers = process == format!(" in {}", server.pid());
    let is_others = model.starts_with("prefork") || model == "forking";
    assert_eq!(is_servers, !is_others);
    match model.rsplit('_').next() {
        Some("sequential" | "forking") => assert_eq!(finished_on, thread),
        Some("threading" | "pool") => assert_eq!(finished_on, "socketserver"),
        // Several sessions that finish at the same time show that coroutines run them, see below.
        _ => {}
    }
}

fn a_stop_finishes_a_session_with_a_partial_request(model: &str) {
    let server = ServerProcess::start("tcp", model, &["whole"]);
    let mut client = parked(&server, "one");
    client.write_all(b"tw").expect("send");
    wait_until_parked(&server, 1, 6);
    let steps = stop(server);
    assert_eq!(steps, ["setup", "handle", "finish", "dropped"]);
}

/// The sessions finish concurrently, if the model runs handlers concurrently, and not in the accept
/// loop.
fn a_stop_waits_for_sessions_that_finish(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &[]);
    let mut clients = vec![parked(&server, "ask")];
    if !model.ends_with("sequential") {
        let mut other = server.target().connect();
        ask(&mut *other, "ask", "1");
        clients.push(other);
    }
    assert_eq!(server.target().ask("stop"), "");
    for client in &mut clients {
        expect(&mut **client, "done?");
    }
    assert!(!server.has_said("ended "), "the replies have not ended");
    for client in &mut clients {
        client.write_all(b"yes\n").expect("send");
        expect_end(&mut **client);
    }
    assert_eq!(server.ended(), "aborted=0 live=0");
    let expected = ["setup", "handle", "finish", "yes", "dropped"];
    assert_eq!(steps(&mut server, 1), expected);
}

/// The worker leaves the backlog to the others, and drains at once.
fn a_worker_that_retires_finishes_parked_sessions(model: &str) {
    let server = ServerProcess::start("tcp", model, &["one"]);
    let mut client = parked(&server, "one");
    assert_eq!(server.target().ask("retire"), "");
    expect_end(&mut *client);
    let steps = stop(server);
    assert_eq!(steps, ["setup", "handle", "finish", "dropped"]);
}

fn an_aborted_session_is_dropped(model: &str) {
    let server = ServerProcess::start("tcp", model, &[]);
    let mut client = parked(&server, "one");
    assert_eq!(server.target().ask("abort"), "");
    expect_end(&mut *client);
    assert_eq!(stop(server), ["setup", "handle", "dropped"]);
}

fn an_idle_session_is_dropped_after_the_timeout(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &["idle"]);
    // On a machine that stalls, the timeout may end clients before.
    let mut id = 0;
    let mut client = poll_until("a line is handled in time", DEADLINE, || {
        let mut client = server.target().connect();
        id += 1;
        let asked = client.write_all(b"one\n");
        let answered = asked.and_then(|()| client.read_exact(&mut [0; 2]));
        answered.ok().map(|()| client)
    });
    expect_end(&mut *client);
    poll_until("the server stops", DEADLINE, || {
        let _ = server.target().try_ask("stop");
        server.has_said("ended ").then_some(())
    });
    assert_eq!(server.ended(), "aborted=0 live=0");
    assert_eq!(steps(&mut server, id), ["setup", "handle", "dropped"]);
}

/// The only thread is busy: one connection waits in the queue, and the others stay parked.
fn the_drain_deadline_drops_sessions_without_a_thread() {
    let mut server = ServerProcess::start("tcp", "pool", &["one", "short"]);
    let numbers = [1, 2, 3];
    let mut clients = numbers.map(|_| {
        let mut client = server.target().connect();
        ask(&mut *client, "one", "1");
        client
    });
    for id in numbers {
        wait_until_parked(&server, id, 4);
    }
    let mut outlives = server.target().connect();
    outlives.write_all(b"outlive\n").expect("send");
    for client in clients.iter_mut().chain([&mut outlives]) {
        expect_end(&mut **client);
    }
    assert_eq!(server.ended(), "aborted=4 live=0");
    for id in numbers {
        let steps = steps(&mut server, id);
        assert_eq!(steps, ["setup", "handle", "dropped"], "session {id}");
    }
}
