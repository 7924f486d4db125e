//! Deadlines of connections, limits, and the registry of connections, under every model.

mod support;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use support::models::NAMES;
use support::{Client, DEADLINE, ServerProcess, arguments, is_available, poll_until};

#[path = "support/server.rs"]
mod server;

type Check = fn(&str, &str);

const SCENARIOS: &[(&str, Check)] = &[
    ("first_byte", a_silent_client_is_aborted),
    (
        "first_byte_before_the_handler",
        a_silent_client_is_closed_before_a_handler_has_it,
    ),
    ("idle", a_client_that_falls_silent_is_aborted),
    ("request", a_request_that_takes_too_long_is_aborted),
    ("write", a_client_that_does_not_read_is_aborted),
    (
        "lifetime",
        a_connection_that_is_open_for_too_long_is_aborted,
    ),
    ("min_rate", a_client_that_drips_is_aborted),
    ("a_good_client_is_left_alone", a_good_client_is_left_alone),
    ("whole_request", slow_clients_hold_no_thread),
    ("part_of_a_request", slow_clients_are_aborted),
    ("list_and_aborted", connections_are_listed_and_aborted),
    ("refuse", connections_beyond_the_limit_are_refused),
    ("refuse_with", connections_beyond_the_limit_get_a_message),
    (
        "shed_parked",
        the_connection_that_is_parked_for_longest_makes_room,
    ),
    ("idle_between", the_idle_timeout_applies_between_messages),
    (
        "request_within",
        the_request_timeout_applies_to_each_message,
    ),
    ("shed_between", a_connection_between_messages_makes_room),
    ("shed_reading", a_connection_whose_handler_reads_makes_room),
    ("per_address", an_address_has_its_maximum_of_connections),
    ("per_user", a_user_has_its_maximum_of_connections),
    ("access", rules_change_in_every_process),
    ("rate_waits", connections_beyond_the_rate_wait),
    ("rate_refuses", connections_beyond_the_rate_are_refused),
    ("raised", a_raised_limit_admits_waiting_connections),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let mut trials = Vec::new();
    for transport in ["tcp", "unix", "proxied"] {
        for model in NAMES {
            for &(name, check) in SCENARIOS {
                // Only internet addresses have a limit, and only Unix sockets know users. A proxied client is judged
                // later than others, by another address than that of its proxy.
                let fits = match name {
                    "per_address" => transport != "unix",
                    "per_user" => transport == "unix",
                    "access" => true,
                    _ => transport != "proxied",
                };
                if fits {
                    let trial = Trial::test(format!("{transport}::{model}::{name}"), move || {
                        check(transport, model);
                        Ok(())
                    });
                    trials.push(trial.with_ignored_flag(!is_available(model)));
                }
            }
        }
    }
    libtest_mimic::run(&arguments(), trials).exit_code()
}

/// Reads what a client still receives, until the connection ends in any way.
fn rest(mut client: Box<dyn Client>) -> String {
    let mut answer = Vec::new();
    if let Err(err) = client.read_to_end(&mut answer) {
        // A reset is an end too: the server had not read what the client sent.
        assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset, "{err}");
    }
    String::from_utf8(answer).expect("UTF-8")
}

/// Lets the server abort a connection at this deadline, and checks the error that its handler gets.
fn is_aborted(
    transport: &str,
    model: &str,
    option: &str,
    error_text: &str,
    play: impl FnOnce(Box<dyn Client>),
) {
    let mut server = ServerProcess::start(transport, model, &[&format!("{option}=100")]);
    let start = Instant::now();
    play(server.target().connect());
    let error = server.wait_for("error ");
    let elapsed = start.elapsed();
    assert_eq!(error, format!("{error_text} panic=false"));
    assert!(
        elapsed >= Duration::from_millis(100),
        "aborted after {elapsed:?}"
    );
    poll_until("other connections are served", DEADLINE, || {
        let answer = server.target().try_ask("echo on");
        answer.is_ok_and(|answer| answer == "on").then_some(())
    });
    stop_in_time(&mut server);
    let limits = server.wait_for("limits ");
    let late = over("timed_out=", &limits);
    assert_ne!(late, 0);
    assert_eq!(
        limits,
        format!(
            "timed_out={late} over_limit=0 over_address=0 over_user=0 over_rate=0 shed=0 not_allowed=0"
        )
    );
}

/// Asks a server with a short deadline to stop until it does, and returns how often, and the line of its end: on a
/// machine that stalls, the deadline ends those who ask too.
fn stop_in_time(server: &mut ServerProcess) -> (u64, String) {
    let mut times = 0;
    poll_until("the server stops", DEADLINE, || {
        let answer = server.target().try_ask("shutdown");
        times += u64::from(answer.is_ok());
        let stops = answer.is_ok_and(|answer| answer == "ok") || server.has_said("ended ");
        stops.then_some(())
    });
    (times, server.wait_for("ended "))
}

fn a_silent_client_is_aborted(transport: &str, model: &str) {
    let error_text = "no first byte came within the first-byte timeout";
    is_aborted(transport, model, "first_byte_ms", error_text, |client| {
        assert_eq!(rest(client), "");
    });
}

fn a_silent_client_is_closed_before_a_handler_has_it(transport: &str, model: &str) {
    let options = ["first_byte_ms=100", "client_speaks_first=1"];
    let mut server = ServerProcess::start(transport, model, &options);
    let start = Instant::now();
    assert_eq!(rest(server.target().connect()), "");
    assert!(start.elapsed() >= Duration::from_millis(100));
    let (times, ended) = stop_in_time(&mut server);
    let all = 1 + times;
    assert_eq!(
        ended,
        format!("aborted=0 live=0 accepted={all} refused=0 completed={all} failed=0")
    );
}

fn a_client_that_falls_silent_is_aborted(transport: &str, model: &str) {
    let error_text = "no input came within the idle timeout";
    is_aborted(transport, model, "idle_ms", error_text, |mut client| {
        // The deadline may have passed.
        let _ = client.write_all(b"wait\n");
        assert_eq!(rest(client), "");
    });
}

fn a_request_that_takes_too_long_is_aborted(transport: &str, model: &str) {
    let error_text = "the request took longer than the request timeout";
    is_aborted(transport, model, "request_ms", error_text, |mut client| {
        // The deadline may have passed.
        let _ = client.write_all(b"wait\n");
        assert_eq!(rest(client), "");
    });
}

fn a_client_that_does_not_read_is_aborted(transport: &str, model: &str) {
    let mut kept = None;
    let error_text = "the peer took no output within the write timeout";
    is_aborted(transport, model, "write_ms", error_text, |mut client| {
        client.write_all(b"big 50000000\n").expect("send");
        kept = Some(client);
    });
}

fn a_connection_that_is_open_for_too_long_is_aborted(transport: &str, model: &str) {
    let error_text = "the connection was open for its whole lifetime";
    is_aborted(transport, model, "lifetime_ms", error_text, |mut client| {
        // The deadline may have passed.
        let _ = client.write_all(b"wait\n");
        assert_eq!(rest(client), "");
    });
}

fn a_client_that_drips_is_aborted(transport: &str, model: &str) {
    let error_text = "input came more slowly than the minimum rate";
    is_aborted(transport, model, "slow_ms", error_text, |client| {
        drip(client);
    });
}

/// Sends one byte after the other, at most 50 a second, until the server ends the connection.
fn drip(mut client: Box<dyn Client>) {
    let end = Instant::now() + DEADLINE;
    let (_keep, silence) = channel::<()>();
    while client.write_all(b"x").is_ok() {
        assert!(
            Instant::now() < end,
            "the server ends a slow client within the deadline"
        );
        let _ = silence.recv_timeout(Duration::from_millis(20));
    }
}

fn a_good_client_is_left_alone(transport: &str, model: &str) {
    let options = [
        "first_byte_ms=60000",
        "idle_ms=60000",
        "request_ms=60000",
        "write_ms=60000",
        "lifetime_ms=60000",
        "slow_ms=60000",
    ];
    let mut server = ServerProcess::start(transport, model, &options);
    for _ in 0..3 {
        assert_eq!(server.target().ask("echo on"), "on");
    }
    server.target().ask("shutdown");
    server.wait_for("ended ");
    assert_eq!(
        server.wait_for("limits "),
        "timed_out=0 over_limit=0 over_address=0 over_user=0 over_rate=0 shed=0 not_allowed=0"
    );
}

/// Clients that have sent half a request each.
fn slow_clients(server: &ServerProcess) -> Vec<Box<dyn Client>> {
    let mut slow: Vec<_> = (0..8).map(|_| server.target().connect()).collect();
    for client in &mut slow {
        client.write_all(b"echo h").expect("send");
    }
    slow
}

fn slow_clients_hold_no_thread(transport: &str, model: &str) {
    // A request may take an hour, so none is late, however busy the machine is.
    let options = ["whole=1", "request_ms=3600000", "threads=1", "workers=1"];
    let mut server = ServerProcess::start(transport, model, &options);
    let slow = slow_clients(&server);
    assert_eq!(
        server.target().ask("echo on"),
        "on",
        "slow clients hold no thread"
    );
    for mut client in slow {
        client.write_all(b"ere\necho next\n").expect("send");
        assert_eq!(rest(client), "here");
    }
    server.target().ask("shutdown");
    server.wait_for("ended ");
    assert_eq!(over("timed_out=", &server.wait_for("limits ")), 0);
}

fn slow_clients_are_aborted(transport: &str, model: &str) {
    let options = ["whole=1", "request_ms=100", "threads=1", "workers=1"];
    let mut server = ServerProcess::start(transport, model, &options);
    let start = Instant::now();
    for client in slow_clients(&server) {
        assert_eq!(rest(client), "", "it took too long");
    }
    assert!(start.elapsed() >= Duration::from_millis(100));
    stop_in_time(&mut server);
    let late = over("timed_out=", &server.wait_for("limits "));
    assert!(late >= 8, "{late}");
}

/// Whether the model serves one connection at a time, so that a client which holds it keeps all
/// others waiting.
fn serves_one(model: &str) -> bool {
    model.ends_with("sequential")
}

fn connections_are_listed_and_aborted(transport: &str, model: &str) {
    let mut server = ServerProcess::start(transport, model, &["workers=1"]);
    let parked = server.park("parked");
    // The answer comes before the connection is parked, and connections of earlier clients may
    // still be open.
    let end = Instant::now() + DEADLINE;
    let list = loop {
        let list = server.target().ask("list");
        if list.contains("parked for") && list.lines().count() == 2 {
            break list;
        }
        assert!(Instant::now() < end, "one is parked, and one asks: {list}");
    };
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].starts_with("1 "), "{list}");
    assert!(lines[0].contains("12 bytes received, 7 sent"), "{list}");
    assert!(lines[1].contains("running for"), "{list}");
    assert_eq!(
        lines[1].ends_with("worker 0"),
        model.starts_with("prefork"),
        "{list}"
    );
    assert_eq!(server.target().ask("abort 1000"), "false");
    assert_eq!(server.target().ask("abort 1"), "true");
    assert_eq!(rest(parked), "");
    if serves_one(model) {
        return;
    }
    let mut waiting = server.target().connect();
    waiting.write_all(b"wait\n").expect("send");
    let id = loop {
        assert!(Instant::now() < end, "one waits for input");
        let list = server.target().ask("list");
        let line = list.lines().find(|line| line.contains("reading for"));
        if let Some(line) = line.filter(|line| line.contains("5 bytes received")) {
            break line.split_once(' ').expect("a number").0.to_owned();
        }
    };
    assert_eq!(server.target().ask(&format!("abort {id}")), "true");
    assert_eq!(rest(waiting), "");
    assert_eq!(
        server.wait_for("error "),
        "the connection was aborted through the server's handle panic=false"
    );
}

/// Starts a server for one connection at a time, and takes its permit.
fn full(transport: &str, model: &str, policy: &str) -> (ServerProcess, Box<dyn Client>) {
    let options = ["max_connections=1", "workers=1", policy];
    let server = ServerProcess::start(transport, model, &options);
    let parked = server.park("it");
    (server, parked)
}

/// Ends the connection that has the permit, and stops the server.
fn end(mut server: ServerProcess, parked: Box<dyn Client>) -> String {
    drop(parked);
    // The permit is free once the handler has seen the end.
    let end = Instant::now() + DEADLINE;
    while rest_of(&server, "shutdown") != "ok" {
        assert!(
            Instant::now() < end,
            "the permit of a connection that has ended is free"
        );
    }
    server.wait_for("ended ");
    server.wait_for("limits ")
}

/// As `Target::ask`, but the server may have refused the connection before it was written to.
fn rest_of(server: &ServerProcess, request: &str) -> String {
    let mut client = server.target().connect();
    let _ = client.write_all(format!("{request}\n").as_bytes());
    rest(client)
}

fn connections_beyond_the_limit_are_refused(transport: &str, model: &str) {
    let (server, parked) = full(transport, model, "at_limit=1");
    for _ in 0..3 {
        assert_eq!(rest(server.target().connect()), "");
    }
    let limits = end(server, parked);
    assert!(over("over_limit=", &limits) >= 3, "{limits}");
}

/// Returns the number behind a name in a line.
fn over(name: &str, limits: &str) -> u64 {
    let (_, rest) = limits.split_once(name).expect("a count of that name");
    let number = rest.split(' ').next().unwrap_or_default();
    number.parse().expect("a number")
}

fn connections_beyond_the_limit_get_a_message(transport: &str, model: &str) {
    let (server, parked) = full(transport, model, "at_limit=2");
    for _ in 0..3 {
        assert_eq!(rest(server.target().connect()), "busy");
    }
    let limits = end(server, parked);
    assert!(over("over_limit=", &limits) >= 3, "{limits}");
}

fn the_connection_that_is_parked_for_longest_makes_room(transport: &str, model: &str) {
    if model.ends_with("forking") {
        // A parked connection stays in its child, which other processes cannot make it give up in
        // time.
        return;
    }
    let options = ["max_connections=2", "workers=1", "at_limit=3", "log=1"];
    let mut server = ServerProcess::start(transport, model, &options);
    // The answer comes before the connection is parked.
    let first = server.park("first");
    server.wait_for("event connection 1 parked");
    let second = server.park("second");
    server.wait_for("event connection 2 parked");
    assert_eq!(server.target().ask("echo in"), "in");
    assert_eq!(rest(first), "", "the first has made room");
    let mut second = second;
    second.write_all(b"echo still here\n").expect("send");
    assert_eq!(rest(second), "still here");
    server.target().ask("shutdown");
    server.wait_for("ended ");
    assert_eq!(over("shed=", &server.wait_for("limits ")), 1);
}

/// Returns a client whose handler answers messages, and has answered one.
fn talking(server: &ServerProcess) -> Box<dyn Client> {
    try_talking(server).expect("an answer")
}

fn try_talking(server: &ServerProcess) -> std::io::Result<Box<dyn Client>> {
    let mut client = server.target().connect();
    client.write_all(b"talk\nsay it\n")?;
    let mut answer = [0; 3];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"it\n");
    Ok(client)
}

/// As `talking`, where the server has a short deadline, which may end other clients before.
fn talking_in_time(server: &mut ServerProcess) -> Box<dyn Client> {
    poll_until("an answer", DEADLINE, || match try_talking(server) {
        Ok(client) => Some(client),
        Err(_) => {
            server.wait_for("error ");
            None
        }
    })
}

fn the_idle_timeout_applies_between_messages(transport: &str, model: &str) {
    // The request timeout would have passed before.
    let options = ["idle_ms=400", "request_ms=100"];
    let mut server = ServerProcess::start(transport, model, &options);
    assert_eq!(rest(talking_in_time(&mut server)), "");
    assert_eq!(
        server.wait_for("error "),
        "no input came within the idle timeout panic=false"
    );
}

fn the_request_timeout_applies_to_each_message(transport: &str, model: &str) {
    let mut server = ServerProcess::start(transport, model, &["request_ms=100"]);
    let mut client = talking_in_time(&mut server);
    let start = Instant::now();
    // The second line of the message is missing.
    client.write_all(b"more\n").expect("send");
    assert_eq!(rest(client), "");
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(100), "{elapsed:?}");
    assert_eq!(
        server.wait_for("error "),
        "the request took longer than the request timeout panic=false"
    );
}

fn a_connection_between_messages_makes_room(transport: &str, model: &str) {
    if model.ends_with("sequential") {
        // The accept loop accepts nothing while a handler waits.
        return;
    }
    let options = ["max_connections=2", "workers=1", "at_limit=3"];
    let server = ServerProcess::start(transport, model, &options);
    let first = talking(&server);
    // The answer comes before the handler waits for the next message.
    poll_until("the first one is idle", DEADLINE, || {
        let list = server.target().ask("list");
        list.contains("idle for").then_some(())
    });
    let second = talking(&server);
    assert_eq!(server.target().ask("echo in"), "in");
    assert_eq!(rest(first), "", "the first has made room");
    // The second one too, if the handler has not seen the end of the first yet.
    let shed = over("shed=", &end(server, second));
    assert!((1..=2).contains(&shed), "{shed}");
}

fn a_connection_whose_handler_reads_makes_room(transport: &str, model: &str) {
    if serves_one(model) || model.ends_with("forking") {
        return;
    }
    let options = ["max_connections=1", "workers=1", "at_limit=3"];
    let mut server = ServerProcess::start(transport, model, &options);
    let mut idle = server.target().connect();
    idle.write_all(b"wait\n").expect("send");
    assert_eq!(server.target().ask("echo in"), "in");
    assert_eq!(rest(idle), "");
    assert_eq!(
        server.wait_for("error "),
        "the server is full, and this connection was idle for longest panic=false"
    );
}

fn an_address_has_its_maximum_of_connections(transport: &str, model: &str) {
    a_peer_has_two_connections(transport, model, "per_address", "over_address=");
}

fn a_user_has_its_maximum_of_connections(transport: &str, model: &str) {
    a_peer_has_two_connections(transport, model, "per_user", "over_user=");
}

fn a_peer_has_two_connections(transport: &str, model: &str, limit: &str, count: &str) {
    let options = [&*format!("{limit}=2"), "at_limit=2"];
    let server = ServerProcess::start(transport, model, &options);
    let parked = [server.park("one"), server.park("two")];
    for _ in 0..3 {
        assert_eq!(rest(server.target().connect()), "busy");
    }
    let [one, two] = parked;
    drop(one);
    let limits = end(server, two);
    assert!(over(count, &limits) >= 3, "{limits}");
}

/// The process that serves the parked client changes the rules of all.
fn rules_change_in_every_process(transport: &str, model: &str) {
    let mut server = ServerProcess::start(transport, model, &[]);
    let mut parked = server.park("one");
    let refused = |server: &ServerProcess| {
        for _ in 0..4 {
            assert_eq!(rest(server.target().connect()), "");
        }
    };
    parked.write_all(b"reload\n").expect("send");
    server.wait_for("reloaded");
    refused(&server);
    for command in ["open", "shut", "open"] {
        let line = format!("{command}\n");
        parked.write_all(line.as_bytes()).expect("send");
        let mut answer = vec![0; line.len()];
        parked.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, line.as_bytes());
        match command {
            "shut" => refused(&server),
            _ => assert_eq!(server.target().ask("echo in"), "in"),
        }
    }
    assert!(!server.has_said("reloaded"), "one process has reloaded");
    assert_eq!(over("not_allowed=", &end(server, parked)), 8);
}

fn connections_beyond_the_rate_wait(transport: &str, model: &str) {
    let server = ServerProcess::start(transport, model, &["interval_ms=50"]);
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(server.target().ask("echo on"), "on");
    }
    // The first connection is within the rate.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(4 * 50), "{elapsed:?}");
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=6 refused=0 completed=6 failed=0"
    );
}

fn connections_beyond_the_rate_are_refused(transport: &str, model: &str) {
    let options = ["interval_ms=300000", "at_limit=2"];
    let server = ServerProcess::start(transport, model, &options);
    assert_eq!(server.target().ask("echo on"), "on");
    for _ in 0..3 {
        assert_eq!(rest(server.target().connect()), "busy");
    }
}

fn a_raised_limit_admits_waiting_connections(transport: &str, model: &str) {
    let (server, mut parked) = full(transport, model, "at_limit=0");
    let waiting = server.target().send("echo in");
    parked.write_all(b"max 2\n").expect("send");
    assert_eq!(waiting.answer(), "in");
    parked.write_all(b"echo still here\n").expect("send");
    assert_eq!(rest(parked), "still here");
}
