//! From whom a header is accepted.

use std::io;

use crate::address::Address;
use crate::admission::access::Network;

/// Trusted proxies: networks, and whether Unix peers are.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    networks: Vec<Network>,
    unix: bool,
}

impl Trust {
    /// Adds `unix`, an address, or a network such as `10.0.0.0/8`.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        if text == "unix" {
            self.unix = true;
        } else {
            let network = text.parse::<Network>();
            let invalid = |err| io::Error::new(io::ErrorKind::InvalidInput, err);
            self.networks.push(network.map_err(invalid)?);
        }
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    pub(super) fn has(&self, peer: &Address) -> bool {
        match peer {
            Address::Inet(addr) => {
                let mut networks = self.networks.iter();
                networks.any(|network| network.contains(addr.ip()))
            }
            Address::Unix(_) => self.unix,
            Address::Named(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

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
            ("", "a network is an address"),
            ("Unix", "a network is an address"),
            ("localhost", "a network is an address"),
            ("10.0.0.0/33", "at most 32"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
        ] {
            let err = Trust::default().add(text).unwrap_err().to_string();
            assert!(err.contains(why), "{text}: {err}");
        }
    }
}
