//! Whom the built-in services answer over UDP: no other service, and nobody with more than they have
//! sent.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::env;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use support::{DEADLINE, Forger, Server, ask, assert_echoes, command, serve, uninterrupted};

const LOCAL: &str = "udp://127.0.0.1:0";

/// How many datagrams a server that logs all of them has taken in by its end.
#[track_caller]
fn taken(mut server: Server) -> usize {
    server.process.signal(Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let accepted = exit
        .stderr
        .iter()
        .filter(|line| line.ends_with(" accepted"));
    accepted.count()
}

fn port(url: &str) -> u16 {
    let (_, port) = url.rsplit_once(':').expect("a port");
    port.parse().expect("a port")
}

#[expect(clippy::print_stderr, reason = "nothing is skipped in silence")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

#[test]
fn a_server_does_not_answer_itself() {
    let Some(forger) = Forger::new() else {
        return skip("only root may forge the port of a sender");
    };
    for service in ["echo", "chargen", "hello"] {
        let words = format!("{service} --model sequential --log");
        let server = serve(&words, &[LOCAL, LOCAL, "udp://0.0.0.0:0"]);
        let ports: Vec<_> = server.urls.iter().map(|url| port(url)).collect();
        for url in &server.urls {
            for from in &ports {
                forger.send(*from, url, b"forged, and long enough for an answer");
            }
        }
        // It comes behind all that a wrong answer would bring about at first.
        for url in &server.urls {
            ask(
                &url.replace("0.0.0.0", "127.0.0.1"),
                b"a question of a client",
                100,
            );
        }
        assert_eq!(taken(server), 3 * 3 + 3, "{service}");
    }
}

#[test]
fn a_port_of_services_is_not_answered() {
    // Some may be in use.
    let low = (900..1024).find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok());
    let Some(low) = low else {
        return skip("only root may bind a port below 1024");
    };
    for service in ["echo", "chargen", "daytime", "time", "hello"] {
        let server = serve(&format!("{service} --allow-amplification"), &[LOCAL]);
        let to = server.urls[0].strip_prefix("udp://").expect("a URL");
        low.send_to(b"question", to).expect("send");
        assert!(!ask(&server.urls[0], b"question", 100).is_empty());
        // What was to come is there when the server has ended.
        server.stop();
        low.set_nonblocking(true).expect("set it");
        let answer = low.recv(&mut [0; 100]);
        assert!(answer.is_err(), "{service} has answered");
    }
}

/// Runs this test again in a network of its own, which has an address that is not a loopback one.
const INSIDE: &str = "SOCKETSERVER_TEST_NETWORK";

#[test]
fn an_answer_is_no_longer_than_its_question() {
    if env::var_os(INSIDE).is_some() {
        return long_answers();
    }
    let script = r#"ip link set lo up && ip addr add 192.0.2.1/32 dev lo && exec "$0" "$@""#;
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let unshare = |script: &str| {
            let mut unshare = Command::new("unshare");
            unshare.args(user).args(["--net", "sh", "-c", script]);
            unshare
        };
        let works = unshare(&script.replace(r#"exec "$0" "$@""#, "true")).status();
        if works.is_ok_and(|status| status.success()) {
            let mut again = unshare(script);
            again.arg(env::current_exe().expect("this test"));
            again.args([
                "--exact",
                "an_answer_is_no_longer_than_its_question",
                "--nocapture",
            ]);
            let status = again
                .env(INSIDE, "1")
                .status()
                .expect("run this test again");
            assert!(status.success(), "{status}");
            return;
        }
    }
    skip("there can be no other network here (unshare --net, ip)");
}

fn long_answers() {
    for (service, size) in [("daytime", 31), ("time", 4), ("hello", 12)] {
        for allowed in [false, true] {
            let option = if allowed { "--allow-amplification" } else { "" };
            let server = serve(&format!("{service} {option}"), &["udp://0.0.0.0:0"]);
            let port = port(&server.urls[0]);
            let elsewhere = UdpSocket::bind("192.0.2.1:0").expect("bind");
            elsewhere
                .set_read_timeout(Some(DEADLINE))
                .expect("a deadline");
            elsewhere.connect(("192.0.2.1", port)).expect("connect");
            let long = vec![b'x'; size];
            for question in [&long[1..], &long] {
                elsewhere.send(question).expect("send");
            }
            // Of one model, in their order: the second one is always answered.
            let mut answers = 0;
            while answers < 1 + usize::from(allowed) {
                let mut answer = [0; 100];
                let count = uninterrupted(|| elsewhere.recv(&mut answer)).expect("an answer");
                assert_eq!(count, size, "{service}");
                answers += 1;
            }
            // This host is trusted.
            let local = format!("udp://127.0.0.1:{port}");
            assert_eq!(ask(&local, b"", 100).len(), size, "{service}");
            server.stop();
            elsewhere
                .set_read_timeout(Some(Duration::from_millis(1)))
                .expect("a deadline");
            let more = uninterrupted(|| elsewhere.recv(&mut [0; 100]));
            assert!(more.is_err(), "{service} {option}: one answer too many");
        }
    }
    // Unix senders cannot be forged.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("unixgram://{}", directory.path().join("socket").display());
    let server = Server::start(command("serve hello", &[&url]), 1);
    assert_eq!(ask(&url, b"", 100), b"hello world\n");
    server.stop();
    let server = serve("echo", &["udp://192.0.2.1:0"]);
    assert_echoes(&server.urls[0]);
    server.stop();
}
