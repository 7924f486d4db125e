//! Streams and messages: what passes, how each direction ends, and what a slow side costs.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Instant;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Client, DEADLINE, assert_echoes, poll_until, unique_name};
use crate::{
    LOCAL, MODELS, Upstream, ask, brief_relay, ending, expect, expect_reset, half_close, limited,
    line_with, pass, proxy, proxy_to_one, relay, reset, rest, service, stop, tcp,
};

/// Each kind of listener to each kind of upstream.
#[test]
fn every_kind_of_stream_goes_to_every_kind() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| format!("unix://{}", folder.path().join(name).display());
    let (file, name) = (path("upstream"), format!("unix:{}", unique_name()));
    let upstream = service("echo", &[LOCAL, &file, &name]);
    for model in MODELS {
        for to in &upstream.urls {
            let name = format!("unix:{}", unique_name());
            let proxy = proxy(
                &format!("--model {model}"),
                &[to],
                &[LOCAL, &path("proxy"), &name],
            );
            for url in &proxy.urls {
                assert_echoes(url);
            }
            stop(proxy);
        }
    }
}

#[test]
fn messages_keep_their_boundaries() {
    let name = || format!("seqpacket:{}", unique_name());
    let upstream = service("echo", &[&name()]);
    for model in MODELS {
        let proxy = proxy(
            &format!("--model {model}"),
            &[&upstream.urls[0]],
            &[&name()],
        );
        let mut client = Client::connect(&proxy.urls[0]);
        let long = vec![7; 150_000];
        for message in [&b"one"[..], b"", b"three", &long] {
            client.send(message);
            assert_eq!(client.receive(200_000), message, "{model}");
        }
        client.end_of_input();
        assert_eq!(client.receive(10), b"");
        stop(proxy);
    }
}

#[test]
fn a_lot_passes_in_both_directions_at_once() {
    let upstream = service("echo", &[LOCAL]);
    for model in MODELS {
        let proxy = proxy(
            &format!("--log --model {model}"),
            &[&upstream.urls[0]],
            &[LOCAL],
        );
        let mut client = tcp(&proxy.urls[0]);
        let sender = client.try_clone().expect("a copy");
        let bytes: Vec<u8> = (0..4_000_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let sent = bytes.clone();
        let sender = thread::spawn(move || {
            (&sender).write_all(&sent).expect("write");
            half_close(&sender);
        });
        assert!(rest(&mut client) == bytes, "{model}: the same bytes");
        sender.join().expect("no panic");
        line_with(
            &proxy.process,
            &[
                "was forwarded to tcp://",
                "4000000 bytes there, 4000000 bytes back",
            ],
        );
        stop(proxy);
    }
}

#[test]
fn each_direction_ends_by_itself() {
    for model in MODELS {
        let (upstream, proxy, mut client, mut server) = relay(&format!("--model {model}"));
        // The client ends first.
        ask(&client, &server, b"question");
        server.write_all(b"a late answer").expect("write");
        drop(server);
        assert_eq!(rest(&mut client), b"a late answer", "{model}");
        drop(client);
        // The server ends first.
        let mut client = tcp(&proxy.urls[0]);
        let mut server = upstream.accept();
        server.write_all(b"greeting").expect("write");
        half_close(&server);
        assert_eq!(rest(&mut client), b"greeting");
        client.write_all(b"a late word").expect("write");
        drop(client);
        assert_eq!(rest(&mut server), b"a late word", "{model}");
        drop(server);
        stop(proxy);
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    for model in MODELS {
        let (upstream, proxy, client, server) = relay(&format!("--model {model}"));
        pass(&server, &client, b"a part");
        reset(server);
        expect_reset(&client, model);
        let client = tcp(&proxy.urls[0]);
        let server = upstream.accept();
        pass(&client, &server, b"a part");
        reset(client);
        expect_reset(&server, model);
        stop(proxy);
    }
}

/// The server has the whole input then, and learns that its answer is not awaited.
#[test]
fn a_reset_after_a_half_close_is_passed_on() {
    for model in MODELS {
        let (_upstream, proxy, client, server) = relay(&format!("--model {model}"));
        ask(&client, &server, b"question");
        reset(client);
        let error = poll_until("the server sees a reset", DEADLINE, || {
            server.take_error().expect("the error of a socket")
        });
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{model}");
        stop(proxy);
    }
}

/// A server that closes early has sent its answer, which is not lost.
#[test]
fn an_answer_outlives_a_reset_of_its_sender() {
    for model in MODELS {
        let (_upstream, proxy, mut client, mut server) = relay(&format!("--model {model}"));
        pass(&client, &server, b"a part");
        server.write_all(b"too long").expect("write");
        drop(server);
        // The end of the stream has come with the answer: the reset that "more" causes does not overtake it.
        let mut answer = [0; 8];
        client.read_exact(&mut answer).expect("an answer");
        client.write_all(b"more").expect("write");
        assert_eq!(
            (&answer, &rest(&mut client)[..]),
            (b"too long", &b""[..]),
            "{model}"
        );
        drop(client);
        stop(proxy);
    }
}

/// The server resets the connection while the proxy writes to it: the error comes by the write, and a read sees the end of
/// the stream.
#[test]
fn a_reset_amid_a_write_is_no_end_of_the_stream() {
    for model in ["threading", "coroutines --workers 1"] {
        let (_upstream, proxy, mut client, server) = relay(&format!("--model {model}"));
        pass(&client, &server, b"x");
        // The proxy waits for room to write.
        client.set_nonblocking(true).expect("set");
        while client.write(&[0; 65_536]).is_ok() {}
        client.set_nonblocking(false).expect("set");
        reset(server);
        expect_reset(&client, model);
        stop(proxy);
    }
}

/// A side that takes nothing makes the proxy stop to take from the other side.
#[test]
fn a_slow_side_costs_a_bounded_amount_of_memory() {
    for model in ["threading", "coroutines --workers 1", "prefork --workers 1"] {
        let name = unique_name();
        let address = SockAddr::unix(name.replacen('@', "\0", 1)).expect("a short name");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&address).expect("bind");
        listener.listen(1).expect("listen");
        let listener = UnixListener::from(std::os::fd::OwnedFd::from(listener));
        let proxy = proxy(
            &format!("--model {model}"),
            &[&format!("unix:{name}")],
            &[&format!("unix:{}", unique_name())],
        );
        let client = Client::connect(&proxy.urls[0]);
        let (mut server, _) = listener.accept().expect("accept");
        let sent = client.send_until_full(&proxy.process);
        // The buffers of two sockets, and those of the proxy.
        assert!(sent < 2 << 20, "{model}: {sent} bytes");
        // All of it arrives.
        client.end_of_input();
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes.len(), sent, "{model}");
        drop((server, client));
        stop(proxy);
    }
}

#[test]
fn an_upstream_that_takes_nothing_is_given_up() {
    for model in MODELS {
        let words = format!("--log --write-timeout 0.3 --model {model}");
        let (_upstream, proxy, client, server) = relay(&words);
        while (&client).write(&[0; 65_536]).is_ok() {}
        line_with(
            &proxy.process,
            &["the server took no output within the write timeout"],
        );
        drop((client, server));
        stop(proxy);
    }
}

#[test]
fn a_relay_is_idle_when_both_sides_are_silent() {
    for model in MODELS {
        let words = format!("--log --idle-timeout 1 --model {model}");
        let (upstream, proxy) = proxy_to_one(&words);
        let (mut client, server) = brief_relay(&upstream, &proxy);
        // It may be idle for too long already.
        let _ = client.write_all(b"hello");
        assert_eq!(ending(&client).0, b"", "{model}");
        assert!(b"hello".starts_with(&ending(&server).0), "{model}");
        line_with(&proxy.process, &["no input came within the idle timeout"]);
        stop(proxy);
    }
}

#[test]
fn what_a_server_sends_is_no_first_byte_of_the_client() {
    for model in MODELS {
        let words = format!("--log --first-byte-timeout 0.5 --model {model}");
        let (upstream, proxy) = proxy_to_one(&words);
        let (mut client, mut server) = brief_relay(&upstream, &proxy);
        let end = Instant::now() + DEADLINE;
        let mut is_open = || {
            let sent = server.write_all(b"x");
            sent.is_ok() && client.read(&mut [0]).is_ok_and(|count| count > 0)
        };
        while is_open() {
            assert!(Instant::now() < end, "{model}: nothing ends it");
        }
        line_with(
            &proxy.process,
            &["no first byte came within the first-byte timeout"],
        );
        stop(proxy);
    }
}

/// After the client's end nothing reads from it, and the relay is idle all the same.
#[test]
fn a_half_closed_relay_is_idle_too() {
    for model in MODELS {
        let words = format!("--log --idle-timeout 1 --first-byte-timeout 1 --model {model}");
        let (upstream, proxy) = proxy_to_one(&words);
        let _server = poll_until("a client is in time", DEADLINE, || {
            let (mut client, server) = brief_relay(&upstream, &proxy);
            let _ = client.write_all(b"hello");
            let _ = client.shutdown(Shutdown::Write);
            let asked = ending(&server) == (b"hello".to_vec(), None);
            assert_eq!(ending(&client).0, b"", "{model}");
            asked.then_some(server)
        });
        line_with(&proxy.process, &["no input came within the idle timeout"]);
        stop(proxy);
    }
}

/// An idle relay has no buffers and no second thread.
#[test]
fn a_relay_has_one_thread() {
    let upstream = Upstream::new();
    let proxy = proxy("--model threading", &[&upstream.url], &[LOCAL]);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.process.id()));
        tasks.expect("list threads").count()
    };
    let relays: Vec<_> = (0..20)
        .map(|_| (tcp(&proxy.urls[0]), upstream.accept()))
        .collect();
    assert!(threads() < 2 * relays.len(), "{} threads", threads());
    for (mut client, server) in relays {
        (&server).write_all(b"x").expect("write");
        expect(&mut limited(client.try_clone().expect("a copy")), b"x");
        half_close(&client);
        drop(server);
        assert_eq!(rest(&mut client), b"");
    }
    stop(proxy);
}
