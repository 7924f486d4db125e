//! PROXY headers that are sent, byte by byte, and that are received and sent on.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};

use crate::support::{Client, DEADLINE, uninterrupted, unique_name};
use crate::{LOCAL, MODELS, Upstream, expect, proxy, stop, tcp};

/// The signature of version 2, and a command and a family behind it.
fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

/// The addresses of a header of version 2.
fn pair(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let ip = |addr: SocketAddr| match addr.ip() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    [ip(from), ip(to), ports].concat()
}

#[test]
fn each_version_is_sent_before_the_first_byte() {
    for model in MODELS {
        for version in ["v1", "v2"] {
            let upstream = Upstream::new();
            let words = format!("--send-proxy {version} --model {model}");
            let proxy = proxy(&words, &[&upstream.url], &[LOCAL]);
            let mut client = tcp(&proxy.urls[0]);
            let (from, to) = (
                client.local_addr().expect("bound"),
                client.peer_addr().expect("connected"),
            );
            client.write_all(b"hello").expect("write");
            let mut server = upstream.accept();
            let header = if version == "v1" {
                format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
                    from.port(),
                    to.port()
                )
                .into_bytes()
            } else {
                v2(1, 0x11, &pair(from, to))
            };
            expect(&mut server, &header);
            expect(&mut server, b"hello");
            drop((client, server));
            stop(proxy);
        }
    }
}

#[test]
fn the_clients_of_unix_sockets_have_no_address_in_version_1() {
    let upstream = Upstream::new();
    let name = format!("unix:{}", unique_name());
    let proxy = proxy("--send-proxy v1", &[&upstream.url], &[&name]);
    let mut client = Client::connect(&proxy.urls[0]);
    client.send(b"hello");
    expect(&mut upstream.accept(), b"PROXY UNKNOWN\r\nhello");
    drop(client);
    stop(proxy);
}

#[test]
fn the_client_of_a_received_header_is_the_one_that_is_sent_on() {
    let upstream = Upstream::new();
    let words = "--proxy-protocol v1 --proxy-trust 127.0.0.1 --send-proxy v2";
    let proxy = proxy(words, &[&upstream.url], &[LOCAL]);
    let mut client = tcp(&proxy.urls[0]);
    client
        .write_all(b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\nhello")
        .expect("write");
    let [from, to] =
        ["[2001:db8::1]:1234", "[2001:db8::2]:80"].map(|addr| addr.parse().expect(addr));
    let mut server = upstream.accept();
    expect(&mut server, &v2(1, 0x21, &pair(from, to)));
    expect(&mut server, b"hello");
    drop((client, server));
    stop(proxy);
}

#[test]
fn checks_are_connections_of_the_proxy_itself() {
    let (first, second) = (Upstream::new(), Upstream::new());
    let words = "--send-proxy v2 --check-interval 100";
    let proxy = proxy(words, &[&first.url, &second.url], &[LOCAL]);
    let client = tcp(&proxy.urls[0]);
    let mut checked = second.accept();
    let mut bytes = Vec::new();
    checked.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, v2(0, 0, &[]));
    drop((client, first));
    stop(proxy);
}

#[test]
fn each_datagram_has_a_header() {
    let upstream = UdpSocket::bind("127.0.0.1:0").expect("bind");
    upstream
        .set_read_timeout(Some(DEADLINE))
        .expect("a deadline");
    let url = format!("udp://{}", upstream.local_addr().expect("bound"));
    for listen in ["udp://127.0.0.1:0", "udp://0.0.0.0:0"] {
        let proxy = proxy("--send-proxy v2", &[&url], &[listen]);
        let port = proxy.urls[0].rsplit_once(':').expect("a port").1;
        let to: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        client.connect(to).expect("connect");
        let header = v2(1, 0x12, &pair(client.local_addr().expect("bound"), to));
        for text in ["one", "two"] {
            client.send(text.as_bytes()).expect("send");
            let mut buf = [0; 100];
            let (count, from) = uninterrupted(|| upstream.recv_from(&mut buf)).expect("receive");
            assert_eq!(buf[..count], [&header, text.as_bytes()].concat());
            // The answer has none.
            upstream.send_to(text.as_bytes(), from).expect("send");
            let count = uninterrupted(|| client.recv(&mut buf)).expect("receive");
            assert_eq!(&buf[..count], text.as_bytes());
        }
        stop(proxy);
    }
}
