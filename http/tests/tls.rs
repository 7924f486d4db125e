//! HTTP over TLS: curl comes to a plain listener, is sent on to one with TLS, and agrees there on a version by ALPN.
//! Without curl nothing is tested, with a message; with `CI_STRICT=1` that is a failure.
#![cfg(feature = "tls")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use socketserver::model::Model;
use socketserver::net::Bind;
use socketserver::tls::{Tls, TlsConfig};
use socketserver::{Sequential, Server, ServerHandle, Tcp, ThreadPool, Threading};
use socketserver_http::{Files, Http, Request, redirect_to_https, serve};

/// What a test waits for comes long before.
const DEADLINE: &str = "30";

fn answer(request: &mut Request<'_>) -> io::Result<String> {
    let body = io::read_to_string(request.body_mut())?;
    let (method, path) = (request.method(), request.uri().path());
    Ok(format!("{method} {path} {body} {:?}", request.version()))
}

fn port(handle: &ServerHandle) -> u16 {
    let addr = handle.local_addrs()[0].socket_addr();
    addr.expect("an address of TCP").port()
}

/// Posts to a plain listener, and returns what the one with TLS has answered.
fn post(certificate: &Path, plain: u16, options: &[&str]) -> Option<String> {
    let url = format!("http://localhost:{plain}/a?b");
    let options = [&["--location", "--data", "abc"], options, &[&url]].concat();
    let answer = curl(certificate, &options)?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// What curl prints.
#[expect(clippy::print_stderr, reason = "a skipped test prints why")]
fn curl(certificate: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let run = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            DEADLINE,
            "--cacert",
        ])
        .arg(certificate)
        .args(options)
        .output();
    let output = match run {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let is_strict = std::env::var_os("CI_STRICT").is_some_and(|value| value == "1");
            assert!(!is_strict, "there is no curl");
            eprintln!("curl is not installed: its tests did not run");
            return None;
        }
        run => run.expect("run curl"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{options:?}: {errors}");
    Some(output.stdout)
}

/// A server with a certificate of its own, which it writes into a directory.
fn secure<M: Model>(model: M, folder: &Path) -> (Server<Tls<Tcp>, M>, PathBuf) {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.expect("a certificate");
    fs::write(&certificate, made.cert.pem()).expect("write");
    fs::write(&key, made.signing_key.serialize_pem()).expect("write");
    let tls = TlsConfig::builder()
        .certificate(&certificate, &key)
        .alpn(["h2", "http/1.1"])
        .build()
        .expect("a configuration");
    let server = Server::<Tls<Tcp>>::builder()
        .model(model)
        .listen(tls.listen(Tcp::bind("127.0.0.1:0").expect("bind")))
        .build()
        .expect("a server");
    (server, certificate)
}

fn curl_follows_to<M: Model>(model: M) {
    let folder = tempfile::tempdir().expect("a directory");
    let (secure, certificate) = secure(model, folder.path());
    let secure = secure.spawn(serve(answer)).expect("serve");
    let plain = Server::<Tcp, Threading>::bind("127.0.0.1:0").expect("bind");
    let to_secure = redirect_to_https(port(secure.handle()));
    let plain = plain.spawn(serve(to_secure)).expect("serve");

    for (options, version) in [
        (&["--http2"][..], "HTTP/2.0"),
        (&["--http1.1"], "HTTP/1.1"),
        // A client that offers no protocol.
        (&["--no-alpn"], "HTTP/1.1"),
    ] {
        let Some(answer) = post(&certificate, port(plain.handle()), options) else {
            return;
        };
        assert_eq!(answer, format!("POST /a abc {version}"), "{options:?}");
    }
    plain.stop().expect("stop");
    secure.stop().expect("stop");
}

/// A file that is larger than the buffers of both ends, and a part of it.
#[test]
fn files_arrive_whole() {
    let folder = tempfile::tempdir().expect("a directory");
    let (secure, certificate) = secure(Threading::default(), folder.path());
    let bytes: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
    fs::write(folder.path().join("large"), &bytes).expect("write");
    let files = Files::open(folder.path()).expect("open");
    let secure = secure.spawn(Http::handler(files).serve()).expect("serve");
    let url = format!("https://localhost:{}/large", port(secure.handle()));
    for version in ["--http1.1", "--http2"] {
        let Some(whole) = curl(&certificate, &[version, &url]) else {
            return;
        };
        assert!(whole == bytes, "{version}");
        let part = curl(&certificate, &[version, "--range", "1000000-1999999", &url]);
        assert!(
            part.as_deref() == Some(&bytes[1_000_000..2_000_000]),
            "{version}"
        );
    }
    secure.stop().expect("stop");
}

#[test]
fn sequential() {
    curl_follows_to(Sequential::default());
}

#[test]
fn threading() {
    curl_follows_to(Threading::default());
}

#[test]
fn pool() {
    curl_follows_to(ThreadPool::new(2));
}
