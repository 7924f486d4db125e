//! Limits and hooks, which use the address of the client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;

use socketserver::limits::AtLimit;
use socketserver::net::Accepted;
use socketserver::proxied::Header;
use socketserver::{Connection, ServerGuard};

use crate::support::{DEADLINE, poll_until};
use crate::{CLIENT, Conn, ask, builder, connect, header, header_of, spawn, trusting};

/// Serves lines, with a limit of one connection for each address.
fn serve() -> (ServerGuard, SocketAddr) {
    let builder = builder(&trusting())
        .max_per_address(1)
        .at_limit(AtLimit::RefuseWith(b"busy".to_vec()));
    spawn(builder, |conn: &mut Conn| {
        let mut line = String::new();
        while conn.next_message()? {
            conn.read_line_max(&mut line, 100)?;
            conn.write_all(line.as_bytes())?;
            line.clear();
        }
        Ok::<_, std::io::Error>(())
    })
}

/// Sends a header and a line, and waits for its answer.
fn served(server: SocketAddr, header: &[u8]) -> TcpStream {
    let mut client = connect(server);
    client.write_all(&[header, b"on\n"].concat()).expect("send");
    let mut answer = [0; 3];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"on\n");
    client
}

#[test]
fn the_limit_of_an_address_is_that_of_the_client() {
    let (guard, server) = serve();
    // The proxy has one address, and as many connections as it has clients.
    let clients = ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"];
    let mut kept: Vec<_> = clients
        .iter()
        .map(|client| served(server, &header_of(client)))
        .collect();
    assert_eq!(ask(server, &header_of("192.0.2.2:2")).unwrap(), "busy");
    assert_eq!(
        ask(server, &header_of("[2001:db8::2]:2")).unwrap(),
        "busy",
        "the same network"
    );
    // A refused client hears of it before its connection is closed.
    poll_until("three connections", DEADLINE, || {
        (guard.handle().live() == 3).then_some(())
    });
    let shown = guard
        .handle()
        .connections()
        .into_iter()
        .map(|one| one.peer.to_string());
    assert_eq!(shown.collect::<Vec<_>>(), clients);
    // The end of a connection makes room for another of its client.
    drop(kept.remove(1));
    poll_until("two connections", DEADLINE, || {
        (guard.handle().live() == 2).then_some(())
    });
    let again = served(server, &header_of("192.0.2.2:3"));
    assert_eq!(ask(server, &header_of("192.0.2.1:2")).unwrap(), "busy");
    drop((kept, again));
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!(
        (totals.accepted, totals.refused, totals.over_address),
        (7, 3, 3)
    );
    assert_eq!((totals.completed, totals.failed), (4, 0));
}

#[test]
fn connections_of_the_proxy_itself_are_under_its_own_limit() {
    let (_guard, server) = serve();
    let local = Header::local().to_v2().expect("a header");
    let _checks = served(server, &local);
    assert_eq!(ask(server, &local).unwrap(), "busy");
    assert_eq!(ask(server, b"PROXY UNKNOWN\r\n").unwrap(), "busy");
    drop(served(server, &header_of("192.0.2.1:1")));
}

#[test]
fn a_connection_without_a_header_is_under_no_limit_of_an_address() {
    let (guard, server) = serve();
    let silent: Vec<_> = (0..5).map(|_| connect(server)).collect();
    poll_until("all of them", DEADLINE, || {
        (guard.handle().live() == 5).then_some(())
    });
    drop(served(server, &header().to_v1().expect("a header")));
    drop(silent);
}

#[test]
fn verify_is_called_once_and_sees_the_client() {
    let (peers, wait) = channel();
    let builder = builder(&trusting()).verify(move |conn| {
        let via = conn.via().is_some();
        peers
            .send((conn.peer().to_string(), via))
            .expect("the test waits");
        conn.peer().port() != Some(13)
    });
    let (guard, server) = spawn(builder, |conn: &mut Conn| conn.write_all(b"hello"));
    assert_eq!(
        ask(server, &header().to_v1().expect("a header")).unwrap(),
        "hello"
    );
    assert_eq!(
        wait.recv_timeout(DEADLINE).unwrap(),
        (CLIENT.to_owned(), true)
    );
    // What the client has sent behind the header does not reset the connection.
    let refused = [&header_of("192.0.2.1:13")[..], &[b'x'; 100]].concat();
    assert_eq!(ask(server, &refused).unwrap(), "");
    assert_eq!(
        wait.recv_timeout(DEADLINE).unwrap(),
        ("192.0.2.1:13".to_owned(), true)
    );
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!((totals.refused, totals.completed, totals.failed), (1, 1, 0));
    assert!(wait.recv_timeout(DEADLINE).is_err(), "called twice");
}

#[test]
fn a_panic_of_verify_ends_its_connection_alone() {
    let builder = builder(&trusting()).verify(|conn| {
        assert_ne!(conn.peer().port(), Some(13), "as asked");
        true
    });
    let (guard, server) = spawn(builder, |conn: &mut Conn| conn.write_all(b"hello"));
    assert_eq!(ask(server, &header_of("192.0.2.1:13")).unwrap(), "");
    assert_eq!(ask(server, &header_of("192.0.2.1:14")).unwrap(), "hello");
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!((totals.refused, totals.completed, totals.failed), (0, 1, 1));
}
