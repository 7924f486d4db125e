//! Access rules, which judge the client that a header names; on Unix sockets also the proxy's process.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream as Client;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use socketserver::access::{Access, Network};
use socketserver::limits::Rate;
use socketserver::model::Model;
use socketserver::net::{Accepted, Bind, Transport, UnixAddress};
use socketserver::observe::{Event, RefuseReason};
use socketserver::proxied::{Header, Proxied, ProxyConfig};
use socketserver::{
    Builder, Datagram, Sequential, Server, ServerGuard, Threading, Udp, UnixStream,
};

use crate::support::{DEADLINE, poll_until, uninterrupted};
use crate::{Conn, address, ask, builder, header_of, spawn, trusting};

fn networks(text: &str) -> Vec<Network> {
    text.split(' ')
        .map(|text| text.parse().expect("a network"))
        .collect()
}

/// Reports the reasons of refusals, with the peers.
fn reporting<T: Transport, M: Model>(
    builder: Builder<T, M>,
) -> (Builder<T, M>, Receiver<(RefuseReason, String)>) {
    let (refusals, wait) = channel();
    let builder = builder.observer(move |event: &Event<'_>| {
        if let Event::Refused { reason, peer, .. } = event {
            refusals
                .send((*reason, peer.to_string()))
                .expect("the test waits");
        }
    });
    (builder, wait)
}

fn hello(conn: &mut Conn) -> std::io::Result<()> {
    conn.write_all(b"hello")
}

/// The totals of a server that has ended: accepted, refused, not allowed, completed, failed.
fn totals(guard: ServerGuard) -> [u64; 5] {
    let handle = guard.handle().clone();
    guard.stop().expect("stop");
    let all = handle.totals();
    [
        all.accepted,
        all.refused,
        all.not_allowed,
        all.completed,
        all.failed,
    ]
}

#[test]
fn networks_judge_the_client_and_not_its_proxy() {
    // The proxy itself is not allowed.
    let access = Access::new()
        .allow(networks("192.0.2.0/24 2001:db8::/32"))
        .deny(networks("192.0.2.128/25"));
    let (builder, refusals) = reporting(builder(&trusting()).access(access));
    let (guard, server) = spawn(builder, hello);
    for client in ["192.0.2.7:1", "[2001:db8::1]:1", "[::ffff:192.0.2.7]:1"] {
        assert_eq!(
            ask(server, &header_of(client)).unwrap(),
            "hello",
            "{client}"
        );
    }
    for client in ["192.0.2.200:1", "198.51.100.1:1", "127.0.0.1:1"] {
        assert_eq!(ask(server, &header_of(client)).unwrap(), "", "{client}");
        let refusal = refusals.recv_timeout(DEADLINE).unwrap();
        assert_eq!(refusal, (RefuseReason::Access, client.to_owned()));
    }
    poll_until("no connection", DEADLINE, || {
        (guard.handle().live() == 0).then_some(())
    });
    assert_eq!(totals(guard), [6, 3, 3, 3, 0]);
}

#[test]
fn connections_of_the_proxy_itself_are_judged_by_its_address() {
    for (access, answer) in [
        (Access::new().deny(networks("127.0.0.1")), ""),
        (Access::new().allow(networks("127.0.0.0/8")), "hello"),
    ] {
        let (guard, server) = spawn(builder(&trusting()).access(access), hello);
        let local = Header::local().to_v2().expect("a header");
        assert_eq!(ask(server, &local).unwrap(), answer);
        assert_eq!(ask(server, b"PROXY UNKNOWN\r\n").unwrap(), answer);
        let refused = if answer.is_empty() { 2 } else { 0 };
        assert_eq!(totals(guard), [2, refused, refused, 2 - refused, 0]);
    }
}

#[test]
fn a_refusal_after_the_header_returns_its_token_and_its_permit() {
    let slowly = Rate::per(1, Duration::from_secs(3600)).burst(2);
    let builder = builder(&trusting())
        .max_connections(1)
        .rate(slowly)
        .access(Access::new().deny(networks("192.0.2.9")));
    let (guard, server) = spawn(builder, hello);
    for _ in 0..10 {
        assert_eq!(ask(server, &header_of("192.0.2.9:1")).unwrap(), "");
    }
    for _ in 0..2 {
        assert_eq!(ask(server, &header_of("192.0.2.7:1")).unwrap(), "hello");
    }
    assert_eq!(totals(guard), [12, 10, 10, 2, 0]);
}

/// Sends bytes from the second address of the machine itself.
fn ask_from_the_proxy(server: SocketAddr, bytes: &[u8]) -> String {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own: SocketAddr = "127.0.0.2:0".parse().expect("an address");
    client.bind(&own.into()).expect("bind");
    client.connect(&server.into()).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    (&client).write_all(bytes).expect("send");
    let mut answer = String::new();
    (&client).read_to_string(&mut answer).expect("an end");
    answer
}

#[test]
fn a_peer_that_is_not_trusted_costs_no_token() {
    let slowly = Rate::per(1, Duration::from_secs(3600)).burst(2);
    let proxy = ProxyConfig::trust(["127.0.0.2"]).expect("a network");
    let (guard, server) = spawn(builder(&proxy).rate(slowly), hello);
    for _ in 0..10 {
        // Its connection is closed, or reset with what it has sent.
        match ask(server, &header_of("192.0.2.7:1")) {
            Ok(answer) => assert_eq!(answer, ""),
            Err(err) => assert_ne!(err.kind(), ErrorKind::WouldBlock, "no end"),
        }
    }
    for _ in 0..2 {
        assert_eq!(
            ask_from_the_proxy(server, &header_of("192.0.2.7:1")),
            "hello"
        );
    }
    assert_eq!(totals(guard), [12, 0, 0, 2, 10]);
}

#[test]
fn a_unix_client_that_a_proxy_names_is_judged_by_the_address_of_the_proxy() {
    let [client, front] = ["/client", "/front"].map(|path| UnixAddress::from(path).into());
    let unix = Header::new(&client, &front).to_v2().expect("a header");
    for (denied, answer) in [("127.0.0.1", ""), ("192.0.2.0/24", "hello")] {
        let access = Access::new().deny(networks(denied));
        let (_guard, server) = spawn(builder(&trusting()).access(access), hello);
        assert_eq!(ask(server, &unix).unwrap(), answer);
    }
}

#[test]
fn datagrams_are_judged_by_their_client() {
    let access = Access::new().allow(networks("192.0.2.0/24"));
    let builder = Server::<Proxied<Udp>, Sequential>::builder()
        .listen(trusting().listen(Udp::bind("127.0.0.1:0").expect("bind")))
        .access(access);
    let (builder, refusals) = reporting(builder);
    let server = builder.build().expect("build");
    let at = server.local_addrs()[0].socket_addr().expect("UDP");
    let guard = server.spawn(|datagram| datagram.echo()).expect("spawn");
    let proxy = UdpSocket::bind("127.0.0.1:0").expect("bind");
    proxy.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let from = |client: &str| {
        let header = Header::new(&address(client), &address("192.0.2.1:1"));
        header.datagram().to_v2().expect("a header")
    };
    proxy.send_to(&from("198.51.100.1:1"), at).unwrap();
    let refusal = refusals.recv_timeout(DEADLINE).unwrap();
    assert_eq!(refusal, (RefuseReason::Access, "198.51.100.1:1".to_owned()));
    proxy
        .send_to(&[&from("192.0.2.7:1")[..], b"x"].concat(), at)
        .unwrap();
    let mut answer = [0; 2];
    let count = uninterrupted(|| proxy.recv(&mut answer));
    assert_eq!(count.expect("an answer"), 1);
    assert_eq!(totals(guard), [2, 1, 1, 1, 0]);
}

/// What a client of a Unix listener with these rules gets that sends a header.
fn over_unix(access: Access, header: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listeners = [UnixStream::options().bind(&path).expect("bind")];
    let proxy = ProxyConfig::trust(["unix"]).expect("a list");
    let server = Server::<Proxied<UnixStream>, Threading>::builder()
        .listen(proxy.listen(listeners))
        .access(access)
        .handshake_timeout(None)
        .build()
        .expect("build");
    let _guard = server.spawn(|conn| write!(conn, "{}", conn.peer()));
    let mut client = Client::connect(&path).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client.write_all(header).expect("send");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an end");
    answer
}

#[test]
fn behind_a_unix_socket_the_proxy_is_the_user_and_the_client_has_the_address() {
    let own = rustix::process::geteuid().as_raw();
    let users = |uid| Access::new().allow_users([uid]);
    let (client, local) = (header_of("192.0.2.7:1"), b"PROXY UNKNOWN\r\n");
    assert_eq!(over_unix(users(own), &client), "192.0.2.7:1");
    assert_eq!(over_unix(users(own + 1), &client), "");
    assert_eq!(over_unix(users(own + 1), local), "");
    // The user is known before the header.
    assert_eq!(over_unix(users(own + 1), b""), "");
    let denied = networks("192.0.2.0/24");
    assert_eq!(over_unix(users(own).deny(denied), &client), "");
    assert_ne!(over_unix(users(own), local), "");
    // The proxy has no address.
    let none: [Network; 0] = [];
    assert_ne!(over_unix(Access::new().allow(none), local), "");
    assert_eq!(over_unix(Access::new().allow(none), &client), "");
}
