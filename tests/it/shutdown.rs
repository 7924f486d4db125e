//! Stopping: before, during, after and from inside serving.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{
    Bind, Connection, Request, Server, Tcp, TcpServer, ThreadPool, Threading, ThreadingTcpServer,
};

use crate::support::{DEADLINE, Gate, Target, hold_at};

fn connect(url: &str) -> Box<dyn crate::support::Client> {
    Target::parse(url).connect()
}

#[test]
fn before_serving_it_returns_without_serving() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    handle.shutdown();
    assert!(handle.is_stopping());
    assert_eq!(server.serve_forever(|_| ()).unwrap().cut, 0);
    assert_eq!(handle.totals().accepted, 0);
}

#[test]
fn after_serving_it_does_nothing() {
    let guard = TcpServer::bind("127.0.0.1:0")
        .unwrap()
        .spawn(|_| ())
        .unwrap();
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    handle.shutdown();
    handle.shutdown_within(Duration::ZERO);
}

#[test]
fn an_idle_server_stops_within_ten_milliseconds() {
    // The best of several: the machine may be busy, the server may not.
    let times = (0..20).map(|_| {
        let (ready, wait) = channel();
        let server = Server::<Tcp, Threading>::builder().on_ready(move || ready.send(()).unwrap());
        let guard = server.bind("127.0.0.1:0").unwrap().spawn(|_| ()).unwrap();
        wait.recv_timeout(DEADLINE).unwrap();
        let start = Instant::now();
        guard.stop().unwrap();
        start.elapsed()
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_millis(10), "{best:?}");
}

#[test]
fn from_a_sequential_handler() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let (handle, url) = (server.handle(), server.urls().remove(0));
    let inner = handle;
    let guard = server
        .spawn(move |conn| {
            inner.shutdown();
            conn.write_all(b"bye")
        })
        .unwrap();
    let mut reply = String::new();
    connect(&url).read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "bye");
    guard.join().unwrap();
}

#[test]
fn at_the_limit_it_wakes_the_loop() {
    let gate = Gate::new();
    let pool = ThreadPool::new(1).queue(0);
    let server = Server::<Tcp>::builder()
        .model(pool)
        .max_connections(1)
        .bind("127.0.0.1:0")
        .unwrap();
    let url = server.urls().remove(0);
    let hold = gate.hold();
    let guard = server
        .spawn(move |_| hold_at(hold.trim_start_matches("hold ")))
        .unwrap();
    let _client = connect(&url);
    let held = gate.wait();
    guard.handle().shutdown();
    drop(held);
    assert_eq!(guard.join().unwrap().cut, 0);
}

#[test]
fn the_drain_ends_with_the_last_request_and_not_later() {
    let gate = Gate::new();
    let server = Server::<Tcp, Threading>::builder()
        .drain_timeout(Duration::from_secs(3600))
        .bind("127.0.0.1:0")
        .unwrap();
    let url = server.urls().remove(0);
    let hold = gate.hold();
    let guard = server
        .spawn(move |conn| {
            if conn.id() == 1 {
                hold_at(hold.trim_start_matches("hold "))?;
                write!(conn, "{}", conn.stopping())?;
            }
            Ok::<(), std::io::Error>(())
        })
        .unwrap();
    let mut client = connect(&url);
    let held = gate.wait();
    guard.handle().shutdown();
    // The door closes while the request is being served.
    let addr = guard.handle().local_addrs()[0].socket_addr().unwrap();
    while TcpStream::connect(addr).is_ok() {
        thread::yield_now();
    }
    drop(held);
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "true");
    assert_eq!(guard.join().unwrap().cut, 0);
}

#[test]
fn a_shorter_deadline_overtakes_a_longer_one() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let url = server.urls().remove(0);
    let (held, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            held.send(()).unwrap();
            conn.read(&mut [0; 10]).map(|_| ())
        })
        .unwrap();
    let mut client = connect(&url);
    wait.recv_timeout(DEADLINE).unwrap();
    let handle = guard.handle().clone();
    handle.shutdown_within(Duration::from_secs(3600));
    handle.shutdown_within(Duration::ZERO);
    assert_eq!(guard.join().unwrap().cut, 1);
    assert_eq!(
        client.read(&mut [0; 10]).unwrap(),
        0,
        "the client sees the end"
    );
}

#[test]
fn a_sequential_server_cuts_the_connection_it_serves() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let url = server.urls().remove(0);
    let (held, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            held.send(()).unwrap();
            conn.fill_buf().map(|_| ())
        })
        .unwrap();
    let _client = connect(&url);
    wait.recv_timeout(DEADLINE).unwrap();
    guard.handle().shutdown_within(Duration::from_millis(1));
    assert_eq!(guard.join().unwrap().cut, 1);
}

#[test]
fn dropping_the_guard_stops_and_joins() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    drop(server.spawn(|_| ()).unwrap());
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn starting_and_stopping_in_a_race_always_ends() {
    for _ in 0..100 {
        let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
        let handle = server.handle();
        let guard = server.spawn(|_| ()).unwrap();
        let stoppers: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn({
                    let handle = handle.clone();
                    move || handle.shutdown()
                })
            })
            .collect();
        guard.join().unwrap();
        for stopper in stoppers {
            stopper.join().unwrap();
        }
    }
}

#[test]
fn closing_a_server_waits_for_what_handle_request_has_started() {
    let gate = Gate::new();
    let mut server = Server::<Tcp>::builder()
        .model(Threading::default())
        .listen(Tcp::bind("127.0.0.1:0").unwrap())
        .build()
        .unwrap();
    let mut client = connect(&server.urls()[0]);
    let hold = gate.hold();
    server
        .handle_request(None, move |conn| {
            hold_at(hold.trim_start_matches("hold "))?;
            conn.write_all(b"late")
        })
        .unwrap();
    let held = gate.wait();
    let closer = thread::spawn(move || server.close());
    drop(held);
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "late");
    assert_eq!(closer.join().unwrap().unwrap().cut, 0);
}
