//! Certificates that are replaced while the server serves.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use socketserver::Connection;
use socketserver::tls::TlsConfig;

use crate::support::DEADLINE;
use crate::{Conn, Setup, ask, builder, connect, spawn};

/// The certificate that a server shows.
fn shown(address: SocketAddr, config: &ClientConfig) -> Vec<u8> {
    // A resumed session shows the certificate of the first.
    let mut config = config.clone();
    config.resumption = rustls::client::Resumption::disabled();
    let mut client = connect(address, &config, "localhost");
    ask(&mut client, "hello").expect("an answer");
    client.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

fn echo(conn: &mut Conn) -> std::io::Result<()> {
    let mut line = String::new();
    conn.read_line_max(&mut line, 100)?;
    conn.write_all(line.as_bytes())
}

#[test]
fn a_reload_concerns_the_connections_that_follow() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), echo);
    let config = setup.client();
    let old = shown(address, &config);
    let mut kept = connect(address, &config, "localhost");
    kept.conn.complete_io(&mut kept.sock).unwrap();
    setup.pair("server", &["localhost"]);
    assert_eq!(shown(address, &config), old);
    tls.reload().unwrap();
    assert_ne!(shown(address, &config), old);
    assert_eq!(ask(&mut kept, "kept").unwrap(), "kept\n");
}

#[test]
fn a_bad_file_keeps_the_old_pair() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), echo);
    let config = setup.client();
    let old = shown(address, &config);
    let next = setup.authority.issue(&["localhost"]);
    // The certificate is there before its key, and then the other way round.
    fs::write(setup.path("server.pem"), &next.certificate).unwrap();
    let err = tls.reload().unwrap_err().to_string();
    assert!(err.contains("does not belong to the certificate"), "{err}");
    assert_eq!(shown(address, &config), old);
    fs::write(setup.path("server.key"), &next.key).unwrap();
    tls.reload().unwrap();
    let new = shown(address, &config);
    assert_ne!(new, old);
    fs::write(setup.path("server.pem"), "").unwrap();
    let err = tls.reload().unwrap_err().to_string();
    assert!(err.contains("server.pem: the file is empty"), "{err}");
    assert_eq!(shown(address, &config), new);
}

#[test]
fn files_that_change_are_read_again() {
    let setup = Setup::new();
    let (results, wait) = channel();
    let tls = setup
        .options()
        .watch_files(Duration::ZERO)
        .on_reload(move |result| {
            let result = result.map_err(ToString::to_string);
            results.send(result).expect("the test waits");
        })
        .build()
        .unwrap();
    let (_guard, address) = spawn(builder(&tls), echo);
    let config = setup.client();
    let old = shown(address, &config);
    let next = setup.authority.issue(&["localhost"]);
    fs::write(setup.path("server.key"), &next.key).unwrap();
    assert_eq!(shown(address, &config), old);
    let err = wait.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert!(err.contains("server.key: it does not belong"), "{err}");
    // The same error is reported once.
    assert_eq!(shown(address, &config), old);
    assert!(wait.try_recv().is_err());
    fs::write(setup.path("server.pem"), &next.certificate).unwrap();
    assert_ne!(shown(address, &config), old);
    assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), Ok(()));
}

/// As where no descriptor was left to open it: the file is the same when it can be read.
#[test]
fn a_file_that_could_not_be_read_is_read_at_the_next_check() {
    let setup = Setup::new();
    let (results, wait) = channel();
    let tls = setup
        .options()
        .watch_files(Duration::ZERO)
        .on_reload(move |result| results.send(result.is_ok()).expect("the test waits"))
        .build()
        .unwrap();
    let next = setup.authority.issue(&["localhost"]);
    let put = |certificate: &str| {
        let mut file = fs::File::create(setup.path("server.pem")).unwrap();
        file.write_all(certificate.as_bytes()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    };
    let (_guard, address) = spawn(builder(&tls), echo);
    let config = setup.client();
    let old = shown(address, &config);
    fs::write(setup.path("server.key"), &next.key).unwrap();
    put(&next.certificate.replace('E', "!"));
    for _ in 0..2 {
        assert_eq!(shown(address, &config), old);
    }
    assert!(!wait.recv_timeout(DEADLINE).unwrap());
    assert!(wait.try_recv().is_err(), "one failure, one report");
    put(&next.certificate);
    let new = shown(address, &config);
    assert_ne!(new, old);
    assert!(wait.recv_timeout(DEADLINE).unwrap());
    // Also after a reload that the program has made itself.
    let next = setup.authority.issue(&["localhost"]);
    fs::write(setup.path("server.key"), &next.key).unwrap();
    put(&next.certificate.replace('E', "!"));
    tls.reload().unwrap_err();
    put(&next.certificate);
    assert_ne!(shown(address, &config), new);
    assert!(wait.recv_timeout(DEADLINE).unwrap());
}

#[test]
fn a_request_reloads_before_the_next_connection() {
    let setup = Setup::new();
    let (results, wait) = channel();
    let tls: TlsConfig = setup
        .options()
        .on_reload(move |result| results.send(result.is_ok()).expect("the test waits"))
        .build()
        .unwrap();
    let (_guard, address) = spawn(builder(&tls), echo);
    let config = setup.client();
    let old = shown(address, &config);
    setup.pair("server", &["localhost"]);
    tls.request_reload();
    assert_ne!(shown(address, &config), old);
    assert!(wait.recv_timeout(DEADLINE).unwrap());
    shown(address, &config);
    assert!(wait.try_recv().is_err(), "one request, one reload");
}

#[test]
fn fifty_reloads_under_load_lose_no_connection() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (guard, address) = spawn(builder(&tls), echo);
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (over, served, setup) = (&over, &served, &setup);
                scope.spawn(move || {
                    let mut config = setup.client();
                    config.resumption = rustls::client::Resumption::disabled();
                    while !over.load(Ordering::SeqCst) {
                        let mut client = connect(address, &config, "localhost");
                        let answer = ask(&mut client, &number.to_string());
                        assert_eq!(answer.expect("an answer"), format!("{number}\n"));
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for round in 0..50 {
            setup.pair("server", &["localhost"]);
            tls.reload().expect("a good pair");
            let before = served.load(Ordering::SeqCst);
            // At least one connection is served with each pair.
            let what = format!("a connection in round {round}");
            crate::support::poll_until(&what, DEADLINE, || {
                let moved = served.load(Ordering::SeqCst) > before;
                (moved || clients.iter().any(|client| client.is_finished())).then_some(())
            });
        }
        over.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("no connection has failed");
        }
    });
    let handle = guard.handle().clone();
    guard.stop().unwrap();
    let totals = handle.totals();
    assert_eq!((totals.failed, totals.completed), (0, totals.accepted));
}

#[test]
fn a_client_that_shakes_hands_during_a_reload_is_served() {
    let setup = Setup::new();
    let tls = setup.options().build().unwrap();
    let (_guard, address) = spawn(builder(&tls), echo);
    let mut client = connect(address, &setup.client(), "localhost");
    // The first message alone.
    client.conn.write_tls(&mut client.sock).unwrap();
    setup.pair("server", &["localhost"]);
    tls.reload().unwrap();
    client.write_all(b"on\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "on\n");
}
