//! The client that a trusted proxy names in fields of the request, and the scheme by which it has come.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName};
use http::uri::Scheme;
use socketserver::access::Network;
use socketserver::net::Address;

/// The fields that name a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// RFC 7239.
    Forwarded,
    XForwardedFor,
}

/// Where a request has come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) client: Option<IpAddr>,
    /// How the client has come to a trusted proxy, if that has said so.
    pub(crate) scheme: Option<Scheme>,
}

/// Which proxies are trusted, and in which field they name their clients. A server reads one field alone: a proxy that
/// sets the one hands on what a client has sent in the other.
#[derive(Debug)]
pub(crate) struct Trust {
    field: Field,
    proxies: Vec<Network>,
}

impl Trust {
    pub(crate) fn forwarded(proxies: impl IntoIterator<Item = Network>) -> Self {
        Self {
            field: Field::Forwarded,
            proxies: proxies.into_iter().collect(),
        }
    }

    pub(crate) fn x_forwarded_for(proxies: impl IntoIterator<Item = Network>) -> Self {
        Self {
            field: Field::XForwardedFor,
            proxies: proxies.into_iter().collect(),
        }
    }

    /// The client of a request from `peer`, which is the last address that is not of a trusted proxy, and how it has come
    /// to the proxy that has named it.
    pub(crate) fn origin(&self, peer: &Address, headers: &HeaderMap) -> Origin {
        let mut origin = Origin {
            client: peer.ip(),
            scheme: None,
        };
        // A peer without an IP address is on this machine.
        if !origin.client.is_none_or(|peer| self.is_trusted(peer)) {
            return origin;
        }
        if self.field == Field::XForwardedFor {
            let last = headers.get_all("x-forwarded-proto").iter().next_back();
            let last = last.and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
            origin.scheme = last.and_then(scheme_of);
        }
        let name = match self.field {
            Field::Forwarded => FORWARDED,
            Field::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        };
        let values: Vec<_> = headers.get_all(name).iter().collect();
        let elements = values.iter().rev().flat_map(|value| {
            let mut elements = match self.field {
                Field::Forwarded => split(value.as_bytes(), b','),
                Field::XForwardedFor => value.as_bytes().split(|byte| *byte == b',').collect(),
            };
            elements.reverse();
            elements
        });
        for element in elements {
            if origin.client.is_some_and(|client| !self.is_trusted(client)) {
                break;
            }
            let node = match self.field {
                Field::Forwarded => {
                    origin.scheme = value_of(element, b"proto").and_then(scheme_of);
                    value_of(element, b"for")
                }
                Field::XForwardedFor => Some(element.trim_ascii()),
            };
            // A proxy may hide a client; the addresses before that one are then unknown too.
            let Some(address) = node.and_then(address_of) else {
                break;
            };
            origin.client = Some(address);
        }
        origin
    }

    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.proxies.iter().any(|proxy| proxy.contains(ip))
    }
}

/// Splits at a separator outside of quoted strings. A string that a client has left open ends nowhere: then every
/// separator counts, so that it cannot hide what a proxy has added behind it.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return text.split(|byte| *byte == separator).collect();
    }
    parts.push(&text[start..]);
    parts
}

/// The value of a parameter in an element of `Forwarded`.
fn value_of<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut pairs = split(element, b';').into_iter();
    let value = pairs.find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let is_named = pair[..at].trim_ascii().eq_ignore_ascii_case(name);
        is_named.then(|| pair[at + 1..].trim_ascii())
    })?;
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

/// Reads a scheme of HTTP.
fn scheme_of(text: &[u8]) -> Option<Scheme> {
    let text = text.trim_ascii();
    let is = |scheme: &Scheme| text.eq_ignore_ascii_case(scheme.as_str().as_bytes());
    [Scheme::HTTP, Scheme::HTTPS].into_iter().find(is)
}

/// Reads an address, with a port or without.
fn address_of(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
    };
    let ip = text
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
        .or_else(|| bracketed().map(IpAddr::V6))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Vec<Network> {
        vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]
    }

    #[track_caller]
    fn origin(trust: &Trust, peer: &str, fields: &[&str]) -> Origin {
        let peer = Address::from(peer.parse::<SocketAddr>().unwrap());
        let mut headers = HeaderMap::new();
        for field in fields {
            let (name, value) = field.split_once(": ").unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        trust.origin(&peer, &headers)
    }

    #[track_caller]
    fn check(trust: &Trust, peer: &str, fields: &[&str], client: &str) {
        let found = origin(trust, peer, fields).client.unwrap().to_string();
        assert_eq!(found, client, "{fields:?}");
    }

    #[track_caller]
    fn check_scheme(trust: &Trust, peer: &str, fields: &[&str], scheme: Option<&str>) {
        let found = origin(trust, peer, fields).scheme;
        let found = found.as_ref().map(Scheme::as_str);
        assert_eq!(found, scheme, "{fields:?}");
    }

    #[test]
    fn the_scheme_is_what_the_proxy_of_the_client_says() {
        let trust = Trust::forwarded(proxies());
        let check = |peer: &str, fields: &[&str], scheme: Option<&str>| {
            check_scheme(&trust, peer, fields, scheme);
        };
        let proxy = "10.0.0.1:9";
        check(
            proxy,
            &["forwarded: for=192.0.2.1;proto=https"],
            Some("https"),
        );
        check(
            proxy,
            &["forwarded: Proto=\"HTTP\";for=192.0.2.1"],
            Some("http"),
        );
        check(proxy, &["forwarded: proto=https"], Some("https"));
        check(
            proxy,
            &["forwarded: for=unknown;proto=https"],
            Some("https"),
        );
        // The inner proxy has a plain connection to the outer one.
        check(
            proxy,
            &[
                "forwarded: for=6.6.6.6;proto=http, for=192.0.2.1;proto=https, for=10.9.9.9;proto=http",
            ],
            Some("https"),
        );
        check(proxy, &["forwarded: proto=https, for=192.0.2.1"], None);
        check(proxy, &["forwarded: for=192.0.2.1;proto=ws"], None);
        check(proxy, &["x-forwarded-proto: https"], None);
        check(proxy, &[], None);
        check(
            "192.0.2.1:9",
            &["forwarded: for=192.0.2.1;proto=https"],
            None,
        );
        let trust = Trust::x_forwarded_for(proxies());
        let check = |peer: &str, fields: &[&str], scheme: Option<&str>| {
            check_scheme(&trust, peer, fields, scheme);
        };
        check(proxy, &["x-forwarded-proto: https"], Some("https"));
        check(
            proxy,
            &["x-forwarded-for: 192.0.2.1", "x-forwarded-proto: HTTPS"],
            Some("https"),
        );
        check(proxy, &["x-forwarded-proto: https, http"], Some("http"));
        check(
            proxy,
            &["x-forwarded-proto: http", "x-forwarded-proto: https"],
            Some("https"),
        );
        check(proxy, &["x-forwarded-proto: https,"], None);
        check(proxy, &["forwarded: proto=https"], None);
        check("192.0.2.1:9", &["x-forwarded-proto: https"], None);
    }

    #[test]
    fn the_last_address_that_is_not_of_a_proxy_is_the_client() {
        let trust = Trust::x_forwarded_for(proxies());
        let check = |peer: &str, fields: &[&str], client: &str| check(&trust, peer, fields, client);
        check("10.0.0.1:9", &["x-forwarded-for: 192.0.2.1"], "192.0.2.1");
        check("192.0.2.9:9", &["x-forwarded-for: 192.0.2.1"], "192.0.2.9");
        check(
            "10.0.0.1:9",
            &["x-forwarded-for: 6.6.6.6, 192.0.2.1, 10.1.1.1"],
            "192.0.2.1",
        );
        check(
            "10.0.0.1:9",
            &["x-forwarded-for: 6.6.6.6", "x-forwarded-for: 192.0.2.1"],
            "192.0.2.1",
        );
        check("10.0.0.1:9", &["x-forwarded-for: 10.2.2.2"], "10.2.2.2");
        check(
            "10.0.0.1:9",
            &["x-forwarded-for: 6.6.6.6, nonsense"],
            "10.0.0.1",
        );
        check(
            "10.0.0.1:9",
            &["x-forwarded-for: 192.0.2.1:4711"],
            "192.0.2.1",
        );
        check(
            "10.0.0.1:9",
            &["x-forwarded-for: [2001:db9::1]:4711"],
            "2001:db9::1",
        );
        check(
            "[::ffff:10.0.0.1]:9",
            &["x-forwarded-for: ::ffff:192.0.2.1"],
            "192.0.2.1",
        );
        check("10.0.0.1:9", &["forwarded: for=192.0.2.1"], "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_says() {
        let trust = Trust::forwarded(proxies());
        let check = |fields: &[&str], client: &str| check(&trust, "10.0.0.1:9", fields, client);
        check(&["forwarded: for=192.0.2.43"], "192.0.2.43");
        check(
            &["forwarded: proto=http;For=\"[2001:db9:cafe::17]:4711\";by=203.0.113.43"],
            "2001:db9:cafe::17",
        );
        check(
            &["forwarded: for=6.6.6.6, for=192.0.2.43, for=10.9.9.9"],
            "192.0.2.43",
        );
        check(
            &["forwarded: for=192.0.2.43;host=\"a,b;for=6.6.6.6\""],
            "192.0.2.43",
        );
        check(&["forwarded: for=6.6.6.6, for=unknown"], "10.0.0.1");
        check(&["forwarded: for=6.6.6.6, for=\"_hidden\""], "10.0.0.1");
        check(&["forwarded: proto=https"], "10.0.0.1");
        check(&["x-forwarded-for: 192.0.2.1"], "10.0.0.1");
    }

    #[test]
    fn an_open_quote_hides_nothing() {
        let trust = Trust::forwarded(proxies());
        for open in ["x=\"", "x=\"\\", "x=\"a\\\""] {
            let field = format!("forwarded: for=6.6.6.6;{open}, for=192.0.2.43");
            check(&trust, "10.0.0.1:9", &[&field], "192.0.2.43");
        }
        let trust = Trust::x_forwarded_for(proxies());
        check(
            &trust,
            "10.0.0.1:9",
            &["x-forwarded-for: \"6.6.6.6, 192.0.2.1"],
            "192.0.2.1",
        );
    }

    #[test]
    fn a_peer_without_an_ip_address_is_a_proxy() {
        let trust = Trust::x_forwarded_for([]);
        let mut headers = HeaderMap::new();
        let unix = Address::Named("a Unix socket".to_owned());
        assert_eq!(trust.origin(&unix, &headers), Origin::default());
        headers.insert("x-forwarded-for", "6.6.6.6, 192.0.2.1".parse().unwrap());
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        let origin = trust.origin(&unix, &headers);
        assert_eq!(origin.client, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(origin.scheme, Some(Scheme::HTTPS));
    }
}
