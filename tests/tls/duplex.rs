//! Both directions of a connection at once, while the client changes its keys and demands that the
//! server does.

use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::thread;

use socketserver::model::Model;
use socketserver::task::{block_on, scope};
use socketserver::{Connection, ServerGuard, ThreadPool, Threading};

use crate::support::DEADLINE;
use crate::support::tls::{Keys, plain_with};
use crate::{Conn, Setup, builder, plain, spawn};

/// How many messages each side sends.
const MESSAGES: usize = 100_000;

fn message(number: usize) -> String {
    format!("message {number} {}\n", "x".repeat(number % 50))
}

/// Sends all messages.
fn send(out: &mut impl Write) -> io::Result<()> {
    (0..MESSAGES).try_for_each(|number| out.write_all(message(number).as_bytes()))
}

/// Reads and checks all messages.
fn check(input: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    for number in 0..MESSAGES {
        line.clear();
        input.read_line(&mut line)?;
        assert_eq!(line, message(number));
    }
    Ok(())
}

/// Two tasks, each with one half.
fn by_halves(conn: &mut Conn) -> io::Result<()> {
    let (mut input, mut output) = conn.halves()?;
    scope(|scope| {
        let sends = scope.spawn(|| {
            send(&mut output)?;
            output.shutdown()
        })?;
        check(&mut input)?;
        assert_eq!(input.read(&mut [0])?, 0, "the client has ended its side");
        sends.join().expect("no panic")
    })
}

/// One future, which polls both directions. `poll` polls one of them.
fn by_polls(conn: &mut Conn) -> io::Result<()> {
    let (mut input, mut output) = conn.halves()?;
    let all: String = (0..MESSAGES).map(message).collect();
    let (mut sent, mut received) = (0, Vec::new());
    let mut buf = vec![0; 5000];
    block_on(poll_fn(|cx| {
        loop {
            let rest = &all.as_bytes()[sent..];
            let mut moved = false;
            if !rest.is_empty() {
                if let Poll::Ready(count) = output.poll_write(cx, rest)? {
                    (sent, moved) = (sent + count, true);
                }
            }
            if received.len() < all.len() {
                if let Poll::Ready(count) = input.poll_read(cx, &mut buf)? {
                    assert_ne!(count, 0, "all messages come");
                    received.extend_from_slice(&buf[..count]);
                    moved = true;
                }
            } else if sent == all.len() {
                return Poll::Ready(io::Result::Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }))??;
    assert!(received == all.as_bytes());
    output.shutdown()
}

/// As `by_polls`, without halves: the directions take turns.
fn by_turns(conn: &mut Conn) -> io::Result<()> {
    for number in 0..200 {
        let text = message(number);
        let mut got = Vec::new();
        while got.len() < text.len() {
            let mut buf = vec![0; text.len() - got.len()];
            let count = block_on(poll_fn(|cx| conn.poll_read(cx, &mut buf)))??;
            got.extend_from_slice(&buf[..count]);
        }
        assert_eq!(got, text.as_bytes());
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let count = block_on(poll_fn(|cx| conn.poll_write(cx, rest)))??;
            rest = &rest[count..];
        }
    }
    Ok(())
}

fn serve<M: Model>(
    model: M,
    handler: fn(&mut Conn) -> io::Result<()>,
) -> (Setup, ServerGuard, SocketAddr) {
    let setup = Setup::new();
    let tls = setup.options().build().expect("TLS");
    let builder = builder(&tls)
        .model(model)
        .drain_timeout(DEADLINE)
        .on_error(|failure| panic!("{failure}"));
    let (guard, address) = spawn(builder, handler);
    (setup, guard, address)
}

fn client(setup: &Setup, address: SocketAddr) -> UnixStream {
    plain_with(plain(address), setup.client(), Keys::Change)
}

/// Sends and reads all messages at the same time.
fn converse<M: Model>(model: M, handler: fn(&mut Conn) -> io::Result<()>) {
    let (setup, guard, address) = serve(model, handler);
    let client = client(&setup, address);
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&mut &client).expect("send");
            client.shutdown(Shutdown::Write).expect("an end");
        });
        let mut input = BufReader::new(&client);
        check(&mut input).expect("all messages");
        let mut rest = Vec::new();
        input.read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, b"");
    });
    let handle = guard.handle().clone();
    guard.stop().expect("a stop");
    assert_eq!((handle.totals().completed, handle.totals().failed), (1, 0));
}

#[test]
fn two_threads_use_one_connection() {
    converse(Threading::default(), by_halves);
    converse(ThreadPool::new(1), by_halves);
}

#[test]
fn a_future_on_a_thread_polls_both_directions() {
    converse(Threading::default(), by_polls);
}

/// The handlers restore no thread-locals after they have blocked.
#[cfg(feature = "coroutines")]
#[expect(unsafe_code, reason = "the contract of coroutines")]
pub(crate) fn coroutines(driver: socketserver::model::Driver) -> socketserver::Coroutines {
    // SAFETY: as said above.
    unsafe { socketserver::Coroutines::new() }
        .workers(1)
        .driver(driver)
}

#[cfg(feature = "coroutines")]
#[test]
fn two_coroutines_use_one_connection() {
    use socketserver::model::Driver;
    converse(coroutines(Driver::Auto), by_halves);
    converse(coroutines(Driver::Epoll), by_halves);
    converse(coroutines(Driver::Epoll), by_polls);
}

#[test]
fn a_connection_is_polled() {
    let (setup, guard, address) = serve(Threading::default(), by_turns);
    let mut client = client(&setup, address);
    for number in 0..200 {
        let text = message(number);
        client.write_all(text.as_bytes()).expect("send");
        let mut got = vec![0; text.len()];
        client.read_exact(&mut got).expect("an answer");
        assert_eq!(got, text.as_bytes());
    }
    drop(client);
    guard.stop().expect("a stop");
}

#[test]
fn what_a_half_has_left_the_connection_has() {
    let (setup, guard, address) = serve(Threading::default(), |conn: &mut Conn| {
        conn.set_write_buffer(100)?;
        let mut first = String::new();
        {
            let (mut input, mut output) = conn.halves()?;
            input.read_line(&mut first)?;
            output.write_all(b"from the half, ")?;
        }
        let mut rest = String::new();
        conn.read_line_max(&mut rest, 100)?;
        write!(conn, "from the connection: {first}{rest}")
    });
    let mut client = client(&setup, address);
    client.write_all(b"one\ntwo\n").expect("send");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "from the half, from the connection: one\ntwo\n");
    guard.stop().expect("a stop");
}

#[test]
fn what_a_half_has_encrypted_the_connection_sends() {
    const BLOCK: usize = 16 * 1024;
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (sent, wait) = std::sync::mpsc::channel();
    let (_guard, address) = spawn(builder(&tls), move |conn: &mut Conn| {
        let mut count = 0;
        {
            let (_input, mut output) = conn.halves()?;
            let once = |output: &mut socketserver::net::WriteHalf<'_>| {
                let polled = poll_fn(|cx| Poll::Ready(output.poll_write(cx, &[b'x'; BLOCK])));
                block_on(polled)
            };
            // Until the client's buffers are full, amid a record.
            while let Poll::Ready(more) = once(&mut output)? {
                count += more?;
            }
        }
        sent.send(count).expect("the test waits");
        conn.write_all(b"over")
    });
    let mut client = crate::connect(address, &setup.client(), "localhost");
    client.conn.complete_io(&mut client.sock).unwrap();
    let count = wait.recv_timeout(DEADLINE).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), count + BLOCK + 4);
    assert!(all.ends_with(b"xover"));
}
