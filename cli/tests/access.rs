//! Who may connect, on the real binary: lists of networks, users and groups, and a limit for each user.

#[allow(dead_code, reason = "what only other tests need is not used here")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use support::{DEADLINE, Process, Server, as_user, ask, command, is_root};

const MODELS: [&str; 7] = [
    "sequential",
    "threading",
    "pool --workers 2",
    "forking",
    "prefork --workers 2",
    "coroutines --driver epoll",
    "prefork:coroutines --workers 2 --driver epoll",
];

/// Whether an echo server serves a client.
fn echoes(mut client: impl Read + Write) -> bool {
    // The server may have closed the connection already.
    let _ = client.write_all(b"x");
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = client.take(1).read_to_end(&mut answer);
    answer == b"x"
}

fn tcp(url: &str) -> TcpStream {
    let client = TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client
}

fn unix(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    client
}

/// A folder that every user may enter, and the path of a socket in it.
fn open_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, all).expect("open the directory");
    let path = folder.path().join("s");
    (folder, path)
}

#[test]
fn the_longest_network_decides_and_the_log_says_who_was_refused() {
    let words = "serve echo --log --deny 127.0.0.0/8 --allow 127.0.0.1 --allow ::1 --deny ::1";
    let server = Server::start(command(words, &["tcp://127.0.0.1:0", "tcp://[::1]:0"]), 2);
    assert!(echoes(tcp(&server.urls[0])) && !echoes(tcp(&server.urls[1])));
    loop {
        let line = server.process.next_line();
        if line.contains("from [::1]:") && line.contains("refused") {
            assert!(line.ends_with("refused: not allowed"), "{line}");
            break;
        }
        assert!(!line.contains("refused"), "{line}");
    }
    let denied = support::serve("echo --deny 127.0.0.0/24", &["udp://127.0.0.1:0"]);
    let mut client = support::Client::connect(&denied.urls[0]);
    client.send(b"x");
    assert!(client.hears_nothing_for(std::time::Duration::from_millis(100)));
}

#[test]
fn a_signal_reads_the_lists_again_under_every_model() {
    let (_folder, list) = open_folder();
    for model in MODELS {
        fs::write(&list, "# nobody here\n192.0.2.0/24\n").expect("write");
        let words = format!("echo --model {model} --deny @{}", list.display());
        let mut server = support::serve(&words, &["tcp://127.0.0.1:0"]);
        let served = |server: &Server| [0; 4].map(|_| echoes(tcp(&server.urls[0])));
        assert_eq!(served(&server), [true; 4], "{model}");
        let reload = |server: &Server, text: &str| {
            fs::write(&list, text).expect("write");
            server.process.signal(Signal::HUP);
            server.process.next_line()
        };
        let again = "socketserver: the access lists were read again";
        // A long list, which is read on the stack of a coroutine.
        let many =
            (0..20_000).map(|number| format!("10.{}.{}.0/24\n", number / 256 % 256, number % 256));
        let many: String = many.chain(["127.0.0.0/8 # all".to_owned()]).collect();
        assert_eq!(reload(&server, &many), again, "{model}");
        assert_eq!(served(&server), [false; 4], "{model}");
        let wrong = reload(&server, "192.0.2.0/24\n127.0.0.1/8\n");
        let part = format!("--deny @{}: line 2: \"127.0.0.1/8\": ", list.display());
        assert!(wrong.contains(&part), "{wrong}");
        assert!(
            wrong.ends_with("; the old access rules stay in force"),
            "{wrong}"
        );
        assert_eq!(served(&server), [false; 4], "{model}");
        assert_eq!(reload(&server, ""), again, "{model}");
        assert_eq!(served(&server), [true; 4], "{model}");
        server.process.signal(Signal::TERM);
        server.process.stopped();
    }
}

#[test]
fn an_empty_list_of_those_who_may_connect_admits_nobody() {
    let (_folder, list) = open_folder();
    fs::write(&list, "").expect("write");
    let words = format!("echo --allow @{}", list.display());
    let server = support::serve(&words, &["tcp://127.0.0.1:0"]);
    assert!(!echoes(tcp(&server.urls[0])));
    server.stop();
}

const INET: &str = "tcp://127.0.0.1:0";
const LOCAL: &str = "unix:@never-bound";
const GRAM: &str = "unixgram:@never-bound";

/// Options, a URL, the exit status, and parts of the error.
const WRONG: [(&str, &str, i32, &str); 14] = [
    (
        "--allow 10.0.0.1/8",
        INET,
        2,
        "--allow <CIDR>|write 10.0.0.0/8",
    ),
    ("--deny 10.0.0.0/33", INET, 2, "--deny <CIDR>|at most 32"),
    ("--deny @", INET, 2, "the name of the file is missing"),
    (
        "--deny @/no/such/file",
        INET,
        1,
        "read the networks of --deny @/no/such/file|No such file",
    ),
    (
        "--deny @/proc/self/status",
        INET,
        1,
        "--deny @/proc/self/status: line 1: |a network is",
    ),
    (
        "--allow-user no-such-user",
        LOCAL,
        2,
        "there is no user \"no-such-user\"",
    ),
    (
        "--allow-group no-such-group",
        LOCAL,
        2,
        "there is no group \"no-such-group\"",
    ),
    (
        "--allow-user root",
        INET,
        2,
        "are for unix listeners, of which there is none",
    ),
    (
        "--max-per-user 2",
        INET,
        2,
        "are for unix listeners, of which there is none",
    ),
    ("--max-per-user 0", LOCAL, 2, "--max-per-user <N>"),
    (
        "--allow-user root",
        GRAM,
        2,
        "refuse every datagram of a unixgram listener",
    ),
    (
        "--deny 10.0.0.1",
        LOCAL,
        2,
        "are for tcp and udp listeners, of which there is none",
    ),
    (
        "",
        "unix:///s?owner=no-such-user",
        2,
        "the option owner: there is no user",
    ),
    ("", "unix:///s?mode=999", 2, "permissions in octal"),
];

#[test]
fn wrong_rules_are_errors_at_the_start() {
    for (words, url, code, parts) in WRONG {
        let mut process = Process::start(command(&format!("serve echo {words}"), &[url]));
        let exit = process.exit();
        let text = exit.stderr.join("\n");
        let lines = exit.stderr.len();
        assert_eq!((exit.code, lines), (Some(code), 1), "{words}: {text}");
        for part in parts.split('|') {
            assert!(text.contains(part), "{words}: {text}");
        }
    }
}

/// What a user of this machine can do.
const OTHER: u32 = 54_321;

#[test]
fn a_user_is_admitted_by_name_or_by_a_group() {
    if !is_root("users and groups of Unix sockets") {
        return;
    }
    let (_folder, path) = open_folder();
    let url = format!("unix://{}?mode=666", path.display());
    let root = || echoes(unix(&path));
    let other = |groups: &[u32]| as_user(OTHER, groups, || echoes(unix(&path)));
    let serve = |words: &str| support::serve(&format!("echo {words}"), &[&url]);
    let server = serve("--allow-user root");
    assert!(root() && !other(&[]) && !other(&[0]));
    server.stop();
    let server = serve(&format!("--allow-user {OTHER}"));
    assert!(!root() && other(&[]));
    server.stop();
    let server = serve("--allow-group 4242 --allow-group 4243");
    assert!(!root() && !other(&[]) && other(&[4242]) && other(&[1, 2, 4243]));
    // More groups than a first attempt to read them has room for.
    let many: Vec<u32> = (4300..4400).collect();
    assert!(!other(&many) && other(&[&many, &[4243][..]].concat()));
    server.stop();
    let server = serve("--allow-group 4242 --allow-user root");
    assert!(root() && !other(&[]) && other(&[4242]));
    server.stop();
}

/// How many clients of one user say nothing.
const SILENT: usize = 1000;

#[test]
fn silent_clients_of_one_user_keep_no_other_user_out() {
    if !is_root("a limit for each user of a Unix socket") {
        return;
    }
    let (_folder, path) = open_folder();
    let url = format!("unix://{}?mode=666", path.display());
    for model in [
        "threading",
        "pool --workers 60",
        "prefork:coroutines --workers 2 --driver epoll",
    ] {
        let words = format!(
            "echo --model {model} --max-connections 60 --max-per-user 50 --first-byte-timeout none"
        );
        let server = support::serve(&words, &[&url]);
        let silent: Vec<_> = as_user(OTHER, &[], || (0..SILENT).map(|_| unix(&path)).collect());
        assert!(echoes(unix(&path)), "{model}: another user is served");
        // Those beyond the limit have ended.
        let ended = |client: &UnixStream| {
            client.set_nonblocking(true).expect("set the mode");
            let mut client = client;
            matches!(client.read(&mut [0]), Ok(0))
        };
        support::poll_until("all but 50 are refused", DEADLINE, || {
            let refused = silent.iter().filter(|client| ended(client)).count();
            (refused == SILENT - 50).then_some(())
        });
        assert!(echoes(unix(&path)), "{model}");
        drop(silent);
        server.stop();
    }
}

#[test]
fn a_socket_file_has_the_owner_and_the_group_that_its_url_names() {
    if !is_root("owners of socket files") {
        return;
    }
    let (_folder, path) = open_folder();
    for scheme in ["unix", "unixgram"] {
        let url = format!(
            "{scheme}://{}?mode=620&owner={OTHER}&group=4242",
            path.display()
        );
        let server = support::serve("echo", &[&url]);
        let file = fs::metadata(&path).expect("a socket file");
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o777),
            (OTHER, 4242, 0o620)
        );
        assert_eq!(server.urls, [format!("{scheme}://{}", path.display())]);
        server.stop();
    }
    let url = format!("unix://{}?group=4242", path.display());
    let server = support::serve("hello", &[&url]);
    let file = fs::metadata(&path).expect("a socket file");
    assert_eq!((file.uid(), file.gid()), (0, 4242));
    assert_eq!(ask(&server.urls[0], b"", 100), b"hello world\n");
    server.stop();
}
