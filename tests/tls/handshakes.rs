//! Handshakes that wait hold no thread, and a stop loses none of them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socketserver::model::Model;
use socketserver::observe::{AbortReason, Activity};
use socketserver::tls::Tls;
use socketserver::{Builder, Connection, Handled, Sequential, ServerGuard, Tcp, ThreadPool};

use crate::support::{DEADLINE, poll_until, uninterrupted};
use crate::{Client, Conn, Setup, ask, builder, connect, plain, spawn};

/// How many clients of each kind there are.
const MANY: usize = 200;

fn serve<M: Model>(builder: Builder<Tls<Tcp>, M>) -> (ServerGuard, SocketAddr) {
    spawn(builder, |conn: &mut Conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.as_bytes())
    })
}

/// The first message of a client.
fn hello(setup: &Setup) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let config = setup.client().into();
    let mut client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a message");
    hello
}

/// Waits until this many connections are in their handshake.
fn in_handshake(guard: &ServerGuard, count: usize) {
    poll_until("clients in their handshake", DEADLINE, || {
        let connections = guard.handle().connections();
        let shaking = connections
            .iter()
            .filter(|connection| connection.activity == Activity::Handshake);
        (shaking.count() == count).then_some(())
    });
}

/// Silent clients, and clients that send their first message byte by byte, while good ones are served.
fn slow_clients_hold_no_thread<M: Model>(model: M) {
    let setup = Setup::new();
    let tls = setup.options().build().expect("TLS");
    let builder = builder(&tls)
        .model(model)
        .max_connections(2 * MANY as u64 + 8)
        .handshake_timeout(6 * DEADLINE);
    let (guard, address) = serve(builder);
    let hello = hello(&setup);
    let silent: Vec<_> = (0..MANY).map(|_| plain(address)).collect();
    let mut dripping: Vec<_> = (0..MANY).map(|_| plain(address)).collect();
    for round in 0..4 {
        for client in &mut dripping {
            client.write_all(&hello[round..=round]).expect("a byte");
        }
        let mut good = connect(address, &setup.client(), "localhost");
        let line = format!("round {round}");
        assert_eq!(ask(&mut good, &line).expect("an answer"), line + "\n");
    }
    in_handshake(&guard, 2 * MANY);
    // They are served once they send the rest.
    for client in &mut dripping {
        client.write_all(&hello[4..]).expect("the rest");
        let mut answer = [0; 5];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[0], 0x16, "a handshake record");
    }
    drop((silent, dripping));
    guard.stop().expect("a stop");
}

#[test]
fn slow_clients_hold_no_thread_of_a_pool() {
    slow_clients_hold_no_thread(ThreadPool::new(2));
}

#[test]
fn slow_clients_hold_no_thread_of_a_sequential_server() {
    slow_clients_hold_no_thread(Sequential::default());
}

#[test]
fn a_parked_handshake_keeps_its_deadline() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (reasons, wait) = channel();
    let limit = Duration::from_millis(200);
    let builder = builder(&tls)
        .model(ThreadPool::new(1))
        .handshake_timeout(limit)
        .on_error(move |failure| {
            let reason = failure.abort_reason();
            reasons.send(reason).expect("the test waits");
        });
    let (guard, address) = serve(builder);
    let hello = hello(&setup);
    let mut clients = [plain(address), plain(address)];
    // One client sends now and then: the deadline runs from the beginning all the same.
    let mut sent = 0;
    poll_until("the end of both", DEADLINE, || {
        if let Some(byte) = hello.get(sent..=sent).filter(|_| sent < hello.len() - 1) {
            sent += usize::from(clients[1].write_all(byte).is_ok());
        }
        (guard.handle().totals().timed_out == 2).then_some(())
    });
    for _ in &clients {
        let reason = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(reason, Some(AbortReason::Handshake));
    }
    // On a machine that stalls, the deadline may end good clients too.
    poll_until("others are served", DEADLINE, || {
        let answer = ask(&mut connect(address, &setup.client(), "localhost"), "on");
        answer.is_ok_and(|answer| answer == "on\n").then_some(())
    });
}

/// Sends the first message, and reads the answer to it.
fn begin(address: SocketAddr, setup: &Setup) -> Client {
    let mut client = connect(address, &setup.client(), "localhost");
    client.conn.write_tls(&mut client.sock).expect("send");
    while client.conn.is_handshaking() {
        uninterrupted(|| client.conn.read_tls(&mut client.sock)).expect("receive");
        client.conn.process_new_packets().expect("a handshake");
    }
    client
}

#[test]
fn a_stop_serves_clients_in_their_handshake() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    // The grace of idle connections is no matter: nobody has served these.
    let builder = builder(&tls)
        .model(ThreadPool::new(1))
        .idle_grace(Duration::ZERO)
        .handshake_timeout(DEADLINE)
        .drain_timeout(DEADLINE);
    let (guard, address) = serve(builder);
    let mut clients: Vec<_> = (0..3).map(|_| begin(address, &setup)).collect();
    in_handshake(&guard, 3);
    guard.handle().shutdown();
    for (number, client) in clients.iter_mut().enumerate() {
        let line = number.to_string();
        assert_eq!(ask(client, &line).unwrap(), line + "\n");
    }
    let handle = guard.handle().clone();
    assert_eq!(guard.stop().unwrap().aborted, 0);
    let totals = handle.totals();
    assert_eq!((totals.accepted, totals.completed), (3, 3));
}

#[test]
fn a_client_that_leaves_in_its_handshake_is_noticed() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (failures, wait) = channel();
    let builder = builder(&tls)
        .model(ThreadPool::new(1))
        .on_error(move |failure| {
            failures
                .send(failure.is_disconnect())
                .expect("the test waits");
        });
    let (guard, address) = serve(builder);
    let client: TcpStream = plain(address);
    in_handshake(&guard, 1);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(wait.recv_timeout(DEADLINE).unwrap());
    poll_until("no connection", DEADLINE, || {
        (guard.handle().live() == 0).then_some(())
    });
}

/// A program's own loop calls the server whenever its descriptor is readable, and never waits in it.
#[test]
fn a_handshake_goes_on_over_several_calls_that_do_not_wait() {
    let setup = Setup::new();
    let tls = setup.options().build().expect("TLS");
    let server = builder(&tls).model(Sequential::default());
    let mut server = server.build().expect("bind");
    let addresses = server.local_addrs();
    let address = addresses[0].socket_addr().expect("an address");
    let silent = plain(address);
    let (sender, ended) = channel();
    let calls = std::thread::spawn(move || {
        let mut served = 0;
        while served == 0 {
            let limit = Timespec::try_from(DEADLINE).expect("a short time");
            let ready = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&limit));
            assert_eq!(ready, Ok(1), "something to do within the deadline");
            let handled = server.handle_request(Some(Duration::ZERO), |conn: &mut Conn| {
                let mut line = String::new();
                conn.read_line_max(&mut line, 100)?;
                conn.write_all(line.as_bytes())
            });
            served += u32::from(handled.expect("serve") == Handled::Served);
        }
        let _ = sender.send(server.close().expect("close").aborted);
    });
    let mut client = connect(address, &setup.client(), "localhost");
    assert_eq!(
        ask(&mut client, "over TLS").expect("an answer"),
        "over TLS\n"
    );
    assert_eq!(ended.recv_timeout(DEADLINE), Ok(0));
    calls.join().expect("no panic");
    drop(silent);
}
