//! CGI programs: what they get, what they may answer, and how they end.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;

use super::{MODELS, Response, Site, at, get, request};
use crate::support::{Client, DEADLINE, Server, children, poll_until};

const PLAIN: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\n";

/// A site with one program, `cgi-bin/run`: a script of sh(1) behind a head of plain text.
fn site_with(script: &str) -> Site {
    let site = Site::new();
    site.program("cgi-bin/run", &format!("{PLAIN}{script}"));
    site
}

#[track_caller]
fn serve(site: &Site, options: &str) -> Server {
    site.serve(&format!("--cgi-bin cgi-bin {options}"))
}

/// Stops a server that has said more than where it listens.
#[track_caller]
fn stop(mut server: Server) -> Vec<String> {
    server.process.signal(Signal::TERM);
    let exit = server.process.exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stderr
}

#[test]
fn programs_run_under_every_model() {
    for model in MODELS {
        let site = site_with("echo \"$REQUEST_METHOD $CONTENT_LENGTH $(cat)\"");
        site.program(
            "cgi-bin/large",
            &format!("{PLAIN}head -c 20000000 /dev/zero"),
        );
        let server = serve(&site, &format!("--model {model}"));
        let url = &server.urls[0];
        let response = request(url, "POST /cgi-bin/run", "Content-Length: 4\r\n", "body");
        assert_eq!(
            (response.status, response.text()),
            (200, "POST 4 body\n".to_owned()),
            "{model}"
        );
        let large = get(url, "/cgi-bin/large").body;
        assert!(
            large.len() == 20_000_000 && large.iter().all(|byte| *byte == 0),
            "{model}: {}",
            large.len()
        );
        server.stop();
    }
}

/// What the program writes, in a directory and at a port.
fn variables(root: &str, port: &str) -> [String; 22] {
    [
        "args=./run 0".to_owned(),
        format!("pwd={root}/cgi-bin"),
        "GATEWAY_INTERFACE=CGI/1.1".to_owned(),
        "SERVER_PROTOCOL=HTTP/1.1".to_owned(),
        "SERVER_NAME=example.org".to_owned(),
        format!("SERVER_PORT={port}"),
        "REQUEST_METHOD=POST".to_owned(),
        "REQUEST_URI=/cgi-bin/run/more/%41%20b?a=b&c+d".to_owned(),
        "QUERY_STRING=a=b&c+d".to_owned(),
        "SCRIPT_NAME=/cgi-bin/run".to_owned(),
        format!("SCRIPT_FILENAME={root}/cgi-bin/run"),
        format!("DOCUMENT_ROOT={root}"),
        "PATH_INFO=/more/A b".to_owned(),
        format!("PATH_TRANSLATED={root}/more/A b"),
        "CONTENT_TYPE=a/b".to_owned(),
        "CONTENT_LENGTH=2".to_owned(),
        "REMOTE_ADDR=127.0.0.1".to_owned(),
        "REMOTE_HOST=127.0.0.1".to_owned(),
        "HTTP_HOST=example.org".to_owned(),
        "HTTP_X_ONE=1, 2".to_owned(),
        "HTTP_COOKIE=a=b; c=d".to_owned(),
        "COLOUR=blue".to_owned(),
    ]
}

#[test]
fn a_program_has_the_variables_of_rfc_3875() {
    let site = site_with("echo \"pwd=$(pwd)\"; echo \"args=$0 $#\"; env; exit 0");
    let server = serve(&site, "--cgi-env COLOUR=blue --cgi-env NONE_SUCH");
    let fields = "Content-Type: a/b\r\nContent-Length: 2\r\nX-One: 1\r\nX-One: 2\r\nCookie: a=b\r\nCookie: c=d\r\n\
        Proxy: http://evil/\r\nX_Under: 1\r\nAuthorization: Basic YQ==\r\nTE: trailers\r\n";
    let response = request(
        &server.urls[0],
        "POST /cgi-bin/run/more/%41%20b?a=b&c+d",
        fields,
        "xy",
    );
    let text = response.text();
    let root = site.path("www").canonicalize().expect("a path");
    let port = at(&server).rsplit_once(':').expect("a port").1;
    for line in variables(&root.display().to_string(), port) {
        assert!(
            text.lines().any(|own| own == line),
            "{line:?} is missing in:\n{text}"
        );
    }
    let begins = [
        "HTTP_PROXY",
        "HTTP_X_UNDER",
        "HTTP_AUTHORIZATION",
        "HTTP_CONNECTION",
        "HTTP_TE",
        "HTTP_CONTENT",
        "HTTPS",
    ];
    for wrong in begins
        .iter()
        .chain(&["NONE_SUCH", "CARGO", "HOME", "REMOTE_USER"])
    {
        assert!(
            !text.lines().any(|own| own.starts_with(wrong)),
            "{wrong} in:\n{text}"
        );
    }
    let text = get(&server.urls[0], "/cgi-bin/run").text();
    assert!(text.lines().any(|own| own == "QUERY_STRING="), "{text}");
    for wrong in [
        "PATH_INFO",
        "PATH_TRANSLATED",
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
    ] {
        assert!(
            !text.lines().any(|own| own.starts_with(wrong)),
            "{wrong} in:\n{text}"
        );
    }
    server.stop();
}

#[test]
fn a_program_knows_the_user() {
    let site = site_with("echo \"$AUTH_TYPE $REMOTE_USER\"");
    site.write("users", "anna:{PLAIN}secret\n");
    let server = serve(&site, "--basic-auth users");
    let url = &server.urls[0];
    assert_eq!(get(url, "/cgi-bin/run").status, 401);
    let response = request(
        url,
        "GET /cgi-bin/run",
        "Authorization: Basic YW5uYTpzZWNyZXQ=\r\n",
        "",
    );
    assert_eq!(response.text(), "Basic anna\n");
    server.stop();
}

#[test]
fn bodies() {
    let site = site_with("echo \"${CONTENT_LENGTH-none} $(wc -c)\"");
    let server = serve(&site, "--cgi-max-body 1000");
    let url = &server.urls[0];
    let post = |fields: &str, body: &str| request(url, "POST /cgi-bin/run", fields, body);
    assert_eq!(post("", "").text(), "none 0\n");
    assert_eq!(post("Content-Length: 3\r\n", "abc").text(), "3 3\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(
        post(chunked, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").text(),
        "5 5\n"
    );
    assert_eq!(
        post("Content-Length: 1000\r\n", &"x".repeat(1000)).text(),
        "1000 1000\n"
    );
    assert_eq!(
        post("Content-Length: 1001\r\n", &"x".repeat(1001)).status,
        413
    );
    assert_eq!(
        post(
            chunked,
            &format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001))
        )
        .status,
        413
    );
    server.stop();
}

/// The response to what a script of sh(1) writes.
#[track_caller]
fn answer(script: &str, line: &str) -> Response {
    let site = Site::new();
    site.program("cgi-bin/run", &format!("#!/bin/sh\n{script}\n"));
    let server = serve(&site, "");
    let response = request(&server.urls[0], &format!("{line} /cgi-bin/run"), "", "");
    stop(server);
    response
}

/// A script, and the status, the content and a field of the answer.
const ANSWERS: [(&str, u16, &str, (&str, &str)); 14] = [
    (
        "printf 'Content-Type: a/b\\n\\nhello'",
        200,
        "hello",
        ("content-type", "a/b"),
    ),
    (
        "printf 'Content-Type: a/b\\r\\n\\r\\nhello'",
        200,
        "hello",
        ("content-type", "a/b"),
    ),
    (
        "printf 'Status: 404 Gone\\nContent-Type: a/b\\n\\nno'",
        404,
        "no",
        ("content-type", "a/b"),
    ),
    ("printf 'Status: 500\\nX-A: b\\n\\n'", 500, "", ("x-a", "b")),
    (
        "printf 'Status: 204\\n\\n'",
        204,
        "",
        ("connection", "close"),
    ),
    (
        "printf 'Location: http://a/b\\n\\n'",
        302,
        "",
        ("location", "http://a/b"),
    ),
    (
        "printf 'Location: /c\\nStatus: 301\\n\\n'",
        301,
        "",
        ("location", "/c"),
    ),
    (
        "printf 'Location: /hello.txt\\n\\n'",
        200,
        "hello world\n",
        ("content-length", "12"),
    ),
    (
        "printf 'Location: /none\\n\\n'",
        404,
        "Not Found\n",
        ("content-length", "10"),
    ),
    (
        "printf 'Content-Type: a/b\\nContent-Length: 3\\n\\nabcdef'",
        200,
        "abc",
        ("content-length", "3"),
    ),
    (
        "printf 'Content-Type: a/b\\nTransfer-Encoding: gzip\\n\\nabc'",
        200,
        "abc",
        ("transfer-encoding", "chunked"),
    ),
    (
        "printf 'Content-Type: a/b\\nSet-Cookie: a=b\\n\\n'",
        200,
        "",
        ("set-cookie", "a=b"),
    ),
    (
        "printf 'Content-'; printf 'Type: a/b\\n'; printf '\\nabc'",
        200,
        "abc",
        ("content-type", "a/b"),
    ),
    // With what it has written already.
    (
        "printf 'Content-Type: a/b\\n\\nabc'; kill -9 $$",
        200,
        "abc",
        ("content-type", "a/b"),
    ),
];

#[test]
fn answers_of_programs() {
    for (script, status, text, field) in ANSWERS {
        let response = answer(script, "GET");
        assert_eq!(response.status, status, "{script}: {response:?}");
        assert_eq!(response.text(), text, "{script}");
        assert_eq!(
            response.field(field.0),
            Some(field.1),
            "{script}: {response:?}"
        );
    }
    let head = answer(
        "printf 'Content-Type: a/b\\nContent-Length: 3\\n\\nabc'",
        "HEAD",
    );
    assert_eq!(
        (head.status, head.field("content-length"), &head.body[..]),
        (200, Some("3"), &b""[..])
    );
}

#[test]
fn what_is_no_answer() {
    for (script, status) in [
        ("exit 0", 502),
        ("echo hello", 502),
        ("printf 'hello\\n\\n'", 502),
        ("printf 'X-A: b\\n\\n'", 502),
        ("printf 'Content-Type: a/b\\n'", 502),
        ("printf 'Content-Type: a/b\\nX A: b\\n\\n'", 502),
        ("printf 'Status: 101\\n\\n'", 502),
        ("printf 'Status: abc\\n\\n'", 502),
        ("printf 'Status: 200\\nContent-Length: -1\\n\\n'", 502),
        ("kill -9 $$", 502),
        ("printf 'X-A: '; head -c 100000 /dev/zero | tr '\\0' x", 502),
        // A circle.
        ("printf 'Location: /cgi-bin/run\\n\\n'", 500),
        ("printf 'Location: //other/a b\\n\\n'", 502),
    ] {
        let response = answer(script, "GET");
        assert_eq!(response.status, status, "{script}: {response:?}");
    }
}

#[test]
fn what_is_no_program() {
    let site = Site::new();
    site.write("www/cgi-bin/text", "#!/bin/sh\necho secret\n");
    site.program("cgi-bin/.hidden", PLAIN);
    site.program("cgi-bin/none", "#!/none/such\n");
    site.program("cgi-bin/format", "no format\n");
    site.program(
        "cgi-bin/deep/run",
        &format!("{PLAIN}echo \"$SCRIPT_NAME|$PATH_INFO|$(pwd)\""),
    );
    let server = serve(&site, "");
    let url = &server.urls[0];
    for (path, status) in [
        ("/cgi-bin/text", 403),
        ("/cgi-bin/.hidden", 404),
        ("/cgi-bin/missing", 404),
        ("/cgi-bin/", 404),
        ("/cgi-bin", 404),
        ("/cgi-bin/deep/", 404),
        ("/cgi-bin/none", 500),
        ("/cgi-bin/format", 500),
        ("/cgi-bin/deep/run/a%2fb", 404),
        ("/cgi-binary", 404),
    ] {
        let response = get(url, path);
        assert_eq!(response.status, status, "{path}: {response:?}");
        assert!(!response.text().contains("secret"), "{path}");
    }
    let folder = site.path("www").canonicalize().expect("a path");
    let expected = format!("/cgi-bin/deep/run|/x/|{}/cgi-bin/deep\n", folder.display());
    assert_eq!(get(url, "/cgi-bin//deep/run//x/").text(), expected);
    stop(server);
}

/// The process that a program has written into a file.
#[track_caller]
fn pid(site: &Site) -> u32 {
    poll_until("the program has started", DEADLINE, || written_pid(site))
}

fn written_pid(site: &Site) -> Option<u32> {
    let text = fs::read_to_string(site.path("www/cgi-bin/pid")).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

#[track_caller]
fn ends(pid: u32) {
    poll_until("the program has ended", DEADLINE, || {
        (!fs::exists(format!("/proc/{pid}")).expect("/proc")).then_some(())
    });
}

#[test]
fn a_program_that_produces_nothing_is_ended() {
    for model in MODELS {
        let site = Site::new();
        site.program(
            "cgi-bin/run",
            "#!/bin/sh\nsleep 1000 &\necho $! > pid\nwait\n",
        );
        let server = serve(&site, &format!("--cgi-timeout 0.3 --model {model}"));
        // The time may pass before the program has written its file.
        let pid = poll_until("a program starts in time", DEADLINE, || {
            assert_eq!(get(&server.urls[0], "/cgi-bin/run").status, 504, "{model}");
            written_pid(&site)
        });
        ends(pid);
        let line = stop(server).join("\n");
        assert!(
            line.contains("/cgi-bin/run: 504: ") && line.contains("produced nothing for 0.3 s"),
            "{model}: {line}"
        );
    }
}

#[test]
fn a_reset_ends_the_program() {
    for model in MODELS.iter().filter(|model| **model != "sequential") {
        let site = Site::new();
        site.program(
            "cgi-bin/run",
            "#!/bin/sh\nsleep 1000 &\necho $! > pid\nwait\n",
        );
        let server = serve(&site, &format!("--model {model}"));
        let mut client = TcpStream::connect(at(&server)).expect("connect");
        client
            .write_all(b"GET /cgi-bin/run HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("write");
        let pid = pid(&site);
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
        drop(client);
        ends(pid);
        stop(server);
    }
}

/// Also while it writes: it is held up by the client, and not gathered in memory.
#[test]
fn a_client_that_reads_nothing_holds_up_the_program() {
    let site =
        site_with("sleep 1000 &\necho $! > pid\nhead -c 300000000 /dev/zero\necho end > end\nwait");
    let server = serve(&site, "");
    let mut client = TcpStream::connect(at(&server)).expect("connect");
    client
        .write_all(b"GET /cgi-bin/run HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("write");
    let pid = pid(&site);
    let memory = || {
        let status =
            fs::read_to_string(format!("/proc/{}/status", server.process.id())).expect("/proc");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS")
            .trim()
            .to_owned();
        line.trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
    };
    // Some buffers of the kernel are full once nothing moves.
    let mut queued = 0;
    poll_until("the client's buffer is full", DEADLINE, || {
        let now = rustix::io::ioctl_fionread(&client).expect("FIONREAD");
        let is_full = now > 0 && now == queued;
        queued = now;
        is_full.then_some(())
    });
    assert!(!site.path("www/cgi-bin/end").exists(), "the program waits");
    assert!(memory() < 64 * 1024, "{} KiB", memory());
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(client);
    ends(pid);
    stop(server);
}

#[test]
fn so_many_programs_run_at_once() {
    let site = Site::new();
    site.program(
        "cgi-bin/run",
        &format!("{PLAIN}echo $$ > pid; while ! [ -e go ]; do sleep 0.05; done; echo done"),
    );
    let server = serve(&site, "--cgi-max 1");
    let url = &server.urls[0];
    let mut first = Client::connect(url);
    first.send(b"GET /cgi-bin/run HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    pid(&site);
    let second = get(url, "/cgi-bin/run");
    assert_eq!(
        (second.status, second.field("retry-after")),
        (503, Some("1")),
        "{second:?}"
    );
    assert_eq!(get(url, "/hello.txt").status, 200);
    site.write("www/cgi-bin/go", "");
    let response = Response::parse(&first.receive(super::MOST), false);
    assert_eq!(
        (response.status, response.text()),
        (200, "done\n".to_owned())
    );
    assert_eq!(get(url, "/cgi-bin/run").status, 200);
    stop(server);
}

#[test]
fn starters_that_stand_still_hold_up_no_other_request() {
    for model in ["threading", "coroutines --workers 1"] {
        let site = site_with("echo here");
        let server = serve(&site, &format!("--model {model} --cgi-max 1000"));
        let url = &server.urls[0];
        let starters = children(server.process.id());
        let send_all = |signal| {
            for pid in &starters {
                let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
                kill_process(pid, signal).expect("a starter");
            }
        };
        send_all(Signal::STOP);
        // More than their sockets take.
        let head = format!("X-Long: {}\r\nConnection: close", "x".repeat(4000));
        let request = format!("GET /cgi-bin/run HTTP/1.1\r\nHost: here\r\n{head}\r\n\r\n");
        let mut clients: Vec<_> = (0..200).map(|_| Client::connect(url)).collect();
        for client in &mut clients {
            client.send(request.as_bytes());
        }
        assert_eq!(get(url, "/hello.txt").status, 200, "{model}");
        send_all(Signal::CONT);
        for mut client in clients {
            let answer = Response::parse(&client.receive(1 << 16), false);
            assert_eq!(answer.text(), "here\n", "{model}");
        }
        server.stop();
    }
}

#[test]
fn a_stop_waits_for_programs() {
    for model in MODELS {
        let site = Site::new();
        site.program(
            "cgi-bin/run",
            &format!("{PLAIN}echo $$ > pid; while ! [ -e go ]; do sleep 0.05; done; echo done"),
        );
        let server = serve(&site, &format!("--model {model}"));
        let mut client = Client::connect(&server.urls[0]);
        client.send(b"GET /cgi-bin/run HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        pid(&site);
        server.process.signal(Signal::TERM);
        site.write("www/cgi-bin/go", "");
        let response = Response::parse(&client.receive(super::MOST), false);
        assert_eq!(
            (response.status, response.text()),
            (200, "done\n".to_owned()),
            "{model}"
        );
        let Server { mut process, .. } = server;
        process.stopped();
    }
}

#[test]
fn standard_error_goes_to_the_log() {
    let site = site_with("echo 'a warning' >&2; echo done; exit 3");
    let server = serve(&site, "");
    assert_eq!(get(&server.urls[0], "/cgi-bin/run").text(), "done\n");
    let line = server.process.next_line();
    assert_eq!(
        line,
        "socketserver: connection 1, /cgi-bin/run, standard error: a warning"
    );
    let line = server.process.next_line();
    assert!(
        line.starts_with("socketserver: connection 1, /cgi-bin/run: program ended: exit status 3"),
        "{line}"
    );
    server.stop();
}

/// A program has a moment for what it does behind its answer, and is ended then.
#[test]
fn the_end_of_the_answer_is_soon_that_of_the_program() {
    for head in ["Content-Type: a/b", "Content-Type: a/b\\nContent-Length: 5"] {
        let site = Site::new();
        let answer = format!("#!/bin/sh\nprintf '{head}\\n\\nhello'\nexec >/dev/null\n");
        site.program(
            "cgi-bin/short",
            &format!("{answer}sleep 0.05; echo end > end"),
        );
        site.program(
            "cgi-bin/long",
            &format!("{answer}echo $$ > pid; exec sleep 1000"),
        );
        let server = serve(&site, "");
        assert_eq!(get(&server.urls[0], "/cgi-bin/short").text(), "hello");
        assert!(site.path("www/cgi-bin/end").exists(), "{head}");
        assert_eq!(get(&server.urls[0], "/cgi-bin/long").text(), "hello");
        ends(pid(&site));
        server.stop();
    }
}

/// Programs have the identity that the server has taken.
#[test]
fn programs_have_the_user_of_the_server() {
    if !crate::support::is_root("the user of CGI programs") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let site = site_with("id -u; id -g; id -G");
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let server = serve(&site, "--user 54321 --group 4242");
    assert_eq!(
        get(&server.urls[0], "/cgi-bin/run").text(),
        "54321\n4242\n4242\n"
    );
    server.stop();
}
