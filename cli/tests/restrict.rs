//! What the programs of `exec` may do and what they may not, tried by programs.

#[path = "support/kernel.rs"]
mod kernel;
#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use kernel::{has_landlock, has_networks};
use support::{Process, Server, ask, command, command_under, is_root, unchecked};

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

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("write");
    set_mode(path, mode);
}

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
    fs::copy("/usr/bin/id", &id).expect("copy id");
    set_mode(&id, 0o4755);
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
            write(&path.join("file"), name, 0o666);
        }
        fs::copy("/usr/bin/true", folder.path().join("outside/true")).expect("copy true");
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
        write(&path, &format!("#!{first}\n{rest}\n"), 0o755);
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
    fs::write(&cat, bytes).expect("write a program");
    set_mode(&cat, 0o755);
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

/// Tries to reach sockets outside, and prints a line for each.
const REACH: &str = r#"
import socket, sys
port, name, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
for family, address in [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "\0" + name), (socket.AF_UNIX, path)]:
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(address)
        print("reached")
    except OSError as err:
        print(err.strerror)
print(socket.if_nameindex())
print(sys.stdin.readline())
"#;

/// A TCP socket, an abstract one and a socket file, and a program that tries to reach them.
struct Outside {
    folder: TempDir,
    tcp: TcpListener,
    name: String,
    _abstract: socket2::Socket,
    _file: std::os::unix::net::UnixListener,
}

impl Outside {
    fn new() -> Self {
        let folder = folder();
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let name = support::unique_name();
        let unix = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let unix = unix.expect("a socket");
        let address = socket2::SockAddr::unix(name.replacen('@', "\0", 1)).expect("a name");
        unix.bind(&address).expect("bind");
        unix.listen(8).expect("listen");
        let path = folder.path().join("socket");
        let file = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        set_mode(&path, 0o777);
        Self {
            folder,
            tcp,
            name,
            _abstract: unix,
            _file: file,
        }
    }

    /// What the program prints, line by line.
    #[track_caller]
    fn reached(&self, mut command: Command) -> Vec<String> {
        let port = self.tcp.local_addr().expect("an address").port();
        let path = self.folder.path().join("socket");
        command.args(["--", "/usr/bin/python3", "-c", REACH, &port.to_string()]);
        command.arg(self.name.trim_start_matches('@')).arg(path);
        let server = Server::start(command, 1);
        let text = ask(&server.urls[0], b"the connection\n", 1 << 16);
        server.stop();
        let text = String::from_utf8(text).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }
}

const CUT_OFF: [&str; 6] = [
    "Network is unreachable",
    "Connection refused",
    "reached",
    "[(1, 'lo')]",
    "the connection",
    "",
];

#[test]
fn without_a_network_a_program_has_its_connection() {
    if !has_networks("programs without a network") {
        return;
    }
    let outside = Outside::new();
    let with = |words: &str| outside.reached(command(&format!("exec {words}"), ANY));
    assert_eq!(with("")[..3], ["reached"; 3]);
    for model in MODELS {
        let words = format!("--no-network --model {model}");
        assert_eq!(with(&words), CUT_OFF, "{model}");
    }
    if is_root("a network that is left before privileges are given up") {
        assert_eq!(with(&format!("--no-network {DROPS}")), CUT_OFF);
    }
}

/// The command as a user without privileges, who needs a namespace of users.
#[test]
fn a_user_leaves_the_network_too() {
    if !is_root("a server that a user starts") {
        return;
    }
    let outside = Outside::new();
    let folder = folder();
    let binary = folder.path().join("socketserver");
    fs::copy(env!("CARGO_BIN_EXE_socketserver"), &binary).expect("copy the binary");
    let user = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=4242", "--clear-groups"]);
        command
    };
    let mut namespace = user();
    let namespace = namespace.args(["unshare", "-U", "-n", "true"]).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        unchecked("a server that a user starts: the kernel forbids namespaces of users");
        return;
    }
    let mut command = user();
    command
        .arg(&binary)
        .args(["exec", "--no-network", "--listen", ANY[0]]);
    assert_eq!(outside.reached(command), CUT_OFF);
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
    write(&bare, "#!\n", 0o755);
    let lost = folder.path().join("lost");
    write(&lost, "#!/usr/bin/env no-such-interpreter\n", 0o755);
    let (bare, lost) = (bare.to_str().expect("UTF-8"), lost.to_str().expect("UTF-8"));
    for (words, program, parts) in [
        (
            // More than the system allows to root.
            "--limit nofile=99999999999",
            &program[..],
            &[
                "--limit nofile=99999999999:99999999999: the hard limit of this server is",
                "not permitted",
            ][..],
        ),
        (
            "--chdir /no-such",
            &program,
            &["--chdir /no-such: name", "No such file"],
        ),
        (
            "--read-only /no-such",
            &program,
            &["--read-only: /no-such: name what exists", "No such file"],
        ),
        (
            "--read-write /no-such",
            &program,
            &["--read-write: /no-such: name what exists"],
        ),
        (
            "--read-only /usr",
            &[bare],
            &["its first line names no interpreter"],
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
        let parts = &["--nice -5: below the nice value", "Permission denied"];
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
                "--no-network needs root",
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
            &["the kernel needs network namespaces", "Invalid argument"],
        ),
    ] {
        fails(injecting(inject, words), &["true"], 1, parts);
    }
}
