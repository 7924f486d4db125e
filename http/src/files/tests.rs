//! What is found below a directory: by openat2(2) and by the walk, the same.

#[path = "../../tests/support/tree.rs"]
mod tree;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::files::beneath::{Beneath, Found};
use crate::files::path;
use tree::{EndOnDrop, Expected, ROWS, SECRET, Tree};

fn both(root: &Path) -> [(&'static str, Beneath); 2] {
    let open = || Beneath::open(root).expect("open");
    [("openat2", open()), ("walk", open().walking())]
}

/// What a path is answered with.
fn find(root: &Beneath, path: &str) -> Result<Option<String>, Errno> {
    let names = path::names(path, false).ok_or(Errno::NOENT)?;
    let index = [&*names.path, b"/index.html"].concat();
    let index = index.strip_prefix(b"/").unwrap_or(&index);
    match root.find(if names.slash { index } else { &names.path })? {
        Found::File(mut file, _) => {
            let mut text = String::new();
            file.read_to_string(&mut text).expect("read");
            Ok(Some(text))
        }
        Found::Directory => Ok(None),
    }
}

#[test]
fn nothing_leads_out() {
    let tree = Tree::plant();
    for (way, root) in both(&tree.root()) {
        // Twice: a path that is known is opened in another way.
        for (path, expected) in ROWS.iter().chain(ROWS) {
            let found = find(&root, path);
            let is_expected = match expected {
                Expected::File(text) => found == Ok(Some((*text).to_owned())),
                Expected::Moved => found == Ok(None),
                Expected::NotFound => found.is_err(),
            };
            assert!(is_expected, "{way}: {path} is {found:?}, not {expected:?}");
            assert!(found != Ok(Some(SECRET.to_owned())), "{way}: {path}");
        }
    }
}

#[test]
fn both_ways_fail_alike() {
    let tree = Tree::plant();
    let [(_, opening), (_, walking)] = both(&tree.root());
    for (path, expected) in ROWS
        .iter()
        .filter(|(_, expected)| *expected == Expected::NotFound)
    {
        // A link of /proc that a walk reads is an absolute one.
        let pair = (find(&opening, path), find(&walking, path));
        let alike = pair.0 == pair.1 || path.starts_with("/proc_");
        assert!(alike, "{path} is {pair:?}, not {expected:?}");
    }
}

#[test]
fn links_of_proc_lead_nowhere() {
    for (way, root) in both(Path::new("/proc/self")) {
        for path in [
            "root/etc/passwd",
            "cwd/Cargo.toml",
            "fd/0",
            "fd/1",
            "exe",
            "ns/net",
            "task/../exe",
        ] {
            let found = root.find(path.as_bytes());
            assert!(found.is_err(), "{way}: {path} is {found:?}");
        }
        let found = root.find(b"status");
        assert!(matches!(found, Ok(Found::File(..))), "{way}: {found:?}");
    }
}

#[test]
fn a_directory_is_opened_once() {
    let tree = Tree::plant();
    for (way, root) in both(&tree.root()) {
        let (old, new) = (tree.root(), tree.top().join("moved"));
        std::fs::rename(&old, &new).expect("rename");
        std::fs::create_dir(&old).expect("another directory");
        std::fs::write(old.join("a.txt"), SECRET).expect("a file");
        assert_eq!(find(&root, "/a.txt"), Ok(Some("a".to_owned())), "{way}");
        assert_eq!(find(&root, "/dir/up"), Ok(Some("a".to_owned())), "{way}");
        std::fs::remove_dir_all(&old).expect("remove");
        std::fs::rename(&new, &old).expect("rename");
    }
}

/// A directory changes places with a link out, while names below both are looked up. `RACE_SECONDS=30` goes on for so
/// long.
#[test]
fn an_exchange_leads_nowhere() {
    let tree = Tree::plant();
    let root = tree.root();
    std::fs::create_dir(root.join("swapped")).expect("a directory");
    std::fs::write(root.join("swapped/secret.txt"), "inside").expect("a file");
    let seconds = std::env::var("RACE_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    for (way, beneath) in both(&root) {
        let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let stop = AtomicBool::new(false);
        let mut served = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (root.join("swapped"), root.join("out_dir"));
                while !stop.load(Ordering::Relaxed) {
                    let exchanged = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                    exchanged.expect("exchange");
                }
            });
            let _end = EndOnDrop(&stop);
            let mut round = 0;
            while deadline.map_or(round < 5000, |deadline| Instant::now() < deadline) {
                round += 1;
                for path in [
                    "/swapped/secret.txt",
                    "/out_dir/secret.txt",
                    "/dir/dot_dot/swapped/secret.txt",
                ] {
                    let found = find(&beneath, path);
                    assert_ne!(
                        found,
                        Ok(Some(SECRET.to_owned())),
                        "{way}: {path} in round {round}"
                    );
                    served += u32::from(found.is_ok());
                }
            }
        });
        assert!(served > 0, "{way}: no file was found");
    }
}

#[test]
fn a_known_file_that_becomes_something_else_is_not_served() {
    let tree = Tree::plant();
    for (way, root) in both(&tree.root()) {
        let path = tree.root().join("changes");
        std::fs::write(&path, "a").expect("a file");
        assert_eq!(find(&root, "/changes"), Ok(Some("a".to_owned())), "{way}");
        std::fs::remove_file(&path).expect("remove");
        std::fs::hard_link(tree.root().join("fifo"), &path).expect("a FIFO");
        // The first time it is still taken for a file.
        assert_eq!(find(&root, "/changes"), Err(Errno::NOENT), "{way}");
        assert_eq!(find(&root, "/changes"), Err(Errno::NOENT), "{way}");
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, "b").expect("a file");
        assert_eq!(find(&root, "/changes"), Ok(Some("b".to_owned())), "{way}");
        std::fs::remove_file(&path).expect("remove");
        std::fs::create_dir(&path).expect("a directory");
        assert_eq!(find(&root, "/changes"), Ok(None), "{way}");
        std::fs::remove_dir(&path).expect("remove");
    }
}

#[test]
fn long_names_and_deep_paths_are_not_found() {
    let tree = Tree::plant();
    for (way, root) in both(&tree.root()) {
        let long = "a".repeat(256);
        assert_eq!(find(&root, &long), Err(Errno::NAMETOOLONG), "{way}");
        let deep = "dir/".repeat(2000) + "a";
        let found = find(&root, &deep);
        assert!(
            matches!(found, Err(Errno::NAMETOOLONG | Errno::NOENT)),
            "{way}: {found:?}"
        );
    }
}
