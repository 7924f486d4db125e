//! The number of connections of each address and of each user, over all processes of a server.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::admission::lock::Lock;
use crate::sys::memory::{SharedMemory, shareable};

/// A peer and its number of connections. An entry with none is free.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    peer: AtomicU64,
    count: AtomicU64,
}

shareable!(Entry { peer, count });

/// What the connections of one peer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(u64);

impl Peer {
    /// The peers whose connections come from one address: the upper 64 bits of an IPv6 address. An
    /// IPv4 address is a network in `0:1::/32`, which lies in the reserved block `::/8` and so
    /// belongs to no IPv6 peer.
    pub(crate) fn address(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(v4) => 1 << 32 | u64::from(u32::from(v4)),
            IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
        })
    }

    /// The peers that one user runs: a network in `0:2::/32`, of the same block.
    pub(crate) const fn user(uid: u32) -> Self {
        Self(2 << 32 | uid as u64)
    }
}

/// See the module's documentation. Each peer has two candidate buckets, and enters the emptier
/// one. At most a quarter of the entries is in use, so both buckets are never full in practice.
#[derive(Debug)]
pub(crate) struct Peers {
    entries: SharedMemory<Entry>,
    hashers: [RandomState; 2],
}

const BUCKET: usize = 8;

impl Peers {
    /// Creates a table for about `capacity` peers.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let size = capacity.next_power_of_two().max(BUCKET) * 4;
        Ok(Self {
            entries: SharedMemory::new(size)?,
            hashers: [RandomState::new(), RandomState::new()],
        })
    }

    /// Counts a connection, unless its peer has `limit` connections already. Returns whether it
    /// was counted: `mark` has the index of the entry then, plus one.
    pub(super) fn enter(&self, lock: &Lock, peer: Peer, limit: u64, mark: &AtomicU32) -> bool {
        let _locked = lock.take();
        let mut candidates = self.candidates(peer);
        let held = candidates.find(|index| self.entries[*index].holds(peer));
        // A connection that cannot be counted is not admitted.
        let Some(index) = held.or_else(|| self.free_entry(peer)) else {
            return false;
        };
        let entry = &self.entries[index];
        let count = entry.count.load(Relaxed);
        if count >= limit {
            return false;
        }
        // Marked before it is counted: a worker that is killed in between leaves a count one too low
        // until the entry is free, rather than one too high for ever.
        mark.store(index as u32 + 1, Relaxed);
        entry.peer.store(peer.0, Relaxed);
        entry.count.store(count + 1, Relaxed);
        true
    }

    /// Counts the end of a connection, if it was counted.
    pub(super) fn leave(&self, lock: &Lock, mark: &AtomicU32) {
        let index = mark.load(Relaxed).checked_sub(1);
        if let Some(entry) = index.and_then(|index| self.entries.get(index as usize)) {
            let _locked = lock.take();
            let count = entry.count.load(Relaxed);
            entry.count.store(count.saturating_sub(1), Relaxed);
            mark.store(0, Relaxed);
        }
    }

    /// The first entry of each of two buckets.
    fn buckets(&self, peer: Peer) -> [usize; 2] {
        let buckets = self.entries.len() / BUCKET;
        let bucket = |hasher: &RandomState| hasher.hash_one(peer.0) as usize % buckets;
        self.hashers
            .each_ref()
            .map(|hasher| bucket(hasher) * BUCKET)
    }

    /// The entries that a peer may be in.
    fn candidates(&self, peer: Peer) -> impl Iterator<Item = usize> {
        let all = |first| first..first + BUCKET;
        self.buckets(peer).into_iter().flat_map(all)
    }

    /// A free entry of the emptier bucket.
    fn free_entry(&self, peer: Peer) -> Option<usize> {
        let free = |first| {
            let all = first..first + BUCKET;
            all.filter(|index: &usize| self.entries[*index].count.load(Relaxed) == 0)
        };
        let buckets = self.buckets(peer).into_iter();
        let emptier = buckets.max_by_key(|first| free(*first).count())?;
        free(emptier).next()
    }
}

impl Entry {
    fn holds(&self, peer: Peer) -> bool {
        self.count.load(Relaxed) > 0 && self.peer.load(Relaxed) == peer.0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A table with its lock, and the marks of what was counted.
    struct Table(Peers, Lock, RefCell<Vec<(Peer, AtomicU32)>>);

    impl Table {
        fn new(capacity: usize) -> Self {
            let lock = Lock::default();
            lock.share().unwrap();
            Self(Peers::new(capacity).unwrap(), lock, RefCell::default())
        }

        fn enter(&self, peer: Peer, limit: u64) -> bool {
            let mark = AtomicU32::new(0);
            let entered = self.0.enter(&self.1, peer, limit, &mark);
            assert_eq!(mark.load(Relaxed) != 0, entered);
            self.2.borrow_mut().extend(entered.then_some((peer, mark)));
            entered
        }

        fn leave(&self, peer: Peer) {
            let mut marks = self.2.borrow_mut();
            let index = marks.iter().position(|(other, _)| *other == peer).unwrap();
            let (_, mark) = marks.swap_remove(index);
            self.0.leave(&self.1, &mark);
            self.0.leave(&self.1, &mark);
            assert_eq!(mark.load(Relaxed), 0, "it leaves once");
        }
    }

    fn at(text: &str) -> Peer {
        Peer::address(text.parse().unwrap())
    }

    #[test]
    fn a_peer_has_at_most_its_limit() {
        for (one, other) in [
            (at("192.0.2.1"), at("192.0.2.2")),
            (Peer::user(0), Peer::user(1)),
        ] {
            let peers = Table::new(16);
            assert!(peers.enter(one, 2) && peers.enter(one, 2));
            assert!(!peers.enter(one, 2) && peers.enter(other, 2));
            peers.leave(one);
            assert!(peers.enter(one, 2) && !peers.enter(one, 2));
            // The limit was lowered.
            peers.leave(one);
            assert!(!peers.enter(one, 1));
        }
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let peers = Table::new(16);
        assert!(peers.enter(at("2001:db8::1"), 1));
        assert!(!peers.enter(at("2001:db8::ffff:1"), 1));
        assert!(peers.enter(at("2001:db8:0:1::1"), 1));
        assert!(peers.enter(at("192.0.2.1"), 1));
        assert!(
            !peers.enter(at("::ffff:192.0.2.1"), 1),
            "the mapped form is the same address"
        );
        assert!(peers.enter(at("::1"), 1));
    }

    #[test]
    fn a_user_is_no_address() {
        assert_ne!(at("0.0.0.7"), Peer::user(7));
        assert_ne!(at("::"), Peer::user(0));
    }

    #[test]
    fn many_peers_are_counted_apart() {
        let peers = Table::new(4096);
        let all = || (0..4096_u32).map(|bits| Peer::address(IpAddr::V4(bits.into())));
        assert_eq!(all().filter(|peer| peers.enter(*peer, 1)).count(), 4096);
        assert_eq!(all().filter(|peer| peers.enter(*peer, 1)).count(), 0);
        all().for_each(|peer| peers.leave(peer));
        assert!(all().all(|peer| peers.enter(peer, 1)));
    }
}
