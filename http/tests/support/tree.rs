//! A directory with files, links in and out of it, and what may be served of it.

#![allow(dead_code, reason = "each test uses its own part")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// What lies outside, and is never sent.
pub(crate) const SECRET: &str = "what lies outside";

/// What a path is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A file with this text.
    File(&'static str),
    /// A directory, which is asked for without a slash.
    Moved,
    NotFound,
}

use Expected::{File, Moved, NotFound};

/// Paths, and what each is answered with.
pub(crate) const ROWS: &[(&str, Expected)] = &[
    // Names.
    ("/a.txt", File("a")),
    ("//a.txt", File("a")),
    ("/a%2etxt", File("a")),
    ("/%61.txt", File("a")),
    ("/a%20b.txt", File("space")),
    ("/%C3%BC.txt", File("umlaut")),
    ("/%FF.txt", File("byte")),
    ("/%2541.txt", File("percent")),
    ("/back%5Cslash.txt", File("backslash")),
    ("/co:lon.txt", File("colon")),
    ("/+.txt", File("plus")),
    ("/...", NotFound),
    ("/dir/b.txt", File("b")),
    ("/dir//b.txt", File("b")),
    ("/dir/sub/c.txt", File("c")),
    ("/empty", File("")),
    ("/site/", File("index")),
    ("/site", Moved),
    ("/dir", Moved),
    ("/dir/", NotFound),
    ("/", NotFound),
    ("/none", NotFound),
    ("/none/a.txt", NotFound),
    ("/a.txt/", NotFound),
    ("/a.txt/a.txt", NotFound),
    ("/a.txt%00", NotFound),
    ("/a.txt%00.html", NotFound),
    ("/%00", NotFound),
    // Climbing.
    ("/..", NotFound),
    ("/../secret.txt", NotFound),
    ("/../root/a.txt", NotFound),
    ("/dir/../a.txt", NotFound),
    ("/dir/../../secret.txt", NotFound),
    ("/./a.txt", NotFound),
    ("/.%2e/secret.txt", NotFound),
    ("/%2e%2e/secret.txt", NotFound),
    ("/%2E%2E/secret.txt", NotFound),
    ("/..%2fsecret.txt", NotFound),
    ("/%2e%2e%2fsecret.txt", NotFound),
    ("/..%5csecret.txt", NotFound),
    ("/..\\secret.txt", NotFound),
    ("/dir/..%2f..%2fsecret.txt", NotFound),
    ("/%252e%252e/secret.txt", NotFound),
    ("/..%c0%afsecret.txt", NotFound),
    ("/%c0%ae%c0%ae/secret.txt", NotFound),
    ("/dir%2fb.txt", NotFound),
    ("/%2fetc/passwd", NotFound),
    ("//etc/passwd", NotFound),
    ("/etc/passwd", NotFound),
    ("/..;/secret.txt", NotFound),
    ("/.../secret.txt", NotFound),
    // Hidden names.
    ("/.hidden", NotFound),
    ("/%2ehidden", NotFound),
    ("/.git/config", NotFound),
    ("/dir/.env", NotFound),
    ("/.well-known/security.txt", File("well known")),
    ("/dir/.well-known/a.txt", NotFound),
    // Links that stay below.
    ("/in_file", File("a")),
    ("/in_dir/b.txt", File("b")),
    ("/in_dir", Moved),
    ("/in_up", File("a")),
    ("/dir/up", File("a")),
    ("/dir/sub/up", File("a")),
    ("/dir/dot_dot/a.txt", File("a")),
    ("/dir/dot_dot/dir/dot_dot/a.txt", File("a")),
    ("/in_dir/dot_dot/a.txt", File("a")),
    ("/dot/a.txt", File("a")),
    ("/dot/dot/dot/a.txt", File("a")),
    ("/chain_0", File("a")),
    ("/chain_39", File("a")),
    ("/slash_end/b.txt", File("b")),
    ("/double", File("b")),
    ("/to_hidden", File("hidden")),
    // Links that lead out, or nowhere.
    ("/dot_dot/secret.txt", NotFound),
    ("/dot_dot/root/a.txt", NotFound),
    ("/out_file", NotFound),
    ("/out_absolute", NotFound),
    ("/in_absolute", NotFound),
    ("/out_dir/secret.txt", NotFound),
    ("/out_dir/", NotFound),
    ("/out_dir", NotFound),
    ("/out_dir_absolute/secret.txt", NotFound),
    ("/out_chain", NotFound),
    ("/out_and_back", NotFound),
    ("/dir/out", NotFound),
    ("/dir/sub/out", NotFound),
    ("/in_dir/out", NotFound),
    ("/dot/dot/out_file", NotFound),
    ("/chain_40", NotFound),
    ("/loop_a", NotFound),
    ("/loop_a/b.txt", NotFound),
    ("/self", NotFound),
    ("/self/self", NotFound),
    ("/dangling", NotFound),
    ("/file_slash", NotFound),
    ("/proc_root/etc/passwd", NotFound),
    ("/proc_cwd/Cargo.toml", NotFound),
    ("/proc_fd/0", NotFound),
    ("/proc_exe", NotFound),
    // No regular files.
    ("/fifo", NotFound),
    ("/fifo/", NotFound),
    ("/socket", NotFound),
    ("/null", NotFound),
    ("/to_fifo", NotFound),
];

/// The directories; the one that is served is `root`.
pub(crate) struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    pub(crate) fn plant() -> Self {
        let tree = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        let (top, root) = (tree.directory.path(), tree.root());
        for directory in [
            "outside",
            "root/dir/sub",
            "root/dir/.well-known",
            "root/site",
        ] {
            fs::create_dir_all(top.join(directory)).expect("a directory");
        }
        for directory in ["root/.git", "root/.well-known"] {
            fs::create_dir(top.join(directory)).expect("a directory");
        }
        for name in ["secret.txt", "outside/secret.txt", "outside/b.txt"] {
            fs::write(top.join(name), SECRET).expect("a file");
        }
        for (name, text) in FILES {
            fs::write(root.join(OsStr::from_bytes(name)), text).expect("a file");
        }
        for (name, target) in LINKS {
            symlink(target, root.join(name)).expect("a link");
        }
        let absolute = [
            ("out_absolute", top.join("secret.txt")),
            ("in_absolute", root.join("a.txt")),
            ("out_dir_absolute", top.join("outside")),
        ];
        for (name, target) in absolute {
            symlink(target, root.join(name)).expect("a link");
        }
        for number in 1..=40 {
            let target = format!("chain_{}", number - 1);
            symlink(target, root.join(format!("chain_{number}"))).expect("a link");
        }
        let (fifo, mode) = (root.join("fifo"), Mode::from_raw_mode(0o666));
        mknodat(CWD, fifo, FileType::Fifo, mode, 0).expect("a FIFO");
        drop(UnixListener::bind(root.join("socket")).expect("a socket"));
        tree
    }

    /// The directory that is served.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// What lies around it.
    pub(crate) fn top(&self) -> &Path {
        self.directory.path()
    }
}

/// Ends threads, also when their test fails.
pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const FILES: &[(&[u8], &str)] = &[
    (b"a.txt", "a"),
    (b"a b.txt", "space"),
    ("\u{fc}.txt".as_bytes(), "umlaut"),
    (b"\xff.txt", "byte"),
    (b"%41.txt", "percent"),
    (b"back\\slash.txt", "backslash"),
    (b"co:lon.txt", "colon"),
    (b"+.txt", "plus"),
    (b"empty", ""),
    (b"dir/b.txt", "b"),
    (b"dir/sub/c.txt", "c"),
    (b"dir/.env", "hidden"),
    (b"dir/.well-known/a.txt", "hidden"),
    (b"site/index.html", "index"),
    (b".hidden", "hidden"),
    (b".git/config", "hidden"),
    (b".well-known/security.txt", "well known"),
];

const LINKS: &[(&str, &str)] = &[
    ("in_file", "a.txt"),
    ("in_dir", "dir"),
    ("in_up", "dir/../a.txt"),
    ("dir/up", "../a.txt"),
    ("dir/sub/up", "../../a.txt"),
    ("dir/dot_dot", ".."),
    ("dot", "."),
    ("chain_0", "a.txt"),
    ("slash_end", "dir/"),
    ("double", "dir//b.txt"),
    ("to_hidden", ".hidden"),
    ("dot_dot", ".."),
    ("out_file", "../secret.txt"),
    ("out_dir", "../outside"),
    ("out_chain", "dir/out"),
    ("out_and_back", "../root/a.txt"),
    ("dir/out", "../../secret.txt"),
    ("dir/sub/out", "../../../secret.txt"),
    ("loop_a", "loop_b"),
    ("loop_b", "loop_a"),
    ("self", "self"),
    ("dangling", "nothing"),
    ("file_slash", "a.txt/"),
    ("proc_root", "/proc/self/root"),
    ("proc_cwd", "/proc/self/cwd"),
    ("proc_fd", "/proc/self/fd"),
    ("proc_exe", "/proc/self/exe"),
    ("null", "/dev/null"),
    ("to_fifo", "fifo"),
];
