//! Process-wide matters: limits on descriptors and processes, workers that die, children of other
//! code.
//!
//! Each test runs in processes of its own: it starts this binary again, as a server (see `support`)
//! or as one of the `CASES`, which are single-threaded.

mod support;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::net::Accepted;
use socketserver::observe::Step;
use socketserver::python::{TcpServer, UnixStreamServer};
use socketserver::{Forking, Next, Prefork, Sequential, Server, Tcp, Threading};
use support::{DEADLINE, Gate, Pending, ServerProcess, Target, Watched, arguments, poll_until};

#[path = "support/server.rs"]
mod server;

/// A test that is a process: it passes if it exits with 0.
type Case = fn();

const CASES: [(&str, Case); 5] = [
    (
        "failed_binds_leave_no_descriptor_open",
        failed_binds_leave_no_descriptor_open,
    ),
    ("a_failed_fork_is_tried_again", a_failed_fork_is_tried_again),
    (
        "a_failed_fork_is_no_death_of_a_worker",
        a_failed_fork_is_no_death_of_a_worker,
    ),
    (
        "a_thread_that_cannot_be_started_is_tried_again",
        a_thread_that_cannot_be_started_is_tried_again,
    ),
    (
        "descriptors_that_a_peer_sends_are_discarded",
        descriptors_that_a_peer_sends_are_discarded,
    ),
];

const TESTS: &[(&str, fn())] = &[
    #[cfg(feature = "coroutines")]
    (
        "a_coroutine_that_overflows_its_stack_ends_the_process_with_a_message",
        a_coroutine_that_overflows_its_stack_ends_the_process_with_a_message,
    ),
    #[cfg(feature = "coroutines")]
    (
        "a_stack_overflow_ends_the_process_where_nobody_reads_standard_error",
        a_stack_overflow_ends_the_process_where_nobody_reads_standard_error,
    ),
    (
        "an_exhausted_descriptor_table_is_survived_under_threading",
        || exhausted("threading"),
    ),
    (
        "an_exhausted_descriptor_table_is_survived_under_pool",
        || exhausted("pool"),
    ),
    ("a_crashed_worker_is_replaced", a_crashed_worker_is_replaced),
    (
        "a_worker_that_is_killed_with_its_connection_counts_one",
        a_worker_that_is_killed_with_its_connection_counts_one,
    ),
    (
        "workers_that_never_serve_trip_the_breaker",
        workers_that_never_serve_trip_the_breaker,
    ),
    (
        "workers_end_when_their_parent_is_killed",
        workers_end_when_their_parent_is_killed,
    ),
    (
        "a_stuck_worker_ends_when_its_parent_is_killed",
        a_stuck_worker_ends_when_its_parent_is_killed,
    ),
    ("a_child_closes_the_listener", a_child_closes_the_listener),
    (
        "a_child_that_crashes_is_reported",
        a_child_that_crashes_is_reported,
    ),
    (
        "an_idle_server_does_not_wake_up",
        an_idle_server_does_not_wake_up,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--server") => return server::main(&args[1..]),
        Some("--limited-server") => {
            limit_descriptors();
            return server::main(&args[1..]);
        }
        Some("--case") => {
            let (_, case) = CASES
                .iter()
                .find(|(name, _)| *name == args[1])
                .expect("a known case");
            case();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let tests = TESTS.iter().map(|&(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    let cases = CASES.map(|(name, _)| Trial::test(name, move || run_case(name)));
    libtest_mimic::run(&arguments(), tests.chain(cases).collect()).exit_code()
}

/// Runs a case in a process of its own.
fn run_case(name: &str) -> Result<(), libtest_mimic::Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command
        .args(["--case", name])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = child.stderr.take().ok_or("piped")?;
    let (done, wait) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        let _ = done.send(text);
    });
    let text = wait.recv_timeout(DEADLINE);
    if text.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    match text {
        Ok(_) if status.success() => Ok(()),
        Ok(text) => Err(format!("{status}: {text}").into()),
        Err(_) => Err("the case did not end within the deadline".into()),
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

fn failed_binds_leave_no_descriptor_open() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("bound");
    let before = open_descriptors();
    for _ in 0..1024 {
        TcpServer::bind(addr).expect_err("it is in use");
        UnixStreamServer::bind("/nowhere/at/all").expect_err("there is no such directory");
        UnixStreamServer::bind("/dev/null").expect_err("it is no socket");
    }
    assert_eq!(open_descriptors(), before);
}

/// Runs a server whose first connections cannot be dispatched until its accept error hook has
/// lifted the limit.
fn tried_again<M: socketserver::model::Model>(model: M, resource: Resource, limit: u64) {
    let full = getrlimit(resource);
    let reports = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&reports);
    let lift = move |err: &socketserver::observe::AcceptError| {
        assert_eq!(err.step(), Step::Dispatch);
        count.fetch_add(1, Ordering::SeqCst);
        setrlimit(resource, full).expect("lift the limit");
    };
    let server = Server::<Tcp>::builder()
        .model(model)
        .on_accept_error(lift)
        .bind("127.0.0.1:0")
        .expect("bind");
    // The kernel completes the connection and receives the input without the server.
    let pending = Target::parse(&server.urls()[0]).send("");
    let handle = server.handle();
    setrlimit(
        resource,
        Rlimit {
            current: Some(limit),
            ..full
        },
    )
    .expect("set the limit");
    server
        .serve_forever(|conn| {
            conn.write_all(b"served")?;
            Ok::<_, std::io::Error>(Next::Stop)
        })
        .expect("serve");
    assert_eq!(pending.answer(), "served");
    assert_eq!(
        reports.load(Ordering::SeqCst),
        1,
        "the server has reached the limit"
    );
    let totals = handle.totals();
    assert_eq!(
        (totals.accepted, totals.completed, totals.failed),
        (1, 1, 0),
        "and the connection was not lost"
    );
}

fn a_failed_fork_is_tried_again() {
    become_nobody();
    tried_again(Forking::default(), Resource::Nproc, 0);
}

/// Switches to a user for whom RLIMIT_NPROC counts: it does not limit root (setrlimit(2)), and
/// counts the user's processes.
fn become_nobody() {
    if rustix::process::getuid().is_root() {
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("become another user");
    }
}

/// After a failed fork, a breaker of two still survives one death.
fn a_failed_fork_is_no_death_of_a_worker() {
    become_nobody();
    let full = getrlimit(Resource::Nproc);
    let server = Server::<Tcp>::builder()
        .model(Prefork::new(1, Sequential::default()).breaker(2))
        .on_accept_error(move |_| setrlimit(Resource::Nproc, full).expect("lift the limit"))
        .bind("127.0.0.1:0")
        .expect("bind");
    let target = Target::parse(&server.urls()[0]);
    let (_crashes, pending) = (target.send(""), target.send(""));
    let handle = server.handle();
    let none = Rlimit {
        current: Some(0),
        ..full
    };
    setrlimit(Resource::Nproc, none).expect("set the limit");
    server
        .serve_forever(|conn| {
            if conn.id() == 1 {
                std::process::abort();
            }
            conn.write_all(b"served")?;
            Ok::<_, std::io::Error>(Next::Stop)
        })
        .expect("serve");
    assert_eq!(pending.answer(), "served");
    assert_eq!(
        handle.totals().accept_errors,
        1,
        "the server has reached the limit"
    );
}

fn a_thread_that_cannot_be_started_is_tried_again() {
    // The address space is smaller than a stack of this size.
    tried_again(
        Threading::default().stack_size(1 << 30),
        Resource::As,
        1 << 29,
    );
}

/// Each datagram carried a descriptor, which stayed open in the server until it had no more.
fn descriptors_that_a_peer_sends_are_discarded() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let name = format!("socketserver-rights-{}", std::process::id());
    let address = socketserver::net::UnixAddress::Abstract(name.clone().into_bytes());
    let mut server = socketserver::python::UnixDatagramServer::bind(address).expect("bind");
    let client = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let target = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
    client.connect_addr(&target).expect("connect");
    let before = open_descriptors();
    for _ in 0..5 {
        let mut space = [MaybeUninit::uninit(); 64];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [client.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        sendmsg(
            &client,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .expect("send");
        server.handle_request(None, |_| ()).expect("serve");
    }
    assert_eq!(server.handle().totals().completed, 5);
    assert_eq!(open_descriptors(), before);
}

/// How many descriptors a limited server has.
const DESCRIPTORS: u64 = 32;

fn limit_descriptors() {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).expect("limit the descriptors");
}

/// CPU time of a process in seconds, user and system.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process exists");
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .expect("a name")
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// 32 descriptors, 60 clients that hold their connections: the server does not spin, reports once a
/// second, and serves the waiting clients once descriptors are free.
fn exhausted(model: &str) {
    let mut server = ServerProcess::start_as(
        "--limited-server",
        "tcp",
        model,
        &["max_connections=1000", "threads=40"],
    );
    let first = Instant::now();
    let mut idle: Vec<_> = (0..60).map(|_| server.target().connect()).collect();
    let is_told = |server: &mut ServerProcess| {
        let error = server.wait_for("accept error ");
        assert!(error.contains("Too many open files"), "{error}");
    };
    is_told(&mut server);
    let (start, cpu) = (Instant::now(), cpu_seconds(server.pid()));
    (0..3).for_each(|_| is_told(&mut server));
    let used = (cpu_seconds(server.pid()) - cpu) / start.elapsed().as_secs_f64();
    // What each try costs is counted below; a loop without a wait takes all that it gets.
    assert!(used < 0.2, "{:.1} % of a processor", 100.0 * used);
    assert!(
        first.elapsed() >= Duration::from_secs(3),
        "one report a second at most"
    );
    // The first connection was accepted long ago; its handler reports how often the others were
    // tried.
    let mut asks = idle.remove(0);
    asks.write_all(b"errors\n").expect("send");
    let tries: u64 = Pending::Stream(asks).answer().parse().expect("a number");
    // Eight pauses of up to 640 ms, and then one of a second each. Each of the forty threads may
    // have ended a pause when it was ready, and each connection when a thread took it, because both
    // may free something.
    let most = 9 + first.elapsed().as_secs() + 40 + DESCRIPTORS;
    assert!((4..=most).contains(&tries), "{tries} tries, not {most}");
    let late = server.target().send("echo served");
    drop(idle);
    assert_eq!(late.answer(), "served");
    assert!(server.stop().starts_with("aborted=0"));
}

/// The worker has counted the connection as aborted, and its handler waits on for something else.
fn a_worker_that_is_killed_with_its_connection_counts_one() {
    for model in ["prefork_sequential", "prefork_threading"] {
        let mut server = ServerProcess::start("tcp", model, &["drain_ms=50", "workers=1"]);
        let gate = Gate::new();
        let _pending = server
            .target()
            .send(&gate.hold().replace("hold", "outlive"));
        let _held = gate.wait();
        let ended = server.wait_for("ended ");
        assert!(ended.starts_with("aborted=1 "), "{model}: {ended}");
    }
}

fn a_crashed_worker_is_replaced() {
    // A worker that has served resets the count.
    let options = ["workers=1", "breaker=2", "log=1"];
    let mut server = ServerProcess::start("tcp", "prefork_threading", &options);
    let first = server.target().ask("pid");
    for _ in 0..3 {
        assert_eq!(server.target().ask("echo on"), "on");
        let _ = server.target().send("crash");
        let end = server.wait_for("event worker 0, process ");
        assert!(end.ends_with("ended with signal 6"), "{end}");
    }
    // One report a second: the report of the first death.
    let report = server.wait_for("accept error worker process: ");
    assert!(
        report.contains("ended with signal 6; trying again within 100 ms"),
        "{report}"
    );
    assert_ne!(server.target().ask("pid"), first);
    let report = server.stop();
    assert!(
        report.starts_with("aborted=0 live=0 "),
        "the permits of killed workers are free again: {report}"
    );
}

fn workers_that_never_serve_trip_the_breaker() {
    let options = ["workers=1", "breaker=3", "log=1"];
    let mut server = ServerProcess::start("tcp", "prefork_threading", &options);
    for _ in 0..3 {
        let _ = server.target().send("crash");
        server.wait_for("event worker 0, process ");
    }
    let err = server.wait_for("serve error ");
    assert!(
        err.contains(
            "keep worker 0 alive after 3 deaths in a row: the last one ended with signal 6"
        ),
        "{err}"
    );
    assert!(!server.exit_status().success());
}

fn workers_end_when_their_parent_is_killed() {
    let mut server = ServerProcess::start("tcp", "prefork_threading", &["workers=2"]);
    let gate = Gate::new();
    let worker = server.target().ask("pid");
    let worker = Watched::new(&worker);
    let pending = server.target().send(&gate.hold());
    let held = gate.wait();
    server.kill();
    // The workers drain: their handlers finish, and no new client is accepted.
    let Target::Tcp(addr) = *server.target() else {
        unreachable!()
    };
    poll_until("no orphaned worker listens", DEADLINE, || {
        TcpStream::connect(addr).is_err().then_some(())
    });
    drop(held);
    assert_eq!(pending.answer(), "held, stopping true");
    worker.wait();
}

/// A handler that waits for something else would keep its worker, with the listener.
fn a_stuck_worker_ends_when_its_parent_is_killed() {
    let coroutines = cfg!(feature = "coroutines").then_some("prefork_coroutines_epoll");
    for model in ["prefork_sequential"].into_iter().chain(coroutines) {
        let mut server = ServerProcess::start("tcp", model, &["drain_ms=50", "workers=1"]);
        let gate = Gate::new();
        let worker = Watched::new(&server.target().ask("pid"));
        let _pending = server.target().send(&gate.hold().replace("hold", "block"));
        let _held = gate.wait();
        server.kill();
        worker.wait();
    }
}

fn a_child_closes_the_listener() {
    let mut server = ServerProcess::start("tcp", "forking", &[]);
    let gate = Gate::new();
    let pending = server.target().send(&gate.hold());
    let held = gate.wait();
    assert_eq!(server.target().ask("shutdown"), "ok");
    let Target::Tcp(addr) = *server.target() else {
        unreachable!()
    };
    // The parent closes its listener, and waits for the child.
    poll_until("the port accepts no more connections", DEADLINE, || {
        TcpStream::connect(addr).is_err().then_some(())
    });
    drop(held);
    assert_eq!(pending.answer(), "held, stopping true");
    server.wait_for("ended aborted=0");
}

fn a_child_that_crashes_is_reported() {
    let mut server = ServerProcess::start("tcp", "forking", &[]);
    assert_eq!(server.target().ask("crash"), "");
    assert!(server.wait_for("error ").contains("ended with signal 6"));
    assert_eq!(server.target().ask("exit 7"), "");
    assert!(
        server
            .wait_for("error ")
            .contains("ended with exit status 7")
    );
    assert_eq!(
        server.stop(),
        "aborted=0 live=0 accepted=3 refused=0 completed=1 failed=2"
    );
}

/// Counts the context switches of all threads of a process and its workers: each wake-up is one.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process exists");
    let count = |path: std::path::PathBuf| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let lines = status
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"));
        lines
            .map(|(_, count)| count.trim().parse::<u64>().expect("a number"))
            .sum::<u64>()
    };
    let own: u64 = tasks.map(|task| count(task.expect("a task").path())).sum();
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children
        .split_whitespace()
        .map(|child| switches(child.parse().expect("a number")))
        .sum::<u64>()
}

fn an_idle_server_does_not_wake_up() {
    let models = [
        "sequential",
        "threading",
        "pool",
        "forking",
        "prefork_threading",
        "prefork_sequential",
        #[cfg(feature = "coroutines")]
        "coroutines_epoll",
        #[cfg(feature = "coroutines")]
        coroutines_uring(),
    ];
    let servers = models.map(|model| ServerProcess::start("tcp", model, &[]));
    for server in &servers {
        assert_eq!(server.target().ask("echo warm"), "warm");
    }
    // Threads that have just become idle settle first, and the deadlines of the last connection are checked once more: a
    // 16th of the write deadline after it.
    let mut before = servers.each_ref().map(|server| switches(server.pid()));
    let end = Instant::now() + DEADLINE;
    loop {
        rest(Duration::from_secs(2));
        let now = servers.each_ref().map(|server| switches(server.pid()));
        if now == before {
            break;
        }
        assert!(Instant::now() < end, "still waking up: {before:?} {now:?}");
        before = now;
    }
    rest(Duration::from_secs(2));
    let after = servers.each_ref().map(|server| switches(server.pid()));
    assert_eq!(after, before, "an idle server woke up");
    drop(servers);
}

/// Coroutines over io_uring, or over epoll again if io_uring is not available.
#[cfg(feature = "coroutines")]
fn coroutines_uring() -> &'static str {
    if socketserver::model::Driver::Auto.pick().0 == socketserver::model::Driver::Uring {
        "coroutines_uring"
    } else {
        "coroutines_epoll"
    }
}

/// Lets time pass in a test that measures over time.
fn rest(time: Duration) {
    let (_keep, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(time);
}

/// Starts a server of coroutines, and makes one of them overflow its stack.
#[cfg(feature = "coroutines")]
fn overflow(stderr: Stdio) -> (std::process::Child, impl Sized) {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--server", "tcp", "coroutines_epoll"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    let mut child = command.spawn().expect("start a server");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = output.lines().map_while(Result::ok);
    let url = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let client = Target::parse(&url.expect("a listener")).send("overflow");
    (child, client)
}

#[cfg(feature = "coroutines")]
fn a_stack_overflow_ends_the_process_where_nobody_reads_standard_error() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::unix::process::ExitStatusExt;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("set it");
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("set it");
    let (mut child, _client) = overflow(writer.into());
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let pidfd = pidfd.expect("a pidfd");
    let deadline = Timespec::try_from(DEADLINE).expect("a short time");
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&deadline));
    if ended != Ok(1) {
        child.kill().expect("kill it");
    }
    let status = child.wait().expect("wait");
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    drop(reader);
}

#[cfg(feature = "coroutines")]
fn a_coroutine_that_overflows_its_stack_ends_the_process_with_a_message() {
    use std::os::unix::process::ExitStatusExt;
    let (mut child, _client) = overflow(Stdio::piped());
    // The pipe ends with the process.
    let mut message = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut message)
        .expect("UTF-8");
    let status = child.wait().expect("wait");
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    assert!(
        message.contains("a coroutine has overflowed its stack of 256 KiB"),
        "{message:?}"
    );
    assert!(message.contains("Coroutines::stack_size"), "{message:?}");
}
