//! Transports that wrap others.

use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::net::{Accepted, Address, Bind, TcpConnection, Transport};
use socketserver::net::{Layer, Layered, LayeredConnection};
use socketserver::observe::AbortReason;
use socketserver::{
    Builder, Connection, IntoOutcome, Next, Server, ServerGuard, Tcp, ThreadPool, Threading,
};

use crate::support::{Client, DEADLINE, Target};

/// A layer that changes nothing.
#[derive(Default)]
struct Plain;

impl<C: Connection> Layer<C> for Plain {}

/// A layer that reads all waiting input and returns it line by line, as a cipher does with its
/// records.
#[derive(Default)]
struct Records(Vec<u8>);

impl<C: Connection> Layer<C> for Records {
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            let came = below.fill_buf()?;
            self.0.extend_from_slice(came);
            let count = came.len();
            below.consume(count);
        }
        let length = self.0.iter().position(|&byte| byte == b'\n');
        let count = length.map_or(self.0.len(), |at| at + 1).min(buf.len());
        buf[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }

    fn has_input(&self) -> bool {
        !self.0.is_empty()
    }
}

/// A layer whose peer announces the end of input, as in TLS: with a point on a line.
#[derive(Default)]
struct Ending {
    records: Records,
    ended: bool,
}

impl<C: Connection> Layer<C> for Ending {
    fn read(&mut self, below: &mut C, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let count = self.records.read(below, buf)?;
        self.ended = self.records.0 == b".\n";
        Ok(count)
    }

    fn has_input(&self) -> bool {
        self.ended || <Records as Layer<C>>::has_input(&self.records)
    }
}

/// A layer that wants a name before the handler is called, and says good-bye.
#[derive(Default)]
struct Polite(Option<String>);

impl<C: Connection> Layer<C> for Polite {
    fn open(&mut self, below: &mut C) -> io::Result<()> {
        let mut name = String::new();
        below.read_line_max(&mut name, 100)?;
        let name = name.trim_end();
        if name.is_empty() {
            return Err(io::Error::other("no name"));
        }
        self.0 = Some(name.to_owned());
        Ok(())
    }

    fn finish(&mut self, below: &mut C) -> io::Result<()> {
        below.write_all(b"bye")
    }

    fn peer(&self, below: &C) -> Address {
        self.0.clone().map_or_else(|| below.peer(), Address::Named)
    }
}

/// Sends one line back, and waits for the next one without a thread.
fn echo(conn: &mut impl Connection) -> io::Result<Next> {
    let mut line = String::new();
    if conn.read_line_max(&mut line, 100)? == 0 {
        return Ok(Next::Close);
    }
    conn.write_all(line.as_bytes())?;
    Ok(Next::Park)
}

fn builder<T: Bind<&'static str>>() -> Builder<T> {
    Server::builder().listen(T::bind("127.0.0.1:0").expect("bind"))
}

fn spawn<T: Transport, M: Model, O: IntoOutcome>(
    builder: Builder<T, M>,
    handler: impl Fn(&mut T::Accepted) -> O + Send + Sync + 'static,
) -> (ServerGuard, Target) {
    let server = builder.build().expect("build");
    let target = Target::parse(&server.urls()[0]);
    (server.spawn(handler).expect("spawn"), target)
}

/// Reads as much as is expected, and compares.
fn take(client: &mut dyn Client, expected: &str) {
    let mut answer = vec![0; expected.len()];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), expected);
}

#[test]
fn a_connection_with_input_in_its_layer_is_not_parked() {
    let builder = builder::<Layered<Tcp, Records>>();
    let (guard, target) = spawn(builder.model(ThreadPool::new(1)), echo);
    let mut client = target.connect();
    // The layer holds all of the input when the first line is handled.
    client.write_all(b"one\ntwo\nthree\n").unwrap();
    take(&mut *client, "one\ntwo\nthree\n");
    // The connection is then parked: another client gets the only thread.
    let mut other = target.connect();
    other.write_all(b"other\n").unwrap();
    take(&mut *other, "other\n");
    guard.stop().unwrap();
}

#[test]
fn layers_can_be_stacked() {
    type Below = LayeredConnection<TcpConnection, Polite>;
    let builder = builder::<Layered<Layered<Tcp, Polite>, Records>>();
    let (_guard, target) = spawn(
        builder.model(Threading::default()),
        |conn: &mut LayeredConnection<Below, Records>| {
            write!(conn, "hello {}, ", conn.peer())?;
            echo(conn)
        },
    );
    let mut client = target.connect();
    client.write_all(b"joe\none\ntwo\n").unwrap();
    take(&mut *client, "hello joe, one\nhello joe, two\n");
    client.end_of_input();
    take(&mut *client, "hello joe, bye");
}

#[test]
fn a_layer_sends_the_first_and_the_last_bytes() {
    let (guard, target) = spawn(builder::<Layered<Tcp, Polite>>(), |conn| {
        write!(conn, "hello {}, ", conn.peer())?;
        // The layer's last bytes come before the end of the stream, and once.
        conn.shutdown(Shutdown::Write)
    });
    assert_eq!(target.ask("joe"), "hello joe, bye");
    // A client without a name has no handler, and gets no good-bye.
    assert_eq!(target.ask(""), "");
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!((totals.completed, totals.failed), (1, 1));
}

#[test]
fn the_first_bytes_of_a_layer_have_the_deadline_of_a_handshake() {
    let (reasons, wait) = channel();
    let builder = builder::<Layered<Tcp, Polite>>()
        .model(Threading::default())
        .handshake_timeout(Duration::from_millis(100))
        .on_error(move |failure| {
            reasons
                .send(failure.abort_reason())
                .expect("the test waits");
        });
    let (_guard, target) = spawn(builder, |_| -> Next {
        unreachable!("no client sent a name")
    });
    assert_eq!(target.connect().read(&mut [0]).unwrap(), 0);
    let reason = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(reason, Some(AbortReason::Handshake));
}

#[test]
fn input_in_a_layer_is_a_part_of_a_whole_request() {
    let builder = builder::<Layered<Tcp, Plain>>();
    let builder = builder.whole_request(|input| input.contains(&b'\n'));
    let (_guard, target) = spawn(builder.model(ThreadPool::new(1)), echo);
    let mut slow = target.connect();
    slow.write_all(b"one\ntw").unwrap();
    take(&mut *slow, "one\n");
    // The part of a line that was read with the first line holds no thread.
    let mut other = target.connect();
    other.write_all(b"other\n").unwrap();
    take(&mut *other, "other\n");
    slow.write_all(b"o\nthree\nfo").unwrap();
    take(&mut *slow, "two\nthree\n");
    slow.write_all(b"ur\n").unwrap();
    take(&mut *slow, "four\n");
}

#[test]
fn unread_input_in_a_layer_resets_no_reply() {
    let (_guard, target) = spawn(builder::<Layered<Tcp, Plain>>(), |conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.as_bytes())
    });
    let mut client = target.connect();
    client.write_all(b"line\nmore").unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "line\n");
    // The server still receives: over a connection that it had closed, the second write would fail.
    client.write_all(b"and more").unwrap();
    client.write_all(b"and more").unwrap();
}

#[test]
fn buffered_and_direct_reads_of_a_layer_see_one_stream() {
    let (results, wait) = channel();
    let (_guard, target) = spawn(builder::<Layered<Tcp, Records>>(), move |conn| {
        let mut first = String::new();
        conn.read_line_max(&mut first, 100).unwrap();
        let mut byte = [0];
        conn.read_exact(&mut byte).unwrap();
        let rest: Vec<_> = conn.lines().map(Result::unwrap).collect();
        results.send((first, byte, rest)).unwrap();
    });
    let mut client = target.connect();
    client.write_all(b"one\ntwo\nthree").unwrap();
    client.end_of_input();
    let seen = wait.recv_timeout(DEADLINE).unwrap();
    let rest = vec!["wo".to_owned(), "three".to_owned()];
    assert_eq!(seen, ("one\n".to_owned(), [b't'], rest));
}

#[test]
fn the_end_of_input_in_a_layer_is_no_message() {
    let handler = |conn: &mut LayeredConnection<TcpConnection, Ending>| {
        let mut messages = 0;
        // A third call would find the end of the input.
        while messages < 2 && conn.next_message()? {
            conn.read_line_max(&mut String::new(), 100)?;
            messages += 1;
        }
        write!(conn, "{messages}")
    };
    let builder = builder::<Layered<Tcp, Ending>>().model(Threading::default());
    let (_guard, target) = spawn(builder, handler);
    let mut client = target.connect();
    client.write_all(b"one\n.\n").expect("send");
    take(&mut *client, "1");
}
