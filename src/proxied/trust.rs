//! From whom a header is accepted.

use std::io;
use std::net::IpAddr;

use crate::address::Address;

/// Trusted proxies: networks, and whether Unix peers are.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    networks: Vec<Network>,
    unix: bool,
}

/// A network: the bits of its prefix, without the others.
#[derive(Clone, Copy, Debug)]
struct Network {
    is_ipv4: bool,
    prefix: u128,
    /// How many bits are behind the prefix.
    free: u32,
}

impl Trust {
    /// Adds `unix`, an address, or a network such as `10.0.0.0/8`.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        if text == "unix" {
            self.unix = true;
        } else {
            self.networks.push(Network::parse(text)?);
        }
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    pub(super) fn has(&self, peer: &Address) -> bool {
        match peer {
            Address::Inet(addr) => {
                // A socket that is bound to [::] reports IPv4 peers in the mapped form.
                let ip = addr.ip().to_canonical();
                self.networks.iter().any(|network| network.has(ip))
            }
            Address::Unix(_) => self.unix,
            Address::Named(_) => false,
        }
    }
}

impl Network {
    fn parse(text: &str) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let form = || invalid("it is neither unix, nor a network such as 10.0.0.0/8".to_owned());
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| form())?;
        let size = if ip.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => size,
            Some(len) if !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit()) => {
                let len = len.parse().ok().filter(|len| *len <= size);
                len.ok_or_else(|| invalid(format!("its prefix is longer than {size} bits")))?
            }
            Some(_) => return Err(form()),
        };
        let free: u32 = size - len;
        let prefix = bits(ip).checked_shr(free).unwrap_or(0);
        if prefix.checked_shl(free).unwrap_or(0) != bits(ip) {
            return Err(invalid(format!(
                "it has bits behind its prefix of {len} bits; set them to 0"
            )));
        }
        let canonical = ip.to_canonical();
        let is_ipv4 = canonical.is_ipv4() && free <= 32;
        let prefix = if is_ipv4 {
            bits(canonical) >> free
        } else {
            prefix
        };
        Ok(Self {
            is_ipv4,
            prefix,
            free,
        })
    }

    fn has(&self, ip: IpAddr) -> bool {
        let same_family = ip.is_ipv4() == self.is_ipv4;
        same_family && bits(ip).checked_shr(self.free).unwrap_or(0) == self.prefix
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::address::UnixAddress;

    fn trusts(rules: &[&str], peer: &str) -> bool {
        let mut trust = Trust::default();
        rules
            .iter()
            .for_each(|rule| trust.add(rule).expect("a rule"));
        let ip: IpAddr = peer.parse().unwrap();
        trust.has(&SocketAddr::new(ip, 9).into())
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        for (rule, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "::1", "203.0.113.9"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            // A socket that is bound to [::] reports IPv4 peers in the mapped form.
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::192.0.2.9"),
            ("::ffff:192.0.2.0/120", "192.0.2.9", "192.0.3.9"),
        ] {
            assert!(trusts(&[rule], within), "{rule} {within}");
            assert!(!trusts(&[rule], without), "{rule} {without}");
        }
        assert!(trusts(&["10.0.0.0/8", "192.0.2.1"], "192.0.2.1"));
        assert!(!trusts(&["unix"], "127.0.0.1"));
    }

    #[test]
    fn unix_peers_are_trusted_by_that_word_alone() {
        let mut trust = Trust::default();
        trust.add("::/0").unwrap();
        let peer = Address::Unix(UnixAddress::Unnamed);
        assert!(!trust.has(&peer));
        trust.add("unix").unwrap();
        assert!(trust.has(&peer));
        assert!(!trust.has(&Address::Named(String::new())));
    }

    #[test]
    fn what_is_no_network_is_an_error() {
        for (text, why) in [
            ("", "neither"),
            ("localhost", "neither"),
            ("10.0.0/8", "neither"),
            ("10.0.0.0/", "neither"),
            ("10.0.0.0/+8", "neither"),
            ("10.0.0.0/33", "longer"),
            ("::/129", "longer"),
            ("10.0.0.1/8", "bits behind"),
            ("2001:db8::1/64", "bits behind"),
        ] {
            let err = Trust::default().add(text).unwrap_err().to_string();
            assert!(err.contains(why), "{text}: {err}");
        }
    }
}
