//! Listings of directories.

use std::fs;
use std::os::unix::fs::symlink;

use socketserver_http::Files;

use crate::site::Site;
use crate::tree::{SECRET, Tree};

fn listed(tree: &Tree) -> Site {
    Site::with(Files::open(tree.root()).expect("open").list(true))
}

/// The links of a page and what they show, with the mark of a link.
fn entries(page: &str) -> Vec<String> {
    let rows = page.split("<tr><td>").skip(1);
    let rows = rows.map(|row| row.split("</td>").next().expect("a cell").to_owned());
    rows.collect()
}

#[test]
fn a_directory_is_listed_in_order() {
    let tree = Tree::plant();
    let directory = tree.root().join("list");
    fs::create_dir_all(directory.join("sub")).expect("a directory");
    fs::create_dir(directory.join("10")).expect("a directory");
    for name in ["b", "A10", "a2", "<b>&\"'", "x:y z", ".hidden", "new\nline"] {
        fs::write(directory.join(name), vec![b'.'; 1536]).expect("a file");
    }
    for (name, target) in [
        ("to_file", "b"),
        ("to_directory", "sub"),
        ("to_outside", "../../secret.txt"),
        ("to_nothing", "nothing"),
        ("to_fifo", "../fifo"),
    ] {
        symlink(target, directory.join(name)).expect("a link");
    }
    let site = listed(&tree);
    let answer = site.get("/list/", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    let page = answer.text();
    let mark = " <span title=\"symbolic link\">\u{2197}</span>";
    assert_eq!(
        entries(page),
        [
            "<a href=\"../\">../</a>".to_owned(),
            "<a href=\"./10/\">10/</a>".to_owned(),
            "<a href=\"./sub/\">sub/</a>".to_owned(),
            format!("<a href=\"./to_directory/\">to_directory/</a>{mark}"),
            "<a href=\"./%3Cb%3E%26%22%27\">&lt;b&gt;&amp;&quot;&#39;</a>".to_owned(),
            "<a href=\"./a2\">a2</a>".to_owned(),
            "<a href=\"./A10\">A10</a>".to_owned(),
            "<a href=\"./b\">b</a>".to_owned(),
            "<a href=\"./new%0Aline\">new\u{fffd}line</a>".to_owned(),
            format!("<a href=\"./to_file\">to_file</a>{mark}"),
            "<a href=\"./x%3Ay%20z\">x:y z</a>".to_owned(),
        ]
    );
    assert!(
        page.contains("<td title=\"1536 bytes\">1.5 KiB</td>"),
        "{page}"
    );
    assert!(page.contains("<title>/list</title>"), "{page}");
    assert!(
        !page.contains(SECRET) && !page.contains("<script"),
        "{page}"
    );
    let head = site.head("/list/", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.field("content-length"), Some(&*page.len().to_string()));
}

#[test]
fn a_page_runs_nothing() {
    let tree = Tree::plant();
    let answer = listed(&tree).get("/dir/", &[]);
    let policy = answer.field("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    let page = answer.text();
    for part in [
        "name=\"viewport\"",
        "color-scheme:light dark",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_top_has_no_parent_and_hides_names() {
    let tree = Tree::plant();
    let answer = listed(&tree).get("/", &[]);
    let page = answer.text();
    assert!(!page.contains("href=\"../\""), "{page}");
    assert!(page.contains("./.well-known/"), "{page}");
    for name in [
        "./.git",
        "./.hidden",
        "./fifo",
        "./socket",
        "./null",
        "./out_",
        "./proc_",
        "./loop_",
    ] {
        assert!(!page.contains(name), "{name}: {page}");
    }
    let files = Files::open(tree.root())
        .expect("open")
        .list(true)
        .show_hidden(true);
    let all = Site::with(files);
    assert!(all.get("/", &[]).text().contains("./.git/"));
    assert_eq!(all.get("/.git/config", &[]).text(), "hidden");
    assert_eq!(all.get("/..", &[]).status, 404);
    // An index comes first.
    assert_eq!(all.get("/site/", &[]).text(), "index");
    for path in ["/none/", "/a.txt/", "/out_dir/", "/dot_dot/"] {
        assert_eq!(all.get(path, &[]).status, 404, "{path}");
    }
}

#[test]
fn a_page_has_a_bound() {
    let tree = Tree::plant();
    let directory = tree.root().join("many");
    fs::create_dir(&directory).expect("a directory");
    for number in 0..=10_000 {
        fs::write(directory.join(number.to_string()), "").expect("a file");
    }
    let site = listed(&tree);
    let page = site.get("/many/", &[]);
    assert_eq!(entries(page.text()).len(), 1 + 10_000);
    assert!(page.text().contains("and more than these 10000 entries"));
    fs::remove_file(directory.join("0")).expect("remove");
    let page = site.get("/many/", &[]);
    assert_eq!(entries(page.text()).len(), 1 + 10_000);
    assert!(!page.text().contains("and more"));
}
