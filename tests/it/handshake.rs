//! The handshake timeout, with a transport that has a handshake.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socketserver::net::{Abort, AcceptBatch, Managed};
use socketserver::net::{Accepted, Address, Context, Transport};
use socketserver::observe::Activity;
use socketserver::{Server, ServerGuard, Threading};

use crate::support::{DEADLINE, uninterrupted};

struct Shaking(TcpListener);

struct Hand {
    socket: Arc<Socket>,
    context: Context,
}

struct Socket(TcpStream);

impl Abort for Socket {
    fn abort(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    fn peer(&self) -> Address {
        self.0
            .peer_addr()
            .map_or(Address::Named(String::new()), Address::from)
    }
}

impl AsFd for Shaking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Shaking {
    type Accepted = Hand;
    const SCHEME: &'static str = "shaking";

    fn local_addr(&self) -> Address {
        Address::from(self.0.local_addr().expect("an address"))
    }

    fn accept(&self, batch: &mut AcceptBatch<'_, Hand>) -> io::Result<()> {
        let socket = Arc::new(Socket(self.0.accept()?.0));
        batch.push(|mut context| {
            let abort = Arc::downgrade(&socket);
            context.register(abort);
            Hand { socket, context }
        });
        Ok(())
    }
}

impl Accepted for Hand {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        self.socket.peer()
    }
}

impl Managed for Hand {}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("set the mode");
    listener
}

/// Serves clients whose handshake is one byte.
fn serve(listener: TcpListener, timeout: Duration) -> (ServerGuard, Address) {
    let server = Server::<Shaking>::builder()
        .model(Threading::default())
        .handshake_timeout(timeout)
        .listen([Shaking(listener)])
        .build()
        .expect("build");
    let address = server.local_addrs().remove(0);
    let guard = server.spawn(|hand: &mut Hand| {
        hand.context.begin_handshake();
        let shaken = (&hand.socket.0).read(&mut [0]);
        hand.context.end_handshake();
        // No deadline applies after the handshake here.
        let _ = (&hand.socket.0).read(&mut [0]);
        shaken.map(drop)
    });
    (guard.expect("serve"), address)
}

fn connect(address: &Address) -> TcpStream {
    let client = TcpStream::connect(address.socket_addr().expect("TCP")).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

#[test]
fn a_handshake_that_takes_too_long_is_aborted() {
    let (guard, address) = serve(listener(), Duration::from_millis(100));
    let start = Instant::now();
    let mut client = connect(&address);
    assert_eq!(uninterrupted(|| client.read(&mut [0])).unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(guard.handle().totals().timed_out, 1);
    guard.stop().unwrap();
}

#[test]
fn nothing_after_the_handshake_belongs_to_it() {
    let listener = listener();
    // The client has sent its byte before it is accepted, so its handshake does not wait.
    let mut client = connect(&Address::from(listener.local_addr().unwrap()));
    client.write_all(b"!").unwrap();
    let limit = Duration::from_secs(1);
    let (guard, _) = serve(listener, limit);
    // The connection is idle for longer than the handshake timeout.
    client.set_read_timeout(Some(limit + limit / 2)).unwrap();
    let silence = uninterrupted(|| client.read(&mut [0])).unwrap_err();
    assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
    let connections = guard.handle().connections();
    let activities: Vec<_> = connections.iter().map(|one| one.activity).collect();
    assert_eq!(activities, [Activity::Running]);
    assert_eq!(guard.handle().totals().timed_out, 0);
    drop(client);
    guard.stop().unwrap();
}
