//! Datagrams, each of which has a header in front of its data.

use std::net::{SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram as Client;
use std::sync::mpsc::{Receiver, channel};

use socketserver::net::{Accepted, Bind, UdpPacket, UnixAddress};
use socketserver::proxied::{Header, Proxied, ProxyConfig, Version};
use socketserver::{Datagram, IntoOutcome, Sequential, Server, ServerGuard, Udp, UnixDatagram};

use crate::support::{DEADLINE, uninterrupted};
use crate::{CLIENT, header, trusting};

fn serve<O: IntoOutcome>(
    proxy: &ProxyConfig,
    handler: impl Fn(&mut UdpPacket) -> O + Send + Sync + 'static,
) -> (ServerGuard, SocketAddr, Receiver<String>) {
    let (failures, wait) = channel();
    let server = Server::<Proxied<Udp>, Sequential>::builder()
        .listen(proxy.listen(Udp::bind("127.0.0.1:0").expect("bind")))
        .on_error(move |failure| {
            let line = format!("{} {}", failure.peer(), failure.error());
            failures.send(line).expect("the test waits");
        })
        .build()
        .expect("build");
    let address = server.local_addrs()[0].socket_addr().expect("UDP");
    (server.spawn(handler).expect("spawn"), address, wait)
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

fn answer(client: &UdpSocket) -> String {
    let mut answer = vec![0; 65_536];
    let count = uninterrupted(|| client.recv(&mut answer)).expect("an answer");
    answer.truncate(count);
    String::from_utf8(answer).expect("UTF-8")
}

fn with(header: &Header, data: &[u8]) -> Vec<u8> {
    [&header.to_v2().expect("a header"), data].concat()
}

#[test]
fn a_header_is_in_front_of_each_datagram() {
    let (_guard, server, _) = serve(&trusting(), |datagram| {
        let via = datagram.via().map(|via| via.ip().expect("UDP"));
        let data = String::from_utf8_lossy(datagram.packet()).into_owned();
        let text = format!(
            "{} {} {via:?} {data}",
            datagram.peer(),
            datagram.peer_addr()
        );
        datagram.set_reply(text.as_bytes());
    });
    let proxy = client();
    for header in [header().datagram(), header(), header().crc32c()] {
        for data in ["", "data", "\r\n\r\n"] {
            proxy
                .send_to(&with(&header, data.as_bytes()), server)
                .unwrap();
            assert_eq!(
                answer(&proxy),
                format!("{CLIENT} {CLIENT} Some(127.0.0.1) {data}")
            );
        }
    }
    let own = proxy.local_addr().unwrap();
    proxy
        .send_to(&with(&Header::local(), b"own"), server)
        .unwrap();
    assert_eq!(answer(&proxy), format!("{own} {own} None own"));
    // A client without a port has come to the proxy some other way.
    let unix = Header::new(
        &UnixAddress::from("/client").into(),
        &UnixAddress::Unnamed.into(),
    );
    proxy.send_to(&with(&unix, b"x"), server).unwrap();
    assert_eq!(answer(&proxy), format!("/client {own} Some(127.0.0.1) x"));
}

#[test]
fn replies_go_to_the_proxy_without_a_header() {
    let (_guard, server, _) = serve(&trusting(), |datagram: &mut UdpPacket| {
        match datagram.packet() {
            b"echo" => {
                datagram.echo();
                Ok(())
            }
            b"more" => {
                datagram.echo();
                std::io::Write::write_all(datagram, b" and more")
            }
            _ => datagram.send(b"sent"),
        }
    });
    let proxy = client();
    for (data, reply) in [
        ("echo", "echo"),
        ("more", "more and more"),
        ("send", "sent"),
    ] {
        proxy
            .send_to(&with(&header().datagram(), data.as_bytes()), server)
            .unwrap();
        assert_eq!(answer(&proxy), reply);
    }
}

#[test]
fn a_datagram_without_a_good_header_is_not_served() {
    let (_guard, server, wait) = serve(&trusting(), UdpPacket::echo);
    let proxy = client();
    let own = proxy.local_addr().unwrap();
    let whole = with(&header().datagram(), b"");
    let mut bad: Vec<_> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    bad.push(b"no header".to_vec());
    bad.push(header().to_v1().expect("a header"));
    let of_version_2 = |(bytes, _): &(Vec<u8>, &str)| !bytes.starts_with(b"PROXY ");
    bad.extend(
        crate::headers::bad()
            .into_iter()
            .filter(of_version_2)
            .map(|(bytes, _)| bytes),
    );
    for bytes in bad {
        proxy.send_to(&bytes, server).unwrap();
        let line = wait.recv_timeout(DEADLINE).unwrap();
        assert!(line.starts_with(&format!("{own} PROXY header: ")), "{line}");
    }
    proxy.send_to(&with(&header(), b"good"), server).unwrap();
    assert_eq!(answer(&proxy), "good");
}

#[test]
fn only_datagrams_of_trusted_proxies_are_served() {
    for proxy in [
        ProxyConfig::trust(["192.0.2.0/24", "unix"]).unwrap(),
        trusting().version(Version::V1),
    ] {
        let (_guard, server, wait) = serve(&proxy, UdpPacket::echo);
        client().send_to(&with(&header(), b"data"), server).unwrap();
        let line = wait.recv_timeout(DEADLINE).unwrap();
        assert!(
            line.contains("trusted") || line.contains("no datagrams"),
            "{line}"
        );
    }
}

#[test]
fn unix_datagrams_have_headers_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g");
    let proxy = ProxyConfig::trust(["unix"]).unwrap();
    let listeners = proxy.listen([UnixDatagram::options().bind(&path).unwrap()]);
    let server = Server::<Proxied<UnixDatagram>, Sequential>::builder().listen(listeners);
    let _guard = server.build().unwrap().spawn(|datagram| {
        let text = format!("{} {}", datagram.peer(), datagram.packet().len());
        datagram.set_reply(text.as_bytes());
    });
    let name = format!("socketserver-test-proxied-{}", std::process::id());
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let client = Client::bind_addr(&name).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(&with(&header(), b"data"), &path).unwrap();
    let mut answer = [0; 100];
    let count = uninterrupted(|| client.recv(&mut answer)).unwrap();
    assert_eq!(&answer[..count], format!("{CLIENT} 4").as_bytes());
}
