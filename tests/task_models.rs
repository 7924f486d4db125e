//! Aborts of a connection, under every model: a deadline, a call of the handle and a stop end all waits of its
//! handler, and no thread is left.

mod support;

use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use socketserver::model::{Forking, Model, ThreadPool, Threading};
use socketserver::net::TcpConnection;
use socketserver::task::{Descriptor, block_on, scope, sleep};
use socketserver::{Builder, Connection, HandlerError, Server, ServerHandle, Tcp};
use support::models::{Models, NAMES, UnderModel};
use support::{DEADLINE, ServerProcess, is_available, poll_until, say};

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3600);

/// The waits of a handler; each kind of abort ends each of them.
const WAITS: [&str; 5] = ["future", "sleep", "upstream", "descriptor", "scope"];

type Check = fn(&str, &str);

const ABORTS: [(&str, Check); 3] = [
    ("a_deadline", a_deadline_ends_it),
    ("the_handle", the_handle_ends_it),
    ("a_stop", a_stop_ends_it),
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
        for (name, check) in ABORTS {
            // The server cannot serve the connection that asks for the abort.
            if model == "sequential" && name == "the_handle" {
                continue;
            }
            for waits in WAITS {
                let trial = Trial::test(format!("{model}::{name}_ends::{waits}"), move || {
                    check(model, waits);
                    Ok(())
                });
                trials.push(trial.with_ignored_flag(!is_available(model)));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Prints a line when it is dropped.
struct Ends(&'static str);

impl Drop for Ends {
    fn drop(&mut self) {
        say(format!("over {}", self.0));
    }
}

/// Waits for ever, in the way of this name.
fn wait(name: &str, upstream: SocketAddr) -> io::Result<()> {
    match name {
        "future" => block_on(pending()),
        "sleep" => {
            sleep(NEVER);
            Ok(())
        }
        "upstream" => {
            let mut upstream = TcpConnection::connect(upstream, DEADLINE)?;
            upstream.read(&mut [0]).map(drop)
        }
        "descriptor" => {
            let (ours, _theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Descriptor::new(ours).read_with(|mut ours| ours.read(&mut [0]).map(drop))
        }
        _ => scope(|scope| {
            let spawned = scope.spawn(|| {
                let _ends = Ends("future");
                wait("future", upstream)
            })?;
            let nests = scope.spawn(|| {
                let _ends = Ends("nested");
                drop(scope.spawn(|| {
                    let _ends = Ends("sleep");
                    wait("sleep", upstream)
                }));
                wait("upstream", upstream)
            })?;
            let spawned = spawned.join().expect("no panic");
            let nested = nests.join().expect("no panic");
            assert_eq!(kind(&spawned), io::ErrorKind::ConnectionAborted);
            assert_eq!(kind(&nested), io::ErrorKind::ConnectionAborted);
            // Later waits fail too.
            assert_eq!(kind(&block_on(pending::<()>())), kind(&spawned));
            // The closure that sleeps has unwound without being joined, so the scope panics.
            Ok(())
        }),
    }
}

fn kind<T>(result: &io::Result<T>) -> io::ErrorKind {
    let err = result.as_ref().err();
    err.expect("the wait ends only with an error").kind()
}

/// Runs the command in the first line.
fn obey(conn: &mut TcpConnection, handle: &ServerHandle) -> Result<(), HandlerError> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 1024)?;
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["echo"] => conn.write_all(b"here")?,
        ["halt"] => handle.shutdown(),
        ["abort", id] => write!(conn, "{}", handle.abort(id.parse()?))?,
        ["wait", name, upstream, how] => {
            if how == "stop" {
                handle.shutdown();
            }
            say("waits");
            let ended = wait(name, upstream.parse()?);
            say(format!("ended {}", kind(&ended)));
            ended?;
        }
        _ => return Err(format!("unknown: {line:?}").into()),
    }
    Ok(())
}

/// The server: `--server tcp MODEL [OPTION]...`.
fn serve(model: &str, options: &[String]) -> ExitCode {
    let has = |name: &str| options.iter().any(|option| option == name);
    let mut builder = Server::<Tcp>::builder()
        .on_ready(|| say("ready"))
        .on_error(|failure| say(format!("error {}", failure.error())));
    if has("request") {
        builder = builder.request_timeout(Duration::from_millis(100));
    }
    let drain = if has("short") {
        Duration::from_millis(200)
    } else {
        DEADLINE
    };
    builder = builder.drain_timeout(drain);
    let models = Models {
        threading: Threading::default(),
        pool: ThreadPool::new(3),
        forking: Forking::default(),
        workers: 2,
        breaker: 10,
    };
    let listeners = Tcp::options().bind("127.0.0.1:0").expect("bind");
    models.run(model, Serves(builder.listen(listeners)))
}

struct Serves(Builder<Tcp>);

impl UnderModel for Serves {
    fn run<M: Model>(self, model: M) -> ExitCode {
        let server = self.0.model(model).build().expect("build a server");
        for url in server.urls() {
            say(format!("listening on {url}"));
        }
        let handle = server.handle();
        let report = server.serve_forever(move |conn: &mut TcpConnection| obey(conn, &handle));
        let report = report.expect("serve");
        // The kernel may still count a thread that was joined.
        poll_until("one thread is left", DEADLINE, || {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
            status.contains("\nThreads:\t1\n").then_some(())
        });
        say(format!("done aborted={}", report.aborted));
        ExitCode::SUCCESS
    }
}

/// Starts a server with a handler that waits, and an upstream that never answers.
fn begin(model: &str, waits: &str, how: &str, options: &[&str]) -> (ServerProcess, impl Sized) {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = upstream.local_addr().expect("bound");
    let mut server = ServerProcess::start("tcp", model, options);
    // A deadline may end handlers before they wait.
    let client = poll_until("a handler waits", DEADLINE, || {
        let client = server
            .target()
            .send(&format!("wait {waits} {address} {how}"));
        let waits = poll_until("it waits or fails", DEADLINE, || {
            let waits = server.has_said("waits");
            (waits || server.has_said("error ")).then_some(waits)
        });
        server.wait_for(if waits { "waits" } else { "error " });
        waits.then_some(client)
    });
    (server, (client, upstream))
}

/// Waits for the last lines of the handler and of its closures.
fn ends(server: &mut ServerProcess, waits: &str, reason: &str) {
    if waits == "scope" {
        for part in ["over future", "over nested", "over sleep"] {
            server.wait_for(part);
        }
    }
    let error = server.wait_for("error ");
    // A sleep unwinds, which is reported as a panic.
    let unwinds = matches!(waits, "sleep" | "scope");
    assert_eq!(error.starts_with("panicked: "), unwinds, "{error}");
    // An abort while it connects adds a prefix to the reason.
    assert!(error.ends_with(reason), "{error}");
}

/// The server serves further connections, and ends without threads.
fn goes_on(mut server: ServerProcess) {
    // A deadline may end these clients too.
    poll_until("others are served", DEADLINE, || {
        let answer = server.target().try_ask("echo");
        answer.is_ok_and(|answer| answer == "here").then_some(())
    });
    poll_until("the server stops", DEADLINE, || {
        let _ = server.target().try_ask("halt");
        server.has_said("done ").then_some(())
    });
    assert_eq!(server.wait_for("done "), "aborted=0");
    assert!(server.exit_status().success());
}

fn a_deadline_ends_it(model: &str, waits: &str) {
    let (mut server, _held) = begin(model, waits, "-", &["request"]);
    let reason = "the request took longer than the request timeout";
    ends(&mut server, waits, reason);
    goes_on(server);
}

fn the_handle_ends_it(model: &str, waits: &str) {
    let (mut server, _held) = begin(model, waits, "-", &[]);
    assert_eq!(server.target().ask("abort 1"), "true");
    let reason = "the connection was aborted through the server's handle";
    ends(&mut server, waits, reason);
    goes_on(server);
}

fn a_stop_ends_it(model: &str, waits: &str) {
    let (mut server, _held) = begin(model, waits, "stop", &["short"]);
    // Under these models the parent kills its children, which print nothing.
    if !model.ends_with("forking") {
        let reason = "the connection was aborted at the drain deadline of the server's stop";
        ends(&mut server, waits, reason);
    }
    assert_eq!(server.wait_for("done "), "aborted=1");
    assert!(server.exit_status().success());
}
