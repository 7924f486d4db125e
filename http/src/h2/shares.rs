//! How many requests each client runs: a client leaves as much room as it takes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The requests of HTTP/2 that run in this process, by the addresses of their clients. Few clients run requests at the same
/// time, so a tree takes less than the hash of an address.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<BTreeMap<IpAddr, usize>>);

impl Shares {
    /// Starts a request, unless its client runs as many already as there is `room` for. Returns whether it was
    /// started; then its task takes the [`share`](Self::share).
    ///
    /// No other request starts meanwhile, so `room` is what it says. A client without an address is on this machine,
    /// and has no share.
    pub(crate) fn begin(
        &self,
        client: Option<IpAddr>,
        room: impl FnOnce() -> usize,
        start: impl FnOnce() -> bool,
    ) -> bool {
        let Some(client) = client.map(network) else {
            return start();
        };
        let mut running = self.running();
        let count = running.entry(client).or_default();
        let begins = *count < room() && start();
        *count += usize::from(begins);
        if *count == 0 {
            running.remove(&client);
        }
        begins
    }

    /// The share of a request that has been started, until this is dropped.
    pub(crate) fn share(&self, client: Option<IpAddr>) -> Share<'_> {
        Share {
            shares: self,
            client: client.map(network),
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one request that runs.
pub(crate) struct Share<'a> {
    shares: &'a Shares,
    client: Option<IpAddr>,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut count) = self.shares.running().entry(client) {
            match *count.get() {
                ..=1 => drop(count.remove()),
                more => *count.get_mut() = more - 1,
            }
        }
    }
}

/// What one client has of its own: an address, or a network of 64 bits (RFC 4291, section 2.5.4), as for
/// [`max_per_address`](socketserver::Builder::max_per_address).
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts requests of a client until one is refused, of `all` that have room. Returns their shares.
    fn fill<'a>(shares: &'a Shares, client: &str, all: usize) -> Vec<Share<'a>> {
        let client = Some(client.parse().unwrap());
        let mut held = Vec::new();
        let room = || {
            let running: usize = shares
                .0
                .try_lock()
                .map_or(0, |running| running.values().sum());
            all - running
        };
        while let room = room()
            && shares.begin(client, || room, || true)
        {
            held.push(shares.share(client));
        }
        held
    }

    #[test]
    fn a_client_leaves_as_much_as_it_takes() {
        let shares = Shares::default();
        let first = fill(&shares, "192.0.2.1", 64);
        assert_eq!(first.len(), 32);
        let second = fill(&shares, "192.0.2.2", 64);
        assert_eq!(second.len(), 16);
        // The network is the client.
        let third = fill(&shares, "2001:db8::1", 64);
        assert_eq!(third.len(), 8);
        assert!(fill(&shares, "2001:db8::2", 64).is_empty());
        assert_eq!(fill(&shares, "2001:db8:0:1::1", 64).len(), 4);
        assert!(fill(&shares, "::ffff:192.0.2.1", 64).is_empty());
        drop((first, second, third));
        assert!(shares.running().is_empty());
        assert_eq!(fill(&shares, "192.0.2.1", 64).len(), 32);
    }

    #[test]
    fn a_request_that_is_not_started_takes_nothing() {
        let shares = Shares::default();
        let client = Some("192.0.2.1".parse().unwrap());
        assert!(!shares.begin(client, || 1, || false));
        assert!(!shares.begin(client, || 0, || panic!("no room")));
        assert!(shares.running().is_empty());
        assert!(shares.begin(None, || 0, || true));
        drop(shares.share(None));
        assert!(shares.running().is_empty());
    }
}
