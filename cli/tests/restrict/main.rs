//! Restrictions of the programs of `exec`, each with a program that tries to break it.

mod files;
#[path = "../support/kernel.rs"]
mod kernel;
mod network;
mod start;
#[allow(dead_code, reason = "what only other tests need is not used here")]
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use kernel::{has_landlock, has_networks};
use support::{Server, ask, command, is_root, unchecked, write_program};

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

const ANY: &[&str] = &["tcp://127.0.0.1:0"];
const DROPS: &str = "--user 54321 --group 4242";

/// Serves a program behind `exec` with these options.
#[track_caller]
fn exec(words: &str, program: &[&str]) -> Server {
    let mut command = command(&format!("exec {words}"), ANY);
    command.arg("--").args(program);
    Server::start(command, 1)
}

/// What a connection to the program gets.
#[track_caller]
fn output_of(words: &str, program: &[&str]) -> String {
    let server = exec(words, program);
    let text = answer(&server);
    server.stop();
    text
}

#[track_caller]
fn answer(server: &Server) -> String {
    let bytes = ask(&server.urls[0], b"", 1 << 20);
    String::from_utf8(bytes).expect("UTF-8")
}

/// What a connection to a shell with this script gets.
#[track_caller]
fn output(words: &str, script: &str) -> String {
    // A status other than 0 is a line on standard error.
    output_of(words, &["sh", "-c", &format!("{script}\ntrue")])
}

/// A directory that every user may search.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    set_mode(folder.path(), 0o755);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set the mode");
}

#[test]
fn limits_are_those_of_the_program() {
    let words = "--limit nofile=64,cpu=10:20 --limit as=512M,core=0,fsize=1k:unlimited";
    let limits = output(words, "cat /proc/self/limits");
    for (name, soft, hard) in [
        ("Max open files", "64", "64"),
        ("Max cpu time", "10", "20"),
        ("Max address space", "536870912", "536870912"),
        ("Max core file size", "0", "0"),
        ("Max file size", "1024", "unlimited"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let words: Vec<_> = line.expect(name).split_whitespace().collect();
        assert_eq!(words[..2], [soft, hard], "{name}");
    }
}

#[test]
fn a_limit_holds() {
    let folder = folder();
    let file = folder.path().join("file");
    let script = format!(
        "(ulimit -H -n 65) 2>/dev/null || echo kept; head -c 5000 /dev/zero 2>/dev/null >{}",
        file.display()
    );
    // Root may raise a hard limit.
    let drops = if rustix::process::geteuid().is_root() {
        set_mode(folder.path(), 0o777);
        DROPS
    } else {
        ""
    };
    let text = output(&format!("--limit nofile=64,fsize=1K {drops}"), &script);
    assert_eq!(text, "kept\n");
    assert_eq!(fs::metadata(&file).expect("a file").len(), 1024);
}

#[test]
fn nice_umask_and_directory() {
    assert_eq!(output("--nice 7", "nice"), "7\n");
    assert_eq!(output("--umask 027", "umask"), "0027\n");
    let folder = folder();
    let path = folder.path().canonicalize().expect("a path");
    let path = path.display();
    assert_eq!(
        output(&format!("--chdir {path}"), "pwd -P"),
        format!("{path}\n")
    );
}

#[test]
fn without_an_option_a_program_has_what_the_server_has() {
    let script = "cat /proc/self/limits; umask; nice; pwd -P";
    let direct = Command::new("sh").args(["-c", script]).output();
    let direct = String::from_utf8(direct.expect("run sh").stdout).expect("UTF-8");
    assert_eq!(output("", script), direct);
}

#[test]
fn every_model_restricts() {
    if !has_landlock("restrictions under each model") {
        return;
    }
    for model in MODELS {
        let words = format!("--model {model} --limit nofile=64 --read-only /usr/bin");
        let text = output(
            &words,
            "ulimit -n; cat /etc/hostname 2>/dev/null || echo kept",
        );
        assert_eq!(text, "64\nkept\n", "{model}");
    }
}

#[test]
fn no_new_privileges() {
    let status = "grep NoNewPrivs /proc/self/status";
    assert_eq!(output("", status), "NoNewPrivs:\t1\n");
    assert_eq!(output("--allow-new-privs", status), "NoNewPrivs:\t0\n");
}

#[test]
fn a_setuid_program_stays_a_user() {
    if !is_root("setuid programs") {
        return;
    }
    let folder = folder();
    let id = folder.path().join("id");
    let bytes = fs::read("/usr/bin/id").expect("read id");
    write_program(&id, &bytes, 0o4755);
    let program = [id.to_str().expect("UTF-8"), "-u"];
    if output_of(&format!("{DROPS} --allow-new-privs"), &program) == "0\n" {
        assert_eq!(output_of(DROPS, &program), "54321\n");
    } else {
        unchecked("setuid programs: the temporary directory has nosuid");
    }
}

#[test]
fn a_program_cannot_become_root_again() {
    if !is_root("privileges that a program has not") {
        return;
    }
    let script = "grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb))' /proc/self/status
        for ids in --reuid=0 --regid=0 --groups=0; do
            setpriv $ids true 2>/dev/null && echo \"$ids is root\"
        done";
    let expected = "Uid:\t54321\t54321\t54321\t54321\nGid:\t4242\t4242\t4242\t4242\nGroups:\t4242 \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapAmb:\t0000000000000000\n";
    let network = has_networks("privileges without a network").then_some("--no-network");
    for words in ["", "--allow-new-privs"].into_iter().chain(network) {
        let text = output(&format!("{DROPS} {words}"), script);
        assert_eq!(text, expected, "{words}");
    }
}

/// The kernel asks whether a process was ever another user (proc_pid_mem(5), ptrace(2)).
#[test]
fn a_program_cannot_look_into_the_server() {
    if !is_root("a program that looks into its server") {
        return;
    }
    // The shell's parent is the starter, whose parent is the server.
    let script = "server=$(awk '/^PPid/ { print $2 }' /proc/$PPID/status)
        cat /proc/$server/comm
        for pid in $PPID $server; do
            for file in environ maps mem fd/0; do
                (head -c 1 <\"/proc/$pid/$file\") >/dev/null 2>&1 && echo \"$pid has shown $file\"
            done
        done";
    assert_eq!(output(DROPS, script), "socketserver\n");
}
