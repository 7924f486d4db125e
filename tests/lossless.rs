//! A stop under load loses no connection: every client that was connected before it is answered,
//! under every model, over IPv4, IPv6 and Unix sockets of both kinds, without privileges.
//!
//! Clients connect, ask and read the answer, over and over, until they are refused. Meanwhile the
//! server is asked to stop. A client that was connected and got no answer was lost.

mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use support::{DEADLINE, ServerProcess, Target, arguments, models};

#[path = "support/server.rs"]
mod server;

const TRANSPORTS: [&str; 4] = ["tcp", "tcp6", "unix", "seqpacket"];

/// How often each cell stops, and how many answers come before the stop.
const STOPS: u64 = 2;
const ANSWERS: u64 = 200;

const CLIENTS: usize = 8;

/// How long a client waits for its connection: longer than the backlog takes, shorter than the
/// second after which the kernel retries.
const PATIENCE: Duration = Duration::from_millis(700);

static ANSWERED: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

#[expect(clippy::print_stderr, reason = "the count is the point")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--server") {
        give_up_privileges();
        return server::main(&args[1..]);
    }
    let trials = TRANSPORTS.iter().flat_map(|transport| {
        models::NAMES.map(|model| {
            let name = format!("{transport}::{model}");
            let trial = Trial::test(name, move || {
                (0..STOPS).for_each(|_| stop_under_load(transport, model));
                Ok(())
            });
            trial.with_ignored_flag(!support::is_available(model))
        })
    });
    let end = libtest_mimic::run(&arguments(), trials.collect());
    let stops = end.num_passed * STOPS;
    let (answered, lost) = (
        ANSWERED.load(Ordering::Relaxed),
        LOST.load(Ordering::Relaxed),
    );
    let user = if is_root() {
        NOBODY
    } else {
        rustix::process::geteuid().as_raw()
    };
    eprintln!(
        "{stops} stops under load, as user {user}: {answered} connections answered, {lost} lost"
    );
    end.exit_code()
}

/// The user of the servers if the test is root: `nobody`, by convention.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A stop needs no privilege. This process has one thread, so the whole process drops its
/// privileges here.
fn give_up_privileges() {
    if is_root() {
        set_thread_groups(&[]).expect("leave all groups");
        set_thread_gid(Gid::from_raw(NOBODY)).expect("change the group");
        set_thread_uid(Uid::from_raw(NOBODY)).expect("change the user");
    }
}

fn stop_under_load(transport: &str, model: &str) {
    let mut server = ServerProcess::start(transport, model, &[]);
    let target = server.target().clone();
    let answered = AtomicU64::new(0);
    let (enough, wait) = channel();
    let lost = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (target, answered, enough) = (&target, &answered, enough.clone());
                scope.spawn(move || ask_until_refused(target, answered, &enough))
            })
            .collect();
        wait.recv_timeout(DEADLINE)
            .expect("enough answers within the deadline");
        assert_eq!(target.ask("shutdown"), "ok");
        clients
            .into_iter()
            .filter_map(|client| client.join().expect("a client"))
            .collect::<Vec<_>>()
    });
    ANSWERED.fetch_add(answered.load(Ordering::Relaxed), Ordering::Relaxed);
    LOST.fetch_add(lost.len() as u64, Ordering::Relaxed);
    assert_eq!(lost, [""; 0]);
    let report = server.ended();
    let accepted = answered.load(Ordering::Relaxed) + 1;
    assert_eq!(
        report,
        format!("aborted=0 live=0 accepted={accepted} refused=0 completed={accepted} failed=0")
    );
}

/// Asks until the client is refused, and reports when enough were answered. Returns how an answer
/// was lost, if one was.
fn ask_until_refused(target: &Target, answered: &AtomicU64, enough: &Sender<()>) -> Option<String> {
    loop {
        let mut client = target.connect_within(PATIENCE).ok()?;
        let mut answer = String::new();
        let asked = client
            .write_all(b"echo hello\n")
            .and_then(|()| client.half_close())
            .and_then(|()| client.read_to_string(&mut answer));
        if asked.is_err() || answer != "hello" {
            return Some(format!("{asked:?}, {answer:?}"));
        }
        if answered.fetch_add(1, Ordering::Relaxed) + 1 == ANSWERS {
            let _ = enough.send(());
        }
    }
}
