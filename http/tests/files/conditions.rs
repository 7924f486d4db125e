//! Conditional requests and ranges.

use std::fs;

use crate::site::{Site, write_old};
use crate::tree::Tree;

const DATE: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
const EARLIER: &str = "Tue, 31 Dec 2019 23:59:59 GMT";
const LATER: &str = "Thu, 02 Jan 2020 00:00:00 GMT";

/// Fields, between which there are bars, and the status of the answer to `GET`. `TAG` stands for the tag of the file.
const CONDITIONS: &[(&str, u16)] = &[
    ("If-Match: TAG", 200),
    ("If-Match: \"x\", TAG", 200),
    ("If-Match: \"x\"|If-Match: TAG", 200),
    ("If-Match: *", 200),
    ("If-Match: \"x\"", 412),
    ("If-Match: W/TAG", 412),
    ("If-Match: ", 412),
    ("If-Unmodified-Since: DATE", 200),
    ("If-Unmodified-Since: LATER", 200),
    ("If-Unmodified-Since: EARLIER", 412),
    ("If-Unmodified-Since: yesterday", 200),
    ("If-Match: TAG|If-Unmodified-Since: EARLIER", 200),
    ("If-Match: \"x\"|If-Unmodified-Since: LATER", 412),
    ("If-None-Match: TAG", 304),
    ("If-None-Match: W/TAG", 304),
    ("If-None-Match: \"x\", W/TAG", 304),
    ("If-None-Match: *", 304),
    ("If-None-Match: \"x\"", 200),
    ("If-None-Match: x", 200),
    ("If-Modified-Since: DATE", 304),
    ("If-Modified-Since: LATER", 304),
    ("If-Modified-Since: EARLIER", 200),
    ("If-Modified-Since: tomorrow", 200),
    ("If-None-Match: \"x\"|If-Modified-Since: LATER", 200),
    ("If-None-Match: TAG|If-Modified-Since: EARLIER", 304),
    ("If-Match: TAG|If-None-Match: TAG", 304),
    ("If-Match: \"x\"|If-None-Match: TAG", 412),
    ("If-Unmodified-Since: EARLIER|If-Modified-Since: LATER", 412),
    ("Range: bytes=0-1", 206),
    ("Range: bytes=0-1|If-None-Match: TAG", 304),
    ("Range: bytes=0-1|If-Match: \"x\"", 412),
    ("Range: bytes=0-1|If-Range: TAG", 206),
    ("Range: bytes=0-1|If-Range: W/TAG", 200),
    ("Range: bytes=0-1|If-Range: \"x\"", 200),
    ("Range: bytes=0-1|If-Range: DATE", 206),
    ("Range: bytes=0-1|If-Range: LATER", 200),
    ("Range: bytes=0-1|If-Range: EARLIER", 200),
];

#[test]
fn conditions_are_evaluated_in_order() {
    let tree = Tree::plant();
    write_old(&tree.root().join("old.txt"), b"0123456789");
    let site = Site::of(&tree.root());
    let plain = site.get("/old.txt", &[]);
    let etag = plain.field("etag").expect("a tag").to_owned();
    assert!(etag.starts_with('"'), "{etag}");
    assert_eq!(plain.field("last-modified"), Some(DATE));
    assert_eq!(plain.field("accept-ranges"), Some("bytes"));
    for (fields, status) in CONDITIONS {
        let named = [
            ("TAG", &*etag),
            ("DATE", DATE),
            ("EARLIER", EARLIER),
            ("LATER", LATER),
        ];
        let put = |text: String, (name, value): (&str, &str)| text.replace(name, value);
        let text = named.into_iter().fold((*fields).to_owned(), put);
        let lines: Vec<&str> = text.split('|').collect();
        for method in ["GET", "HEAD"] {
            let answer = crate::site::ask(site.addr, method, "/old.txt", &lines);
            // Other methods have no ranges.
            let is_part = method == "HEAD" && *status == 206;
            let expected = if is_part { 200 } else { *status };
            assert_eq!(answer.status, expected, "{method} {fields}");
            if expected == 304 {
                assert!(answer.body.is_empty(), "{method} {fields}");
                assert_eq!(answer.field("etag"), Some(&*etag));
            }
        }
    }
}

#[test]
fn a_file_that_can_change_unseen_has_a_weak_tag() {
    let tree = Tree::plant();
    let path = tree.root().join("fresh.txt");
    fs::write(&path, "fresh").expect("a file");
    // The tag of a file that was modified just now would not stay weak for the whole test.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("open")
        .set_modified(later)
        .expect("a time");
    let site = Site::of(&tree.root());
    let answer = site.get("/fresh.txt", &[]);
    let etag = answer.field("etag").expect("a tag").to_owned();
    assert!(etag.starts_with("W/\""), "{etag}");
    // A time in the future is no time of a change.
    assert_eq!(answer.field("last-modified"), None);
    for validator in [&etag, etag.trim_start_matches("W/")] {
        let fields = ["Range: bytes=0-1", &format!("If-Range: {validator}")];
        assert_eq!(site.get("/fresh.txt", &fields).status, 200, "{validator}");
    }
    assert_eq!(
        site.get("/fresh.txt", &[&format!("If-None-Match: {etag}")])
            .status,
        304
    );
    assert_eq!(
        site.get("/fresh.txt", &[&format!("If-Match: {etag}")])
            .status,
        412
    );
    // A replaced file has another tag, although its size and its time are the same.
    let tag = || {
        write_old(&tree.root().join("new.txt"), b"0123456789");
        fs::rename(tree.root().join("new.txt"), &path).expect("rename");
        let answer = site.get("/fresh.txt", &[]);
        answer.field("etag").expect("a tag").to_owned()
    };
    let first = tag();
    // Its inode is not used again as long as it is open.
    let _open = fs::File::open(&path).expect("open");
    assert_ne!(first, tag());
}

#[test]
fn ranges_are_parts_of_the_file() {
    let tree = Tree::plant();
    write_old(&tree.root().join("digits.txt"), b"0123456789");
    let site = Site::of(&tree.root());
    for (range, content_range, body) in [
        ("bytes=0-0", Some("bytes 0-0/10"), "0"),
        ("bytes=2-4", Some("bytes 2-4/10"), "234"),
        ("bytes=7-", Some("bytes 7-9/10"), "789"),
        ("bytes=-2", Some("bytes 8-9/10"), "89"),
        ("bytes=-20", Some("bytes 0-9/10"), "0123456789"),
        ("bytes=5-100", Some("bytes 5-9/10"), "56789"),
        ("bytes=0-1,2-3", Some("bytes 0-3/10"), "0123"),
        ("bytes=0-1,50-60", Some("bytes 0-1/10"), "01"),
        ("bytes=4-2", None, "0123456789"),
        ("chars=0-1", None, "0123456789"),
    ] {
        let answer = site.get("/digits.txt", &[&format!("Range: {range}")]);
        let status = if content_range.is_some() { 206 } else { 200 };
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.field("content-range"), content_range, "{range}");
        assert_eq!(answer.text(), body, "{range}");
        assert_eq!(
            answer.field("content-length"),
            Some(&*body.len().to_string()),
            "{range}"
        );
    }
    let beyond = site.get("/digits.txt", &["Range: bytes=10-"]);
    assert_eq!(
        (beyond.status, beyond.field("content-range")),
        (416, Some("bytes */10"))
    );
    // Other methods have none.
    let head = site.head("/digits.txt", &["Range: bytes=0-1"]);
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("10"))
    );
    let many = format!("Range: bytes={}", ["0-0"; 17].join(","));
    assert_eq!(site.get("/digits.txt", &[&many]).status, 200);
    // Which one counts is not said anywhere.
    let twice = ["Range: bytes=0-0", "Range: bytes=1-1"];
    assert_eq!(site.get("/digits.txt", &twice).status, 200);
}

#[test]
fn several_ranges_are_parts_of_one_response() {
    let tree = Tree::plant();
    write_old(&tree.root().join("digits.txt"), b"0123456789");
    let site = Site::of(&tree.root());
    let answer = site.get("/digits.txt", &["Range: bytes=8-9,0-1,1-2"]);
    assert_eq!((answer.status, answer.field("content-range")), (206, None));
    let media_type = answer.field("content-type").expect("a type");
    let boundary = media_type
        .strip_prefix("multipart/byteranges; boundary=")
        .expect("a boundary");
    let part = |range: &str, text: &str| {
        let media_type = "content-type: text/plain; charset=utf-8";
        format!("\r\n--{boundary}\r\n{media_type}\r\ncontent-range: bytes {range}/10\r\n\r\n{text}")
    };
    let expected = [
        part("8-9", "89"),
        part("0-2", "012"),
        format!("\r\n--{boundary}--\r\n"),
    ];
    assert_eq!(answer.text(), expected.concat());
    let length = answer.body.len().to_string();
    assert_eq!(answer.field("content-length"), Some(&*length));
}
