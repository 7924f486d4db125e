//! Privileges that the binary gives up for good, as root: what it has afterwards, and what it does not.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use support::{
    Client, DEADLINE, Process, Server, assert_echoes, children, command, command_under, is_root,
    poll_until, sockets, unchecked, uninterrupted,
};

const MODELS: [&str; 8] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "prefork:forking --workers 2",
    "coroutines --workers 2 --driver epoll",
    "prefork:coroutines --workers 2 --driver epoll",
];

const USER: u32 = 54_321;
const GROUP: u32 = 4242;
const DROPS: &str = "--user 54321 --group 4242";

/// Asserts that each thread of a process and of its descendants is the user and no more.
#[track_caller]
fn assert_dropped(pid: u32) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let mut count = 0;
    for thread in threads.flatten() {
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else {
            // It has ended meanwhile.
            continue;
        };
        let line = |name: &str| -> Vec<String> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect(name)
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(line("Uid:"), vec![USER.to_string(); 4]);
        assert_eq!(line("Gid:"), vec![GROUP.to_string(); 4]);
        assert_eq!(line("Groups:"), [GROUP.to_string()]);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert!(line(set)[0].bytes().all(|digit| digit == b'0'), "{set}");
        }
        count += 1;
    }
    assert!(count > 0);
    children(pid).into_iter().for_each(assert_dropped);
}

#[test]
fn every_thread_and_process_gives_up_its_privileges() {
    if !is_root("privileges that a server gives up") {
        return;
    }
    for model in MODELS {
        let words = format!("echo --model {model} {DROPS} --max-connections 4096");
        let server = support::serve(&words, &["tcp://127.0.0.1:0"]);
        assert_echoes(&server.urls[0]);
        let mut client = Client::connect(&server.urls[0]);
        client.echo("while a connection is served");
        assert_dropped(server.process.id());
        drop(client);
        server.stop();
    }
}

/// Starts the server under a program that changes what it has or what the kernel answers.
fn under(program: &[&str], words: &str) -> Process {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]);
    let words = format!("serve echo {words}");
    Process::start(command_under(command, &words, &["tcp://127.0.0.1:0"]))
}

#[track_caller]
fn fails(mut process: Process, parts: &[&str]) {
    let exit = process.exit();
    let text = exit.stderr.join("\n");
    assert_eq!(exit.code, Some(1), "{text}");
    assert!(!text.contains("listening on"), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn the_server_tries_to_get_its_privileges_back() {
    if !is_root("attempts to regain privileges") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let log = folder.path().join("log");
    let at = log.to_str().expect("UTF-8");
    let calls = "trace=setresuid,setresgid,setgroups,capset";
    let mut process = under(&["strace", "-D", "-f", "-o", at, "-e", calls], DROPS);
    process.next_url();
    process.signal(Signal::TERM);
    assert_eq!(process.exit().code, Some(0));
    let calls = fs::read_to_string(&log).expect("a log of strace");
    let line = |start: &str| {
        let found = calls.lines().position(|line| line.contains(start));
        found.unwrap_or_else(|| panic!("{start} is missing in:\n{calls}"))
    };
    // The order matters: a user has no right to change groups.
    let order = [
        line("setgroups(1, [4242]) "),
        line("setresgid(4242, 4242, 4242) "),
        line("setresuid(54321, 54321, 54321) "),
        line("capset("),
        line("setresuid(0, 0, 0) "),
        line("setresgid(0, 0, 0) "),
        line("setgroups(1, [0]) "),
    ];
    assert!(order.is_sorted(), "{calls}");
    let tried = calls.lines().skip(order[4]);
    assert!(
        tried
            .clone()
            .filter(|line| line.contains(" = -1 EPERM"))
            .count()
            >= 3,
        "{calls}"
    );
    assert!(
        calls
            .lines()
            .take(order[4])
            .all(|line| line.ends_with(" = 0")),
        "{calls}"
    );
}

/// The kernel's answers are strace's.
#[test]
fn a_kernel_that_keeps_privileges_is_noticed() {
    if !is_root("privileges that a kernel keeps") {
        return;
    }
    for (inject, part) in [
        (
            "setresuid:retval=0:when=2",
            "setresuid(2) gave the privileges back",
        ),
        (
            "setresgid:retval=0:when=2",
            "setresgid(2) gave the privileges back",
        ),
        (
            "setgroups:retval=0:when=2",
            "setgroups(2) gave the privileges back",
        ),
        ("setresuid:retval=0:when=1", "the process kept a user"),
        ("setresgid:retval=0:when=1", "the process kept a group"),
        (
            "setgroups:retval=0:when=1",
            "the process kept supplementary groups",
        ),
        (
            "setgroups:error=EPERM:when=1",
            "setgroups(2) (start as root, or leave --user out)",
        ),
    ] {
        let inject = format!("inject={inject}");
        let process = under(
            &["strace", "-D", "-f", "-o", "/dev/null", "-e", &inject],
            DROPS,
        );
        fails(
            process,
            &["become the user 54321 with the group 4242: ", part],
        );
    }
}

#[test]
fn capabilities_that_the_kernel_would_leave_are_given_up() {
    if !is_root("capabilities that a server gives up") {
        return;
    }
    let process = under(&["setpriv", "--securebits", "+no_setuid_fixup"], DROPS);
    let url = process.next_url();
    assert_echoes(&url);
    assert_dropped(process.id());
    // Without capabilities root is a user like any other.
    let process = under(&["setpriv", "--bounding-set=-all"], DROPS);
    fails(
        process,
        &[
            "start as root, or leave --user out",
            "Operation not permitted",
        ],
    );
}

#[test]
fn wrong_users_are_errors_at_the_start() {
    for (words, part) in [
        ("--user no-such-user", "there is no user \"no-such-user\""),
        (
            "--user 54321 --group no-such-group",
            "there is no group \"no-such-group\"",
        ),
        ("--user root", "root keeps all privileges"),
        ("--user 0", "root keeps all privileges"),
        ("--user 54321", "give --group too"),
        ("--group 0", "--user <NAME>"),
    ] {
        let words = format!("serve echo {words}");
        let exit = Process::start(command(&words, &["tcp://127.0.0.1:0"])).exit();
        let text = exit.stderr.join("\n");
        assert_eq!(
            (exit.code, exit.stderr.len()),
            (Some(2), 1),
            "{words}: {text}"
        );
        assert!(text.contains(part), "{words}: {text}");
    }
}

#[test]
fn the_groups_of_a_user_are_those_of_the_system() {
    if !is_root("the groups of a user that a server becomes") {
        return;
    }
    // A user of every Debian system, who gets another group in this test.
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("group");
    let groups = fs::read_to_string("/etc/group").expect("the groups");
    write(
        &file,
        &format!("{groups}socketserver-test:x:{GROUP}:daemon\n"),
        0o644,
    );
    let with_group = format!(
        "mount --bind {} /etc/group; exec \"$0\" \"$@\"",
        file.display()
    );
    let in_namespace = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &with_group]);
        command.args(program.split_whitespace());
        command
    };
    let own_namespace = in_namespace("true").output();
    if !own_namespace.is_ok_and(|output| output.status.success()) {
        unchecked("the groups of a user: that needs unshare(2) and mount(2)");
        return;
    }
    let words = "serve echo --user daemon";
    let command = command_under(in_namespace(""), words, &["tcp://127.0.0.1:0"]);
    let server = Server::start(command, 1);
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id()));
    let status = status.expect("a status");
    let id = |option: &str| {
        let output = in_namespace(&format!("id {option} daemon")).output();
        String::from_utf8(output.expect("run id").stdout).expect("UTF-8")
    };
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let mut ids: Vec<u32> = line
            .expect(name)
            .split_whitespace()
            .map(|id| id.parse().expect("an id"))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let ids = |text: String| {
        let mut ids: Vec<u32> = text
            .split_whitespace()
            .map(|id| id.parse().expect("an id"))
            .collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(line("Uid:"), ids(id("-u")));
    assert_eq!(line("Gid:"), ids(id("-g")));
    assert_eq!(line("Groups:"), ids(id("-G")));
    assert!(line("Groups:").contains(&GROUP));
    server.stop();
}

/// The parent may not reach into a child any more (pidfd_getfd(2)).
#[test]
fn a_child_without_privileges_keeps_its_deadline() {
    if !is_root("deadlines of a server without privileges") {
        return;
    }
    let words = format!("echo --model forking {DROPS} --first-byte-timeout 0.1");
    let server = support::serve(&words, &["tcp://127.0.0.1:0"]);
    let at = server.urls[0].strip_prefix("tcp://").expect("TCP");
    let mut silent = TcpStream::connect(at).expect("connect");
    silent.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let end = uninterrupted(|| silent.read(&mut [0])).map_err(|err| err.kind());
    assert!(
        matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{end:?}"
    );
    poll_until("others are served", DEADLINE, || {
        Client::is_answered(&server.urls[0]).then_some(())
    });
}

/// The parent reaches the connections of its children by copies of its own.
#[test]
fn a_stop_ends_idle_connections_of_children_without_privileges() {
    if !is_root("a stop of a server without privileges") {
        return;
    }
    let words = format!("echo --model forking {DROPS} --idle-grace 0.1");
    let server = support::serve(&words, &["tcp://127.0.0.1:0"]);
    let at = server.urls[0].strip_prefix("tcp://").expect("TCP");
    let mut clients = [(); 3].map(|()| {
        let mut client = TcpStream::connect(at).expect("connect");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.write_all(b"x").expect("send");
        client.read_exact(&mut [0]).expect("receive");
        client
    });
    for child in children(server.process.id()) {
        assert_eq!(sockets(child), 1, "its own connection");
    }
    // Exits with 0: nothing was aborted.
    server.stop();
    for client in &mut clients {
        let end = uninterrupted(|| client.read(&mut [0]));
        assert_eq!(end.expect("the end"), 0);
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set the mode");
}

#[test]
fn files_and_ports_are_opened_before_and_read_again_as_the_user() {
    if !is_root("what a server opens before it gives up its privileges") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, all).expect("open the directory");
    let list = folder.path().join("list");
    for model in MODELS {
        // Only root may read the list, and only root may have the port.
        write(&list, "127.0.0.0/8\n", 0o600);
        let words = format!("echo --model {model} {DROPS} --deny @{}", list.display());
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let port = format!("tcp://127.77.{high}.{low}:9");
        let server = support::serve(&words, &[&port]);
        let echoes = |server: &Server| {
            let at = server.urls[0].strip_prefix("tcp://").expect("TCP");
            let mut client = TcpStream::connect(at).expect("connect");
            client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            // A server that refuses may have closed the connection already.
            client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok()
        };
        assert!(!echoes(&server), "{model}: the list was read");
        write(&list, "", 0o600);
        server.process.signal(Signal::HUP);
        let line = server.process.next_line();
        assert!(line.contains("Permission denied"), "{model}: {line}");
        assert!(
            line.ends_with("; the old access rules stay in force"),
            "{line}"
        );
        assert!(!echoes(&server), "{model}: the old list holds");
        write(&list, "", 0o644);
        server.process.signal(Signal::HUP);
        let line = server.process.next_line();
        assert_eq!(
            line, "socketserver: the access lists were read again",
            "{model}"
        );
        assert!(echoes(&server), "{model}");
        server.stop();
    }
}

#[test]
fn a_socket_file_goes_where_the_user_may_remove_it() {
    if !is_root("socket files of a server without privileges") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("s");
    let url = format!("unix://{}", path.display());
    for model in MODELS {
        let serve = || {
            let words = format!("echo --model {model} {DROPS}");
            let server = support::serve(&words, &[&url]);
            assert_echoes(&server.urls[0]);
            assert_eq!(fs::metadata(&path).expect("a socket file").uid(), 0);
            server
        };
        let access = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(&folder, mode).expect("set the mode");
        };
        access(0o755);
        serve().stop();
        assert!(
            path.exists(),
            "{model}: the file stays in the folder of root"
        );
        // The next server replaces it.
        access(0o777);
        serve().stop();
        assert!(!path.exists(), "{model}: the file is gone");
    }
}
