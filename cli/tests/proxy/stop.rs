//! How a proxy ends: it drains, and it stops by itself when it is not used.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::datagrams::{receive, upstream};
use crate::support::{Client, DEADLINE, command_under, command_with, uninterrupted};
use crate::{
    LOCAL, MODELS, brief_relay, ending, expect, expect_reset, line_with, pass, proxy, proxy_to_one,
    ready, relay, rest, service, stop, tcp,
};

/// How long nothing may happen.
const MOMENT: Duration = Duration::from_millis(400);

/// The server owes an answer, so the relay is not idle.
#[test]
fn a_stop_waits_for_the_answer() {
    for model in MODELS {
        let words = format!("--log --idle-grace 0 --model {model}");
        let (_upstream, proxy, mut client, mut server) = relay(&words);
        pass(&client, &server, b"question");
        proxy.process.signal(Signal::TERM);
        // The grace is over at once, and would end an idle relay.
        server.set_read_timeout(Some(MOMENT)).expect("a deadline");
        let err = uninterrupted(|| server.read(&mut [0])).expect_err("no end of the stream");
        assert_eq!(err.kind(), ErrorKind::WouldBlock, "{model}");
        server.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        pass(&server, &client, b"answer");
        // Now it is idle, and the server gets the end of the stream.
        assert_eq!(rest(&mut server), b"", "{model}");
        server.write_all(b"a last word").expect("write");
        drop(server);
        assert_eq!(rest(&mut client), b"a last word", "{model}");
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

/// A server that has ended its side owes nothing.
#[test]
fn a_stop_ends_a_relay_whose_server_has_ended() {
    for model in MODELS {
        let (_upstream, proxy, mut client, mut server) = relay(&format!("--model {model}"));
        crate::half_close(&server);
        assert_eq!(rest(&mut client), b"");
        pass(&client, &server, b"a last word");
        proxy.process.signal(Signal::TERM);
        assert_eq!(rest(&mut server), b"", "{model}");
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

#[test]
fn a_stop_ends_idle_relays_after_their_grace() {
    for model in MODELS {
        let upstream = service("echo", &[LOCAL]);
        let words = format!("--log --idle-grace 0.2 --model {model}");
        let proxy = proxy(&words, &[&upstream.urls[0]], &[LOCAL]);
        let mut client = tcp(&proxy.urls[0]);
        client.write_all(b"hello").expect("write");
        expect(&mut client, b"hello");
        proxy.process.signal(Signal::TERM);
        assert_eq!(rest(&mut client), b"", "{model}");
        drop(client);
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

#[test]
fn the_drain_deadline_ends_both_sides() {
    for model in MODELS {
        let words = format!("--drain-timeout 0.3 --model {model}");
        let (_upstream, proxy, client, server) = relay(&words);
        pass(&client, &server, b"question");
        proxy.process.signal(Signal::TERM);
        assert_eq!(ending(&client).0, b"", "{model}");
        assert_eq!(ending(&server).0, b"", "{model}");
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(3), "{model}");
    }
}

/// An abort is no end of the client's stream: the server must not take a part for the whole.
#[test]
fn an_aborted_relay_resets_the_server() {
    for model in MODELS {
        for words in ["--idle-timeout 1", "--lifetime 1"] {
            let (upstream, proxy) = proxy_to_one(&format!("{words} --model {model}"));
            let (client, server) = brief_relay(&upstream, &proxy);
            // The deadline may have passed.
            let _ = (&client).write_all(b"a part");
            let (part, end) = ending(&server);
            assert!(b"a part".starts_with(&part), "{model} {words}: {part:?}");
            assert_eq!(end, Some(ErrorKind::ConnectionReset), "{model} {words}");
            drop(client);
            stop(proxy);
        }
        if model == "forking" {
            // A stop kills the process of the relay.
            continue;
        }
        let (_upstream, proxy, client, server) =
            relay(&format!("--drain-timeout 0.3 --model {model}"));
        pass(&client, &server, b"a part");
        proxy.process.signal(Signal::TERM);
        expect_reset(&server, model);
    }
}

/// The listener stays with the service manager, which starts the proxy again at the next connection.
#[test]
fn a_proxy_that_is_not_used_ends_and_loses_nothing() {
    let upstream = service("echo", &[LOCAL]);
    for model in MODELS {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let words = format!(
            "proxy --exit-when-idle 0.2 --model {model} --to {}",
            upstream.urls[0]
        );
        for _ in 0..3 {
            // It waits in the backlog.
            let mut client = Client::connect(&url);
            client.send(b"hello");
            let copy = listener.try_clone().expect("a copy");
            let proxy = ready(command_with(copy, &words, &["fd://3"]), 1);
            assert_eq!(client.receive(5), b"hello", "{model}");
            // It is used for as long as there is a connection.
            client.echo("still here");
            drop(client);
            let mut process = proxy.process;
            assert_eq!(process.exit().code, Some(0), "{model}");
        }
    }
}

#[test]
fn a_session_of_datagrams_is_a_use() {
    for model in ["sequential", "threading", "coroutines"] {
        let (upstream, to) = upstream();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let url = format!("udp://{}", socket.local_addr().expect("bound"));
        // It waits in the socket: the proxy would not wait for it.
        let mut client = Client::connect(&url);
        client.send(b"hello");
        let words = format!(
            "proxy --log --session-timeout 1 --exit-when-idle 0.1 --model {model} --to {to}"
        );
        let proxy = ready(command_with(socket, &words, &["fd://3"]), 1);
        assert_eq!(receive(&upstream).0, b"hello");
        line_with(&proxy.process, &["the session of", "has ended"]);
        line_with(&proxy.process, &["closed"]);
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

#[test]
fn a_proxy_that_is_used_stays() {
    let upstream = service("echo", &[LOCAL]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    // It waits in the backlog.
    let mut client = tcp(&url);
    let words = format!("proxy --exit-when-idle 0.1 --to {}", upstream.urls[0]);
    let proxy = ready(command_with(listener, &words, &["fd://3"]), 1);
    assert!(
        Client::connect(&url).hears_nothing_for(MOMENT),
        "a connection is a use"
    );
    client.write_all(b"hello").expect("write");
    expect(&mut client, b"hello");
    drop(client);
    let mut process = proxy.process;
    assert_eq!(process.exit().code, Some(0));
    stop(upstream);
}

#[test]
fn a_proxy_that_is_not_used_ends_although_its_timer_was_blocked() {
    let mut env = Command::new("env");
    env.arg("--block-signal=ALRM");
    let words = "proxy --exit-when-idle 0.1 --to tcp://127.0.0.1:9";
    let mut proxy = ready(command_under(env, words, &[LOCAL]), 1);
    assert_eq!(proxy.process.exit().code, Some(0));
}
