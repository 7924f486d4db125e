//! The table of accept errors, a test for each row: what is reported, how long the accept loop
//! pauses, and that the next connection is served.
//!
//! A listener of this test fails as the row says. `cli/tests/errno.rs` makes the kernel return the
//! same errors to the binary.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use socketserver::observe::{Reaction, Step, Totals};
use socketserver::{Builder, Server, Threading};

use script::{Call, Event, Script, until_stop};
use support::{DEADLINE, Gate, hold_at};

#[path = "support/script.rs"]
mod script;

/// Names a test after each error, and passes the error to the check of its class.
macro_rules! rows {
    ($($check:ident: $($row:ident $error:expr,)+;)+) => {
        $(mod $check {
            use std::io::ErrorKind;
            $(#[test] fn $row() { super::$check(|| $error.into_error()); })+
            use super::IntoError;
        })+
    };
}

rows! {
    nothing_is_waiting:
        eagain libc::EAGAIN,
        would_block ErrorKind::WouldBlock,
    ;
    a_signal_came_first:
        eintr libc::EINTR,
        interrupted ErrorKind::Interrupted,
    ;
    one_connection_is_gone:
        econnaborted libc::ECONNABORTED,
        econnrefused libc::ECONNREFUSED,
        econnreset libc::ECONNRESET,
        eproto libc::EPROTO,
        eperm libc::EPERM,
        enetdown libc::ENETDOWN,
        enoprotoopt libc::ENOPROTOOPT,
        ehostdown libc::EHOSTDOWN,
        enonet libc::ENONET,
        ehostunreach libc::EHOSTUNREACH,
        eopnotsupp libc::EOPNOTSUPP,
        enetunreach libc::ENETUNREACH,
        etimedout libc::ETIMEDOUT,
        unknown_number libc::EXDEV,
        unknown_kind ErrorKind::InvalidData,
    ;
    something_is_exhausted:
        emfile libc::EMFILE,
        enfile libc::ENFILE,
        enobufs libc::ENOBUFS,
        enomem libc::ENOMEM,
        out_of_memory ErrorKind::OutOfMemory,
    ;
    the_listener_is_broken:
        ebadf libc::EBADF,
        einval libc::EINVAL,
        enotsock libc::ENOTSOCK,
        efault libc::EFAULT,
        unexpected_eof ErrorKind::UnexpectedEof,
    ;
}

/// A system error by its number, or an error of a transport by its kind.
trait IntoError {
    fn into_error(self) -> io::Error;
}

impl IntoError for i32 {
    fn into_error(self) -> io::Error {
        io::Error::from_raw_os_error(self)
    }
}

impl IntoError for io::ErrorKind {
    fn into_error(self) -> io::Error {
        self.into()
    }
}

/// What the accept error hook received.
#[derive(Debug, PartialEq)]
struct Received {
    step: Step,
    reaction: Reaction,
    listener: Option<String>,
    error: (Option<i32>, io::ErrorKind),
}

impl Received {
    /// The report about the listener with this name.
    fn of(name: &str, error: &io::Error, reaction: Reaction) -> Self {
        Self {
            step: Step::Accept,
            reaction,
            listener: Some(format!("script://{name}")),
            error: (error.raw_os_error(), error.kind()),
        }
    }
}

/// Builds a server whose accept errors go to the channel; `also` is called with each.
fn reporting(also: impl Fn() + Send + Sync + 'static) -> (Builder<Script>, Receiver<Received>) {
    let (sender, reports) = channel();
    let builder = Server::<Script>::builder().on_accept_error(move |err| {
        let _ = sender.send(Received {
            step: err.step(),
            reaction: err.reaction(),
            listener: err.listener().map(str::to_owned),
            error: (err.error().raw_os_error(), err.error().kind()),
        });
        also();
    });
    (builder, reports)
}

/// The record of a script that was played to its end.
struct Played {
    totals: Totals,
    reports: Vec<Received>,
    calls: Vec<Call>,
}

impl Played {
    /// The time from one call to another.
    fn time(&self, from: usize, to: usize) -> Duration {
        self.calls[to].time - self.calls[from].time
    }

    /// How often the accept loop waited between two calls.
    fn waits(&self, from: usize, to: usize) -> u64 {
        self.calls[to].waits - self.calls[from].waits
    }
}

/// Serves until the text `stop` arrives.
#[track_caller]
fn play(events: Vec<Event>) -> Played {
    let (events_count, script) = (events.len(), Script::new(events));
    let calls = Arc::clone(&script.calls);
    let (builder, reports) = reporting(|| ());
    let server = builder.listen([script]).build().expect("a server");
    let handle = server.handle();
    server.serve_forever(until_stop).expect("serve");
    let calls = calls.all();
    // Each event takes one call. The additional calls find nothing left, before and after a stop.
    assert!(
        calls.len() <= events_count + 2,
        "{} calls for {events_count} events",
        calls.len()
    );
    Played {
        totals: handle.totals(),
        reports: reports.try_iter().collect(),
        calls,
    }
}

fn requests(texts: &[&'static str]) -> Vec<Event> {
    texts.iter().copied().map(Event::Accepted).collect()
}

/// The same error several times in a row.
fn repeated(error: fn() -> io::Error, times: usize) -> Vec<Event> {
    (0..times).map(|_| Event::Error(error())).collect()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Asserts that the server asks a listener which is always ready and always fails at most `most`
/// times in a row, and then pauses, longer each time.
#[track_caller]
fn rests_when_it_goes_on(error: fn() -> io::Error, most: usize) -> Played {
    let events = [repeated(error, 3 * most), requests(&["stop"])];
    let played = play(events.into_iter().flatten().collect());
    for (round, least) in [(0, 5), (1, 10), (2, 20)] {
        let time = played.time(round * most, (round + 1) * most);
        assert!(time >= ms(least), "{most} calls in {time:?}");
    }
    assert_eq!(played.totals.completed, 1);
    played
}

/// Asserts that twelve errors in a row do not delay the next connection by a pause. A pause is a
/// wait, and there is none between the calls, except those that block a thread for other reasons,
/// such as a page fault.
#[track_caller]
fn is_passed_over(error: fn() -> io::Error) -> Played {
    let events = [
        requests(&["one"]),
        repeated(error, 12),
        requests(&["two", "stop"]),
    ];
    let played = play(events.into_iter().flatten().collect());
    let waits = played.waits(0, 13);
    assert!(waits < 4, "twelve errors, {waits} waits");
    let totals = &played.totals;
    assert_eq!(
        (totals.accepted, totals.completed, totals.failed),
        (3, 3, 0)
    );
    played
}

fn nothing_is_waiting(error: fn() -> io::Error) {
    for played in [is_passed_over(error), rests_when_it_goes_on(error, 64)] {
        assert_eq!(
            (played.totals.accept_errors, played.reports),
            (0, Vec::new())
        );
    }
}

fn a_signal_came_first(error: fn() -> io::Error) {
    for played in [is_passed_over(error), rests_when_it_goes_on(error, 64 * 16)] {
        assert_eq!(
            (played.totals.accept_errors, played.reports),
            (0, Vec::new())
        );
    }
}

fn one_connection_is_gone(error: fn() -> io::Error) {
    let report = Received::of("test", &error(), Reaction::Continue);
    let played = is_passed_over(error);
    assert_eq!(played.totals.accept_errors, 12);
    assert_eq!(played.reports[0], report);
    let played = rests_when_it_goes_on(error, 64 * 16);
    assert_eq!(played.totals.accept_errors, 3 * 64 * 16);
    // One report a second.
    let seconds = played.calls[0].time.elapsed().as_secs() as usize;
    assert!((1..=1 + seconds).contains(&played.reports.len()));
}

fn something_is_exhausted(error: fn() -> io::Error) {
    let events = [
        requests(&["one"]),
        repeated(error, 3),
        requests(&["two"]),
        repeated(error, 1),
        requests(&["stop"]),
    ];
    let played = play(events.into_iter().flatten().collect());
    assert_eq!(
        played.reports[0],
        Received::of("test", &error(), Reaction::Retry(ms(5)))
    );
    // Each pause is longer than the one before; a success resets it.
    for (call, least) in [(1, 5), (2, 10), (3, 20), (5, 5)] {
        let pause = played.time(call, call + 1);
        assert!(pause >= ms(least), "{pause:?} after call {call}");
    }
    let totals = played.totals;
    assert_eq!(
        (totals.accepted, totals.completed, totals.accept_errors),
        (3, 3, 4)
    );
    is_tried_again_when_a_connection_ends(error);
}

/// How many connections end while a pause lasts a second each time: all pauses together would take
/// longer than the deadline.
const ENDING: usize = 40;

/// Nine failures in a row make a pause of a second. A connection that ends makes room, and ends the
/// pause.
fn is_tried_again_when_a_connection_ends(error: fn() -> io::Error) {
    let script = [
        (0..ENDING).map(|_| Event::Accepted("hold")).collect(),
        repeated(error, 9 + ENDING - 1),
        requests(&["one"]),
    ];
    let script = Script::new(script.into_iter().flatten());
    let calls = Arc::clone(&script.calls);
    let gate = Gate::new();
    let hold = gate.hold();
    let builder = Server::<Script>::builder().model(Threading::default());
    let server = builder.listen([script]).build().expect("a server");
    let guard = server.spawn(move |line| {
        if line.text == "hold" {
            hold_at(hold.trim_start_matches("hold ")).expect("a gate");
        }
    });
    let guard = guard.expect("a thread");
    let held: Vec<_> = (0..ENDING).map(|_| gate.wait()).collect();
    let end = Instant::now() + DEADLINE;
    for (ended, held) in held.into_iter().enumerate() {
        calls.wait_for(ENDING + 9 + ended);
        drop(held);
        assert!(Instant::now() < end, "{ended} pauses in {DEADLINE:?}");
    }
    calls.wait_for(ENDING + 9 + ENDING);
    let handle = guard.handle().clone();
    guard.stop().expect("serve");
    let totals = handle.totals();
    let (served, failed) = (ENDING as u64 + 1, 9 + ENDING as u64 - 1);
    assert_eq!((totals.completed, totals.accept_errors), (served, failed));
}

fn the_listener_is_broken(error: fn() -> io::Error) {
    // The hook that receives the failure stops the other listener.
    let broken = Script::named("broken", repeated(error, 2));
    let sound = Script::named("sound", []);
    let (calls, queue) = (Arc::clone(&broken.calls), sound.queue());
    let (builder, reports) = reporting(move || {
        queue.push(Event::Accepted("one"));
        queue.push(Event::Accepted("stop"));
    });
    let server = builder.listen([broken, sound]).build().expect("a server");
    let handle = server.handle();
    server.serve_forever(until_stop).expect("serve");
    let abandoned = |name| Received::of(name, &error(), Reaction::Abandon);
    assert_eq!(
        reports.try_iter().collect::<Vec<_>>(),
        [abandoned("broken")]
    );
    assert_eq!(calls.all().len(), 1, "it is not used again");
    let totals = handle.totals();
    assert_eq!((totals.completed, totals.accept_errors), (2, 1));

    let last = Script::new(repeated(error, 2));
    let calls = Arc::clone(&last.calls);
    let (builder, reports) = reporting(|| ());
    let server = builder.listen([last]).build().expect("a server");
    let handle = server.handle();
    let err = server
        .serve_forever(until_stop)
        .expect_err("no listener is left")
        .to_string();
    assert!(err.contains("every listener has failed"), "{err}");
    assert_eq!(reports.try_iter().collect::<Vec<_>>(), [abandoned("test")]);
    assert_eq!((calls.all().len(), handle.totals().accept_errors), (1, 1));
}
