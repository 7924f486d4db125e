//! URLs of listeners, and their options.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::vec;

use socketserver::net::{UnixAddress, UnixOptions};

use crate::{accounts, inherited};

/// The URL of a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) target: Target,
    pub(crate) options: Options,
}

/// What a URL names, without its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(HostPort),
    Udp(HostPort),
    Unix(UnixAddress),
    UnixGram(UnixAddress),
    Seqpacket(UnixAddress),
    Fd(i32),
    /// The sockets of this name, from the service manager.
    Named(String),
}

/// A host and a port, resolved before they are bound. The host has no brackets: the resolver takes the
/// zone of an IPv6 address as a name, `fe80::1%eth0`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    host: String,
    port: u16,
}

/// The options of one listener: the query of its URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) v6_only: bool,
    pub(crate) backlog: Option<u32>,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    pub(crate) tls_off: bool,
    pub(crate) proxy_off: bool,
}

/// Each option as it is written, and the schemes that have it.
const OPTIONS: [(&str, &[&str]); 7] = [
    ("v6only", &["tcp", "udp"]),
    ("backlog=N", &["tcp", "unix", "seqpacket"]),
    ("mode=OCTAL", &["unix", "unixgram", "seqpacket"]),
    ("owner=NAME", &["unix", "unixgram", "seqpacket"]),
    ("group=NAME", &["unix", "unixgram", "seqpacket"]),
    ("tls=off", &["tcp", "unix", "fd"]),
    (
        "proxy=off",
        &["tcp", "udp", "unix", "unixgram", "seqpacket", "fd"],
    ),
];

const FORMS: &str = "a URL is tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH, unix:@NAME, fd://N or fd://NAME; unixgram and seqpacket are written as unix is";

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path cannot have a question mark: the rest would be a query, and the path another one.
        let (address, query) = match text.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (text, None),
        };
        let (scheme, rest) = address.split_once(':').ok_or(FORMS)?;
        let target = Target::parse(scheme, rest)?;
        let options = match query {
            Some(query) => Options::parse(scheme, query)?,
            None => Options::default(),
        };
        options.suit(&target)?;
        Ok(Self { target, options })
    }
}

/// What a listening socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Tcp,
    Udp,
    Unix,
    UnixGram,
    Seqpacket,
}

impl SocketKind {
    /// Whether its peers are those of a Unix socket.
    pub(crate) const fn is_unix(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether it has datagrams.
    pub(crate) const fn is_datagram(self) -> bool {
        matches!(self, Self::Udp | Self::UnixGram)
    }
}

impl Url {
    /// What its sockets are: those that it binds, or those that were inherited. None if what it names is no inherited
    /// socket; then adopting it fails.
    pub(crate) fn kinds(&self) -> Vec<SocketKind> {
        match &self.target {
            Target::Tcp(_) => vec![SocketKind::Tcp],
            Target::Udp(_) => vec![SocketKind::Udp],
            Target::Unix(_) => vec![SocketKind::Unix],
            Target::UnixGram(_) => vec![SocketKind::UnixGram],
            Target::Seqpacket(_) => vec![SocketKind::Seqpacket],
            Target::Fd(number) => inherited::kind(*number).into_iter().collect(),
            Target::Named(name) => inherited::kinds(name),
        }
    }

    /// Whether one of its sockets is of such a kind.
    pub(crate) fn has(&self, is_such: impl Fn(SocketKind) -> bool) -> bool {
        self.kinds().into_iter().any(is_such)
    }

    /// Whether one of its sockets is of such a kind, or the URL names none, which is another error.
    pub(crate) fn may_have(&self, is_such: impl Fn(SocketKind) -> bool) -> bool {
        self.kinds().is_empty() || self.has(is_such)
    }

    /// Whether a `--proxy-protocol` applies to the listener.
    pub(crate) const fn has_proxy(&self) -> bool {
        !self.options.proxy_off
    }

    pub(crate) fn is_datagram(&self) -> bool {
        self.has(SocketKind::is_datagram)
    }

    pub(crate) fn is_seqpacket(&self) -> bool {
        self.has(|kind| kind == SocketKind::Seqpacket)
    }
}

impl Target {
    pub(crate) fn parse(scheme: &str, rest: &str) -> Result<Self, String> {
        let authority = rest.strip_prefix("//");
        match scheme {
            "tcp" => Ok(Self::Tcp(authority.ok_or(FORMS)?.parse()?)),
            "udp" => Ok(Self::Udp(authority.ok_or(FORMS)?.parse()?)),
            "unix" => Ok(Self::Unix(unix(rest).ok_or(FORMS)?)),
            "unixgram" => Ok(Self::UnixGram(unix(rest).ok_or(FORMS)?)),
            "seqpacket" => Ok(Self::Seqpacket(unix(rest).ok_or(FORMS)?)),
            "fd" => {
                let name = authority.ok_or(FORMS)?;
                if name.is_empty() || name.starts_with('-') {
                    let forms = "fd:// takes the number of an open descriptor, or the name of a socket of the service manager: fd://3, fd://web";
                    return Err(forms.to_owned());
                }
                Ok(name
                    .parse()
                    .map_or_else(|_| Self::Named(name.to_owned()), Self::Fd))
            }
            _ => Err(FORMS.to_owned()),
        }
    }
}

/// The URL of a descriptor.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(number) => write!(f, "fd://{number}"),
            Self::Named(name) => write!(f, "fd://{name}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl HostPort {
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("the port is missing; port 0 picks a free one")?;
        let port = port
            .parse()
            .map_err(|_| format!("{port:?} is no port; a port is a number from 0 to 65535"))?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(bare) if bare.is_empty() || bare.contains(':') => bare,
            None if !host.contains(':') => host,
            _ => {
                let form =
                    "an IPv6 address, and nothing else, is written in brackets: tcp://[::1]:7007";
                return Err(form.to_owned());
            }
        };
        if host.is_empty() {
            return Err(
                "the host is missing; 0.0.0.0 is every IPv4 address, [::] is every address"
                    .to_owned(),
            );
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl ToSocketAddrs for HostPort {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }
}

/// The form that a URL has. Errors of resolving show it.
impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

fn unix(rest: &str) -> Option<UnixAddress> {
    match (rest.strip_prefix('@'), rest.strip_prefix("//")) {
        (Some(name), _) if !name.is_empty() => {
            Some(UnixAddress::Abstract(name.as_bytes().to_vec()))
        }
        (None, Some(path)) if path.starts_with('/') && path.len() > 1 => {
            Some(UnixAddress::Path(PathBuf::from(path)))
        }
        _ => None,
    }
}

impl Options {
    fn parse(scheme: &str, query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut given: Vec<&str> = Vec::new();
        for option in query.split('&') {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let has = |(form, schemes): &(&str, &[&str])| {
                form.split('=').next() == Some(name) && schemes.contains(&scheme)
            };
            if !OPTIONS.iter().any(has) {
                return Err(format!(
                    "{scheme}: has no option {name:?}; {}",
                    options_of(scheme)
                ));
            }
            if given.contains(&name) {
                return Err(format!("the option {name} is given twice; give it once"));
            }
            given.push(name);
            match (name, value) {
                ("v6only", None) => options.v6_only = true,
                ("v6only", Some(_)) => {
                    return Err("the option v6only takes no value: ?v6only".to_owned());
                }
                ("tls", Some("off")) => options.tls_off = true,
                ("tls", _) => {
                    return Err("the option tls takes the value off: ?tls=off".to_owned());
                }
                ("proxy", Some("off")) => options.proxy_off = true,
                ("proxy", _) => {
                    return Err("the option proxy takes the value off: ?proxy=off".to_owned());
                }
                ("backlog", _) => options.backlog = Some(backlog(value)?),
                ("owner", _) => options.owner = Some(id(name, value, accounts::uid)?),
                ("group", _) => options.group = Some(id(name, value, accounts::gid)?),
                _ => options.mode = Some(mode(value)?),
            }
        }
        Ok(options)
    }

    /// Whether an option is for a socket file.
    const fn concerns_file(&self) -> bool {
        self.mode.is_some() || self.owner.is_some() || self.group.is_some()
    }

    /// Sets the options of a socket file.
    pub(crate) fn apply_to_file<T>(&self, unix: UnixOptions<T>) -> UnixOptions<T> {
        let unix = unix.owner(self.owner, self.group);
        match self.mode {
            Some(mode) => unix.mode(mode),
            None => unix,
        }
    }

    /// Checks that the options apply to what the URL names.
    fn suit(&self, target: &Target) -> Result<(), String> {
        match target {
            Target::Tcp(at) | Target::Udp(at)
                if self.v6_only && at.host.parse::<Ipv4Addr>().is_ok() =>
            {
                Err("the option v6only is for IPv6 addresses; leave it out for an IPv4 address".to_owned())
            }
            Target::Unix(at) | Target::UnixGram(at) | Target::Seqpacket(at)
                if self.concerns_file() && at.path().is_none() =>
            {
                Err("the options mode, owner and group are for socket files; an abstract name has none of them, so leave them out".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The value of `owner` or `group`.
fn id(
    option: &str,
    value: Option<&str>,
    id: fn(&str) -> Result<u32, String>,
) -> Result<u32, String> {
    let name = value
        .ok_or_else(|| format!("the option {option} takes a name or a number: {option}=root"))?;
    id(name).map_err(|err| format!("the option {option}: {err}"))
}

/// The options that a scheme has, for the error about another one.
fn options_of(scheme: &str) -> String {
    let there: Vec<_> = OPTIONS
        .iter()
        .filter(|(_, schemes)| schemes.contains(&scheme))
        .map(|(form, _)| *form)
        .collect();
    format!("it has {}", there.join(" and "))
}

fn backlog(value: Option<&str>) -> Result<u32, String> {
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| "the option backlog takes a number of connections: backlog=128".to_owned())
}

fn mode(value: Option<&str>) -> Result<u32, String> {
    let digits = value.filter(|value| value.bytes().all(|byte| (b'0'..=b'7').contains(&byte)));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "the option mode takes permissions in octal, 0 to 777: mode=660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(text: &str, target: Target) {
        options(text, target, Options::default());
    }

    #[track_caller]
    fn options(text: &str, target: Target, options: Options) {
        assert_eq!(text.parse(), Ok(Url { target, options }));
    }

    #[track_caller]
    fn bad(text: &str, why: &str) {
        let err = text.parse::<Url>().unwrap_err();
        assert!(err.contains(why), "{text}: {err}");
    }

    fn at(host: &str, port: u16) -> HostPort {
        let host = host.to_owned();
        HostPort { host, port }
    }

    #[test]
    fn urls() {
        good("tcp://127.0.0.1:80", Target::Tcp(at("127.0.0.1", 80)));
        good("tcp://[::1]:0", Target::Tcp(at("::1", 0)));
        good("tcp://[fe80::1%2]:80", Target::Tcp(at("fe80::1%2", 80)));
        good("udp://[fe80::1%eth0]:0", Target::Udp(at("fe80::1%eth0", 0)));
        good("udp://localhost:53", Target::Udp(at("localhost", 53)));
        good(
            "unix:///run/a b.sock",
            Target::Unix(UnixAddress::from("/run/a b.sock")),
        );
        good(
            "unix:@name",
            Target::Unix(UnixAddress::Abstract(b"name".to_vec())),
        );
        good(
            "unixgram:@n",
            Target::UnixGram(UnixAddress::Abstract(b"n".to_vec())),
        );
        good(
            "seqpacket:@n",
            Target::Seqpacket(UnixAddress::Abstract(b"n".to_vec())),
        );
        good("fd://3", Target::Fd(3));
        good("fd://web.socket", Target::Named("web.socket".to_owned()));
        bad("", "a URL is");
        bad("127.0.0.1:80", "a URL is");
        bad("http://localhost:80", "a URL is");
        bad("tcp:localhost:80", "a URL is");
        bad("tcp://localhost", "the port is missing");
        bad("tcp://localhost:http", "is no port");
        bad("tcp://localhost:65536", "is no port");
        bad("tcp://:80", "the host is missing");
        bad("tcp://[]:80", "the host is missing");
        bad("tcp://::1:80", "in brackets");
        bad(
            "tcp://[localhost]:80",
            "nothing else, is written in brackets",
        );
        bad("unix://relative", "a URL is");
        bad("unix:///", "a URL is");
        bad("unix:@", "a URL is");
        bad("fd://", "number of an open descriptor");
        bad("fd://-1", "number of an open descriptor");
    }

    #[test]
    fn options_of_one_listener() {
        let v6_only = Options {
            v6_only: true,
            ..Options::default()
        };
        options("udp://[::]:53?v6only", Target::Udp(at("::", 53)), v6_only);
        let both = Options {
            v6_only: true,
            backlog: Some(16),
            ..Options::default()
        };
        let tcp = Target::Tcp(at("::", 0));
        options("tcp://[::]:0?backlog=16&v6only", tcp, both);
        let file = Options {
            backlog: Some(0),
            mode: Some(0o660),
            ..Options::default()
        };
        let unix = Target::Unix(UnixAddress::from("/s"));
        options("unix:///s?mode=0660&backlog=0", unix, file);
        bad(
            "tcp://[::]:0?",
            "tcp: has no option \"\"; it has v6only and backlog=N and tls=off and proxy=off",
        );
        bad(
            "tcp://[::]:0?v6",
            "tcp: has no option \"v6\"; it has v6only",
        );
        bad("tcp://[::]:0?mode=600", "tcp: has no option \"mode\"");
        bad(
            "udp://[::]:0?backlog=1",
            "udp: has no option \"backlog\"; it has v6only",
        );
        bad(
            "unix:///s?v6only",
            "unix: has no option \"v6only\"; it has backlog=N and mode=OCTAL and owner=NAME and group=NAME and tls=off and proxy=off",
        );
        bad(
            "fd://3?backlog=1",
            "fd: has no option \"backlog\"; it has tls=off and proxy=off",
        );
        let plain = Options {
            tls_off: true,
            ..Options::default()
        };
        options("fd://3?tls=off", Target::Fd(3), plain);
        bad("unix:///s?tls=on", "the option tls takes the value off");
        bad("unix:///s?tls", "the option tls takes the value off");
        bad("udp://[::]:0?tls=off", "udp: has no option \"tls\"");
        bad("tcp://[::]:0?v6only&v6only", "v6only is given twice");
        bad("unix:///s?mode=600&mode=600", "mode is given twice");
        bad("tcp://[::]:0?v6only=1", "v6only takes no value");
        bad("tcp://[::]:0?backlog", "backlog takes a number");
        bad("tcp://[::]:0?backlog=-1", "backlog takes a number");
        for mode in [
            "mode",
            "mode=",
            "mode=8",
            "mode=+7",
            "mode=1777",
            "mode=u=rw",
        ] {
            bad(
                &format!("unix:///s?{mode}"),
                "mode takes permissions in octal",
            );
        }
        bad("tcp://0.0.0.0:0?v6only", "v6only is for IPv6 addresses");
    }

    #[test]
    fn the_owner_of_a_socket_file() {
        bad(
            "unixgram:///s?backlog=1",
            "it has mode=OCTAL and owner=NAME and group=NAME and proxy=off",
        );
        bad("unix:@name?mode=600", "an abstract name has none of them");
        let owned = Options {
            owner: Some(0),
            group: Some(7),
            ..Options::default()
        };
        let unix = Target::UnixGram(UnixAddress::from("/s"));
        options("unixgram:///s?group=7&owner=root", unix, owned);
        bad(
            "unix:///s?owner=no+such",
            "the option owner: there is no user \"no+such\"",
        );
        bad("unix:///s?group=", "the option group: there is no group");
        bad("unix:///s?owner", "the option owner takes a name");
        bad("unix:@name?owner=root", "an abstract name has none of them");
        bad("tcp://[::]:0?owner=root", "tcp: has no option \"owner\"");
    }

    #[test]
    fn every_listener_can_do_without_headers() {
        for url in [
            "tcp://[::]:0",
            "udp://[::]:0",
            "unix:///s",
            "unixgram:///s",
            "seqpacket:///s",
            "fd://3",
            "fd://web",
        ] {
            let plain: Url = url.parse().unwrap();
            let direct: Url = format!("{url}?proxy=off").parse().unwrap();
            assert!(plain.has_proxy() && !direct.has_proxy() && plain.target == direct.target);
        }
        bad("fd://3?proxy=on", "the option proxy takes the value off");
        bad("fd://3?proxy", "the option proxy takes the value off");
    }

    #[test]
    fn a_host_is_shown_as_it_is_in_a_url() {
        assert_eq!(format!("{:?}", at("fe80::1%lo", 80)), "[fe80::1%lo]:80");
        assert_eq!(format!("{:?}", at("localhost", 80)), "localhost:80");
    }
}
