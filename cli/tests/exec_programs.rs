//! Programs from other packages behind `exec`, under several models, and with what may be taken from them.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/programs.rs"]
mod programs;
#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use programs::{clones, need, run, sends_a_page, sends_by_tftp, syncs};
use support::{Server, ask, command, is_root, write_program};

const MODELS: [&str; 4] = [
    "threading",
    "forking",
    "prefork --workers 2",
    "coroutines --workers 2 --driver epoll",
];

/// What no program here needs more of.
const RESTRICTED: &str = "--limit nofile=64,core=0,cpu=60 --umask 077 --nice 5";

/// A user without a name.
const USER: u32 = 54_321;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, open).expect("open the directory");
    programs::fill(folder.path());
    folder
}

/// Serves a program, without privileges where the test has some.
#[track_caller]
fn exec(words: &str, url: &str, program: &[&str]) -> Server {
    let drops = if rustix::process::geteuid().is_root() {
        format!("--user {USER} --group {USER}")
    } else {
        String::new()
    };
    serve(&format!("{drops} {words}"), url, program)
}

#[track_caller]
fn serve(words: &str, url: &str, program: &[&str]) -> Server {
    let mut command = command(&format!("exec {words}"), &[url]);
    command
        .env("PATH", programs::PATH)
        .env("HOME", "/nonexistent");
    command.arg("--").args(program);
    Server::start(command, 1)
}

/// Serves a program that may read `below`, under each model, to two clients.
#[track_caller]
fn under_models(below: &Path, more: &str, program: &[&str], check: fn(&str)) {
    let mut restricted = RESTRICTED.to_owned();
    if kernel::has_networks("programs without a network") {
        restricted.push_str(" --no-network");
    }
    if kernel::has_landlock("programs with few files") {
        restricted.push_str(&format!(" --read-only {} {more}", below.display()));
    }
    for model in MODELS {
        let words = format!("--model {model} {restricted}");
        let server = exec(&words, "tcp://127.0.0.1:0", program);
        check(&server.urls[0]);
        check(&server.urls[0]);
        server.stop();
    }
}

#[test]
fn git_daemon() {
    need("git");
    let folder = folder();
    if rustix::process::geteuid().is_root() {
        programs::give_repository(folder.path(), USER);
    }
    let srv = folder.path().join("srv/git");
    let base = format!("--base-path={}", srv.display());
    let mut exec_path = Command::new("git");
    let exec_path = run(exec_path.arg("--exec-path"));
    let more = format!(
        "--read-only {} --read-only /etc --read-only /usr/bin",
        exec_path.trim()
    );
    let program = ["git", "daemon", "--inetd", "--export-all", &base];
    under_models(&srv, &more, &program, clones);
}

#[test]
fn rsync_daemon() {
    need("rsync");
    let folder = folder();
    let srv = folder.path().join("srv");
    let config = format!("--config={}/rsyncd.conf", srv.display());
    under_models(
        &srv,
        "--read-only /etc",
        &["rsync", "--daemon", &config],
        syncs,
    );
}

#[test]
fn web_servers_of_inetd() {
    let folder = folder();
    let www = folder.path().join("srv/www");
    let at = www.to_str().expect("UTF-8");
    for program in [
        &["micro-httpd", at][..],
        &["busybox", "httpd", "-i", "-h", at],
    ] {
        need(program[0]);
        under_models(&www, "", program, sends_a_page);
    }
}

#[test]
fn a_shell_script() {
    let folder = folder();
    let script = folder.path().join("srv/script");
    let text = "#!/bin/sh\nwhile read word number; do echo $((number + 1)) $word; done\n";
    write_program(&script, text.as_bytes(), 0o755);
    let counts = |url: &str| assert_eq!(ask(url, b"one 1\ntwo 2\n", 99), b"2 one\n3 two\n");
    let script = script.to_str().expect("UTF-8");
    under_models(folder.path(), "", &[script], counts);
}

/// The server of TFTP takes the socket from inetd, serves each transfer from another one, and ends when it has nothing to
/// do for a second. It needs root for its own chroot(2).
#[test]
fn in_tftpd_has_the_socket_until_it_is_idle() {
    if !is_root("in.tftpd") {
        return;
    }
    need("in.tftpd");
    let folder = folder();
    let tftp = folder.path().join("srv/tftp");
    let program = ["in.tftpd", "-t", "1", "-s", tftp.to_str().expect("UTF-8")];
    for model in ["threading", "coroutines --workers 2 --driver epoll"] {
        let words = format!("--model {model} --log --limit nofile=64");
        let server = serve(&words, "udp://127.0.0.1:0", &program);
        sends_by_tftp(&server.urls[0]);
        let ended = |line: &String| line.contains("program ended: ");
        let lines = || std::iter::from_fn(|| server.process.line_or_end());
        assert!(lines().any(|line| ended(&line)), "{model}: it ends");
        // The next datagram starts another one.
        sends_by_tftp(&server.urls[0]);
        assert!(lines().any(|line| ended(&line)), "{model}: it ends again");
    }
}
