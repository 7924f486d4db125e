//! Files that are no files, that cannot be read, that change, and that are large or empty.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::program::{Example, Program};
use crate::site::{Site, ask, connect};
use crate::skip;
use crate::tree::Tree;

/// Whether something below a directory has been opened, other than for its metadata alone.
struct Watch(std::os::fd::OwnedFd);

impl Watch {
    fn on(directory: &Path) -> Self {
        let watch = inotify::init(CreateFlags::NONBLOCK).expect("inotify");
        inotify::add_watch(&watch, directory, WatchFlags::OPEN).expect("a watch");
        Self(watch)
    }

    fn has_seen(&self) -> bool {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&self.0, &mut buffer).next().is_ok()
    }
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let tree = Tree::plant();
    let root = tree.root();
    let (path, mode) = (root.join("device"), Mode::from_raw_mode(0o666));
    let made = mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 3));
    if made.is_err() {
        skip("only root makes devices: that one is not opened was not tested");
    }
    let site = Site::of(&root);
    let watch = Watch::on(&root);
    for path in ["/fifo", "/to_fifo", "/socket", "/device", "/null", "/fifo/"] {
        assert_eq!(site.get(path, &[]).status, 404, "{path}");
        assert!(!watch.has_seen(), "{path} was opened");
    }
    assert_eq!(site.get("/a.txt", &[]).status, 200);
    assert!(watch.has_seen(), "the watch sees nothing");
}

/// Starts the example, as another user if this one may read everything.
fn as_reader(root: &Path) -> Example {
    let mut command = Program::Itself("http_server").command(&["127.0.0.1:0"]);
    command.arg(root);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    Example::launch(command)
}

#[test]
fn what_the_process_may_not_read_is_forbidden() {
    let tree = Tree::plant();
    let root = tree.root();
    fs::set_permissions(tree.top(), fs::Permissions::from_mode(0o755)).expect("permissions");
    for (name, mode) in [("a.txt", 0o000), ("dir", 0o000), ("site", 0o311)] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(root.join(name), permissions).expect("permissions");
    }
    let example = as_reader(&root);
    let addr = example.inet("tcp");
    for (path, status) in [
        ("/a.txt", 403),
        ("/in_file", 403),
        ("/dir/b.txt", 403),
        ("/dir/", 403),
        ("/site/", 200),
        ("/none", 404),
    ] {
        assert_eq!(ask(addr, "GET", path, &[]).status, status, "{path}");
    }
    let listing = ask(addr, "GET", "/", &[]);
    let listing = listing.text();
    assert!(
        !listing.contains("a.txt") && !listing.contains("./in_file"),
        "{listing}"
    );
    assert!(listing.contains("./empty"), "{listing}");
    fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn a_process_without_descriptors_says_so() {
    let tree = Tree::plant();
    let mut command = Program::Itself("http_server").command(&["127.0.0.1:0"]);
    command.arg(tree.root());
    let example = Example::launch(command);
    let mut client = crate::client::Client::connect(example.inet("tcp"));
    assert_eq!(client.get("/a.txt").status, 200);
    let pid = example.child.id();
    let is_free = |number: &u64| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    let limit = Rlimit {
        current: (0..).find(is_free),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_child(&example.child);
    let old = prlimit(Some(pid), Resource::Nofile, limit).expect("a limit");
    let answer = client.get("/a.txt");
    assert_eq!(
        (answer.status, answer.text()),
        (503, "Service Unavailable\n".to_owned())
    );
    prlimit(Some(pid), Resource::Nofile, old).expect("a limit");
    assert_eq!(client.get("/a.txt").status, 200);
}

/// Larger than the buffers of both ends.
const LARGE: usize = 32 << 20;

fn large(path: &Path) -> Vec<u8> {
    let bytes: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    fs::write(path, &bytes).expect("a file");
    bytes
}

/// Asks for the large file, and receives the first bytes of the answer.
fn begin(site: &Site) -> (std::net::TcpStream, Vec<u8>) {
    let mut socket = connect(site.addr);
    socket
        .write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("send");
    let mut begun = vec![0; 1024];
    socket.read_exact(&mut begun).expect("receive");
    (socket, begun)
}

#[test]
fn a_file_that_is_deleted_while_it_is_sent_is_sent_whole() {
    let tree = Tree::plant();
    let path = tree.root().join("large");
    let bytes = large(&path);
    let site = Site::of(&tree.root());
    let (mut socket, mut received) = begin(&site);
    fs::remove_file(&path).expect("remove");
    let head = received
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let mut rest = vec![0; head + LARGE - received.len()];
    socket.read_exact(&mut rest).expect("receive");
    received.extend(rest);
    assert!(
        received[head..] == bytes,
        "other bytes than those of the file"
    );
    assert_eq!(site.get("/large", &[]).status, 404);
}

#[test]
fn a_file_that_is_truncated_while_it_is_sent_ends_the_connection() {
    let tree = Tree::plant();
    let path = tree.root().join("large");
    large(&path);
    let site = Site::of(&tree.root());
    let (mut socket, begun) = begin(&site);
    File::options()
        .write(true)
        .open(&path)
        .expect("open")
        .set_len(1000)
        .expect("truncate");
    let mut rest = Vec::new();
    // The end of the stream, or its reset.
    let _ = socket.read_to_end(&mut rest);
    assert!(begun.len() + rest.len() < LARGE, "the file was sent whole");
    let ended = site.ended();
    let error = ended.error.expect("an error");
    assert!(error.contains("has ended before its length"), "{error}");
    assert_eq!(ended.status, 200);
    assert!(ended.sent < LARGE as u64);
}

#[test]
fn a_file_that_is_truncated_while_h2_sends_it_resets_the_request() {
    let tree = Tree::plant();
    let path = tree.root().join("large");
    large(&path);
    let site = Site::of(&tree.root());
    crate::client::h2::with(site.addr, async |client| {
        // Without room for more, the server has read the beginning alone.
        let response = client.send("/large").await.expect("a head");
        let mut body = response.into_body();
        body.data().await.expect("data").expect("data");
        let file = File::options().write(true).open(&path).expect("open");
        file.set_len(1000).expect("truncate");
        let failed = loop {
            match body.data().await {
                Some(Ok(data)) => {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Some(Err(err)) => break err,
                None => panic!("the file was sent whole"),
            }
        };
        assert_eq!(failed.reason(), Some(h2::Reason::INTERNAL_ERROR));
    });
    let error = site.ended().error.expect("an error");
    assert!(error.contains("has ended before its length"), "{error}");
}

#[test]
fn a_file_of_five_gibibytes() {
    let tree = Tree::plant();
    let size = (5 << 30) + 3;
    let file = File::create(tree.root().join("sparse")).expect("a file");
    file.set_len(size).expect("a length");
    file.write_all_at(b"the end", size - 7).expect("write");
    file.write_all_at(b"middle", 1 << 32).expect("write");
    let site = Site::of(&tree.root());
    let head = site.head("/sparse", &[]);
    assert_eq!(head.field("content-length"), Some(&*size.to_string()));
    for (range, content_range, body) in [
        (
            "bytes=-7",
            format!("bytes {}-{}/{size}", size - 7, size - 1),
            "the end",
        ),
        (
            "bytes=5368709119-",
            format!("bytes 5368709119-{}/{size}", size - 1),
            " end",
        ),
        (
            "bytes=4294967296-4294967301",
            format!("bytes 4294967296-4294967301/{size}"),
            "middle",
        ),
    ] {
        let answer = site.get("/sparse", &[&format!("Range: {range}")]);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.field("content-range"), Some(&*content_range));
        assert_eq!(answer.text(), body, "{range}");
    }
    let beyond = site.get("/sparse", &[&format!("Range: bytes={size}-")]);
    assert_eq!(beyond.status, 416);
    assert_eq!(
        beyond.field("content-range"),
        Some(&*format!("bytes */{size}"))
    );
    crate::client::h2::with(site.addr, async |client| {
        let answer = client.get_with("/sparse", &[("range", "bytes=-7")]).await;
        assert_eq!((answer.status, answer.text()), (206, "the end".to_owned()));
        let answer = client
            .get_with("/sparse", &[("range", "bytes=0-0,-7")])
            .await;
        assert_eq!(answer.status, 206);
        assert!(
            answer.text().contains("\r\n\r\nthe end\r\n--"),
            "{:?}",
            answer.text()
        );
    });
}

#[test]
fn an_empty_file() {
    let tree = Tree::plant();
    let site = Site::of(&tree.root());
    let answer = site.get("/empty", &[]);
    assert_eq!(
        (answer.status, answer.field("content-length")),
        (200, Some("0"))
    );
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        let answer = site.get("/empty", &[&format!("Range: {range}")]);
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.field("content-range"), Some("bytes */0"));
    }
}

#[test]
fn names_with_every_byte() {
    let tree = Tree::plant();
    let directory = tree.root().join("bytes");
    fs::create_dir(&directory).expect("a directory");
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for byte in &bytes {
        let name = [b'n', *byte, b'n'];
        fs::write(directory.join(std::ffi::OsStr::from_bytes(&name)), [*byte]).expect("a file");
    }
    let site = Site::with(
        socketserver_http::Files::open(tree.root())
            .expect("open")
            .list(true),
    );
    for byte in &bytes {
        let answer = site.get(&format!("/bytes/n%{byte:02x}n"), &[]);
        assert_eq!(
            (answer.status, &*answer.body),
            (200, &[*byte][..]),
            "{byte:02x}"
        );
    }
    // Each link of the listing leads to another one of them.
    let listing = site.get("/bytes/", &[]);
    let links = listing.text().split("href=\"./").skip(1);
    let mut seen: Vec<u8> = links
        .map(|rest| {
            let link = rest.split('"').next().expect("a link");
            let answer = site.get(&format!("/bytes/{link}"), &[]);
            assert_eq!((answer.status, answer.body.len()), (200, 1), "{link}");
            answer.body[0]
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, bytes);
}
