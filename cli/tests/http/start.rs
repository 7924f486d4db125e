//! What is wrong is found at the start, and said in one line.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{LOCAL, Site};
use crate::support::{Process, command, is_root};

/// Asserts that the server ends with a status, and a line that has these parts.
#[track_caller]
fn ends(site: &Site, words: &str, more: &[&str], code: i32, parts: &[&str]) {
    let mut command = command(words, &[]);
    command.current_dir(site.folder.path()).args(more);
    let exit = Process::start(command).exit();
    let text = exit.stderr.join("\n");
    assert_eq!(exit.code, Some(code), "{words} {more:?}: {text}");
    assert_eq!(exit.stderr.len(), 1, "{words} {more:?}: {text}");
    assert!(text.starts_with("socketserver: "), "{text}");
    for part in parts {
        assert!(
            text.contains(part),
            "{part:?} is missing: {words} {more:?}: {text}"
        );
    }
}

/// Words, arguments that may have spaces, and parts of the error.
const WRONG: [(&str, &[&str], &[&str]); 19] = [
    (
        "serve http",
        &[],
        &["needs the directory", "serve http DIR"],
    ),
    ("serve echo www", &[], &["echo has no directory"]),
    (
        "serve echo --hidden",
        &[],
        &["--hidden is for serve http DIR"],
    ),
    (
        "serve hello --cgi-bin x",
        &[],
        &["--cgi-bin is for serve http DIR"],
    ),
    (
        "serve http www --listen udp://127.0.0.1:0",
        &[],
        &["stream socket"],
    ),
    (
        "serve http www --listen seqpacket:@x",
        &[],
        &["stream socket"],
    ),
    (
        "serve http www --listen unixgram:@x",
        &[],
        &["stream socket"],
    ),
    (
        "serve http www --cors example.org",
        &[],
        &["--cors", "an origin is"],
    ),
    (
        "serve http www --header a",
        &[],
        &["--header", "NAME:VALUE"],
    ),
    (
        "serve http www",
        &["--header", "a b:c"],
        &["--header", "no name of a field"],
    ),
    (
        "serve http www",
        &["--header", "a:b\nc"],
        &["--header", "control characters"],
    ),
    (
        "serve http www --header Content-Length:3",
        &[],
        &["content-length is set by the server"],
    ),
    (
        "serve http www --index a/b",
        &[],
        &["--index", "without a slash"],
    ),
    ("serve http www --spa ../a", &[], &["--spa", "below DIR"]),
    (
        "serve http www --cgi-bin ..",
        &[],
        &["--cgi-bin", "below DIR"],
    ),
    ("serve http www --cgi-timeout 3", &[], &["--cgi-bin"]),
    (
        "serve http www --cgi-bin x --cgi-timeout 0",
        &[],
        &["would end every program"],
    ),
    (
        "serve http www --cgi-bin x --cgi-max 0",
        &[],
        &["--cgi-max"],
    ),
    (
        "serve http www --trust-forwarded-for x",
        &[],
        &["--trust-forwarded-for"],
    ),
];

#[test]
fn wrong_usage() {
    let site = Site::new();
    for (words, more, parts) in WRONG {
        ends(&site, words, more, 2, parts);
    }
}

#[test]
fn what_the_options_name_has_to_exist() {
    let site = Site::new();
    site.write("wrong", "# users\nanna:{PLAIN}a\nbert:$apr1$abc$def\n");
    site.write("www/cgi", "a file");
    for (options, parts) in [
        ("missing", &["serve missing", "No such file"][..]),
        ("outside.txt", &["outside.txt", "Not a directory"]),
        ("www --spa none.html", &["--spa none.html", "No such file"]),
        ("www --spa folder", &["--spa folder", "no file"]),
        (
            "www --basic-auth none",
            &["--basic-auth", "none", "No such file"],
        ),
        (
            "www --basic-auth wrong",
            &["wrong", "line 3", "`bert`", "htpasswd -B"],
        ),
        (
            "www --access-log none/log",
            &["access log", "none/log", "No such file"],
        ),
        ("www --access-log www", &["access log", "Is a directory"]),
        ("www --cgi-bin none", &["--cgi-bin none", "No such file"]),
        ("www --cgi-bin cgi", &["--cgi-bin cgi", "no directory"]),
    ] {
        ends(
            &site,
            &format!("serve http {options} --listen {LOCAL}"),
            &[],
            1,
            parts,
        );
    }
}

#[test]
fn a_directory_that_the_user_may_not_read() {
    if !is_root("a directory that the user of --user may not read") {
        return;
    }
    let site = Site::new();
    let mode = |mode| {
        fs::set_permissions(site.path("www"), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let user = "--user 54321 --group 4242 --listen tcp://127.0.0.1:0";
    mode(0o700);
    ends(
        &site,
        &format!("serve http www {user}"),
        &[],
        1,
        &["may not read and search", "www"],
    );
    mode(0o711);
    ends(
        &site,
        &format!("serve http www {user}"),
        &[],
        1,
        &["may not read and search", "www"],
    );
    let server = site.serve("--no-listing --user 54321 --group 4242");
    assert_eq!(super::get(&server.urls[0], "/hello.txt").status, 200);
    server.stop();
}

#[test]
fn an_inherited_socket_of_datagrams_is_refused() {
    let site = Site::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let www = site.path("www");
    let words = format!("serve http {}", www.display());
    let exit = Process::start(crate::support::command_with(socket, &words, &["fd://3"])).exit();
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(
        exit.stderr[0].contains("http needs a stream socket"),
        "{exit:?}"
    );
}
