//! One connection or datagram at a time, from a program's own loop.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::net::{Accepted, Bind, Either};
use socketserver::proxied::{Proxied, ProxyConfig};
use socketserver::python::{TcpServer, UdpServer};
use socketserver::{
    Datagram, Handled, HandlerError, Next, Outcome, RequestHandler, Server, Tcp, Threading, Udp,
    per_request,
};

use crate::support::{DEADLINE, Target, poll_until};

#[test]
fn a_connection_is_served_and_the_next_one_waits() {
    let mut server = TcpServer::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let (mut first, mut second) = (target.connect(), target.connect());
    for client in [&mut first, &mut second] {
        assert_eq!(
            server
                .handle_request(None, |conn| conn.write_all(b"served"))
                .unwrap(),
            Handled::Served
        );
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "served");
    }
    assert_eq!(server.handle().totals().completed, 2);
    assert_eq!(server.handle().live(), 0);
}

#[test]
fn datagrams_come_one_by_one_too() {
    let mut server = UdpServer::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let (first, second) = (target.send("1"), target.send("2"));
    assert_eq!(
        server
            .handle_request(None, |datagram| datagram.echo())
            .unwrap(),
        Handled::Served
    );
    assert_eq!(server.handle().totals().accepted, 1);
    assert_eq!(
        server
            .handle_request(None, |datagram| datagram.echo())
            .unwrap(),
        Handled::Served
    );
    assert_eq!(
        (first.answer(), second.answer()),
        ("1".to_owned(), "2".to_owned())
    );
}

#[test]
fn a_timeout_is_called_once_and_zero_does_not_wait() {
    let timeouts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&timeouts);
    let mut server = Server::<Tcp>::builder()
        .on_timeout(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .bind("127.0.0.1:0")
        .unwrap();
    assert_eq!(
        server.handle_request(Some(Duration::ZERO), |_| ()).unwrap(),
        Handled::TimedOut
    );
    assert_eq!(timeouts.load(Ordering::SeqCst), 1);
    assert_eq!(
        server
            .handle_request(Some(Duration::from_millis(20)), |_| ())
            .unwrap(),
        Handled::TimedOut
    );
    assert_eq!(timeouts.load(Ordering::SeqCst), 2);
    let _client = Target::parse(&server.urls()[0]).connect();
    assert_eq!(
        server.handle_request(None, |_| ()).unwrap(),
        Handled::Served
    );
    assert_eq!(timeouts.load(Ordering::SeqCst), 2);
}

#[test]
fn a_refused_connection_is_reported() {
    let mut server = Server::<Tcp>::builder()
        .verify(|_| false)
        .bind("127.0.0.1:0")
        .unwrap();
    let mut client = Target::parse(&server.urls()[0]).connect();
    assert_eq!(
        server
            .handle_request(None, |_| -> () { panic!("not reached") })
            .unwrap(),
        Handled::Refused
    );
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(server.handle().totals().refused, 1);
}

#[test]
fn a_stopped_server_reports_it() {
    let mut server = TcpServer::bind("127.0.0.1:0").unwrap();
    server.handle().shutdown();
    assert_eq!(
        server.handle_request(None, |_| ()).unwrap(),
        Handled::Stopping
    );
}

#[test]
fn two_servers_share_a_programs_own_loop() {
    let mut streams = Server::<Tcp, Threading>::bind("localhost:0").unwrap();
    let mut datagrams = UdpServer::bind("127.0.0.1:0").unwrap();
    let pending = [
        Target::parse(&datagrams.urls()[0]).send("a"),
        Target::parse(&streams.urls()[0]).send("b"),
    ];
    let mut served = 0;
    while served < 2 {
        let mut fds = [
            PollFd::new(&streams, PollFlags::IN),
            PollFd::new(&datagrams, PollFlags::IN),
        ];
        assert!(poll(&mut fds, None).unwrap() > 0);
        let ready = [!fds[0].revents().is_empty(), !fds[1].revents().is_empty()];
        if ready[0] {
            let handled = streams
                .handle_request(Some(Duration::ZERO), |conn| conn.write_all(b"stream"))
                .unwrap();
            served += u32::from(handled == Handled::Served);
        }
        if ready[1] {
            let handled = datagrams
                .handle_request(Some(Duration::ZERO), |datagram| {
                    datagram.set_reply(b"datagram");
                })
                .unwrap();
            served += u32::from(handled == Handled::Served);
        }
    }
    assert_eq!(
        pending.map(super::support::Pending::answer),
        ["datagram", "stream"]
    );
    // Without a waiting client, the descriptor is not readable.
    let mut fds = [
        PollFd::new(&streams, PollFlags::IN),
        PollFd::new(&datagrams, PollFlags::IN),
    ];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 0);
}

#[test]
fn one_server_has_listeners_of_two_transports() {
    let server = Server::<Either<Tcp, Udp>>::builder()
        .listen(
            Tcp::options()
                .bind("localhost:0")
                .unwrap()
                .into_iter()
                .map(Either::Left),
        )
        .listen(
            Udp::options()
                .bind("127.0.0.1:0")
                .unwrap()
                .into_iter()
                .map(Either::Right),
        )
        .build()
        .unwrap();
    let targets: Vec<_> = server.urls().iter().map(|url| Target::parse(url)).collect();
    let guard = server
        .spawn(|request| match request {
            Either::Left(conn) => conn.write_all(b"stream"),
            Either::Right(datagram) => datagram.write_all(b"datagram"),
        })
        .unwrap();
    for target in &targets {
        assert_eq!(
            target.ask("hello"),
            if target.is_stream() {
                "stream"
            } else {
                "datagram"
            }
        );
    }
    assert_eq!(guard.handle().totals().accepted, targets.len() as u64);
    guard.stop().unwrap();
}

/// A session that never ends by itself, and says goodbye.
struct Polite;

impl<R: Accepted + Write> RequestHandler<R> for Polite {
    fn handle(&mut self, _: &mut R) -> Outcome {
        Ok(Next::Park)
    }

    fn finish(&mut self, request: &mut R) -> Result<(), HandlerError> {
        request.write_all(b"goodbye")?;
        Ok(())
    }
}

/// No later call would wake a parked connection.
#[test]
fn a_connection_that_would_be_parked_is_finished() {
    let mut server = TcpServer::bind("127.0.0.1:0").unwrap();
    let client = Target::parse(&server.urls()[0]).send("hello");
    let handled = server.handle_request(None, per_request(|| Polite));
    assert_eq!(handled.unwrap(), Handled::Served);
    assert_eq!(client.answer(), "goodbye");
}

/// One session alone, and several: the server takes several at once while it serves them quickly.
#[test]
fn a_datagram_that_would_be_parked_is_finished() {
    let server = UdpServer::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let clients = [(); 32].map(|()| target.send("hello"));
    let _guard = server.spawn(per_request(|| Polite)).unwrap();
    for client in clients {
        assert_eq!(client.answer(), "goodbye");
    }
}

/// A server whose clients say who they are before they are served.
type Introduced = Server<Proxied<Tcp>>;

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n";

fn introduced(handshake: Duration) -> (Introduced, Target) {
    let proxy = ProxyConfig::trust(["127.0.0.1"]).expect("a network");
    let server = Server::builder()
        .listen(proxy.listen(Tcp::bind("127.0.0.1:0").expect("bind")))
        .handshake_timeout(handshake)
        .build()
        .expect("build");
    let target = Target::parse(&server.urls()[0]);
    (server, target)
}

/// Handles a request on another thread, so that a call which does not return fails the test.
#[track_caller]
fn handle(mut server: Introduced, timeout: Option<Duration>) -> (Introduced, Handled) {
    let (sender, handled) = channel();
    thread::spawn(move || {
        let handled = server.handle_request(timeout, |conn| conn.write_all(b"served"));
        let _ = sender.send((server, handled.expect("no failure")));
    });
    handled.recv_timeout(DEADLINE).expect("the call returns")
}

fn is_readable(server: &impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).expect("a short time");
    poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&timeout)).expect("poll") == 1
}

const SHORT: Option<Duration> = Some(Duration::from_millis(20));

#[test]
fn a_client_that_is_not_open_outlasts_no_timeout_and_keeps_nobody_out() {
    let (server, target) = introduced(DEADLINE * 100);
    let mut silent = target.connect();
    let (server, handled) = handle(server, SHORT);
    assert_eq!(handled, Handled::TimedOut);
    assert_eq!(server.handle().live(), 1, "the client keeps its permit");
    assert!(!is_readable(&server, Duration::ZERO));
    let _another_silent = target.connect();
    let mut other = target.connect();
    other.write_all(HEADER).unwrap();
    let (server, handled) = handle(server, None);
    assert_eq!(handled, Handled::Served);
    let mut reply = String::new();
    other.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "served");
    // A part of the header makes the descriptor readable, and is taken.
    silent.write_all(&HEADER[..7]).unwrap();
    assert!(is_readable(&server, DEADLINE));
    let (server, handled) = handle(server, Some(Duration::ZERO));
    assert_eq!(handled, Handled::TimedOut);
    assert!(!is_readable(&server, Duration::ZERO));
    silent.write_all(&HEADER[7..]).unwrap();
    assert!(is_readable(&server, DEADLINE));
    let (server, handled) = handle(server, Some(Duration::ZERO));
    assert_eq!(handled, Handled::Served);
    let mut reply = String::new();
    silent.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "served");
    assert_eq!(server.handle().totals().completed, 2);
}

#[test]
fn one_call_serves_one_of_several_that_are_open_at_last() {
    let (server, target) = introduced(DEADLINE * 100);
    let mut clients = [(); 3].map(|()| target.connect());
    let (mut server, handled) = handle(server, SHORT);
    assert_eq!(handled, Handled::TimedOut);
    for client in &mut clients {
        client.write_all(HEADER).unwrap();
    }
    for served in 1..=3 {
        assert!(is_readable(&server, DEADLINE));
        let handled;
        (server, handled) = handle(server, None);
        let completed = server.handle().totals().completed;
        assert_eq!((handled, completed), (Handled::Served, served));
    }
    assert!(!is_readable(&server, Duration::ZERO));
}

/// No call lasts until the handshake timeout.
#[test]
fn clients_that_are_not_open_are_ended_by_the_first_call_after_their_deadline() {
    let (server, target) = introduced(Duration::from_millis(100));
    let mut silent = [(); 3].map(|()| target.connect());
    let mut kept = Some(server);
    poll_until("the clients are ended", DEADLINE, || {
        let (server, handled) = handle(kept.take()?, Some(Duration::ZERO));
        assert_eq!(handled, Handled::TimedOut);
        let timed_out = server.handle().totals().timed_out;
        kept = Some(server);
        (timed_out == 3).then_some(())
    });
    for client in &mut silent {
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    }
    assert_eq!(kept.unwrap().handle().live(), 0);
}

#[test]
fn a_client_that_is_not_open_is_served_by_serve_forever_and_ended_by_close() {
    let (server, target) = introduced(DEADLINE * 100);
    let mut client = target.connect();
    let (server, handled) = handle(server, SHORT);
    assert_eq!(handled, Handled::TimedOut);
    let guard = server.spawn(|conn| conn.write_all(b"forever")).unwrap();
    client.write_all(HEADER).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "forever");
    guard.stop().unwrap();

    let (server, target) = introduced(DEADLINE * 100);
    let mut client = target.connect();
    let (server, handled) = handle(server, SHORT);
    assert_eq!(handled, Handled::TimedOut);
    assert_eq!(server.close().unwrap().aborted, 0);
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
}
