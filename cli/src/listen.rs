//! Listener URLs, and the listeners that they name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use socketserver::{Bind, Either, Tcp, Udp, UnixAddress, UnixDatagram, UnixStream};

use crate::inherited;

/// Every transport in one: the command serves all of its listeners with one server.
pub(crate) type Any = Either<Either<Tcp, UnixStream>, Either<Udp, UnixDatagram>>;

/// A checked URL of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Url {
    Tcp(String),
    Udp(String),
    Unix(UnixAddress),
    UnixGram(UnixAddress),
    Fd(i32),
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forms = "a URL is tcp://HOST:PORT, udp://HOST:PORT, unix:///PATH, unix:@NAME, unixgram:///PATH, unixgram:@NAME or fd://N";
        let (scheme, rest) = text.split_once(':').ok_or(forms)?;
        let authority = rest.strip_prefix("//");
        match scheme {
            "tcp" => Ok(Self::Tcp(host_and_port(authority.ok_or(forms)?)?)),
            "udp" => Ok(Self::Udp(host_and_port(authority.ok_or(forms)?)?)),
            "unix" => Ok(Self::Unix(unix(rest).ok_or(forms)?)),
            "unixgram" => Ok(Self::UnixGram(unix(rest).ok_or(forms)?)),
            "fd" => {
                let number = authority
                    .ok_or(forms)?
                    .parse()
                    .ok()
                    .filter(|number| *number >= 0);
                number
                    .map(Self::Fd)
                    .ok_or_else(|| "fd:// takes the number of an open descriptor".to_owned())
            }
            _ => Err(forms.to_owned()),
        }
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("the port is missing; 0 picks a free one")?;
    port.parse::<u16>()
        .map_err(|_| format!("{port:?} is no port: 0 to 65535 are"))?;
    if host.is_empty() {
        return Err("the host is missing; [::] or 0.0.0.0 are all addresses".to_owned());
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address is written in brackets: tcp://[::1]:80".to_owned());
    }
    Ok(text.to_owned())
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

/// Binds or adopts what the URLs name, in their order.
///
/// Inherited descriptors are adopted before anything else is opened: a number names what the parent
/// has passed on, not what this program has opened since.
pub(crate) fn all(urls: &[Url]) -> anyhow::Result<Vec<Any>> {
    let mut adopted = BTreeMap::new();
    for url in urls {
        if let Url::Fd(number) = *url {
            let adopt =
                || inherited::adopt(number).with_context(|| format!("listen on fd://{number}"));
            if adopted.contains_key(&number) {
                bail!("listen on fd://{number}: it is given twice");
            }
            adopted.insert(number, adopt()?);
        }
    }
    let mut listeners = Vec::new();
    for url in urls {
        match url {
            Url::Fd(number) => listeners.extend(adopted.remove(number)),
            url => listeners.extend(url.bind()?),
        }
    }
    Ok(listeners)
}

impl Url {
    /// Binds what the URL names. Descriptors are adopted elsewhere.
    fn bind(&self) -> anyhow::Result<Vec<Any>> {
        Ok(match self {
            Self::Tcp(addr) => Tcp::bind(addr.as_str())?
                .into_iter()
                .map(Either::Left)
                .map(Either::Left)
                .collect(),
            Self::Udp(addr) => Udp::bind(addr.as_str())?
                .into_iter()
                .map(Either::Left)
                .map(Either::Right)
                .collect(),
            Self::Unix(addr) => vec![Either::Left(Either::Right(
                UnixStream::options().bind(addr)?,
            ))],
            Self::UnixGram(addr) => vec![Either::Right(Either::Right(
                UnixDatagram::options().bind(addr)?,
            ))],
            Self::Fd(_) => Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(text: &str, url: Url) {
        assert_eq!(text.parse(), Ok(url));
    }

    #[track_caller]
    fn bad(text: &str, why: &str) {
        let err = text.parse::<Url>().unwrap_err();
        assert!(err.contains(why), "{text}: {err}");
    }

    #[test]
    fn urls() {
        good("tcp://127.0.0.1:80", Url::Tcp("127.0.0.1:80".to_owned()));
        good("tcp://[::1]:0", Url::Tcp("[::1]:0".to_owned()));
        good("udp://localhost:53", Url::Udp("localhost:53".to_owned()));
        good(
            "unix:///run/a b.sock",
            Url::Unix(UnixAddress::from("/run/a b.sock")),
        );
        good(
            "unix:@name",
            Url::Unix(UnixAddress::Abstract(b"name".to_vec())),
        );
        good(
            "unixgram:@n",
            Url::UnixGram(UnixAddress::Abstract(b"n".to_vec())),
        );
        good("fd://3", Url::Fd(3));
        bad("", "a URL is");
        bad("127.0.0.1:80", "a URL is");
        bad("http://localhost:80", "a URL is");
        bad("tcp:localhost:80", "a URL is");
        bad("tcp://localhost", "the port is missing");
        bad("tcp://localhost:http", "is no port");
        bad("tcp://localhost:65536", "is no port");
        bad("tcp://:80", "the host is missing");
        bad("tcp://::1:80", "in brackets");
        bad("unix://relative", "a URL is");
        bad("unix:///", "a URL is");
        bad("unix:@", "a URL is");
        bad("fd://x", "number of an open descriptor");
        bad("fd://-1", "number of an open descriptor");
    }
}
