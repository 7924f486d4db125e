//! TLS connections to other servers.

use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socketserver::Connection;
use socketserver::net::Accepted;
use socketserver::tls::{Connector, ConnectorBuilder, Version};

use crate::support::DEADLINE;
use crate::support::tls::Authority;
use crate::{Conn, Setup, builder, spawn};

fn greet(conn: &mut Conn) -> io::Result<()> {
    let mut line = String::new();
    while conn.next_message()? {
        line.clear();
        conn.read_line_max(&mut line, 100)?;
        let certificates = conn.layer().peer_certificates();
        let name = certificates.first().and_then(|first| first.common_name());
        let (name, resumed) = (name.unwrap_or("stranger"), conn.layer().is_resumed());
        write!(conn, "{name} {resumed} {line}")?;
    }
    Ok(())
}

impl Setup {
    pub(crate) fn connector(&self) -> ConnectorBuilder {
        Connector::builder().roots(self.file("roots.pem", &self.authority.pem))
    }
}

fn refused(connector: &Connector, address: SocketAddr, name: &str) -> String {
    let err = connector
        .connect(address, name, DEADLINE)
        .expect_err("a refusal");
    assert_eq!(err.kind(), io::ErrorKind::InvalidData);
    err.to_string()
}

#[test]
fn a_connection_out_is_one_like_others() {
    let setup = Setup::new();
    let tls = setup.options().alpn(["line"]).build().unwrap();
    let (_guard, address) = spawn(builder(&tls), greet);
    let connector = setup.connector().alpn(["line"]).build().unwrap();
    for resumed in [false, true] {
        let mut conn = connector.connect(address, "localhost", DEADLINE).unwrap();
        assert_eq!(conn.layer().version(), Some(Version::Tls13));
        assert_eq!(conn.layer().alpn(), Some(&b"line"[..]));
        assert_eq!(conn.layer().server_name(), Some("localhost"));
        let server = conn.layer().peer_certificates().remove(0);
        assert_eq!(server.common_name(), Some("localhost"));
        assert_eq!((conn.id(), conn.stopping()), (0, false));
        for word in ["one", "two"] {
            writeln!(conn, "{word}").unwrap();
            let mut line = String::new();
            conn.read_line(&mut line).unwrap();
            assert_eq!(line, format!("stranger {resumed} {word}\n"));
        }
        conn.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(
            conn.fill_buf().unwrap(),
            b"",
            "the server has said good-bye"
        );
        conn.close().unwrap();
    }
}

#[test]
fn a_client_has_a_certificate() {
    let setup = Setup::new();
    let authority = setup.file("authority.pem", &setup.authority.pem);
    let tls = setup.options().client_authority(authority).build().unwrap();
    let (_guard, address) = spawn(builder(&tls), greet);
    setup.pair("alice", &["alice"]);
    let connector = setup
        .connector()
        .certificate(setup.path("alice.pem"), setup.path("alice.key"))
        .min_version(Version::Tls13)
        .build()
        .unwrap();
    let mut conn = connector.connect(address, "localhost", DEADLINE).unwrap();
    writeln!(conn, "hi").unwrap();
    let mut line = String::new();
    conn.read_line(&mut line).unwrap();
    assert_eq!(line, "alice false hi\n");
}

#[test]
fn a_server_that_is_not_the_one_is_refused() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), greet);
    let connector = setup.connector().build().unwrap();
    let err = refused(&connector, address, "example.org");
    assert!(err.starts_with("TLS with example.org: "), "{err}");
    assert!(err.contains("localhost"), "the names that it is for: {err}");
    let roots = setup.file("other.pem", &Authority::new().pem);
    let other = Connector::builder().roots(roots).build().unwrap();
    let err = refused(&other, address, "localhost");
    assert!(err.contains("UnknownIssuer"), "{err}");
    let err = connector.connect(address, "no name", DEADLINE).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_handshake_has_a_deadline() {
    let setup = Setup::new();
    // Its backlog takes the connection, and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let connector = setup.connector().build().unwrap();
    let address = silent.local_addr().unwrap();
    let limit = Duration::from_millis(50);
    let err = connector.connect(address, "localhost", limit).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::TimedOut, "{err}");
}

#[test]
fn the_system_has_roots_or_the_error_says_so() {
    match Connector::new() {
        Ok(_) => {}
        Err(err) => assert!(err.to_string().contains("of the system"), "{err}"),
    }
}
