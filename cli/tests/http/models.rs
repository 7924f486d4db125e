//! The same site under every model, over every kind of stream.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::{LOCAL, MODELS, Site, at, get, shell};
use crate::support::Client;

#[test]
fn every_model_serves_files_over_tcp_and_unix_sockets() {
    for model in MODELS {
        let site = Site::new();
        let socket = format!("unix://{}", site.path("socket").display());
        let server = site.serve_on(&format!("--model {model}"), &[LOCAL, &socket]);
        for url in &server.urls {
            let response = get(url, "/hello.txt");
            assert_eq!(
                (response.status, response.text()),
                (200, "hello world\n".to_owned()),
                "{model}"
            );
            assert!(get(url, "/folder/").text().contains("index"), "{model}");
            let listing = get(url, "/").text();
            assert!(
                listing.contains("hello.txt") && !listing.contains(".env"),
                "{model}: {listing}"
            );
            assert_eq!(get(url, "/../outside.txt").status, 404, "{model}");
            assert_eq!(get(url, "/.env").status, 404, "{model}");
        }
        server.stop();
    }
}

#[test]
fn a_connection_has_many_requests_under_every_model() {
    for model in MODELS {
        let site = Site::new();
        let server = site.serve(&format!("--model {model}"));
        let mut client = Client::connect(&server.urls[0]);
        for _ in 0..3 {
            client.send(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut text = Vec::new();
            while !text.ends_with(b"hello world\n") {
                let more = client.receive(1);
                assert!(!more.is_empty(), "{model}: an end of the stream");
                text.extend(more);
            }
        }
        drop(client);
        server.stop();
    }
}

/// Makes a certificate for `localhost`: `cert.pem` and `key.pem`.
fn certify(site: &Site) {
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(site.path("cert.pem"), certificate.pem()).expect("write");
    fs::write(site.path("key.pem"), key.serialize_pem()).expect("write");
}

/// curl is in the Debian package of its name.
#[test]
fn clients_of_tls_choose_http_2_and_others_begin_with_it() {
    for model in MODELS {
        let site = Site::new();
        certify(&site);
        site.program(
            "cgi-bin/who",
            "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n%s %s' $HTTPS $SERVER_PROTOCOL",
        );
        let tls = "--tls-cert cert.pem --tls-key key.pem --cgi-bin cgi-bin";
        let server = site.serve_on(
            &format!("--model {model} {tls}"),
            &[LOCAL, "tcp://127.0.0.1:0?tls=off"],
        );
        let port = at(&server).rsplit_once(':').expect("a port").1;
        let plain = server.urls[1].replace("tcp", "http");
        for (options, url, protocol) in [
            (
                "--cacert cert.pem",
                format!("https://localhost:{port}"),
                "2",
            ),
            (
                "--cacert cert.pem --http1.1",
                format!("https://localhost:{port}"),
                "1.1",
            ),
            ("--http2-prior-knowledge", plain.clone(), "2"),
            ("", plain.clone(), "1.1"),
        ] {
            let curl = format!(
                "curl -sS --max-time 25 {options} -w ' %{{http_version}} %{{http_code}}' {url}/hello.txt"
            );
            let (_, output) = shell(site.folder.path(), &curl);
            assert_eq!(
                output,
                format!("hello world\n {protocol} 200"),
                "{model}: {curl}"
            );
        }
        let curl = format!(
            "curl -sS --max-time 25 --cacert cert.pem https://localhost:{port}/cgi-bin/who"
        );
        assert_eq!(shell(site.folder.path(), &curl).1, "on HTTP/2.0", "{model}");
        server.stop();
    }
}
