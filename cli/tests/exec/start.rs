//! Errors at the start, before anything is announced.

use std::fs;
use std::path::Path;

use crate::LOCAL;
use crate::support::{Client, Exit, Process, Server, command, command_after, write_program};

/// Runs the command with a program, which must fail before it listens.
#[track_caller]
fn failure(options: &str, program: &[&str]) -> (Option<i32>, String) {
    let mut command = command(&format!("exec {options}"), &[LOCAL]);
    command.arg("--").args(program);
    let Exit {
        code, mut stderr, ..
    } = Process::start(command).exit();
    assert_eq!(stderr.len(), 1, "{stderr:?}");
    (code, stderr.remove(0))
}

#[track_caller]
fn fails(program: &str, text: &str) {
    let (code, line) = failure("", &[program]);
    assert_eq!(code, Some(1), "{line}");
    assert!(
        line.starts_with("socketserver: run ") && line.contains(text),
        "{line}"
    );
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    write_program(&path, text.as_bytes(), mode);
    path.to_str().expect("text").to_owned()
}

#[test]
fn programs_that_cannot_be_started() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let folder = folder.path();
    fails("no-such-program", "no directory of PATH has such a program");
    fails("/no/such/program", "No such file or directory");
    fails(folder.to_str().unwrap(), "it is a directory");
    fails("/dev/null", "it is not a file");
    fails(
        &write(folder, "plain", "#!/bin/sh\n", 0o644),
        "set its mode with chmod +x",
    );
    fails(
        &write(folder, "lost", "#!/no/interpreter\n", 0o755),
        "the interpreter /no/interpreter of this script",
    );
    if fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, Iterator::count) <= 2 {
        fails(
            &write(folder, "bare", "echo hello\n", 0o755),
            "write #!/bin/sh into its first line",
        );
    }
}

#[test]
fn wrong_usage() {
    for (options, program, text) in [
        ("", &[][..], "required"),
        ("--env =x", &["cat"], "NAME or NAME=VALUE"),
        (
            "--half-close-timeout 0",
            &["cat"],
            "write none for no limit",
        ),
        (
            "--listen udp://127.0.0.1:0 --model prefork",
            &["cat"],
            "give --model threading",
        ),
        (
            "--listen udp://127.0.0.1:0 --allow 127.0.0.1",
            &["cat"],
            "--allow and --deny are not for datagram sockets",
        ),
    ] {
        let (code, line) = failure(options, program);
        assert_eq!(code, Some(2), "{line}");
        assert!(
            line.contains(text) && line.contains("(see socketserver exec --help)"),
            "{line}"
        );
    }
}

#[test]
fn limits_with_which_no_program_starts() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let script = write(folder.path(), "script", "#!/bin/sh\ncat\n", 0o755);
    for limit in ["as=1", "stack=1", "nofile=0", "nofile=4"] {
        for program in ["cat", &script] {
            let (code, line) = failure(&format!("--limit {limit}"), &[program]);
            assert_eq!(code, Some(1), "{line}");
            let text = "--limit (no program can start with these limits";
            assert!(line.contains(text), "{limit}: {line}");
        }
    }
}

#[test]
fn an_unknown_user_is_an_error_at_the_start() {
    let (code, line) = failure("--user no-such-user", &["cat"]);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("there is no user"), "{line}");
}

#[test]
fn a_low_limit_on_descriptors_leaves_room_for_a_program() {
    let mut command = command_after("ulimit -n 60", "exec", &[LOCAL]);
    command.args(["--", "/bin/sh", "-c", "ulimit -n; cat"]);
    let process = Process::start(command);
    let line = crate::await_line(&process, "listening on ");
    let url = line.strip_prefix("listening on ").unwrap();
    for _ in 0..3 {
        let mut client = Client::connect(url);
        assert_eq!(crate::line(&mut client), "60");
        client.echo("words");
    }
}

#[test]
fn a_program_that_is_gone_fails_its_connection_alone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = write(folder.path(), "program", "#!/bin/sh\necho here\n", 0o755);
    let mut command = command("exec", &[LOCAL]);
    command.args(["--", &path]);
    let server = Server::start(command, 1);
    let answer = || Client::connect(&server.urls[0]).receive(100);
    assert_eq!(answer(), b"here\n");
    fs::rename(&path, folder.path().join("away")).expect("rename");
    assert_eq!(answer(), b"");
    let line = server.process.next_line();
    assert!(
        line.contains(&format!("start {path}: execute {path}: No such file")),
        "{line}"
    );
    fs::rename(folder.path().join("away"), &path).expect("rename");
    assert_eq!(answer(), b"here\n");
    server.stop();
}
