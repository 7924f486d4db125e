//! Binding or adopting what URLs name, and what comes between the sockets and the services.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, bail};
use socketserver::net::{Either, Transport};
use socketserver::proxied::{Proxied, ProxyConfig};
use socketserver::systemd::Listeners;
use socketserver::tls::{Tls, TlsConfig};
use socketserver::{Tcp, Udp, UnixDatagram, UnixSeqpacket, UnixStream};

use crate::lent::LentSocket;
use crate::listen::{Options, Target, Url};
use crate::resolve::Resolved;
use crate::{inherited, log, signals};

/// All transports in one type: one server serves all listeners of the command.
pub(crate) type Any = Either<Streams, Messages>;

/// A connection or datagram of any of them.
pub(crate) type Accepted = <Any as Transport>::Accepted;

/// What a server listens on: a transport whose connections and datagrams a task serves, or a datagram socket that it
/// lends to a program.
pub(crate) type Listener = Either<Any, LentSocket>;

/// The socket of a stream, below the PROXY protocol.
pub(crate) fn socket_of(stream: &<Stream as Transport>::Accepted) -> BorrowedFd<'_> {
    match stream {
        Either::Left(plain) => plain.as_fd(),
        Either::Right(proxied) => proxied.below().as_fd(),
    }
}

/// The connection itself, below the choice between transports: a service looks at that once, and not at each call.
pub(crate) fn innermost(stream: &mut Connection) -> &mut dyn socketserver::Connection {
    match stream {
        Either::Left(Either::Left(Either::Left(tcp))) => tcp,
        Either::Left(Either::Left(Either::Right(unix))) => unix,
        Either::Left(Either::Right(proxied)) => proxied,
        Either::Right(secured) => secured,
    }
}

/// A bound socket, before the PROXY protocol and TLS.
pub(crate) type Bound = Either<Plain, Either<UnixSeqpacket, Datagrams>>;

/// A connection of a stream listener.
pub(crate) type Connection = <Streams as Transport>::Accepted;

type Streams = Either<Stream, Tls<Stream>>;
type Plain = Either<Tcp, UnixStream>;
pub(crate) type Stream = Either<Plain, Proxied<Plain>>;

/// Transports of messages with boundaries: over connections, and datagrams.
type Messages = Either<UnixSeqpacket, Either<Datagrams, ProxiedDatagrams>>;
pub(crate) type Datagrams = Either<Udp, UnixDatagram>;
type ProxiedDatagrams = Either<Proxied<Udp>, Proxied<UnixDatagram>>;

/// What comes between the sockets and the services.
#[derive(Debug)]
pub(crate) struct Wrappers {
    pub(crate) proxy: Option<ProxyConfig>,
    pub(crate) tls: Option<TlsConfig>,
}

/// Binds or adopts what the URLs name, in their order.
///
/// Inherited descriptors are adopted before anything is opened: a number names what the parent passed
/// on, and not what this program opened later. Names are resolved before anything is bound: a signal
/// that comes meanwhile ends the program at once, and leaves no socket file behind.
pub(crate) fn all(urls: &[Url], wrappers: &Wrappers) -> anyhow::Result<Vec<Any>> {
    let mut adopted = adopt(urls)?;
    let names: Vec<_> = urls.iter().map(|url| url.target.resolve()).collect();
    signals::before_binding();
    let mut listeners = Vec::new();
    for ((index, url), name) in urls.iter().enumerate().zip(names) {
        let bound = match adopted.remove(&index) {
            Some(bound) => bound,
            None => url.target.bind(name, &url.options)?,
        };
        let tls = wrappers.tls.as_ref().filter(|_| !url.options.tls_off);
        let proxy = wrappers.proxy.as_ref().filter(|_| url.has_proxy());
        for bound in bound {
            match bound {
                Either::Left(plain) => listeners.extend(streams(plain, proxy, tls)),
                Either::Right(Either::Right(plain)) => listeners.extend(datagrams(plain, proxy)),
                Either::Right(Either::Left(seqpacket)) if proxy.is_none() => {
                    listeners.push(Either::Right(Either::Left(seqpacket)));
                }
                Either::Right(Either::Left(_)) => bail!(
                    "listen on {}: a seqpacket listener has no PROXY headers; write ?proxy=off behind its URL",
                    url.target
                ),
            }
        }
    }
    Ok(listeners)
}

/// Adopts the descriptors that the URLs name. Returns them by the index of the URL.
fn adopt(urls: &[Url]) -> anyhow::Result<BTreeMap<usize, Vec<Bound>>> {
    let mut passed = Listeners::from_env()?;
    let mut adopted = BTreeMap::new();
    for (index, Url { target, .. }) in urls.iter().enumerate() {
        if let Target::Fd(_) | Target::Named(_) = target {
            if urls[..index].iter().any(|url| url.target == *target) {
                bail!("listen on {target}: the URL is given twice; give it once");
            }
        }
    }
    // Numbers first: a socket that is taken by its name has a number too.
    for (index, Url { target, .. }) in urls.iter().enumerate() {
        if let Target::Fd(number) = target {
            let bound = match passed.take_number(*number) {
                Ok(Some(bound)) => Ok(bound),
                Ok(None) => inherited::adopt(*number),
                Err(err) => Err(err.into()),
            };
            let bound = bound.with_context(|| format!("listen on {target}"))?;
            adopted.insert(index, vec![bound]);
        }
    }
    for (index, Url { target, .. }) in urls.iter().enumerate() {
        if let Target::Named(name) = target {
            let bound = passed.take(name);
            adopted.insert(index, bound.with_context(|| format!("listen on {target}"))?);
        }
    }
    for name in passed.names() {
        log::say(format_args!(
            "socketserver: the service manager passed a socket named {name:?}, which is closed; \
             --listen fd://{name} uses it"
        ));
    }
    Ok(adopted)
}

/// Puts the PROXY protocol on a stream listener, and TLS above it.
fn streams(plain: Plain, proxy: Option<&ProxyConfig>, tls: Option<&TlsConfig>) -> Vec<Any> {
    let streams: Vec<Stream> = match proxy {
        Some(proxy) => proxy
            .listen([plain])
            .into_iter()
            .map(Either::Right)
            .collect(),
        None => vec![Either::Left(plain)],
    };
    let secured: Vec<_> = match tls {
        Some(tls) => tls.listen(streams).into_iter().map(Either::Right).collect(),
        None => streams.into_iter().map(Either::Left).collect(),
    };
    secured.into_iter().map(Either::Left).collect()
}

/// Puts the PROXY protocol on a datagram socket.
fn datagrams(plain: Datagrams, proxy: Option<&ProxyConfig>) -> Vec<Any> {
    let all: Vec<_> = match (proxy, plain) {
        (None, plain) => vec![Either::Left(plain)],
        (Some(proxy), Either::Left(udp)) => {
            let proxied = proxy.listen([udp]).into_iter();
            proxied.map(Either::Left).map(Either::Right).collect()
        }
        (Some(proxy), Either::Right(unix)) => {
            let proxied = proxy.listen([unix]).into_iter();
            proxied.map(Either::Right).map(Either::Right).collect()
        }
    };
    let messages = all.into_iter().map(Either::Right);
    messages.map(Either::Right).collect()
}

impl Target {
    fn resolve(&self) -> Option<Resolved> {
        match self {
            Self::Tcp(at) | Self::Udp(at) => Some(Resolved::new(at)),
            _ => None,
        }
    }

    /// Binds what the URL names; `name` has the resolved addresses. Descriptors are adopted before.
    fn bind(&self, name: Option<Resolved>, options: &Options) -> anyhow::Result<Vec<Bound>> {
        let resolved = |at| name.unwrap_or_else(|| Resolved::new(at));
        Ok(match self {
            Self::Tcp(at) => {
                let mut tcp = Tcp::options();
                if options.v6_only {
                    tcp = tcp.only_v6(true);
                }
                if let Some(connections) = options.backlog {
                    tcp = tcp.backlog(connections);
                }
                let bound = tcp.bind(resolved(at))?.into_iter();
                bound.map(Either::Left).map(Either::Left).collect()
            }
            Self::Udp(at) => {
                let mut udp = Udp::options();
                if options.v6_only {
                    udp = udp.only_v6(true);
                }
                let bound = udp.bind(resolved(at))?.into_iter();
                let bound = bound.map(Either::Left).map(Either::Right);
                bound.map(Either::Right).collect()
            }
            Self::Unix(addr) => {
                let mut unix = options.apply_to_file(UnixStream::options());
                if let Some(connections) = options.backlog {
                    unix = unix.backlog(connections);
                }
                vec![Either::Left(Either::Right(unix.bind(addr)?))]
            }
            Self::UnixGram(addr) => {
                let unix = options.apply_to_file(UnixDatagram::options());
                vec![Either::Right(Either::Right(Either::Right(
                    unix.bind(addr)?,
                )))]
            }
            Self::Seqpacket(addr) => {
                let mut unix = options.apply_to_file(UnixSeqpacket::options());
                if let Some(connections) = options.backlog {
                    unix = unix.backlog(connections);
                }
                vec![Either::Right(Either::Left(unix.bind(addr)?))]
            }
            Self::Fd(_) | Self::Named(_) => Vec::new(),
        })
    }
}
