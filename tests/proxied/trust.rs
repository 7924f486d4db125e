//! From whom a header is accepted, which version, and how long it may be.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Client;
use std::sync::mpsc::{Receiver, channel};

use socketserver::model::Model;
use socketserver::net::{Accepted, Transport, Under};
use socketserver::proxied::{Kind, Proxied, ProxyConfig, ProxyLayer, Version};
use socketserver::{Builder, Server, Threading, UnixStream};

use crate::support::DEADLINE;
use crate::{CLIENT, Conn, ask, builder, connect, header, spawn, trusting};

/// Reports failures.
fn reporting<T, M: Model>(builder: Builder<T, M>) -> (Builder<T, M>, Receiver<String>)
where
    T: Transport<Accepted: Under<ProxyLayer> + Accepted>,
{
    let (failures, wait) = channel();
    let builder = builder.on_error(move |failure| {
        failures
            .send(failure.error().to_string())
            .expect("the test waits");
    });
    (builder, wait)
}

fn no_handler(_: &mut Conn) {
    panic!("a handler was called");
}

#[test]
fn a_peer_without_trust_is_not_served_whatever_it_sends() {
    let (builder, wait) = reporting(builder(&ProxyConfig::trust(["192.0.2.0/24"]).unwrap()));
    let (guard, server) = spawn(builder, no_handler);
    for bytes in [
        header().to_v1().expect("a header"),
        header().to_v2().expect("a header"),
        Vec::new(),
    ] {
        let mut client = connect(server);
        // The server may have ended the connection already.
        let _ = client.write_all(&bytes);
        let _ = client.read_to_end(&mut Vec::new());
        let text = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(
            text,
            "PROXY header: the peer is not among the trusted proxies"
        );
    }
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!((totals.accepted, totals.failed, totals.received), (3, 3, 0));
}

#[test]
fn what_is_no_header_reaches_no_handler() {
    let (builder, wait) = reporting(builder(&trusting()));
    let (_guard, server) = spawn(builder, no_handler);
    for (bytes, why) in crate::headers::bad() {
        let mut client = connect(server);
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", bytes.escape_ascii());
        let text = wait.recv_timeout(DEADLINE).unwrap();
        assert!(text.contains(why), "{}: {text}", bytes.escape_ascii());
    }
}

#[test]
fn only_the_version_that_is_set_is_accepted() {
    let (first, second) = (
        header().to_v1().expect("a header"),
        header().to_v2().expect("a header"),
    );
    for (version, good, bad) in [
        (Version::V1, &first, &second),
        (Version::V2, &second, &first),
    ] {
        let (builder, wait) = reporting(builder(&trusting().version(version)));
        let (_guard, server) = spawn(builder, |conn: &mut Conn| {
            let peer = conn.peer();
            write!(conn, "{peer}")
        });
        assert_eq!(ask(server, good).unwrap(), CLIENT);
        assert_eq!(ask(server, bad).unwrap(), "");
        let text = wait.recv_timeout(DEADLINE).unwrap();
        assert!(text.contains("not those of version"), "{text}");
    }
}

#[test]
fn a_header_has_its_longest_size() {
    let (builder, wait) = reporting(builder(&trusting().max_header(100)));
    let (_guard, server) = spawn(builder, |conn: &mut Conn| conn.write_all(b"served"));
    let of = |size: usize| {
        header()
            .with(Kind(0xe0), &vec![7; size - 31])
            .to_v2()
            .expect("a header")
    };
    assert_eq!(
        (of(100).len(), ask(server, &of(100)).unwrap()),
        (100, "served".to_owned())
    );
    // Its first 16 bytes say that it is too long.
    assert_eq!(ask(server, &of(101)[..16]).unwrap(), "");
    assert!(
        wait.recv_timeout(DEADLINE)
            .unwrap()
            .contains("longer than the limit")
    );
}

#[test]
fn a_list_that_trusts_nobody_is_an_error() {
    let text = |list: &[&str]| ProxyConfig::trust(list).unwrap_err().to_string();
    assert!(
        text(&[]).starts_with("trust proxies: the list is empty"),
        "{}",
        text(&[])
    );
    let bad = text(&["10.0.0.0/8", "10.0.0.1/8"]);
    assert!(
        bad.contains("\"10.0.0.1/8\"") && bad.contains("bits beyond the prefix"),
        "{bad}"
    );
}

/// A server on a Unix socket, and what a client gets that sends a header.
fn over_unix(trusted: &str) -> (String, Receiver<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listeners = [UnixStream::options().bind(&path).expect("bind")];
    let proxy = ProxyConfig::trust([trusted]).expect("a list");
    let builder = Server::<Proxied<UnixStream>, Threading>::builder();
    let (builder, wait) = reporting(builder.listen(proxy.listen(listeners)));
    let guard = builder.build().expect("build").spawn(|conn| {
        let (peer, via) = (conn.peer(), conn.via());
        write!(conn, "{peer} {}", via.expect("a proxy"))
    });
    let guard = guard.expect("spawn");
    let mut client = Client::connect(&path).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    let _ = client.write_all(&header().to_v2().expect("a header"));
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    guard.stop().expect("a stop");
    (answer, wait)
}

#[test]
fn peers_of_a_unix_socket_are_trusted_by_name() {
    assert_eq!(over_unix("unix").0, format!("{CLIENT} (unnamed)"));
    let (answer, wait) = over_unix("0.0.0.0/0");
    assert_eq!(answer, "");
    assert!(wait.recv_timeout(DEADLINE).unwrap().contains("trusted"));
}
