//! The number of connections of each address, over all processes of a server.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};

use crate::sys::memory::{SharedMemory, shareable};

/// An address and its number of connections. An entry with none is free.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    address: AtomicU64,
    count: AtomicU64,
}

shareable!(Entry { address, count });

/// See the module's documentation. Each address has two candidate buckets, and enters the emptier
/// one. At most a quarter of the entries is in use, so both buckets are never full in practice.
#[derive(Debug)]
pub(crate) struct Addresses {
    entries: SharedMemory<Entry>,
    hashers: [RandomState; 2],
    lock: Mutex<()>,
    /// The file that worker processes lock (fcntl(2)). The kernel releases the lock of a process
    /// that ends.
    file: OnceLock<OwnedFd>,
}

const BUCKET: usize = 8;

impl Addresses {
    /// Creates a table for about `capacity` addresses.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let size = capacity.next_power_of_two().max(BUCKET) * 4;
        Ok(Self {
            entries: SharedMemory::new(size)?,
            hashers: [RandomState::new(), RandomState::new()],
            lock: Mutex::default(),
            file: OnceLock::new(),
        })
    }

    /// Prepares the table for processes that are forked from now on.
    pub(crate) fn share(&self) -> io::Result<()> {
        if self.file.get().is_none() {
            let file = memfd_create("socketserver-addresses", MemfdFlags::CLOEXEC)?;
            // No other thread can have set it: the process has one thread.
            let _ = self.file.set(file);
        }
        Ok(())
    }

    /// Counts a connection, unless its address has `limit` connections already. Returns whether it
    /// was counted.
    pub(crate) fn enter(&self, ip: IpAddr, limit: u64) -> bool {
        let key = key(ip);
        let _lock = self.lock();
        let held = self.candidates(key).find(|entry| entry.holds(key));
        // A connection that cannot be counted is not admitted.
        let Some(entry) = held.or_else(|| self.free_entry(key)) else {
            return false;
        };
        let count = entry.count.load(Relaxed);
        if count >= limit {
            return false;
        }
        entry.address.store(key, Relaxed);
        entry.count.store(count + 1, Relaxed);
        true
    }

    /// Counts the end of a connection that was counted.
    pub(crate) fn leave(&self, ip: IpAddr) {
        let key = key(ip);
        let _lock = self.lock();
        if let Some(entry) = self.candidates(key).find(|entry| entry.holds(key)) {
            let count = entry.count.load(Relaxed);
            entry.count.store(count.saturating_sub(1), Relaxed);
        }
    }

    fn buckets(&self, key: u64) -> [&[Entry]; 2] {
        let buckets = self.entries.len() / BUCKET;
        [0, 1].map(|which: usize| {
            let start = self.hashers[which].hash_one(key) as usize % buckets * BUCKET;
            &self.entries[start..start + BUCKET]
        })
    }

    /// The entries that an address may be in.
    fn candidates(&self, key: u64) -> impl Iterator<Item = &Entry> {
        self.buckets(key).into_iter().flatten()
    }

    /// A free entry of the emptier bucket.
    fn free_entry(&self, key: u64) -> Option<&Entry> {
        let is_free = |entry: &&Entry| entry.count.load(Relaxed) == 0;
        let room = |bucket: &&[Entry]| bucket.iter().filter(is_free).count();
        let emptier = self.buckets(key).into_iter().max_by_key(room)?;
        emptier.iter().find(is_free)
    }

    fn lock(&self) -> Lock<'_> {
        // A panic leaves no entry half changed: each store is whole.
        let threads = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.get();
        if let Some(file) = file {
            // Possible errors are EINTR, EDEADLK and ENOLCK. After the last two the count may be
            // one too low.
            while fcntl_lock(file, FlockOperation::LockExclusive) == Err(rustix::io::Errno::INTR) {}
        }
        Lock {
            file,
            _threads: threads,
        }
    }
}

struct Lock<'a> {
    file: Option<&'a OwnedFd>,
    _threads: MutexGuard<'a, ()>,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // Should this fail, the kernel releases the lock when the file is closed.
            let _ = fcntl_lock(file, FlockOperation::Unlock);
        }
    }
}

impl Entry {
    fn holds(&self, key: u64) -> bool {
        self.count.load(Relaxed) > 0 && self.address.load(Relaxed) == key
    }
}

/// The number of the network that counts as one address: the upper 64 bits of an IPv6 address. An
/// IPv4 address gets the number of a network in `0:1::/32`, which lies in the reserved block `::/8`
/// and so belongs to no IPv6 peer.
fn key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => 1 << 32 | u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_at_most_its_limit() {
        let addresses = Addresses::new(16).unwrap();
        addresses.share().unwrap();
        let one = ip("192.0.2.1");
        assert!(addresses.enter(one, 2) && addresses.enter(one, 2));
        assert!(!addresses.enter(one, 2) && addresses.enter(ip("192.0.2.2"), 2));
        addresses.leave(one);
        assert!(addresses.enter(one, 2) && !addresses.enter(one, 2));
        // The limit was lowered.
        addresses.leave(one);
        assert!(!addresses.enter(one, 1));
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let addresses = Addresses::new(16).unwrap();
        assert!(addresses.enter(ip("2001:db8::1"), 1));
        assert!(!addresses.enter(ip("2001:db8::ffff:1"), 1));
        assert!(addresses.enter(ip("2001:db8:0:1::1"), 1));
        assert!(addresses.enter(ip("192.0.2.1"), 1));
        assert!(
            !addresses.enter(ip("::ffff:192.0.2.1"), 1),
            "the mapped form is the same address"
        );
        assert!(addresses.enter(ip("::1"), 1));
    }

    #[test]
    fn many_addresses_are_counted_apart() {
        let addresses = Addresses::new(4096).unwrap();
        let all = || (0..4096_u32).map(|bits| IpAddr::V4(bits.into()));
        assert_eq!(all().filter(|ip| addresses.enter(*ip, 1)).count(), 4096);
        assert_eq!(all().filter(|ip| addresses.enter(*ip, 1)).count(), 0);
        all().for_each(|ip| addresses.leave(ip));
        assert!(all().all(|ip| addresses.enter(ip, 1)));
    }
}
