//! One test for each defect that was found and fixed; each failed before.

use std::fs;
use std::io::{self, BufRead, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use socketserver::net::{AcceptBatch, Managed};
use socketserver::net::{Accepted, Address, Bind, Context, TcpConnection, Transport, UnixAddress};
use socketserver::python::TcpServer;
use socketserver::{Connection, Datagram, Next, Server, Tcp, Threading, UnixDatagram};

use crate::script::Calls;
use crate::support::{Client, DEADLINE, Target, uninterrupted};

/// A listener that is always ready and never yields anything.
struct Barren {
    ready: PipeReader,
    calls: Arc<Calls>,
    _writer: PipeWriter,
}

/// The type that it would yield.
struct Nothing(Context);

impl AsFd for Barren {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Transport for Barren {
    type Accepted = Nothing;

    const SCHEME: &'static str = "barren";

    fn local_addr(&self) -> Address {
        Address::Named("nothing".to_owned())
    }

    fn accept(&self, _: &mut AcceptBatch<'_, Nothing>) -> io::Result<()> {
        self.calls.note();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Accepted for Nothing {
    fn context(&self) -> &Context {
        &self.0
    }

    fn peer(&self) -> Address {
        Address::Named("nobody".to_owned())
    }
}

impl Managed for Nothing {}

/// The accept loop spun: a socket that is shut down always polls as readable.
#[test]
fn a_listener_that_is_ready_and_yields_nothing_does_not_spin() {
    let (ready, mut writer) = io::pipe().unwrap();
    writer.write_all(&[0]).unwrap();
    let calls = Arc::<Calls>::default();
    let barren = Barren {
        ready,
        calls: Arc::clone(&calls),
        _writer: writer,
    };
    let guard = Server::<Barren>::builder()
        .listen([barren])
        .build()
        .unwrap()
        .spawn(|_| ())
        .unwrap();
    calls.wait_for(130);
    guard.stop().unwrap();
    let calls = calls.all();
    assert!(
        calls[64].time - calls[63].time >= Duration::from_millis(5),
        "a pause after 64 in a row"
    );
    assert!(
        calls[128].time - calls[127].time >= Duration::from_millis(10),
        "and a longer one after the next 64"
    );
}

/// The handler saw the end of the input, and took half an upload for the whole.
#[test]
fn an_abort_is_a_timeout_and_not_the_end_of_the_input() {
    let server = Server::<Tcp>::builder()
        .model(Threading::default())
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let (results, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            let mut first = [0];
            conn.read_exact(&mut first)?;
            results.send(None).unwrap();
            let read = conn.read_to_end(&mut Vec::new()).map_err(|err| err.kind());
            let written = conn.write(b"x").map_err(|err| err.kind());
            results.send(Some((read, written))).unwrap();
            Ok::<(), io::Error>(())
        })
        .unwrap();
    let mut client = target.connect();
    client.write_all(b"half an upload").unwrap();
    assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), None);
    guard.handle().shutdown_within(Duration::ZERO);
    let aborted = Err(io::ErrorKind::TimedOut);
    assert_eq!(
        wait.recv_timeout(DEADLINE).unwrap(),
        Some((aborted, Err(io::ErrorKind::TimedOut)))
    );
    assert_eq!(guard.join().unwrap().aborted, 1);
}

/// A connection that was accepted after an aborted one was served for as long as its client liked.
#[test]
fn a_sequential_server_aborts_what_it_accepts_after_its_deadline() {
    let server = Server::<Tcp>::builder()
        .listen(Tcp::bind("127.0.0.1:0").unwrap())
        .listen(Tcp::bind("127.0.0.1:0").unwrap())
        .build()
        .unwrap();
    let targets: Vec<_> = server.urls().iter().map(|url| Target::parse(url)).collect();
    let _silent: Vec<_> = targets.iter().map(Target::connect).collect();
    let (serving, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            serving.send(()).unwrap();
            conn.fill_buf().map(|_| ())
        })
        .unwrap();
    wait.recv_timeout(DEADLINE).unwrap();
    guard.handle().shutdown_within(Duration::from_millis(1));
    // Serving ends; the second client is aborted too, or not accepted.
    assert!(guard.join().unwrap().aborted >= 1);
}

/// Serving never ended.
#[test]
fn handle_request_fails_when_no_listener_is_left() {
    // After shutdown(2), a TCP listener does not listen any more: accept(2) returns EINVAL.
    let broken = Tcp::bind("127.0.0.1:0").unwrap().remove(0);
    socket2::SockRef::from(&broken)
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
    let mut server = Server::<Tcp>::builder().listen([broken]).build().unwrap();
    let err = server.handle_request(None, |_| ()).unwrap_err();
    assert!(
        err.to_string().contains("every listener has failed"),
        "{err}"
    );
}

/// A peer that did not read its replies kept the others waiting for a second each.
#[test]
fn a_unix_peer_that_does_not_read_delays_no_reply() {
    let name = format!("socketserver-deaf-{}", std::process::id());
    let address = UnixAddress::Abstract(name.clone().into_bytes());
    let server = Server::<UnixDatagram>::builder()
        .listen(UnixDatagram::bind(address).unwrap())
        .build()
        .unwrap();
    let guard = server.spawn(|datagram| datagram.echo()).unwrap();
    use std::os::linux::net::SocketAddrExt;
    let address = |name: String| std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let client = |label: &str| {
        let client =
            std::os::unix::net::UnixDatagram::bind_addr(&address(format!("{name}-{label}")))
                .unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_write_timeout(Some(DEADLINE)).unwrap();
        client
    };
    let (deaf, polite) = (client("deaf"), client("polite"));
    let server = address(name.clone());
    // More datagrams than the queue of the deaf peer holds (net.unix.max_dgram_qlen), and then a
    // hundred more: at a second for each of those, the server would not answer the polite peer
    // within the deadline.
    let queue = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    let queue: u64 = queue.trim().parse().unwrap();
    let most = queue + 100;
    let end = Instant::now() + DEADLINE;
    for _ in 0..most {
        deaf.send_to_addr(b"x", &server).unwrap();
        assert!(Instant::now() < end, "it waits for the deaf one");
    }
    polite.send_to_addr(b"hello", &server).unwrap();
    let mut reply = [0; 10];
    assert_eq!(uninterrupted(|| polite.recv(&mut reply)).unwrap(), 5);
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    // Dropped replies are reported. The queue holds one more than its limit.
    let failed = handle.totals().failed;
    assert!((90..=most).contains(&failed), "{failed} of {most}");
}

/// They were closed: parked connections that woke together were also ended together.
#[test]
fn parked_connections_that_wake_together_are_parked_again() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let (held, wait) = channel();
    let (release, released) = channel::<()>();
    let released = std::sync::Mutex::new(released);
    let handler = move |conn: &mut TcpConnection| {
        let mut line = String::new();
        if conn.read_line_max(&mut line, 100)? == 0 {
            return Ok(Next::Close);
        }
        if line == "hold\n" {
            held.send(()).unwrap();
            released.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
        conn.write_all(line.as_bytes())?;
        Ok::<_, io::Error>(Next::Park)
    };
    let _guard = server.spawn(handler).unwrap();
    let mut clients = [(); 3].map(|()| target.connect());
    let ask = |client: &mut Box<dyn Client>| {
        client.write_all(b"line\n").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    };
    clients.iter_mut().for_each(ask);
    let [first, second, holding] = &mut clients;
    holding.write_all(b"hold\n").unwrap();
    wait.recv_timeout(DEADLINE).unwrap();
    for client in [&mut *first, &mut *second] {
        client.write_all(b"line\n").unwrap();
    }
    release.send(()).unwrap();
    for client in [first, second] {
        client.read_exact(&mut [0; 5]).unwrap();
        ask(client);
    }
}

/// The accept loop learned of parked connections at its next turn, seconds later: the first connection that
/// parked had more input, and so did not wait.
#[test]
fn a_connection_wakes_although_the_first_to_park_had_more_input() {
    // Without a deadline the accept loop has no other reason to take a turn.
    let server = Server::<Tcp, Threading>::builder()
        .first_byte_timeout(None)
        .handshake_timeout(None)
        .idle_timeout(None)
        .write_timeout(None)
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let guard = server
        .spawn(|conn| {
            let mut line = String::new();
            let count = conn.read_line_max(&mut line, 80)?;
            conn.write_all(line.as_bytes())?;
            let next = if count == 0 { Next::Close } else { Next::Park };
            Ok::<_, io::Error>(next)
        })
        .unwrap();
    let mut client = target.connect();
    let mut answer = [0; 8];
    client.write_all(b"one\ntwo\n").unwrap();
    client.read_exact(&mut answer).unwrap();
    client.write_all(b"and more\n").unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"and more");
    drop(client);
    guard.stop().unwrap();
}
