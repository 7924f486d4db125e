//! What coroutines promise beyond the matrix: many at once on one thread, and an end that leaves
//! nothing behind.

#![expect(unsafe_code, reason = "the contract of coroutines")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use socketserver::model::Driver;
use socketserver::net::{Accepted, TcpConnection, UnixAddress, UnixConnection};
use socketserver::observe::State;
use socketserver::task::{offload, sleep, yield_now};
use socketserver::{Connection, Coroutines, Server, ServerGuard, Tcp, UnixStream};

use crate::support::{DEADLINE, Target};

/// The handlers of these tests restore no thread-local after they have blocked.
fn coroutines(workers: usize) -> Coroutines {
    // SAFETY: as said above.
    let coroutines = unsafe { Coroutines::new() };
    coroutines.workers(workers).driver(driver())
}

/// The driver that this module tests.
#[expect(clippy::print_stderr, reason = "a skipped test prints why")]
fn driver() -> Driver {
    if module_path!().ends_with("epoll") {
        return Driver::Epoll;
    }
    let (driver, fallback) = Driver::Auto.pick();
    if let Some(why) = fallback {
        eprintln!("tested over epoll once more: {why}");
    }
    driver
}

fn serve<R: Send + 'static>(
    workers: usize,
    handler: impl Fn(&mut TcpConnection) -> R + Send + Sync + 'static,
) -> (ServerGuard, Target, std::sync::mpsc::Receiver<R>) {
    let server = Server::<Tcp>::builder()
        .model(coroutines(workers))
        .bind("127.0.0.1:0")
        .expect("bind");
    let target = Target::parse(&server.urls()[0]);
    let (results, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            let result = handler(conn);
            let _ = results.send(result);
        })
        .expect("spawn");
    (guard, target, wait)
}

#[test]
fn many_wait_at_once_on_one_thread() {
    let (here, wait) = channel();
    let here = Mutex::new(here);
    let (guard, target, _) = serve(1, move |conn| {
        here.lock().unwrap().send(thread::current().id()).unwrap();
        conn.read_exact(&mut [0]).unwrap();
        conn.write_all(b"done").unwrap();
    });
    let mut clients: Vec<_> = (0..500).map(|_| target.connect()).collect();
    let threads: Vec<_> = clients
        .iter()
        .map(|_| wait.recv_timeout(DEADLINE).unwrap())
        .collect();
    assert!(threads.iter().all(|thread| *thread == threads[0]));
    assert_eq!(guard.handle().live(), 500);
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    for client in &mut clients {
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "done");
    }
}

#[test]
fn connections_are_spread_evenly() {
    let (here, wait) = channel();
    let here = Mutex::new(here);
    let (_guard, target, _) = serve(4, move |conn| {
        here.lock().unwrap().send(thread::current().id()).unwrap();
        let _ = conn.read(&mut [0]);
    });
    let clients: Vec<_> = (0..1000).map(|_| target.connect()).collect();
    let mut counts = HashMap::new();
    for _ in &clients {
        *counts
            .entry(wait.recv_timeout(DEADLINE).unwrap())
            .or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(
        counts.values().all(|count| (200..=300).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn sleeping_delays_no_other_coroutine() {
    let (guard, target, done) = serve(1, |conn| {
        let mut unit = [0];
        conn.read_exact(&mut unit).unwrap();
        let _ = conn.write_all(b"!");
        sleep(match unit[0] {
            b'h' => Duration::from_secs(3600),
            _ => Duration::from_millis(1),
        });
        unit[0]
    });
    let mut sleeps_on = target.connect();
    sleeps_on.write_all(b"h").unwrap();
    sleeps_on.read_exact(&mut [0]).unwrap();
    for _ in 0..3 {
        target.connect().write_all(b"m").unwrap();
        assert_eq!(done.recv_timeout(DEADLINE).unwrap(), b'm');
    }
    guard.handle().shutdown_within(Duration::ZERO);
    assert_eq!(guard.join().unwrap().aborted, 1, "the first one sleeps on");
}

#[test]
fn a_busy_client_does_not_starve_the_others() {
    let (_guard, target, _) = serve(1, |conn| {
        let mut buf = [0; 64];
        while conn.read(&mut buf).unwrap_or(0) > 0 {
            conn.write_all(b"x").ok();
            yield_now();
        }
    });
    let stop = Arc::new(AtomicUsize::new(0));
    let mut busy = target.connect();
    let flood = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while stop.load(Ordering::Relaxed) == 0 && busy.write_all(&[0; 64]).is_ok() {
                let _ = busy.read(&mut [0; 4096]);
            }
        })
    };
    let mut other = target.connect();
    for _ in 0..100 {
        other.write_all(b"y").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn a_timeout_wakes_a_reader_and_data_wakes_it_earlier() {
    let (_guard, target, results) = serve(1, |conn| {
        conn.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let first = conn.read(&mut [0]).unwrap_err().kind();
        conn.set_read_timeout(Some(DEADLINE)).unwrap();
        conn.write_all(b"now").unwrap();
        (first, conn.read(&mut [0; 10]).unwrap())
    });
    let mut client = target.connect();
    client.read_exact(&mut [0; 3]).unwrap();
    client.write_all(b"data").unwrap();
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (io::ErrorKind::TimedOut, 4)
    );
}

#[test]
fn a_panic_after_a_wait_ends_its_own_connection() {
    let server = Server::<Tcp>::builder()
        .model(coroutines(1))
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let guard = server
        .spawn(|conn| {
            let mut byte = [0];
            conn.read_exact(&mut byte)?;
            assert_ne!(byte[0], b'p');
            conn.write_all(&byte)
        })
        .unwrap();
    let (mut panics, mut goes_on) = (target.connect(), target.connect());
    panics.write_all(b"p").unwrap();
    assert_eq!(panics.read(&mut [0]).unwrap(), 0);
    goes_on.write_all(b"x").unwrap();
    let mut reply = String::new();
    goes_on.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "x");
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    assert_eq!((handle.totals().completed, handle.totals().failed), (1, 1));
}

#[test]
fn reading_in_a_destructor_while_a_panic_unwinds_does_not_suspend() {
    struct ReadsOnDrop<'a>(&'a mut TcpConnection, Sender<io::ErrorKind>);
    impl Drop for ReadsOnDrop<'_> {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.read(&mut [0]).unwrap_err().kind());
        }
    }
    let (kinds, wait) = channel();
    let kinds = Mutex::new(kinds);
    let (_guard, target, _) = serve(1, move |conn| {
        let kinds = kinds.lock().unwrap().clone();
        let _reads = ReadsOnDrop(conn, kinds);
        panic!("as asked");
    });
    let _client = target.connect();
    assert_eq!(
        wait.recv_timeout(DEADLINE).unwrap(),
        io::ErrorKind::ConnectionAborted
    );
}

#[test]
fn a_peer_that_vanishes_while_it_is_written_to_ends_the_handler() {
    let (_guard, target, results) = serve(1, |conn| {
        loop {
            if let Err(err) = conn.write_all(&[0; 65_536]) {
                break err.kind();
            }
        }
    });
    let mut client = target.connect();
    client.read_exact(&mut [0; 1000]).unwrap();
    drop(client);
    let kind = results.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(
            kind,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{kind:?}"
    );
}

#[test]
fn an_abort_unwinds_sleeping_coroutines_so_that_destructors_run() {
    struct Alive(Arc<AtomicUsize>, Sender<()>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
            let _ = self.1.send(());
        }
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&alive);
    let (ended, ends) = channel();
    let (release, released) = channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let (guard, target, _) = serve(2, move |conn| {
        count.fetch_add(1, Ordering::SeqCst);
        let _alive = Alive(Arc::clone(&count), ended.clone());
        conn.write_all(b"!").unwrap();
        match conn.id() % 3 {
            0 => sleep(Duration::from_secs(3600)),
            1 => drop(conn.read(&mut [0])),
            // The handler runs until the test releases it.
            _ => {
                let released = Arc::clone(&released);
                offload(move || released.lock().unwrap().recv().is_ok());
            }
        }
    });
    let mut clients: Vec<_> = (0..9).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(alive.load(Ordering::SeqCst), 9);
    guard.handle().shutdown_within(Duration::ZERO);
    // Aborted handlers end; the offloaded call must return first.
    for _ in 0..6 {
        ends.recv_timeout(DEADLINE).unwrap();
    }
    drop(release);
    assert_eq!(guard.join().unwrap().aborted, 9);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

/// The server does not wait two seconds for each handler to notice: fifteen such waits would take
/// longer than the deadline.
#[test]
fn an_abort_of_many_ends_with_the_last_of_them() {
    let (sender, ended) = channel();
    let rounds = thread::spawn(move || {
        for _ in 0..15 {
            abort_many();
            sender.send(()).unwrap();
        }
    });
    let end = Instant::now() + DEADLINE;
    for _ in 0..15 {
        let left = end.saturating_duration_since(Instant::now());
        ended.recv_timeout(left).expect("all aborts end in time");
    }
    rounds.join().unwrap();
}

fn abort_many() {
    let (guard, target, _) = serve(1, |conn| {
        conn.write_all(b"!").expect("send");
        let _ = conn.read(&mut [0]);
    });
    let mut clients: Vec<_> = (0..200).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("served");
    }
    guard.handle().shutdown_within(Duration::ZERO);
    assert_eq!(guard.join().expect("join").aborted, 200);
}

#[test]
fn a_lock_may_be_held_across_a_read_without_contention_on_the_worker() {
    let lock = Arc::new(Mutex::new(0));
    let inner = Arc::clone(&lock);
    let (locked, wait) = channel();
    let (_guard, target, results) = serve(1, move |conn| {
        // Only the first connection takes the lock; the others would block the worker that must
        // wake it.
        if conn.id() == 1 {
            let mut held = inner.lock().unwrap();
            locked.send(()).unwrap();
            conn.read_exact(&mut [0]).unwrap();
            *held += 1;
        }
        conn.id()
    });
    let mut first = target.connect();
    wait.recv_timeout(DEADLINE).unwrap();
    let _second = target.connect();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), 2);
    first.write_all(b"x").unwrap();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), 1);
    assert_eq!(*lock.lock().unwrap(), 1);
}

#[test]
fn offloaded_work_runs_elsewhere_and_its_panic_comes_back() {
    let (_guard, target, results) = serve(1, |_| {
        let (here, there) = (thread::current().id(), offload(|| thread::current().id()));
        let panic = std::panic::catch_unwind(|| offload(|| panic!("over there"))).unwrap_err();
        (here != there, *panic.downcast::<&str>().unwrap())
    });
    let _client = target.connect();
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (true, "over there")
    );
}

#[test]
fn a_handler_connects_out_and_is_a_proxy() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = upstream.local_addr().unwrap();
    let (_guard, target, results) = serve(1, move |client| {
        let mut upstream = TcpConnection::connect(addr, DEADLINE)?;
        let mut line = String::new();
        client.read_line_max(&mut line, 100)?;
        upstream.write_all(line.as_bytes())?;
        line.clear();
        upstream.read_line_max(&mut line, 100)?;
        client.write_all(line.as_bytes())?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((upstream.id(), upstream.stopping()))
    });
    let pending = target.send("question");
    let mut peer = upstream.accept().unwrap().0;
    let mut question = [0; 9];
    peer.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question\n");
    peer.write_all(b"answer\n").unwrap();
    assert_eq!(pending.answer(), "answer\n");
    assert_eq!(results.recv_timeout(DEADLINE).unwrap().unwrap(), (0, false));
}

#[test]
fn connecting_out_fails_clearly() {
    // It keeps the port, and does not listen.
    let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    port.bind(&any.into()).unwrap();
    let refused = port.local_addr().unwrap().as_socket().unwrap();
    let check = move || {
        let tcp = TcpConnection::connect(refused, DEADLINE).unwrap_err();
        let unix = UnixConnection::connect("/nowhere/at/all", DEADLINE).unwrap_err();
        (tcp.kind(), tcp.to_string(), unix.kind())
    };
    let (_guard, target, results) = serve(1, move |_| check());
    let _client = target.connect();
    for (tcp, text, unix) in [results.recv_timeout(DEADLINE).unwrap(), check()] {
        assert_eq!(
            (tcp, unix),
            (io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound)
        );
        assert!(
            text.starts_with(&format!("connect to {refused}: ")),
            "{text}"
        );
    }
}

#[test]
fn a_connect_waits_for_a_full_unix_backlog_until_its_timeout() {
    let name = UnixAddress::Abstract(
        format!(
            "socketserver-room-{}-{}",
            module_path!(),
            std::process::id()
        )
        .into_bytes(),
    );
    let listener = UnixStream::options().backlog(0).bind(&name).unwrap();
    let (first, again) = (name.clone(), name);
    let (_guard, target, results) = serve(1, move |_| {
        let queued = UnixConnection::connect(&first, DEADLINE).unwrap();
        let start = Instant::now();
        let err = UnixConnection::connect(&again, Duration::from_millis(30)).unwrap_err();
        drop(queued);
        (err.kind(), start.elapsed() >= Duration::from_millis(30))
    });
    let _client = target.connect();
    assert_eq!(
        results.recv_timeout(DEADLINE).unwrap(),
        (io::ErrorKind::TimedOut, true)
    );
    drop(listener);
}

#[test]
fn a_writer_reaches_a_connection_from_another_handler() {
    let writers = Mutex::new(Vec::new());
    let (_guard, target, _) = serve(2, move |conn| {
        writers.lock().unwrap().push(conn.writer().unwrap());
        let mut line = String::new();
        conn.write_all(b"!").unwrap();
        while conn.read_line_max(&mut line, 100).unwrap_or(0) > 0 {
            let all = writers.lock().unwrap().clone();
            for mut writer in all {
                let _ = writer.write_all(line.as_bytes());
            }
            line.clear();
        }
    });
    let mut clients: Vec<_> = (0..4).map(|_| target.connect()).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    clients[0].write_all(b"to all\n").unwrap();
    for client in &mut clients {
        let mut line = [0; 7];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"to all\n");
    }
}

#[test]
fn a_handler_that_blocks_its_worker_is_reported() {
    let (stalls, wait) = channel();
    let (release, released) = channel();
    let released = Mutex::new(released);
    let server = Server::<Tcp>::builder()
        .model(coroutines(2))
        .on_stall(move |stall| {
            let peer = stall
                .peer()
                .and_then(socketserver::net::Address::socket_addr);
            stalls.send((stall.id(), peer, stall.time())).unwrap();
        })
        .bind("127.0.0.1:0")
        .unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let _guard = server
        .spawn(move |conn| {
            conn.read_exact(&mut [0]).unwrap();
            // Foreign code that blocks this thread, until the report has come.
            let _ = released.lock().unwrap().recv_timeout(DEADLINE);
        })
        .unwrap();
    let mut clients = [
        TcpStream::connect(addr).unwrap(),
        TcpStream::connect(addr).unwrap(),
    ];
    clients[1].write_all(b"x").unwrap();
    let (id, peer, time) = wait.recv_timeout(DEADLINE).unwrap();
    release.send(()).unwrap();
    assert_eq!(
        (id, peer),
        (Some(2), Some(clients[1].local_addr().unwrap()))
    );
    assert!(time >= Duration::from_millis(100), "{time:?}");
}

#[test]
fn random_ends_leave_nothing_behind() {
    let server = Server::<Tcp>::builder()
        .model(coroutines(2))
        .bind("127.0.0.1:0")
        .unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    let guard = server
        .spawn(|conn| {
            conn.set_read_timeout(Some(Duration::from_millis(5)))?;
            let mut command = [0];
            conn.read_exact(&mut command)?;
            match command[0] % 6 {
                0 => sleep(Duration::from_millis(2)),
                1 => panic!("as asked"),
                2 => yield_now(),
                3 => drop(offload(|| 7)),
                4 => conn.write_all(&[0; 100_000])?,
                _ => {}
            }
            conn.write_all(b"end")
        })
        .unwrap();
    // A generator of its own (xorshift), so that the same seed reproduces a failure.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..2000 {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let choice = random();
        if choice & 0x100 != 0 {
            client.write_all(&[choice as u8]).unwrap();
        }
        if choice & 0x200 != 0 {
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest);
        }
    }
    let handle = guard.handle().clone();
    assert_eq!(guard.stop().unwrap().aborted, 0);
    let totals = handle.totals();
    assert_eq!((totals.accepted, handle.live()), (2000, 0));
    assert_eq!(totals.completed + totals.failed, 2000);
}

/// Reads and writes wait in turn on one connection, and no byte is lost, doubled or moved.
#[test]
fn more_than_the_sockets_hold_goes_both_ways_in_order() {
    const TOTAL: usize = 8 << 20;
    let byte = |at: usize| (at / 3 % 251) as u8;
    let (_guard, target, ended) = serve(1, |conn| {
        let mut buffer = vec![0; 100_000];
        loop {
            let count = conn.read(&mut buffer)?;
            if count == 0 {
                return Ok::<_, io::Error>(());
            }
            conn.write_all(&buffer[..count])?;
        }
    });
    let Target::Tcp(addr) = target else {
        panic!("{target:?}");
    };
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut sender = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let bytes: Vec<_> = (0..TOTAL).map(byte).collect();
        sender.write_all(&bytes).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::with_capacity(TOTAL);
    client.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert_eq!(received.len(), TOTAL);
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(at, got)| *got == byte(at))
    );
    ended.recv_timeout(DEADLINE).unwrap().unwrap();
}

/// The handler kept its worker, and with it the accept loop, until its time was over.
#[test]
fn a_coroutine_that_waits_for_a_state_does_not_block_its_worker() {
    let server = Server::<Tcp>::builder().model(coroutines(1));
    let server = server.bind("127.0.0.1:0").unwrap();
    let (target, handle) = (Target::parse(&server.urls()[0]), server.handle());
    let (waits, wait) = channel();
    let guard = server.spawn(move |conn| {
        if conn.id() > 1 {
            return conn.write_all(b"served");
        }
        waits.send("waits").unwrap();
        let closed = handle.wait_for(State::Closed, 2 * DEADLINE);
        waits
            .send(if closed { "closed" } else { "in vain" })
            .unwrap();
        Ok(())
    });
    let guard = guard.unwrap();
    let _first = target.connect();
    assert_eq!(wait.recv_timeout(DEADLINE), Ok("waits"));
    assert_eq!(target.send("x").answer(), "served");
    assert_eq!(wait.try_recv().ok(), None, "the first one still waits");
    guard.handle().shutdown_within(Duration::ZERO);
    assert_eq!(wait.recv_timeout(DEADLINE), Ok("in vain"));
    guard.join().unwrap();
}
