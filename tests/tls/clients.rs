//! Certificates of clients.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{SanType, date_time_ymd};
use rustls::ClientConfig;
use socketserver::Connection;
use socketserver::tls::{Name, TlsBuilder};

use crate::support::tls::Authority;
use crate::{Conn, Setup, ask, builder, connect, spawn};

fn greet(conn: &mut Conn) -> io::Result<()> {
    conn.read_line_max(&mut String::new(), 100)?;
    let certificates = conn.layer().peer_certificates();
    let name = certificates.first().and_then(|first| first.common_name());
    write!(conn, "hello {}", name.unwrap_or("stranger"))
}

/// What a server with these options answers to each of some clients.
fn answers(options: TlsBuilder, clients: &[&ClientConfig]) -> Vec<io::Result<String>> {
    let tls = options.build().expect("a configuration");
    let (_guard, address) = spawn(builder(&tls), greet);
    let answer = |config: &&ClientConfig| ask(&mut connect(address, config, "localhost"), "?");
    clients.iter().map(answer).collect()
}

impl Setup {
    fn authority_file(&self) -> std::path::PathBuf {
        self.file("authority.pem", &self.authority.pem)
    }
}

#[test]
fn a_certificate_of_the_client_is_demanded() {
    let setup = Setup::new();
    let alice = setup.authority.issue(&["alice"]);
    let with = setup.authority.client_with(&alice);
    let without = setup.client();
    let mallory = setup
        .authority
        .client_with(&Authority::new().issue(&["alice"]));
    let late = setup.authority.issue_with(&["late"], |params| {
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let late = setup.authority.client_with(&late);
    let required = setup.options().client_authority(setup.authority_file());
    let all = [&with, &without, &mallory, &late];
    let answers = answers(required, &all);
    assert_eq!(answers[0].as_ref().unwrap(), "hello alice");
    for (answer, alert) in [
        (&answers[1], "CertificateRequired"),
        (&answers[2], "UnknownCA"),
        (&answers[3], "CertificateExpired"),
    ] {
        let err = answer.as_ref().unwrap_err().to_string();
        assert!(err.contains(alert), "{err}");
    }
}

#[test]
fn a_certificate_of_the_client_may_be_optional() {
    let setup = Setup::new();
    let with = setup
        .authority
        .client_with(&setup.authority.issue(&["alice"]));
    let mallory = setup
        .authority
        .client_with(&Authority::new().issue(&["alice"]));
    let options = setup.options().client_authority(setup.authority_file());
    let all = [&with, &setup.client(), &mallory];
    let answers = answers(options.optional_clients(true), &all);
    assert_eq!(answers[0].as_ref().unwrap(), "hello alice");
    assert_eq!(answers[1].as_ref().unwrap(), "hello stranger");
    assert!(answers[2].is_err());
}

#[test]
fn a_rule_sees_subject_names_and_fingerprint() {
    let setup = Setup::new();
    let uri = "spiffe://example.org/backup";
    let backup = setup.authority.issue_with(&["backup"], |params| {
        let uri = uri.to_owned().try_into().expect("ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
    });
    let alice = setup.authority.issue(&["alice"]);
    let known = setup.authority.issue(&["known"]);
    let print = {
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(known.certificate.as_bytes());
        let read = socketserver::tls::Certificate::from_der(&der.unwrap());
        read.unwrap().fingerprint()
    };
    let options = setup.options().client_authority(setup.authority_file());
    let options = options.client_rule(move |client| {
        client.subject().contains("CN=alice")
            || client.names().contains(&Name::Uri(uri.to_owned()))
            || client.fingerprint() == print
    });
    let bob = setup.authority.issue(&["bob"]);
    let all = [backup, alice, known, bob].map(|pair| setup.authority.client_with(&pair));
    let answers = answers(options, &all.each_ref());
    let good: Vec<_> = answers[..3].iter().map(|it| it.as_ref().unwrap()).collect();
    assert_eq!(good, ["hello backup", "hello alice", "hello known"]);
    let err = answers[3].as_ref().unwrap_err().to_string();
    assert!(err.contains("AccessDenied"), "{err}");
}

#[test]
fn a_resumed_session_is_judged_again() {
    let setup = Setup::new();
    let config = setup
        .authority
        .client_with(&setup.authority.issue(&["alice"]));
    let (admits, rule) = {
        let admits = Arc::new(AtomicBool::new(true));
        (Arc::clone(&admits), admits)
    };
    let tls = setup
        .options()
        .client_authority(setup.authority_file())
        .client_rule(move |_| rule.load(Ordering::SeqCst))
        .build()
        .unwrap();
    let (_guard, address) = spawn(builder(&tls), greet);
    for expected in [false, true] {
        let mut client = connect(address, &config, "localhost");
        assert_eq!(ask(&mut client, "?").unwrap(), "hello alice");
        let kind = client.conn.handshake_kind();
        assert_eq!(kind == Some(rustls::HandshakeKind::Resumed), expected);
    }
    admits.store(false, Ordering::SeqCst);
    let mut client = connect(address, &config, "localhost");
    assert!(ask(&mut client, "?").is_err());
    admits.store(true, Ordering::SeqCst);
    // Another authority: a ticket of the old rules resumes nothing.
    let other = Authority::new();
    setup.file("authority.pem", &other.pem);
    tls.reload().unwrap();
    let mut client = connect(address, &config, "localhost");
    let err = ask(&mut client, "?").unwrap_err().to_string();
    assert!(err.contains("UnknownCA"), "{err}");
}
