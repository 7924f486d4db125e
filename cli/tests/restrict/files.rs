//! The files that a program may open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::kernel::has_landlock;
use super::support::{Server, command, unchecked, write_program};
use super::{ANY, answer, folder, output, output_of, set_mode};

/// Directories that a program may read, may write, and neither, each with a file.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = folder();
        for name in ["read", "write", "outside"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a directory");
            let file = path.join("file");
            fs::write(&file, name).expect("write");
            set_mode(&file, 0o666);
        }
        let bytes = fs::read("/usr/bin/true").expect("read true");
        write_program(&folder.path().join("outside/true"), &bytes, 0o755);
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self) -> String {
        let (read, write) = (self.path("read"), self.path("write"));
        format!(
            "--read-only {} --read-write {}",
            read.display(),
            write.display()
        )
    }
}

#[test]
fn a_program_opens_what_is_named_alone() {
    if !has_landlock("files that a program may open") {
        return;
    }
    let place = Place::new();
    let attempts = [
        ("cat read/file", true),
        ("ls read", true),
        ("echo x >read/file", false),
        ("echo x >>read/file", false),
        ("truncate -s 0 read/file", false),
        ("touch read/new", false),
        ("mkdir read/new", false),
        ("rm -f read/file", false),
        ("mv read/file write/moved", false),
        ("ln read/file write/link", false),
        ("cat write/file", true),
        ("ls write", true),
        ("echo x >>write/file", true),
        ("truncate -s 1 write/file", true),
        ("touch write/new", true),
        ("mkdir write/directory", true),
        ("mv write/new write/directory/new", true),
        ("rm write/directory/new", true),
        ("cat outside/file", false),
        ("ls outside", false),
        ("echo x >outside/file", false),
        ("touch outside/new", false),
        ("outside/true", false),
        (
            "ln -s ../outside/file write/symbolic && cat write/symbolic",
            false,
        ),
        ("cat /etc/passwd", false),
        ("ls /proc", false),
        ("ls .", false),
        ("cat /dev/null", true),
        ("echo x >/dev/null", true),
        ("head -c 1 /dev/urandom", true),
    ];
    let script: String = attempts
        .iter()
        .map(|(attempt, _)| format!("({attempt}) >/dev/null 2>&1 && echo true || echo false\n"))
        .collect();
    let words = format!(
        "--chdir {} --read-only /usr/bin {}",
        place.folder.path().display(),
        place.options()
    );
    let text = output(&words, &script);
    let allowed: Vec<_> = text.lines().collect();
    assert_eq!(allowed.len(), attempts.len(), "{text}");
    for ((attempt, expected), allowed) in attempts.iter().zip(allowed) {
        assert_eq!(allowed, expected.to_string(), "{attempt}");
    }
    assert_eq!(
        fs::read_to_string(place.path("read/file")).expect("a file"),
        "read"
    );
    assert_eq!(
        fs::read_to_string(place.path("outside/file")).expect("a file"),
        "outside"
    );
}

/// The programs that start although nothing but a directory of data was named.
#[test]
fn what_a_program_needs_is_added() {
    if !has_landlock("files that a program needs") {
        return;
    }
    let place = Place::new();
    let file = place.path("read/file");
    let read = "read text <\"$1\"; echo $text";
    let script = |name: &str, first: &str, rest: &str| {
        let path = place.path(name);
        write_program(&path, format!("#!{first}\n{rest}\n").as_bytes(), 0o755);
        path
    };
    let plain = script("plain", "/bin/sh", read);
    let by_env = script("by-env", "/usr/bin/env sh", read);
    let options = script("options", "/usr/bin/env -S A=1 sh -u", read);
    let second = script("second", plain.to_str().expect("UTF-8"), "");
    let at = file.to_str().expect("UTF-8");
    for (program, expected) in [
        (vec!["/bin/cat", at], "read"),
        (vec!["cat", at], "read"),
        (vec![plain.to_str().expect("UTF-8"), at], "read\n"),
        (vec![by_env.to_str().expect("UTF-8"), at], "read\n"),
        (vec![options.to_str().expect("UTF-8"), at], "read\n"),
        // The first script reads the second.
        (vec![second.to_str().expect("UTF-8"), at], "#!"),
    ] {
        let text = output_of(&place.options(), &program);
        assert!(text.starts_with(expected), "{program:?}: {text}");
    }
}

#[test]
fn libraries_may_lie_anywhere() {
    if !has_landlock("libraries of programs") {
        return;
    }
    let place = Place::new();
    let list = Command::new("ldd")
        .arg("/bin/cat")
        .output()
        .expect("run ldd");
    let list = String::from_utf8(list.stdout).expect("UTF-8");
    let libc = list.split_whitespace().find(|word| word.starts_with('/'));
    let libc = Path::new(libc.expect("the C library"));
    let own = place
        .path("outside")
        .join(libc.file_name().expect("a name"));
    fs::copy(libc, &own).expect("copy the C library");
    // The name of the loader in the program, and a shorter one.
    let loader = list.split_whitespace().rfind(|word| word.starts_with('/'));
    let loader = loader.expect("the loader");
    let short = tempfile::tempdir_in("/tmp").expect("a temporary directory");
    set_mode(short.path(), 0o755);
    let other = short.path().join("l");
    fs::copy(loader, &other).expect("copy the loader");
    let mut name = other.to_str().expect("UTF-8").to_owned();
    let unused = loader.len().checked_sub(name.len());
    name.push_str(&"\0".repeat(unused.expect("a shorter name")));
    let mut bytes = fs::read("/bin/cat").expect("a program");
    let mut at = bytes.windows(loader.len());
    let at = at.position(|bytes| bytes == loader.as_bytes());
    let at = at.expect("the name of the loader");
    bytes[at..at + loader.len()].copy_from_slice(name.as_bytes());
    let cat = place.path("outside/cat");
    write_program(&cat, &bytes, 0o755);
    let words = format!("exec --read-only /proc {}", place.options());
    let mut command = command(&words, ANY);
    command.env("LD_LIBRARY_PATH", place.path("outside"));
    command.arg("--").arg(&cat).arg("/proc/self/maps");
    let server = Server::start(command, 1);
    let maps = answer(&server);
    server.stop();
    for path in [&own, &other] {
        assert!(maps.contains(path.to_str().expect("UTF-8")), "{maps}");
    }
}

/// Linux 6.10 asks landlock(7).
#[test]
fn devices_take_no_commands() {
    if !has_landlock("commands for devices") {
        return;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a version");
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    let version: (Option<u32>, Option<u32>) = (numbers.next().flatten(), numbers.next().flatten());
    if version < (Some(6), Some(10)) {
        unchecked("commands for devices: that needs Linux 6.10");
        return;
    }
    let text = output("--read-only /usr/bin", "stty -F /dev/zero 2>&1");
    assert!(text.contains("Permission denied"), "{text}");
}

/// The ruleset has a descriptor in the process that starts programs.
#[test]
fn rules_leave_a_program_no_descriptor() {
    if !has_landlock("descriptors of rules") {
        return;
    }
    let script = "echo /proc/self/fd/*";
    let rules = "--read-only /proc --read-write /tmp";
    assert_eq!(output(rules, script), output("", script));
}
