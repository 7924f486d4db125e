//! Stopping: before, during, after and from inside serving.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use socketserver::model::Model;
use socketserver::net::{Accepted, Bind, TcpConnection};
use socketserver::observe::{Event, State};
use socketserver::python::{TcpServer, ThreadingTcpServer};
use socketserver::{
    Connection, Next, Sequential, Server, Tcp, ThreadPool, Threading, per_connection,
};

use crate::support::{DEADLINE, Gate, Target, hold_at, waits_of_this_thread};

fn connect(url: &str) -> Box<dyn crate::support::Client> {
    Target::parse(url).connect()
}

#[test]
fn a_stop_before_serving_returns_without_serving() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let handle = server.handle();
    handle.shutdown();
    assert!(handle.is_stopping());
    assert_eq!(server.serve_forever(|_| ()).unwrap().aborted, 0);
    assert_eq!(handle.totals().accepted, 0);
}

#[test]
fn a_stop_after_serving_does_nothing() {
    let guard = TcpServer::bind("127.0.0.1:0")
        .unwrap()
        .spawn(|_| ())
        .unwrap();
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    handle.shutdown();
    handle.shutdown_within(Duration::ZERO);
}

/// How often a stop may check for handshakes under way. Each check waits a millisecond, and 40 are
/// enough where the transport cannot tell.
const LOOKS_MAX: u64 = 60;

/// The wait that the stop ends, and a margin for waits of other kinds, such as page faults.
const WAITS_MAX: u64 = 4;

/// The stop is an event that ends the loop's only wait. The scenario `stop-unused` in `bench`
/// measures its time.
#[test]
fn an_idle_server_waits_once_and_is_woken_by_the_stop() {
    let (states, wait) = channel();
    let server = Server::<Tcp, Threading>::builder().observer(move |event: &Event<'_>| {
        if let Event::State(state) = event {
            // The accepting thread reports its own waits.
            let seen = (*state, thread::current().id(), waits_of_this_thread());
            states.send(seen).unwrap();
        }
    });
    let guard = server.bind("127.0.0.1:0").unwrap().spawn(|_| ()).unwrap();
    assert!(guard.handle().wait_for(State::Running, DEADLINE));
    // As long as the machine needs: an idle server never wakes up.
    let (_keep, never) = channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(300));
    guard.stop().unwrap();
    let seen: Vec<_> = wait.try_iter().collect();
    let waits_at = |wanted: State| {
        let of_state = seen.iter().find(|(state, ..)| *state == wanted);
        of_state
            .map(|(_, thread, waits)| (*thread, *waits))
            .unwrap()
    };
    let (thread, running) = waits_at(State::Running);
    let (stopper, stopping) = waits_at(State::ServingBacklog);
    let (closer, closed) = waits_at(State::Closed);
    assert_eq!((stopper, closer), (thread, thread));
    let [idle, stop] = [stopping - running, closed - stopping];
    assert!((1..=WAITS_MAX).contains(&idle), "woke up {idle} times");
    assert!(stop <= LOOKS_MAX, "waited {stop} times to stop");
}

#[test]
fn a_stop_in_a_sequential_handler_ends_serving() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let (handle, url) = (server.handle(), server.urls().remove(0));
    let inner = handle;
    let guard = server
        .spawn(move |conn| {
            inner.shutdown();
            conn.write_all(b"bye")
        })
        .unwrap();
    let mut reply = String::new();
    connect(&url).read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "bye");
    guard.join().unwrap();
}

#[test]
fn a_stop_at_the_limit_wakes_the_loop() {
    let gate = Gate::new();
    let pool = ThreadPool::new(1).queue(0);
    let server = Server::<Tcp>::builder()
        .model(pool)
        .max_connections(1)
        .bind("127.0.0.1:0")
        .unwrap();
    let url = server.urls().remove(0);
    let hold = gate.hold();
    let guard = server
        .spawn(move |_| hold_at(hold.trim_start_matches("hold ")))
        .unwrap();
    let _client = connect(&url);
    let held = gate.wait();
    guard.handle().shutdown();
    drop(held);
    assert_eq!(guard.join().unwrap().aborted, 0);
}

#[test]
fn the_drain_ends_with_the_last_connection() {
    let gate = Gate::new();
    let server = Server::<Tcp, Threading>::builder()
        .drain_timeout(Duration::from_secs(3600))
        .bind("127.0.0.1:0")
        .unwrap();
    let url = server.urls().remove(0);
    let hold = gate.hold();
    let guard = server
        .spawn(move |conn| {
            if conn.id() == 1 {
                hold_at(hold.trim_start_matches("hold "))?;
                write!(conn, "{}", conn.stopping())?;
            }
            Ok::<(), std::io::Error>(())
        })
        .unwrap();
    let mut client = connect(&url);
    let held = gate.wait();
    guard.handle().shutdown();
    // The listener closes while the handler runs.
    assert!(guard.handle().wait_for(State::Draining, DEADLINE));
    let addr = guard.handle().local_addrs()[0].socket_addr().unwrap();
    assert!(TcpStream::connect(addr).is_err());
    drop(held);
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "true");
    assert_eq!(guard.join().unwrap().aborted, 0);
}

#[test]
fn a_shorter_deadline_overtakes_a_longer_one() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let url = server.urls().remove(0);
    let (held, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            held.send(()).unwrap();
            conn.read(&mut [0; 10]).map(|_| ())
        })
        .unwrap();
    let mut client = connect(&url);
    wait.recv_timeout(DEADLINE).unwrap();
    let handle = guard.handle().clone();
    handle.shutdown_within(Duration::from_secs(3600));
    handle.shutdown_within(Duration::ZERO);
    assert_eq!(guard.join().unwrap().aborted, 1);
    assert_eq!(
        client.read(&mut [0; 10]).unwrap(),
        0,
        "the client sees the end"
    );
}

#[test]
fn a_sequential_server_aborts_the_connection_it_serves() {
    let server = TcpServer::bind("127.0.0.1:0").unwrap();
    let url = server.urls().remove(0);
    let (held, wait) = channel();
    let guard = server
        .spawn(move |conn| {
            held.send(()).unwrap();
            conn.fill_buf().map(|_| ())
        })
        .unwrap();
    let _client = connect(&url);
    wait.recv_timeout(DEADLINE).unwrap();
    guard.handle().shutdown_within(Duration::from_millis(1));
    assert_eq!(guard.join().unwrap().aborted, 1);
}

#[test]
fn dropping_the_guard_stops_and_joins() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0].socket_addr().unwrap();
    drop(server.spawn(|_| ()).unwrap());
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn starting_and_stopping_in_a_race_always_ends() {
    for _ in 0..100 {
        let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
        let handle = server.handle();
        let guard = server.spawn(|_| ()).unwrap();
        let stoppers: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn({
                    let handle = handle.clone();
                    move || handle.shutdown()
                })
            })
            .collect();
        guard.join().unwrap();
        for stopper in stoppers {
            stopper.join().unwrap();
        }
    }
}

#[test]
fn closing_a_server_waits_for_handlers_of_handle_request() {
    let gate = Gate::new();
    let mut server = Server::<Tcp>::builder()
        .model(Threading::default())
        .listen(Tcp::bind("127.0.0.1:0").unwrap())
        .build()
        .unwrap();
    let mut client = connect(&server.urls()[0]);
    let hold = gate.hold();
    server
        .handle_request(None, move |conn| {
            hold_at(hold.trim_start_matches("hold "))?;
            conn.write_all(b"late")
        })
        .unwrap();
    let held = gate.wait();
    let closer = thread::spawn(move || server.close());
    drop(held);
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "late");
    assert_eq!(closer.join().unwrap().unwrap().aborted, 0);
}

/// A parked connection has the only permit, and two clients wait for it.
fn gives_its_permit_to_the_backlog(model: impl Model) {
    let (parked, wait) = channel();
    let server = Server::<Tcp>::builder()
        .model(model)
        .max_connections(1)
        .drain_timeout(Duration::from_secs(3600))
        .observer(move |event: &Event<'_>| {
            if matches!(event, Event::LimitReached(_)) {
                let _ = parked.send(());
            }
        })
        .bind("127.0.0.1:0")
        .expect("bind");
    let target = Target::parse(&server.urls()[0]);
    let handler = |conn: &mut TcpConnection| {
        let mut line = String::new();
        conn.read_line_max(&mut line, 100)?;
        conn.write_all(line.as_bytes())?;
        Ok::<_, std::io::Error>(Next::Park)
    };
    let guard = server.spawn(handler).expect("spawn");
    let mut first = target.connect();
    first.write_all(b"first\n").expect("send");
    first.read_exact(&mut [0; 6]).expect("an answer");
    wait.recv_timeout(DEADLINE).expect("the limit is reached");
    let waiting = ["second", "third"].map(|line| (line, target.send(line)));
    guard.handle().shutdown();
    for (line, client) in waiting {
        assert_eq!(client.answer(), format!("{line}\n"));
    }
    assert_eq!(guard.join().expect("join").aborted, 0);
    let end = first.read(&mut [0]).expect("the end, and no reset");
    assert_eq!(end, 0);
}

#[test]
fn a_stop_gives_the_permits_of_parked_connections_to_the_backlog() {
    gives_its_permit_to_the_backlog(Sequential::default());
    gives_its_permit_to_the_backlog(Threading::default());
    gives_its_permit_to_the_backlog(ThreadPool::new(1));
}

/// Echoes a line and parks. For the line `hold`, it first reports, and waits until the sender for
/// `released` is dropped.
fn echo_or_hold(
    conn: &mut TcpConnection,
    held: &Sender<()>,
    released: &Mutex<Receiver<()>>,
) -> std::io::Result<Next> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 100)?;
    if line == "hold\n" {
        held.send(()).expect("the test listens");
        let _ = released.lock().expect("no panic").recv();
    }
    conn.write_all(line.as_bytes())?;
    Ok(Next::Park)
}

/// The client has sent input, and no thread was free: the connection is not idle.
#[test]
fn a_stop_serves_parked_connections_whose_clients_have_spoken() {
    let (held, wait) = channel();
    let (release, released) = sync_channel::<()>(0);
    let released = Mutex::new(released);
    let server = Server::<Tcp>::builder()
        .model(ThreadPool::new(1).queue(0))
        .drain_timeout(Duration::from_secs(3600))
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let handler = move |conn: &mut TcpConnection| echo_or_hold(conn, &held, &released);
    let guard = server.spawn(handler).unwrap();
    let mut parked: Vec<_> = (0..3).map(|_| target.connect()).collect();
    for client in &mut parked {
        client.write_all(b"first\n").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
    let holds = target.send("hold");
    wait.recv_timeout(DEADLINE).unwrap();
    for client in &mut parked[..2] {
        client.write_all(b"again\n").unwrap();
    }
    guard.handle().shutdown();
    // The silent connection is closed while no handler can run.
    assert_eq!(parked[2].read(&mut [0]).unwrap(), 0);
    drop(release);
    assert_eq!(holds.answer(), "hold\n");
    for client in &mut parked[..2] {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "again\n");
    }
    assert_eq!(guard.join().unwrap().aborted, 0);
}

/// The stop took long, and the thread that became free went to the parked connection: the accept loop
/// closed its listener over the client in the backlog.
#[test]
fn a_stop_serves_the_backlog_however_long_handlers_take() {
    let (held, wait) = channel();
    let (release, released) = sync_channel::<()>(0);
    let released = Mutex::new(released);
    let server = Server::<Tcp>::builder()
        .model(ThreadPool::new(1).queue(0))
        .drain_timeout(Duration::from_secs(3600))
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let handler = move |conn: &mut TcpConnection| echo_or_hold(conn, &held, &released);
    let guard = server.spawn(handler).unwrap();
    let mut parked = target.connect();
    parked.write_all(b"first\n").unwrap();
    parked.read_exact(&mut [0; 6]).unwrap();
    let holds = target.send("hold");
    wait.recv_timeout(DEADLINE).unwrap();
    parked.write_all(b"hold\n").unwrap();
    let waiting = target.send("waits");
    guard.handle().shutdown();
    // Longer than a stop waits for connections that are on their way.
    let time = Duration::from_millis(1100);
    assert!(!guard.handle().wait_for(State::Draining, time));
    release.send(()).unwrap();
    assert_eq!(holds.answer(), "hold\n");
    wait.recv_timeout(DEADLINE).unwrap();
    drop(release);
    let mut answer = String::new();
    parked.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hold\n");
    assert_eq!(waiting.answer(), "waits\n");
    assert_eq!(guard.join().unwrap().aborted, 0);
}

/// The handler ignores the deadline; the drops of parked sessions do not wait for it.
#[test]
fn the_drain_deadline_drops_the_sessions_of_parked_connections() {
    struct Session(Sender<()>);
    impl Drop for Session {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (drops, dropped) = channel();
    let (held, wait) = channel();
    let (release, released) = sync_channel::<()>(0);
    let released = Mutex::new(released);
    let server = Server::<Tcp>::builder()
        .model(ThreadPool::new(1).queue(0))
        .drain_timeout(Duration::from_millis(100))
        .bind("127.0.0.1:0")
        .unwrap();
    let target = Target::parse(&server.urls()[0]);
    let make = move || Session(drops.clone());
    let handler = per_connection(make, move |conn: &mut TcpConnection, _| {
        echo_or_hold(conn, &held, &released)
    });
    let guard = server.spawn(handler).unwrap();
    let mut parked = [(); 2].map(|()| target.connect());
    for client in &mut parked {
        client.write_all(b"first\n").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
    let _holds = target.send("hold");
    wait.recv_timeout(DEADLINE).unwrap();
    guard.handle().shutdown();
    for mut client in parked {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        dropped.recv_timeout(DEADLINE).unwrap();
    }
    drop(release);
    guard.join().unwrap();
}

/// Input after the last message has no answer and is counted, whether it was received or not, and
/// whether the client has ended its stream meanwhile.
#[test]
fn unread_input_at_a_stop_is_counted() {
    for (unread, ends) in [("", false), ("more\n", false), ("more\n", true)] {
        let (sent, wait) = channel();
        let wait = Mutex::new(wait);
        let server = Server::<Tcp, Threading>::bind("127.0.0.1:0").unwrap();
        let stop = server.handle();
        let guard = server
            .spawn(move |conn| {
                let mut line = String::new();
                conn.read_line_max(&mut line, 100)?;
                let wait = wait.lock().expect("no handler panics");
                wait.recv_timeout(DEADLINE)
                    .expect("the test releases the handler");
                stop.shutdown();
                conn.write_all(line.as_bytes())
            })
            .unwrap();
        let handle = guard.handle().clone();
        let mut client = connect(&format!("tcp://{}", handle.local_addrs()[0]));
        client
            .write_all(format!("one\n{unread}").as_bytes())
            .unwrap();
        if ends {
            client.end_of_input();
        }
        sent.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "one\n");
        drop(client);
        guard.join().unwrap();
        assert_eq!(handle.totals().crossed, u64::from(!unread.is_empty()));
    }
}

/// The end of the stream arrives with the last answer, in one segment. A client that checks for it
/// before it sends again finds it.
#[test]
fn the_last_answer_comes_with_the_end() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0").unwrap();
    let stop = server.handle();
    let guard = server
        .spawn(move |conn| {
            conn.set_write_buffer(100)?;
            while conn.next_message()? {
                let mut line = String::new();
                conn.read_line_max(&mut line, 100)?;
                if line == "stop\n" {
                    stop.shutdown();
                }
                writeln!(conn, "{}", conn.stopping())?;
            }
            Ok::<_, std::io::Error>(())
        })
        .unwrap();
    let addr = guard.handle().local_addrs()[0].socket_addr().unwrap();
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    for (message, answer) in [
        ("go\n", "false\n"),
        ("stop\n", "true\n"),
        ("go\n", "true\n"),
    ] {
        client.write_all(message.as_bytes()).unwrap();
        let mut received = vec![0; answer.len()];
        client.read_exact(&mut received).unwrap();
        assert_eq!(received, answer.as_bytes());
    }
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    guard.join().unwrap();
}
