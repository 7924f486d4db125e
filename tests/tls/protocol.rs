//! What a handshake agrees on, resumption, and the ends of streams.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;

use rustls::HandshakeKind;
use socketserver::net::TcpConnection;
use socketserver::tls::{TlsConnection, Version};
use socketserver::{Connection, Next, ThreadPool};

use crate::support::DEADLINE;
use crate::{Conn, Setup, ask, builder, connect, plain, pumped, spawn};

/// Sends what the handshake has agreed on.
fn describe(conn: &mut Conn) -> io::Result<()> {
    conn.read_line_max(&mut String::new(), 100)?;
    let layer = conn.layer();
    let alpn = layer.alpn().map(String::from_utf8_lossy);
    let text = format!(
        "{} {} {:?} {:?} {}",
        layer.version().expect("a version"),
        layer.cipher_suite().expect("a cipher suite"),
        layer.server_name(),
        alpn.as_deref(),
        layer.is_resumed(),
    );
    conn.write_all(text.as_bytes())
}

#[test]
fn a_handler_learns_what_was_agreed() {
    let setup = Setup::new();
    let tls = setup.options().alpn(["h2", "http/1.1"]).build().unwrap();
    let (_guard, address) = spawn(builder(&tls), describe);
    let mut config = setup.client();
    let answer = ask(&mut connect(address, &config, "localhost"), "?").unwrap();
    assert_eq!(
        answer,
        "1.3 TLS13_AES_256_GCM_SHA384 Some(\"localhost\") None false"
    );
    config.alpn_protocols = vec![b"http/1.0".to_vec(), b"http/1.1".to_vec()];
    let answer = ask(&mut connect(address, &config, "localhost"), "?").unwrap();
    assert!(answer.contains("Some(\"http/1.1\")"), "{answer}");
    config.alpn_protocols = vec![b"smtp".to_vec()];
    let err = ask(&mut connect(address, &config, "localhost"), "?").unwrap_err();
    assert!(err.to_string().contains("NoApplicationProtocol"), "{err}");
}

#[test]
fn a_version_can_be_demanded() {
    let setup = Setup::new();
    let mut old = setup.client();
    let provider = std::sync::Arc::clone(old.crypto_provider());
    old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(setup.authority.roots())
        .with_no_client_auth();
    let both = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&both), describe);
    let answer = ask(&mut connect(address, &old, "localhost"), "?").unwrap();
    assert!(answer.starts_with("1.2 TLS_ECDHE_"), "{answer}");
    let new = setup.options().min_version(Version::Tls13).build().unwrap();
    let (_guard, address) = spawn(builder(&new), describe);
    let err = ask(&mut connect(address, &old, "localhost"), "?").unwrap_err();
    assert!(err.to_string().contains("ProtocolVersion"), "{err}");
}

#[test]
fn a_session_is_resumed() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), describe);
    let config = setup.client();
    let resumed = |config: &rustls::ClientConfig| {
        let mut client = connect(address, config, "localhost");
        let answer = ask(&mut client, "?").unwrap();
        let kind = client.conn.handshake_kind();
        assert_eq!(
            kind == Some(HandshakeKind::Resumed),
            answer.ends_with("true")
        );
        answer.ends_with("true")
    };
    assert!(!resumed(&config));
    assert!(resumed(&config));
    // The keys of tickets stay.
    tls.reload().unwrap();
    assert!(resumed(&config));
    let without = setup.options().resumption(false).build().unwrap();
    let (_guard, address) = spawn(builder(&without), describe);
    for _ in 0..2 {
        let answer = ask(&mut connect(address, &config, "localhost"), "?").unwrap();
        assert!(answer.ends_with("false"), "{answer}");
    }
}

#[test]
fn an_end_with_close_notify_differs_from_one_without() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (ends, wait) = channel();
    let (_guard, address) = spawn(builder(&tls), move |conn: &mut Conn| {
        let mut input = Vec::new();
        let end = conn.read_to_end(&mut input).map_err(|err| err.kind());
        ends.send((input, end)).expect("the test waits");
    });
    let config = setup.client();
    let mut good = connect(address, &config, "localhost");
    good.write_all(b"whole").unwrap();
    good.conn.send_close_notify();
    good.flush().unwrap();
    let end = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(end, (b"whole".to_vec(), Ok(5)));
    let mut cut = connect(address, &config, "localhost");
    cut.write_all(b"cut").unwrap();
    cut.sock.shutdown(Shutdown::Write).unwrap();
    let end = wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(end, (b"cut".to_vec(), Err(io::ErrorKind::UnexpectedEof)));
    // The client is told of the server's end. `read_to_string` would fail without close_notify.
    let mut rest = String::new();
    good.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn between_messages_both_ends_are_ends() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (ends, wait) = channel();
    let (_guard, address) = spawn(builder(&tls), move |conn: &mut Conn| {
        let mut messages = 0;
        while conn.next_message()? {
            let mut line = String::new();
            conn.read_line_max(&mut line, 100)?;
            conn.write_all(line.as_bytes())?;
            messages += 1;
        }
        ends.send(messages).expect("the test waits");
        Ok::<_, io::Error>(())
    });
    let config = setup.client();
    for with_notify in [true, false] {
        let mut client = connect(address, &config, "localhost");
        client.write_all(b"one\ntwo\n").unwrap();
        client.write_all(b"three\n").unwrap();
        // The end comes alone.
        client.read_exact(&mut [0; 14]).unwrap();
        if with_notify {
            client.conn.send_close_notify();
            client.flush().unwrap();
        } else {
            client.sock.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), 3);
    }
}

#[test]
fn a_whole_request_is_judged_by_its_plain_text() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let builder = builder(&tls)
        .model(ThreadPool::new(1))
        .whole_request(|input| input.contains(&b'\n'));
    let (_guard, address) = spawn(builder, |conn: &mut Conn| {
        let mut line = String::new();
        if conn.read_line_max(&mut line, 100)? == 0 {
            return Ok(Next::Close);
        }
        conn.write_all(line.as_bytes())?;
        Ok::<_, io::Error>(Next::Park)
    });
    let take = |client: &mut crate::Client, line: &str| {
        let mut answer = vec![0; line.len()];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), line);
    };
    let config = setup.client();
    let mut slow = connect(address, &config, "localhost");
    slow.write_all(b"one\ntw").unwrap();
    take(&mut slow, "one\n");
    // The part of a line holds no thread.
    let mut other = connect(address, &config, "localhost");
    other.write_all(b"other\n").unwrap();
    take(&mut other, "other\n");
    slow.write_all(b"o\nthree\nfo").unwrap();
    take(&mut slow, "two\n");
    take(&mut slow, "three\n");
    slow.write_all(b"ur\n").unwrap();
    take(&mut slow, "four\n");
}

#[test]
fn large_answers_and_requests_come_whole() {
    const SIZE: usize = 1 << 20;
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), |conn: &mut TlsConnection<TcpConnection>| {
        let mut input = vec![0; SIZE];
        conn.read_exact(&mut input)?;
        conn.set_write_buffer(4096)?;
        conn.write_all(&input)
    });
    let sent: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
    let mut client = pumped(address, setup.client());
    client.write_all(&sent).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(sent == received);
}

#[test]
fn a_connection_beyond_a_limit_gets_no_plain_text() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let limit = socketserver::limits::AtLimit::RefuseWith(b"busy".to_vec());
    let builder = builder(&tls).max_connections(1).at_limit(limit);
    let (_guard, address) = spawn(builder, |conn: &mut Conn| conn.read(&mut [0]).map(drop));
    let mut first = connect(address, &setup.client(), "localhost");
    first.conn.complete_io(&mut first.sock).unwrap();
    let mut refused = Vec::new();
    plain(address).read_to_end(&mut refused).unwrap();
    assert_eq!(refused, b"");
}
