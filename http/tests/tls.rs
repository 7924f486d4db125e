//! HTTP over TLS: curl comes to a plain listener, is sent on to one with TLS, and agrees there on a version by ALPN; a
//! client that sends what is not read gets its whole answer. Without curl its tests do not run, with a message; with
//! `CI_STRICT=1` that is a failure.
#![cfg(feature = "tls")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};
use socketserver::model::Model;
use socketserver::net::Bind;
use socketserver::tls::{Tls, TlsConfig};
use socketserver::{Sequential, Server, ServerHandle, Tcp, ThreadPool, Threading};
use socketserver_http::{Files, Http, Request, redirect_to_https, serve};

/// What a test waits for comes long before.
const DEADLINE: &str = "30";
const TIMEOUT: Duration = Duration::from_secs(30);

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

/// The client receives slowly, so much of the answer, and the close notification, wait in the server's kernel when it
/// closes, beside a part of the body that was not read. A close that reset the connection would destroy them.
#[test]
fn unread_input_destroys_no_answer() {
    const ANSWER: usize = 1_000_000;
    let folder = tempfile::tempdir().expect("a directory");
    let (secure, certificate) = secure(ThreadPool::new(2), folder.path());
    let http = Http::new(|_: &mut Request<'_>| vec![b'a'; ANSWER]);
    let secure = secure.spawn(http.serve()).expect("serve");

    let mut roots = RootCertStore::empty();
    let certificate = fs::read(&certificate).expect("a certificate");
    let certificate = CertificateDer::from_pem_slice(&certificate).expect("a certificate");
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("TLS");
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let state = ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .set_recv_buffer_size(8 * 1024)
        .expect("a small buffer");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a deadline");
    let addr = SocketAddr::from(([127, 0, 0, 1], port(secure.handle())));
    socket.connect(&addr.into()).expect("connect");
    let socket = TcpStream::from(socket);
    let mut client = StreamOwned::new(state, socket);
    let head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n";
    client.write_all(head).expect("send");
    client.write_all(&[b'b'; 100_000]).expect("send");
    client.flush().expect("send");
    let mut answer = Vec::new();
    // Without a close notification this fails.
    client.read_to_end(&mut answer).expect("a whole answer");
    let (head, body) = answer.split_at(answer.len().saturating_sub(ANSWER));
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n") && head.ends_with(b"\r\n\r\n"));
    assert!(body == [b'a'; ANSWER]);
    drop(client);
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
