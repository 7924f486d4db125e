//! The access log, passwords, and what SIGHUP does to both.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;

use super::{LOCAL, MODELS, Site, get, request};
use crate::support::{DEADLINE, Server, command_after, poll_until};

/// The lines of a file, once it has so many.
#[track_caller]
fn lines(site: &Site, file: &str, count: usize) -> Vec<String> {
    poll_until("the lines of the log", DEADLINE, || {
        let text = fs::read_to_string(site.path(file)).ok()?;
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// A line without its time.
fn timeless(line: &str) -> String {
    let (before, rest) = line.split_once('[').expect("a time");
    let (time, rest) = rest.split_once("] ").expect("the end of a time");
    assert_eq!(time.len(), "28/Nov/2026:23:30:45 +0000".len(), "{line}");
    format!("{before}{rest}")
}

#[test]
fn requests_are_lines_in_the_combined_format_under_every_model() {
    for model in MODELS {
        let site = Site::new();
        site.write("users", "anna:{PLAIN}secret\n");
        let server = site.serve(&format!(
            "--model {model} --access-log log --basic-auth users"
        ));
        let url = &server.urls[0];
        let fields =
            "Authorization: Basic YW5uYTpzZWNyZXQ=\r\nReferer: http://a/\r\nUser-Agent: \"me\"\r\n";
        assert_eq!(
            request(url, "GET /hello.txt?q", fields, "").status,
            200,
            "{model}"
        );
        assert_eq!(get(url, "/hello.txt").status, 401, "{model}");
        let mut found: Vec<_> = lines(&site, "log", 2)
            .iter()
            .map(|line| timeless(line))
            .collect();
        found.sort();
        let expected = [
            "127.0.0.1 - - \"GET /hello.txt HTTP/1.1\" 401 33 \"-\" \"-\"",
            r#"127.0.0.1 - anna "GET /hello.txt?q HTTP/1.1" 200 12 "http://a/" "\"me\"""#,
        ];
        assert_eq!(found, expected, "{model}");
        server.stop();
    }
}

#[test]
fn standard_error_can_be_the_access_log() {
    let site = Site::new();
    let mut server = site.serve("--access-log -");
    let lines = "GET /a\u{1b}b";
    assert_eq!(request(&server.urls[0], lines, "", "").status, 400);
    assert_eq!(get(&server.urls[0], "/hello.txt").status, 200);
    assert_eq!(
        timeless(&server.process.next_line()),
        "127.0.0.1 - - \"-\" 400 30 \"-\" \"-\""
    );
    assert_eq!(
        timeless(&server.process.next_line()),
        "127.0.0.1 - - \"GET /hello.txt HTTP/1.1\" 200 12 \"-\" \"-\""
    );
    server.process.signal(Signal::TERM);
    server.process.stopped();
}

#[test]
fn a_limit_on_the_size_of_files_ends_no_server() {
    let site = Site::new();
    site.program("cgi-bin/run", "#!/bin/sh\n");
    let words = "serve http www --cgi-bin cgi-bin --access-log log";
    let mut command = command_after("ulimit -f 8", words, &[LOCAL]);
    command.current_dir(site.path(""));
    let mut server = Server::start(command, 1);
    let url = &server.urls[0];
    let body = "x".repeat(100_000);
    let post = request(
        url,
        "POST /cgi-bin/run",
        "Content-Length: 100000\r\n",
        &body,
    );
    assert_eq!(post.status, 500);
    for _ in 0..200 {
        assert_eq!(get(url, "/hello.txt").status, 200);
    }
    server.process.signal(Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let is_said = |line: &String| line.ends_with("lines are dropped");
    assert!(exit.stderr.iter().any(is_said), "{exit:?}");
}

#[test]
fn sighup_opens_the_access_log_and_reads_the_passwords_again() {
    for model in ["threading", "prefork --workers 2", "forking", "coroutines"] {
        let site = Site::new();
        site.write("users", "anna:{PLAIN}secret\n");
        let server = site.serve(&format!(
            "--model {model} --access-log log --basic-auth users"
        ));
        let url = &server.urls[0];
        // Enough for every process to have one.
        let statuses = || -> Vec<u16> {
            let fields = "Authorization: Basic YW5uYTpzZWNyZXQ=\r\n";
            let mut all: Vec<_> = (0..16)
                .map(|_| request(url, "GET /hello.txt", fields, "").status)
                .collect();
            all.dedup();
            all
        };
        assert_eq!(statuses(), [200], "{model}");
        fs::rename(site.path("log"), site.path("old")).expect("rename");
        site.write("users", "anna:{PLAIN}other\n");
        server.process.signal(Signal::HUP);
        assert_eq!(
            server.process.next_line(),
            "socketserver: the passwords were read again",
            "{model}"
        );
        let opened = server.process.next_line();
        assert!(
            opened.contains("the access log /") && opened.ends_with("was opened again"),
            "{model}: {opened}"
        );
        assert_eq!(statuses(), [401], "{model}");
        let all = lines(&site, "log", 16);
        assert!(
            all.iter().all(|line| line.contains(" 401 ")),
            "{model}: {all:?}"
        );
        site.write("users", "anna\n");
        server.process.signal(Signal::HUP);
        let kept = server.process.next_line();
        assert!(
            kept.contains("line 1: ") && kept.ends_with("; the old passwords stay in force"),
            "{model}: {kept}"
        );
        server.process.next_line();
        assert_eq!(statuses(), [401], "{model}");
        server.stop();
    }
}

/// A FIFO with room for 4 KiB, and its reader, which does not wait.
fn fifo(site: &Site) -> fs::File {
    mknodat(
        CWD,
        site.path("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .expect("mkfifo");
    let reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(site.path("fifo"));
    let reader = reader.expect("open the FIFO");
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).expect("set its size");
    reader
}

/// A FIFO whose reader reads nothing: the server goes on, and counts the lines that it has dropped.
#[test]
fn a_log_that_is_not_read_holds_up_no_request() {
    let site = Site::new();
    let mut reader = fifo(&site);
    let server = site.serve("--access-log fifo");
    let long = format!("/{}", "x".repeat(500));
    for _ in 0..20 {
        assert_eq!(get(&server.urls[0], &long).status, 404);
    }
    let first = server.process.next_line();
    assert!(first.ends_with("; lines are dropped"), "{first}");
    let mut buffer = vec![0; 1 << 16];
    assert!(reader.read(&mut buffer).expect("lines") > 500);
    assert_eq!(get(&server.urls[0], "/hello.txt").status, 200);
    let second = server.process.next_line();
    assert!(
        second.contains("can be written again; lines dropped: "),
        "{second}"
    );
    server.stop();
}

/// Each pause of the reader loses lines.
#[test]
fn a_log_that_is_read_slowly_is_reported_once_a_second() {
    for model in ["threading", "prefork --workers 2", "forking"] {
        let site = Site::new();
        let mut reader = fifo(&site);
        let start = Instant::now();
        let server = site.serve(&format!("--access-log fifo --model {model}"));
        let long = format!("/{}", "x".repeat(500));
        let (mut rounds, mut dropped, mut again) = (0, 0, 0);
        while rounds < 10 || again < 2 {
            for _ in 0..10 {
                assert_eq!(get(&server.urls[0], &long).status, 404);
            }
            // The next lines have room.
            let _ = reader.read(&mut vec![0; 1 << 16]);
            rounds += 1;
            assert!(rounds < 100_000, "{model}: {again} of 2");
            while let Some(line) = server.process.line_within(Duration::ZERO) {
                dropped += u64::from(line.contains("; lines are dropped"));
                again += u64::from(line.contains(" can be written again; lines dropped: "));
                let most = start.elapsed().as_secs() + 2;
                assert!(
                    dropped.max(again) <= most,
                    "{model}: {dropped}, {again}: {line}"
                );
            }
        }
        server.process.signal(Signal::TERM);
        let Server { mut process, .. } = server;
        assert_eq!(process.exit().code, Some(0), "{model}");
    }
}

#[test]
fn passwords_of_htpasswd_let_their_users_in() {
    let site = Site::new();
    // `htpasswd -nbB -C 4 bert secret` has printed it.
    site.write("users", "# users\n\nbert:HASH\nanna:{PLAIN}secret\n");
    let hash = fs::read_to_string(site.path("users")).expect("read");
    site.write(
        "users",
        &hash.replace(
            "HASH",
            "$2y$04$eHO8uoZE.EWMBLRvD413f.iYTk.zlbtUnOiuDr3ytDbCcZcPFE.BG",
        ),
    );
    let server = site.serve("--basic-auth users");
    let url = &server.urls[0];
    let status = |basic: &str| {
        let response = request(
            url,
            "GET /hello.txt",
            &format!("Authorization: Basic {basic}\r\n"),
            "",
        );
        if response.status == 401 {
            let challenge = response.field("www-authenticate");
            assert_eq!(
                challenge,
                Some("Basic realm=\"socketserver\", charset=\"UTF-8\"")
            );
        }
        response.status
    };
    for (user, basic, expected) in [
        ("anna:secret", "YW5uYTpzZWNyZXQ=", 200),
        ("anna:wrong", "YW5uYTp3cm9uZw==", 401),
        ("bert:secret", "YmVydDpzZWNyZXQ=", 200),
        ("bert:secret, remembered", "YmVydDpzZWNyZXQ=", 200),
        ("bert:wrong", "YmVydDp3cm9uZw==", 401),
        ("none:secret", "bm9uZTpzZWNyZXQ=", 401),
        ("malformed", "!", 401),
    ] {
        assert_eq!(status(basic), expected, "{user}");
    }
    assert_eq!(get(url, "/missing").status, 401, "names are hidden too");
    server.stop();
}
