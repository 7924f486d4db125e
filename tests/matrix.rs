//! Every transport under every model: one check for each scenario, and each cell is a test of its
//! own.
//!
//! Each server runs in a process of its own (see `support`), because forking models need a
//! single-threaded process. A new transport or model is one line in its table.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::ExitCode;

use libtest_mimic::Trial;
use support::{DEADLINE, Gate, ServerProcess, arguments, poll_until};

#[path = "support/server.rs"]
mod server;

/// `counted` is the wrapping transport of `examples/counting.rs`.
const TRANSPORTS: &[&str] = &[
    "tcp",
    "udp",
    "unix",
    "unixgram",
    "seqpacket",
    "counted",
    "proxied",
    "proxied_udp",
    #[cfg(feature = "tls")]
    "tls",
    #[cfg(feature = "tls")]
    "tls_unix",
    #[cfg(feature = "tls")]
    "tls_proxied",
];

/// A model, how many of its handlers run at once in a test server, and whether they share memory.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    at_once: usize,
    shares_memory: bool,
}

const MODELS: &[Model] = &[
    Model {
        name: "sequential",
        at_once: 1,
        shares_memory: true,
    },
    Model {
        name: "threading",
        at_once: 3,
        shares_memory: true,
    },
    Model {
        name: "pool",
        at_once: 3,
        shares_memory: true,
    },
    Model {
        name: "forking",
        at_once: 3,
        shares_memory: false,
    },
    Model {
        name: "prefork_sequential",
        at_once: 2,
        shares_memory: false,
    },
    Model {
        name: "prefork_threading",
        at_once: 3,
        shares_memory: false,
    },
    Model {
        name: "prefork_pool",
        at_once: 3,
        shares_memory: false,
    },
    Model {
        name: "prefork_forking",
        at_once: 3,
        shares_memory: false,
    },
    #[cfg(feature = "coroutines")]
    Model {
        name: "coroutines_epoll",
        at_once: 3,
        shares_memory: true,
    },
    #[cfg(feature = "coroutines")]
    Model {
        name: "coroutines_uring",
        at_once: 3,
        shares_memory: true,
    },
    #[cfg(feature = "coroutines")]
    Model {
        name: "prefork_coroutines_epoll",
        at_once: 3,
        shares_memory: false,
    },
    #[cfg(feature = "coroutines")]
    Model {
        name: "prefork_coroutines_uring",
        at_once: 3,
        shares_memory: false,
    },
];

type Check = fn(&str, Model);

const SCENARIOS: [(&str, Check); 14] = [
    ("serves_three_clients_in_turn", serves_three_clients_in_turn),
    (
        "the_model_decides_how_many_handlers_run_at_once",
        the_model_decides_how_many_handlers_run_at_once,
    ),
    (
        "the_model_decides_whether_state_is_shared",
        the_model_decides_whether_state_is_shared,
    ),
    (
        "a_failing_handler_ends_only_its_own_connection",
        a_failing_handler_ends_only_its_own_connection,
    ),
    (
        "a_panicking_handler_ends_only_its_own_connection",
        a_panicking_handler_ends_only_its_own_connection,
    ),
    ("no_descriptor_is_left", no_descriptor_is_left),
    (
        "a_foreign_child_is_left_alone",
        a_foreign_child_is_left_alone,
    ),
    (
        "verify_refuses_a_connection_or_datagram",
        verify_refuses_a_connection_or_datagram,
    ),
    ("ids_are_unique_and_ascend", ids_are_unique_and_ascend),
    (
        "a_handler_can_stop_the_server_by_its_value",
        a_handler_can_stop_the_server_by_its_value,
    ),
    (
        "a_stop_waits_for_handlers_that_run",
        a_stop_waits_for_handlers_that_run,
    ),
    ("a_stop_serves_the_backlog", a_stop_serves_the_backlog),
    (
        "the_deadline_aborts_the_remaining_connections",
        the_deadline_aborts_the_remaining_connections,
    ),
    ("the_limit_holds_and_waits", the_limit_holds_and_waits),
];

/// Scenarios for connections only.
const STREAM_SCENARIOS: [(&str, Check); 6] = [
    (
        "a_reply_survives_unread_input",
        a_reply_survives_unread_input,
    ),
    ("a_client_may_half_close", a_client_may_half_close),
    (
        "a_parked_connection_holds_no_thread_and_wakes",
        a_parked_connection_holds_no_thread_and_wakes,
    ),
    (
        "a_silent_client_that_speaks_first_holds_no_thread",
        a_silent_client_that_speaks_first_holds_no_thread,
    ),
    (
        "a_stop_closes_parked_connections",
        a_stop_closes_parked_connections,
    ),
    (
        "a_parked_connection_has_an_idle_timeout",
        a_parked_connection_has_an_idle_timeout,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let mut trials = Vec::new();
    for &transport in TRANSPORTS {
        for &model in MODELS {
            let streams = if matches!(transport, "udp" | "proxied_udp" | "unixgram") {
                &[]
            } else {
                &STREAM_SCENARIOS[..]
            };
            let available = support::is_available(model.name);
            for &(name, check) in SCENARIOS.iter().chain(streams) {
                let name = format!("{transport}::{}::{name}", model.name);
                let trial = Trial::test(name, move || {
                    check(transport, model);
                    Ok(())
                });
                trials.push(trial.with_ignored_flag(!available));
            }
        }
    }
    libtest_mimic::run(&arguments(), trials).exit_code()
}

fn serves_three_clients_in_turn(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    for message in ["one", "two", "three"] {
        assert_eq!(server.target().ask(&format!("echo {message}")), message);
    }
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=4 refused=0 completed=4 failed=0"
    );
}

fn the_model_decides_how_many_handlers_run_at_once(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    let gate = Gate::new();
    let pending: Vec<_> = (0..3).map(|_| server.target().send(&gate.hold())).collect();
    let mut held: Vec<_> = (0..model.at_once).map(|_| gate.wait()).collect();
    if model.at_once == 1 {
        // The only thread holds: no other handler can be at the gate before it is released.
        assert!(!gate.is_waiting());
    }
    for _ in model.at_once..3 {
        held.remove(0);
        held.push(gate.wait());
    }
    drop(held);
    for answer in pending {
        assert_eq!(answer.answer(), "held, stopping false");
    }
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=4 refused=0 completed=4 failed=0"
    );
}

fn the_model_decides_whether_state_is_shared(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &["workers=1"]);
    let counts: Vec<_> = (0..3).map(|_| server.target().ask("count")).collect();
    let each_alone = model.name.ends_with("forking");
    assert_eq!(
        counts,
        if each_alone {
            ["1", "1", "1"]
        } else {
            ["1", "2", "3"]
        }
    );
    let own = server.pid().to_string();
    assert_eq!(server.target().ask("pid") == own, model.shares_memory);
}

fn a_failing_handler_ends_only_its_own_connection(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &[]);
    assert_eq!(server.target().ask("fail"), "part");
    assert_eq!(server.wait_for("error "), "failed as asked panic=false");
    assert_eq!(server.target().ask("echo on"), "on");
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=3 refused=0 completed=2 failed=1"
    );
}

fn a_panicking_handler_ends_only_its_own_connection(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &[]);
    assert_eq!(server.target().ask("panic"), "part");
    assert_eq!(
        server.wait_for("error "),
        "panicked: panicked as asked panic=true"
    );
    assert_eq!(server.target().ask("echo on"), "on");
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=3 refused=0 completed=2 failed=1"
    );
}

fn no_descriptor_is_left(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &["workers=1"]);
    // The server creates some descriptors once, for the first few connections.
    for _ in 0..3 {
        assert_eq!(server.target().ask("echo warm"), "warm");
    }
    let before = descriptors(server.pid());
    for _ in 0..20 {
        assert_eq!(server.target().ask("echo on"), "on");
    }
    // The client sees the end of a connection a little before the server has closed it.
    let what = format!("no more than {before} descriptors");
    poll_until(&what, DEADLINE, || {
        (descriptors(server.pid()) <= before).then_some(())
    });
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=24 refused=0 completed=24 failed=0"
    );
}

fn a_foreign_child_is_left_alone(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &["foreign=72"]);
    for _ in 0..3 {
        assert_eq!(server.target().ask("echo on"), "on");
    }
    assert_eq!(server.target().ask("shutdown"), "ok");
    assert_eq!(server.wait_for("foreign "), "exit status: 72");
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=4 refused=0 completed=4 failed=0"
    );
}

/// Counts the open descriptors of a process and its children.
fn descriptors(pid: u32) -> usize {
    let own = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    own + children.map(descriptors).sum::<usize>()
}

fn verify_refuses_a_connection_or_datagram(transport: &str, model: Model) {
    // One worker: two workers could number two datagrams in either order.
    let server = ServerProcess::start(transport, model.name, &["refuse_id=1", "workers=1"]);
    if server.target().is_stream() {
        let mut reply = Vec::new();
        let mut client = server.target().connect();
        // A proxied client is refused once it has sent its header.
        client.end_of_input();
        client
            .read_to_end(&mut reply)
            .expect("an end that is no reset");
        assert_eq!(reply, b"");
    } else {
        // A test cannot wait for a missing answer; the totals show that the datagram was not
        // served.
        let _refused = server.target().send("echo first");
    }
    assert_eq!(server.target().ask("echo second"), "second");
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=3 refused=1 completed=2 failed=0"
    );
}

fn ids_are_unique_and_ascend(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    let ids: Vec<_> = (0..4).map(|_| server.target().ask("id")).collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
}

fn a_handler_can_stop_the_server_by_its_value(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &[]);
    assert_eq!(server.target().ask("stop"), "ok");
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=1 refused=0 completed=1 failed=0"
    );
}

fn a_stop_waits_for_handlers_that_run(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &[]);
    let gate = Gate::new();
    let pending = server.target().send(&gate.hold());
    let held = gate.wait();
    // If one handler keeps other connections waiting, the stop comes next in the backlog.
    let stop = server.target().send("shutdown");
    if model.at_once > 1 {
        assert_eq!(stop.answer(), "ok");
        drop(held);
        assert_eq!(pending.answer(), "held, stopping true");
    } else {
        drop(held);
        assert_eq!(pending.answer(), "held, stopping false");
        assert_eq!(stop.answer(), "ok");
    }
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=2 refused=0 completed=2 failed=0"
    );
}

fn a_stop_serves_the_backlog(transport: &str, model: Model) {
    // One process, with one thread or child: other connections wait in the backlog.
    let options = [
        "workers=1",
        "max_threads=1",
        "threads=1",
        "queue=0",
        "max_children=1",
        "max_connections=1",
    ];
    let mut server = ServerProcess::start(transport, model.name, &options);
    let gate = Gate::new();
    let first = server.target().send(&gate.hold());
    let held = gate.wait();
    let stop = server.target().send("stop");
    let queued: Vec<_> = (0..3)
        .map(|number| server.target().send(&format!("echo {number}")))
        .collect();
    drop(held);
    assert_eq!(first.answer(), "held, stopping false");
    assert_eq!(stop.answer(), "ok");
    for (number, queued) in queued.into_iter().enumerate() {
        assert_eq!(queued.answer(), number.to_string());
    }
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=5 refused=0 completed=5 failed=0"
    );
}

fn the_deadline_aborts_the_remaining_connections(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &["drain_ms=50"]);
    if server.target().is_stream() {
        let mut client = server.target().connect();
        client.write_all(b"outlive\n").expect("send");
        assert!(server.wait_for("ended ").starts_with("aborted=1 "));
        let mut reply = Vec::new();
        client
            .read_to_end(&mut reply)
            .expect("an end that is no reset");
        assert_eq!(reply, b"");
    } else {
        // Only the end of its process ends a handler that waits for something other than its peer.
        let gate = Gate::new();
        let _pending = server
            .target()
            .send(&gate.hold().replace("hold", "outlive"));
        let held = gate.wait();
        if model.name == "sequential" {
            drop(held);
            assert!(server.wait_for("ended ").starts_with("aborted=0 "));
        } else {
            assert!(server.wait_for("ended ").starts_with("aborted=1 "));
        }
    }
    assert!(server.exit_status().success());
}

fn the_limit_holds_and_waits(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &["max_connections=1"]);
    let gate = Gate::new();
    let first = server.target().send(&gate.hold());
    let held = gate.wait();
    let second = server.target().send("live");
    assert!(!gate.is_waiting());
    drop(held);
    assert_eq!(first.answer(), "held, stopping false");
    assert_eq!(
        second.answer(),
        "1",
        "the limit counts connections in all processes"
    );
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=3 refused=0 completed=3 failed=0"
    );
}

fn a_reply_survives_unread_input(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    let mut client = server.target().connect();
    // More than the handler reads.
    let mut request = b"big 600000\n".to_vec();
    request.resize(20_000, b'u');
    client.write_all(&request).expect("send");
    let mut reply = Vec::new();
    client
        .read_to_end(&mut reply)
        .expect("the whole reply, and an end that is no reset");
    assert_eq!(reply.len(), 600_000);
}

fn a_client_may_half_close(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    let mut client = server.target().connect();
    client.write_all(b"wait\n").expect("send");
    client.end_of_input();
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("read to the end");
    assert_eq!(reply, "ended");
}

/// Reads one line of a parked connection.
fn line(client: &mut Box<dyn support::Client>) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("a line");
        line.push(byte[0]);
    }
    String::from_utf8(line)
        .expect("UTF-8")
        .trim_end()
        .to_owned()
}

fn a_parked_connection_holds_no_thread_and_wakes(transport: &str, model: Model) {
    // If a parked connection held a thread, it would hold the only one.
    let mut options = vec!["workers=1", "max_threads=1", "threads=1", "queue=0"];
    if model.name.ends_with("forking") {
        options.push("max_children=2");
    }
    let server = ServerProcess::start(transport, model.name, &options);
    let mut kept = server.target().connect();
    for round in 0..3 {
        kept.write_all(format!("keep {round}\n").as_bytes())
            .expect("send");
        assert_eq!(line(&mut kept), round.to_string());
        assert_eq!(server.target().ask("echo other"), "other");
    }
    // Input that arrived together with a line is buffered, and served at once.
    kept.write_all(b"keep a\nkeep b\nkeep c\n").expect("send");
    assert_eq!(
        [line(&mut kept), line(&mut kept), line(&mut kept)],
        ["a", "b", "c"]
    );
    kept.write_all(b"id\n").expect("send");
    assert_eq!(
        support::Pending::Stream(kept).answer(),
        "1",
        "it is still the first connection"
    );
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=5 refused=0 completed=5 failed=0"
    );
}

fn a_silent_client_that_speaks_first_holds_no_thread(transport: &str, model: Model) {
    let options = [
        "client_speaks_first=1",
        "workers=1",
        "max_threads=1",
        "threads=1",
        "queue=0",
        "max_children=1",
    ];
    let server = ServerProcess::start(transport, model.name, &options);
    // The server accepts this one before the others, which share its backlog. Each would take the
    // only permit.
    let mut silent: Vec<_> = (0..3).map(|_| server.target().connect()).collect();
    assert_eq!(server.target().ask("echo other"), "other");
    let mut last = silent.remove(1);
    last.write_all(b"echo at last\n").expect("send");
    assert_eq!(support::Pending::Stream(last).answer(), "at last");
    // Silent connections are closed by the stop.
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=5 refused=0 completed=5 failed=0"
    );
    for mut client in silent {
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    }
}

fn a_stop_closes_parked_connections(transport: &str, model: Model) {
    let server = ServerProcess::start(transport, model.name, &[]);
    let mut kept = server.target().connect();
    kept.write_all(b"keep it\n").expect("send");
    assert_eq!(line(&mut kept), "it");
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=2 refused=0 completed=2 failed=0"
    );
    assert_eq!(support::Pending::Stream(kept).answer(), "");
}

fn a_parked_connection_has_an_idle_timeout(transport: &str, model: Model) {
    let mut server = ServerProcess::start(transport, model.name, &["idle_ms=100"]);
    // A client that a busy machine holds up is silent for too long, and begins anew.
    let kept = poll_until("a client that is fast enough", DEADLINE, || {
        let mut kept = server.target().connect_within(DEADLINE).ok()?;
        for round in ["one", "two"] {
            kept.write_all(format!("keep {round}\n").as_bytes()).ok()?;
            let mut answer = vec![0; round.len() + 1];
            kept.read_exact(&mut answer).ok()?;
            assert_eq!(answer, format!("{round}\n").as_bytes());
        }
        Some(kept)
    });
    assert_eq!(
        support::Pending::Stream(kept).answer(),
        "",
        "the server has ended it"
    );
    poll_until("a stop", DEADLINE, || {
        let answer = server.target().try_ask("shutdown").ok();
        answer.filter(|answer| answer == "ok")
    });
    let report = server.ended();
    assert!(report.starts_with("aborted=0 live=0 "), "{report}");
}
