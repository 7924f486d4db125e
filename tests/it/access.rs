//! Access rules: who is refused, that a refusal keeps no permit, and lists of networks with errors.

use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use socketserver::access::{Access, Network};
use socketserver::limits::{AtLimit, Rate};
use socketserver::net::{Accepted, Either, Transport};
use socketserver::observe::{Event, RefuseReason};
use socketserver::{Builder, Connection, Datagram, Server, ServerGuard, Tcp, Threading, Udp};

use crate::support::{DEADLINE, poll_until, uninterrupted};

/// An echo server over any stream, and the reasons of its refusals.
fn echo<T>(builder: Builder<T, Threading>) -> (ServerGuard, Receiver<RefuseReason>)
where
    T: Transport<Accepted: Connection>,
{
    let (sender, refused) = channel();
    let builder = builder.observer(move |event: &Event<'_>| {
        if let Event::Refused { reason, .. } = event {
            let _ = sender.send(*reason);
        }
    });
    let server = builder.build().expect("a server");
    let echo = |conn: &mut T::Accepted| {
        while conn.next_message()? {
            let bytes = conn.fill_buf()?.to_vec();
            conn.consume(bytes.len());
            conn.write_all(&bytes)?;
        }
        Ok::<_, std::io::Error>(())
    };
    (server.spawn(echo).expect("a thread"), refused)
}

/// Whether a client is served. A client that is not gets the end of the stream, and nothing else.
fn is_served(mut client: impl Read + Write) -> bool {
    // The server may have closed the connection already.
    let _ = client.write_all(b"x");
    let mut answer = [0; 2];
    match uninterrupted(|| client.read(&mut answer)) {
        Ok(0) => false,
        Ok(_) => {
            assert_eq!(answer, *b"x\0");
            true
        }
        Err(err) => {
            assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset, "{err}");
            false
        }
    }
}

fn unix(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client
}

fn networks(text: &str) -> Vec<Network> {
    Network::list(&text.replace(' ', "\n")).expect("networks")
}

#[test]
fn a_tcp_peer_is_judged_by_its_network() {
    let either = |listeners: Vec<Tcp>| {
        listeners
            .into_iter()
            .map(Either::<Tcp, socketserver::UnixStream>::Left)
    };
    let v4 = Tcp::options().bind("127.0.0.1:0").unwrap();
    let both = Tcp::options().bind("[::]:0").unwrap();
    let builder = Server::builder().listen(either(v4)).listen(either(both));
    let (server, refused) = echo(builder);
    let port = |index: usize| server.handle().local_addrs()[index].port().unwrap();
    // An address of IPv4 has its IPv6 form at the second listener.
    let peers = [
        ("127.0.0.1", port(0)),
        ("127.0.0.1", port(1)),
        ("::1", port(1)),
    ];
    let served = || {
        peers.map(|(host, port)| {
            let client = TcpStream::connect((host, port)).expect("connect");
            client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            is_served(client)
        })
    };
    assert_eq!(served(), [true; 3]);
    let set = |access: Access| server.handle().set_access(&access).unwrap();
    set(Access::new().deny(networks("127.0.0.0/8")));
    assert_eq!(served(), [false, false, true]);
    set(Access::new().allow(networks("127.0.0.0/8")));
    assert_eq!(served(), [true, true, false]);
    set(Access::new()
        .deny(networks("127.0.0.0/8"))
        .allow(networks("127.0.0.1")));
    assert_eq!(served(), [true, true, false]);
    set(Access::new().deny(networks("::/0")));
    assert_eq!(served(), [true, true, false]);
    // Users are no matter of theirs.
    set(Access::new().allow_users([]));
    assert_eq!(served(), [true; 3]);
    assert_eq!(server.handle().totals().not_allowed, 5);
    let reasons: Vec<_> = refused.try_iter().collect();
    assert_eq!(reasons, [RefuseReason::Access; 5]);
}

#[test]
fn a_unix_peer_is_judged_by_its_user_and_its_groups() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = socketserver::UnixStream::options().bind(&path).unwrap();
    let builder = Server::<socketserver::UnixStream, Threading>::builder();
    let (server, _) = echo(builder.listen([listener]));
    let served = |access: Access| {
        server.handle().set_access(&access).unwrap();
        is_served(unix(&path))
    };
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let (other_user, other_group) = (uid.wrapping_add(1), u32::MAX - 1);
    assert!(served(Access::new()));
    assert!(!served(Access::new().allow_users([])));
    assert!(!served(Access::new().allow_users([other_user])));
    assert!(served(Access::new().allow_users([other_user, uid])));
    assert!(!served(Access::new().allow_groups([other_group])));
    assert!(served(Access::new().allow_groups([other_group, gid])));
    assert!(served(Access::new().allow_users([uid]).allow_groups([])));
    assert!(!served(
        Access::new().allow_users([]).allow_groups([other_group])
    ));
    // Networks are no matter of its.
    assert!(served(Access::new().allow([])));
    assert_eq!(server.handle().totals().not_allowed, 4);
}

#[test]
fn a_connection_over_tcp_has_no_user() {
    let server = Server::<Tcp, Threading>::bind("127.0.0.1:0").unwrap();
    let (seen, wait) = channel();
    let server = server
        .spawn(move |conn| {
            let user = conn.peer_credentials().map(|peer| peer.uid);
            let groups = conn.peer_groups();
            let kinds = (
                user.map_err(|err| err.kind()),
                groups.map_err(|err| err.kind()),
            );
            seen.send(kinds).expect("the test waits");
        })
        .unwrap();
    let _client = TcpStream::connect(server.handle().local_addrs()[0].socket_addr().unwrap());
    let unsupported = std::io::ErrorKind::Unsupported;
    let seen = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(seen, (Err(unsupported), Err(unsupported)));
}

#[test]
fn datagrams_are_judged_by_their_sender() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("g");
    let unix = socketserver::UnixDatagram::options().bind(&path).unwrap();
    let udp = Udp::options().bind("127.0.0.1:0").unwrap();
    let server = Server::<Either<Udp, socketserver::UnixDatagram>, Threading>::builder()
        .listen(udp.into_iter().map(Either::Left))
        .listen([Either::Right(unix)])
        .build()
        .unwrap();
    let at = server.local_addrs()[0].socket_addr().unwrap();
    let server = server.spawn(|datagram| datagram.echo()).unwrap();
    let inet = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = directory.path().join("c");
    let local = UnixDatagram::bind(&own).unwrap();
    inet.set_read_timeout(Some(DEADLINE)).unwrap();
    local.set_read_timeout(Some(DEADLINE)).unwrap();
    let send = |text: &[u8]| {
        inet.send_to(text, at).unwrap();
        local.send_to(text, &path).unwrap();
    };
    let refused = |count| {
        poll_until("refusals", DEADLINE, || {
            (server.handle().totals().not_allowed == count).then_some(())
        });
    };
    let set = |access: Access| server.handle().set_access(&access).unwrap();
    set(Access::new()
        .allow([])
        .allow_users([rustix::process::getuid().as_raw()]));
    send(b"lost");
    refused(2);
    set(Access::new().allow(networks("127.0.0.1")));
    send(b"echoed");
    for receive in [&|buf: &mut [u8]| inet.recv(buf), &|buf: &mut [u8]| {
        local.recv(buf)
    }] as [&dyn Fn(&mut [u8]) -> std::io::Result<usize>; 2]
    {
        let mut answer = [0; 16];
        let count = uninterrupted(|| receive(&mut answer)).unwrap();
        assert_eq!(&answer[..count], b"echoed");
    }
    assert_eq!(server.handle().totals().refused, 2);
}

/// How many peers are refused, one after the other.
const REFUSALS: u64 = 10_000;

/// Refuses many clients beside one that is served, by either check, and shows that the limit is then
/// what it was.
#[test]
fn a_refusal_returns_its_permit_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for (name, reason) in [
        ("rules", RefuseReason::Access),
        ("user", RefuseReason::User),
    ] {
        let path = directory.path().join(name);
        let listener = socketserver::UnixStream::options().bind(&path).unwrap();
        let builder = Server::<socketserver::UnixStream, Threading>::builder().max_connections(2);
        let (server, refused) = echo(builder.listen([listener]));
        let handle = server.handle();
        let mut served = unix(&path);
        served.write_all(b"x").unwrap();
        served.read_exact(&mut [0]).unwrap();
        let mut limits = handle.limits();
        match reason {
            RefuseReason::User => {
                // Connections from before the limit do not count.
                drop(served);
                limits.per_user = Some(1);
                handle.set_limits(&limits).unwrap();
                poll_until("no connection is left", DEADLINE, || {
                    (handle.live() == 0).then_some(())
                });
                served = unix(&path);
                served.write_all(b"x").unwrap();
                served.read_exact(&mut [0]).unwrap();
            }
            _ => handle.set_access(&Access::new().allow_users([])).unwrap(),
        }
        for _ in 0..REFUSALS {
            assert!(!is_served(unix(&path)));
        }
        assert_eq!(handle.totals().refused, REFUSALS);
        assert!(refused.try_iter().all(|seen| seen == reason));
        // The last client sees its end a moment before its permit is free.
        poll_until("the permits are free", DEADLINE, || {
            (handle.live() == 1).then_some(())
        });
        limits.per_user = None;
        handle.set_limits(&limits).unwrap();
        handle.set_access(&Access::new()).unwrap();
        let mut second = unix(&path);
        second.write_all(b"x").unwrap();
        second.read_exact(&mut [0]).unwrap();
        assert_eq!(handle.live(), 2);
        // The third one waits until a permit is free.
        let accepted = handle.totals().accepted;
        let mut third = unix(&path);
        third
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        third.write_all(b"x").unwrap();
        assert!(third.read_exact(&mut [0]).is_err());
        assert_eq!(handle.totals().accepted, accepted);
        drop(served);
        third.set_read_timeout(Some(DEADLINE)).unwrap();
        third.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_refusal_returns_its_token_of_the_rate() {
    let directory = tempfile::tempdir().unwrap();
    for at_limit in [AtLimit::Wait, AtLimit::Refuse] {
        let path = directory.path().join(format!("{at_limit:?}"));
        let listener = socketserver::UnixStream::options().bind(&path).unwrap();
        let slowly = Rate::per(1, Duration::from_secs(3600)).burst(2);
        let builder = Server::<socketserver::UnixStream, Threading>::builder()
            .rate(slowly)
            .at_limit(at_limit)
            .access(Access::new().allow_users([]));
        let (server, refused) = echo(builder.listen([listener]));
        for _ in 0..10 {
            assert!(!is_served(unix(&path)));
            let reason = refused.recv_timeout(DEADLINE).unwrap();
            assert_eq!(reason, RefuseReason::Access);
        }
        server.handle().set_access(&Access::new()).unwrap();
        assert!(is_served(unix(&path)) && is_served(unix(&path)));
    }
}

#[test]
fn too_many_rules_are_refused_whole() {
    let one = Network::from(IpAddr::from([127, 0, 0, 1]));
    let many = Access::new().deny(std::iter::repeat_n(one, Access::NETWORKS_MAX + 1));
    let build = Server::<Tcp>::builder()
        .access(many.clone())
        .bind("127.0.0.1:0");
    let err = build.map(drop).unwrap_err().to_string();
    assert!(err.contains("100001 networks"), "{err}");
    let server = Server::<Tcp, Threading>::bind("127.0.0.1:0").unwrap();
    let err = server.handle().set_access(&many).unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::InvalidInput);
    let server = server.spawn(|conn| conn.write_all(b"served")).unwrap();
    let client = TcpStream::connect(server.handle().local_addrs()[0].socket_addr().unwrap());
    let mut answer = String::new();
    client.unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "served", "the rules from before are in force");
}

/// How many mutations of each file of the corpus are read; `FUZZ_ROUNDS` has another number.
const ROUNDS: u32 = 3000;

/// Lists of networks with errors: each is read, or its error names a line that there is.
#[test]
fn a_mutated_list_is_read_or_named() {
    let rounds =
        std::env::var("FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/networks");
    let mut corpus: Vec<_> = std::fs::read_dir(folder).expect("a corpus").collect();
    corpus.sort_by_key(|entry| entry.as_ref().expect("an entry").file_name());
    let corpus: Vec<_> = corpus
        .into_iter()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(corpus.len() >= 7);
    let mut random = Random(0x5eed);
    let (mut read, mut wrong) = (0, 0);
    for original in &corpus {
        for _ in 0..rounds {
            let mut bytes = original.clone();
            for _ in 0..=random.below(4) {
                mutate(&mut bytes, &corpus, &mut random);
            }
            let text = String::from_utf8_lossy(&bytes);
            match Network::list(&text) {
                Ok(networks) => {
                    check(&networks, &mut random);
                    read += 1;
                }
                Err(err) => {
                    let err = err.to_string();
                    let line = err
                        .strip_prefix("line ")
                        .and_then(|rest| rest.split(':').next());
                    let line: usize = line.expect("a line").parse().expect("a number");
                    assert!((1..=text.lines().count()).contains(&line), "{err}");
                    assert!(err.len() < 1000 && !err.contains('\n'), "{err}");
                    wrong += 1;
                }
            }
        }
    }
    assert!(
        read > rounds / 4 && wrong > rounds / 4,
        "{read} lists were read, {wrong} not"
    );
}

/// Each network is what its text says, and contains its first address.
fn check(networks: &[Network], random: &mut Random) {
    for network in networks {
        assert_eq!(network.to_string().parse(), Ok(*network));
        assert_eq!(
            Network::new(network.address(), network.prefix()),
            Ok(*network)
        );
        assert!(network.contains(network.address()));
    }
    let ip = IpAddr::from((u128::from(random.next()) << 96).to_be_bytes());
    let is_in = networks.iter().any(|network| network.contains(ip));
    let expected = networks.iter().any(|network| match network.address() {
        IpAddr::V4(_) => false,
        IpAddr::V6(first) => {
            let bits = |ip: std::net::Ipv6Addr| {
                u128::from(ip).checked_shr(128 - u32::from(network.prefix()))
            };
            let IpAddr::V6(ip) = ip else { return false };
            bits(ip).unwrap_or(0) == bits(first).unwrap_or(0)
        }
    });
    assert_eq!(is_in, expected);
}

/// A linear congruential generator (Knuth).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound.max(1)
    }
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    const TOKENS: [&[u8]; 10] = [
        b"/", b"::", b".", b"#", b"\n", b"ffff", b"/0", b"/128", b"255", b"\r\n",
    ];
    let at = random.below(bytes.len() + 1);
    match random.below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => drop(bytes.remove(at)),
        2 => bytes.truncate(at),
        3 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let part: Vec<u8> = other[from..].to_vec();
            bytes.truncate(at);
            bytes.extend(part);
        }
        4 => bytes.insert(at, random.next() as u8),
        _ => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
    }
}
