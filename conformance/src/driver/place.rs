//! Where each transport is bound, with the options of a scenario.

use std::fmt::Debug;

use socketserver::net::{Accepted, Address, BoundTcp, BoundUnixStream, Transport, UnixAddress};
use socketserver::tls::{Tls, TlsConfig};
use socketserver::{Error, Tcp, Udp, UnixDatagram, UnixStream};

use super::script::Peer;
use super::spec;

/// A transport as the driver binds it.
pub(super) trait Place: Transport<Accepted: Peer> + Debug {
    /// Bound, and not yet listening; for datagrams there is no difference.
    type Bound;

    /// Where the scenario wants the server.
    fn address() -> String;

    fn bind_only(address: &str) -> Result<Self::Bound, Error>;

    fn listen(bound: Self::Bound) -> Result<Vec<Self>, Error>;

    /// For the runner: `inet 127.0.0.1:80`, `path s`, `abstract name`.
    fn bound_address(bound: &Self::Bound) -> String;
}

fn inet_address() -> String {
    let host = spec().get("host").unwrap_or("127.0.0.1");
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    format!("{host}:{}", spec().get("port").unwrap_or("0"))
}

/// The name of a Unix socket; an abstract one begins with an at sign.
fn unix_name() -> String {
    // Servers of other cells run at the same time.
    let unique = |name| format!("@{name}-{}", std::process::id());
    spec()
        .get("abstract")
        .map_or_else(|| "s".to_owned(), unique)
}

fn unix_address(name: &str) -> UnixAddress {
    match name.strip_prefix('@') {
        Some(name) => UnixAddress::Abstract(name.as_bytes().to_vec()),
        None => UnixAddress::from(name),
    }
}

fn unix_bound() -> String {
    match unix_name().strip_prefix('@') {
        Some(name) => format!("abstract {name}"),
        None => "path s".to_owned(),
    }
}

fn inet_bound(addresses: &[Address]) -> String {
    format!("inet {}", addresses[0])
}

impl Place for Tcp {
    type Bound = BoundTcp;

    fn address() -> String {
        inet_address()
    }

    fn bind_only(address: &str) -> Result<BoundTcp, Error> {
        let mut options = Self::options();
        if let Some(backlog) = spec().number("backlog") {
            options = options.backlog(backlog as u32);
        }
        if spec().get("reuse_address").is_some() {
            options = options.reuse_address(spec().is_on("reuse_address"));
        }
        if spec().get("nodelay").is_some() {
            options = options.nodelay(spec().is_on("nodelay"));
        }
        options
            .reuse_port(spec().is_on("reuse_port"))
            .bind_only(address)
    }

    fn listen(bound: BoundTcp) -> Result<Vec<Self>, Error> {
        bound.listen()
    }

    fn bound_address(bound: &BoundTcp) -> String {
        inet_bound(&bound.local_addrs().expect("bound"))
    }
}

impl Place for Tls<Tcp> {
    type Bound = BoundTcp;

    fn address() -> String {
        Tcp::address()
    }

    fn bind_only(address: &str) -> Result<BoundTcp, Error> {
        Tcp::bind_only(address)
    }

    fn listen(bound: BoundTcp) -> Result<Vec<Self>, Error> {
        let tls = TlsConfig::builder().certificate("server.pem", "server.key");
        Ok(tls.build()?.listen(bound.listen()?))
    }

    fn bound_address(bound: &BoundTcp) -> String {
        Tcp::bound_address(bound)
    }
}

impl Place for Udp {
    type Bound = Vec<Self>;

    fn address() -> String {
        inet_address()
    }

    fn bind_only(address: &str) -> Result<Vec<Self>, Error> {
        let mut options = Self::options().reuse_port(spec().is_on("reuse_port"));
        if let Some(most) = spec().number("max_packet") {
            options = options.max_datagram(most as usize);
        }
        options.bind(address)
    }

    fn listen(bound: Vec<Self>) -> Result<Vec<Self>, Error> {
        Ok(bound)
    }

    fn bound_address(bound: &Vec<Self>) -> String {
        inet_bound(&[bound[0].local_addr()])
    }
}

impl Place for UnixStream {
    type Bound = BoundUnixStream;

    fn address() -> String {
        unix_name()
    }

    fn bind_only(address: &str) -> Result<BoundUnixStream, Error> {
        let mut options = Self::options();
        if let Some(backlog) = spec().number("backlog") {
            options = options.backlog(backlog as u32);
        }
        options.bind_only(unix_address(address))
    }

    fn listen(bound: BoundUnixStream) -> Result<Vec<Self>, Error> {
        Ok(vec![bound.listen()?])
    }

    fn bound_address(_: &BoundUnixStream) -> String {
        unix_bound()
    }
}

impl Place for UnixDatagram {
    type Bound = Vec<Self>;

    fn address() -> String {
        unix_name()
    }

    fn bind_only(address: &str) -> Result<Vec<Self>, Error> {
        let mut options = Self::options();
        if let Some(most) = spec().number("max_packet") {
            options = options.max_datagram(most as usize);
        }
        Ok(vec![options.bind(unix_address(address))?])
    }

    fn listen(bound: Vec<Self>) -> Result<Vec<Self>, Error> {
        Ok(bound)
    }

    fn bound_address(_: &Vec<Self>) -> String {
        unix_bound()
    }
}

/// Who sent a request, as both languages say it.
pub(super) fn peer_name(request: &impl Accepted) -> String {
    match request.peer() {
        Address::Inet(addr) => addr.to_string(),
        Address::Unix(UnixAddress::Path(path)) => path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        Address::Unix(UnixAddress::Abstract(_)) => "abstract".to_owned(),
        _ => "unnamed".to_owned(),
    }
}
