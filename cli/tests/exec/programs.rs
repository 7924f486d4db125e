//! What a program gets: descriptors, signals, variables, limits.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use crate::support::{Client, Server, command, command_after};
use crate::{LOCAL, MODELS, exec, line, pids, starters};

/// Prints the variables, the descriptors with their flags, the signals, and what else a program inherits.
const PROBE: &str = r#"
tr '\0' '\n' </proc/$$/environ
echo
ls -l /proc/$$/fd
echo
grep flags /proc/$$/fdinfo/0 /proc/$$/fdinfo/1
grep '^Sig[BIC]' /proc/self/status
echo nofile $(ulimit -n) group $(cut -d' ' -f5 /proc/$$/stat) session $(cut -d' ' -f6 /proc/$$/stat) pid $$
"#;

/// What the probe has printed, by paragraph.
struct Probed {
    variables: BTreeMap<String, String>,
    descriptors: Vec<String>,
    rest: Vec<String>,
}

fn probe(server: &Server) -> Probed {
    let mut client = Client::connect(&server.urls[0]);
    let text = String::from_utf8(client.receive(1 << 20)).expect("text");
    let mut parts = text.splitn(3, "\n\n");
    let mut part = || -> Vec<String> {
        let part = parts.next().expect("a paragraph");
        part.lines().map(str::to_owned).collect()
    };
    let variables = part();
    let pairs = variables
        .iter()
        .map(|line| line.split_once('=').expect("a variable"));
    Probed {
        variables: pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        descriptors: part(),
        rest: part(),
    }
}

/// The command, started with signals ignored, a descriptor, few descriptors, and variables that are not for programs.
fn spoiled(options: &str) -> Command {
    let words = format!("exec {options}");
    let shell = "trap '' HUP USR1 PIPE; exec 7</dev/null; ulimit -Sn 300";
    let mut command = command_after(shell, &words, &[LOCAL]);
    command.args(["--", "/bin/sh", "-c", PROBE]);
    for name in [
        "LISTEN_PIDFDID",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "TCPREMOTEHOST",
        "REMOTE_HOST",
        "UNIXREMOTEPATH",
    ] {
        command.env(name, "1");
    }
    command.env("KEPT", "yes");
    command
}

#[test]
fn a_program_gets_what_is_documented_and_nothing_else() {
    for model in MODELS {
        let server = Server::start(spoiled(&format!("--model {model}")), 1);
        if model.contains("coroutines") {
            server.process.next_line();
        }
        let Probed {
            mut variables,
            descriptors,
            rest,
        } = probe(&server);

        let pid = variables.remove("LISTEN_PID").expect("LISTEN_PID");
        assert_eq!(
            rest.last().unwrap(),
            &format!("nofile 300 group {pid} session {pid} pid {pid}"),
            "{model}"
        );
        let port = server.urls[0].rsplit_once(':').unwrap().1;
        let client_port = variables.remove("TCPREMOTEPORT").expect("TCPREMOTEPORT");
        assert_ne!(client_port, port, "{model}");
        for (name, value) in [
            ("KEPT", "yes"),
            ("PROTO", "TCP"),
            ("TCPLOCALIP", "127.0.0.1"),
            ("TCPLOCALPORT", port),
            ("TCPREMOTEIP", "127.0.0.1"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_PORT", &*client_port),
            ("LISTEN_FDS", "1"),
            ("LISTEN_FDNAMES", "connection"),
            ("SOCKETSERVER_CONNECTION", "1"),
        ] {
            assert_eq!(
                variables.remove(name).as_deref(),
                Some(value),
                "{model} {name}"
            );
        }
        let mark = variables.remove("SOCKETSERVER_PROGRAM");
        assert!(mark.unwrap().len() > 5, "{model}: programs guess it");
        // A shell sets it, in which the server was started.
        variables.remove("PWD");
        // What is left is the environment of this test.
        for (name, value) in variables {
            assert_eq!(std::env::var(&name).ok(), Some(value), "{model} {name}");
        }

        let links = descriptors
            .iter()
            .filter_map(|line| line.rsplit_once(" -> "));
        let names: Vec<_> = links
            .map(|(from, to)| (from.rsplit_once(' ').unwrap().1, to))
            .collect();
        let numbers: Vec<_> = names.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, ["0", "1", "2", "3"], "{model}: {descriptors:?}");
        assert!(
            names[0].1.starts_with("socket:"),
            "{model}: {descriptors:?}"
        );
        assert_eq!([names[1].1, names[3].1], [names[0].1; 2], "{model}");
        assert!(names[2].1.starts_with("pipe:"), "{model}: {descriptors:?}");

        let [input, output, blocked, ignored, _caught, _] = &rest[..] else {
            panic!("{model}: {rest:?}");
        };
        for flags in [input, output] {
            let flags = flags.rsplit_once('\t').unwrap().1;
            let flags = i32::from_str_radix(flags, 8).unwrap();
            assert_eq!(flags & libc::O_NONBLOCK, 0, "{model}: {flags:o}");
        }
        for set in [blocked, ignored] {
            assert!(set.ends_with("\t0000000000000000"), "{model}: {set}");
        }
        server.stop();
    }
}

#[test]
fn a_program_that_is_no_shell_has_no_blocked_signal() {
    for model in MODELS {
        let mut command = command(&format!("exec --model {model}"), &[LOCAL]);
        command.args(["--", "grep", "^Sig[BI]", "/proc/self/status"]);
        let server = Server::start(command, 1);
        let answer = Client::connect(&server.urls[0]).receive(100);
        let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
        assert_eq!(String::from_utf8_lossy(&answer), none, "{model}");
        drop(server);
    }
}

#[test]
fn variables_of_the_command_line_replace_those_of_the_server() {
    let mut command = crate::command_of(
        "--env-clear --env PATH --env A=b=c --env NONE_SUCH --env PROTO=x",
        &[LOCAL],
        PROBE,
    );
    command.env("SECRET", "1");
    let server = Server::start(command, 1);
    let mut variables = probe(&server).variables;
    assert_eq!(variables.remove("A").as_deref(), Some("b=c"));
    assert_eq!(variables.remove("PATH"), std::env::var("PATH").ok());
    // The variables of the connection are the connection's.
    assert_eq!(variables.remove("PROTO").as_deref(), Some("TCP"));
    let is_ours = |name: &String| {
        ["TCP", "REMOTE_", "LISTEN_", "SOCKETSERVER_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let other: Vec<_> = variables.keys().filter(|name| !is_ours(name)).collect();
    assert_eq!(other, Vec::<&String>::new());
    server.stop();
}

#[test]
fn the_standard_error_goes_to_the_log_with_the_number_of_the_connection() {
    let server = exec(
        "",
        r#"printf 'one\ntw\033o\n' >&2; echo out; printf 'no end' >&2"#,
    );
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(client.receive(100), b"out\n");
    for text in ["one", "tw\\u{1b}o", "no end"] {
        let line = format!("socketserver: connection 1, standard error: {text}");
        assert_eq!(server.process.next_line(), line);
    }
    server.stop();
}

#[test]
fn a_flood_of_lines_is_bounded_and_counted() {
    let server = exec(
        "",
        r#"
        long=$(head -c 10000 /dev/zero | tr '\0' x)
        echo "$long" >&2
        i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done; echo done"#,
    );
    let mut client = Client::connect(&server.urls[0]);
    // The program is not kept from its work.
    assert_eq!(line(&mut client), "done");
    drop(client);
    let long = server.process.next_line();
    assert!(
        long.ends_with("xxx [cut]") && long.len() < 4096,
        "{}",
        long.len()
    );
    let (mut lines, mut dropped) = (0, 0);
    while lines + dropped < 5000 {
        let line = server.process.next_line();
        let (_, text) = line
            .split_once("standard error: ")
            .unwrap_or_else(|| panic!("{line}"));
        match text.strip_prefix("line ") {
            Some(_) => lines += 1,
            None => {
                let count = text.split(' ').next().unwrap();
                dropped += count.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
            }
        }
    }
    assert_eq!(lines + dropped, 5000);
    // All of them would take a minute.
    assert!(
        lines >= 99 && dropped > 0,
        "{lines} lines, {dropped} dropped"
    );
    server.stop();
}

#[test]
fn what_is_left_in_the_pipe_at_the_end_is_counted() {
    // The last lines are written after a second's bytes, and before the next second.
    let server = exec("", "yes 1234567 | head -c 1088576 >&2; echo done");
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(line(&mut client), "done");
    let mut count = 0;
    while count < 136_072 {
        let line = server.process.next_line();
        let (_, text) = line
            .split_once("standard error: ")
            .expect("a line of the program");
        let dropped = text.split_once(' ').map_or("1", |(number, _)| number);
        count += dropped.parse::<u64>().expect("a number");
    }
    assert_eq!(count, 136_072);
    server.stop();
}

#[test]
fn exits_are_events_with_status_signal_and_usage() {
    let server = exec(
        "--log",
        "read x; case $x in status) exit 7;; *) kill -USR1 $$;; esac",
    );
    for (text, how) in [("status", "exit status 7"), ("signal", "signal 10")] {
        let mut client = Client::connect(&server.urls[0]);
        client.send(format!("{text}\n").as_bytes());
        assert_eq!(client.receive(1), b"");
        let started = crate::await_line(&server.process, ": program ");
        assert!(started.ends_with(" starts"), "{started}");
        let ended = crate::await_line(&server.process, ": program ended: ");
        let (_, usage) = ended.split_once(": program ended: ").unwrap();
        let words: Vec<_> = usage.split(", ").collect();
        assert_eq!(words[0], how);
        assert!(
            words[1].starts_with("user 0.") && words[1].ends_with(" s"),
            "{ended}"
        );
        assert!(
            words[2].starts_with("system 0.") && words[2].ends_with(" s"),
            "{ended}"
        );
        let memory = words[3]
            .strip_prefix("memory ")
            .and_then(|rest| rest.strip_suffix(" KiB"));
        assert!(memory.unwrap().parse::<u64>().unwrap() > 100, "{ended}");
    }
    drop(server);
}

#[test]
fn the_end_of_a_connection_by_the_server_is_an_event() {
    for model in ["threading", "coroutines"] {
        let options = format!("--log --lifetime 0.3 --model {model}");
        let server = exec(&options, "echo $$; echo words >&2; exec sleep 1000");
        let (_client, program) = crate::started(&server);
        let signal = format!("program {} gets SIGTERM: ", program[0]);
        let line = crate::await_line(&server.process, &signal);
        assert!(
            line.ends_with("the server has ended its connection"),
            "{line}"
        );
    }
}

#[test]
fn failures_of_programs_are_at_most_a_line_a_second() {
    let start = Instant::now();
    let server = exec("", "exit 5");
    for _ in 0..20 {
        assert_eq!(Client::connect(&server.urls[0]).receive(1), b"");
    }
    let first = server.process.next_line();
    assert!(first.contains("/bin/sh ended: exit status 5"), "{first}");
    let more = server.process.lines();
    let most = start.elapsed().as_secs();
    assert!(more.len() as u64 <= most, "{more:?}");
    drop(server);
}

#[test]
fn starters_start_programs_in_turn() {
    for model in MODELS {
        let server = exec(&format!("--model {model}"), "echo $PPID");
        let count = starters(model);
        let next = || pids(&mut Client::connect(&server.urls[0]))[0];
        let parents: Vec<_> = (0..2 * count).map(|_| next()).collect();
        let (first, second) = parents.split_at(count);
        assert_eq!(first, second, "{model}");
        assert_eq!(BTreeSet::from_iter(first).len(), count, "{model}");
        server.stop();
    }
}
