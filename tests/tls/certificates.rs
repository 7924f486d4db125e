//! Certificates by the name that a client asks for, and errors about files.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::date_time_ymd;
use socketserver::tls::{TlsBuilder, TlsConfig};

use crate::{Conn, Setup, ask, builder, connect, spawn};

#[test]
fn the_name_selects_the_certificate() {
    let setup = Setup::new();
    let first = setup.pair("first", &["first.example"]);
    let wild = setup.pair("wild", &["*.wild.example"]);
    let tls = TlsConfig::builder()
        .certificate(setup.path("first.pem"), setup.path("first.key"))
        .certificate(setup.path("wild.pem"), setup.path("wild.key"))
        .build()
        .unwrap();
    let (_guard, address) = spawn(builder(&tls), |_: &mut Conn| ());
    let served = |name: &str| {
        let mut client = connect(address, &setup.client(), name);
        // A certificate that is not for the name fails the handshake, and was received all the same.
        let result = ask(&mut client, "?");
        result.map(|_| client.conn.peer_certificates().unwrap()[0].to_vec())
    };
    let der = |pair: &crate::Pair| {
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes());
        der.unwrap().to_vec()
    };
    assert_eq!(served("first.example").unwrap(), der(&first));
    assert_eq!(served("a.wild.example").unwrap(), der(&wild));
    let err = served("other.example").unwrap_err().to_string();
    assert!(err.contains("first.example"), "the first pair: {err}");
}

/// Asserts that the options fail, and on the text of the error.
#[track_caller]
fn bad(options: TlsBuilder, kind: io::ErrorKind, text: &str) {
    let err = options.build().expect_err("an error");
    assert_eq!(err.kind(), kind, "{err}");
    assert!(err.to_string().contains(text), "{err}");
}

fn options(certificate: &Path, key: &Path) -> TlsBuilder {
    TlsConfig::builder().certificate(certificate, key)
}

#[test]
fn an_error_names_the_file_and_what_is_wrong_with_it() {
    use io::ErrorKind::{InvalidData, NotFound};
    let setup = Setup::new();
    setup.pair("good", &["localhost"]);
    let (pem, key) = (setup.path("good.pem"), setup.path("good.key"));
    options(&pem, &key).build().unwrap();
    let missing = setup.path("missing.pem");
    let read = format!("read the TLS certificate {}: ", missing.display());
    bad(options(&missing, &key), NotFound, &read);
    let read = format!("read the TLS key {}: ", missing.display());
    bad(options(&pem, &missing), NotFound, &read);
    let empty = setup.file("empty.pem", "");
    bad(
        options(&empty, &key),
        InvalidData,
        "empty.pem: the file is empty",
    );
    bad(
        options(&pem, &empty),
        InvalidData,
        "empty.pem: the file is empty",
    );
    let text = setup.file("text.pem", "hello\n");
    bad(
        options(&text, &key),
        InvalidData,
        "text.pem: it holds no certificate",
    );
    bad(
        options(&pem, &text),
        InvalidData,
        "text.pem: it holds no private key",
    );
    bad(
        options(&key, &pem),
        InvalidData,
        "good.key: it holds a private key and no certificate; check the order",
    );
    bad(
        options(&pem, &pem),
        InvalidData,
        "good.pem: it holds a certificate and no private key; check the order",
    );
    let cut = setup.file("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    bad(options(&cut, &key), InvalidData, "cut.pem: malformed PEM");
    let bare = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let bare = setup.file("bare.pem", bare);
    bad(
        options(&bare, &key),
        InvalidData,
        "bare.pem: malformed certificate",
    );
}

#[test]
fn a_key_has_to_be_usable() {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound};
    let setup = Setup::new();
    setup.pair("good", &["localhost"]);
    setup.pair("other", &["localhost"]);
    let (pem, key) = (setup.path("good.pem"), setup.path("good.key"));
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let sealed = setup.file("sealed.key", sealed);
    bad(
        options(&pem, &sealed),
        InvalidData,
        "sealed.key: the key is encrypted",
    );
    let other = setup.path("other.key");
    let text = format!(
        "use the TLS key {}: it does not belong to the certificate {}",
        other.display(),
        pem.display()
    );
    bad(options(&pem, &other), InvalidData, &text);
    let with_rule = || options(&pem, &key).client_rule(|_| true);
    bad(with_rule(), InvalidInput, "need an authority");
    let authority = with_rule().client_authority(setup.path("missing.pem"));
    bad(authority, NotFound, "read the TLS certificate authority ");
    bad(
        TlsConfig::builder(),
        InvalidInput,
        "there is no certificate",
    );
}

#[test]
fn the_own_certificate_comes_first_in_its_file() {
    let setup = Setup::new();
    let pair = setup.pair("server", &["localhost"]);
    let chain = format!("{}{}", setup.authority.pem, pair.certificate);
    let chain = setup.file("chain.pem", &chain);
    let tls = options(&chain, &setup.path("server.key"));
    bad(
        tls,
        io::ErrorKind::InvalidData,
        "the certificate of the server first",
    );
}

#[test]
fn a_certificate_and_its_key_may_be_in_one_file() {
    let setup = Setup::new();
    let pair = setup.pair("server", &["localhost"]);
    let both = setup.file("both.pem", &format!("{}{}", pair.key, pair.certificate));
    options(&both, &both).build().unwrap();
}

#[test]
fn a_certificate_is_used_within_its_dates() {
    let setup = Setup::new();
    let write = |name: &str, from, until| {
        let pair = setup.authority.issue_with(&["localhost"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
        });
        let (certificate, key) = pair.write(setup.folder.path(), name);
        options(&certificate, &key)
    };
    let invalid = io::ErrorKind::InvalidData;
    let text = "old.pem: it expired at 2001-01-01T00:00:00Z; renew it";
    bad(write("old", 2000, 2001), invalid, text);
    let text = "new.pem: it is not valid before 3000-01-01T00:00:00Z";
    bad(write("new", 3000, 3001), invalid, text);
    write("now", 2000, 3000).build().unwrap();
}

#[test]
fn an_unreadable_key_is_an_error() {
    if rustix::process::geteuid().is_root() {
        // Root reads all files: the error is that of a folder.
        let setup = Setup::new();
        setup.pair("good", &["localhost"]);
        let folder = setup.folder.path();
        let tls = options(&setup.path("good.pem"), folder);
        let text = format!("read the TLS key {}: ", folder.display());
        bad(tls, io::ErrorKind::IsADirectory, &text);
        return;
    }
    let setup = Setup::new();
    setup.pair("good", &["localhost"]);
    let (pem, key) = (setup.path("good.pem"), setup.path("good.key"));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o000)).unwrap();
    bad(
        options(&pem, &key),
        io::ErrorKind::PermissionDenied,
        "good.key",
    );
}
