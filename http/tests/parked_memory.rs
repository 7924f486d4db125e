//! What a parked connection of HTTP/1.1 costs on the heap. A binary of its own: it counts the heap of the whole process.
#![cfg(feature = "coroutines")]
#![expect(
    unsafe_code,
    reason = "an allocator that counts, and the contract of coroutines"
)]

#[path = "../../tests/support/poll.rs"]
mod poll;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use socketserver::model::Driver;
use socketserver::observe::Activity;
use socketserver::{Coroutines, Server, ServerHandle, Tcp};
use socketserver_http::{Http, Request};

use poll::poll_until;

/// How many connections are parked. A map of so many has twice the capacity that it needs.
const CONNECTIONS: usize = 450;

/// How many bytes each may cost, in the library and here.
const MAX: usize = 1024;

/// What the test waits for comes long before.
const DEADLINE: Duration = Duration::from_secs(30);

/// The allocator of the system, which counts.
struct Counting;

/// The bytes that are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), SeqCst);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as above; `alloc` has taken the memory from the same allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[test]
fn a_parked_connection_costs_at_most_1_kib() {
    // SAFETY: the handler leaves thread-locals alone.
    let model = unsafe { Coroutines::new() }
        .workers(1)
        .driver(Driver::Epoll);
    let builder = Server::<Tcp>::builder().model(model).idle_timeout(None);
    let server = builder.bind("127.0.0.1:0").expect("bind");
    let addr = server.local_addrs()[0].socket_addr().expect("an address");
    let handle = server.handle();
    let http = Http::new(|_: &mut Request<'_>| "hello\n").idle_timeout(Duration::from_secs(3600));
    let guard = server.spawn(http.serve()).expect("serve");

    let mut clients = Vec::with_capacity(CONNECTIONS + 1);
    clients.push(client(addr));
    await_parked(&handle, 1);
    let before = LIVE.load(SeqCst);
    clients.extend((0..CONNECTIONS).map(|_| client(addr)));
    await_parked(&handle, CONNECTIONS + 1);
    let each = (LIVE.load(SeqCst) - before) / CONNECTIONS;
    assert!(each <= MAX, "a parked connection costs {each} bytes");
    drop((clients, guard));
}

/// Connects a client, whose first request is answered.
fn client(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).expect("connect");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("send");
    let mut answer = [0; 1024];
    let mut count = 0;
    while !answer[..count].ends_with(b"\r\n\r\nhello\n") {
        let more = client.read(&mut answer[count..]).expect("receive");
        assert_ne!(more, 0, "the whole answer");
        count += more;
    }
    client
}

fn await_parked(handle: &ServerHandle, count: usize) {
    poll_until("all connections are parked", DEADLINE, || {
        let connections = handle.connections();
        let parked = connections
            .iter()
            .filter(|connection| connection.activity == Activity::Parked);
        (parked.count() == count).then_some(())
    });
}
