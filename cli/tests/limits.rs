//! The options for limits and deadlines, on the real binary.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::{DEADLINE, Process, command, command_after, poll_until};

const URL: &str = "tcp://127.0.0.1:0";

fn serve(words: &str) -> (Process, String) {
    let process = Process::start(command(words, &[URL]));
    let url = process.next_url();
    let address = url
        .strip_prefix("tcp://")
        .expect("a TCP listener")
        .to_owned();
    (process, address)
}

fn connect(address: &str) -> TcpStream {
    let client = TcpStream::connect(address).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

/// A connection that is being served.
fn served(address: &str) -> TcpStream {
    let mut client = connect(address);
    client.write_all(b"x").expect("send");
    client.read_exact(&mut [0]).expect("an echo");
    client
}

fn rest(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an end");
    text
}

#[test]
fn a_silent_client_is_aborted_and_the_log_says_so() {
    let (process, address) = serve("serve echo --first-byte-timeout 0.1 --log");
    assert_eq!(process.next_line(), "socketserver: running");
    let start = Instant::now();
    assert_eq!(rest(connect(&address)), "");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(process.next_line().ends_with("accepted"));
    assert_eq!(process.next_line(), "socketserver: connection 1 started");
    // No failure is said: clients like this one could fill a disk.
    let end = process.next_line();
    assert!(end.contains("was aborted (no first byte"), "{end}");
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    let words = r"serve echo --max-per-address 2 --at-limit refuse:busy\n";
    let (mut process, address) = serve(words);
    let clients = [served(&address), served(&address)];
    assert_eq!(rest(connect(&address)), "busy\n");
    drop(clients);
    process.signal(Signal::TERM);
    process.stopped();
}

#[test]
fn those_that_come_too_fast_are_refused() {
    let (_process, address) = serve("serve echo --rate 1 --rate-burst 2 --at-limit refuse:slowly");
    let _clients = [served(&address), served(&address)];
    // A second may have passed on a busy machine, and let one more in: sooner or later one is too fast.
    poll_until("one is refused", DEADLINE, || {
        let client = connect(&address);
        // A server that has refused it may have closed it already.
        let _ = client.shutdown(Shutdown::Write);
        let answer = rest(client);
        assert!(["", "slowly"].contains(&&*answer), "{answer:?}");
        (answer == "slowly").then_some(())
    });
}

#[test]
fn a_lame_duck_still_serves() {
    // For an hour, unless a second signal comes.
    let (mut process, address) = serve("serve echo --lame-duck 3600 --log");
    assert_eq!(process.next_line(), "socketserver: running");
    process.signal(Signal::TERM);
    assert_eq!(
        process.next_line(),
        "socketserver: asked to stop, and still accepting"
    );
    drop(served(&address));
    process.signal(Signal::TERM);
    let exit = process.exit();
    assert!(
        exit.stderr.contains(&"socketserver: closed".to_owned()),
        "{exit:?}"
    );
}

#[test]
fn more_connections_than_forking_has_children_by_default_are_served() {
    let (mut process, address) = serve("serve echo --model forking --max-connections 42");
    let clients: Vec<_> = (0..42).map(|_| served(&address)).collect();
    process.signal(Signal::TERM);
    drop(clients);
    process.stopped();
}

#[test]
fn a_lame_duck_ends_by_itself() {
    let (mut process, _) = serve("serve echo --lame-duck 0.1 --log");
    assert_eq!(process.next_line(), "socketserver: running");
    let start = Instant::now();
    process.signal(Signal::TERM);
    let exit = process.exit();
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(exit.code, Some(0));
    let last = exit.stderr.last().expect("lines");
    assert_eq!(last, "socketserver: closed");
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_it_can_be() {
    let words = "serve echo --max-connections 100";
    let mut low = Process::start(command_after("ulimit -Sn 50", words, &[URL]));
    low.next_url();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", low.id())).expect("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    assert_eq!(
        soft,
        Some("164"),
        "100 connections, and 64 for everything else"
    );
    low.signal(Signal::TERM);
    low.stopped();
    let hard = Process::start(command_after("ulimit -n 50", words, &[URL]));
    let note = hard.next_line();
    assert!(
        note.starts_with("socketserver: --max-connections 100 is more than the 50 descriptors"),
        "{note}"
    );
}

#[test]
fn a_server_with_few_descriptors_says_how_many_connections_it_takes() {
    for model in [
        "threading",
        "forking",
        "coroutines --driver epoll",
        "prefork",
    ] {
        let words = format!("serve echo --model {model}");
        let note = |shell: &str, more: &str| {
            let words = format!("{words} {more}");
            let mut process = Process::start(command_after(shell, &words, &[URL]));
            let mut lines = vec![process.next_line()];
            while !lines.iter().any(|line| line.starts_with("listening on ")) {
                lines.push(process.next_line());
            }
            process.signal(Signal::TERM);
            lines.extend(process.exit().stderr);
            lines.retain(|line| !line.starts_with("listening on "));
            lines
        };
        let few = note("ulimit -Sn 65", "");
        assert_eq!(few.len(), 1, "{model}: {few:?}");
        assert!(
            few[0].starts_with("socketserver: this server takes 1 connection at most, because a process may have 65 descriptors here;")
                && few[0].contains("ulimit -n")
                && few[0].contains("--max-connections"),
            "{few:?}"
        );
        assert_eq!(note("ulimit -Sn 164", ""), [""; 0], "{model}");
        assert_eq!(
            note("ulimit -Sn 40", "--max-connections 20"),
            [""; 0],
            "{model}"
        );
        if model == "prefork" {
            let few = note("ulimit -n 40", "--max-connections 1000");
            assert_eq!(few.len(), 1, "{few:?}");
            assert!(
                few[0]
                    .starts_with("socketserver: each worker process takes 35 connections at most"),
                "{few:?}"
            );
        }
    }
}

#[test]
fn wrong_usage_is_said_in_a_line() {
    for words in [
        "serve echo --at-limit never",
        "serve echo --idle-timeout 0",
        "serve echo --rate 0",
        "serve hello --client-speaks-first",
    ] {
        let exit = Process::start(command(words, &[URL])).exit();
        assert_eq!(
            (exit.code, exit.stderr.len()),
            (Some(2), 1),
            "{words}: {exit:?}"
        );
    }
}
