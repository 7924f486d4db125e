//! Methods, redirects, fields that a program adds, and files that stand for others.

use http::HeaderValue;
use http::header::{CACHE_CONTROL, HeaderName, VARY};
use socketserver::HandlerError;
use socketserver_http::{Content, Files, Handler, IntoResponse, Request};

use crate::site::{Site, ask};
use crate::tree::Tree;

fn files(tree: &Tree) -> Files {
    Files::open(tree.root()).expect("open")
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let tree = Tree::plant();
    for name in ["none", "a.txt"] {
        let err = Files::open(tree.root().join(name)).expect_err("no directory");
        let text = err.to_string();
        assert!(
            text.contains("cannot open the directory") && text.contains(name),
            "{text}"
        );
    }
}

#[test]
fn other_methods_are_refused() {
    let tree = Tree::plant();
    let site = Site::of(&tree.root());
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let answer = ask(site.addr, method, "/a.txt", &[]);
        assert_eq!(
            (answer.status, answer.field("allow")),
            (405, Some("GET, HEAD, OPTIONS")),
            "{method}"
        );
    }
    for path in ["/a.txt", "/none", "*"] {
        let answer = ask(site.addr, "OPTIONS", path, &[]);
        assert_eq!(
            (answer.status, answer.field("allow")),
            (204, Some("GET, HEAD, OPTIONS")),
            "{path}"
        );
    }
    let (get, head) = (site.get("/a.txt", &[]), site.head("/a.txt", &[]));
    assert_eq!((head.status, &*head.body), (200, &b""[..]));
    for name in [
        "content-length",
        "content-type",
        "etag",
        "last-modified",
        "accept-ranges",
    ] {
        assert_eq!(get.field(name), head.field(name), "{name}");
    }
    assert_eq!(head.field("content-length"), Some("1"));
}

#[test]
fn a_redirect_stays_on_the_server() {
    let tree = Tree::plant();
    for name in ["evil.com", "a b", "co:lon"] {
        std::fs::create_dir(tree.root().join(name)).expect("a directory");
    }
    let site = Site::of(&tree.root());
    for (path, location) in [
        ("/dir", "./dir/"),
        ("/dir?a=b&c", "./dir/?a=b&c"),
        ("/dir?//evil.com", "./dir/?//evil.com"),
        ("/dir/sub", "./sub/"),
        ("//dir", "./dir/"),
        ("//evil.com", "./evil.com/"),
        ("//evil.com//dir/../..", ""),
        ("///evil.com", "./evil.com/"),
        ("/co:lon", "./co:lon/"),
        ("/a%20b", "./a%20b/"),
        ("/%65vil.com", "./%65vil.com/"),
        ("/\\evil.com", ""),
        ("/%5cevil.com", ""),
        ("/%2f%2fevil.com", ""),
        ("http://a/evil.com", "./evil.com/"),
        ("http://a//evil.com", "./evil.com/"),
    ] {
        let answer = site.get(path, &[]);
        match location {
            "" => assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}"),
            location => {
                assert_eq!(
                    (answer.status, answer.field("location")),
                    (301, Some(location)),
                    "{path}"
                );
            }
        }
    }
}

#[test]
fn fields_are_on_every_response() {
    let tree = Tree::plant();
    let name = HeaderName::from_static("x-own");
    let site = Site::with(
        files(&tree)
            .header(name, HeaderValue::from_static("own"))
            .header(CACHE_CONTROL, HeaderValue::from_static("max-age=60"))
            .list(true),
    );
    for path in ["/a.txt", "/none", "/dir", "/dir/", "/empty"] {
        let answer = site.get(path, &[]);
        assert_eq!(answer.field("x-own"), Some("own"), "{path}");
        assert_eq!(answer.field("cache-control"), Some("max-age=60"), "{path}");
        assert_eq!(
            answer.field("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
    for (method, fields) in [("POST", ""), ("OPTIONS", ""), ("GET", "Range: bytes=9-")] {
        let fields: Vec<&str> = Some(fields)
            .into_iter()
            .filter(|field| !field.is_empty())
            .collect();
        let answer = ask(site.addr, method, "/a.txt", &fields);
        assert_eq!(answer.field("x-own"), Some("own"), "{method}");
    }
}

#[test]
fn pages_of_another_origin_may_read() {
    let tree = Tree::plant();
    let any = Site::with(files(&tree).cors(HeaderValue::from_static("*")));
    let answer = any.get("/a.txt", &["Origin: https://a.example"]);
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.field("vary"), None);
    assert_eq!(
        any.get("/none", &[]).field("access-control-allow-origin"),
        Some("*")
    );

    let origin = HeaderValue::from_static("https://a.example");
    let one = Site::with(files(&tree).cors(origin));
    let answer = one.get("/a.txt", &["Origin: https://a.example"]);
    assert_eq!(
        answer.field("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert_eq!(answer.field("vary"), Some("origin"));
    let fields = [
        "Origin: https://a.example",
        "Access-Control-Request-Method: GET",
    ];
    let answer = ask(one.addr, "OPTIONS", "/a.txt", &fields);
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.field("access-control-allow-methods"),
        Some("GET, HEAD, OPTIONS")
    );
    assert_eq!(
        answer.field("access-control-allow-origin"),
        Some("https://a.example")
    );
    // Without the option, no page of another origin is let in.
    let none = Site::of(&tree.root());
    let answer = ask(none.addr, "OPTIONS", "/a.txt", &fields);
    assert_eq!(answer.field("access-control-allow-methods"), None);
    assert_eq!(answer.field("access-control-allow-origin"), None);
}

#[test]
fn one_page_stands_for_paths_without_a_dot() {
    let tree = Tree::plant();
    let site = Site::with(files(&tree).spa("site/index.html"));
    for (path, status, text) in [
        ("/", 200, "index"),
        ("/users/7", 200, "index"),
        ("/users/7/", 200, "index"),
        ("/dir/", 200, "index"),
        ("/a.txt", 200, "a"),
        ("/none.js", 404, "Not Found\n"),
        ("/out_file", 404, "Not Found\n"),
        ("/..", 404, "Not Found\n"),
        ("/.hidden", 404, "Not Found\n"),
    ] {
        let answer = site.get(path, &[]);
        assert_eq!((answer.status, answer.text()), (status, text), "{path}");
    }
    let answer = site.get("/users/7", &[]);
    assert_eq!(
        answer.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    let without = Site::with(files(&tree).spa("none.html"));
    assert_eq!(without.get("/users/7", &[]).status, 404);
}

#[test]
fn the_first_index_that_exists_is_served() {
    let tree = Tree::plant();
    let site = Site::with(files(&tree).index(["none.html", "b.txt", "index.html"]));
    assert_eq!(site.get("/dir/", &[]).text(), "b");
    assert_eq!(site.get("/site/", &[]).text(), "index");
    let none = Site::with(files(&tree).index::<String>([]));
    assert_eq!(none.get("/site/", &[]).status, 404);
}

/// Serves files for a part of its paths.
struct Mounted(Files);

impl Handler for Mounted {
    type Session = ();

    fn call(
        &self,
        (): &mut (),
        request: &mut Request<'_>,
    ) -> Result<http::Response<Content>, HandlerError> {
        let path = request.uri().path().to_owned();
        match path.strip_prefix("/static") {
            Some(path) => self.0.respond(request, path),
            None => "another".into_response(),
        }
    }
}

#[test]
fn a_handler_serves_files_for_a_part_of_its_paths() {
    let tree = Tree::plant();
    let site = Site::with(Mounted(files(&tree).list(true)));
    assert_eq!(site.get("/else", &[]).text(), "another");
    assert_eq!(site.get("/static/a.txt", &[]).text(), "a");
    assert_eq!(site.get("/static/../secret.txt", &[]).status, 404);
    for (path, location) in [("/static", "./static/"), ("/static/dir?q", "./dir/?q")] {
        let answer = site.get(path, &[]);
        assert_eq!(
            (answer.status, answer.field("location")),
            (301, Some(location)),
            "{path}"
        );
    }
    assert_eq!(site.get("/static/", &[]).status, 200);
}

#[test]
fn what_varies_is_added() {
    let tree = Tree::plant();
    let site = Site::with(
        files(&tree)
            .precompressed(true)
            .header(VARY, HeaderValue::from_static("cookie")),
    );
    let answer = site.get("/a.txt", &[]);
    assert_eq!(answer.values("vary"), ["accept-encoding", "cookie"]);
}
