//! TLS that ends at the proxy, and TLS that begins there.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;

use socketserver::Connection as _;
use socketserver::tls::Connector;

use crate::certificates::Files;
use crate::support::{DEADLINE, Server, uninterrupted};
use crate::{
    LOCAL, MODELS, Upstream, ending, expect, expect_reset, half_close, line_with, proxy_command,
    ready, rest, stop, tcp,
};

impl Files {
    /// A proxy in the folder.
    pub(crate) fn proxy(&self, words: &str, to: &[&str]) -> Server {
        let mut command = proxy_command(words, to, &[LOCAL]);
        command.current_dir(self.folder.path());
        ready(command, 1)
    }

    /// An echo server over TLS.
    fn echo(&self, words: &str) -> (Server, String) {
        let words = format!("serve echo --tls-cert server.pem --tls-key server.key {words}");
        let mut command = crate::support::command(&words, &[LOCAL]);
        command.current_dir(self.folder.path());
        let server = ready(command, 1);
        let port = server.urls[0]
            .rsplit_once(':')
            .expect("a port")
            .1
            .to_owned();
        (server, format!("tls://localhost:{port}"))
    }

    fn connector(&self) -> Connector {
        Connector::builder()
            .roots(self.path("ca.pem"))
            .build()
            .expect("a connector")
    }
}

fn address(url: &str) -> std::net::SocketAddr {
    url.split_once("://").expect("a URL").1.parse().expect(url)
}

#[test]
fn tls_ends_at_the_proxy() {
    let files = Files::new();
    let connector = files.connector();
    for model in MODELS {
        let upstream = Upstream::new();
        let words =
            format!("--tls-cert server.pem --tls-key server.key --send-proxy v2 --model {model}");
        let proxy = files.proxy(&words, &[&upstream.url]);
        let mut client = connector
            .connect(address(&proxy.urls[0]), "localhost", DEADLINE)
            .expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(b"question").expect("write");
        client.shutdown(Shutdown::Write).expect("half-close");
        let mut server = upstream.accept();
        let received = rest(&mut server);
        // Its TLS is in the header: the flags of one that has no certificate, and the version.
        assert!(received.ends_with(b"question"), "{model}");
        let has = |part: &[u8]| received.windows(part.len()).any(|bytes| bytes == part);
        assert!(
            has(b"\x20\x00") && has(b"TLSv1.3") && has(b"TLS13_"),
            "{received:?}"
        );
        server.write_all(b"a late answer").expect("write");
        drop(server);
        assert_eq!(rest(&mut client), b"a late answer", "{model}");
        stop(proxy);
    }
}

#[test]
fn tls_begins_at_the_proxy() {
    let files = Files::new();
    let (_echo, to) = files.echo("");
    for model in MODELS {
        let proxy = files.proxy(&format!("--to-ca ca.pem --model {model}"), &[&to]);
        let mut client = tcp(&proxy.urls[0]);
        let bytes: Vec<u8> = (0..300_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let (sender, sent) = (client.try_clone().expect("a copy"), bytes.clone());
        let sender = thread::spawn(move || {
            (&sender).write_all(&sent).expect("write");
            half_close(&sender);
        });
        assert!(rest(&mut client) == bytes, "{model}");
        sender.join().expect("no panic");
        stop(proxy);
    }
}

#[test]
fn tls_ends_and_begins() {
    let files = Files::new();
    let (_echo, to) = files.echo("");
    let connector = files.connector();
    for model in MODELS {
        let words =
            format!("--tls-cert server.pem --tls-key server.key --to-ca ca.pem --model {model}");
        let proxy = files.proxy(&words, &[&to]);
        let mut client = connector
            .connect(address(&proxy.urls[0]), "localhost", DEADLINE)
            .expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        for _ in 0..10 {
            client.write_all(&[9; 20_000]).expect("write");
            expect(&mut client, &[9; 20_000]);
        }
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(rest(&mut client), b"", "{model}");
        stop(proxy);
    }
}

/// A certificate for an address has no zone.
#[test]
fn an_upstream_may_have_a_zone() {
    let files = Files::new();
    files.issue("six", "::1");
    let words = "serve hello --tls-cert six.pem --tls-key six.key";
    let mut command = crate::support::command(words, &["tcp://[::1]:0"]);
    command.current_dir(files.folder.path());
    let hello = ready(command, 1);
    let to = hello.urls[0].replace("tcp://[::1]", "tls://[::1%1]");
    let proxy = files.proxy("--to-ca ca.pem", &[&to]);
    assert_eq!(rest(&mut tcp(&proxy.urls[0])), b"hello world\n");
    stop(proxy);
}

#[test]
fn an_upstream_is_verified() {
    let (files, others) = (Files::new(), Files::new());
    let (_echo, to) = files.echo("");
    let of_others = format!("--to-ca {}", others.path("ca.pem").display());
    // Of the last one, the name is wrong.
    for (words, to, why) in [
        (of_others.as_str(), to.clone(), "invalid peer certificate"),
        ("", to.clone(), "invalid peer certificate"),
        (
            "--to-ca ca.pem",
            to.replace("localhost", "127.0.0.1"),
            "127.0.0.1",
        ),
        (
            "--to-ca ca.pem --to-name other.example",
            to.clone(),
            "other.example",
        ),
    ] {
        let proxy = files.proxy(words, &[&to]);
        assert_eq!(rest(&mut tcp(&proxy.urls[0])), b"");
        line_with(&proxy.process, &[&to, "is set aside", why]);
        stop(proxy);
    }
    let proxy = files.proxy(
        "--to-ca ca.pem --to-name localhost",
        &[&to.replace("localhost", "127.0.0.1")],
    );
    let mut client = tcp(&proxy.urls[0]);
    client.write_all(b"hello").expect("write");
    expect(&mut client, b"hello");
    drop(client);
    stop(proxy);
}

#[test]
fn the_certificate_of_an_authority_is_not_that_of_a_server() {
    let files = Files::new();
    let mut command =
        crate::support::command("serve echo --tls-cert ca.pem --tls-key ca.key", &[LOCAL]);
    command.current_dir(files.path(""));
    let echo = ready(command, 1);
    let to = echo.urls[0].replace("tcp://127.0.0.1", "tls://localhost");
    let proxy = files.proxy("--to-ca ca.pem", &[&to]);
    assert_eq!(rest(&mut tcp(&proxy.urls[0])), b"");
    line_with(&proxy.process, &[&to, "is that of an authority"]);
    stop(proxy);
}

#[test]
fn an_upstream_that_asks_for_a_certificate_gets_one() {
    let files = Files::new();
    files.issue("client", "client.example");
    let (echo, to) = files.echo("--tls-client-ca ca.pem");
    let words = "--to-ca ca.pem --to-cert client.pem --to-key client.key";
    let with = files.proxy(words, &[&to]);
    let mut client = tcp(&with.urls[0]);
    client.write_all(b"hello").expect("write");
    expect(&mut client, b"hello");
    drop(client);
    stop(with);
    let without = files.proxy("--to-ca ca.pem", &[&to]);
    let mut client = tcp(&without.urls[0]);
    // TLS 1.3 tells the client after its handshake.
    let _ = client.write_all(b"hello");
    assert_eq!(ending(&client).0, b"");
    stop(without);
    drop(echo);
}

/// An upstream that speaks no TLS, and one that says nothing at all.
#[test]
fn a_handshake_that_fails_makes_the_next_upstream_the_one() {
    let files = Files::new();
    let (_echo, to) = files.echo("");
    let (plain, _thread) = Upstream::new().greets("this is no TLS");
    let silent = Upstream::new();
    let others = [&plain, &silent.url].map(|url| url.replace("tcp://127.0.0.1", "tls://localhost"));
    for model in MODELS {
        // Only the silent one takes the whole limit.
        for (other, limit) in others.iter().zip([20, 1]) {
            let words = format!("--to-ca ca.pem --connect-timeout {limit} --model {model}");
            let proxy = files.proxy(&words, &[other, &to]);
            let mut client = tcp(&proxy.urls[0]);
            client.write_all(b"hello").expect("write");
            expect(&mut client, b"hello");
            line_with(&proxy.process, &[other, "is set aside"]);
            drop(client);
            stop(proxy);
        }
    }
}

/// A stream that ends without the end of its TLS is not whole, and the client's is not either.
#[test]
fn a_truncated_stream_of_tls_is_a_reset() {
    let files = Files::new();
    let (_echo, to) = files.echo("");
    for model in ["threading", "coroutines --workers 1"] {
        // Between the proxy and the upstream, there is one that closes.
        let middle = Upstream::new();
        let through = middle.url.replace("tcp://127.0.0.1", "tls://localhost");
        let proxy = files.proxy(&format!("--to-ca ca.pem --model {model}"), &[&through]);
        let mut client = tcp(&proxy.urls[0]);
        client.write_all(b"a part").expect("write");
        let from = middle.accept();
        let upstream = tcp(&to.replace("tls://localhost", "tcp://127.0.0.1"));
        let (mut back, mut there) = (
            from.try_clone().expect("a copy"),
            upstream.try_clone().expect("a copy"),
        );
        let copies = [
            thread::spawn({
                let (mut from, mut to) = (
                    from.try_clone().expect("a copy"),
                    upstream.try_clone().expect("a copy"),
                );
                move || drop(std::io::copy(&mut from, &mut to))
            }),
            thread::spawn(move || drop(std::io::copy(&mut there, &mut back))),
        ];
        expect(&mut client, b"a part");
        half_close(&from);
        expect_reset(&client, model);
        upstream.shutdown(Shutdown::Both).expect("close");
        for copy in copies {
            copy.join().expect("no panic");
        }
        stop(proxy);
    }
}

/// A client's TLS that ends at the proxy is cut where the upstream's stream is.
#[test]
fn a_reset_is_no_end_of_a_tls_stream() {
    let files = Files::new();
    let connector = files.connector();
    for model in ["threading", "coroutines --workers 1", "forking"] {
        let upstream = Upstream::new();
        let words = format!("--tls-cert server.pem --tls-key server.key --model {model}");
        let proxy = files.proxy(&words, &[&upstream.url]);
        let mut client = connector
            .connect(address(&proxy.urls[0]), "localhost", DEADLINE)
            .expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut server = upstream.accept();
        server.write_all(b"a part").expect("write");
        expect(&mut client, b"a part");
        crate::reset(server);
        let err = uninterrupted(|| client.read(&mut [0])).expect_err("a reset");
        assert!(
            matches!(
                err.kind(),
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
            ),
            "{model}: {err}"
        );
        stop(proxy);
    }
}
