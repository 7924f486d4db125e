//! Writers over TLS: other threads and coroutines write while the handler reads. `duplex.rs` beside this folder
//! shows under every model that whole writes take turns.

use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::net::Writer;
use socketserver::observe::AbortReason;
use socketserver::task::{block_on, scope};
use socketserver::{Connection, ServerGuard, ThreadPool, Threading};

use crate::support::tls::{Keys, plain_with};
use crate::support::{DEADLINE, uninterrupted};
use crate::{Conn, Setup, builder, connect, plain, spawn};

/// How many lines each writer writes.
const LINES: usize = 500;

/// More than the buffers of both ends hold.
const MUCH: usize = 16 << 20;

/// A server that hands the writer of each connection to the test.
struct Fixture {
    setup: Setup,
    guard: ServerGuard,
    address: SocketAddr,
    writers: Receiver<Writer>,
    reasons: Receiver<Option<AbortReason>>,
}

/// The test has the writer before `handler` begins. The server's write timeout is `limit`.
fn serve<M: Model>(
    model: M,
    limit: Option<Duration>,
    handler: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static,
) -> Fixture {
    let setup = Setup::new();
    let tls = setup.options().build().expect("TLS");
    let (made, writers) = channel();
    let (failed, reasons) = channel();
    let builder = builder(&tls)
        .model(model)
        .drain_timeout(DEADLINE)
        .write_timeout(limit)
        .on_error(move |failure| {
            let reason = failure.abort_reason();
            failed.send(reason).expect("the test waits");
        });
    let (guard, address) = spawn(builder, move |conn: &mut Conn| {
        made.send(conn.writer()?).expect("the test waits");
        handler(conn)
    });
    Fixture {
        setup,
        guard,
        address,
        writers,
        reasons,
    }
}

impl Fixture {
    /// Connects a client that reads where it is called, and so not by itself.
    fn connect(&self) -> (crate::Client, Writer) {
        let mut client = connect(self.address, &self.setup.client(), "localhost");
        client
            .conn
            .complete_io(&mut client.sock)
            .expect("a handshake");
        (
            client,
            self.writers.recv_timeout(DEADLINE).expect("a writer"),
        )
    }
}

fn read_all(conn: &mut Conn) -> io::Result<()> {
    io::copy(conn, &mut io::sink()).map(drop)
}

/// Writes until the peer takes nothing. Returns the error, and how much was sent in whole writes.
fn fill(writer: &mut Writer) -> (io::Error, usize) {
    let mut count = 0;
    loop {
        match writer.write_all(&[b'x'; 10_000]) {
            Ok(()) => count += 10_000,
            Err(err) => return (err, count),
        }
    }
}

/// Tasks of the handler write by writers while it reads, and the client changes its keys.
fn write_beside(conn: &mut Conn) -> io::Result<()> {
    let writers = [conn.writer()?, conn.writer()?, conn.writer()?];
    scope(|scope| {
        let write = |(mut writer, letter): (Writer, &'static str)| {
            scope.spawn(move || {
                let mut lengths = 1..=LINES;
                lengths.try_for_each(|length| {
                    writer.write_all(format!("{}\n", letter.repeat(length)).as_bytes())
                })
            })
        };
        let pairs = writers.into_iter().zip(["a", "b", "c"]);
        let spawned: Vec<_> = pairs.map(write).collect::<io::Result<_>>()?;
        let mut line = String::new();
        while conn.read_line_max(&mut line, 1000)? > 0 {
            conn.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        spawned
            .into_iter()
            .try_for_each(|writes| writes.join().expect("no panic"))
    })
}

fn writers_take_turns<M: Model>(model: M) {
    let fixture = serve(model, None, write_beside);
    let client = plain(fixture.address);
    let client = plain_with(client, fixture.setup.client(), Keys::Change);
    let line = |number: usize| format!("message {number}\n");
    let mut all = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..LINES {
                (&client).write_all(line(number).as_bytes()).expect("send");
            }
            client.shutdown(Shutdown::Write).expect("an end");
        });
        for got in BufReader::new(&client).lines() {
            all.push(got.expect("a line"));
        }
    });
    let of = |start: &str| all.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (of("MESSAGE"), of("a"), of("b"), of("c")),
        (LINES, LINES, LINES, LINES)
    );
    // Each writer's lines are whole, and in order.
    let mut lengths = all.iter().filter(|line| line.starts_with('b'));
    assert!((1..=LINES).all(|length| *lengths.next().expect("a line") == "b".repeat(length)));
    let mut messages = all.iter().filter(|line| line.starts_with('M'));
    let is_next =
        |number| *messages.next().expect("a line") == line(number).trim_end().to_uppercase();
    assert!((0..LINES).all(is_next));
    let handle = fixture.guard.handle().clone();
    fixture.guard.stop().expect("a stop");
    assert_eq!((handle.totals().completed, handle.totals().failed), (1, 0));
}

#[test]
fn threads_write_while_the_handler_reads() {
    writers_take_turns(Threading::default());
    writers_take_turns(ThreadPool::new(1));
}

#[cfg(feature = "coroutines")]
#[test]
fn coroutines_write_while_the_handler_reads() {
    use crate::duplex::coroutines;
    use socketserver::model::Driver;
    writers_take_turns(coroutines(Driver::Epoll));
    writers_take_turns(coroutines(Driver::Auto));
}

#[test]
fn the_handler_reads_while_a_writer_waits() {
    let fixture = serve(Threading::default(), None, |conn| {
        conn.read_exact(&mut vec![0; MUCH])?;
        conn.writer()?.flush()
    });
    let (mut client, mut writer) = fixture.connect();
    let writes = thread::spawn(move || writer.write_all(&vec![b'w'; MUCH]));
    // The writer has the turn. Now the client sends everything before it reads on.
    client.read_exact(&mut [0; 10]).unwrap();
    client.sock.set_write_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&vec![b'r'; MUCH]).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    writes.join().unwrap().unwrap();
    assert_eq!(all.len(), MUCH - 10);
    drop(client);
    assert_eq!(fixture.guard.stop().unwrap().aborted, 0);
}

#[test]
fn a_client_that_takes_nothing_is_aborted() {
    let limit = Some(Duration::from_millis(100));
    let fixture = serve(Threading::default(), limit, read_all);
    let (client, mut writer) = fixture.connect();
    let (err, _) = fill(&mut writer);
    assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    let reason = fixture.reasons.recv_timeout(DEADLINE).unwrap();
    assert_eq!(reason, Some(AbortReason::Write));
    drop(client);
}

#[test]
fn a_write_that_is_late_leaves_the_stream_whole() {
    let fixture = serve(Threading::default(), None, read_all);
    let (mut client, mut writer) = fixture.connect();
    let mut patient = writer.clone();
    writer
        .set_write_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let (err, count) = fill(&mut writer);
    assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    // The next write of another writer sends the rest of the record first.
    let writes = thread::spawn(move || patient.write_all(b"over"));
    let mut all = vec![0; count + 10_000 + 4];
    client.read_exact(&mut all).unwrap();
    assert!(all.ends_with(b"xover"));
    writes.join().unwrap().unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(uninterrupted(|| client.read(&mut [0])).unwrap(), 0);
    assert_eq!(fixture.guard.stop().unwrap().aborted, 0);
}

#[test]
fn a_wait_for_the_turn_has_a_limit() {
    let limit = Some(Duration::from_millis(50));
    let (kinds, of_handler) = channel();
    let fixture = serve(Threading::default(), None, move |conn| {
        conn.set_write_timeout(limit)?;
        conn.read_exact(&mut [0])?;
        let err = conn.write(b"late").expect_err("another has the turn");
        kinds.send(err.kind()).expect("the test waits");
        conn.set_write_timeout(None)?;
        conn.read_exact(&mut [0])
    });
    let (mut client, mut writer) = fixture.connect();
    let mut late = writer.clone();
    // More than is ever sent; the pages are never touched.
    let writes = thread::spawn(move || writer.write_all(&vec![0; 1 << 30]));
    // The writer has the turn once its bytes have come.
    client.read_exact(&mut [0; 10]).unwrap();
    client.write_all(b"!").unwrap();
    let kind = of_handler.recv_timeout(DEADLINE).unwrap();
    assert_eq!(kind, io::ErrorKind::TimedOut);
    late.set_write_timeout(limit).unwrap();
    let err = late.write_all(b"late").unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    // The end of the connection ends the write after a record.
    client.write_all(b"!").unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    let written = writes.join().unwrap();
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(rest.iter().all(|byte| *byte == 0));
}

#[test]
fn a_writer_ends_with_its_connection() {
    let fixture = serve(Threading::default(), None, |_| Ok(()));
    let (mut client, mut writer) = fixture.connect();
    // An end with close_notify.
    assert_eq!(uninterrupted(|| client.read(&mut [0])).unwrap(), 0);
    let err = writer.write_all(b"late").unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn polls_take_turns_with_writers() {
    let fixture = serve(Threading::default(), None, |conn| {
        conn.read_exact(&mut [0])?;
        for number in 0..LINES {
            let line = format!("polled {number}\n");
            let mut rest = line.as_bytes();
            while !rest.is_empty() {
                let sent = block_on(poll_fn(|cx| conn.poll_write(cx, rest)))??;
                rest = &rest[sent..];
            }
        }
        let mut end = [0];
        assert_eq!(block_on(poll_fn(|cx| conn.poll_read(cx, &mut end)))??, 0);
        Ok(())
    });
    let client = plain(fixture.address);
    let client = plain_with(client, fixture.setup.client(), Keys::Stay);
    (&client).write_all(b"!").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut writer = fixture.writers.recv_timeout(DEADLINE).unwrap();
    let writes = thread::spawn(move || {
        let lines = (0..).map(|number| format!("written {number}\n"));
        for (number, line) in lines.enumerate() {
            if writer.write_all(line.as_bytes()).is_err() {
                return number;
            }
        }
        0
    });
    let mut counts = [0, 0];
    for line in BufReader::new(&client).lines() {
        let line = line.unwrap();
        let at = usize::from(line.starts_with("written"));
        assert_eq!(
            line,
            format!("{} {}", ["polled", "written"][at], counts[at])
        );
        counts[at] += 1;
    }
    assert_eq!(counts[0], LINES);
    assert!(counts[1] <= writes.join().unwrap());
}

#[test]
fn a_poll_is_woken_for_its_turn() {
    let (polls, pending) = channel();
    let fixture = serve(Threading::default(), None, move |conn| {
        conn.read_exact(&mut [0])?;
        let write = poll_fn(|cx| {
            let polled = conn.poll_write(cx, b"polled");
            polls.send(polled.is_pending()).expect("the test waits");
            polled
        });
        assert_eq!(block_on(write)??, 6);
        Ok(())
    });
    let (mut client, mut writer) = fixture.connect();
    let writes = thread::spawn(move || writer.write_all(&vec![b'w'; MUCH]));
    // The writer has the turn.
    client.read_exact(&mut [0; 10]).unwrap();
    client.write_all(b"!").unwrap();
    assert!(pending.recv_timeout(DEADLINE).unwrap());
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), MUCH - 10 + 6);
    assert!(all.ends_with(b"polled"));
    writes.join().unwrap().unwrap();
}

#[test]
fn buffered_writes_are_not_overtaken() {
    let fixture = serve(Threading::default(), None, |conn| {
        conn.set_write_buffer(1000)?;
        conn.write_all(b"handler, ")?;
        let mut writer = conn.writer()?;
        writer.write_all(b"writer, ")?;
        conn.set_write_buffer(1000)?;
        conn.write_all(b"handler, ")?;
        writer.write_all(b"writer, ")?;
        conn.write_all(b"end")
    });
    let (mut client, _writer) = fixture.connect();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "handler, writer, handler, writer, end");
}

#[test]
fn a_connection_to_another_server_has_writers() {
    let fixture = serve(Threading::default(), None, |conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.as_bytes())
    });
    let connector = fixture.setup.connector().build().unwrap();
    let mut dialed = connector
        .connect(fixture.address, "localhost", DEADLINE)
        .unwrap();
    dialed
        .writer()
        .unwrap()
        .write_all(b"by a writer\n")
        .unwrap();
    let mut answer = String::new();
    dialed.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "by a writer\n");
}
