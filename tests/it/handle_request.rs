//! One connection or datagram at a time, from a program's own loop.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use socketserver::net::{Accepted, Either};
use socketserver::python::{TcpServer, UdpServer};
use socketserver::{
    Datagram, Handled, HandlerError, Next, Outcome, RequestHandler, Server, Tcp, Threading, Udp,
    per_request,
};

use crate::support::Target;

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
    assert_eq!(
        poll(&mut fds, Some(&rustix::time::Timespec::default())).unwrap(),
        0
    );
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
