//! Headers that come in parts, or not at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::observe::{AbortReason, Activity};
use socketserver::proxied::Proxied;
use socketserver::{Builder, Connection, Sequential, ServerGuard, Tcp, ThreadPool, Threading};

use crate::support::{DEADLINE, poll_until};
use crate::{Conn, ask, builder, connect, header, spawn, trusting};

/// How many clients of each kind there are.
const MANY: usize = 200;

/// Repeats all that a client sends.
fn serve<M: Model>(builder: Builder<Proxied<Tcp>, M>) -> (ServerGuard, SocketAddr) {
    spawn(builder, |conn: &mut Conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.as_bytes())
    })
}

/// Waits until this many connections wait for their header.
fn waiting(guard: &ServerGuard, count: usize) {
    poll_until("clients without a whole header", DEADLINE, || {
        let connections = guard.handle().connections().into_iter();
        let waiting = connections.filter(|one| one.activity == Activity::Handshake);
        (waiting.count() == count).then_some(())
    });
}

/// Silent clients, and clients whose header comes byte by byte, while good ones are served.
fn slow_headers_hold_no_thread<M: Model>(model: M) {
    let builder = builder(&trusting())
        .model(model)
        .max_connections(2 * MANY as u64 + 8)
        .handshake_timeout(6 * DEADLINE);
    let (guard, server) = serve(builder);
    let bytes = header().to_v2().expect("a header");
    let silent: Vec<_> = (0..MANY).map(|_| connect(server)).collect();
    let mut dripping: Vec<_> = (0..MANY).map(|_| connect(server)).collect();
    for round in 0..4 {
        for client in &mut dripping {
            client.write_all(&bytes[round..=round]).expect("a byte");
        }
        let line = format!("round {round}\n");
        let all = [&bytes[..], line.as_bytes()].concat();
        assert_eq!(ask(server, &all).expect("an answer"), line);
    }
    waiting(&guard, 2 * MANY);
    for client in &mut dripping {
        client
            .write_all(&[&bytes[4..], b"on\n"].concat())
            .expect("the rest");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, "on\n");
    }
    drop((silent, dripping));
    guard.stop().expect("a stop");
}

#[test]
fn slow_headers_hold_no_thread_of_a_pool() {
    slow_headers_hold_no_thread(ThreadPool::new(2));
}

#[test]
fn slow_headers_hold_no_thread_of_a_sequential_server() {
    slow_headers_hold_no_thread(Sequential::default());
}

/// Sends a header and a line in two parts, the second once the server has taken the first.
fn split(guard: &ServerGuard, server: SocketAddr, bytes: &[u8], cut: usize) {
    let mut client = connect(server);
    client.write_all(&bytes[..cut]).expect("the first part");
    poll_until("the first part", DEADLINE, || {
        let connections = guard.handle().connections();
        connections
            .iter()
            .any(|one| one.received == cut as u64)
            .then_some(())
    });
    client.write_all(&bytes[cut..]).expect("the second part");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "PROXY\n", "cut at {cut}");
}

fn headers_come_in_two_parts<M: Model>(model: M) {
    let (guard, server) = serve(builder(&trusting()).model(model));
    for header in [
        header().to_v1().expect("a header"),
        header().crc32c().to_v2().expect("a header"),
    ] {
        let all = [&header[..], b"PROXY\n"].concat();
        for cut in 1..=header.len() + 1 {
            split(&guard, server, &all, cut);
        }
    }
}

#[test]
fn headers_come_in_two_parts_to_a_pool() {
    headers_come_in_two_parts(ThreadPool::new(1));
}

#[test]
fn headers_come_in_two_parts_to_a_thread_each() {
    headers_come_in_two_parts(Threading::default());
}

#[test]
fn a_header_has_a_deadline_of_its_own() {
    let (reasons, wait) = channel();
    let builder = builder(&trusting())
        .model(ThreadPool::new(1))
        .handshake_timeout(Duration::from_millis(200))
        .on_error(move |failure| {
            let reason = failure.abort_reason();
            reasons.send(reason).expect("the test waits");
        });
    let (guard, server) = serve(builder);
    let bytes = header().to_v1().expect("a header");
    let mut clients = [connect(server), connect(server)];
    // One client sends now and then: the deadline runs from the beginning all the same.
    let mut sent = 0;
    poll_until("the end of both", DEADLINE, || {
        if let Some(byte) = bytes.get(sent..=sent).filter(|_| sent < bytes.len() - 1) {
            sent += usize::from(clients[1].write_all(byte).is_ok());
        }
        (guard.handle().totals().timed_out == 2).then_some(())
    });
    for _ in &clients {
        let reason = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(reason, Some(AbortReason::Handshake));
    }
    let all = [&bytes[..], b"on\n"].concat();
    // On a machine that stalls, the deadline may end good clients too.
    poll_until("others are served", DEADLINE, || {
        let answer = ask(server, &all);
        answer.is_ok_and(|answer| answer == "on\n").then_some(())
    });
}

#[test]
fn a_client_that_leaves_amid_its_header_is_noticed() {
    let (failures, wait) = channel();
    let builder = builder(&trusting())
        .model(ThreadPool::new(1))
        .on_error(move |failure| {
            failures
                .send(failure.error().to_string())
                .expect("the test waits");
        });
    let (guard, server) = serve(builder);
    let bytes = header().to_v2().expect("a header");
    for sent in [0, 1, 12, bytes.len() - 1] {
        let mut client: TcpStream = connect(server);
        client.write_all(&bytes[..sent]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let text = wait.recv_timeout(DEADLINE).unwrap();
        assert_eq!(text, "the peer has ended the stream amid the PROXY header");
    }
    poll_until("no connection", DEADLINE, || {
        (guard.handle().live() == 0).then_some(())
    });
}

#[test]
fn a_stop_serves_clients_whose_header_is_on_its_way() {
    let builder = builder(&trusting())
        .model(ThreadPool::new(1))
        .idle_grace(Duration::ZERO)
        .handshake_timeout(DEADLINE)
        .drain_timeout(DEADLINE);
    let (guard, server) = serve(builder);
    let bytes = header().to_v1().expect("a header");
    let mut clients: Vec<_> = (0..3).map(|_| connect(server)).collect();
    for client in &mut clients {
        client.write_all(&bytes[..5]).unwrap();
    }
    waiting(&guard, 3);
    guard.handle().shutdown();
    for client in &mut clients {
        client.write_all(&[&bytes[5..], b"on\n"].concat()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "on\n");
    }
    assert_eq!(guard.stop().unwrap().aborted, 0);
}

/// The server that parks new connections wakes for the header, and parks again until a request is whole.
#[test]
fn a_server_whose_clients_speak_first_waits_for_a_whole_request() {
    let builder = builder(&trusting())
        .model(Threading::default().max_threads(1))
        .client_speaks_first(true)
        .whole_request(|input| {
            assert_eq!(&input[..5], b"whole", "the header is no part of a request");
            input.contains(&b'\n')
        });
    let (_guard, server) = serve(builder);
    let bytes = header().to_v2().expect("a header");
    let all = [&bytes[..], b"whole\n"].concat();
    let _silent = connect(server);
    assert_eq!(ask(server, &all).unwrap(), "whole\n");
}
