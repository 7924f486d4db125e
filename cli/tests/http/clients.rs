//! Clients that people use. They are in the Debian packages of their names: curl, wget, and aria2 for aria2c.

use std::fs;
use std::path::Path;

use super::{MODELS, Site, at, shell};
use crate::support::unchecked;

fn has(tool: &str, package: &str) -> bool {
    let found = shell(Path::new("/"), &format!("command -v {tool}")).0 == Some(0);
    if !found {
        unchecked(&format!(
            "{tool} as a client of serve http: apt-get install {package}"
        ));
    }
    found
}

/// A file that no client could make up.
fn numbers(lines: u32) -> String {
    (0..lines)
        .map(|number| format!("line {number}\n"))
        .collect()
}

#[test]
fn wget_copies_the_site_from_its_listings() {
    if !has("wget", "wget") {
        return;
    }
    for model in ["threading", "coroutines", "prefork --workers 2"] {
        let site = Site::new();
        site.write("www/deep/er/a b%c&d.txt", "odd");
        site.write("www/deep/er/#ü.txt", "odder");
        site.write("www/deep/large.txt", &numbers(100_000));
        let server = site.serve(&format!("--model {model}"));
        let wget = format!(
            "timeout 60 wget -q -r -np -nH -P copy http://{}/",
            at(&server)
        );
        let (code, output) = shell(site.folder.path(), &wget);
        assert_eq!(code, Some(0), "{model}: {output}");
        for name in [
            "hello.txt",
            "deep/large.txt",
            "deep/er/a b%c&d.txt",
            "folder/index.html",
        ] {
            let copied = fs::read(site.path(&format!("copy/{name}"))).unwrap_or_default();
            let own = fs::read(site.path(&format!("www/{name}"))).expect("read");
            assert!(copied == own, "{model}: {name}");
        }
        // wget escapes bytes beyond ASCII in names of files.
        let odd = fs::read_dir(site.path("copy/deep/er")).expect("a directory");
        assert!(odd.count() >= 2, "{model}");
        server.stop();
    }
}

#[test]
fn aria2c_puts_ranges_together() {
    if !has("aria2c", "aria2") {
        return;
    }
    for model in ["threading", "coroutines"] {
        let site = Site::new();
        let text = numbers(1_000_000);
        site.write("www/large.txt", &text);
        let server = site.serve(&format!("--model {model} --access-log log"));
        let url = format!("http://{}/large.txt", at(&server));
        let aria2c = format!("timeout 60 aria2c -q -x 4 -s 4 -k 1M -d copy {url}");
        let (code, output) = shell(site.folder.path(), &aria2c);
        assert_eq!(code, Some(0), "{model}: {output}");
        let copied = fs::read_to_string(site.path("copy/large.txt")).expect("the copy");
        assert!(copied == text, "{model}: {} bytes", copied.len());
        server.stop();
        let log = fs::read_to_string(site.path("log")).expect("the log");
        let partial = log.lines().filter(|line| line.contains(" 206 ")).count();
        assert!(partial >= 3, "{model}: {log}");
    }
}

#[test]
fn curl_resumes_and_asks_for_what_has_changed() {
    if !has("curl", "curl") {
        return;
    }
    for model in MODELS {
        let site = Site::new();
        let text = numbers(50_000);
        site.write("www/file.txt", &text);
        let server = site.serve(&format!("--model {model}"));
        let url = format!("http://{}/file.txt", at(&server));
        fs::write(site.path("part"), &text[..100_000]).expect("write");
        let (code, output) = shell(
            site.folder.path(),
            &format!("curl -sS --max-time 25 -C - -o part {url}"),
        );
        assert_eq!(code, Some(0), "{model}: {output}");
        assert!(
            fs::read_to_string(site.path("part")).expect("read") == text,
            "{model}"
        );
        let again = format!(
            "curl -sS --max-time 25 -R -o part {url} && curl -sS -z part -o none -w '%{{http_code}}' {url}"
        );
        assert_eq!(
            shell(site.folder.path(), &again),
            (Some(0), "304".to_owned()),
            "{model}"
        );
        server.stop();
    }
}
