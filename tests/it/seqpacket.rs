//! Connections whose messages have boundaries.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures_lite::future::or;
use socket2::{Domain, SockAddr, Socket, Type};
use socketserver::limits::AtLimit;
use socketserver::net::{Dialed, SeqpacketConnection, UnixOptions};
use socketserver::task::{block_on, scope};
use socketserver::{Server, ServerGuard, Threading, UnixSeqpacket, UnixStream};

use crate::support::DEADLINE;

/// A server whose handler's results come back, and a client.
struct Served<R> {
    guard: ServerGuard,
    client: Dialed<SeqpacketConnection>,
    results: Receiver<R>,
    _directory: tempfile::TempDir,
}

impl<R> Served<R> {
    fn result(&self) -> R {
        self.results.recv_timeout(DEADLINE).expect("a result")
    }
}

fn serve_with<R: Send + 'static>(
    options: UnixOptions<UnixSeqpacket>,
    handler: impl Fn(&mut SeqpacketConnection) -> R + Send + Sync + 'static,
) -> Served<R> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("q");
    let server = Server::<UnixSeqpacket>::builder()
        .model(Threading::default())
        .listen([options.bind(&path).expect("bind")])
        .build()
        .expect("a server");
    let (send, results) = channel();
    let guard = server.spawn(move |conn| send.send(handler(conn)).expect("the test waits"));
    let client = SeqpacketConnection::connect(&path, DEADLINE).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    Served {
        guard: guard.expect("serve"),
        client,
        results,
        _directory: directory,
    }
}

fn serve<R: Send + 'static>(
    handler: impl Fn(&mut SeqpacketConnection) -> R + Send + Sync + 'static,
) -> Served<R> {
    serve_with(UnixSeqpacket::options(), handler)
}

/// What a receive of at most 8 bytes finds.
fn received(conn: &SeqpacketConnection) -> Result<Option<String>, (ErrorKind, String)> {
    let mut buf = [0; 8];
    match conn.recv(&mut buf) {
        Ok(message) => Ok(message.map(|message| String::from_utf8_lossy(message).into_owned())),
        Err(err) => Err((err.kind(), err.to_string())),
    }
}

#[test]
fn messages_are_whole_or_an_error_and_an_empty_one_is_no_end() {
    let served = serve(|conn| -> Vec<_> { (0..7).map(|_| received(conn)).collect() });
    for message in ["one", "", "12345678", "123456789", "next"] {
        served.client.send(message.as_bytes()).unwrap();
    }
    served.client.shutdown(std::net::Shutdown::Write).unwrap();
    let text = |text: &str| Ok(Some(text.to_owned()));
    let long = "a message of 9 bytes is longer than the buffer of 8";
    let expected = [
        text("one"),
        text(""),
        text("12345678"),
        Err((ErrorKind::InvalidData, long.to_owned())),
        text("next"),
        Ok(None),
        Ok(None),
    ];
    assert_eq!(served.result(), expected);
}

#[test]
fn a_message_longer_than_the_send_buffer_is_an_error_that_says_so() {
    // The kernel doubles the size. Accepted connections have that of their listener.
    let options = UnixSeqpacket::options().send_buffer(10_000);
    let served = serve_with(options, |conn| {
        conn.send(&[b'x'; 19_000]).unwrap();
        conn.send(&[b'x'; 20_000])
            .map_err(|err| (err.kind(), err.to_string()))
    });
    let what =
        "a message of 20000 bytes does not fit into the send buffer (SO_SNDBUF) of 20000 bytes";
    let expected = Err((ErrorKind::InvalidInput, what.to_owned()));
    assert_eq!(served.result(), expected);
    let mut buf = [0; 30_000];
    let message = served.client.recv(&mut buf).unwrap();
    assert_eq!(message.map(|message| message.len()), Some(19_000));
}

#[test]
fn both_directions_work_at_the_same_time() {
    const COUNT: u32 = 2000;
    let served = serve(|conn| {
        let conn = &*conn;
        scope(|scope| {
            let _ = scope.spawn(move || {
                for number in 0..COUNT {
                    conn.send(&number.to_le_bytes()).unwrap();
                }
            })?;
            let mut buf = [0; 4];
            for number in 0..COUNT {
                assert_eq!(
                    conn.recv(&mut buf)?.as_deref(),
                    Some(&number.to_le_bytes()[..])
                );
            }
            Ok::<_, io::Error>(())
        })
        .unwrap();
    });
    let mut buf = [0; 4];
    for number in 0..COUNT {
        let number = number.to_le_bytes();
        served.client.send(&number).unwrap();
        let message = served.client.recv(&mut buf).unwrap();
        assert_eq!(message.as_deref(), Some(&number[..]));
    }
    served.result();
}

#[test]
fn a_future_waits_for_a_message_and_for_something_else() {
    let (news, wait) = async_channel::bounded::<()>(1);
    let served = serve(move |conn| {
        let mut buf = [0; 8];
        let mut next = |conn: &SeqpacketConnection| {
            let message = poll_fn(|cx| conn.poll_recv(cx, &mut buf));
            let other = async {
                let _ = wait.recv().await;
                Ok(Some(usize::MAX))
            };
            block_on(or(message, other))
                .expect("a task")
                .map_err(|err| err.kind())
        };
        let found = [next(conn), next(conn), next(conn)];
        let sent = block_on(poll_fn(|cx| conn.poll_send(cx, b"answer")));
        sent.expect("a task").expect("sent");
        (found, next(conn))
    });
    served.client.send(b"").unwrap();
    served.client.send(b"123456789").unwrap();
    served.client.send(b"three").unwrap();
    assert_eq!(received(&served.client), Ok(Some("answer".to_owned())));
    news.close();
    let found = [Ok(Some(0)), Err(ErrorKind::InvalidData), Ok(Some(5))];
    assert_eq!(served.result(), (found, Ok(Some(usize::MAX))));
}

#[test]
fn a_stop_ends_a_wait_between_messages_and_answers_what_has_arrived() {
    let (at_first, first) = channel();
    let (go_on, stopped) = channel();
    let stopped = Mutex::new(stopped);
    let served = serve(move |conn| {
        let mut answered = 0;
        while conn.next_message().unwrap() {
            assert_eq!(received(conn), Ok(Some(String::new())));
            // The client sends more messages, and stops the server.
            if answered == 0 {
                at_first.send(()).unwrap();
                stopped.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            }
            conn.send(b"answer").unwrap();
            answered += 1;
        }
        answered
    });
    // Empty messages: they count as input too.
    served.client.send(b"").unwrap();
    first.recv_timeout(DEADLINE).unwrap();
    // Both begin during the stop.
    served.client.send(b"").unwrap();
    served.client.send(b"").unwrap();
    served.guard.handle().shutdown();
    go_on.send(()).unwrap();
    let answers: Vec<_> = (0..4).map(|_| received(&served.client)).collect();
    let answer = || Ok(Some("answer".to_owned()));
    assert_eq!(answers, [answer(), answer(), answer(), Ok(None)]);
    assert_eq!(served.result(), 3);
    assert_eq!(served.guard.stop().unwrap().aborted, 0);
}

#[test]
fn a_wait_has_a_limit() {
    let served = serve(|conn| {
        conn.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let next = conn.next_message().map_err(|err| err.kind());
        (next, received(conn).map_err(|(kind, _)| kind))
    });
    let timed_out = ErrorKind::TimedOut;
    assert_eq!(served.result(), (Err(timed_out), Err(timed_out)));
}

#[test]
fn a_reply_survives_messages_that_were_not_received() {
    let (sent, both_sent) = channel();
    let both_sent = Mutex::new(both_sent);
    let served = serve(move |conn| {
        both_sent.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        conn.send(b"reply")
    });
    served.client.send(b"one").unwrap();
    served.client.send(b"two").unwrap();
    sent.send(()).unwrap();
    served.result().unwrap();
    served.client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(received(&served.client), Ok(Some("reply".to_owned())));
    assert_eq!(received(&served.client), Ok(None));
}

#[test]
fn a_refused_connection_gets_the_text_as_a_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let server = Server::<UnixSeqpacket>::builder()
        .model(Threading::default())
        .max_connections(1)
        .at_limit(AtLimit::RefuseWith(b"busy".to_vec()))
        .listen([UnixSeqpacket::options().bind(&path).unwrap()])
        .build()
        .unwrap();
    let _guard = server
        .spawn(|conn| received(conn).map(drop).map_err(|(_, text)| text))
        .unwrap();
    let connect = || {
        let client = SeqpacketConnection::connect(&path, DEADLINE).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    };
    let _first = connect();
    let second = connect();
    assert_eq!(received(&second), Ok(Some("busy".to_owned())));
    assert_eq!(received(&second), Ok(None));
}

#[test]
fn files_are_kept_and_replaced_as_those_of_streams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let dead = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    dead.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    drop(dead);
    let live = UnixSeqpacket::options().mode(0o600).bind(&path).unwrap();
    for err in [
        UnixSeqpacket::options().bind(&path).unwrap_err(),
        UnixStream::options().bind(&path).unwrap_err(),
    ] {
        assert!(err.is_addr_in_use(), "{err}");
    }
    drop(live);
    assert!(!path.exists());
    let stream = UnixStream::options().bind(&path).unwrap();
    let err = UnixSeqpacket::options().bind(&path).unwrap_err();
    assert!(err.is_addr_in_use(), "{err}");
    let err = UnixSeqpacket::from_fd(rustix::io::dup(&stream).unwrap()).unwrap_err();
    assert!(
        err.to_string()
            .contains("as a Unix seqpacket listener: its type is"),
        "{err}"
    );
}
