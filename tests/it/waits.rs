//! Several coroutines wait for one descriptor, or for events that only a thread can wait for, and
//! do not block their worker.

#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as Name, UnixDatagram as Socket};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use socketserver::model::Driver;
use socketserver::net::{Accepted, TcpConnection, UnixAddress, UnixConnection, Writer};
use socketserver::python::TcpServer;
use socketserver::{
    Connection, Coroutines, Datagram, Handled, Server, ServerGuard, Tcp, UnixDatagram, UnixStream,
};

use crate::support::{DEADLINE, Target, uninterrupted};

/// The handlers of these tests restore no thread-local after they have blocked.
fn coroutines(workers: usize) -> Coroutines {
    let driver = match module_path!().ends_with("epoll") {
        true => Driver::Epoll,
        false => Driver::Auto,
    };
    // SAFETY: as said above.
    let coroutines = unsafe { Coroutines::new() };
    coroutines.workers(workers).driver(driver)
}

/// Returns a name that no other test has.
fn name(what: &str) -> String {
    format!("{what}-{}-{}", module_path!(), std::process::id())
}

/// More than the sockets hold.
const MUCH: usize = 8 << 20;

/// The highest number whose client writes. Clients with higher numbers are answered.
const NUMBERS: u8 = 3;

/// Starts a server whose first client sends a zero. Later clients send a number, and their handlers
/// write to the first client. Returns how the writes end.
fn written_to_by(
    workers: usize,
    write_timeout: Option<Duration>,
    write: fn(Writer, u8) -> io::Result<()>,
) -> (ServerGuard, SocketAddr, Receiver<io::Result<()>>) {
    let first: Mutex<Option<Writer>> = Mutex::new(None);
    let server = Server::<Tcp>::builder().model(coroutines(workers));
    let server = server.write_timeout(write_timeout);
    let server = server.bind("127.0.0.1:0").expect("bind");
    let addr = server.local_addrs()[0].socket_addr().expect("an address");
    let (ends, ended) = channel();
    let serve = move |conn: &mut TcpConnection| {
        let mut byte = [0];
        conn.read_exact(&mut byte)?;
        match byte[0] {
            0 => {
                *first.lock().expect("no panic") = Some(conn.writer()?);
                conn.write_all(b"!")?;
                // The first handler waits to read while others wait to write.
                conn.read_exact(&mut byte)?;
                conn.write_all(b".")?;
            }
            number @ 1..=NUMBERS => {
                let writer = first.lock().expect("no panic").clone();
                let written = write(writer.expect("the first client is connected"), number);
                ends.send(written).expect("the test waits");
            }
            _ => conn.write_all(b"?")?,
        }
        Ok::<_, io::Error>(())
    };
    (server.spawn(serve).expect("spawn"), addr, ended)
}

fn ask(addr: SocketAddr, byte: u8) -> TcpStream {
    let mut client = TcpStream::connect(addr).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.write_all(&[byte]).expect("write");
    client
}

#[track_caller]
fn answers(mut client: &TcpStream, with: u8) {
    let mut byte = [0];
    client.read_exact(&mut byte).expect("an answer");
    assert_eq!(byte, [with]);
}

fn write(mut writer: Writer, number: u8) -> io::Result<()> {
    writer.write_all(&vec![number; MUCH])
}

#[test]
fn several_writers_and_a_reader_wait_for_one_connection() {
    for workers in [1, 3] {
        let (_guard, addr, ended) = written_to_by(workers, None, write);
        let mut reader = ask(addr, 0);
        answers(&reader, b'!');
        let _others: Vec<_> = (1..=NUMBERS).map(|number| ask(addr, number)).collect();
        answers(&ask(addr, b'?'), b'?');
        let mut counts = [0; 256];
        let mut buffer = vec![0; 1 << 16];
        while counts.iter().sum::<usize>() < usize::from(NUMBERS) * MUCH {
            let count = uninterrupted(|| reader.read(&mut buffer)).unwrap();
            assert_ne!(count, 0);
            let read = buffer[..count].iter();
            read.for_each(|byte| counts[usize::from(*byte)] += 1);
        }
        let counted = &counts[1..=usize::from(NUMBERS)];
        assert!(counted.iter().all(|count| *count == MUCH));
        (1..=NUMBERS).for_each(|_| ended.recv_timeout(DEADLINE).unwrap().unwrap());
        reader.write_all(b"x").unwrap();
        answers(&reader, b'.');
    }
}

#[test]
fn a_peer_that_takes_nothing_is_aborted_at_the_write_timeout() {
    let timeout = Duration::from_millis(300);
    let (guard, addr, ended) = written_to_by(1, Some(timeout), write);
    let mut reader = ask(addr, 0);
    answers(&reader, b'!');
    let _other = ask(addr, 1);
    answers(&ask(addr, b'?'), b'?');
    let given_up = ended.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    assert!(given_up.to_string().contains("write timeout"), "{given_up}");
    // The connection is over: after what was sent, the end or a reset comes, but no answer.
    let _ = reader.write_all(b"x");
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    assert!(!rest.contains(&b'.'));
    assert_eq!(guard.handle().totals().timed_out, 1);
}

#[test]
fn a_bounded_write_gives_up_and_aborts_nothing() {
    let (_guard, addr, ended) = written_to_by(1, None, |mut writer, number| {
        writer.set_write_timeout(Some(Duration::from_millis(50)))?;
        write(writer, number)
    });
    let mut reader = ask(addr, 0);
    answers(&reader, b'!');
    let _other = ask(addr, 1);
    let given_up = ended.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    // Its handler still answers, after the part that was sent.
    reader.write_all(b"x").unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.pop(), Some(b'.'));
    assert!(rest.iter().all(|byte| *byte == 1));
}

#[test]
fn a_bounded_write_does_not_wait_longer_for_its_turn() {
    let (_guard, addr, ended) = written_to_by(1, None, |mut writer, number| {
        if number > 1 {
            writer.set_write_timeout(Some(Duration::from_millis(50)))?;
        }
        write(writer, number)
    });
    let reader = ask(addr, 0);
    answers(&reader, b'!');
    // The first writer has the turn, and waits without a limit.
    let _first = ask(addr, 1);
    answers(&ask(addr, b'?'), b'?');
    let _second = ask(addr, 2);
    let given_up = ended.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_connect_waits_for_room_in_a_unix_backlog() {
    let name = UnixAddress::Abstract(name("waits-room").into_bytes());
    let listener = UnixStream::options().backlog(0).bind(&name).unwrap();
    let server = Server::<Tcp>::builder().model(coroutines(1));
    let server = server.bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&server.urls()[0]);
    let (begins, begun) = channel();
    let (ends, ended) = channel();
    let _guard = server
        .spawn(move |conn| {
            if conn.id() > 1 {
                return conn.write_all(b"served");
            }
            let queued = UnixConnection::connect(name.clone(), DEADLINE).unwrap();
            begins.send(()).unwrap();
            let second = UnixConnection::connect(name.clone(), DEADLINE).map(drop);
            ends.send(second.map_err(|err| err.to_string())).unwrap();
            drop(queued);
            Ok(())
        })
        .unwrap();
    let _first = target.connect();
    begun.recv_timeout(DEADLINE).unwrap();
    assert_eq!(target.ask(""), "served");
    let upstream = Server::<UnixStream>::builder().listen([listener]);
    let _upstream = upstream.build().unwrap().spawn(|_| ()).unwrap();
    ended.recv_timeout(DEADLINE).unwrap().unwrap();
}

#[test]
fn a_unix_datagram_waits_for_room_in_the_queue_of_its_peer() {
    const MANY: u16 = 2000;
    let address = |what: &str| Name::from_abstract_name(name(what)).unwrap();
    let server = Server::<UnixDatagram>::builder().model(coroutines(1));
    let server = server
        .bind(UnixAddress::Abstract(name("waits-peers").into_bytes()))
        .unwrap();
    let (begins, begun) = channel();
    let _guard = server
        .spawn(move |datagram| {
            if datagram.packet() == b"?" {
                datagram.set_reply(b"!");
                return Ok(());
            }
            begins.send(()).unwrap();
            (0..MANY).try_for_each(|number| datagram.send(&number.to_ne_bytes()))
        })
        .unwrap();
    let client = |what| {
        let client = Socket::bind_addr(&address(what)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    };
    let (full, other) = (client("waits-full"), client("waits-other"));
    let (server, mut bytes) = (address("waits-peers"), [0; 2]);
    full.send_to_addr(b"many", &server).unwrap();
    begun.recv_timeout(DEADLINE).unwrap();
    other.send_to_addr(b"?", &server).unwrap();
    uninterrupted(|| other.recv(&mut bytes)).unwrap();
    assert_eq!(bytes[0], b'!');
    for number in 0..MANY {
        uninterrupted(|| full.recv(&mut bytes)).unwrap();
        assert_eq!(u16::from_ne_bytes(bytes), number);
    }
}

/// Each call waits for the listener anew.
#[test]
fn a_coroutine_serves_one_connection_after_the_other() {
    let server = Server::<Tcp>::builder().model(coroutines(1));
    let server = server.bind("127.0.0.1:0").expect("bind");
    let addr = server.local_addrs()[0].socket_addr().expect("an address");
    let _guard = server
        .spawn(|conn| {
            let mut inner = TcpServer::bind("127.0.0.1:0").map_err(io::Error::from)?;
            for _ in 0..3 {
                let handled = inner.handle_request(Some(Duration::from_millis(1)), |_| ());
                assert_eq!(handled.map_err(io::Error::from)?, Handled::TimedOut);
            }
            let errors = inner.handle().totals().accept_errors;
            write!(conn, "{errors} errors")
        })
        .expect("spawn");
    let mut client = TcpStream::connect(addr).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("an answer");
    assert_eq!(said, "0 errors");
}
