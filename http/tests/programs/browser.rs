//! Headless Chromium loads a page with 100 resources. The page counts what has come and by which protocol, and the
//! server counts what it has sent.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::sync::{Arc, Mutex};

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use libtest_mimic::Trial;
use socketserver::model::Model;
use socketserver::net::Bind;
use socketserver::tls::{Tls, TlsConfig};
use socketserver::{HandlerError, Server, ServerGuard, Tcp, ThreadPool, Threading};
use socketserver_http::{Content, Http, IntoResponse, Request};

use crate::{output, trial};

/// How many resources there are of each kind: scripts and images.
const EACH: usize = 50;

pub(crate) fn trials() -> impl Iterator<Item = Trial> {
    let protocols = [
        ("plain", &[][..]),
        ("tls", &["http/1.1"]),
        ("tls_h2", &["h2", "http/1.1"]),
    ];
    protocols.into_iter().flat_map(|(name, alpn)| {
        [
            trial(format!("chromium::threading::{name}"), move || {
                load(Threading::default(), alpn);
            }),
            trial(format!("chromium::pool::{name}"), move || {
                load(ThreadPool::new(8), alpn);
            }),
        ]
    })
}

/// A page that loads all resources, and then shows how many scripts have run, how many images it has, and how they came.
fn page() -> String {
    let mut page = String::from(
        "<!doctype html><title>100</title><link rel=icon href=data:,><script>let ran = 0</script>",
    );
    for number in 0..EACH {
        let _ = write!(
            page,
            "<script src=/{number}.js></script><img src=/{number}.svg>"
        );
    }
    page + "<p id=result></p><script>onload = () => {
        const images = [...document.images].filter(image => image.complete && image.naturalWidth == 7).length;
        const resources = performance.getEntriesByType('resource').filter(entry => /[0-9]+[.]/.test(entry.name));
        const protocols = [...new Set(resources.map(entry => entry.nextHopProtocol))];
        document.title = `${ran} scripts, ${images} images, ${resources.length} by ${protocols}`;
    }</script>"
}

fn answer(request: &mut Request<'_>) -> Result<Response<Content>, HandlerError> {
    let (kind, text) = match request.uri().path() {
        "/" => ("text/html", page()),
        path if path.ends_with(".js") => ("text/javascript", "ran++".to_owned()),
        path if path.ends_with(".svg") => {
            let text = "<svg xmlns='http://www.w3.org/2000/svg' width='7' height='7'/>";
            ("image/svg+xml", text.to_owned())
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    Response::builder()
        .header(CONTENT_TYPE, kind)
        .body(text)
        .into_response()
}

/// Loads the page with Chromium.
fn load<M: Model>(model: M, alpn: &[&str]) {
    let served = Arc::new(Mutex::new(BTreeSet::new()));
    let counted = Arc::clone(&served);
    let http = Http::new(answer).on_access(move |access| {
        let request = access.request().expect("a request");
        assert_eq!(access.error().map(ToString::to_string), None);
        if access.status() == StatusCode::OK && request.uri.path() != "/" {
            let resource = format!("{} {:?}", request.uri.path(), request.version);
            counted.lock().expect("no panic").insert(resource);
        }
    });
    let folder = tempfile::tempdir().expect("a directory");
    let (guard, scheme) = spawn(model, http, alpn, folder.path());
    let addr = guard.handle().local_addrs()[0].socket_addr();
    let url = format!(
        "{scheme}://localhost:{}/",
        addr.expect("an address of TCP").port()
    );
    let profile = format!(
        "--user-data-dir={}",
        folder.path().join("profile").display()
    );
    let options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        &profile,
    ];
    let dump = [
        "--ignore-certificate-errors",
        "--virtual-time-budget=20000",
        "--dump-dom",
        &url,
    ];
    let install = "as root: apt-get install chromium";
    let ran = output(120, "chromium", &[&options[..], &dump].concat(), install);
    let dom = String::from_utf8_lossy(&ran.stdout);
    let (protocol, version) = match alpn.first() {
        Some(&"h2") => ("h2", "HTTP/2.0"),
        _ => ("http/1.1", "HTTP/1.1"),
    };
    let title = format!("{EACH} scripts, {EACH} images, {} by {protocol}", 2 * EACH);
    assert!(
        dom.contains(&format!("<title>{title}</title>")),
        "no {title} in {dom}"
    );
    let numbers = (0..EACH).flat_map(|number| [format!("/{number}.js"), format!("/{number}.svg")]);
    let all: BTreeSet<_> = numbers.map(|path| format!("{path} {version}")).collect();
    assert_eq!(*served.lock().expect("no panic"), all);
    guard.stop().expect("stop");
}

/// Serves, with TLS if there are protocols to agree on. Returns the scheme too.
fn spawn<M: Model, F, R>(
    model: M,
    http: Http<F>,
    alpn: &[&str],
    folder: &std::path::Path,
) -> (ServerGuard, &'static str)
where
    F: Fn(&mut Request<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    let listener = Tcp::bind("127.0.0.1:0").expect("bind");
    if alpn.is_empty() {
        let server = Server::<Tcp>::builder().model(model).listen(listener);
        let server = server.build().expect("a server");
        return (server.spawn(http.serve()).expect("serve"), "http");
    }
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.expect("a certificate");
    fs::write(&certificate, made.cert.pem()).expect("write");
    fs::write(&key, made.signing_key.serialize_pem()).expect("write");
    let tls = TlsConfig::builder().certificate(&certificate, &key);
    let tls = tls
        .alpn(alpn.iter().copied())
        .build()
        .expect("a configuration");
    let server = Server::<Tls<Tcp>>::builder()
        .model(model)
        .listen(tls.listen(listener));
    let server = server.build().expect("a server");
    (server.spawn(http.serve()).expect("serve"), "https")
}
