//! What a handler knows of a client that comes through a proxy.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;

use socketserver::net::{Accepted, TcpConnection, UnixAddress};
use socketserver::observe::Event;
use socketserver::proxied::{ClientTls, Header, Kind};
use socketserver::{Connection, IntoOutcome, ServerGuard, task};

use crate::support::DEADLINE;
use crate::{CLIENT, Conn, FRONT, ask, builder, connect, header, spawn, trusting};

fn serve<O: IntoOutcome>(
    handler: impl Fn(&mut Conn) -> O + Send + Sync + 'static,
) -> (ServerGuard, SocketAddr) {
    spawn(builder(&trusting()), handler)
}

/// Says who the client is, and repeats a line.
fn describe(conn: &mut impl Connection) -> std::io::Result<()> {
    let (peer, local) = (conn.peer(), conn.local_addr()?);
    let via = conn.via().and_then(|via| via.ip());
    let via = via.map_or_else(|| "no proxy".to_owned(), |ip| ip.to_string());
    let host = conn
        .proxy_header()
        .and_then(Header::authority)
        .unwrap_or("no host")
        .to_owned();
    let mut line = String::new();
    conn.read_line_max(&mut line, 100)?;
    write!(conn, "{peer} to {local} ({host}) through {via}: {line}")
}

#[test]
fn a_handler_knows_the_client_and_its_proxy() {
    let (_guard, server) = serve(describe);
    for bytes in [
        header().to_v1().expect("a header"),
        header().to_v2().expect("a header"),
    ] {
        let answer = ask(server, &[&bytes, &b"PROXY data\n"[..]].concat()).unwrap();
        assert_eq!(
            answer,
            format!("{CLIENT} to {FRONT} (no host) through 127.0.0.1: PROXY data\n")
        );
    }
    let named = header()
        .with(Kind::AUTHORITY, b"example.com")
        .crc32c()
        .to_v2()
        .expect("a header");
    let answer = ask(server, &[&named[..], b"\n"].concat()).unwrap();
    assert_eq!(
        answer,
        format!("{CLIENT} to {FRONT} (example.com) through 127.0.0.1: \n")
    );
}

#[test]
fn a_connection_of_the_proxy_itself_has_the_addresses_of_its_sockets() {
    let (_guard, server) = serve(describe);
    let local = Header::local().to_v2().expect("a header");
    for bytes in [&local[..], b"PROXY UNKNOWN\r\n"] {
        let mut client = connect(server);
        client.write_all(&[bytes, b"own\n"].concat()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let own = client.local_addr().unwrap();
        assert_eq!(
            answer,
            format!("{own} to {server} (no host) through no proxy: own\n")
        );
    }
}

#[test]
fn a_client_of_a_unix_socket_comes_through_tcp() {
    let (_guard, server) = serve(describe);
    let unix = Header::new(
        &UnixAddress::from("/client").into(),
        &UnixAddress::from("/front").into(),
    );
    let answer = ask(
        server,
        &[&unix.to_v2().expect("a header")[..], b"\n"].concat(),
    )
    .unwrap();
    assert_eq!(answer, "/client to /front (no host) through 127.0.0.1: \n");
}

#[test]
fn events_tell_of_the_proxy_and_then_of_the_client() {
    let (lines, wait) = channel();
    let builder = builder(&trusting()).observer(move |event: &Event<'_>| {
        let line = match event {
            Event::Accepted { peer, .. } => format!("accepted {}", peer.ip().expect("TCP")),
            Event::Proxied { peer, via, .. } => {
                format!(
                    "proxied {peer} {}",
                    via.as_ref().and_then(|via| via.ip()).expect("TCP")
                )
            }
            Event::Failed(failure) => format!("failed {}", failure.peer()),
            Event::Ended { peer, .. } => format!("ended {peer}"),
            _ => return,
        };
        lines.send(line).expect("the test waits");
    });
    let (_guard, server) = spawn(builder, |_: &mut Conn| Err::<(), _>("as asked".to_owned()));
    assert_eq!(
        ask(server, &header().to_v1().expect("a header")).unwrap(),
        ""
    );
    let next = || wait.recv_timeout(DEADLINE).unwrap();
    assert_eq!(next(), "accepted 127.0.0.1");
    assert_eq!(next(), format!("proxied {CLIENT} 127.0.0.1"));
    assert_eq!(
        [next(), next()],
        [format!("failed {CLIENT}"), format!("ended {CLIENT}")]
    );
}

#[test]
fn halves_futures_and_writers_begin_behind_the_header() {
    let (_guard, server) = serve(|conn: &mut Conn| {
        let mut byte = [0];
        let polled = std::future::poll_fn(|cx| conn.poll_read(cx, &mut byte));
        assert_eq!(task::block_on(polled)??, 1);
        let written = std::future::poll_fn(|cx| conn.poll_write(cx, &byte));
        assert_eq!(task::block_on(written)??, 1);
        conn.writer()?.write_all(b"-")?;
        let (mut input, mut output) = conn.halves()?;
        std::io::copy(&mut input, &mut output)?;
        output.shutdown()
    });
    let mut client = connect(server);
    client
        .write_all(&[&header().to_v1().expect("a header")[..], b"abc"].concat())
        .unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "a-bc");
}

#[test]
fn a_handler_sends_a_header_to_the_server_behind_it() {
    let (_behind, behind) = serve(|conn: &mut Conn| {
        let header = conn.proxy_header().expect("a header");
        let name = header
            .tls()
            .and_then(|tls| tls.common_name().map(str::to_owned));
        let (id, peer) = (header.unique_id().map(<[u8]>::to_vec), conn.peer());
        write!(conn, "{peer} {name:?} {id:?}")
    });
    let (_front, front) = serve(move |conn: &mut Conn| {
        let tls = ClientTls::new().with_client("alice");
        let header = conn.proxy_header().expect("a header").clone();
        let header = header.with(Kind::UNIQUE_ID, b"7").with_tls(&tls);
        let mut next = TcpConnection::connect(behind, DEADLINE).map_err(std::io::Error::other)?;
        next.write_all(&header.to_v2()?)?;
        std::io::copy(&mut next, conn).map(drop)
    });
    for sent in [header(), header().crc32c()] {
        let answer = ask(front, &sent.to_v2().expect("a header")).unwrap();
        assert_eq!(answer, format!("{CLIENT} Some(\"alice\") Some([55])"));
    }
}

#[cfg(feature = "tls")]
mod over_tls {
    use std::sync::mpsc::channel;

    use rustls::{ClientConnection, StreamOwned};
    use socketserver::net::Bind;
    use socketserver::proxied::Proxied;
    use socketserver::tls::{Tls, TlsConfig};
    use socketserver::{Builder, Server, Tcp, Threading};

    use super::*;
    use crate::support::tls::Authority;

    /// A server whose clients speak TLS behind the header.
    fn secure(authority: &Authority) -> Builder<Tls<Proxied<Tcp>>, Threading> {
        let folder = tempfile::tempdir().expect("a folder");
        authority
            .issue(&["localhost"])
            .write(folder.path(), "server");
        let path = |name| folder.path().join(name);
        let tls = TlsConfig::builder().certificate(path("server.pem"), path("server.key"));
        let tls = tls.build().expect("TLS");
        let listeners = trusting().listen(Tcp::bind("127.0.0.1:0").expect("bind"));
        Server::<Tls<Proxied<Tcp>>, Threading>::builder().listen(tls.listen(listeners))
    }

    #[test]
    fn the_header_comes_before_the_handshake() {
        let authority = Authority::new();
        let server = secure(&authority).build().unwrap();
        let address = server.local_addrs()[0].socket_addr().unwrap();
        let _guard = server.spawn(describe).unwrap();
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(authority.client().into(), name).unwrap();
        let mut below = connect(address);
        below
            .write_all(&header().to_v2().expect("a header"))
            .unwrap();
        let mut client = StreamOwned::new(tls, below);
        client.write_all(b"secret\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(
            answer,
            format!("{CLIENT} to {FRONT} (no host) through 127.0.0.1: secret\n")
        );
    }

    /// A client that is refused is refused before it has begun a handshake.
    #[test]
    fn a_client_is_judged_before_the_handshake() {
        let authority = Authority::new();
        let (peers, wait) = channel();
        let builder = secure(&authority).verify(move |conn| {
            peers.send(conn.peer().to_string()).expect("the test waits");
            false
        });
        let server = builder.build().unwrap();
        let address = server.local_addrs()[0].socket_addr().unwrap();
        let guard = server.spawn(|_| ()).unwrap();
        // A handshake would fail.
        let bytes = [&header().to_v2().expect("a header")[..], b"no TLS\n"].concat();
        assert_eq!(ask(address, &bytes).unwrap(), "");
        assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), CLIENT);
        let handle = guard.handle().clone();
        guard.stop().unwrap();
        let totals = handle.totals();
        assert_eq!((totals.refused, totals.completed, totals.failed), (1, 0, 0));
        assert!(wait.recv_timeout(DEADLINE).is_err(), "judged once");
    }
}
