//! Several upstreams: which one is next, what happens to those that cannot be reached, and checks.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, DEADLINE, command_after, poll_until};
use crate::{
    LOCAL, MODELS, Upstream, closed_port, ending, expect, half_close, line_with, proxy,
    proxy_command, ready, rest, stop, tcp,
};

/// What a client of the proxy receives.
fn answer(url: &str) -> String {
    String::from_utf8(rest(&mut tcp(url))).expect("UTF-8")
}

#[test]
fn connections_go_round() {
    let upstreams = ["one", "two", "three"].map(|name| Upstream::new().greets(name).0);
    let to = upstreams.each_ref().map(String::as_str);
    for model in MODELS {
        let proxy = proxy(&format!("--model {model}"), &to, &[LOCAL]);
        let mut answers: Vec<_> = (0..9).map(|_| answer(&proxy.urls[0])).collect();
        // All processes take turns together.
        answers.sort();
        let expected = ["one", "three", "two"].map(|name| [name; 3]).concat();
        assert_eq!(answers, expected, "{model}");
        stop(proxy);
    }
}

#[test]
fn the_upstream_with_the_fewest_connections_is_next() {
    for model in [
        "threading",
        "forking",
        "prefork --workers 2",
        "coroutines --workers 2",
    ] {
        let (one, two) = (Upstream::new(), Upstream::new());
        let words = format!("--log --balance least-connections --model {model}");
        let proxy = proxy(&words, &[&one.url, &two.url], &[LOCAL]);
        let mut ones = Vec::new();
        let mut twos = Vec::new();
        for _ in 0..3 {
            for _ in 0..2 {
                let client = tcp(&proxy.urls[0]);
                let (upstream, server) = poll_until("an upstream is asked", DEADLINE, || {
                    let of = |upstream: &Upstream| upstream.has_connection();
                    of(&one)
                        .map(|server| (1, server))
                        .or_else(|| of(&two).map(|server| (2, server)))
                });
                let all = if upstream == 1 { &mut ones } else { &mut twos };
                all.push((client, server));
            }
            assert_eq!(ones.len(), twos.len(), "{model}");
        }
        for (client, server) in ones.drain(..2) {
            drop((client, server));
            line_with(&proxy.process, &["was forwarded"]);
        }
        for _ in 0..2 {
            ones.push((tcp(&proxy.urls[0]), one.accept()));
        }
        drop((ones, twos));
        stop(proxy);
    }
}

#[test]
fn another_upstream_is_tried_and_the_failed_one_is_set_aside() {
    let (there, _thread) = Upstream::new().greets("there");
    for model in MODELS {
        let (socket, gone) = closed_port();
        let words = format!("--retry-after 100 --model {model}");
        let proxy = proxy(&words, &[&gone, &there], &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "there", "{model}");
        // It has come back, and is left alone for a while.
        socket.listen(8).expect("listen");
        let back = Upstream {
            listener: socket.into(),
            url: gone.clone(),
        };
        for _ in 0..6 {
            assert_eq!(answer(&proxy.urls[0]), "there", "{model}");
        }
        assert!(back.has_connection().is_none(), "{model}");
        let lines = stop(proxy);
        let set_aside = |line: &&String| line.contains("cannot be reached, and is set aside");
        let about: Vec<_> = lines.iter().filter(set_aside).collect();
        assert_eq!(about.len(), 1, "{model}: {lines:?}");
        assert!(about[0].contains(&gone), "{about:?}");
    }
}

#[test]
fn a_client_of_no_upstream_gets_the_end_of_the_stream() {
    for model in MODELS {
        let ((_one, one), (_two, two)) = (closed_port(), closed_port());
        let gone = [one, two, "unix:@there-is-none".to_owned()];
        let to = gone.each_ref().map(String::as_str);
        let proxy = proxy(&format!("--model {model}"), &to, &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "", "{model}");
        let line = line_with(&proxy.process, &["no upstream could be reached"]);
        for url in gone {
            assert!(line.contains(&url), "{line}");
        }
        // Upstreams that are set aside are tried all the same, where there are no others.
        assert_eq!(answer(&proxy.urls[0]), "", "{model}");
        stop(proxy);
    }
}

#[test]
fn an_upstream_comes_back() {
    let (socket, url) = closed_port();
    let proxy = proxy("--retry-after 100", &[&url], &[LOCAL]);
    assert_eq!(answer(&proxy.urls[0]), "");
    line_with(&proxy.process, &[&url, "cannot be reached"]);
    socket.listen(8).expect("listen");
    let back = Upstream {
        listener: socket.into(),
        url: url.clone(),
    };
    let (_, _thread) = back.greets("back");
    assert_eq!(answer(&proxy.urls[0]), "back");
    line_with(&proxy.process, &[&url, "can be reached again"]);
    stop(proxy);
}

/// Clients may cause that, as by the use of all local ports.
#[test]
fn an_upstream_that_comes_and_goes_is_a_line_a_second() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let [there, gone] = ["there", "gone"].map(|name| folder.path().join(name));
    let listener = UnixListener::bind(&there).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"there"));
        }
    });
    for model in ["threading", "prefork --workers 2", "forking"] {
        let start = Instant::now();
        let to = format!("unix://{}", there.display());
        let proxy = proxy(&format!("--model {model}"), &[&to], &[LOCAL]);
        let (mut rounds, mut has_count) = (0, false);
        let (mut aside, mut again) = (0, 0);
        while rounds < 10 || !has_count {
            fs::rename(&there, &gone).expect("rename");
            assert_eq!(answer(&proxy.urls[0]), "", "{model}");
            fs::rename(&gone, &there).expect("rename");
            assert_eq!(answer(&proxy.urls[0]), "there", "{model}");
            rounds += 1;
            assert!(rounds < 100_000, "{model}: no count");
            while let Some(line) = proxy.process.line_within(Duration::ZERO) {
                let is_aside = line.contains("cannot be reached, and is set aside");
                has_count |= is_aside && line.ends_with(" more since the last report)");
                aside += u64::from(is_aside);
                again += u64::from(line.contains("can be reached again"));
                let most = start.elapsed().as_secs() + 2;
                assert!(
                    aside <= most && again <= aside,
                    "{model}: {aside}, {again}: {line}"
                );
            }
        }
        stop(proxy);
    }
}

/// A listener whose backlog is full: the kernel drops what else comes.
fn black_hole() -> (Socket, Vec<Socket>, String) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).expect("bind");
    listener.listen(0).expect("listen");
    let address = listener.local_addr().expect("bound");
    let url = format!(
        "tcp://{}",
        address.as_socket().expect("an internet address")
    );
    let mut waiting = Vec::new();
    loop {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let connected = client.connect_timeout(&address, Duration::from_millis(200));
        waiting.push(client);
        if connected.is_err() {
            return (listener, waiting, url);
        }
    }
}

#[test]
fn an_upstream_that_does_not_answer_is_given_up() {
    let (there, _thread) = Upstream::new().greets("there");
    let (_listener, _waiting, url) = black_hole();
    for model in MODELS {
        let words = format!("--connect-timeout 0.3 --model {model}");
        let proxy = proxy(&words, &[&url, &there], &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "there", "{model}");
        line_with(&proxy.process, &[&url, "is set aside", "timed out"]);
        stop(proxy);
    }
}

/// The deadline of a client says nothing of the upstream that it waits for.
#[test]
fn an_abort_while_it_connects_sets_nothing_aside() {
    let (there, _thread) = Upstream::new().greets("there");
    let (_listener, _waiting, url) = black_hole();
    for model in MODELS {
        let words = format!("--log --lifetime 1 --connect-timeout 20 --model {model}");
        let proxy = proxy(&words, &[&url, &there], &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "", "{model}");
        // The deadline may end a client of the other upstream too, and the next one comes to the full backlog again.
        poll_until("the other upstream answers", DEADLINE, || {
            (ending(&tcp(&proxy.urls[0])).0 == b"there").then_some(())
        });
        let lines = stop(proxy);
        let aside = lines.iter().find(|line| line.contains("set aside"));
        assert_eq!(aside, None, "{model}");
    }
}

/// A shortage of descriptors is not the fault of an upstream.
#[test]
fn a_shortage_is_reported_with_its_reason() {
    let (url, _thread) = Upstream::new().greets("there");
    let words = format!("proxy --model sequential --to {url}");
    let start = |shell: &str| ready(command_after(shell, &words, &[LOCAL]), 1);
    let usual = start(":");
    let open = fs::read_dir(format!("/proc/{}/fd", usual.process.id())).expect("list");
    let open: Vec<_> = open
        .map(|entry| entry.expect("a descriptor").file_name())
        .collect();
    // The first free number is that of the client.
    let mut free = (0..).filter(|number: &u32| !open.contains(&number.to_string().into()));
    let limit = free.nth(1).expect("a free number");
    stop(usual);
    let proxy = start(&format!("ulimit -n {limit}"));
    assert_eq!(answer(&proxy.urls[0]), "");
    line_with(
        &proxy.process,
        &[&format!("reach {url}: "), "Too many open files"],
    );
    stop(proxy);
}

#[test]
fn a_name_is_resolved_at_each_connection() {
    let (url, _thread) = Upstream::new().greets("named");
    let port = url.rsplit_once(':').expect("a port").1;
    for model in MODELS {
        // It may have an IPv6 address too, where nothing listens.
        let to = format!("tcp://localhost:{port}");
        let proxy = proxy(&format!("--model {model}"), &[&to], &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "named", "{model}");
        stop(proxy);
    }
    let none = "tcp://there-is-none.invalid:80";
    let proxy = proxy("", &[none, &url], &[LOCAL]);
    assert_eq!(answer(&proxy.urls[0]), "named");
    line_with(&proxy.process, &[none, "is set aside"]);
    stop(proxy);
}

#[test]
fn checks_find_an_upstream_that_has_gone_and_that_has_come() {
    let (there, _thread) = Upstream::new().greets("there");
    for model in [
        "sequential",
        "threading",
        "pool",
        "prefork --workers 2",
        "coroutines",
        "prefork:coroutines",
    ] {
        // It keeps the port while nothing listens.
        let (_port, url) = closed_port();
        let address = url.strip_prefix("tcp://").expect("TCP");
        let listen = || Upstream {
            listener: TcpListener::bind(address).expect("bind"),
            url: url.clone(),
        };
        let upstream = listen();
        let words = format!("--check-interval 0.05 --model {model}");
        let proxy = proxy(&words, &[&there, &url], &[LOCAL]);
        assert_eq!(answer(&proxy.urls[0]), "there", "{model}");
        // A check, not a client.
        drop(upstream.accept());
        drop(upstream);
        line_with(&proxy.process, &[address, "cannot be reached"]);
        let upstream = listen();
        line_with(&proxy.process, &[address, "can be reached again"]);
        drop(upstream);
        stop(proxy);
    }
}

/// A relay has several descriptors.
#[test]
fn a_low_soft_limit_on_descriptors_is_raised() {
    for model in ["threading", "coroutines --workers 2"] {
        let upstream = Upstream::new();
        let words = format!("proxy --model {model} --to {}", upstream.url);
        let proxy = ready(command_after("ulimit -Sn 128", &words, &[LOCAL]), 1);
        let relays: Vec<_> = (0..80)
            .map(|_| (tcp(&proxy.urls[0]), upstream.accept()))
            .collect();
        for (client, server) in &relays {
            (&*client).write_all(b"x").expect("write");
            expect(&mut &*server, b"x");
        }
        drop(relays);
        stop(proxy);
    }
}

#[test]
fn a_low_hard_limit_on_descriptors_loses_no_connection() {
    for model in ["threading", "coroutines --workers 2"] {
        let upstream = Upstream::new();
        let words = format!("proxy --model {model} --to {}", upstream.url);
        let proxy = ready(command_after("ulimit -n 200", &words, &[LOCAL]), 1);
        let clients: Vec<_> = (0..120).map(|_| tcp(&proxy.urls[0])).collect();
        for client in &clients {
            (&*client).write_all(b"x").expect("write");
            half_close(client);
        }
        // Each ends a relay, and another client takes its place.
        for _ in &clients {
            assert_eq!(rest(&mut upstream.accept()), b"x", "{model}");
        }
        let lines = stop(proxy);
        let short = lines.iter().find(|line| line.contains("open files"));
        assert_eq!(short, None, "{model}");
    }
    let words = "proxy --max-connections 50 --model threading --to tcp://127.0.0.1:1";
    let process = crate::Process::start(command_after("ulimit -n 200", words, &[LOCAL]));
    let note = line_with(&process, &["--max-connections 50 is too large"]);
    assert!(note.contains("enough for 18"), "{note}");
}

#[test]
fn silent_peers_are_probed() {
    let upstream = Upstream::new();
    let proxy = proxy("--keep-alive 60", &[&upstream.url], &[LOCAL]);
    let client = tcp(&proxy.urls[0]);
    let server = upstream.accept();
    let ss = fs::read_to_string("/proc/net/tcp").expect("the sockets of this host");
    // The timer of a socket: 02 is that of probes (proc_net_tcp in net/ipv4/tcp_ipv4.c).
    let port = |stream: &TcpStream| stream.peer_addr().expect("connected").port();
    for ours in [port(&client), port(&server)] {
        let local = format!(":{ours:04X}");
        let mut lines = ss
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let probed = lines.any(|cells| {
            cells.len() > 5
                && cells[1].ends_with(&local)
                && cells[3] == "01"
                && cells[5].starts_with("02")
        });
        assert!(probed, "port {ours}: {ss}");
    }
    (&client).write_all(b"x").expect("write");
    expect(&mut &server, b"x");
    drop((client, server));
    stop(proxy);
}

/// Words, upstreams and a listener that do not go together, and a part of the error.
const WRONG: &[(&str, &[&str], &str, &str)] = &[
    (
        "",
        &["tcp://127.0.0.1:1", UDP],
        LOCAL,
        "upstreams are of several kinds",
    ),
    ("", &[UDP], LOCAL, "are of different kinds"),
    ("", &["seqpacket:@x"], LOCAL, "are of different kinds"),
    ("", &["tcp://127.0.0.1:0"], LOCAL, "from 1 to 65535"),
    ("", &["fd://3"], LOCAL, "an upstream is"),
    ("", &["tcp://127.0.0.1:1?x"], LOCAL, "has no options"),
    (
        "--to-name x",
        &["tcp://127.0.0.1:1"],
        LOCAL,
        "are for tls:// upstreams",
    ),
    (
        "--send-proxy v1",
        &[UDP],
        "udp://127.0.0.1:0",
        "has no datagrams",
    ),
    (
        "--send-proxy v2",
        &["seqpacket:@x"],
        "seqpacket:@y",
        "not for seqpacket",
    ),
    (
        "--max-sessions 5",
        &["tcp://127.0.0.1:1"],
        LOCAL,
        "are for datagrams",
    ),
    (
        "--model forking",
        &[UDP],
        "udp://127.0.0.1:0",
        "several processes",
    ),
    (
        "--model prefork",
        &[UDP],
        "udp://127.0.0.1:0",
        "several processes",
    ),
    (
        "--check-interval 1",
        &[UDP],
        "udp://127.0.0.1:0",
        "not for datagrams",
    ),
    (
        "--check-interval 1 --model forking",
        &["tcp://127.0.0.1:1"],
        LOCAL,
        "not for the model forking",
    ),
    (
        "--connect-timeout 0",
        &["tcp://127.0.0.1:1"],
        LOCAL,
        "above 0",
    ),
    ("", &[], LOCAL, "--to <URL>"),
];

const UDP: &str = "udp://127.0.0.1:9";

#[test]
fn wrong_usage_is_an_error_at_the_start() {
    for (words, to, listen, why) in WRONG {
        let mut process = crate::Process::start(proxy_command(words, to, &[listen]));
        let exit = process.exit();
        assert_eq!((exit.code, exit.stderr.len()), (Some(2), 1), "{exit:?}");
        assert!(exit.stderr[0].starts_with("socketserver: "), "{exit:?}");
        assert!(exit.stderr[0].contains(why), "{words} {to:?}: {exit:?}");
    }
}

#[test]
fn an_adopted_socket_of_another_kind_is_an_error() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let words = "proxy --to tcp://127.0.0.1:1";
    let command = crate::support::command_with(socket, words, &["fd://3"]);
    let exit = crate::Process::start(command).exit();
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(
        exit.stderr[0].contains("are of different kinds"),
        "{exit:?}"
    );
}

#[test]
fn a_proxy_does_not_forward_to_itself() {
    let name = format!("unix:{}", crate::support::unique_name());
    let exit = crate::Process::start(proxy_command("", &[&name], &[&name])).exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stderr[0].contains("is the listener itself"),
        "{exit:?}"
    );
}

#[test]
fn files_of_tls_are_read_at_the_start() {
    let to = ["tls://127.0.0.1:1"];
    let mut process = crate::Process::start(proxy_command("--to-ca /nowhere.pem", &to, &[LOCAL]));
    let exit = process.exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr[0].contains("/nowhere.pem"), "{exit:?}");
}

#[test]
fn the_client_may_be_any() {
    let (url, _thread) = Upstream::new().greets("hello");
    let proxy = proxy("", &[&url], &[LOCAL]);
    let mut client = Client::connect(&proxy.urls[0]);
    assert_eq!(client.receive(10), b"hello");
    drop(client);
    stop(proxy);
}
