//! A stop loses no message of a client that checks for the end of the stream before it sends: under
//! every model, for parked clients and for clients between messages.
//!
//! Clients send a message and read the answer, over and over, with a pause of 0 to 5 ms in which
//! they check for the end. Meanwhile one of them stops the server. The server buffers what it
//! writes, so the last answer and the end of the stream leave together. A message without an answer
//! was lost. `GRACE=all` stops each server 50 times.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use support::{DEADLINE, ServerProcess, Target, arguments, ends_within, models};

#[path = "support/server.rs"]
mod server;

/// How connections wait for their next message.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// Parked, without a handler.
    Parked,
    /// In a handler, between messages.
    Between,
}

const CLIENTS: u64 = 64;

/// How many messages are answered before the stop.
const ANSWERS: u64 = 500;

/// The longest pause before a message, in microseconds.
const PAUSE: u64 = 5000;

static ANSWERED: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

#[expect(clippy::print_stderr, reason = "the count is the point")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        return server::main(&args[1..]);
    }
    let all = std::env::var_os("GRACE").is_some_and(|which| which == "all");
    let stops: u64 = if all { 50 } else { 2 };
    let trials = [Waits::Parked, Waits::Between].iter().flat_map(|waits| {
        models::NAMES.map(|model| {
            let trial = Trial::test(format!("{model}::{waits:?}").to_lowercase(), move || {
                (0..stops).for_each(|seed| stop_in_conversation(model, *waits, seed));
                Ok(())
            });
            trial.with_ignored_flag(!support::is_available(model))
        })
    });
    let end = libtest_mimic::run(&arguments(), trials.collect());
    let (answered, lost) = (&ANSWERED, &LOST);
    let [answered, lost] = [answered, lost].map(|count| count.load(Ordering::Relaxed));
    eprintln!("{answered} messages answered, {lost} lost");
    end.exit_code()
}

fn stop_in_conversation(model: &str, waits: Waits, seed: u64) {
    // A busy machine may hold up a client for as long as any grace, between its check and its message.
    let options = ["write_buffer=1", "drain_ms=3600000", "grace_ms=3600000"];
    let mut server = ServerProcess::start("tcp", model, &options);
    let Target::Tcp(addr) = *server.target() else {
        panic!("not TCP: {:?}", server.target());
    };
    let (left, stops) = (AtomicU64::new(ANSWERS), AtomicBool::new(false));
    let lost = thread::scope(|scope| {
        let connect = |_| TcpStream::connect_timeout(&addr, DEADLINE).expect("connect");
        // All clients are connected before the stop.
        let streams: Vec<_> = (0..CLIENTS).map(connect).collect();
        let numbered = streams.into_iter().zip(seed * CLIENTS..);
        let clients = numbered.map(|(stream, number)| {
            let (left, stops) = (&left, &stops);
            scope.spawn(move || converse(stream, waits, number, left, stops))
        });
        let clients: Vec<_> = clients.collect();
        let ends = clients.into_iter().map(|client| client.join());
        ends.filter_map(|end| end.expect("a client"))
            .collect::<Vec<_>>()
    });
    LOST.fetch_add(lost.len() as u64, Ordering::Relaxed);
    assert_eq!(lost, [""; 0]);
    let report = server.ended();
    assert_eq!(
        report,
        format!("aborted=0 live=0 accepted={CLIENTS} refused=0 completed={CLIENTS} failed=0")
    );
}

/// Talks until the stream ends. Returns the message that was lost, if one was.
fn converse(
    stream: TcpStream,
    waits: Waits,
    seed: u64,
    left: &AtomicU64,
    stops: &AtomicBool,
) -> Option<String> {
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    let mut reader = BufReader::new(&stream);
    // Different pauses for each client (Knuth's multiplier of a linear congruential generator).
    let mut random = seed;
    for number in 0_u64.. {
        let enough = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        // A client in the backlog would wait for the others to end, which wait for the stop.
        let is_served = number > 0;
        let stop = is_served && enough.is_err() && !stops.swap(true, Ordering::Relaxed);
        let (message, answer) = match (waits, stop) {
            (_, true) => ("halt\n".to_owned(), "ok\n".to_owned()),
            (Waits::Parked, _) => (format!("keep {number}\n"), format!("{number}\n")),
            (Waits::Between, _) => (format!("say {number}\n"), format!("{number}\n")),
        };
        let first = (number == 0)
            .then_some("talk\n")
            .filter(|_| matches!(waits, Waits::Between));
        let sent = (&stream).write_all(format!("{}{message}", first.unwrap_or("")).as_bytes());
        let mut received = String::new();
        let read = sent.and_then(|()| reader.read_line(&mut received));
        if read.is_err() || received != answer {
            return Some(format!("{message:?}: {read:?}, {received:?}"));
        }
        ANSWERED.fetch_add(1, Ordering::Relaxed);
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if ends_within(&stream, Duration::from_micros((random >> 33) % PAUSE)) {
            return None;
        }
    }
    None
}
