//! What a handler can do with a datagram.

use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc::channel;

use socketserver::net::{Accepted, Address, Bind, UnixAddress};
use socketserver::python::UdpServer;
use socketserver::{Datagram, Server, Udp, UnixDatagram};

use crate::support::{DEADLINE, Target, uninterrupted};

fn client() -> UdpSocket {
    client_at("127.0.0.1:0")
}

fn client_at(addr: &str) -> UdpSocket {
    let client = UdpSocket::bind(addr).expect("bind");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

fn received(client: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let count = uninterrupted(|| client.recv(&mut buf)).expect("a datagram within the deadline");
    buf.truncate(count);
    buf
}

#[test]
fn writes_become_one_reply_and_no_write_no_reply() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let _guard = server
        .spawn(|datagram| {
            match datagram.packet() {
                b"two" => {
                    datagram.write_all(b"a")?;
                    datagram.write_all(b"b")?;
                }
                b"empty" => datagram.set_reply(b""),
                b"echo and more" => {
                    datagram.echo();
                    datagram.write_all(b"!")?;
                }
                b"part" => {
                    datagram.write_all(b"part")?;
                    return Err(io::Error::other("as asked"));
                }
                _ => {}
            }
            Ok(())
        })
        .unwrap();
    let client = client();
    // The first one has no reply: it would have arrived first.
    for (request, reply) in [
        ("none", None),
        ("two", Some("ab")),
        ("empty", Some("")),
        ("echo and more", Some("echo and more!")),
        ("part", Some("part")),
    ] {
        client.send_to(request.as_bytes(), addr).unwrap();
        if let Some(reply) = reply {
            assert_eq!(received(&client), reply.as_bytes(), "{request}");
        }
    }
}

#[test]
fn an_empty_datagram_is_handled() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let _guard = server
        .spawn(|datagram| write!(datagram, "{} bytes", datagram.packet().len()))
        .unwrap();
    let client = client();
    client.send_to(b"", addr).unwrap();
    assert_eq!(received(&client), b"0 bytes");
}

#[test]
fn more_datagrams_go_to_the_sender_or_elsewhere() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let (asker, other) = (client(), client());
    let elsewhere = Address::from(other.local_addr().unwrap());
    let _guard = server
        .spawn(move |datagram| {
            datagram.send(b"first")?;
            datagram.send_to(b"elsewhere", &elsewhere)?;
            datagram.write_all(b"reply")
        })
        .unwrap();
    asker.send_to(b"x", addr).unwrap();
    assert_eq!(received(&asker), b"first");
    assert_eq!(received(&asker), b"reply");
    assert_eq!(received(&other), b"elsewhere");
}

#[test]
fn the_largest_datagram_arrives_whole_and_a_larger_one_is_reported() {
    let (failures, wait) = channel();
    let server = Server::<Udp>::builder()
        .on_error(move |failure| failures.send(failure.to_string()).unwrap())
        .listen(
            Udp::options()
                .max_datagram(1000)
                .bind("127.0.0.1:0")
                .unwrap(),
        )
        .listen(Udp::bind("127.0.0.1:0").unwrap())
        .build()
        .unwrap();
    let addrs: Vec<_> = server
        .local_addrs()
        .iter()
        .map(|addr| addr.socket_addr().unwrap())
        .collect();
    let guard = server
        .spawn(|datagram| write!(datagram, "{} bytes", datagram.packet().len()))
        .unwrap();
    let client = client();
    client.send_to(&[0; 1001], addrs[0]).unwrap();
    let report = wait.recv_timeout(DEADLINE).unwrap();
    assert!(
        report.contains("a datagram of 1001 bytes") && report.ends_with("has 1000"),
        "{report}"
    );
    client.send_to(&[0; 1000], addrs[0]).unwrap();
    assert_eq!(received(&client), b"1000 bytes");
    // The largest datagram of UDP over IPv4.
    client.send_to(&[0; 65_507], addrs[1]).unwrap();
    assert_eq!(received(&client), b"65507 bytes");
    let totals = guard.handle().totals();
    assert_eq!((totals.accepted, totals.failed), (3, 1));
}

#[test]
fn a_reply_leaves_from_the_address_of_the_datagram() {
    for (bound, asked) in [
        ("0.0.0.0:0", "127.0.0.9"),
        ("[::]:0", "127.0.0.9"),
        ("[::]:0", "::1"),
    ] {
        let server = UdpServer::bind(bound).unwrap();
        let port = server.local_addrs()[0].port().unwrap();
        let _guard = server.spawn(|datagram| datagram.echo()).unwrap();
        let client = UdpSocket::bind(if asked.contains(':') {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        })
        .unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        // A connected socket receives only datagrams from its peer's address.
        client
            .connect((asked.parse::<IpAddr>().unwrap(), port))
            .unwrap();
        client.send(b"who are you").unwrap();
        assert_eq!(received(&client), b"who are you", "{bound} {asked}");
    }
}

#[test]
fn each_of_many_datagrams_is_answered_once() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let guard = server.spawn(|datagram| datagram.echo()).unwrap();
    let client = client();
    // As many as the receive buffers certainly hold.
    for round in 0..20_u32 {
        for number in 0..50 {
            client
                .send_to(&(50 * round + number).to_be_bytes(), addr)
                .unwrap();
        }
        for number in 0..50 {
            assert_eq!(received(&client), (50 * round + number).to_be_bytes());
        }
    }
    guard.handle().shutdown();
    let handle = guard.handle().clone();
    guard.join().unwrap();
    assert_eq!(handle.totals().completed, 1000);
}

/// Replies of one size to one peer go to the kernel as a bundle; the peer receives the same
/// datagrams.
#[test]
fn replies_in_a_bundle_arrive_as_datagrams() {
    for (bound, target) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.3"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
    ] {
        let server = UdpServer::bind(bound).unwrap();
        let port = server.local_addrs()[0].socket_addr().unwrap().port();
        let ip: IpAddr = target.parse().unwrap();
        let any = if ip.is_ipv6() {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        };
        let clients = [client_at(any), client_at(any)];
        for client in &clients {
            client.connect((ip, port)).unwrap();
        }
        // All datagrams wait when the server starts, so it receives and answers them in batches.
        let sizes = [
            64, 64, 64, 10, 64, 0, 64, 64, 1200, 1200, 1201, 1201, 1, 1, 1,
        ];
        let packet = |client: usize, number: usize, size| vec![(client * 100 + number) as u8; size];
        let mut expected = [Vec::new(), Vec::new()];
        for (number, size) in sizes.into_iter().cycle().take(45).enumerate() {
            // Runs of one client, interrupted by the other now and then.
            let client = usize::from(number % 7 == 3);
            let packet = packet(client, number, size);
            assert_eq!(clients[client].send(&packet).unwrap(), size);
            expected[client].push(packet);
        }
        let _guard = server.spawn(|datagram| datagram.echo()).unwrap();
        for (client, expected) in clients.iter().zip(expected) {
            for packet in expected {
                assert_eq!(received(client), packet, "on {bound}");
            }
        }
    }
}

#[test]
fn a_sender_without_an_address_cannot_be_answered() {
    let (failures, wait) = channel();
    let name =
        UnixAddress::Abstract(format!("socketserver-unbound-{}", std::process::id()).into_bytes());
    let server = Server::<UnixDatagram>::builder()
        .on_error(move |failure| {
            failures
                .send((failure.to_string(), failure.io_error().unwrap().kind()))
                .unwrap();
        })
        .listen(UnixDatagram::bind(&name).unwrap())
        .build()
        .unwrap();
    let guard = server
        .spawn(|datagram| match datagram.packet() {
            b"at once" => datagram.send(b"reply"),
            b"silent" => Ok(()),
            _ => datagram.write_all(b"reply"),
        })
        .unwrap();
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let UnixAddress::Abstract(name) = name else {
        unreachable!()
    };
    use std::os::linux::net::SocketAddrExt;
    client
        .connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap())
        .unwrap();
    for request in ["silent", "reply", "at once"] {
        client.send(request.as_bytes()).unwrap();
    }
    for _ in 0..2 {
        let (shown, kind) = wait.recv_timeout(DEADLINE).unwrap();
        assert!(
            shown.contains("(unnamed)") && shown.contains("no address to reply to"),
            "{shown}"
        );
        assert_eq!(kind, io::ErrorKind::NotConnected);
    }
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    assert_eq!((handle.totals().completed, handle.totals().failed), (1, 2));
}

#[test]
fn a_sender_that_is_gone_is_a_disconnect() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net;
    let (failures, wait) = channel();
    let directory = tempfile::tempdir().unwrap();
    let name = format!("socketserver-gone-{}", std::process::id()).into_bytes();
    let server = Server::<UnixDatagram>::builder()
        .on_error(move |failure| {
            let kind = failure.io_error().unwrap().kind();
            let disconnect = failure.is_disconnect();
            failures
                .send((kind, disconnect, failure.to_string()))
                .unwrap();
        })
        .listen(UnixDatagram::bind(UnixAddress::Abstract(name.clone())).unwrap())
        .build()
        .unwrap();
    let to = net::SocketAddr::from_abstract_name(&name).unwrap();
    // Both senders are gone before the server begins to serve, one of them with its file.
    for (file, unlink) in [("without a socket", false), ("without a file", true)] {
        let file = directory.path().join(file);
        let client = net::UnixDatagram::bind(&file).unwrap();
        for request in ["reply", "at once"] {
            client.send_to_addr(request.as_bytes(), &to).unwrap();
        }
        if unlink {
            std::fs::remove_file(&file).unwrap();
        }
    }
    let guard = server
        .spawn(|datagram| match datagram.packet() {
            b"at once" => datagram.send(b"reply"),
            _ => datagram.write_all(b"reply"),
        })
        .unwrap();
    for _ in 0..4 {
        let (kind, disconnect, text) = wait.recv_timeout(DEADLINE).unwrap();
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        assert!(gone.contains(&kind) && disconnect, "{kind:?} {disconnect}");
        assert!(text.contains("the sender is gone"), "{text}");
    }
    guard.stop().unwrap();
}

#[test]
fn a_peer_whose_queue_is_full_does_not_stop_the_server() {
    let (failures, wait) = channel();
    let name =
        UnixAddress::Abstract(format!("socketserver-full-{}", std::process::id()).into_bytes());
    let server = Server::<UnixDatagram>::builder()
        .on_error(move |failure| failures.send(failure.io_error().unwrap().kind()).unwrap())
        .listen(UnixDatagram::bind(&name).unwrap())
        .build()
        .unwrap();
    let _guard = server
        .spawn(|datagram| {
            while datagram.packet() == b"flood" {
                datagram.send(&[0; 1024])?;
            }
            datagram.echo();
            Ok::<(), io::Error>(())
        })
        .unwrap();
    use std::os::linux::net::SocketAddrExt;
    let UnixAddress::Abstract(server_name) = name else {
        unreachable!()
    };
    let server_name = std::os::unix::net::SocketAddr::from_abstract_name(server_name).unwrap();
    let own = |label: &str| {
        let name = format!("socketserver-full-{label}-{}", std::process::id());
        let client = std::os::unix::net::UnixDatagram::bind_addr(
            &std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap(),
        );
        let client = client.unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect_addr(&server_name).unwrap();
        client
    };
    let (deaf, polite) = (own("deaf"), own("polite"));
    deaf.send(b"flood").unwrap();
    assert_eq!(
        wait.recv_timeout(DEADLINE).unwrap(),
        io::ErrorKind::TimedOut
    );
    // Replies that the deaf client has not read fill the server's send buffer (unix(7)) until that
    // client is gone.
    drop(deaf);
    polite.send(b"hello").unwrap();
    let mut reply = [0; 10];
    assert_eq!(uninterrupted(|| polite.recv(&mut reply)).unwrap(), 5);
}

#[test]
fn ids_and_peers_are_those_of_the_datagram() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let _guard = server.spawn(|datagram| {
        let shown = format!(
            "{} {}",
            datagram.id(),
            datagram.peer() == Address::from(datagram.peer_addr())
        );
        datagram.write_all(shown.as_bytes())
    });
    assert_eq!(
        (target.ask("x"), target.ask("y")),
        ("1 true".to_owned(), "2 true".to_owned())
    );
}

/// Handlers run on several threads, but the replies are sent together, each from its own socket.
#[cfg(feature = "coroutines")]
#[expect(unsafe_code, reason = "the contract of coroutines")]
#[test]
fn each_socket_of_a_server_sends_its_own_replies() {
    // SAFETY: the handler restores no thread-local.
    let model = unsafe { socketserver::Coroutines::new() }.workers(1);
    let sockets = (0..2).map(|_| Udp::bind("127.0.0.1:0").unwrap().remove(0));
    let server = Server::<Udp>::builder().model(model).listen(sockets);
    let server = server.build().unwrap();
    let clients: Vec<_> = server
        .local_addrs()
        .iter()
        .map(|addr| {
            let client = client();
            // A connected socket receives only datagrams from its peer.
            client.connect(addr.socket_addr().unwrap()).unwrap();
            client
        })
        .collect();
    for number in 0..40_u8 {
        clients[usize::from(number) % 2].send(&[number]).unwrap();
    }
    let guard = server.spawn(|datagram| datagram.echo()).unwrap();
    for number in 0..40_u8 {
        assert_eq!(received(&clients[usize::from(number) % 2]), [number]);
    }
    let handle = guard.handle().clone();
    handle.shutdown();
    guard.join().unwrap();
    assert_eq!((handle.totals().completed, handle.live()), (40, 0));
}
