//! Link-local IPv6 addresses, which are incomplete without their zone.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use socketserver::net::{TcpConnection, Transport};
use socketserver::{Datagram, Server, Tcp, Udp};

use crate::support::{DEADLINE, Target, uninterrupted};

#[path = "../support/link_local.rs"]
mod address;

#[test]
fn a_link_local_address_is_bound_served_and_connected_to() {
    let test = "link_local::a_link_local_address_is_bound_served_and_connected_to";
    address::with_link_local(test, |addr, name| {
        streams(addr, name);
        datagrams(addr, name);
    });
}

fn streams(addr: SocketAddrV6, name: &str) {
    let listeners = Tcp::options().bind(addr).expect("bind TCP");
    let local = with_zone(
        addr,
        &listeners[0]
            .local_addr()
            .socket_addr()
            .expect("an internet address"),
    );
    let url = format!("tcp://[{}%{name}]:{}", addr.ip(), local.port());
    assert_eq!(listeners[0].url(), url);
    let server = Server::<Tcp>::builder()
        .listen(listeners)
        .build()
        .expect("a server");
    let guard = server
        .spawn(|conn| {
            let peer = conn.peer_addr();
            write!(conn, "{peer}")
        })
        .expect("serve");
    let answer = Target::Tcp(local.into()).send("").answer();
    let peer = with_zone(addr, &answer.parse().expect("the peer's address"));
    assert_ne!(peer.port(), 0);
    let mut out = TcpConnection::connect(SocketAddr::from(local), DEADLINE).expect("connect");
    let mut answer = String::new();
    out.read_to_string(&mut answer).expect("read");
    with_zone(addr, &answer.parse().expect("our own address"));
    guard.stop().expect("stop");
}

fn datagrams(addr: SocketAddrV6, name: &str) {
    let sockets = Udp::options().bind(addr).expect("bind UDP");
    let local = with_zone(
        addr,
        &sockets[0]
            .local_addr()
            .socket_addr()
            .expect("an internet address"),
    );
    let url = format!("udp://[{}%{name}]:{}", addr.ip(), local.port());
    assert_eq!(sockets[0].url(), url);
    // Also replies of a socket that is bound to all addresses.
    let any = Udp::options().bind("[::]:0").expect("bind UDP");
    let port = any[0].local_addr().port().expect("a port");
    let mut server = Server::<Udp>::builder()
        .listen(sockets.into_iter().chain(any))
        .build()
        .expect("a server");
    let client = UdpSocket::bind(addr).expect("bind a client");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    for port in [local.port(), port] {
        let target = SocketAddrV6::new(*addr.ip(), port, 0, addr.scope_id());
        client.send_to(b"hello", target).expect("send");
        server
            .handle_request(Some(Duration::from_secs(5)), |datagram| datagram.echo())
            .expect("serve");
        let mut answer = [0; 10];
        let (count, from) = uninterrupted(|| client.recv_from(&mut answer)).expect("receive");
        assert_eq!((&answer[..count], from), (&b"hello"[..], target.into()));
    }
}

/// Checks that an address is the given one except for its port.
#[track_caller]
fn with_zone(expected: SocketAddrV6, addr: &SocketAddr) -> SocketAddrV6 {
    let SocketAddr::V6(v6) = addr else {
        panic!("not IPv6: {addr}")
    };
    assert_eq!(
        (v6.ip(), v6.scope_id()),
        (expected.ip(), expected.scope_id())
    );
    *v6
}
