//! The accept loop under errors, with a transport of the test's own that fails as it is told.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::{
    Address, Context, Intake, Next, Reaction, Request, Server, Step, ThreadPool, Threading,
    Transport,
};

use crate::support::{DEADLINE, Gate, hold_at};

/// What the next call of `accept` does.
enum Event {
    Request(&'static str),
    Error(io::Error),
}

/// A transport that plays a script. Its pipe holds a byte for each event that is left.
struct Script {
    events: Mutex<VecDeque<Event>>,
    waiting: PipeReader,
    /// When each call came.
    calls: Arc<Mutex<Vec<Instant>>>,
    /// Keeps the pipe open.
    _writer: PipeWriter,
}

struct Line {
    text: &'static str,
    context: Context,
}

impl Script {
    fn new(events: impl IntoIterator<Item = Event>) -> Self {
        let events: VecDeque<_> = events.into_iter().collect();
        let (waiting, mut writer) = io::pipe().expect("a pipe");
        writer
            .write_all(&vec![0; events.len()])
            .expect("room in the pipe");
        Self {
            events: Mutex::new(events),
            waiting,
            calls: Arc::default(),
            _writer: writer,
        }
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

impl Transport for Script {
    type Request = Line;

    const SCHEME: &'static str = "script";

    fn local_addr(&self) -> Address {
        Address::Named("test".to_owned())
    }

    fn accept(&self, intake: &mut Intake<'_, Line>) -> io::Result<()> {
        self.calls
            .lock()
            .expect("not poisoned")
            .push(Instant::now());
        match self.events.lock().expect("not poisoned").pop_front() {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(event) => {
                (&self.waiting)
                    .read_exact(&mut [0])
                    .expect("a byte for each event");
                match event {
                    Event::Error(err) => Err(err),
                    Event::Request(text) => {
                        intake.push(|context| Line { text, context });
                        Ok(())
                    }
                }
            }
        }
    }
}

impl Request for Line {
    fn context(&self) -> &Context {
        &self.context
    }

    fn peer(&self) -> Address {
        Address::Named("script".to_owned())
    }

    fn close(&mut self) -> io::Result<()> {
        if self.text == "cannot be closed" {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        }
    }
}

fn errno(code: i32) -> Event {
    Event::Error(io::Error::from_raw_os_error(code))
}

/// Stops the server when the request `stop` comes.
fn until_stop(line: &mut Line) -> Next {
    if line.text == "stop" {
        Next::Stop
    } else {
        Next::Close
    }
}

#[test]
fn errors_of_one_request_are_counted_and_passed_over_at_once() {
    let one_request = [
        libc::ECONNABORTED,
        libc::EPROTO,
        libc::EPERM,
        libc::ENETDOWN,
        libc::EHOSTUNREACH,
        libc::EINTR,
    ];
    let events = one_request
        .map(errno)
        .into_iter()
        .chain([Event::Request("stop")]);
    let (reports, wait) = channel();
    let server = Server::<Script>::builder()
        .on_accept_error(move |err| {
            reports
                .send((err.step(), err.reaction(), err.to_string()))
                .unwrap();
        })
        .listen([Script::new(events)])
        .build()
        .unwrap();
    let handle = server.handle();
    server.serve_forever(until_stop).unwrap();
    let totals = handle.totals();
    assert_eq!((totals.accepted, totals.completed), (1, 1));
    assert_eq!(totals.accept_errors, 5, "EINTR is none");
    // One report a second, and these came at once.
    let (step, reaction, text) = wait.try_recv().unwrap();
    assert_eq!((step, reaction), (Step::Accept, Reaction::Continue));
    assert!(text.starts_with("accept on script://test: "), "{text}");
    assert!(wait.try_recv().is_err());
}

#[test]
fn exhaustion_backs_off_and_loses_nothing() {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    let script = Script::new(
        exhausted
            .map(errno)
            .into_iter()
            .chain([Event::Request("stop")]),
    );
    let calls = Arc::clone(&script.calls);
    let server = Server::<Script>::builder()
        .listen([script])
        .build()
        .unwrap();
    server.serve_forever(until_stop).unwrap();
    let calls = calls.lock().unwrap();
    let pauses: Vec<_> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, least) in pauses.iter().zip([5, 10, 20, 40]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
}

#[test]
fn a_request_that_ends_cuts_the_pause_short() {
    // Nine failures in a row make a pause of a second; the last one of these would last until the
    // test fails.
    let gate = Gate::new();
    let errors = (0..12).map(|_| errno(libc::EMFILE));
    let script = Script::new(
        [Event::Request("hold")]
            .into_iter()
            .chain(errors)
            .chain([Event::Request("stop")]),
    );
    let calls = Arc::clone(&script.calls);
    let server = Server::<Script>::builder()
        .model(Threading::default())
        .listen([script])
        .build()
        .unwrap();
    let hold = gate.hold();
    let guard = server
        .spawn(move |line| {
            if line.text == "hold" {
                hold_at(hold.trim_start_matches("hold ")).unwrap();
            }
            until_stop(line)
        })
        .unwrap();
    let held = gate.wait();
    // Wait until the pause is a long one.
    let end = Instant::now() + DEADLINE;
    while calls.lock().unwrap().len() < 9 && Instant::now() < end {
        std::thread::yield_now();
    }
    let before = Instant::now();
    drop(held);
    while calls.lock().unwrap().len() < 10 && Instant::now() < end {
        std::thread::yield_now();
    }
    let early = calls.lock().unwrap()[9] - before;
    assert!(
        early < Duration::from_millis(500),
        "tried again after {early:?}, not at the end of the pause"
    );
    guard.handle().shutdown();
    guard.join().unwrap();
}

#[test]
fn a_broken_listener_is_given_up_and_the_others_go_on() {
    let (reports, wait) = channel();
    let server = Server::<Script>::builder()
        .on_accept_error(move |err| {
            reports
                .send((err.reaction(), err.listener().map(str::to_owned)))
                .unwrap();
        })
        .listen([
            Script::new([errno(libc::EBADF)]),
            Script::new([Event::Request("on"), Event::Request("stop")]),
        ])
        .build()
        .unwrap();
    let handle = server.handle();
    server.serve_forever(until_stop).unwrap();
    assert_eq!(handle.totals().completed, 2);
    assert_eq!(
        wait.try_recv().unwrap(),
        (Reaction::Abandon, Some("script://test".to_owned()))
    );
}

#[test]
fn serving_fails_when_no_listener_is_left() {
    for code in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EFAULT] {
        let server = Server::<Script>::builder()
            .listen([Script::new([errno(code)])])
            .build()
            .unwrap();
        let err = server.serve_forever(until_stop).unwrap_err();
        assert!(
            err.to_string().contains("every listener has failed"),
            "{err}"
        );
    }
}

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
            Event::Request("unverifiable"),
            errno(libc::EPROTO),
            Event::Request("cannot be closed"),
            Event::Request("panics"),
            Event::Request("stop"),
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

#[test]
fn a_request_that_fails_twice_is_one_failure() {
    let (failures, wait) = channel();
    let server = Server::<Script>::builder()
        .on_error(move |failure| failures.send(failure.to_string()).unwrap())
        .listen([Script::new([
            Event::Request("cannot be closed"),
            Event::Request("stop"),
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
    assert_eq!(wait.try_recv().unwrap(), "request 1 from script: handler");
    assert!(wait.try_recv().is_err());
}

#[test]
fn service_actions_come_with_requests_and_with_the_period() {
    let (called, wait) = channel();
    let server = Server::<Script>::builder()
        .service_actions(Duration::from_millis(10), move || {
            let _ = called.send(());
        })
        .listen([Script::new([Event::Request("one")])])
        .build()
        .unwrap();
    let guard = server.spawn(until_stop).unwrap();
    for _ in 0..5 {
        wait.recv_timeout(DEADLINE).unwrap();
    }
    guard.stop().unwrap();
}

#[test]
fn a_thread_that_cannot_be_created_is_reported_and_its_request_waits() {
    // No address space has room for such a stack.
    let model = Threading::default().stack_size(1 << 60);
    let (reports, wait) = channel();
    let server = Server::<Script>::builder()
        .model(model)
        .on_accept_error(move |err| reports.send((err.step(), err.to_string())).unwrap())
        .listen([Script::new([Event::Request("one"), Event::Request("two")])])
        .build()
        .unwrap();
    let guard = server.spawn(until_stop).unwrap();
    let (step, text) = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(step, Step::Dispatch);
    assert!(
        text.starts_with("start a thread or a process for a request: "),
        "{text}"
    );
    assert_eq!(
        guard.handle().live(),
        1,
        "the first request waits, and the second is not taken"
    );
    guard.handle().shutdown_within(Duration::ZERO);
    let handle = guard.handle().clone();
    assert_eq!(guard.join().unwrap().cut, 1);
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
    let server = Server::<Script>::builder()
        .model(ThreadPool::new(2).queue(1))
        .listen([Script::new((0..6).map(|_| Event::Request("hold")))])
        .build()
        .unwrap();
    let hold = gate.hold();
    let guard = server
        .spawn(move |_| hold_at(hold.trim_start_matches("hold ")))
        .unwrap();
    let handle = guard.handle().clone();
    let mut held = vec![gate.wait(), gate.wait()];
    let end = Instant::now() + DEADLINE;
    while handle.totals().accepted < 3 && Instant::now() < end {
        std::thread::yield_now();
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
fn forking_refuses_a_process_with_threads() {
    use socketserver::{Forking, Prefork};
    let (_keep, wait) = channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    let script = || Script::new([Event::Request("one")]);
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
