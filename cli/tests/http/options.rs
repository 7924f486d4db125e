//! The options: what each one changes.

use std::fs;

use super::{Response, Site, get, request};

/// The response to a path, of a server with these options.
#[track_caller]
fn with(site: &Site, options: &str, line: &str, fields: &str) -> Response {
    let server = site.serve(options);
    let response = request(&server.urls[0], line, fields, "");
    server.stop();
    response
}

#[test]
fn each_option_changes_what_it_says() {
    let site = Site::new();
    site.write("www/main.htm", "main");
    site.write("www/app.html", "app");
    site.write("www/long.txt", &"text ".repeat(1000));
    site.write("www/pre.txt", "plain");
    site.write("www/pre.txt.gz", "compressed");
    for (options, line, status, text) in [
        ("", "GET /folder/", 200, "<p>index</p>\n"),
        ("--index main.htm --index other", "GET /", 200, "main"),
        ("--index main.htm", "GET /folder/", 200, "<!"),
        ("--no-listing", "GET /", 404, ""),
        ("", "GET /.env", 404, ""),
        ("--hidden", "GET /.env", 200, "PASSWORD"),
        ("", "GET /route/a", 404, ""),
        ("--spa app.html", "GET /route/a", 200, "app"),
        ("--spa app.html", "GET /missing.js", 404, ""),
        ("", "GET /pre.txt", 200, "plain"),
        ("--precompressed", "GET /pre.txt", 200, "compressed"),
        ("", "POST /hello.txt", 405, ""),
        ("", "HEAD /hello.txt", 200, ""),
        ("", "OPTIONS /hello.txt", 204, ""),
    ] {
        let response = with(&site, options, line, "Accept-Encoding: gzip\r\n");
        assert_eq!(response.status, status, "{options} {line}: {response:?}");
        assert!(
            response.text().starts_with(text),
            "{options} {line}: {response:?}"
        );
    }
    let coding = |options| {
        let response = with(
            &site,
            options,
            "GET /long.txt",
            "Accept-Encoding: br, gzip\r\n",
        );
        response.field("content-encoding").map(str::to_owned)
    };
    assert_eq!(coding(""), None);
    assert_eq!(coding("--compress"), Some("br".to_owned()));
}

#[test]
fn fields_and_origins() {
    let site = Site::new();
    let server = site.serve_args(&[
        "--header",
        "Cache-Control: max-age=60",
        "--header",
        "X-A:1",
        "--header",
        "X-A:2",
    ]);
    let response = get(&server.urls[0], "/hello.txt");
    assert_eq!(response.field("cache-control"), Some("max-age=60"));
    assert!(response.head.contains("x-a: 1\r\nx-a: 2"), "{response:?}");
    server.stop();
    let server = site.serve("--cors https://example.org");
    let url = &server.urls[0];
    assert_eq!(
        get(url, "/hello.txt").field("access-control-allow-origin"),
        Some("https://example.org")
    );
    let fields = "Origin: https://example.org\r\nAccess-Control-Request-Method: GET\r\n";
    let preflight = request(url, "OPTIONS /hello.txt", fields, "");
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.field("access-control-allow-methods"),
        Some("GET, HEAD, OPTIONS")
    );
    server.stop();
    let server = site.serve_args(&["--cors", "*"]);
    assert_eq!(
        get(&server.urls[0], "/").field("access-control-allow-origin"),
        Some("*")
    );
    server.stop();
}

/// A browser asks without a password whether a page may send one.
#[test]
fn pages_of_an_origin_may_send_passwords() {
    let site = Site::new();
    site.write("users", "anna:{PLAIN}secret\n");
    let origin = "Origin: https://a\r\n";
    let preflight = format!(
        "{origin}Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n"
    );
    for (options, status) in [("", 401), ("--cors https://a", 204)] {
        let server = site.serve(&format!("--basic-auth users {options}"));
        let url = &server.urls[0];
        for path in ["/hello.txt", "/missing"] {
            assert_eq!(
                request(url, &format!("OPTIONS {path}"), &preflight, "").status,
                status,
                "{options}"
            );
            assert_eq!(
                request(url, &format!("OPTIONS {path}"), origin, "").status,
                401,
                "{options}"
            );
            assert_eq!(
                request(url, &format!("GET {path}"), &preflight, "").status,
                401,
                "{options}"
            );
        }
        let password = format!("{origin}Authorization: Basic YW5uYTpzZWNyZXQ=\r\n");
        assert_eq!(
            request(url, "GET /hello.txt", &password, "").status,
            200,
            "{options}"
        );
        server.stop();
    }
}

#[test]
fn nothing_outside_the_directory_is_sent() {
    let site = Site::new();
    let link = |from: &str, to: &str| {
        std::os::unix::fs::symlink(to, site.path(&format!("www/{from}"))).expect("a link");
    };
    link("up", "../outside.txt");
    link("up-folder", "..");
    link("root", "/");
    link("absolute", &site.path("outside.txt").display().to_string());
    link("inside", "hello.txt");
    site.program(
        "cgi-bin/inside",
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nran'",
    );
    // A program outside, and ways to it.
    site.program(
        "../evil",
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\noutside'",
    );
    link("cgi-bin/up", "../../evil");
    link("cgi-bin/up-folder", "../..");
    link("cgi-bin/absolute", &site.path("evil").display().to_string());
    link("cgi-bin/beside", "inside");
    let server = site.serve("--cgi-bin cgi-bin --hidden");
    let url = &server.urls[0];
    for path in [
        "/up",
        "/up-folder/outside.txt",
        "/root/etc/passwd",
        "/absolute",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/folder/../../outside.txt",
        "/..%2foutside.txt",
        "/folder/%2e%2e%2f%2e%2e%2foutside.txt",
        "/cgi-bin/up",
        "/cgi-bin/up-folder/evil",
        "/cgi-bin/absolute",
        "/cgi-bin/../../evil",
        "/cgi-bin/..%2f..%2fevil",
        "/cgi-bin/%2e%2e/%2e%2e/evil",
        "//cgi-bin//up",
        "/cgi-bin/up/info",
        "/cgi-bin/inside/../../../evil",
    ] {
        let response = get(url, path);
        assert_eq!(response.status, 404, "{path}: {response:?}");
        assert!(!response.text().contains("outside"), "{path}: {response:?}");
    }
    assert_eq!(get(url, "/inside").text(), "hello world\n");
    assert_eq!(get(url, "/cgi-bin/beside").text(), "ran");
    server.stop();
}

#[test]
fn what_is_replaced_at_its_name_is_not_what_was_opened() {
    let site = Site::new();
    let server = site.serve("");
    fs::rename(site.path("www"), site.path("moved")).expect("rename");
    site.write("www/hello.txt", "another");
    assert_eq!(get(&server.urls[0], "/hello.txt").text(), "hello world\n");
    server.stop();
}

#[test]
fn the_client_of_a_trusted_proxy_is_the_one_that_it_names() {
    let site = Site::new();
    site.program(
        "cgi-bin/who",
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n%s' \"$REMOTE_ADDR ${REMOTE_PORT:-none}\"",
    );
    let fields = "X-Forwarded-For: 192.0.2.7\r\n";
    let ask = |options: &str| {
        with(
            &site,
            &format!("--cgi-bin cgi-bin {options}"),
            "GET /cgi-bin/who",
            fields,
        )
        .text()
    };
    assert!(ask("").starts_with("127.0.0.1 "));
    assert_eq!(ask("--trust-forwarded-for 127.0.0.0/8"), "192.0.2.7 none");
    assert!(ask("--trust-forwarded-for 10.0.0.0/8").starts_with("127.0.0.1 "));
}
