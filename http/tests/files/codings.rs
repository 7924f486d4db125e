//! Files that are compressed already, and files that are compressed while they are sent.

use std::fs;

use socketserver_http::Files;

use crate::site::{Site, write_old};
use crate::tree::Tree;

#[test]
fn a_file_that_is_compressed_already_is_sent_in_place_of_another() {
    let tree = Tree::plant();
    for (name, text) in [
        ("site.js", "plain"),
        ("site.js.br", "in brotli"),
        ("site.js.gz", "in gzip"),
        ("one.css", "plain"),
        ("one.css.zst", "in zstd"),
    ] {
        write_old(&tree.root().join(name), text.as_bytes());
    }
    fs::create_dir(tree.root().join("one.css.gz")).expect("a directory");
    std::os::unix::fs::symlink("../secret.txt", tree.root().join("one.css.br")).expect("a link");
    let site = Site::with(Files::open(tree.root()).expect("open").precompressed(true));
    for (path, accepted, coding, text) in [
        ("/site.js", "gzip, br", Some("br"), "in brotli"),
        ("/site.js", "gzip", Some("gzip"), "in gzip"),
        ("/site.js", "gzip, br;q=0", Some("gzip"), "in gzip"),
        ("/site.js", "gzip;q=1, br;q=0.9", Some("gzip"), "in gzip"),
        ("/site.js", "*", Some("br"), "in brotli"),
        ("/site.js", "zstd", None, "plain"),
        ("/site.js", "", None, "plain"),
        ("/site.js", "identity, gzip;q=0.5", None, "plain"),
        ("/site.js", "identity;q=0, gzip", Some("gzip"), "in gzip"),
        ("/one.css", "gzip, br, zstd", Some("zstd"), "in zstd"),
        ("/one.css", "gzip, br", None, "plain"),
    ] {
        let answer = site.get(path, &[&format!("Accept-Encoding: {accepted}")]);
        assert_eq!(
            (answer.status, answer.text()),
            (200, text),
            "{path} {accepted}"
        );
        assert_eq!(
            answer.field("content-encoding"),
            coding,
            "{path} {accepted}"
        );
        assert_eq!(
            answer.field("vary"),
            Some("accept-encoding"),
            "{path} {accepted}"
        );
        let media_type = if path.ends_with("js") {
            "text/javascript"
        } else {
            "text/css"
        };
        let media_type = format!("{media_type}; charset=utf-8");
        assert_eq!(
            answer.field("content-type"),
            Some(&*media_type),
            "{path} {accepted}"
        );
    }
}

#[test]
fn a_compressed_file_is_a_file_of_its_own() {
    let tree = Tree::plant();
    for (name, text) in [
        ("site.js", "plain"),
        ("site.js.gz", "in gzip"),
        ("alone.js.gz", "in gzip"),
    ] {
        write_old(&tree.root().join(name), text.as_bytes());
    }
    let site = Site::with(Files::open(tree.root()).expect("open").precompressed(true));
    let gzip = "Accept-Encoding: gzip";
    let (plain, coded) = (site.get("/site.js", &[]), site.get("/site.js", &[gzip]));
    assert_ne!(plain.field("etag"), coded.field("etag"));
    let condition = format!("If-None-Match: {}", coded.field("etag").expect("a tag"));
    assert_eq!(site.get("/site.js", &[gzip, &condition]).status, 304);
    assert_eq!(site.get("/site.js", &[&condition]).status, 200);
    let range = site.get("/site.js", &[gzip, "Range: bytes=0-1"]);
    assert_eq!((range.status, range.text()), (206, "in"));
    assert_eq!(range.field("content-range"), Some("bytes 0-1/7"));
    assert_eq!(range.field("content-encoding"), Some("gzip"));
    assert_eq!(site.get("/alone.js", &[gzip]).status, 404);
    let refused = site.get("/site.js", &["Accept-Encoding: identity;q=0, zstd"]);
    assert_eq!(refused.status, 406);
    // Without the option, the field means nothing.
    let without = Site::of(&tree.root());
    let answer = without.get("/site.js", &["Accept-Encoding: br, identity;q=0"]);
    assert_eq!((answer.text(), answer.field("vary")), ("plain", None));
}

#[cfg(feature = "compress")]
mod on_the_fly {
    use std::io::{self, Read};

    use super::*;
    use crate::site::Answer;

    fn decoded(answer: &Answer) -> Vec<u8> {
        let mut content = Vec::new();
        let read = match answer.field("content-encoding") {
            Some("gzip") => flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut content),
            Some("br") => brotli::Decompressor::new(&*answer.body, 4096).read_to_end(&mut content),
            Some("zstd") => {
                let decoder = zstd::Decoder::new(&*answer.body);
                decoder.and_then(|mut decoder| decoder.read_to_end(&mut content))
            }
            other => Err(io::Error::other(format!("{other:?}"))),
        };
        read.expect("a coding");
        content
    }

    /// Text that has some order, and is larger than what is compressed at once.
    fn text() -> Vec<u8> {
        let lines = (0..50_000).map(|number| format!("{} and {}\n", number, number * 7919 % 1000));
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn text_is_compressed_while_it_is_sent() {
        let tree = Tree::plant();
        let text = text();
        write_old(&tree.root().join("long.txt"), &text);
        write_old(&tree.root().join("short.txt"), &text[..1023]);
        write_old(&tree.root().join("least.txt"), &text[..1024]);
        write_old(&tree.root().join("picture.png"), &text);
        let site = Site::with(Files::open(tree.root()).expect("open").compress(true));
        for coding in ["gzip", "br", "zstd"] {
            let accepted = format!("Accept-Encoding: {coding}");
            let answer = site.get("/long.txt", &[&accepted]);
            assert_eq!(answer.field("content-encoding"), Some(coding));
            assert_eq!(answer.field("vary"), Some("accept-encoding"));
            assert_eq!(answer.field("content-length"), None);
            assert_eq!(answer.field("accept-ranges"), None);
            assert!(
                answer.body.len() < text.len() / 2,
                "{coding}: {}",
                answer.body.len()
            );
            assert!(decoded(&answer) == text, "{coding}");
            let etag = answer.field("etag").expect("a tag");
            assert!(
                etag.starts_with("W/") && etag.ends_with(&format!("-{coding}\"")),
                "{etag}"
            );
            let condition = format!("If-None-Match: {etag}");
            assert_eq!(site.get("/long.txt", &[&accepted, &condition]).status, 304);
            let range = site.get("/long.txt", &[&accepted, "Range: bytes=0-1"]);
            assert_eq!(range.status, 200, "{coding}");
            let head = site.head("/long.txt", &[&accepted]);
            assert_eq!(
                (head.status, head.field("content-encoding")),
                (200, Some(coding))
            );
            let least = site.get("/least.txt", &[&accepted]);
            assert!(decoded(&least) == text[..1024], "{coding}");
            for path in ["/short.txt", "/picture.png"] {
                let answer = site.get(path, &[&accepted]);
                assert_eq!(answer.field("content-encoding"), None, "{path}");
                assert_eq!(answer.field("accept-ranges"), Some("bytes"), "{path}");
            }
        }
        let plain = site.get("/long.txt", &["Range: bytes=0-1"]);
        assert_eq!((plain.status, plain.text()), (206, "0 "));
        crate::client::h2::with(site.addr, async |client| {
            let answer = client
                .get_with("/long.txt", &[("accept-encoding", "gzip")])
                .await;
            let mut content = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&*answer.body);
            decoder.read_to_end(&mut content).expect("gzip");
            assert!(content == text);
        });
    }

    #[test]
    fn a_compressed_file_comes_first() {
        let tree = Tree::plant();
        write_old(&tree.root().join("long.txt"), &text());
        write_old(&tree.root().join("long.txt.gz"), b"made before");
        let files = Files::open(tree.root())
            .expect("open")
            .compress(true)
            .precompressed(true);
        let site = Site::with(files);
        let answer = site.get("/long.txt", &["Accept-Encoding: br, gzip"]);
        assert_eq!(
            (answer.text(), answer.field("content-encoding")),
            ("made before", Some("gzip"))
        );
        let answer = site.get("/long.txt", &["Accept-Encoding: br"]);
        assert!(decoded(&answer) == text());
    }

    #[test]
    fn a_file_that_is_truncated_while_it_is_compressed_ends_the_connection() {
        let tree = Tree::plant();
        let path = tree.root().join("large.txt");
        // Random bytes do not shrink: they are larger than the buffers of both ends in any coding.
        let mut state = 1u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        })
        .take(32 << 20)
        .collect();
        fs::write(&path, bytes).expect("a file");
        let site = Site::with(Files::open(tree.root()).expect("open").compress(true));
        let mut socket = crate::site::connect(site.addr);
        let request = b"GET /large.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n";
        io::Write::write_all(&mut socket, request).expect("send");
        socket.read_exact(&mut [0; 1024]).expect("receive");
        let file = fs::File::options().write(true).open(&path).expect("open");
        file.set_len(1000).expect("truncate");
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the content has an end");
        let error = site.ended().error.expect("an error");
        assert!(error.contains("has ended before its length"), "{error}");
    }
}
