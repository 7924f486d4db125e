//! The PROXY protocol for the listeners: its options, and what they make of the listeners.

use clap::{Args, ValueEnum};
use socketserver::Error;
use socketserver::proxied::{ProxyConfig, Version};

use crate::listen::{SocketKind, Url};

/// The options about proxies.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Proxies")]
pub(crate) struct Proxied {
    /// Demand a header of the PROXY protocol on every connection, and in every datagram, of listeners
    /// without ?proxy=off; the client is then the one that it names
    #[arg(long, value_name = "VERSION", requires = "proxy_trust")]
    proxy_protocol: Option<Accepts>,
    /// Accept headers from these addresses alone: a network such as 10.0.0.0/8, an address, or unix
    /// for the peers of Unix sockets; repeatable
    #[arg(long, value_name = "CIDR|unix", requires = "proxy_protocol", value_parser = trusted)]
    proxy_trust: Vec<String>,
}

/// The versions that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accepts {
    /// A line of text
    V1,
    /// Binary
    V2,
    /// Either
    Any,
}

impl Proxied {
    /// Whether headers are demanded.
    pub(crate) const fn is_on(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// Why the options do not suit the listeners.
    pub(crate) fn conflict(&self, listen: &[Url]) -> Option<&'static str> {
        let mut demanding = listen.iter().filter(|url| self.is_on() && url.has_proxy());
        demanding.find_map(|url| self.conflict_with(url))
    }

    fn conflict_with(&self, url: &Url) -> Option<&'static str> {
        if url.is_seqpacket() {
            return Some(
                "--proxy-protocol is not for seqpacket listeners; write ?proxy=off behind their URLs",
            );
        }
        if self.proxy_protocol == Some(Accepts::V1) && url.is_datagram() {
            return Some(
                "--proxy-protocol v1 has no datagrams; give v2 or any, or write ?proxy=off behind their URLs",
            );
        }
        let trusts_unix = self.proxy_trust.iter().any(|proxy| proxy == "unix");
        let trusts_inet = self.proxy_trust.iter().any(|proxy| proxy != "unix");
        if !trusts_unix && url.has(SocketKind::is_unix) {
            return Some(
                "--proxy-trust has no peer of a Unix listener; add --proxy-trust unix, or write ?proxy=off behind its URL",
            );
        }
        (!trusts_inet && url.has(|kind| !kind.is_unix())).then_some(
            "--proxy-trust has no address; add a network, or write ?proxy=off behind its URL",
        )
    }

    /// Reads the list of proxies; `None` if no header is demanded.
    pub(crate) fn load(&self) -> Result<Option<ProxyConfig>, Error> {
        let Some(accepts) = self.proxy_protocol else {
            return Ok(None);
        };
        let config = ProxyConfig::trust(&self.proxy_trust)?;
        Ok(Some(match accepts {
            Accepts::V1 => config.version(Version::V1),
            Accepts::V2 => config.version(Version::V2),
            Accepts::Any => config,
        }))
    }
}

fn trusted(text: &str) -> Result<String, String> {
    match ProxyConfig::trust([text]) {
        Ok(_) => Ok(text.to_owned()),
        Err(err) => Err(err.io_error().to_string()),
    }
}
