//! Datagrams: sessions of clients, their limits and their end.

use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::{Client, DEADLINE, Server, uninterrupted, unique_name};
use crate::{line_with, proxy, service, stop};

const LOCAL: &str = "udp://127.0.0.1:0";
const MODELS: [&str; 4] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "coroutines --workers 2",
];

/// An upstream of this process.
pub(crate) fn upstream() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let url = format!("udp://{}", socket.local_addr().expect("bound"));
    (socket, url)
}

fn connect(proxy: &Server) -> Client {
    Client::connect(&proxy.urls[0])
}

/// Receives a datagram, and returns it with its sender.
pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buf = [0; 1000];
    let (count, from) = uninterrupted(|| socket.recv_from(&mut buf)).expect("a datagram");
    (buf[..count].to_vec(), from)
}

#[test]
fn every_kind_of_datagram_goes_to_every_kind() {
    let name = || format!("unixgram:{}", unique_name());
    let upstream = service("echo", &[LOCAL, &name()]);
    for model in MODELS {
        for to in &upstream.urls {
            let proxy = proxy(
                &format!("--model {model}"),
                &[to],
                &[LOCAL, "udp://0.0.0.0:0", &name()],
            );
            for url in &proxy.urls {
                // The client is connected, so the answer has come from the listener's address.
                let mut clients =
                    [0; 5].map(|_| Client::connect(&url.replace("0.0.0.0", "127.0.0.1")));
                for round in 0..3 {
                    for (number, client) in clients.iter_mut().enumerate() {
                        client.send(format!("{number} in {round}").as_bytes());
                    }
                    for (number, client) in clients.iter_mut().enumerate() {
                        assert_eq!(
                            client.receive(100),
                            format!("{number} in {round}").as_bytes(),
                            "{model}"
                        );
                    }
                }
            }
            stop(proxy);
        }
    }
}

/// A client keeps its socket, and gets all that comes to it.
#[test]
fn a_session_has_one_address_and_any_number_of_replies() {
    for model in MODELS {
        let (upstream, url) = upstream();
        let proxy = proxy(&format!("--model {model}"), &[&url], &[LOCAL]);
        let (mut one, mut two) = (connect(&proxy), connect(&proxy));
        one.send(b"one");
        let (_, of_one) = receive(&upstream);
        two.send(b"two");
        let (_, of_two) = receive(&upstream);
        assert_ne!(of_one, of_two);
        one.send(b"one again");
        assert_eq!(
            receive(&upstream),
            (b"one again".to_vec(), of_one),
            "{model}"
        );
        for text in ["first", "", "third"] {
            upstream.send_to(text.as_bytes(), of_two).expect("send");
        }
        for text in ["first", "", "third"] {
            assert_eq!(two.receive(100), text.as_bytes(), "{model}");
        }
        // Another sender is no upstream.
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
        stranger.send_to(b"forged", of_one).expect("send");
        upstream.send_to(b"real", of_one).expect("send");
        assert_eq!(one.receive(100), b"real", "{model}");
        stop(proxy);
    }
}

#[test]
fn an_idle_session_ends() {
    for model in MODELS {
        let (upstream, url) = upstream();
        let words = format!("--log --session-timeout 1 --model {model}");
        let proxy = proxy(&words, &[&url], &[LOCAL]);
        let mut client = connect(&proxy);
        // The next datagram begins another session.
        for _ in 0..2 {
            client.send(b"hello");
            assert_eq!(receive(&upstream).0, b"hello", "{model}");
            line_with(
                &proxy.process,
                &["the session of", "5 bytes there, 0 bytes back: it was idle"],
            );
        }
        stop(proxy);
    }
}

#[test]
fn the_number_of_sessions_is_limited() {
    for model in MODELS {
        let (upstream, url) = upstream();
        let words = format!("--max-sessions 2 --model {model}");
        let proxy = proxy(&words, &[&url], &[LOCAL]);
        let mut clients = [0; 3].map(|_| connect(&proxy));
        for client in &mut clients[..2] {
            client.send(b"in");
            assert_eq!(receive(&upstream).0, b"in");
        }
        clients[2].send(b"out");
        line_with(
            &proxy.process,
            &["a datagram of a new client was dropped: there are 2 sessions"],
        );
        clients[0].send(b"still in");
        assert_eq!(receive(&upstream).0, b"still in", "{model}");
        stop(proxy);
    }
}

#[test]
fn a_new_client_may_take_the_place_of_an_idle_one() {
    let (upstream, url) = upstream();
    let words = "--log --max-sessions 2 --at-max-sessions replace";
    let proxy = proxy(words, &[&url], &[LOCAL]);
    let mut clients = [0; 3].map(|_| connect(&proxy));
    for client in &mut clients {
        client.send(b"in");
        let (text, from) = receive(&upstream);
        assert_eq!(text, b"in");
        upstream.send_to(b"yes", from).expect("send");
        assert_eq!(client.receive(10), b"yes");
    }
    let ended = "2 bytes there, 3 bytes back: a new client has taken its place";
    line_with(&proxy.process, &[ended]);
    stop(proxy);
}

#[test]
fn a_client_of_an_upstream_that_has_gone_goes_to_another_one() {
    for model in MODELS {
        let ((gone, url), (there, other)) = (upstream(), upstream());
        // It keeps the port, and nothing but its own datagrams reaches it: the kernel refuses the others (udp(7)).
        let own = gone.local_addr().expect("bound");
        gone.connect(own).expect("connect");
        let words = format!("--retry-after 100 --model {model}");
        let proxy = proxy(&words, &[&url, &other], &[LOCAL]);
        let mut client = connect(&proxy);
        // The first datagram finds out: its error comes back later.
        client.send(b"lost");
        line_with(
            &proxy.process,
            &[&url, "cannot be reached, and is set aside"],
        );
        client.send(b"found");
        let (text, from) = receive(&there);
        assert_eq!(text, b"found", "{model}");
        there.send_to(b"hi", from).expect("send");
        assert_eq!(client.receive(10), b"hi");
        stop(proxy);
    }
}

/// As loggers do.
#[test]
fn a_client_without_an_address_is_forwarded() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let path = path.path().join("upstream");
    let upstream = UnixDatagram::bind(&path).expect("bind");
    upstream
        .set_read_timeout(Some(DEADLINE))
        .expect("a deadline");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let listen = folder.path().join("listen");
    let proxy = proxy(
        "",
        &[&format!("unixgram://{}", path.display())],
        &[&format!("unixgram://{}", listen.display())],
    );
    for text in ["one", "two"] {
        let client = UnixDatagram::unbound().expect("a socket");
        client.send_to(text.as_bytes(), &listen).expect("send");
        let mut buf = [0; 10];
        let count = uninterrupted(|| upstream.recv(&mut buf)).expect("receive");
        assert_eq!(&buf[..count], text.as_bytes());
    }
    stop(proxy);
}

/// A stop waits for replies as for connections: until the drain deadline, or a second signal.
#[test]
fn a_stop_waits_for_no_reply_for_ever() {
    for model in MODELS {
        for drain in ["0.3", "100"] {
            let (upstream, url) = upstream();
            let words = format!("--log --idle-grace none --drain-timeout {drain} --model {model}");
            let proxy = proxy(&words, &[&url], &[LOCAL]);
            connect(&proxy).send(b"question");
            receive(&upstream);
            proxy.process.signal(rustix::process::Signal::TERM);
            line_with(&proxy.process, &["closed"]);
            if drain == "100" {
                proxy.process.signal(rustix::process::Signal::TERM);
            }
            let mut process = proxy.process;
            let exit = process.exit();
            assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
        }
    }
}

/// Both ways.
#[test]
fn the_longest_datagram_passes_and_a_longer_one_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name);
    let upstream = UnixDatagram::bind(path("upstream")).expect("bind");
    let client = UnixDatagram::bind(path("client")).expect("bind");
    for socket in [&upstream, &client] {
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    }
    let url = |name: &str| format!("unixgram://{}", path(name).display());
    let proxy = proxy("", &[&url("upstream")], &[&url("listen")]);
    let (longest, longer) = (vec![7; 65_535], vec![7; 65_536]);
    let mut buf = vec![0; 100_000];
    client.send_to(&longer, path("listen")).expect("send");
    line_with(&proxy.process, &["a datagram of 65536 bytes", "65535"]);
    client.send_to(&longest, path("listen")).expect("send");
    let (count, from) = uninterrupted(|| upstream.recv_from(&mut buf)).expect("receive");
    assert_eq!(count, longest.len());
    // The kernel has picked its name.
    let from = from.as_abstract_name().expect("a name").to_vec();
    let from = std::os::unix::net::SocketAddr::from_abstract_name(from).expect("a name");
    upstream.send_to_addr(&longer, &from).expect("send");
    line_with(&proxy.process, &["a reply of 65536 bytes", "65535"]);
    upstream.send_to_addr(&longest, &from).expect("send");
    let count = uninterrupted(|| client.recv(&mut buf)).expect("receive");
    assert_eq!(count, longest.len());
    stop(proxy);
}

/// Clients have sessions without end.
#[test]
fn longer_replies_are_reported_once_a_second() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name);
    let upstream = UnixDatagram::bind(path("upstream")).expect("bind");
    upstream
        .set_read_timeout(Some(DEADLINE))
        .expect("a deadline");
    let url = |name: &str| format!("unixgram://{}", path(name).display());
    let words = "--max-sessions 2 --at-max-sessions replace";
    let start = Instant::now();
    let proxy = proxy(words, &[&url("upstream")], &[&url("listen")]);
    let longer = vec![7; 65_536];
    let (mut clients, mut count, mut has_count) = (0, 0, false);
    while clients < 10 || !has_count {
        let client = UnixDatagram::bind(path(&clients.to_string())).expect("bind");
        client.send_to(b"x", path("listen")).expect("send");
        let (_, from) = uninterrupted(|| upstream.recv_from(&mut [0; 10])).expect("receive");
        let from = from.as_abstract_name().expect("a name").to_vec();
        let from = std::os::unix::net::SocketAddr::from_abstract_name(from).expect("a name");
        upstream.send_to_addr(&longer, &from).expect("send");
        clients += 1;
        assert!(clients < 100_000, "no count");
        while let Some(line) = proxy.process.line_within(Duration::ZERO) {
            count += u64::from(line.contains("a reply of 65536 bytes"));
            has_count |= line.ends_with(" more since the last report)");
            let most = start.elapsed().as_secs() + 2;
            assert!(count <= most, "{count} lines of {most}: {line}");
        }
    }
    stop(proxy);
}

/// A stop waits for the replies that clients wait for.
#[test]
fn the_last_reply_arrives() {
    for model in MODELS {
        let (upstream, url) = upstream();
        let proxy = proxy(
            &format!("--log --idle-grace 20 --model {model}"),
            &[&url],
            &[LOCAL],
        );
        let mut client = connect(&proxy);
        client.send(b"question");
        let (_, from) = receive(&upstream);
        proxy.process.signal(rustix::process::Signal::TERM);
        line_with(&proxy.process, &["closed"]);
        upstream.send_to(b"answer", from).expect("send");
        assert_eq!(client.receive(10), b"answer", "{model}");
        let mut process = proxy.process;
        assert_eq!(process.exit().code, Some(0));
    }
}
