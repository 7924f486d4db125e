//! What a handler can do with a connection.

use std::future::{pending, poll_fn};
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::future::or;
use socketserver::net::{Accepted, Bind, TcpConnection, UnixAddress};
use socketserver::observe::{AbortReason, Activity};
use socketserver::python::ThreadingTcpServer;
use socketserver::task::{block_on, scope};
use socketserver::{Connection, Server, ServerGuard, Tcp, Threading, UnixStream};

use crate::support::{Client, DEADLINE, Target, poll_until, uninterrupted};

/// Starts a server whose handler's results come back, and a client.
fn serve<R: Send + 'static>(
    handler: impl Fn(&mut TcpConnection) -> R + Send + Sync + 'static,
) -> (ServerGuard, Box<dyn Client>, Receiver<R>) {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").expect("bind");
    let target = Target::parse(&server.urls()[0]);
    let (results, wait) = channel();
    let guard = server
        .spawn(move |conn| results.send(handler(conn)).expect("the test waits"))
        .expect("spawn");
    (guard, target.connect(), wait)
}

#[test]
fn lines_have_a_limit_and_end_with_the_stream() {
    let (_guard, mut client, results) = serve(|conn| {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let result = conn.read_line_max(&mut line, 8);
            lines.push((line, result.map_err(|err| err.kind())));
            if !matches!(lines.last(), Some((_, Ok(1..)))) {
                return lines;
            }
        }
    });
    client.write_all(b"one\n1234567\n\npart").unwrap();
    client.end_of_input();
    let expected = [
        ("one\n", 4),
        ("1234567\n", 8),
        ("\n", 1),
        ("part", 4),
        ("", 0),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(line, count)| (line.to_owned(), Ok(count)))
        .collect();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), expected);
}

#[test]
fn a_line_that_is_too_long_or_no_text_is_an_error() {
    let (_guard, mut client, results) = serve(|conn| {
        let mut line = String::new();
        let too_long = conn.read_line_max(&mut line, 8).unwrap_err().kind();
        let no_text = conn.read_line_max(&mut line, 100).unwrap_err().kind();
        (too_long, no_text, line)
    });
    client.write_all(b"12345678\xff\n").unwrap();
    let invalid = io::ErrorKind::InvalidData;
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (invalid, invalid, String::new())
    );
}

#[test]
fn readers_of_a_buf_read_read_from_a_connection() {
    let (_guard, mut client, results) = serve(|conn| conn.lines().collect::<Result<Vec<_>, _>>());
    client.write_all(b"one\ntwo\nthree").unwrap();
    client.end_of_input();
    let lines = results.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(lines, ["one", "two", "three"]);
}

#[test]
fn a_dialed_connection_is_one_like_any_other() {
    fn ask(conn: &mut impl Connection, question: &str) -> io::Result<String> {
        conn.set_write_buffer(1024)?;
        writeln!(conn, "{question}")?;
        let mut answer = String::new();
        conn.read_line_max(&mut answer, 100)?;
        Ok(answer)
    }
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let address = server.local_addrs()[0].socket_addr().unwrap();
    let (results, wait) = channel();
    let accepted = move |conn: &mut TcpConnection| {
        let answer = ask(conn, "who?").unwrap();
        let rest: Vec<_> = conn.lines().map(Result::unwrap).collect();
        results.send((answer, rest)).unwrap();
    };
    let _guard = server.spawn(accepted).unwrap();
    let mut dialed = TcpConnection::connect(address, DEADLINE).unwrap();
    assert_eq!(ask(&mut dialed, "me").unwrap(), "who?\n");
    assert_eq!((dialed.id(), dialed.stopping()), (0, false));
    assert_eq!(dialed.peer_addr(), address);
    // The write buffer is sent at the close.
    dialed.write_all(b"bye").unwrap();
    dialed.close().unwrap();
    let seen = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(seen, ("me\n".to_owned(), vec!["bye".to_owned()]));
}

#[test]
fn buffered_and_direct_reads_see_one_stream() {
    let (_guard, mut client, results) = serve(|conn| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        let mut rest = Vec::new();
        conn.read_to_end(&mut rest)?;
        Ok::<_, io::Error>((line, rest.len(), conn.fill_buf()?.len()))
    });
    client.write_all(b"line\n").unwrap();
    client.write_all(&[b'x'; 100_000]).unwrap();
    client.end_of_input();
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap().unwrap(),
        ("line\n".to_owned(), 100_000, 0)
    );
}

/// A client that goes on to send resets a connection that was aborted.
#[test]
fn a_handler_gets_the_abort_reason_after_a_reset() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (guard, mut client, results) = serve(move |conn| {
        conn.write_all(b"x").unwrap();
        wait.lock().unwrap().recv().unwrap();
        let read = conn.read(&mut [0]).unwrap_err().to_string();
        (read, conn.write(b"x").unwrap_err().to_string())
    });
    client.read_exact(&mut [0]).unwrap();
    assert!(guard.handle().abort(1));
    let end = uninterrupted(|| client.read(&mut [0]));
    assert_eq!(end.unwrap(), 0, "it is aborted");
    let end = std::time::Instant::now() + DEADLINE;
    while client.write_all(b"x").is_ok() {
        assert!(std::time::Instant::now() < end, "no reset comes");
    }
    go.send(()).unwrap();
    let reason = || "the connection was aborted through the server's handle".to_owned();
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (reason(), reason())
    );
}

#[test]
fn writes_are_seen_at_once_unless_they_are_buffered() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (_guard, mut client, _results) = serve(move |conn| {
        conn.write_all(b"now").unwrap();
        conn.set_write_buffer(64).unwrap();
        conn.write_all(b"later").unwrap();
        wait.lock().unwrap().recv().unwrap();
        // A wait for input sends buffered output, because the client may be waiting for it.
        conn.read_exact(&mut [0; 2]).unwrap();
        conn.write_all(b"at the end").unwrap();
    });
    let mut reply = [0; 3];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"now");
    go.send(()).unwrap();
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"later");
    client.write_all(b"go").unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "at the end");
}

#[test]
fn a_write_larger_than_the_buffer_goes_through_in_order() {
    let (_guard, mut client, _results) = serve(|conn| {
        conn.set_write_buffer(8).unwrap();
        conn.write_all(b"1234").unwrap();
        conn.write_all(b"5678901234567890").unwrap();
        conn.write_all(b"end").unwrap();
    });
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "12345678901234567890end");
}

#[test]
fn timeouts_say_timed_out_and_zero_is_refused() {
    let (_guard, _client, results) = serve(|conn| {
        let zero = conn
            .set_read_timeout(Some(Duration::ZERO))
            .unwrap_err()
            .kind();
        conn.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        conn.set_write_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let read = conn.read(&mut [0]).unwrap_err().kind();
        let again = conn.fill_buf().unwrap_err().kind();
        // The client reads nothing, so the buffers of both ends fill up.
        let write = conn.write_all(&vec![0; 64 << 20]).unwrap_err().kind();
        [zero, read, again, write]
    });
    use io::ErrorKind::{InvalidInput, TimedOut};
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        [InvalidInput, TimedOut, TimedOut, TimedOut]
    );
}

#[test]
fn half_closing_sends_what_is_buffered_and_reading_goes_on() {
    let (_guard, mut client, results) = serve(|conn| {
        conn.set_write_buffer(64).unwrap();
        conn.write_all(b"bye").unwrap();
        conn.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        conn.read_to_string(&mut rest).unwrap();
        rest
    });
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "bye");
    client.write_all(b"and you").unwrap();
    client.end_of_input();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), "and you");
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_a_disconnect() {
    let (failures, wait) = channel();
    let server = Server::<Tcp>::builder()
        .on_error(move |failure| {
            failures
                .send((failure.is_disconnect(), failure.is_panic()))
                .unwrap();
        })
        .bind("127.0.0.1:0")
        .unwrap();
    let client =
        std::net::TcpStream::connect(server.local_addrs()[0].socket_addr().unwrap()).unwrap();
    // A close with linger zero resets the connection.
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    let _guard = server
        .spawn(|conn| {
            conn.read_exact(&mut [0])?;
            loop {
                conn.write_all(&[0; 1024])?;
            }
            #[expect(unreachable_code, reason = "names the type of the closure's value")]
            Ok::<(), io::Error>(())
        })
        .unwrap();
    let mut client = client;
    client.write_all(b"x").unwrap();
    drop(client);
    assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), (true, false));
}

#[test]
fn an_abort_by_the_server_is_no_disconnect() {
    let (failures, wait) = channel();
    let (waits, waiting) = channel();
    let server = Server::<Tcp>::builder()
        .model(Threading::default())
        .on_error(move |failure| {
            let kind = failure.io_error().map(io::Error::kind);
            let seen = (kind, failure.abort_reason(), failure.is_disconnect());
            failures.send(seen).unwrap();
        })
        .bind("127.0.0.1:0")
        .unwrap();
    let _client = Target::parse(&server.urls()[0]).connect();
    let guard = server.spawn(move |conn: &mut TcpConnection| {
        waits.send(conn.id()).unwrap();
        block_on(pending::<()>())
    });
    let guard = guard.unwrap();
    let id = waiting.recv_timeout(DEADLINE).unwrap();
    assert!(guard.handle().abort(id));
    let aborted = Some(io::ErrorKind::ConnectionAborted);
    let expected = (aborted, Some(AbortReason::Asked), false);
    assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), expected);
}

#[test]
fn addresses_and_ids_are_those_of_the_connection() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let (seen, wait) = channel();
    let _guard = server
        .spawn(move |conn| {
            let local = Connection::local_addr(conn).unwrap();
            seen.send((
                conn.id(),
                conn.peer_addr(),
                local.socket_addr().unwrap(),
                conn.peer().to_string(),
            ))
            .unwrap();
        })
        .unwrap();
    for id in 1..3 {
        let client = std::net::TcpStream::connect(addr).unwrap();
        let own = client.local_addr().unwrap();
        assert_eq!(
            wait.recv_timeout(DEADLINE).unwrap(),
            (id, own, addr, own.to_string())
        );
    }
}

#[test]
fn a_unix_peer_shows_its_credentials() {
    let name = format!("socketserver-credentials-{}", std::process::id());
    let listener = UnixStream::bind(UnixAddress::Abstract(name.clone().into_bytes())).unwrap();
    let server = Server::<UnixStream>::builder()
        .listen(listener)
        .build()
        .unwrap();
    let (seen, wait) = channel();
    let _guard = server
        .spawn(move |conn| {
            seen.send((conn.peer_credentials().unwrap(), conn.peer().to_string()))
                .unwrap();
        })
        .unwrap();
    use std::os::linux::net::SocketAddrExt;
    let addr = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let _client = std::os::unix::net::UnixStream::connect_addr(&addr).unwrap();
    let (peer, shown) = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
    assert_eq!(
        (peer.uid, peer.gid),
        (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        )
    );
    assert_eq!(shown, "(unnamed)");
}

#[test]
fn a_timeout_may_be_beyond_the_reach_of_the_clock() {
    let (_guard, mut client, results) = serve(|conn| {
        let mut byte = [0];
        conn.set_write_timeout(Some(Duration::MAX))?;
        conn.read_exact(&mut byte)?;
        // More than the sockets hold, so the write waits.
        conn.write_all(&vec![0; 16 << 20])
    });
    client.write_all(b"x").expect("send");
    let received = io::copy(&mut client, &mut io::sink()).expect("receive");
    assert_eq!(received, 16 << 20);
    results
        .recv_timeout(DEADLINE)
        .expect("a result")
        .expect("written");

    let server = ThreadingTcpServer::bind("127.0.0.1:0").expect("bind");
    let addr = server.local_addrs()[0].socket_addr().expect("an address");
    let _guard = server
        .spawn(|conn| conn.write_all(b"hello"))
        .expect("spawn");
    let mut out = TcpConnection::connect(addr, Duration::MAX).expect("connect");
    let mut answer = String::new();
    out.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "hello");
}

#[test]
fn a_connection_counts_as_reading_only_while_a_future_waits_for_it() {
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let (go_on, wait) = async_channel::bounded::<()>(1);
    let (guard, _client, results) = serve(move |conn| {
        let mut byte = [0];
        let input = poll_fn(|cx| conn.poll_read(cx, &mut byte).map_ok(Some));
        let other = async {
            stopped
                .recv()
                .await
                .map(|()| None)
                .map_err(io::Error::other)
        };
        let first = block_on(or(input, other)).unwrap().unwrap();
        block_on(wait.recv()).unwrap().unwrap();
        first
    });
    let activity = || {
        let connections = guard.handle().connections();
        connections.first().map(|connection| connection.activity)
    };
    let becomes = |wanted| {
        poll_until(&format!("{wanted}"), DEADLINE, || {
            (activity() == Some(wanted)).then_some(())
        });
    };
    becomes(Activity::Reading);
    block_on(stop.send(())).unwrap().unwrap();
    // The future was dropped half-way.
    becomes(Activity::Running);
    block_on(go_on.send(())).unwrap().unwrap();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), None);
}

#[test]
fn a_future_that_has_polled_one_half_leaves_the_other_one_writing() {
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let (ended, ends) = async_channel::bounded::<()>(1);
    let (guard, mut client, results) = serve(move |conn| {
        let (mut input, mut output) = conn.halves().unwrap();
        scope(|scope| {
            // More than the buffers of both ends hold.
            let sends = scope
                .spawn(move || output.write_all(&vec![0; 16 << 20]))
                .unwrap();
            let mut byte = [0];
            let input = poll_fn(|cx| input.poll_read(cx, &mut byte));
            let other = async { stopped.recv().await.map(|()| 0).map_err(io::Error::other) };
            let first = block_on(or(input, other)).unwrap().unwrap();
            block_on(ended.send(())).unwrap().unwrap();
            sends.join().unwrap().unwrap();
            first
        })
    });
    let writes = || {
        let connections = guard.handle().connections();
        let first = connections.first();
        first.is_some_and(|connection| connection.activity == Activity::Writing)
    };
    poll_until("the connection writes", DEADLINE, || writes().then_some(()));
    block_on(stop.send(())).unwrap().unwrap();
    block_on(ends.recv()).unwrap().unwrap();
    // A write that goes on may have begun anew.
    poll_until("the connection still writes", DEADLINE, || {
        writes().then_some(())
    });
    io::copy(&mut client, &mut io::sink()).unwrap();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), 0);
}

#[test]
fn a_connection_is_polled_within_block_on_alone() {
    let (_guard, mut client, results) = serve(|conn| {
        let mut byte = [0];
        // Another executor would not be woken by a worker or by a thread of this crate.
        let polled = conn.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte);
        let Poll::Ready(Err(err)) = polled else {
            panic!("{polled:?}")
        };
        block_on(poll_fn(|cx| conn.poll_read(cx, &mut byte)))
            .unwrap()
            .unwrap();
        (err.kind(), byte)
    });
    client.write_all(b"x").unwrap();
    let unsupported = io::ErrorKind::Unsupported;
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (unsupported, *b"x")
    );
}
