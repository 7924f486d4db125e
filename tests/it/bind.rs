//! Binding, adopting, and the errors of both.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::SockRef;
use socketserver::net::{Bind, Transport, UnixAddress};
use socketserver::python::{TcpServer, UdpServer, UnixStreamServer};
use socketserver::{Server, Tcp, Udp, UnixDatagram, UnixStream};

use crate::support::{DEADLINE, Target};

#[test]
fn an_address_in_use_is_named() {
    let first = TcpServer::bind("127.0.0.1:0").unwrap();
    let addr = first.local_addrs()[0].socket_addr().unwrap();
    let err = TcpServer::bind(addr).unwrap_err();
    assert!(err.is_addr_in_use());
    assert!(
        err.to_string()
            .starts_with(&format!("bind {addr}: Address already in use")),
        "{err}"
    );
    assert!(
        err.to_string()
            .contains("; another socket, of this process or of another, has the port"),
        "{err}"
    );

    let first = UdpServer::bind("127.0.0.1:0").unwrap();
    assert!(
        UdpServer::bind(first.local_addrs()[0].socket_addr().unwrap())
            .unwrap_err()
            .is_addr_in_use()
    );
}

#[test]
fn the_remedy_for_two_wildcards_is_ipv6_alone() {
    for (first, second) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")] {
        let one = Tcp::bind(format!("{first}:0")).unwrap();
        let port = one[0].local_addr().port().unwrap();
        let err = Tcp::bind(format!("{second}:{port}")).unwrap_err();
        assert!(err.is_addr_in_use(), "{err}");
        let text = err.to_string();
        assert!(
            text.starts_with(&format!("bind {second}:{port}: ")),
            "{err}"
        );
        assert!(
            text.contains("of this process") && text.contains("only_v6"),
            "{err}"
        );
        let one = Udp::bind(format!("{first}:0")).unwrap();
        let port = one[0].local_addr().port().unwrap();
        let err = Udp::bind(format!("{second}:{port}")).unwrap_err();
        assert!(err.to_string().contains("only_v6"), "{err}");
    }
    let one = Tcp::bind("0.0.0.0:0").unwrap();
    let port = one[0].local_addr().port().unwrap();
    let alone = Tcp::options().only_v6(true);
    let _two = alone.bind(format!("[::]:{port}")).unwrap();
}

/// SO_REUSEADDR allows two sockets on one address, as long as none listens (ip(7)).
#[test]
fn an_error_of_listen_names_the_address() {
    let first = Tcp::options().bind_only("127.0.0.1:0").unwrap();
    let addr = first.local_addrs().unwrap()[0].socket_addr().unwrap();
    let second = Tcp::options().bind_only(addr).unwrap();
    let _listens = first.listen().unwrap();
    let err = second.listen().unwrap_err();
    let start = format!("listen on {addr}: Address already in use");
    assert!(err.to_string().starts_with(&start), "{err}");
    assert!(err.to_string().contains("; another socket, "), "{err}");

    // A name that resolves to both wildcards conflicts with itself.
    let both = ["0.0.0.0:0", "[::]:0"].map(|addr| addr.parse().unwrap());
    let err = Tcp::bind(&both[..] as &[std::net::SocketAddr]).unwrap_err();
    assert!(err.to_string().starts_with("listen on [::]:"), "{err}");
    assert!(err.to_string().contains("only_v6"), "{err}");
}

#[test]
fn a_privileged_port_needs_a_capability() {
    // Capabilities belong to the thread (capabilities(7)): this thread drops its own.
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
    set_capabilities(None, sets).unwrap();
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert!(
        limit.trim().parse::<u16>().unwrap() > 1,
        "this host lets every user bind port 1"
    );
    for err in [
        TcpServer::bind("127.0.0.1:1").unwrap_err(),
        UdpServer::bind("127.0.0.1:1").unwrap_err(),
    ] {
        assert!(err.is_permission_denied());
        assert!(
            err.to_string()
                .starts_with("bind 127.0.0.1:1: Permission denied"),
            "{err}"
        );
        assert!(err.to_string().contains("CAP_NET_BIND_SERVICE"), "{err}");
    }
}

#[test]
fn an_address_of_another_host_or_of_no_host_is_named() {
    let err = TcpServer::bind("192.0.2.1:0").unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::AddrNotAvailable);
    assert!(err.to_string().starts_with("bind 192.0.2.1:0: "), "{err}");
    let err = TcpServer::bind("no port here").unwrap_err();
    assert!(
        err.to_string().starts_with("resolve \"no port here\": "),
        "{err}"
    );
    let none: &[std::net::SocketAddr] = &[];
    assert_eq!(
        TcpServer::bind(none).unwrap_err().kind(),
        io::ErrorKind::AddrNotAvailable
    );
}

#[test]
fn a_server_without_a_listener_or_room_is_refused() {
    let err = Server::<Tcp>::builder().build().unwrap_err();
    assert!(err.to_string().contains("it has no listener"), "{err}");
    let err = Server::<Tcp>::builder()
        .max_connections(0)
        .bind("127.0.0.1:0")
        .unwrap_err();
    assert!(err.to_string().contains("max_connections is 0"), "{err}");
}

#[test]
fn a_name_binds_each_of_its_addresses_with_one_port() {
    let listeners = Tcp::bind("localhost:0").unwrap();
    let addrs: Vec<_> = listeners
        .iter()
        .map(|listener| listener.local_addr().socket_addr().unwrap())
        .collect();
    assert!(
        addrs
            .iter()
            .all(|addr| addr.ip().is_loopback() && addr.port() == addrs[0].port()),
        "{addrs:?}"
    );
    let server = Server::<Tcp>::builder().listen(listeners).build().unwrap();
    let _guard = server.spawn(|conn| conn.write_all(b"hello")).unwrap();
    for addr in addrs {
        assert_eq!(Target::Tcp(addr).send("").answer(), "hello");
    }
}

#[test]
fn ipv6_is_dual_stack_or_not_as_asked() {
    for (only_v6, v4_served) in [(false, true), (true, false)] {
        let listener = Tcp::options().only_v6(only_v6).bind("[::]:0").unwrap();
        let port = listener[0].local_addr().port().unwrap();
        assert!(TcpStream::connect(("::1", port)).is_ok());
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).is_ok(), v4_served);
    }
}

#[test]
fn accepted_connections_have_the_options_of_their_listener() {
    let options = Tcp::options()
        .nodelay(false)
        .keepalive(Duration::from_secs(77))
        .send_buffer(20_000)
        .receive_buffer(30_000);
    for (options, nodelay, keepalive) in [(options, false, true), (Tcp::options(), true, false)] {
        let mut server = Server::<Tcp>::builder()
            .listen(options.bind("127.0.0.1:0").unwrap())
            .build()
            .unwrap();
        let _client = Target::parse(&server.urls()[0]).connect();
        let (seen, wait) = std::sync::mpsc::channel();
        server
            .handle_request(None, move |conn| {
                let socket = SockRef::from(&*conn);
                let buffers = (
                    socket.send_buffer_size().unwrap(),
                    socket.recv_buffer_size().unwrap(),
                );
                seen.send((
                    socket.tcp_nodelay().unwrap(),
                    socket.keepalive().unwrap(),
                    buffers,
                ))
                .unwrap();
            })
            .unwrap();
        let (seen_nodelay, seen_keepalive, buffers) = wait.recv().unwrap();
        assert_eq!((seen_nodelay, seen_keepalive), (nodelay, keepalive));
        // The kernel doubles the value (socket(7)).
        assert_eq!(buffers == (40_000, 60_000), keepalive);
    }
}

#[test]
fn the_backlog_and_the_reuse_options_reach_the_kernel() {
    let listener = Tcp::options()
        .reuse_address(false)
        .bind("127.0.0.1:0")
        .unwrap();
    assert!(!SockRef::from(&listener[0]).reuse_address().unwrap());
    let listener = Tcp::bind("127.0.0.1:0").unwrap();
    assert!(SockRef::from(&listener[0]).reuse_address().unwrap());
    assert!(!SockRef::from(&listener[0]).reuse_port().unwrap());

    let shared = Tcp::options().reuse_port(true);
    let first = shared.bind("127.0.0.1:0").unwrap();
    assert!(
        shared
            .bind(first[0].local_addr().socket_addr().unwrap())
            .is_ok()
    );

    // A backlog of one holds two connections (listen(2)), and the third waits in connect(2).
    let short = Tcp::options().backlog(1).bind("127.0.0.1:0").unwrap();
    let addr = short[0].local_addr().socket_addr().unwrap();
    let connect = |limit| TcpStream::connect_timeout(&addr, limit);
    let _queued = [connect(DEADLINE).unwrap(), connect(DEADLINE).unwrap()];
    let third = connect(Duration::from_millis(100)).unwrap_err();
    assert_eq!(third.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn binding_and_listening_can_be_split() {
    let bound = Tcp::options().bind_only("127.0.0.1:0").unwrap();
    let addr = bound.local_addrs().unwrap()[0].socket_addr().unwrap();
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let mut server = Server::<Tcp>::builder()
        .listen(bound.listen().unwrap())
        .build()
        .unwrap();
    let pending = Target::Tcp(addr).send("");
    server
        .handle_request(None, |conn| conn.write_all(b"now"))
        .unwrap();
    assert_eq!(pending.answer(), "now");
}

#[test]
fn descriptors_are_adopted_if_they_fit() {
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let directory = tempfile::tempdir().unwrap();
    let stream =
        OwnedFd::from(std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap());
    let datagram =
        OwnedFd::from(std::os::unix::net::UnixDatagram::bind(directory.path().join("g")).unwrap());

    let mut server = Server::<Tcp>::builder()
        .listen([Tcp::from_fd(tcp()).unwrap()])
        .build()
        .unwrap();
    let mut client = Target::parse(&server.urls()[0]).connect();
    server
        .handle_request(None, |conn| conn.write_all(b"adopted"))
        .unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "adopted");

    for (err, why) in [
        (Tcp::from_fd(udp()).unwrap_err(), "its type is"),
        (
            Tcp::from_fd(stream.try_clone().unwrap()).unwrap_err(),
            "its family is",
        ),
        (Udp::from_fd(tcp()).unwrap_err(), "its type is"),
        (UnixStream::from_fd(tcp()).unwrap_err(), "its family is"),
        (
            UnixStream::from_fd(datagram.try_clone().unwrap()).unwrap_err(),
            "its type is",
        ),
        (UnixDatagram::from_fd(udp()).unwrap_err(), "its family is"),
        (
            Tcp::from_fd(OwnedFd::from(
                TcpStream::connect(server.local_addrs()[0].socket_addr().unwrap()).unwrap(),
            ))
            .unwrap_err(),
            "does not listen",
        ),
        (
            Tcp::from_fd(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).unwrap_err(),
            "Socket operation on non-socket",
        ),
    ] {
        assert!(
            err.to_string().starts_with("adopt descriptor ") && err.to_string().contains(why),
            "{err}"
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let named = format!(
        "adopt descriptor {} ({}) as a UDP socket: ",
        listener.as_raw_fd(),
        listener.local_addr().unwrap()
    );
    let err = Udp::from_fd(listener.into()).unwrap_err();
    assert!(err.to_string().starts_with(&named), "{err}");
    // The process that adopts a socket file does not own it.
    drop((
        UnixStream::from_fd(stream).unwrap(),
        UnixDatagram::from_fd(datagram).unwrap(),
    ));
    assert!(directory.path().join("s").exists() && directory.path().join("g").exists());
}

fn blocks(socket: &impl AsFd) -> bool {
    let flags = rustix::fs::fcntl_getfl(socket).expect("flags");
    !flags.contains(rustix::fs::OFlags::NONBLOCK)
}

/// The mode belongs to the open file description, which both descriptors share.
#[test]
fn an_adopted_listener_blocks_again_when_its_server_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let shared = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = Tcp::from_fd(shared.try_clone().unwrap().into()).unwrap();
    let server = Server::<Tcp>::builder().listen([tcp]).build().unwrap();
    let target = Target::parse(&server.urls()[0]);
    let guard = server.spawn(|conn| conn.write_all(b"served")).unwrap();
    assert_eq!(target.ask(""), "served");
    assert!(!blocks(&shared));
    guard.stop().unwrap();
    assert!(blocks(&shared));

    let shared = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
    let adopted = UnixStream::from_fd(shared.try_clone().unwrap().into()).unwrap();
    assert!(!blocks(&shared));
    drop(adopted);
    assert!(blocks(&shared));

    // A listener that did not block before does not block afterwards.
    shared.set_nonblocking(true).unwrap();
    drop(UnixStream::from_fd(shared.try_clone().unwrap().into()).unwrap());
    assert!(!blocks(&shared));
}

/// A new generation of a program takes over from an old one like this.
#[test]
fn a_second_server_goes_on_with_a_listener_when_the_first_has_ended() {
    let shared = TcpListener::bind("127.0.0.1:0").unwrap();
    let adopt = || Tcp::from_fd(shared.try_clone().unwrap().into()).unwrap();
    let first = adopt();
    let mut second = Server::<Tcp>::builder().listen([adopt()]).build().unwrap();
    drop(first);
    assert!(blocks(&shared));
    let pending = Target::parse(&second.urls()[0]).send("");
    second
        .handle_request(None, |conn| conn.write_all(b"second"))
        .unwrap();
    assert_eq!(pending.answer(), "second");
    assert!(!blocks(&shared), "accept(2) must not block");
    drop(second);
    assert!(blocks(&shared));
}

#[test]
fn an_adopted_datagram_socket_gets_its_send_timeout_back() {
    let directory = tempfile::tempdir().unwrap();
    for before in [None, Some(Duration::from_secs(7))] {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_write_timeout(before).unwrap();
        let socket = Udp::from_fd(udp.try_clone().unwrap().into()).unwrap();
        let mut server = Server::<Udp>::builder().listen([socket]).build().unwrap();
        assert_eq!(udp.write_timeout().unwrap(), Some(Duration::from_secs(1)));
        let pending = Target::parse(&server.urls()[0]).send("x");
        server
            .handle_request(None, |datagram| datagram.write_all(b"served"))
            .unwrap();
        assert_eq!(pending.answer(), "served");
        drop(server);
        assert_eq!(udp.write_timeout().unwrap(), before);

        let path = directory.path().join(format!("{before:?}"));
        let unix = std::os::unix::net::UnixDatagram::bind(path).unwrap();
        unix.set_write_timeout(before).unwrap();
        drop(UnixDatagram::from_fd(unix.try_clone().unwrap().into()).unwrap());
        assert_eq!(unix.write_timeout().unwrap(), before);
    }
}

#[test]
fn invalid_unix_addresses_are_named() {
    let long = format!("/{}", "x".repeat(200));
    let err = UnixStreamServer::bind(long.as_str()).unwrap_err();
    assert!(
        err.to_string().contains(&long) && err.to_string().contains("at most 107 bytes"),
        "{err}"
    );
    let err = UnixStreamServer::bind("/nowhere/at/all").unwrap_err();
    assert!(
        err.to_string().starts_with("bind /nowhere/at/all: ")
            && err.to_string().contains("create the directory"),
        "{err}"
    );
    for unusable in [UnixAddress::Unnamed, UnixAddress::from("")] {
        assert_eq!(
            UnixStreamServer::bind(unusable).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
