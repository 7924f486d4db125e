//! How programs end: with their client, with their server, by themselves, with all that they have started.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use socket2::Socket;

use crate::support::{Client, DEADLINE, Exit, Server, children, poll_until};
use crate::{
    LOCAL, MODELS, await_end_of, await_line, command_of, exec, is_alive, line, pids, started,
    starters,
};

/// Closes a connection by a reset (socket(7), `SO_LINGER`).
fn reset(url: &str, read: impl FnOnce(&mut Client) -> Vec<u32>) -> Vec<u32> {
    let address = url.strip_prefix("tcp://").expect("a URL of TCP");
    let stream = TcpStream::connect(address).expect("connect");
    let socket = Socket::from(stream);
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("set SO_LINGER");
    read(&mut Client::from_stream(socket))
}

#[test]
fn a_half_closed_stream_lives_on() {
    for model in MODELS {
        let server = exec(&format!("--model {model}"), "cat; echo end");
        let mut client = Client::connect(&server.urls[0]);
        client.send(b"some words\n");
        client.end_of_input();
        assert_eq!(client.receive(100), b"some words\nend\n", "{model}");
        server.stop();
    }
}

#[test]
fn a_program_that_stays_after_the_end_of_the_stream_is_ended() {
    let server = exec(
        "--half-close-timeout 0.1",
        "echo $$; cat >/dev/null; exec sleep 1000",
    );
    let mut client = Client::connect(&server.urls[0]);
    let pids = pids(&mut client);
    client.end_of_input();
    assert_eq!(client.receive(1), b"");
    await_end_of(&pids);
    let line = server.process.next_line();
    assert!(
        line.ends_with("/bin/sh was ended, 0.1 s after the client's end of stream"),
        "{line}"
    );
    server.stop();
}

#[test]
fn a_reset_ends_the_whole_group_at_once() {
    for model in MODELS {
        let options = format!("--model {model} --half-close-timeout none --idle-timeout none");
        let server = exec(&options, "sleep 1000 & echo $$ $!; wait");
        let group = reset(&server.urls[0], pids);
        assert_eq!(group.len(), 2, "{model}");
        await_end_of(&group);
        drop(server);
    }
}

/// Whether a signal has stopped all threads of a process.
fn are_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list threads");
    let mut stats = threads
        .flatten()
        .map(|thread| fs::read_to_string(thread.path().join("stat")));
    stats.all(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
}

#[test]
fn a_reset_whose_error_the_program_has_taken_ends_it() {
    let options = "--half-close-timeout none --idle-timeout none --kill-timeout 0.1";
    let server = exec(options, "echo $$; cat >/dev/null 2>&1; exec sleep 1000");
    let program = reset(&server.urls[0], |client| {
        let program = pids(client);
        // The server sees nothing before the program has.
        server.process.signal(Signal::STOP);
        poll_until("all threads of the server stop", DEADLINE, || {
            are_stopped(server.process.id()).then_some(())
        });
        program
    });
    poll_until("cat(1) reads the error, and ends", DEADLINE, || {
        let name = fs::read_to_string(format!("/proc/{}/comm", program[0])).ok()?;
        (name == "sleep\n").then_some(())
    });
    server.process.signal(Signal::CONT);
    await_end_of(&program);
    let line = await_line(&server.process, "was ended");
    assert!(
        line.ends_with("/bin/sh was ended, 0.1 s after the end of both directions"),
        "{line}"
    );
}

#[test]
fn a_program_may_finish_its_work_after_both_ends_of_the_stream() {
    let server = exec(
        "--log",
        "exec python3 -c 'import socket, time; s = socket.socket(fileno=0); s.shutdown(1); s.recv(1); time.sleep(0.2)'",
    );
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(client.receive(1), b"");
    drop(client);
    let line = await_line(&server.process, ": program ended: ");
    assert!(line.contains("exit status 0"), "{line}");
}

#[test]
fn a_program_that_ignores_sigterm_is_killed() {
    let server = exec(
        "--kill-timeout 0.1",
        "trap '' TERM; sleep 1000 & echo $$ $!; while :; do wait; done",
    );
    let group = reset(&server.urls[0], pids);
    await_end_of(&group);
    server.stop();
}

#[test]
fn a_huge_time_until_sigkill_is_waited_for() {
    let script = "trap 'sleep 0.3; exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let server = exec("--log --kill-timeout 1e19 --half-close-timeout 0.1", script);
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(line(&mut client), "ready");
    client.end_of_input();
    let line = await_line(&server.process, ": program ended: ");
    assert!(line.contains("exit status 7"), "{line}");
}

#[test]
fn a_stopped_program_is_ended_too() {
    let server = exec("", "echo $$; kill -STOP $$");
    let group = reset(&server.urls[0], pids);
    await_end_of(&group);
    server.stop();
}

/// Starts a process in a session of its own, whose parent ends at once, and prints its number.
const FORKS_AWAY: &str = "(setsid sh -c 'echo $$; exec sleep 1000' &)";

/// The same, and the process has none of the variables.
const FORKS_AWAY_BARE: &str = "(env -i PATH=$PATH setsid sh -c 'echo $$; exec sleep 1000' &)";

#[test]
fn what_forks_away_ends_with_its_program_and_not_before() {
    for model in MODELS {
        let server = exec(
            &format!("--model {model} --max-connections 100"),
            &format!("{FORKS_AWAY}; read x; read x; exit 0"),
        );
        let mut client = Client::connect(&server.urls[0]);
        let away = pids(&mut client);
        client.send(b"x\n");
        if model != "sequential" {
            // A program of each starter ends, after which the starter looks for strays.
            for _ in 0..starters(model) {
                let mut other = Client::connect(&server.urls[0]);
                let its = pids(&mut other);
                other.send(b"x\nx\n");
                assert_eq!(other.receive(1), b"", "{model}");
                await_end_of(&its);
            }
        }
        assert!(is_alive(away[0]), "{model}");
        client.send(b"x\n");
        assert_eq!(client.receive(1), b"", "{model}");
        await_end_of(&away);
        server.stop();
    }
}

#[test]
fn what_forks_away_without_its_variables_ends_at_the_latest_with_its_program() {
    let server = exec("", &format!("{FORKS_AWAY_BARE}; read x"));
    let mut client = Client::connect(&server.urls[0]);
    let away = pids(&mut client);
    client.send(b"x\n");
    await_end_of(&away);
    drop(client);
    server.stop();
}

#[test]
fn a_killed_server_leaves_nothing() {
    for model in MODELS {
        let options = format!("--model {model} --kill-timeout 0.1");
        let script =
            format!("{FORKS_AWAY}; trap '' TERM; sleep 1000 & echo $$ $!; while :; do wait; done");
        let server = exec(&options, &script);
        let mut client = Client::connect(&server.urls[0]);
        let mut all = pids(&mut client);
        all.extend(pids(&mut client));
        all.extend(children(server.process.id()));
        server.process.signal(Signal::KILL);
        await_end_of(&all);
    }
}

/// Runs Python with `lock`, a file that every process which it forks holds.
fn python(lock: &Path, text: &str) -> String {
    let lock = lock.display();
    format!(
        "exec python3 -c '
import fcntl, os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = open(\"{lock}\", \"w\")
fcntl.flock(file, fcntl.LOCK_SH)
def ready(): os.write(1, b\"ready\\n\")
{text}'"
    )
}

#[track_caller]
fn await_unlocked(lock: &Path) {
    let file = File::open(lock).expect("open the file");
    poll_until("nothing is left", DEADLINE, || {
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()
    });
}

#[test]
fn a_chain_of_processes_that_fork_away_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let lock = folder.path().join("lock");
    // Each process of the chain lives shorter than the time until SIGKILL.
    let chain = "
if os.fork() == 0:
    for number in range(600):
        os.setsid()
        if number == 0: ready()
        time.sleep(0.1)
        if os.fork(): os._exit(0)
time.sleep(1000)";
    let server = exec("--kill-timeout 0.5", &python(&lock, chain));
    assert_eq!(
        reset(&server.urls[0], |client| {
            assert_eq!(line(client), "ready");
            Vec::new()
        }),
        []
    );
    await_unlocked(&lock);
    server.stop();
}

#[test]
fn a_killed_server_leaves_none_of_many_sessions() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let lock = folder.path().join("lock");
    // Each process becomes a child of the starter when the one before it has ended.
    let nested = "
for _ in range(200):
    if os.fork(): time.sleep(1000)
    os.setsid()
ready()
time.sleep(1000)";
    let server = exec("--kill-timeout 0.1", &python(&lock, nested));
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(line(&mut client), "ready");
    server.process.signal(Signal::KILL);
    await_unlocked(&lock);
}

#[test]
fn a_killed_group_of_the_server_leaves_nothing() {
    let script = format!("{FORKS_AWAY}; echo $$; exec sleep 1000");
    let mut command = command_of("--kill-timeout 0.1", &[LOCAL], &script);
    command.process_group(0);
    let server = Server::start(command, 1);
    let mut client = Client::connect(&server.urls[0]);
    let all = [pids(&mut client), pids(&mut client)].concat();
    let group = Pid::from_raw(server.process.id() as i32).unwrap();
    kill_process_group(group, Signal::KILL).unwrap();
    await_end_of(&all);
}

#[test]
fn a_server_whose_starter_is_killed_stops_and_says_so() {
    for model in MODELS {
        let mut server = exec(&format!("--model {model}"), "sleep 1000 & echo $$ $!; wait");
        let mut client = Client::connect(&server.urls[0]);
        let program = pids(&mut client);
        let mut below = children(server.process.id());
        below.retain(|pid| has_child(*pid, program[0]));
        assert_eq!(below.len(), 1, "{model}: the starter");
        let starter = Pid::from_raw(below[0] as i32).unwrap();
        kill_process(starter, Signal::KILL).unwrap();
        let exit = server.process.exit();
        assert_eq!(exit.code, Some(1), "{model}: {exit:?}");
        assert_eq!(last_line(&exit), Some(STARTER_KILLED), "{model}: {exit:?}");
        await_end_of(&program);
    }
}

#[test]
fn a_server_stops_when_any_of_its_starters_is_killed() {
    for killed in 0..2 {
        let options =
            "--model prefork:threading --workers 2 --drain-timeout 0.1 --kill-timeout 0.1";
        let mut server = exec(options, "sleep 1000 & echo $$ $! $PPID; wait");
        let mut clients = [(); 2].map(|()| Client::connect(&server.urls[0]));
        let groups = clients.each_mut().map(pids);
        let starters = groups.each_ref().map(|group| group[2]);
        assert_ne!(starters[0], starters[1]);
        let starter = Pid::from_raw(starters[killed] as i32).unwrap();
        kill_process(starter, Signal::KILL).unwrap();
        let exit = server.process.exit();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert_eq!(last_line(&exit), Some(STARTER_KILLED), "{exit:?}");
        await_end_of(&groups.concat());
    }
}

#[test]
fn a_server_whose_starter_hangs_stops_and_says_so() {
    let options = "--drain-timeout 0.1 --kill-timeout 0.1";
    let mut server = exec(options, "echo $$ $PPID; exec sleep 1000");
    let mut client = Client::connect(&server.urls[0]);
    let program = pids(&mut client);
    let starter = Pid::from_raw(program[1] as i32).unwrap();
    kill_process(starter, Signal::STOP).unwrap();
    server.process.signal(Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(last_line(&exit), Some(STARTER_HUNG), "{exit:?}");
    await_end_of(&program);
}

const STARTER_HUNG: &str = "socketserver: a process that starts programs did not end, and got SIGKILL; its programs ended with it, what they have started may be left";

const STARTER_KILLED: &str = "socketserver: a process that starts programs ended by signal 9, so the server has stopped; start it again";

fn last_line(exit: &Exit) -> Option<&str> {
    exit.stderr.last().map(|line| &**line)
}

fn has_child(parent: u32, child: u32) -> bool {
    children(parent).contains(&child)
}

#[test]
fn a_stop_waits_for_programs() {
    let mut server = exec("", "echo hello; read x; echo bye");
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(line(&mut client), "hello");
    server.process.signal(Signal::TERM);
    poll_until("the server refuses clients", DEADLINE, || {
        Client::try_connect(&server.urls[0]).is_none().then_some(())
    });
    client.send(b"x\n");
    assert_eq!(client.receive(100), b"bye\n");
    assert_eq!(server.process.exit().code, Some(0));
}

#[test]
fn the_drain_deadline_ends_programs() {
    for model in MODELS {
        let options = format!("--model {model} --drain-timeout 0.1 --kill-timeout 0.1");
        let mut server = exec(
            &options,
            "trap '' TERM; sleep 1000 & echo $$ $!; while :; do wait; done",
        );
        let mut client = Client::connect(&server.urls[0]);
        let program = pids(&mut client);
        server.process.signal(Signal::TERM);
        let exit = server.process.exit();
        assert_eq!(exit.code, Some(3), "{model}: {exit:?}");
        // The server ends after its programs.
        assert!(!program.iter().any(|pid| is_alive(*pid)), "{model}");
    }
}

#[test]
fn a_stop_ends_when_the_last_program_has_ended() {
    // The deadline of this test is shorter than the time until SIGKILL.
    let mut server = exec(
        "--drain-timeout 0.1 --kill-timeout 40",
        "echo $$; exec sleep 1000",
    );
    let mut client = Client::connect(&server.urls[0]);
    assert_eq!(pids(&mut client).len(), 1);
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.exit().code, Some(3));
}

#[test]
fn deadlines_of_a_connection_end_programs() {
    for (index, model) in MODELS.into_iter().enumerate() {
        let deadline = ["--lifetime", "--request-timeout"][index % 2];
        let options = format!("--model {model} {deadline} 0.3");
        let server = exec(&options, "echo $$; exec sleep 1000");
        let (mut client, program) = started(&server);
        assert_eq!(client.receive(1), b"", "{model}");
        await_end_of(&program);
        drop(server);
    }
}

/// The idle timeout of the next test.
const IDLE: Duration = Duration::from_secs(1);

/// Talks for some time to a program that repeats lines, and was silent since `last` at most. `None` where the connection has ended and the machine has stalled
/// for long enough; without that, it must not end.
#[track_caller]
fn is_left_alone(mut client: Client, mut last: Instant, time: Duration) -> Option<Client> {
    let start = Instant::now();
    while start.elapsed() < time {
        let is_silent = client.hears_nothing_for(IDLE / 4);
        let now = Instant::now();
        if !is_silent || !client.try_echo("word\n") {
            assert!(last.elapsed() >= IDLE, "a busy connection was ended");
            return None;
        }
        last = now;
    }
    Some(client)
}

#[test]
fn an_idle_connection_is_ended_and_a_busy_one_is_not() {
    let server = exec(
        "--idle-timeout 1",
        "echo $$; while read x; do echo $x; done",
    );
    let (mut idle, program) = poll_until("a client is busy for twice the limit", DEADLINE, || {
        let before = Instant::now();
        let (client, program) = started(&server);
        is_left_alone(client, before, 2 * IDLE).map(|client| (client, program))
    });
    assert_eq!(idle.receive(1), b"");
    await_end_of(&program);
    let line = await_line(&server.process, "was ended");
    assert!(
        line.ends_with("/bin/sh was ended, 1 s in which nothing moved"),
        "{line}"
    );
    drop(server);
}

#[test]
fn the_number_of_programs_is_exact() {
    for model in MODELS {
        if model == "sequential" {
            continue;
        }
        let server = exec(
            &format!("--model {model} --max-connections 2"),
            "echo $$; read x",
        );
        let mut clients: Vec<_> = (0..2).map(|_| Client::connect(&server.urls[0])).collect();
        for client in &mut clients {
            assert_eq!(pids(client).len(), 1, "{model}");
        }
        let mut third = Client::connect(&server.urls[0]);
        assert!(
            third.hears_nothing_for(Duration::from_millis(50)),
            "{model}"
        );
        clients[0].send(b"x\n");
        let third = pids(&mut third);
        let comm =
            fs::read_to_string(format!("/proc/{}/comm", third[0])).expect("the name of a process");
        assert_eq!(comm, "sh\n", "{model}");
        drop(server);
    }
}
