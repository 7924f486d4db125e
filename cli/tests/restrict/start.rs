//! Errors at the start: of options, of what they name, and of the kernel.

use std::process::Command;

use super::kernel::has_landlock;
use super::support::{Process, Server, command, command_under, is_root, write_program};
use super::{ANY, DROPS, answer, folder};

/// Asserts that the command ends at the start with this status, and one line that has these parts.
#[track_caller]
fn fails(mut command: Command, program: &[&str], code: i32, parts: &[&str]) {
    command.arg("--").args(program);
    let exit = Process::start(command).exit();
    let text = exit.stderr.join("\n");
    assert_eq!((exit.code, exit.stderr.len()), (Some(code), 1), "{text}");
    assert!(text.starts_with("socketserver: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// The binary under strace, which answers a system call in the kernel's place.
fn injecting(inject: &str, words: &str) -> Command {
    let mut strace = Command::new("strace");
    let inject = format!("inject={inject}");
    strace.args(["-D", "-f", "-o", "/dev/null", "-e", &inject]);
    command_under(strace, &format!("exec {words}"), ANY)
}

#[test]
fn wrong_options_are_errors_at_the_start() {
    for (words, parts) in [
        ("--limit nofile", &["write it as nofile=64"][..]),
        ("--limit files=9", &["no resource \"files\"", "as core cpu"]),
        (
            "--limit cpu=1d",
            &["\"1d\" is no limit of cpu", "(seconds)"],
        ),
        (
            "--limit nofile=9,cpu=9,nofile=9",
            &["names a resource twice"],
        ),
        ("--nice 20", &["20 is not in -20..=19"]),
        ("--umask 88", &["\"88\" is no umask", "as 027"]),
        (
            "--allow-new-privs --read-only /usr",
            &["does not go with --read-only"],
        ),
    ] {
        let command = command(&format!("exec {words}"), ANY);
        fails(command, &["true"], 2, parts);
    }
}

#[test]
fn what_cannot_be_applied_is_an_error_at_the_start() {
    let (program, folder) = (["true"], folder());
    let bare = folder.path().join("bare");
    write_program(&bare, b"#!\n", 0o755);
    let endless = folder.path().join("endless");
    let endless = endless.to_str().expect("UTF-8");
    write_program(endless.as_ref(), format!("#!{endless}\n").as_bytes(), 0o755);
    let lost = folder.path().join("lost");
    write_program(&lost, b"#!/usr/bin/env no-such-interpreter\n", 0o755);
    let (bare, lost) = (bare.to_str().expect("UTF-8"), lost.to_str().expect("UTF-8"));
    for (words, program, parts) in [
        (
            // More than the system allows to root.
            "--limit nofile=99999999999",
            &program[..],
            &[
                "--limit nofile=99999999999:99999999999 (the hard limit of this server is",
                "not permitted",
            ][..],
        ),
        (
            "--chdir /no-such",
            &program,
            &["--chdir /no-such (name", "No such file"],
        ),
        (
            "--read-only /no-such",
            &program,
            &["--read-only /no-such (name", "No such file"],
        ),
        (
            "--read-write /no-such",
            &program,
            &["--read-write /no-such (name"],
        ),
        (
            "--read-only /usr",
            &[bare],
            &["its first line names no interpreter"],
        ),
        (
            "--read-only /usr",
            &[endless],
            &["its interpreter is a script, whose interpreter"],
        ),
        (
            "--read-only /usr",
            &[lost],
            &["no-such-interpreter of a first line: not in the PATH"],
        ),
    ] {
        if !words.starts_with("--read") || has_landlock(words) {
            fails(command(&format!("exec {words}"), ANY), program, 1, parts);
        }
    }
    if is_root("what needs privileges") {
        let words = format!("exec --nice -5 {DROPS}");
        let parts = &["--nice -5 (only root", "Permission denied"];
        fails(command(&words, ANY), &program, 1, parts);
    }
}

/// The kernel's answers are strace's.
#[test]
fn a_kernel_that_refuses_is_an_error_at_the_start() {
    for (inject, words, parts) in [
        (
            "landlock_create_ruleset:error=ENOSYS",
            "--read-only /usr",
            &["no landlock(7), or not that of Linux 6.2"][..],
        ),
        (
            "landlock_create_ruleset:error=EOPNOTSUPP",
            "--read-write /tmp",
            &["no landlock(7), or not that of Linux 6.2", "switched off"],
        ),
        (
            // The second version cannot keep a file from being truncated.
            "landlock_create_ruleset:retval=2:when=1",
            "--read-only /usr",
            &["no landlock(7), or not that of Linux 6.2"],
        ),
        (
            "landlock_restrict_self:error=E2BIG",
            "--read-only /usr",
            &["landlock_restrict_self(2): ", "Argument list too long"],
        ),
        (
            "unshare:error=EPERM",
            "--no-network",
            &[
                "--no-network without root",
                "user.max_user_namespaces",
                "not permitted",
            ],
        ),
        (
            "unshare:error=ENOSPC",
            "--no-network",
            &["user.max_net_namespaces", "No space left"],
        ),
        (
            "unshare:error=EINVAL",
            "--no-network",
            &["a kernel with network namespaces", "Invalid argument"],
        ),
    ] {
        fails(injecting(inject, words), &["true"], 1, parts);
    }
}

/// Linux 6.2 knows three versions of landlock(7). The kernel's answer is strace's.
#[test]
fn an_older_kernel_restricts_files_too() {
    if !has_landlock("landlock(7) of Linux 6.2") {
        return;
    }
    let mut command = injecting(
        "landlock_create_ruleset:retval=3:when=1",
        "--read-only /usr/bin",
    );
    let script = "(read line </etc/passwd) 2>/dev/null || echo kept; stty -F /dev/zero 2>&1";
    command.args(["--", "sh", "-c", &format!("{script}; true")]);
    let server = Server::start(command, 1);
    let text = answer(&server);
    server.stop();
    // Commands for devices are denied by later versions alone.
    assert!(
        text.starts_with("kept\n") && !text.contains("denied"),
        "{text}"
    );
}
