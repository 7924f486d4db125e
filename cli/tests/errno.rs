//! Failures of system calls, injected into the binary by strace(1), a test for each row: the server
//! goes on, says so in a line, does not spin, and loses no client that it need not lose.
//!
//! What the accept loop does about each errno of accept(2) is in `tests/errno.rs` of the library.

#[allow(dead_code, reason = "what only other servers need is not used here")]
mod support;

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;
use socketserver::model::Driver;

use support::{Client, DEADLINE, Process, ask, assert_echoes, command_under, poll_until};

/// One kind of failure, and what becomes of the client that meets it.
struct Row {
    /// The model and its options.
    model: &'static str,
    scheme: &'static str,
    /// What strace injects: the call, the error, and into which calls of each thread.
    inject: &'static str,
    /// How many calls fail, at least.
    times: usize,
    client: First,
    /// The line on standard error, but for its beginning; empty if there is none. `*` is anything.
    said: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum First {
    IsServed,
    /// Its connection ends, or its datagram is not answered.
    IsLost,
}

use First::{IsLost, IsServed};

/// Names a test after each row: the call, then the error, then what else is special.
macro_rules! rows {
    ($($name:ident: $model:literal, $scheme:literal, $inject:literal x $times:literal, $client:ident, $said:literal;)+) => {
        $(#[test]
        fn $name() {
            Row {
                model: $model,
                scheme: $scheme,
                inject: $inject,
                times: $times,
                client: $client,
                said: $said,
            }
            .check();
        })+
    };
}

// accept4(2)
rows! {
    accept_emfile: "threading", "tcp", "accept4:error=EMFILE:when=1..6" x 6, IsServed,
        "accept on URL: Too many open files (os error 24); trying again within 5 ms";
    accept_emfile_in_a_coroutine: "coroutines --driver epoll", "tcp", "accept4:error=EMFILE:when=1..6" x 6, IsServed,
        "accept on URL: Too many open files (os error 24); trying again within 5 ms";
    accept_emfile_in_a_worker: "prefork --workers 1", "tcp", "accept4:error=EMFILE:when=1..6" x 6, IsServed,
        "accept on URL: Too many open files (os error 24); trying again within 5 ms";
    accept_enobufs: "forking", "tcp", "accept4:error=ENOBUFS:when=1..6" x 6, IsServed,
        "accept on URL: No buffer space available (os error 105); trying again within 5 ms";
    accept_econnaborted: "threading", "tcp", "accept4:error=ECONNABORTED:when=1..6" x 6, IsServed,
        "accept on URL: Software caused connection abort (os error 103)";
    accept_econnaborted_in_a_coroutine: "coroutines --driver epoll", "tcp", "accept4:error=ECONNABORTED:when=1..6" x 6, IsServed,
        "accept on URL: Software caused connection abort (os error 103)";
    accept_eperm: "sequential", "tcp", "accept4:error=EPERM:when=1..6" x 6, IsServed,
        "accept on URL: Operation not permitted (os error 1)";
}

// ppoll(2), which all models but coroutines wait in, and epoll_pwait(2). poll(2) itself is called by the runtime
// alone, before `main`.
rows! {
    poll_eintr: "threading", "tcp", "ppoll:error=EINTR:when=1..6" x 6, IsServed, "";
    poll_eintr_beside_a_deadline_keeper: "sequential", "udp", "ppoll:error=EINTR:when=1..6" x 6, IsServed, "";
    poll_eintr_beside_children: "forking", "tcp", "ppoll:error=EINTR:when=1..6" x 6, IsServed, "";
    poll_eintr_in_parent_and_worker: "prefork --workers 1", "tcp", "ppoll:error=EINTR:when=1..6" x 6, IsServed, "";
    poll_enomem: "threading", "tcp", "ppoll:error=ENOMEM:when=1..6" x 6, IsServed,
        "wait for clients: Cannot allocate memory (os error 12); trying again within 5 ms";
    poll_enomem_in_the_parent: "prefork --workers 1", "tcp", "ppoll:error=ENOMEM:when=2..3" x 2, IsServed,
        "wait for clients: Cannot allocate memory (os error 12); trying again within * ms";
    watch_enospc: "coroutines --driver epoll --workers 1", "tcp", "epoll_ctl:error=ENOSPC:when=4..400" x 1, IsServed,
        "wait for clients: No space left on device (os error 28); trying again within 5 ms";
    watch_parked_enospc: "threading --client-speaks-first", "tcp", "epoll_ctl:error=ENOSPC:when=4+" x 2, IsServed,
        "wait for clients: No space left on device (os error 28); trying again within 5 ms";
    watch_parked_enomem: "threading --client-speaks-first", "tcp", "epoll_ctl:error=ENOMEM:when=4+" x 2, IsServed,
        "wait for clients: Cannot allocate memory (os error 12); trying again within 5 ms";
    watch_parked_enospc_in_a_worker: "prefork:pool --workers 1 --client-speaks-first", "tcp", "epoll_ctl:error=ENOSPC:when=4+" x 2, IsServed,
        "wait for clients: No space left on device (os error 28); trying again within 5 ms";
    epoll_eintr: "coroutines --driver epoll", "tcp", "epoll_pwait:error=EINTR:when=1..6" x 6, IsServed, "";
    epoll_eintr_of_the_wakeup_event: "threading", "tcp", "epoll_pwait:error=EINTR:when=1" x 1, IsServed, "";
}

// fork(2), which is clone(2) here, and clone3(2), which makes threads.
rows! {
    fork_eagain: "forking", "tcp", "clone:error=EAGAIN:when=1..6" x 6, IsServed,
        "start a thread, process or coroutine: Resource temporarily unavailable (os error 11); trying again within 5 ms";
    fork_enomem: "forking", "udp", "clone:error=ENOMEM:when=1..6" x 6, IsServed,
        "start a thread, process or coroutine: Cannot allocate memory (os error 12); trying again within 5 ms";
    fork_eagain_of_workers: "prefork --workers 2", "tcp", "clone:error=EAGAIN:when=1..2" x 2, IsServed,
        "worker process: Resource temporarily unavailable (os error 11); trying again within 5 ms";
    // Without an upper bound of 1 s the pauses would take longer than a client waits.
    fork_eagain_of_the_only_worker: "prefork --workers 1", "tcp", "clone:error=EAGAIN:when=1..10" x 10, IsServed,
        "worker process: Resource temporarily unavailable (os error 11); trying again within 5 ms";
    fork_enomem_of_a_worker: "prefork --workers 2", "tcp", "clone:error=ENOMEM:when=2" x 1, IsServed,
        "worker process: Cannot allocate memory (os error 12); trying again within 5 ms";
    thread_eagain: "threading", "tcp", "clone3:error=EAGAIN:when=1..6" x 6, IsServed,
        "start a thread, process or coroutine: Resource temporarily unavailable (os error 11); trying again within 5 ms";
    thread_enomem: "threading", "tcp", "clone3:error=ENOMEM:when=1..6" x 6, IsServed,
        "start a thread, process or coroutine: Resource temporarily unavailable (os error 11); trying again within 5 ms";
    thread_eagain_in_a_worker: "prefork --workers 1", "udp", "clone3:error=EAGAIN:when=1..6" x 6, IsServed,
        "start a thread, process or coroutine: Resource temporarily unavailable (os error 11); trying again within 5 ms";
}

// What connections are read and written with. A peer that is gone is no news.
rows! {
    read_eintr: "sequential", "tcp", "recvfrom:error=EINTR:when=1" x 1, IsServed, "";
    read_eintr_in_a_coroutine: "coroutines --driver epoll --workers 1", "tcp", "recvfrom:error=EINTR:when=1" x 1, IsServed, "";
    read_econnreset: "sequential", "tcp", "recvfrom:error=ECONNRESET:when=1" x 1, IsLost, "";
    read_econnreset_in_a_coroutine: "coroutines --driver epoll --workers 1", "tcp", "recvfrom:error=ECONNRESET:when=1" x 1, IsLost, "";
    read_etimedout: "sequential", "tcp", "recvfrom:error=ETIMEDOUT:when=1" x 1, IsLost,
        "connection 1 from *: Connection timed out (os error 110)";
    write_eintr: "sequential", "tcp", "sendto:error=EINTR:when=1" x 1, IsServed, "";
    write_eintr_in_a_coroutine: "coroutines --driver uring --workers 1", "tcp", "sendto:error=EINTR:when=1" x 1, IsServed, "";
    write_epipe: "sequential", "tcp", "sendto:error=EPIPE:when=1" x 1, IsLost, "";
    write_econnreset: "sequential", "tcp", "sendto:error=ECONNRESET:when=1" x 1, IsLost, "";
    write_epipe_in_a_coroutine: "coroutines --driver uring --workers 1", "tcp", "sendto:error=EPIPE:when=1" x 1, IsLost, "";
}

// Datagrams.
rows! {
    recvmmsg_enomem: "threading", "udp", "recvmmsg:error=ENOMEM:when=1..6" x 6, IsServed,
        "accept on URL: Cannot allocate memory (os error 12); trying again within 5 ms";
    recvmmsg_enobufs: "coroutines --driver epoll", "udp", "recvmmsg:error=ENOBUFS:when=1..6" x 6, IsServed,
        "accept on URL: No buffer space available (os error 105); trying again within 5 ms";
    recvmmsg_econnrefused: "sequential", "udp", "recvmmsg:error=ECONNREFUSED:when=1..6" x 6, IsServed,
        "accept on URL: Connection refused (os error 111)";
    recvmmsg_eintr: "sequential", "udp", "recvmmsg:error=EINTR:when=1..6" x 6, IsServed, "";
    sendmmsg_eintr: "sequential", "udp", "sendmmsg:error=EINTR:when=1..6" x 6, IsServed, "";
    sendmmsg_enobufs: "sequential", "udp", "sendmmsg:error=ENOBUFS:when=1" x 1, IsLost,
        "datagram 1 from *: No buffer space available (os error 105)";
    sendmmsg_enomem: "sequential", "udp", "sendmmsg:error=ENOMEM:when=1" x 1, IsLost,
        "datagram 1 from *: Cannot allocate memory (os error 12)";
    sendmmsg_econnrefused: "coroutines --driver epoll --workers 1", "udp", "sendmmsg:error=ECONNREFUSED:when=1" x 1, IsLost,
        "datagram 1 from *: Connection refused (os error 111)";
}

// io_uring_enter(2). The first four calls of a worker are its start.
rows! {
    uring_eintr: "coroutines --driver uring --workers 1", "tcp", "io_uring_enter:error=EINTR:when=1..12" x 12, IsServed, "";
    uring_eagain: "coroutines --driver uring --workers 1", "tcp", "io_uring_enter:error=EAGAIN:when=5..12" x 8, IsServed, "";
    uring_ebusy: "coroutines --driver uring --workers 1", "udp", "io_uring_enter:error=EBUSY:when=5..12" x 8, IsServed, "";
    uring_eagain_now_and_then: "coroutines --driver uring --workers 2", "tcp", "io_uring_enter:error=EAGAIN:when=2+3" x 3, IsServed, "";
}

// Unix sockets: bind(2) and listen(2) are two calls.

/// A server whose every listen(2) takes long.
fn slow_to_listen(directory: &std::path::Path, url: &str) -> Process {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-e", "trace=listen", "-e"]);
    strace.arg("inject=listen:delay_enter=200000");
    strace.arg("-o").arg(directory.join("calls"));
    Process::start(command_under(strace, "serve echo", &[url]))
}

#[test]
fn a_server_that_is_about_to_listen_keeps_its_path() {
    require_strace();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("s");
    let url = format!("unix://{}", path.display());
    let first = slow_to_listen(directory.path(), &url);
    poll_until("the first server binds", DEADLINE, || {
        path.exists().then_some(())
    });
    let exit = Process::start(command_under(Command::new("env"), "serve echo", &[&url])).exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let line = exit.stderr.concat();
    assert!(
        line.contains(&format!("bind {}: ", path.display())),
        "{line}"
    );
    assert!(line.contains("stop the server that has it"), "{line}");
    assert_eq!(first.next_url(), url);
    assert_echoes(&url);
    assert_is_stopped(first);
}

#[test]
fn of_two_servers_that_start_at_once_one_listens() {
    require_strace();
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let path = directories[0].path().join("s");
    let url = format!("unix://{}", path.display());
    let both = directories
        .each_ref()
        .map(|directory| slow_to_listen(directory.path(), &url));
    let lines = both.each_ref().map(Process::next_line);
    let announced = format!("listening on {url}");
    let listens = lines.each_ref().map(|line| *line == announced);
    assert_ne!(listens[0], listens[1], "{lines:#?}");
    assert_echoes(&url);
    for (mut process, listens) in both.into_iter().zip(listens) {
        if listens {
            assert_is_stopped(process);
        } else {
            assert_eq!(process.exit().code, Some(1));
        }
    }
    assert!(!path.exists(), "and its file goes with it");
}

// Programs. Each starter meets the failures, at its own calls.

/// `exec` with cat(1), where `inject` fails.
fn programs(inject: &str) -> Process {
    require_strace();
    let mut strace = Command::new("strace");
    let (call, _) = inject.split_once(':').expect("a call");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.arg(format!("trace={call}"));
    strace.args(["-e", &format!("inject={inject}")]);
    let words = "exec --drain-timeout 0.1 --kill-timeout 0.1";
    let mut command = command_under(strace, words, &["tcp://127.0.0.1:0"]);
    command.args(["--", "cat"]);
    Process::start(command)
}

/// All clients of `exec` are served, one after the other, although `inject` fails.
#[track_caller]
fn assert_all_get_programs(inject: &str, said: &str) {
    let mut process = programs(inject);
    let url = process.next_url();
    for _ in 0..40 {
        assert_echoes(&url);
    }
    process.signal(Signal::TERM);
    let exit = process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let first = format!("socketserver: start a program: {said}; trying again within 5 ms");
    assert_eq!(exit.stderr.first(), Some(&first));
    let (cause, _) = first.split_once(';').expect("a pause");
    let is_said = |line: &String| line.starts_with(cause);
    assert!(exit.stderr.iter().all(is_said), "{exit:?}");
}

#[test]
fn a_program_whose_process_cannot_be_made_is_started_later() {
    assert_all_get_programs(
        "clone:error=EAGAIN:when=5..7",
        "clone(2): Resource temporarily unavailable (os error 11)",
    );
    assert_all_get_programs(
        "clone:error=ENOMEM:when=5..7",
        "clone(2): Cannot allocate memory (os error 12)",
    );
}

#[test]
fn a_program_whose_request_cannot_be_received_is_started_later() {
    assert_all_get_programs(
        "recvmsg:error=ENOMEM:when=3..5",
        "recvmsg(2): Cannot allocate memory (os error 12)",
    );
    assert_all_get_programs(
        "recvmsg:error=ENOBUFS:when=3..5",
        "recvmsg(2): No buffer space available (os error 105)",
    );
}

/// Clients of a server that can start no more programs: the last one waits.
fn clients_that_wait(process: &Process, url: &str) -> Vec<TcpStream> {
    let address = url.strip_prefix("tcp://").expect("a URL of TCP");
    let mut clients = Vec::new();
    let line = poll_until("a start fails", DEADLINE, || {
        clients.push(TcpStream::connect(address).expect("connect"));
        process.line_within(Duration::from_millis(50))
    });
    assert!(line.contains("; trying again within "), "{line}");
    clients
}

#[test]
fn a_client_that_waits_for_a_process_may_leave() {
    let mut process = programs("clone:error=EAGAIN:when=5+");
    let url = process.next_url();
    let descriptors = format!("/proc/{}/fd", process.id());
    // Spare threads keep other descriptors.
    let count = || {
        let open = fs::read_dir(&descriptors).expect("the server");
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let is_socket = |link: &PathBuf| link.to_string_lossy().starts_with("socket:");
        links.filter(is_socket).count()
    };
    let before = count();
    for client in clients_that_wait(&process, &url) {
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .expect("set SO_LINGER");
    }
    poll_until("the end of all connections", DEADLINE, || {
        (count() == before).then_some(())
    });
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(0));
}

#[test]
fn a_stop_does_not_wait_for_a_process() {
    let mut process = programs("clone:error=EAGAIN:when=5+");
    let url = process.next_url();
    let clients = clients_that_wait(&process, &url);
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(3));
    drop(clients);
}

fn assert_is_stopped(mut process: Process) {
    process.signal(Signal::TERM);
    process.stopped();
}

/// What is counted: all that a server does for a request, and to wait for one.
const CALLS: &str = "trace=accept4,recvmmsg,sendmmsg,recvfrom,sendto,poll,ppoll,epoll_wait,epoll_pwait,\
    epoll_pwait2,epoll_ctl,io_uring_enter,write,clone,clone3,fork,vfork";

impl Row {
    #[track_caller]
    #[expect(clippy::print_stderr, reason = "nothing is skipped in silence")]
    fn check(&self) {
        require_strace();
        if let (true, Some(why)) = (self.model.contains("uring"), Driver::Auto.pick().1) {
            eprintln!("{} is ignored: {why}", self.inject);
            return;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("calls");
        let mut strace = Command::new("strace");
        // With -D the server is the child of this process, and strace is its grandchild.
        strace.args(["-D", "-f", "-qq", "-s", "200", "-e", CALLS, "-e"]);
        strace.arg(format!("inject={}", self.inject));
        strace.arg("-o").arg(&log);
        let (words, url) = (
            format!("serve {} --model {}", self.service(), self.model),
            format!("{}://127.0.0.1:0", self.scheme),
        );
        let start = Instant::now();
        let mut process = Process::start(command_under(strace, &words, &[&url]));
        let mut said = Vec::new();
        let url = loop {
            let line = process.next_line();
            match line.strip_prefix("listening on ") {
                Some(url) => break url.to_owned(),
                None => said.push(line),
            }
        };
        match self.client {
            IsServed => self.assert_served(&url),
            IsLost if self.scheme == "udp" => {
                Client::connect(&url).send(b"lost");
                said.push(process.next_line());
            }
            IsLost => Client::connect(&url).talk_to_the_end(),
        }
        // Of the 315 ms that six pauses take, some may be cut short by a thread that is ready.
        let paused = self.said.ends_with("within 5 ms") && self.times == 6;
        assert!(
            !paused || start.elapsed() >= Duration::from_millis(100),
            "no pause"
        );
        self.assert_served(&url);
        let cpu = cpu_ticks(process.id());
        process.signal(Signal::TERM);
        let exit = process.exit();
        assert_eq!((exit.code, exit.stdout), (Some(0), Vec::new()));
        said.extend(exit.stderr);
        self.check_lines(&said, &url, start.elapsed());
        let calls = fs::read_to_string(&log).expect("what strace has seen");
        self.check_calls(&calls);
        assert!(cpu < 50, "{cpu} ticks of a processor");
    }

    /// Where nothing can be watched, a coroutine must not have to wait for its client.
    fn service(&self) -> &'static str {
        if self.inject.starts_with("epoll_ctl") && self.model.starts_with("coroutines") {
            "hello"
        } else {
            "echo"
        }
    }

    #[track_caller]
    fn assert_served(&self, url: &str) {
        match self.service() {
            "hello" => assert_eq!(ask(url, b"", 100), b"hello world\n"),
            _ => assert_echoes(url),
        }
    }

    /// One line, and another one after each second, from all processes together.
    #[track_caller]
    fn check_lines(&self, said: &[String], url: &str, time: Duration) {
        let expected = format!("socketserver: {}", self.said.replace("URL", url));
        let Some(first) = said.first() else {
            return assert_eq!(self.said, "", "nothing was said");
        };
        match expected.split_once('*') {
            None => assert_eq!(*first, expected),
            Some((start, end)) => {
                assert!(first.starts_with(start) && first.ends_with(end), "{first}");
            }
        }
        let (what, _) = expected.split_once(';').unwrap_or((&expected, ""));
        for line in &said[1..] {
            assert!(line.starts_with(what), "{line}");
        }
        let most = 1 + time.as_secs();
        assert!(said.len() as u64 <= most, "in {time:?}: {said:#?}");
    }

    /// The failures have happened, and cost hardly any calls.
    #[track_caller]
    fn check_calls(&self, calls: &str) {
        let injected = calls.matches("(INJECTED)").count();
        assert!(injected >= self.times, "{injected} injected: {calls}");
        let whole = |call: &&str| !call.contains("write(2, ") || call.contains("\\n\", ");
        let part = calls.lines().find(|call| !whole(call));
        assert_eq!(part, None, "a line is written in one piece");
        // A server that meets none makes up to 60, for two clients and its stop.
        let count = calls.lines().count();
        assert!(count < 200, "{count} calls: {calls}");
    }
}

/// The processor time of a process, of its children that are there, and of those it has waited for.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    // User and system, of its own and of those (proc_pid_stat(5), fields 14 to 17).
    let times = fields.split_whitespace().skip(11).take(4);
    let own: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    own + children.map(cpu_ticks).sum::<u64>()
}

/// Fails where strace is missing, or must not trace.
#[track_caller]
fn require_strace() {
    static WHY_NOT: OnceLock<Option<String>> = OnceLock::new();
    let why_not = WHY_NOT.get_or_init(|| {
        let traced = Command::new("strace")
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=accept4:error=EPERM:when=1..2", "true"])
            .output();
        match traced {
            Err(err) => Some(format!("these tests need strace 5.8 or later ({err}): apt-get install strace")),
            Ok(output) if !output.status.success() || !output.stderr.is_empty() => Some(format!(
                "strace cannot trace here, so these tests cannot run; in a container ptrace(2) may need \
                 --cap-add=SYS_PTRACE: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
            Ok(_) => None,
        }
    });
    if let Some(why_not) = why_not {
        panic!("{why_not}");
    }
}
