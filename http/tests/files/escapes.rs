//! Nothing from outside is ever sent.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::program::{Example, Program};
use crate::site::{Site, ask};
use crate::skip;
use crate::tree::{EndOnDrop, Expected, ROWS, SECRET, Tree};

fn check_rows(way: &str, addr: SocketAddr) {
    // Twice: a path that is known is opened in another way.
    for (path, expected) in ROWS.iter().chain(ROWS) {
        let answer = ask(addr, "GET", path, &[]);
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains(SECRET), "{way}: {path}");
        let is_expected = match expected {
            Expected::File(text) => answer.status == 200 && body == *text,
            Expected::Moved => answer.status == 301,
            // Bytes that no target has are refused before.
            Expected::NotFound => matches!(answer.status, 404 | 400),
        };
        assert!(is_expected, "{way}: {path} is {answer:?}, not {expected:?}");
    }
}

#[test]
fn no_path_leads_out() {
    let tree = Tree::plant();
    check_rows("openat2", Site::of(&tree.root()).addr);
}

/// strace answers openat2(2) in place of the kernel.
#[test]
fn no_path_leads_out_of_a_walk() {
    for error in ["ENOSYS", "EPERM"] {
        let tree = Tree::plant();
        let program = Program::Itself("http_server").command(&[]);
        let mut command = Command::new("strace");
        command.args([
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=openat2",
            "-e",
        ]);
        command.arg(format!("inject=openat2:error={error}"));
        command.arg("--").arg(program.get_program());
        command.arg("127.0.0.1:0").arg(tree.root());
        let works = Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .status();
        if !works.is_ok_and(|status| status.success()) {
            return skip("strace does not work here: the walk was not tested over sockets");
        }
        let example = Example::launch(command);
        let addr = example.inet("tcp");
        // The example lists directories.
        let listing = ask(addr, "GET", "/", &[]);
        assert_eq!(listing.status, 200, "{error}");
        for (path, expected) in ROWS {
            let answer = ask(addr, "GET", path, &[]);
            let body = String::from_utf8_lossy(&answer.body);
            assert!(!body.contains(SECRET), "{error}: {path}");
            let is_listed = matches!(*path, "/" | "/dir/");
            let is_expected = match expected {
                Expected::File(text) => answer.status == 200 && body == *text,
                Expected::Moved => answer.status == 301,
                Expected::NotFound if is_listed => answer.status == 200,
                Expected::NotFound => matches!(answer.status, 404 | 400),
            };
            assert!(is_expected, "{error}: {path} is {answer:?}");
        }
    }
}

/// Exchanges two names until it is told to stop.
fn exchange(root: &std::path::Path, one: &str, other: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (one, other) = (root.join(one), root.join(other));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchange");
    }
}

#[test]
fn directories_that_become_links_lead_nowhere() {
    let tree = Tree::plant();
    let (root, top) = (tree.root(), tree.top());
    // A directory changes places with a link out, and one with another that lies outside.
    fs::create_dir_all(root.join("swapped")).expect("a directory");
    fs::write(root.join("swapped/secret.txt"), "inside").expect("a file");
    for parent in ["root/far/deep", "outside/deep"] {
        let deep = top.join(parent);
        fs::create_dir_all(&deep).expect("a directory");
        std::os::unix::fs::symlink("../../secret.txt", deep.join("climbs")).expect("a link");
    }
    fs::write(root.join("secret.txt"), "inside").expect("a file");

    let site = Site::of(&root);
    let stop = AtomicBool::new(false);
    let seconds = env::var("RACE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut served = 0;
    thread::scope(|scope| {
        let ends = [("swapped", "out_dir"), ("far/deep", "../outside/deep")];
        for (one, other) in ends {
            let (root, stop) = (&root, &stop);
            scope.spawn(move || exchange(root, one, other, stop));
        }
        let _end = EndOnDrop(&stop);
        let mut client = crate::client::Client::connect(site.addr);
        let mut round = 0;
        while deadline.map_or(round < 3000, |deadline| Instant::now() < deadline) {
            round += 1;
            for path in [
                "/swapped/secret.txt",
                "/out_dir/secret.txt",
                "/far/deep/climbs",
            ] {
                let answer = client.get(path);
                let text = answer.text();
                assert!(!text.contains(SECRET), "{path} leads out in round {round}");
                assert!(
                    matches!(answer.status, 200 | 404 | 503),
                    "{path}: {answer:?}"
                );
                served += u32::from(answer.status == 200);
            }
            if round % 3000 == 0 {
                client = crate::client::Client::connect(site.addr);
            }
        }
    });
    assert!(served > 0, "no file was served");
}
