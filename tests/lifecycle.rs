//! Events, the states of a server, its lame duck time, and pauses, under every model.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use support::models::NAMES;
use support::{Client, Gate, Pending, ServerProcess, arguments, is_available};

#[path = "support/server.rs"]
mod server;

type Check = fn(&str);

const SCENARIOS: &[(&str, Check)] = &[
    (
        "a_connection_from_its_accept_to_its_end",
        a_connection_from_its_accept_to_its_end,
    ),
    ("a_refusal_is_an_event", a_refusal_is_an_event),
    ("the_states_of_a_stop", the_states_of_a_stop),
    ("a_lame_duck_still_serves", a_lame_duck_still_serves),
    ("a_pause_keeps_the_backlog", a_pause_keeps_the_backlog),
    (
        "a_stop_ends_with_the_last_connection",
        a_stop_ends_with_the_last_connection,
    ),
    ("a_second_stop_aborts", a_second_stop_aborts),
    (
        "workers_that_start_and_end_are_events",
        workers_that_start_and_end_are_events,
    ),
    (
        "a_line_in_the_grace_is_answered",
        a_line_in_the_grace_is_answered,
    ),
    (
        "an_idle_connection_ends_with_the_grace",
        an_idle_connection_ends_with_the_grace,
    ),
    ("a_full_server_gives_no_grace", a_full_server_gives_no_grace),
    (
        "a_message_in_the_grace_is_answered",
        a_message_in_the_grace_is_answered,
    ),
    (
        "a_handler_between_messages_ends_with_the_grace",
        a_handler_between_messages_ends_with_the_grace,
    ),
    (
        "a_handler_between_messages_gives_up_its_permit",
        a_handler_between_messages_gives_up_its_permit,
    ),
    (
        "a_backlog_at_the_deadline_is_counted",
        a_backlog_at_the_deadline_is_counted,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let mut trials = Vec::new();
    for model in NAMES {
        for &(name, check) in SCENARIOS {
            // Other models have no workers; under forking, a child of the worker ends.
            let has_workers = model.starts_with("prefork") && !model.ends_with("forking");
            if name != "workers_that_start_and_end_are_events" || has_workers {
                let trial = Trial::test(format!("{model}::{name}"), move || {
                    check(model);
                    Ok(())
                });
                trials.push(trial.with_ignored_flag(!is_available(model)));
            }
        }
    }
    libtest_mimic::run(&arguments(), trials).exit_code()
}

fn a_connection_from_its_accept_to_its_end(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &["log=1"]);
    let mut client = server.park("it");
    assert!(
        server
            .wait_for("event connection 1 from 127.0.0.1:")
            .ends_with(" accepted")
    );
    server.wait_for("event connection 1 started");
    if !model.ends_with("forking") {
        // A child waits itself, and does not park.
        server.wait_for("event connection 1 parked");
    }
    client.write_all(b"fail\n").expect("send");
    server.wait_for("event connection 1 started");
    let failure = server.wait_for("event connection 1 from 127.0.0.1:");
    assert!(failure.ends_with("failed as asked"), "{failure}");
    assert_eq!(Pending::Stream(client).answer(), "part");
    let end = server.wait_for("event connection 1 from 127.0.0.1:");
    assert!(end.contains("failed: 13 bytes received, 7 sent, "), "{end}");
    server.stop();
}

fn a_refusal_is_an_event(model: &str) {
    let options = ["log=1", "max_connections=1", "at_limit=1", "workers=1"];
    let mut server = ServerProcess::start("tcp", model, &options);
    let parked = server.park("it");
    server.wait_for("event the limit on connections is reached");
    let mut refused = server.target().connect();
    assert_eq!(refused.read_to_end(&mut Vec::new()).expect("an end"), 0);
    server.wait_for("event connection 2 from 127.0.0.1:");
    let why = server.wait_for("event connection 2 from 127.0.0.1:");
    assert!(why.ends_with("refused: too many connections"), "{why}");
    drop(parked);
}

fn the_states_of_a_stop(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &["log=1", "lame_ms=400"]);
    let parked = server.park("it");
    let start = Instant::now();
    assert_eq!(server.target().ask("shutdown"), "ok");
    server.wait_for("event asked to stop, and still accepting");
    server.wait_for("event serving the backlog");
    assert!(start.elapsed() >= Duration::from_millis(400));
    for state in ["event draining", "event closed"] {
        server.wait_for(state);
    }
    assert_eq!(Pending::Stream(parked).answer(), "", "it was closed");
    server.ended();
}

fn a_lame_duck_still_serves(model: &str) {
    // The lame duck time is an hour, which the second request for a stop ends.
    let mut server = ServerProcess::start("tcp", model, &["lame_ms=3600000"]);
    assert_eq!(server.target().ask("shutdown"), "ok");
    assert_eq!(server.target().ask("echo still here"), "still here");
    assert_eq!(server.target().ask("stopping"), "true");
    assert_eq!(server.target().ask("drain"), "");
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=4 refused=0 completed=4 failed=0"
    );
}

fn a_pause_keeps_the_backlog(model: &str) {
    let server = ServerProcess::start("tcp", model, &["workers=1"]);
    // These connections were accepted before the pause, so they can still ask.
    let [mut one, mut other, mut third] = ["one", "other", "third"].map(|text| server.park(text));
    assert_eq!(server.target().ask("pause"), "");
    // The accept loop may take one connection at that moment, but not the next.
    let first = server.target().send("echo first");
    let next = server.target().send("echo next");
    one.write_all(b"list\n").expect("send");
    let list = Pending::Stream(one).answer();
    assert!(list.starts_with("1 "), "{list}");
    // The three parked connections, and the one that asked for the pause, came before.
    let accepted = list.lines().any(|line| line.starts_with("6 "));
    assert!(!accepted, "it was not accepted: {list}");
    other.write_all(b"resume\n").expect("send");
    assert_eq!(first.answer(), "first");
    assert_eq!(next.answer(), "next");
    assert_eq!(server.target().ask("pause"), "");
    let second = server.target().send("echo second");
    third.write_all(b"shutdown\n").expect("send");
    assert_eq!(
        second.answer(),
        "second",
        "a stop serves the backlog during a pause"
    );
}

fn a_stop_ends_with_the_last_connection(model: &str) {
    // Nothing else ends it: the drain deadline is an hour away.
    let mut server = ServerProcess::start("tcp", model, &["log=1", "drain_ms=3600000"]);
    let gate = Gate::new();
    // The handler asks the server to stop, and then holds.
    let hold = gate.hold();
    let held = server.target().send(&hold.replace("hold", "outlive"));
    let at_gate = gate.wait();
    if !serves_where_it_accepts(model) {
        // The server waits for this connection only.
        server.wait_for("event draining");
    }
    assert!(!server.has_said("ended "), "the connection is still there");
    drop(at_gate);
    server.wait_for("ended ");
    assert_eq!(held.answer(), "");
}

/// Whether the accept loop stands still, and emits no state, while a handler runs.
fn serves_where_it_accepts(model: &str) -> bool {
    model.ends_with("sequential")
}

fn a_second_stop_aborts(model: &str) {
    // The first stop alone would wait for an hour.
    let mut server = ServerProcess::start("tcp", model, &["drain_ms=3600000"]);
    let _waiting = server.target().send("twice");
    let ended = server.wait_for("ended ");
    assert!(ended.starts_with("aborted=1 "), "{ended}");
}

const HOUR: &str = "3600000";

fn a_line_in_the_grace_is_answered(model: &str) {
    let grace = format!("grace_ms={HOUR}");
    let mut server = ServerProcess::start("tcp", model, &["log=1", "drain_ms=3600000", &grace]);
    let [mut one, mut other] = ["one", "other"].map(|text| server.park(text));
    assert_eq!(server.target().ask("shutdown"), "ok");
    server.wait_for("event draining");
    assert!(!server.has_said("ended "), "two are idle");
    one.write_all(b"stopping\n").expect("send");
    assert_eq!(Pending::Stream(one).answer(), "true");
    // A connection that would be parked is closed.
    other.write_all(b"keep it\n").expect("send");
    assert_eq!(Pending::Stream(other).answer(), "it\n");
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=3 refused=0 completed=3 failed=0"
    );
}

/// What ends a grace 300 ms after the stop: the grace itself, the drain, or both after a lame duck
/// time.
const GRACES: [[&str; 3]; 3] = [
    ["grace_ms=300", "drain_ms=3600000", "lame_ms=0"],
    ["grace_ms=3600000", "drain_ms=300", "lame_ms=0"],
    ["grace_ms=0", "drain_ms=3600000", "lame_ms=300"],
];

/// `stop` stops a server, sees its idle connection end, and returns when the stop began;
/// `connections` are served in all.
#[track_caller]
fn assert_ends_with_the_grace(
    model: &str,
    connections: u64,
    stop: impl Fn(&ServerProcess) -> Instant,
) {
    for options in GRACES {
        let mut server = ServerProcess::start("tcp", model, &options);
        let waited = stop(&server).elapsed();
        assert!(
            waited >= Duration::from_millis(300),
            "{options:?}: {waited:?}"
        );
        let ended = format!(
            "aborted=0 live=0 accepted={connections} refused=0 completed={connections} failed=0"
        );
        assert_eq!(server.ended(), ended, "{options:?}");
    }
}

fn an_idle_connection_ends_with_the_grace(model: &str) {
    assert_ends_with_the_grace(model, 2, |server| {
        let idle = server.park("it");
        let start = Instant::now();
        assert_eq!(server.target().ask("shutdown"), "ok");
        assert_eq!(Pending::Stream(idle).answer(), "");
        start
    });
}

fn a_full_server_gives_no_grace(model: &str) {
    let grace = format!("grace_ms={HOUR}");
    let options = ["workers=1", "max_connections=2", "drain_ms=3600000", &grace];
    let mut server = ServerProcess::start("tcp", model, &options);
    let [idle, mut busy] = ["idle", "busy"].map(|text| server.park(text));
    let waiting = server.target().send("echo served");
    let gate = Gate::new();
    let hold = gate.hold().replace("hold", "outlive");
    busy.write_all(format!("{hold}\n").as_bytes())
        .expect("send");
    let at_gate = gate.wait();
    if serves_where_it_accepts(model) {
        // The server accepts nothing meanwhile, and has room afterwards.
        drop(at_gate);
        assert_eq!(waiting.answer(), "served");
        drop(idle);
    } else {
        assert_eq!(Pending::Stream(idle).answer(), "", "it made room");
        assert_eq!(waiting.answer(), "served");
        drop(at_gate);
    }
    assert_eq!(Pending::Stream(busy).answer(), "");
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=3 refused=0 completed=3 failed=0"
    );
}

/// Returns a client whose handler answers messages, and has answered one.
fn talk(server: &ServerProcess) -> BufReader<Box<dyn Client>> {
    let mut client = BufReader::new(server.target().connect());
    client.get_mut().write_all(b"talk\n").expect("send");
    say(&mut client, "say it", "it");
    client
}

fn say(client: &mut BufReader<Box<dyn Client>>, message: &str, answer: &str) {
    let message = format!("{message}\n");
    client
        .get_mut()
        .write_all(message.as_bytes())
        .expect("send");
    let mut line = String::new();
    client.read_line(&mut line).expect("an answer");
    assert_eq!(line.trim_end(), answer);
}

/// Waits for the end of the stream.
fn ends(mut client: BufReader<Box<dyn Client>>) {
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "");
}

fn a_message_in_the_grace_is_answered(model: &str) {
    let grace = format!("grace_ms={HOUR}");
    let mut server = ServerProcess::start("tcp", model, &["drain_ms=3600000", &grace]);
    let mut client = talk(&server);
    say(&mut client, "stopping", "false");
    // This message began before the stop.
    say(&mut client, "halt", "ok");
    say(&mut client, "stopping", "true");
    ends(client);
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=1 refused=0 completed=1 failed=0"
    );
}

fn a_handler_between_messages_ends_with_the_grace(model: &str) {
    assert_ends_with_the_grace(model, 1, |server| {
        let mut client = talk(server);
        let start = Instant::now();
        say(&mut client, "halt", "ok");
        ends(client);
        start
    });
}

fn a_handler_between_messages_gives_up_its_permit(model: &str) {
    if model.contains("coroutines") {
        // A coroutine does not keep other connections waiting.
        return;
    }
    let grace = format!("grace_ms={HOUR}");
    let one = ["workers=1", "max_threads=1", "threads=1", "max_children=1"];
    let options = [&one[..], &["queue=1", "drain_ms=3600000", &grace]].concat();
    let mut server = ServerProcess::start("tcp", model, &options);
    let mut client = talk(&server);
    // One connection may wait in the queue of a pool, the others in the backlog.
    let waiting = ["one", "other"].map(|text| server.target().send(&format!("echo {text}")));
    say(&mut client, "halt", "ok");
    ends(client);
    assert_eq!(waiting.map(Pending::answer), ["one", "other"]);
    assert_eq!(
        server.ended(),
        "aborted=0 live=0 accepted=3 refused=0 completed=3 failed=0"
    );
}

fn a_backlog_at_the_deadline_is_counted(model: &str) {
    let options = ["workers=1", "max_connections=1", "drain_ms=300"];
    let mut server = ServerProcess::start("tcp", model, &options);
    let mut first = server.park("it");
    let _waiting = ["one", "other"].map(|text| server.target().send(&format!("echo {text}")));
    first.write_all(b"outlive\n").expect("send");
    assert_eq!(
        server.ended(),
        "aborted=3 live=0 accepted=3 refused=0 completed=0 failed=3"
    );
}

fn workers_that_start_and_end_are_events(model: &str) {
    let mut server = ServerProcess::start("tcp", model, &["log=1", "workers=1"]);
    let worker = server.target().ask("pid");
    let _doomed = server.target().send("crash");
    let ended = server.wait_for("event worker 0, process ");
    assert_eq!(ended, format!("{worker}, ended with signal 6"));
    let next = server.wait_for("event worker 0 started as process ");
    assert_eq!(server.target().ask("pid"), next);
}
