//! Signals: those that come before the server is there, those that a program was started without,
//! and those that are meant for one process.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use support::{
    Client, DEADLINE, Process, Server, ask, assert_echoes, children, command, command_under,
    make_fifo, poll_until, serve, sockets,
};

const LOCAL: &str = "tcp://127.0.0.1:0";

/// Waits for what another process brings about.
#[track_caller]
fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll_until(what, DEADLINE, look)
}

#[test]
fn children_are_waited_for_where_their_signal_was_ignored() {
    for model in ["forking", "prefork:forking --workers 2"] {
        let words = format!("serve hello --model {model}");
        let mut env = Command::new("env");
        env.arg("--ignore-signal=CHLD");
        let server = Server::start(command_under(env, &words, &[LOCAL]), 1);
        for _ in 0..3 {
            assert_eq!(ask(&server.urls[0], b"", 100), b"hello world\n");
        }
        server.stop();
    }
}

#[test]
fn an_idle_client_does_not_fail_a_stop() {
    let models = [
        "sequential",
        "threading",
        "pool",
        "forking",
        "coroutines --driver epoll",
        "prefork:sequential --workers 2",
        "prefork --workers 2",
        "prefork:pool --workers 2",
        "prefork:forking --workers 2",
        "prefork:coroutines --workers 2 --driver epoll",
    ];
    for model in models {
        for options in ["", "--idle-grace none --drain-timeout 0.2"] {
            let server = serve(&format!("echo --model {model} {options}"), &[LOCAL]);
            let mut client = Client::connect(&server.urls[0]);
            client.echo("served");
            server.stop();
            assert_eq!(client.receive(1), b"", "{model} {options}");
        }
    }
}

#[test]
fn signals_that_were_blocked_stop_the_server() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut env = Command::new("env");
        env.arg("--block-signal=TERM,INT,HUP,CHLD");
        let server = Server::start(
            command_under(env, "serve echo --model prefork", &[LOCAL]),
            1,
        );
        assert_echoes(&server.urls[0]);
        server.stop_by(signal);
    }
}

/// The signal waits until bind(2) has returned, which strace delays: nothing serves yet.
#[test]
fn a_stop_that_comes_while_sockets_are_bound_leaves_no_file() {
    for (signals, model) in [
        (1, "threading"),
        (1, "prefork --workers 2"),
        (1, "forking"),
        (2, "coroutines --driver epoll"),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("socket");
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=bind"]);
        strace.args(["-e", "inject=bind:delay_exit=500000:when=1..2"]);
        let words = format!("serve echo --model {model}");
        let url = format!("unix://{}", file.display());
        let mut process = Process::start(command_under(strace, &words, &[&url]));
        until("bound", || bound(directory.path()));
        for signal in [Signal::TERM, Signal::INT].iter().take(signals) {
            process.signal(*signal);
        }
        process.stopped();
        assert_eq!(bound(directory.path()), None, "{model}");
    }
}

/// A server under strace, which sends a signal as a system call begins; the server's start makes it once at least.
fn signalled_at(call: &str, signal: &str, words: &str, url: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-qq", "-o", "/dev/null"]);
    strace.arg(format!("--trace={call}"));
    strace.arg(format!("--inject={call}:signal={signal}:when=1"));
    command_under(strace, words, &[url])
}

/// From the first sockets to the last preparations of the accept loop.
const STARTS_WITH: [&str; 5] = ["socket", "bind", "listen", "eventfd2", "epoll_create1"];

#[test]
fn a_stop_at_any_step_of_the_start_leaves_no_file() {
    for call in STARTS_WITH {
        for signal in ["SIGTERM", "SIGINT"] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let url = format!("unix://{}", directory.path().join("socket").display());
            let command = signalled_at(call, signal, "serve echo", &url);
            let exit = Process::start(command).exit();
            assert_eq!(exit.code, Some(0), "{signal} at {call}: {exit:?}");
            assert_eq!(bound(directory.path()), None, "{signal} at {call}");
        }
    }
}

#[test]
fn a_hang_up_at_any_step_of_the_start_leads_to_a_reload() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let list = directory.path().join("list");
    fs::write(&list, "192.0.2.0/24\n").expect("write");
    for model in ["threading", "forking", "prefork --workers 2"] {
        for call in STARTS_WITH {
            let words = format!("serve echo --model {model} --deny @{}", list.display());
            let server = Server::start(signalled_at(call, "SIGHUP", &words, LOCAL), 1);
            let line = server.process.next_line();
            let again = "socketserver: the access lists were read again";
            assert_eq!(line, again, "{model}: at {call}");
            assert_echoes(&server.urls[0]);
            server.stop();
        }
    }
}

#[test]
fn a_hang_up_does_not_end_a_server_that_has_nothing_to_read_again() {
    for model in ["threading", "prefork --workers 2"] {
        let words = format!("serve echo --model {model}");
        let server = Server::start(signalled_at("bind", "SIGHUP", &words, LOCAL), 1);
        server.process.signal(Signal::HUP);
        assert_echoes(&server.urls[0]);
        server.stop();
    }
}

/// A file in the directory.
fn bound(directory: &Path) -> Option<String> {
    let mut files = fs::read_dir(directory).expect("list the directory");
    files.next().map(|file| format!("{file:?}"))
}

const WORKERS: [&str; 4] = [
    "prefork --workers 1",
    "prefork:threading --workers 1",
    "prefork:coroutines --workers 1",
    "prefork:forking --workers 1",
];

/// A server whose worker has left by the time of a stop, as where a service manager signals every process of a service
/// at once, and a client in the backlog.
fn stop_without_workers(model: &str, options: &str) -> (Server, Client) {
    let server = serve(&format!("echo --model {model} {options}"), &[LOCAL]);
    Client::connect(&server.urls[0]).echo("served");
    let main = server.process.id();
    let worker = children(main)[0];
    send(main, Signal::STOP);
    send(worker, Signal::TERM);
    until("the worker has ended", || is_zombie(worker).then_some(()));
    let mut client = Client::connect(&server.urls[0]);
    client.send(b"x");
    send(main, Signal::TERM);
    send(main, Signal::CONT);
    (server, client)
}

#[test]
fn a_stop_whose_workers_have_left_before_serves_the_backlog() {
    for model in WORKERS {
        let (mut server, mut client) = stop_without_workers(model, "");
        assert_eq!(client.receive(1), b"x", "{model}");
        drop(client);
        assert_eq!(server.process.exit().code, Some(0), "{model}");
    }
}

#[test]
fn a_stop_whose_workers_have_left_before_counts_the_backlog_that_it_aborts() {
    for model in WORKERS {
        let (mut server, client) = stop_without_workers(model, "--drain-timeout 0");
        let exit = server.process.exit();
        assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
        drop(client);
    }
}

/// It has no place for a successor before.
#[test]
fn a_worker_that_is_asked_to_leave_accepts_until_its_predecessor_has_ended() {
    for model in ["threading", "coroutines"] {
        // No connection is ended before the test ends it.
        let words =
            format!("--model prefork:{model} --workers 1 --idle-grace none --drain-timeout 60");
        let mut server = serve(&format!("echo {words}"), &[LOCAL]);
        let connect = || {
            let mut client = Client::connect(&server.urls[0]);
            client.echo("served");
            client
        };
        let first = connect();
        let main = server.process.id();
        let worker = children(main)[0];
        let before = sockets(worker);
        send(worker, Signal::TERM);
        until("the worker leaves the listener", || {
            (sockets(worker) < before).then_some(())
        });
        let second = connect();
        let successor = children(main).into_iter().find(|pid| *pid != worker);
        let successor = successor.expect("it serves a client");
        send(successor, Signal::TERM);
        // It may get the signal after it has accepted some of them.
        (0..20).for_each(|_| drop(connect()));
        drop((first, second));
        until("a successor of the successor", || {
            let gone = [worker, successor];
            let left = children(main);
            (left.len() == 1 && !gone.contains(&left[0])).then_some(())
        });
        drop(connect());
        server.process.signal(Signal::TERM);
        assert_eq!(server.process.exit().code, Some(0), "{model}");
    }
}

/// The main process comes first, and its lame duck has begun.
#[test]
fn a_worker_that_leaves_amid_the_lame_duck_ends_it_for_no_other() {
    for model in WORKERS {
        let words = format!("serve echo --model {model} --lame-duck 60 --log");
        let mut process = Process::start(command(&words, &[LOCAL]));
        let url = until("a listener", || {
            let line = process.next_line();
            line.strip_prefix("listening on ").map(str::to_owned)
        });
        Client::connect(&url).echo("served");
        let main = process.id();
        let worker = children(main)[0];
        send(main, Signal::TERM);
        until("the lame duck begins", || {
            let line = process.next_line();
            line.ends_with("still accepting").then_some(())
        });
        send(worker, Signal::TERM);
        until("a successor", || {
            children(main).into_iter().find(|pid| *pid != worker)
        });
        Client::connect(&url).echo("served");
        let is_early = |line: &String| line.contains("backlog") || line.contains("draining");
        let lines = process.lines();
        assert!(!lines.iter().any(is_early), "{model}: {lines:?}");
        // The workers end with it.
        send(main, Signal::KILL);
        process.exit();
    }
}

/// A command for a namespace of mounts where the file of host names is a FIFO: who resolves a name
/// waits in open(2) for a writer. `None` where that cannot be had, which is said.
fn with_slow_names(directory: &Path, more: &[&str]) -> Option<Command> {
    make_fifo(&directory.join("hosts"));
    namespace(&[&["--mount"], more].concat()).map(|mut unshare| {
        let script = r#"mount --bind "$0/hosts" /etc/hosts && exec "$@""#;
        unshare.args(["sh", "-c", script]).arg(directory);
        unshare
    })
}

/// unshare(1), as root or as a user who becomes root in a namespace.
#[expect(clippy::print_stderr, reason = "nothing is skipped in silence")]
fn namespace(options: &[&str]) -> Option<Command> {
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let unshare = || {
            let mut unshare = Command::new("unshare");
            unshare.args(user).args(options);
            unshare
        };
        let works = unshare().arg("true").status();
        if works.is_ok_and(|status| status.success()) {
            return Some(unshare());
        }
    }
    eprintln!("skipped: unshare {options:?} is not allowed here, or is missing");
    None
}

/// Waits until one of the processes opens the file of host names. A writer would end that: the C library does not read a
/// FIFO.
#[track_caller]
fn await_lookup(processes: impl Fn() -> Vec<u32>) {
    let looks_up = |&pid: &u32| opening(pid).is_some_and(|path| path == *b"/etc/hosts\0");
    until("a name is looked up", || {
        processes().iter().find(|pid| looks_up(pid)).copied()
    });
}

/// The beginning of the path that a process opens right now (proc_pid_syscall(5)).
fn opening(pid: u32) -> Option<[u8; 11]> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut fields = call.split_whitespace();
    let number: i64 = fields.next()?.parse().ok()?;
    let path = fields.nth(1)?.strip_prefix("0x")?;
    let address = u64::from_str_radix(path, 16).ok()?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut start = [0; 11];
    memory.read_exact_at(&mut start, address).ok()?;
    (number == libc::SYS_openat).then_some(start)
}

#[test]
fn a_stop_that_comes_while_names_are_resolved_ends_the_program() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(command) = with_slow_names(directory.path(), &[]) else {
        return;
    };
    let sockets = tempfile::tempdir().expect("a temporary directory");
    let file = format!("unix://{}", sockets.path().join("socket").display());
    let urls = [&*file, "tcp://localhost:0"];
    let mut process = Process::start(command_under(command, "serve echo", &urls));
    await_lookup(|| vec![process.id()]);
    assert_eq!(bound(sockets.path()), None, "nothing is bound yet");
    process.signal(Signal::TERM);
    process.stopped();
}

#[test]
fn an_interrupt_of_one_worker_or_child_is_none_of_its_business() {
    for model in [
        "prefork --workers 2",
        "forking",
        "prefork:forking --workers 1",
    ] {
        let server = serve(&format!("echo --model {model}"), &[LOCAL]);
        let mut client = Client::connect(&server.urls[0]);
        client.echo("served");
        let below = descendants(server.process.id());
        assert!(!below.is_empty(), "{model}");
        for pid in &below {
            interrupt(*pid);
        }
        for _ in 0..20 {
            client.echo("still served");
            assert_echoes(&server.urls[0]);
        }
        drop(client);
        server.stop();
    }
}

#[test]
fn a_worker_or_child_that_is_asked_to_end_drains_alone() {
    for model in [
        "prefork --workers 2",
        "forking",
        "prefork:forking --workers 1",
    ] {
        let server = serve(&format!("echo --model {model}"), &[LOCAL]);
        let mut client = Client::connect(&server.urls[0]);
        client.echo("served");
        let below = descendants(server.process.id());
        for pid in &below {
            send(*pid, Signal::TERM);
        }
        // Its conversation ends as in a stop; those of others go on.
        client.talk_to_the_end();
        until("ended", || {
            let now = descendants(server.process.id());
            (!now.iter().any(|pid| below.contains(pid))).then_some(())
        });
        let mut others: Vec<_> = (0..5).map(|_| Client::connect(&server.urls[0])).collect();
        for other in &mut others {
            other.echo("first");
            other.echo("second");
        }
        drop(others);
        server.stop();
    }
}

/// The key that a terminal makes SIGINT of.
const CTRL_C: &[u8] = b"\x03";

/// script(1) has a terminal of its own, and types what it reads.
#[test]
fn on_a_terminal_the_first_interrupt_says_what_is_waited_for() {
    for model in ["threading", "sequential", "forking", "prefork --workers 2"] {
        let words = format!("serve chargen --model {model} --drain-timeout 3600 --idle-grace none");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("unix://{}", directory.path().join("socket").display());
        let served = command(&words, &[&url]);
        let words = std::iter::once(served.get_program()).chain(served.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let (keys, mut keyboard) = std::io::pipe().expect("a pipe");
        let mut script = Command::new("script");
        script.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]);
        script.stdin(Stdio::from(keys)).env("SHELL", "/bin/sh");
        let mut process = Process::start(script);
        assert_eq!(process.next_output(), format!("listening on {url}"));
        let client = Client::connect(&url);
        client.await_full(&process);
        keyboard.write_all(CTRL_C).expect("press a key");
        // The terminal shows the key.
        assert_eq!(process.next_output(), "^C", "{model}");
        assert_eq!(
            process.next_output(),
            "socketserver: waiting for 1 connection, for 3600 s at most; Ctrl-C again aborts them now",
            "{model}"
        );
        keyboard.write_all(CTRL_C).expect("press a key");
        let exit = process.exit();
        assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for child in children(pid) {
        all.push(child);
        all.extend(descendants(child));
    }
    all
}

#[track_caller]
fn interrupt(pid: u32) {
    send(pid, Signal::INT);
}

#[track_caller]
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    kill_process(pid, signal).expect("send a signal");
}

// As the first process of a container.

const CONTAINER: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

/// A server that is the first process of a container, and the number of that process here.
struct Container {
    server: Server,
    init: u32,
}

impl Container {
    /// `None` where there can be none, which was said.
    fn start(shell: &str, words: &str) -> Option<Self> {
        let mut unshare = namespace(&CONTAINER)?;
        let script = format!(r#"{shell} exec "$0" "$@""#);
        unshare.args(["sh", "-c", &script]);
        let server = Server::start(command_under(unshare, words, &[LOCAL]), 1);
        let init = first_process(&server.process);
        Some(Self { server, init })
    }

    /// Waits until the program is all that is left below the first process, and no process is a
    /// zombie.
    #[track_caller]
    fn is_tidy(&self) {
        until("reaped", || {
            let alone = children(self.init).len() == 1;
            let zombie = descendants(self.init).into_iter().any(is_zombie);
            (alone && !zombie).then_some(())
        });
    }

    #[track_caller]
    fn stop(mut self) {
        send(self.init, Signal::TERM);
        let exit = self.server.process.exit();
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
}

fn first_process(unshare: &Process) -> u32 {
    until("a first process", || {
        children(unshare.id()).first().copied()
    })
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    state.starts_with('Z')
}

#[test]
fn the_first_process_reaps_orphans() {
    let orphans = "(sleep 0.1 & sleep 0.2 &); sleep 0.1 &";
    let Some(container) = Container::start(orphans, "serve echo") else {
        return;
    };
    container.is_tidy();
    assert_echoes(&container.server.urls[0]);
    container.is_tidy();
    container.stop();
}

#[test]
fn the_first_process_reaps_the_children_of_a_killed_worker() {
    let Some(container) = Container::start("", "serve echo --model prefork:forking --workers 1")
    else {
        return;
    };
    let mut client = Client::connect(&container.server.urls[0]);
    client.echo("served");
    let program = children(container.init);
    let [program] = program[..] else {
        panic!("one child: {program:?}");
    };
    let worker = until("a worker", || children(program).first().copied());
    let child = until("a child", || children(worker).first().copied());
    send(worker, Signal::KILL);
    drop(client);
    until("the child has ended", || {
        (!fs::exists(format!("/proc/{child}")).expect("/proc")).then_some(())
    });
    container.is_tidy();
    assert_echoes(&container.server.urls[0]);
    container.is_tidy();
    container.stop();
}

#[test]
fn the_first_process_is_stopped_by_a_signal_that_comes_early() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(command) = with_slow_names(directory.path(), &CONTAINER) else {
        return;
    };
    let command = command_under(command, "serve echo", &["tcp://localhost:0"]);
    let mut process = Process::start(command);
    let first = first_process(&process);
    await_lookup(|| children(first));
    send(first, Signal::TERM);
    let exit = process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

#[test]
fn the_first_process_ends_as_its_program_does() {
    let Some(mut unshare) = namespace(&CONTAINER) else {
        return;
    };
    unshare.arg("--");
    let exit = Process::start(command_under(unshare, "serve echo", &["tcp://192.0.2.1:0"])).exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let Some(mut container) = Container::start("", "serve echo") else {
        return;
    };
    for program in children(container.init) {
        send(program, Signal::KILL);
    }
    let exit = container.server.process.exit();
    assert_eq!(exit.code, Some(128 + 9), "{exit:?}");
}

#[test]
fn the_first_process_passes_on_what_it_has() {
    let Some(mut unshare) = namespace(&CONTAINER) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let notices = UnixDatagram::bind(directory.path().join("notify")).expect("bind");
    notices.set_read_timeout(Some(DEADLINE)).expect("set");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("tcp://{}", listener.local_addr().expect("an address"));
    // As a service manager does.
    let manager = "
import os, sys
os.dup2(0, 3)
os.dup2(os.open(\"/dev/null\", os.O_RDONLY), 0)
pid = os.getpid()
id = os.fstat(os.pidfd_open(pid)).st_ino
os.environ |= {\"LISTEN_PID\": str(pid), \"LISTEN_PIDFDID\": str(id), \"WATCHDOG_PID\": str(pid)}
os.execv(sys.argv[1], sys.argv[1:])";
    unshare.args(["python3", "-c", manager]);
    let mut command = command_under(unshare, "serve echo", &["fd://web"]);
    command.stdin(OwnedFd::from(listener));
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "web")]);
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    command.env("WATCHDOG_USEC", "100000");
    let mut server = Server::start(command, 1);
    assert_eq!(server.urls, [url]);
    assert_echoes(&server.urls[0]);
    let mut notice = [0; 100];
    until("the watchdog is fed", || {
        let length = notices.recv(&mut notice).expect("a notice");
        (&notice[..length] == b"WATCHDOG=1\n").then_some(())
    });
    send(first_process(&server.process), Signal::INT);
    server.process.stopped();
}

/// A process that is stopped and continued has its receives with a time limit interrupted (signal(7)): the limit goes on.
#[test]
fn signals_do_not_prolong_the_close_of_a_connection() {
    let server = serve(
        "hello --model sequential --first-byte-timeout none --idle-timeout none",
        &[LOCAL],
    );
    // The server finds input that its handler does not read, so it waits for the client's end before it closes.
    server.process.signal(Signal::STOP);
    let mut unread = Client::connect(&server.urls[0]);
    unread.send(b"unread");
    server.process.signal(Signal::CONT);
    let mut next = Client::connect(&server.urls[0]);
    until("the next client is served", || {
        server.process.signal(Signal::STOP);
        server.process.signal(Signal::CONT);
        (!next.hears_nothing_for(Duration::from_millis(20))).then_some(())
    });
    drop((unread, next));
    server.stop();
}
