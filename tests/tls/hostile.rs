//! Peers that do not keep to the protocol.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use socketserver::observe::{AbortReason, Activity};
use socketserver::{Connection, ServerGuard, ThreadPool};

use crate::support::{DEADLINE, poll_until, uninterrupted};
use crate::{Conn, Setup, ask, builder, connect, plain, spawn};

/// A failure: its text, and why the server has aborted the connection.
type Failed = (String, Option<AbortReason>);

/// Serves lines; reports failures.
fn serve(setup: &Setup, handshake: Duration) -> (ServerGuard, SocketAddr, Receiver<Failed>) {
    let tls = setup.options().build().expect("TLS");
    let (failures, wait) = channel();
    let builder = builder(&tls)
        .handshake_timeout(handshake)
        .on_error(move |failure| {
            let failed = (failure.error().to_string(), failure.abort_reason());
            failures.send(failed).expect("the test waits");
        });
    let (guard, address) = spawn(builder, echo_line);
    (guard, address, wait)
}

fn echo_line(conn: &mut Conn) -> io::Result<()> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 100)?;
    conn.write_all(line.as_bytes())
}

/// The error that the server reports about a client that sends these bytes.
fn report(address: SocketAddr, wait: &Receiver<Failed>, bytes: &[u8]) -> String {
    let mut client = plain(address);
    // The server may end the connection amid the bytes.
    let _ = client.write_all(bytes);
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.read_to_end(&mut Vec::new());
    wait.recv_timeout(DEADLINE).expect("a report").0
}

#[test]
fn what_is_not_tls_is_refused() {
    let setup = Setup::new();
    let (_guard, address, wait) = serve(&setup, DEADLINE);
    let text = report(address, &wait, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(
        text,
        "TLS handshake: the peer does not speak TLS: its first bytes are \"GET / HTTP/1.1\\r\\n\""
    );
    for byte in [0, 0x13, 0x16, 0x17, 0x7f, 0xff] {
        let text = report(address, &wait, &[byte; 20_000]);
        assert!(text.starts_with("TLS handshake: "), "{byte}: {text}");
    }
    // A record that is larger than records may be, and a handshake message that is.
    for header in [
        [0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff],
        [0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff],
    ] {
        let mut bytes = header.to_vec();
        bytes.resize(70_000, 0);
        let text = report(address, &wait, &bytes);
        assert!(text.starts_with("TLS handshake: "), "{text}");
    }
    let good = ask(&mut connect(address, &setup.client(), "localhost"), "good");
    assert_eq!(good.unwrap(), "good\n");
}

/// The bytes that a client sends in its handshake, step by step.
fn steps(address: SocketAddr, setup: &Setup) -> Vec<Vec<u8>> {
    let mut client = connect(address, &setup.client(), "localhost");
    client
        .conn
        .writer()
        .write_all(b"good\n")
        .expect("a handshake");
    let mut steps = Vec::new();
    while client.conn.is_handshaking() || client.conn.wants_write() {
        let mut step = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut step).expect("a handshake");
        }
        client.sock.write_all(&step).expect("a handshake");
        steps.push(step);
        if client.conn.is_handshaking() {
            uninterrupted(|| client.conn.read_tls(&mut client.sock)).expect("a handshake");
            client.conn.process_new_packets().expect("a handshake");
        }
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("a handshake");
    assert_eq!(answer, "good\n");
    steps
}

#[test]
fn a_client_that_stops_in_its_handshake_ends_alone() {
    let setup = Setup::new();
    let (guard, address, wait) = serve(&setup, DEADLINE);
    let hello = steps(address, &setup).remove(0);
    for sent in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        let text = report(address, &wait, &hello[..sent]);
        assert_eq!(text, "the peer has ended the stream amid the TLS handshake");
    }
    // After the server's answer, with none of its own, or a part of one.
    for sent in [0, 1, 40] {
        let mut client = connect(address, &setup.client(), "localhost");
        client.conn.write_tls(&mut client.sock).unwrap();
        while client.conn.is_handshaking() {
            uninterrupted(|| client.conn.read_tls(&mut client.sock)).unwrap();
            client.conn.process_new_packets().unwrap();
        }
        let mut last = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut last).unwrap();
        }
        client.sock.write_all(&last[..sent]).unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        let (text, _) = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(text, "the peer has ended the stream amid the TLS handshake");
    }
    let good = ask(&mut connect(address, &setup.client(), "localhost"), "good");
    assert_eq!(good.unwrap(), "good\n");
    guard.stop().unwrap();
}

#[test]
fn a_handshake_has_a_deadline_in_each_of_its_steps() {
    let setup = Setup::new();
    let (_patient, address, _) = serve(&setup, DEADLINE);
    let hello = steps(address, &setup).remove(0);
    let (_guard, address, wait) = serve(&setup, Duration::from_millis(100));
    for sent in [0, 1, hello.len() - 1, hello.len()] {
        let mut client = plain(address);
        // The deadline may have passed.
        let _ = client.write_all(&hello[..sent]);
        let (_, reason) = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(reason, Some(AbortReason::Handshake));
    }
}

#[test]
fn a_client_that_sends_all_at_once_is_served() {
    let setup = Setup::new();
    let (_guard, address, _wait) = serve(&setup, DEADLINE);
    let mut client = connect(address, &setup.client(), "localhost");
    client.conn.write_tls(&mut client.sock).unwrap();
    while client.conn.is_handshaking() {
        uninterrupted(|| client.conn.read_tls(&mut client.sock)).unwrap();
        client.conn.process_new_packets().unwrap();
    }
    client.conn.writer().write_all(b"all\n").unwrap();
    client.conn.send_close_notify();
    let mut all = Vec::new();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut all).unwrap();
    }
    client.sock.write_all(&all).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all\n");
}

#[test]
fn a_forged_record_after_the_handshake_ends_the_connection() {
    let setup = Setup::new();
    let (_guard, address, wait) = serve(&setup, DEADLINE);
    let mut client = connect(address, &setup.client(), "localhost");
    client.conn.complete_io(&mut client.sock).unwrap();
    let record = [[0x17, 3, 3, 0, 32].to_vec(), vec![7; 32]].concat();
    (&client.sock).write_all(&record).unwrap();
    let (text, reason) = wait.recv_timeout(DEADLINE).unwrap();
    assert!(text.contains("decrypt"), "{text}");
    assert_eq!(reason, None);
    // The alert says why.
    let err = uninterrupted(|| client.read(&mut [0])).unwrap_err();
    assert!(err.to_string().contains("BadRecordMac"), "{err}");
}

/// How many silent clients there are, and how many that send a byte at a time.
const MANY: usize = 1000;

/// Asks as a good client does, and returns how long that took.
fn good(address: SocketAddr, config: &rustls::ClientConfig) -> Duration {
    let start = Instant::now();
    let answer = ask(&mut connect(address, config, "localhost"), "good");
    assert_eq!(answer.expect("an answer"), "good\n");
    start.elapsed()
}

/// Clients that the pool has to endure.
struct Crowd {
    address: SocketAddr,
    hello: Vec<u8>,
    dripping: Vec<TcpStream>,
    sent: usize,
    /// They stay: silent ones, and ones that have stopped within a message or after it.
    silent: Vec<TcpStream>,
}

impl Crowd {
    fn come(address: SocketAddr, hello: Vec<u8>) -> Self {
        let come = || (0..MANY).map(|_| plain(address)).collect();
        Self {
            address,
            hello,
            dripping: come(),
            sent: 0,
            silent: come(),
        }
    }

    /// Sends the next byte of so many of the dripping clients, which take turns.
    fn drip(&mut self, count: usize) {
        for number in self.sent..self.sent + count {
            // None of them ends its message.
            let byte = self.hello[number / MANY % (self.hello.len() - 1)];
            let client = &mut self.dripping[number % MANY];
            client.write_all(&[byte]).expect("a byte");
        }
        self.sent += count;
    }

    /// Comes with clients that send what is no handshake, or a part of one.
    fn misbehave(&mut self) {
        let oversized = [[0x16, 3, 1, 0xff, 0xff].as_slice(), &[0; 70_000]].concat();
        let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for bytes in [&[0xa5; 20_000], &oversized[..], http] {
            // The server may end the connection amid the bytes.
            let _ = plain(self.address).write_all(bytes);
        }
        let whole = self.hello.len();
        for sent in [1, 5, whole / 2, whole] {
            let mut client = plain(self.address);
            client.write_all(&self.hello[..sent]).expect("a part");
            self.silent.push(client);
        }
    }
}

/// `HOSTILE_ROUNDS` is how many good clients are timed before the crowd, and amid it.
#[test]
fn a_pool_serves_good_clients_amid_a_thousand_of_each_kind() {
    // Both ends of each connection are in this process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let builder = builder(&tls)
        .model(ThreadPool::new(8))
        .max_connections(10_000)
        .handshake_timeout(20 * DEADLINE);
    let (guard, address) = spawn(builder, echo_line);
    let hello = steps(address, &setup).remove(0);
    let rounds = std::env::var("HOSTILE_ROUNDS").map_or(20, |text| text.parse().unwrap());
    let config = setup.client();
    let mut quiet: Vec<_> = (0..rounds).map(|_| good(address, &config)).collect();
    let mut crowd = Crowd::come(address, hello);
    crowd.drip(MANY);
    crowd.misbehave();
    poll_until("clients in their handshake", DEADLINE, || {
        let connections = guard.handle().connections();
        let shaking = connections
            .iter()
            .filter(|it| it.activity == Activity::Handshake);
        (shaking.count() >= 2 * MANY).then_some(())
    });
    let time = |round| {
        crowd.drip(1);
        if round % 10 == 0 {
            crowd.misbehave();
        }
        good(address, &config)
    };
    let mut amid: Vec<_> = (0..rounds).map(time).collect();
    quiet.sort();
    amid.sort();
    let p99 = |times: &[Duration]| times[(times.len() * 99).div_ceil(100) - 1];
    let median = |times: &[Duration]| times[times.len() / 2];
    eprintln!(
        "{rounds} good clients: median {:?}, p99 {:?}; amid {} hostile ones: median {:?}, p99 {:?}",
        median(&quiet),
        p99(&quiet),
        crowd.dripping.len() + crowd.silent.len(),
        median(&amid),
        p99(&amid),
    );
    drop(crowd);
    guard.stop().unwrap();
}
