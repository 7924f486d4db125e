//! Upstreams: their URLs, and connecting to them.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::{SocketAddrUnix, bind, connect, sockopt};
use socket2::{Domain, Socket, Type};
use socketserver::net::{
    Dialed, Either, SeqpacketConnection, TcpConnection, UnixAddress, UnixConnection,
};
use socketserver::task;
use socketserver::tls::{Connector, TlsConnection};

use crate::listen::{HostPort, SocketKind, Target};
use crate::proxy::Proxy;

/// The URL of an upstream, checked.
#[derive(Clone, Debug)]
pub(crate) struct To {
    url: String,
    target: Target,
    is_tls: bool,
}

/// What a listener or an upstream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Seqpacket,
    Datagram,
}

/// A connection of bytes to an upstream.
pub(crate) type Server = Either<
    Either<Dialed<TcpConnection>, Dialed<UnixConnection>>,
    Dialed<TlsConnection<TcpConnection>>,
>;

const FORMS: &str = "an upstream is tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, unix:///PATH or unix:@NAME; unixgram and seqpacket are written as unix is";

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('?') {
            return Err(
                "an upstream has no options; leave out what follows the question mark".to_owned(),
            );
        }
        let (scheme, rest) = text.split_once(':').ok_or(FORMS)?;
        let is_tls = scheme == "tls";
        if scheme == "fd" {
            return Err(FORMS.to_owned());
        }
        let target = Target::parse(if is_tls { "tcp" } else { scheme }, rest);
        // The forms of listeners are others.
        let target = target.map_err(|err| {
            if err.starts_with("a URL is") {
                FORMS.to_owned()
            } else {
                err
            }
        })?;
        if let Target::Tcp(at) | Target::Udp(at) = &target {
            if at.port() == 0 {
                return Err("the port of an upstream is a number from 1 to 65535".to_owned());
            }
        }
        Ok(Self {
            url: text.to_owned(),
            target,
            is_tls,
        })
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl To {
    pub(crate) const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether it is the listener of this URL, as far as its text says.
    pub(crate) fn is(&self, url: &str) -> bool {
        self.url == url
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self.target {
            Target::Udp(_) | Target::UnixGram(_) => Kind::Datagram,
            Target::Seqpacket(_) => Kind::Seqpacket,
            _ => Kind::Stream,
        }
    }
}

impl Kind {
    pub(crate) const fn of_socket(socket: SocketKind) -> Self {
        match socket {
            SocketKind::Udp | SocketKind::UnixGram => Self::Datagram,
            SocketKind::Seqpacket => Self::Seqpacket,
            SocketKind::Tcp | SocketKind::Unix => Self::Stream,
        }
    }
}

/// How upstreams are connected to.
#[derive(Debug)]
pub(crate) struct Dial {
    timeout: Duration,
    /// Present if an upstream speaks TLS.
    tls: Option<Connector>,
    /// The name that certificates must have.
    name: Option<String>,
    keep_alive: Option<Duration>,
}

impl Dial {
    /// Reads the files about TLS.
    pub(crate) fn new(proxy: &Proxy) -> anyhow::Result<Self> {
        let options = &proxy.to_tls;
        let tls = if proxy.to.iter().any(To::is_tls) {
            let mut tls = Connector::builder();
            if let Some(file) = &options.to_ca {
                tls = tls.roots(file);
            }
            if let Some((certificate, key)) = options.to_cert.as_ref().zip(options.to_key.as_ref())
            {
                tls = tls.certificate(certificate, key);
            }
            Some(tls.build()?)
        } else {
            None
        };
        Ok(Self {
            timeout: proxy.connect_timeout,
            tls,
            name: options.to_name.clone(),
            keep_alive: proxy.keep_alive.map(u64::from).map(Duration::from_secs),
        })
    }

    pub(crate) const fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) const fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Connects, sends the header, and does the TLS handshake.
    pub(crate) fn stream(&self, to: &To, header: Option<&[u8]>) -> anyhow::Result<Server> {
        match &to.target {
            Target::Tcp(at) => {
                let mut server = connect_tcp(at, self.timeout)?;
                keep_alive(&*server, self.keep_alive)?;
                self.send_header(&mut server, header)?;
                match self.tls.as_ref().filter(|_| to.is_tls) {
                    Some(tls) => {
                        // The address in a certificate has no zone.
                        let host = at.host().split('%').next().unwrap_or_default();
                        let name = self.name.as_deref().unwrap_or(host);
                        let secured = tls.secure(server, name, self.timeout)?;
                        Ok(Either::Right(secured))
                    }
                    None => Ok(Either::Left(Either::Left(server))),
                }
            }
            Target::Unix(at) => {
                let mut server = UnixConnection::connect(at.clone(), self.timeout)?;
                self.send_header(&mut server, header)?;
                Ok(Either::Left(Either::Right(server)))
            }
            _ => unreachable!("the kinds were checked at the start"),
        }
    }

    fn send_header(&self, server: &mut impl Write, header: Option<&[u8]>) -> io::Result<()> {
        match header {
            Some(header) => task::timeout(self.timeout, || server.write_all(header)),
            None => Ok(()),
        }
    }

    /// Connects to an upstream of messages.
    pub(crate) fn messages(&self, to: &To) -> anyhow::Result<Dialed<SeqpacketConnection>> {
        let Target::Seqpacket(at) = &to.target else {
            unreachable!("the kinds were checked at the start")
        };
        Ok(SeqpacketConnection::connect(at.clone(), self.timeout)?)
    }

    /// Makes a socket of datagrams that are sent to an upstream.
    pub(crate) fn datagrams(&self, to: &To) -> anyhow::Result<OwnedFd> {
        let socket = match &to.target {
            Target::Udp(at) => connect_udp(at),
            Target::UnixGram(at) => connect_unixgram(at),
            _ => unreachable!("the kinds were checked at the start"),
        };
        Ok(socket?)
    }
}

/// Makes the kernel probe a peer that is silent for `time`, and then nine times as often as that (tcp(7)).
pub(crate) fn keep_alive(socket: impl AsFd, time: Option<Duration>) -> io::Result<()> {
    let Some(time) = time else { return Ok(()) };
    let often = (time / 9).max(Duration::from_secs(1));
    sockopt::set_tcp_keepidle(&socket, time)?;
    sockopt::set_tcp_keepintvl(&socket, often)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    Ok(())
}

fn connect_udp(at: &HostPort) -> io::Result<OwnedFd> {
    let addrs = match at.host().parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, at.port())],
        Err(_) => {
            let at = at.clone();
            task::offload(move || at.to_socket_addrs().map(Iterator::collect))?
        }
    };
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for addr in addrs {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
        match socket.connect(&addr.into()) {
            Ok(()) => return Ok(socket.into()),
            Err(err) => last = err,
        }
    }
    Err(last)
}

fn connect_unixgram(at: &UnixAddress) -> io::Result<OwnedFd> {
    let at = match at {
        UnixAddress::Path(path) => SocketAddrUnix::new(path)?,
        UnixAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let socket = OwnedFd::from(Socket::new(Domain::UNIX, Type::DGRAM, None)?);
    // An abstract name that the kernel picks (unix(7), autobind), so that the upstream can reply.
    bind(&socket, &SocketAddrUnix::new_unnamed())?;
    connect(&socket, &at)?;
    Ok(socket)
}

/// An address needs no thread that resolves it.
fn connect_tcp(
    at: &HostPort,
    timeout: Duration,
) -> Result<Dialed<TcpConnection>, socketserver::Error> {
    match at.host().parse::<IpAddr>() {
        Ok(ip) => TcpConnection::connect(SocketAddr::new(ip, at.port()), timeout),
        Err(_) => TcpConnection::connect(at.clone(), timeout),
    }
}
