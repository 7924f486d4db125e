//! The PROXY protocol: headers of both versions, connections and datagrams that come through a proxy, and limits by
//! their clients. Every model serves it in `matrix.rs`.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod clients;
mod corpus;
mod datagrams;
mod headers;
mod limits;
mod slow;
mod trust;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use socketserver::model::Model;
use socketserver::net::{Address, Bind, TcpConnection};
use socketserver::proxied::{Header, Proxied, ProxiedConnection, ProxyConfig};
use socketserver::{Builder, IntoOutcome, Server, ServerGuard, Tcp, Threading};
use support::DEADLINE;

type Conn = ProxiedConnection<TcpConnection>;

const CLIENT: &str = "192.0.2.7:56324";
const FRONT: &str = "192.0.2.1:443";

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().expect("an address").into()
}

/// The header of a client at [`CLIENT`].
fn header() -> Header {
    Header::new(&address(CLIENT), &address(FRONT))
}

/// The header of a client with this address.
fn header_of(client: &str) -> Vec<u8> {
    let header = Header::new(&address(client), &address(FRONT));
    header.to_v2().expect("a header")
}

/// Trusts the clients of tests.
fn trusting() -> ProxyConfig {
    ProxyConfig::trust(["127.0.0.1"]).expect("a network")
}

/// Listens on a free port, and demands a header.
fn builder(proxy: &ProxyConfig) -> Builder<Proxied<Tcp>, Threading> {
    let listeners = proxy.listen(Tcp::bind("127.0.0.1:0").expect("bind"));
    Server::<Proxied<Tcp>, Threading>::builder().listen(listeners)
}

fn spawn<M: Model, O: IntoOutcome>(
    builder: Builder<Proxied<Tcp>, M>,
    handler: impl Fn(&mut Conn) -> O + Send + Sync + 'static,
) -> (ServerGuard, SocketAddr) {
    let server = builder.build().expect("build");
    let address = server.local_addrs()[0].socket_addr().expect("TCP");
    (server.spawn(handler).expect("spawn"), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connect");
    client
        .set_read_timeout(Some(DEADLINE))
        .expect("set a deadline");
    client
}

/// Sends bytes and returns the answer up to the end.
fn ask(address: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut client = connect(address);
    client.write_all(bytes)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}
