//! Timeouts of all kinds of waits.

use std::future::pending;
use std::io::{self, BufRead, Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use socketserver::Connection;
use socketserver::net::Dialed;
use socketserver::net::TcpConnection;
use socketserver::task::{block_on, sleep, timeout};

use crate::{DEADLINE, everywhere};

const SOON: Duration = Duration::from_millis(20);
/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3600);

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|err| err.kind())
}

/// Returns both ends of a connection.
fn pair() -> (Dialed<TcpConnection>, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    let dialed = TcpConnection::connect(address, DEADLINE).expect("connect");
    (dialed, listener.accept().expect("accept").0)
}

#[test]
fn a_read_fails_at_the_deadline_and_can_be_tried_again() {
    everywhere(|| {
        let (mut conn, mut peer) = pair();
        let begin = Instant::now();
        let read = timeout(SOON, || conn.read(&mut [0; 8]));
        assert_eq!(kind(read), Some(io::ErrorKind::TimedOut));
        let filled = timeout(SOON, || conn.fill_buf().map(<[u8]>::len));
        assert_eq!(kind(filled), Some(io::ErrorKind::TimedOut));
        assert!(begin.elapsed() >= 2 * SOON);
        peer.write_all(b"here").expect("send");
        let mut buf = [0; 4];
        timeout(NEVER, || conn.read_exact(&mut buf)).expect("the peer has sent four bytes");
        assert_eq!(&buf, b"here");
        // Buffered input is returned after the deadline too.
        peer.write_all(b"more").expect("send");
        conn.fill_buf().expect("the peer has sent four bytes");
        timeout(Duration::ZERO, || conn.read_exact(&mut buf)).expect("the input is buffered");
        assert_eq!(&buf, b"more");
    });
}

#[test]
fn a_write_fails_at_the_deadline() {
    everywhere(|| {
        let (mut conn, _peer) = pair();
        let sent = timeout(SOON, || conn.write_all(&vec![0; 64 << 20]));
        assert_eq!(kind(sent), Some(io::ErrorKind::TimedOut));
    });
}

#[test]
fn the_timeouts_of_a_connection_apply_as_well() {
    everywhere(|| {
        let (mut conn, _peer) = pair();
        conn.set_read_timeout(Some(SOON)).expect("set");
        let read = timeout(NEVER, || conn.read(&mut [0]));
        assert_eq!(kind(read), Some(io::ErrorKind::TimedOut));
        conn.set_read_timeout(Some(NEVER)).expect("set");
        let read = timeout(SOON, || conn.read(&mut [0]));
        assert_eq!(kind(read), Some(io::ErrorKind::TimedOut));
        // Without a deadline, the connection's own timeout applies.
        conn.set_read_timeout(Some(SOON)).expect("set");
        assert_eq!(kind(conn.read(&mut [0])), Some(io::ErrorKind::TimedOut));
    });
}

#[test]
fn connecting_fails_at_the_deadline() {
    everywhere(|| {
        // The listener's backlog is full, so the connection is not established.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bind");
        socket.listen(0).expect("listen");
        let address = socket.local_addr().expect("bound");
        let address = address.as_socket().expect("an internet address");
        let _first =
            TcpConnection::connect(address, DEADLINE).expect("the backlog holds one connection");
        let begin = Instant::now();
        let dialed = timeout(SOON, || TcpConnection::connect(address, NEVER));
        let dialed = dialed.map_err(io::Error::from);
        assert_eq!(kind(dialed), Some(io::ErrorKind::TimedOut));
        assert!(begin.elapsed() >= SOON);
    });
}

#[test]
fn a_sleep_ends_at_the_deadline() {
    everywhere(|| {
        let begin = Instant::now();
        timeout(SOON, || sleep(NEVER));
        assert!(begin.elapsed() >= SOON);
        let begin = Instant::now();
        timeout(NEVER, || sleep(SOON));
        assert!(begin.elapsed() >= SOON);
    });
}

#[test]
fn the_earlier_deadline_counts_and_ends_with_its_code() {
    everywhere(|| {
        let wait = || kind(block_on(pending::<()>()));
        let timed_out = Some(io::ErrorKind::TimedOut);
        timeout(SOON, || assert_eq!(timeout(NEVER, wait), timed_out));
        timeout(NEVER, || {
            assert_eq!(timeout(SOON, wait), timed_out);
            let panics = catch_unwind(AssertUnwindSafe(|| {
                timeout(Duration::ZERO, || std::panic::resume_unwind(Box::new(())))
            }));
            assert!(panics.is_err());
            // The inner deadlines have ended: only the outermost one counts.
            let begin = Instant::now();
            sleep(SOON);
            assert!(begin.elapsed() >= SOON);
        });
        // This duration overflows the clock.
        timeout(Duration::MAX, || assert_eq!(timeout(SOON, wait), timed_out));
    });
}
