//! The accept loop and its hooks, with a transport of these tests. The table of errors is tested in
//! `errno.rs`.

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::observe::{Event as Observed, Reaction, Step};
use socketserver::testing::TestServer;
use socketserver::{Forking, Next, Server, Tcp, ThreadPool, Threading};

use crate::script::{Event, Script, errno, until_stop};
use crate::support::{DEADLINE, Gate, hold_at};

#[test]
fn hooks_that_panic_stop_nothing() {
    let server = Server::<Script>::builder()
        .verify(|line| {
            if line.text == "unverifiable" {
                panic!("verify")
            } else {
                true
            }
        })
        .on_error(|_| panic!("error hook"))
        .on_accept_error(|_| panic!("accept error hook"))
        .on_ready(|| panic!("ready hook"))
        .service_actions(Duration::from_secs(3600), || panic!("service actions"))
        .listen([Script::new([
            Event::Accepted("unverifiable"),
            errno(libc::EPROTO),
            Event::Accepted("cannot be closed"),
            Event::Accepted("panics"),
            Event::Accepted("stop"),
        ])])
        .build()
        .unwrap();
    let handle = server.handle();
    server
        .serve_forever(|line| {
            assert_ne!(line.text, "panics");
            until_stop(line)
        })
        .unwrap();
    let totals = handle.totals();
    assert_eq!(
        (totals.accepted, totals.completed, totals.failed),
        (4, 1, 3)
    );
    assert_eq!(totals.accept_errors, 1);
}

/// The error of `serve_forever` says that the hook has received it, also within a second of another
/// report.
#[test]
fn a_listener_that_fails_for_good_is_always_reported() {
    let (reports, wait) = channel();
    let server = Server::<Script>::builder()
        .on_accept_error(move |err| reports.send(err.reaction()).unwrap())
        .listen([Script::new([errno(libc::EPROTO), errno(libc::EBADF)])])
        .build()
        .unwrap();
    let err = server.serve_forever(|_| ()).unwrap_err();
    assert!(err.to_string().contains("every listener has failed"));
    let reported: Vec<_> = wait.try_iter().collect();
    assert_eq!(reported, [Reaction::Continue, Reaction::Abandon]);
}

#[test]
fn a_connection_that_fails_twice_is_one_failure() {
    let (failures, wait) = channel();
    let server = Server::<Script>::builder()
        .on_error(move |failure| failures.send(failure.to_string()).unwrap())
        .listen([Script::new([
            Event::Accepted("cannot be closed"),
            Event::Accepted("stop"),
        ])])
        .build()
        .unwrap();
    let handle = server.handle();
    server
        .serve_forever(|line| {
            if line.text == "stop" {
                Ok(Next::Stop)
            } else {
                Err("handler")
            }
        })
        .unwrap();
    assert_eq!(handle.totals().failed, 1);
    assert_eq!(wait.try_recv().unwrap(), "datagram 1 from script: handler");
    assert!(wait.try_recv().is_err());
}

#[test]
fn service_actions_run_with_connections_and_with_the_period() {
    let (called, wait) = channel();
    let server = Server::<Script>::builder()
        .service_actions(Duration::from_millis(10), move || {
            let _ = called.send(());
        })
        .listen([Script::new([Event::Accepted("one")])])
        .build()
        .unwrap();
    let guard = server.spawn(until_stop).unwrap();
    for _ in 0..5 {
        wait.recv_timeout(DEADLINE).unwrap();
    }
    guard.stop().unwrap();
}

#[test]
fn a_thread_that_cannot_be_created_is_reported_and_its_connection_waits() {
    // No address space has room for such a stack.
    let model = Threading::default().stack_size(1 << 60);
    let (reports, wait) = channel();
    let server = Server::<Script>::builder()
        .model(model)
        .on_accept_error(move |err| reports.send((err.step(), err.to_string())).unwrap())
        .listen([Script::new([
            Event::Accepted("one"),
            Event::Accepted("two"),
        ])])
        .build()
        .unwrap();
    let guard = server.spawn(until_stop).unwrap();
    let (step, text) = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(step, Step::Dispatch);
    assert!(
        text.starts_with("start a thread, process or coroutine: "),
        "{text}"
    );
    assert_eq!(
        guard.handle().live(),
        1,
        "the first connection waits, and the second is not accepted"
    );
    guard.handle().shutdown_within(Duration::ZERO);
    let handle = guard.handle().clone();
    assert_eq!(guard.join().unwrap().aborted, 1);
    assert_eq!((handle.live(), handle.totals().accepted), (0, 1));
}

#[test]
fn a_pool_whose_threads_cannot_be_created_does_not_start() {
    let server = Server::<Script>::builder()
        .model(ThreadPool::new(2).stack_size(1 << 60))
        .listen([Script::new([])])
        .build()
        .unwrap();
    let err = server.serve_forever(until_stop).unwrap_err();
    assert!(
        err.to_string().starts_with("start the pool model: "),
        "{err}"
    );
}

#[test]
fn a_full_pool_takes_no_more_than_it_has_room_for() {
    let gate = Gate::new();
    let (accepted, wait) = channel();
    let server = Server::<Script>::builder()
        .model(ThreadPool::new(2).queue(1))
        .observer(move |event: &Observed<'_>| {
            if matches!(event, Observed::Accepted { .. }) {
                let _ = accepted.send(());
            }
        })
        .listen([Script::new((0..6).map(|_| Event::Accepted("hold")))])
        .build()
        .unwrap();
    let hold = gate.hold();
    let guard = server
        .spawn(move |_| hold_at(hold.trim_start_matches("hold ")))
        .unwrap();
    let handle = guard.handle().clone();
    let mut held = vec![gate.wait(), gate.wait()];
    for _ in 0..3 {
        wait.recv_timeout(DEADLINE).unwrap();
    }
    assert_eq!((handle.totals().accepted, handle.live()), (3, 3));
    for _ in 0..4 {
        held.remove(0);
        held.push(gate.wait());
        assert!(handle.live() <= 3, "two threads and a queue of one");
    }
    drop(held);
    guard.stop().unwrap();
    assert_eq!(handle.totals().completed, 6);
}

#[test]
#[should_panic(expected = "threads")]
fn a_test_server_says_why_it_does_not_run() {
    let server = Server::<Tcp, Forking>::bind("127.0.0.1:0").unwrap();
    let _ = TestServer::spawn(server, |_| ());
}

#[test]
fn forking_refuses_a_process_with_threads() {
    use socketserver::{Forking, Prefork};
    let (_keep, wait) = channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    let script = || Script::new([Event::Accepted("one")]);
    let forking = Server::<Script>::builder()
        .model(Forking::default())
        .listen([script()])
        .build()
        .unwrap();
    let prefork = Server::<Script>::builder()
        .model(Prefork::default())
        .listen([script()])
        .build()
        .unwrap();
    for err in [
        forking.serve_forever(until_stop).unwrap_err(),
        prefork.serve_forever(until_stop).unwrap_err(),
    ] {
        assert_eq!(err.kind(), io::ErrorKind::Unsupported);
        assert!(
            err.to_string().contains("threads, and forked children"),
            "{err}"
        );
    }
    drop(_keep);
    let _ = other.join();
}
