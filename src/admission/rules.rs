//! The access rules in force, in memory that all processes of a server share.
//!
//! Networks become boundaries, the addresses at which the answer changes, in ascending order: an address is
//! admitted if an odd number of them is not beyond it. The rules have two copies, and a change writes
//! the one that is not in force: a process that is killed amid a change leaves the other copy whole.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use crate::admission::access::{Access, mapped, position};
use crate::admission::lock::Lock;
use crate::sys::memory::SharedMemory;

/// The words before the lists of a copy: how many boundaries there are, whether users are restricted,
/// how many users and how many groups are allowed.
const HEAD: usize = 4;
const BOUNDARIES: usize = 0;
const RESTRICTS: usize = 1;
const USERS: usize = 2;
const GROUPS: usize = 3;

/// A network changes the answer twice at most, and there are two more for the addresses in none.
const BOUNDARIES_MAX: usize = 2 * (Access::NETWORKS_MAX + 2);

/// The words of a copy. Words that were never used take no memory.
const COPY: usize = HEAD + 2 * BOUNDARIES_MAX + 2 * Access::USERS_MAX;

/// How many times the rules are read while others change them. A search takes less than a
/// microsecond.
const READS: usize = 1000;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The number of changes, and then the two copies. The number's lowest bit says which copy is
    /// in force.
    words: SharedMemory<AtomicU64>,
}

impl Rules {
    /// Creates rules that admit every peer.
    pub(crate) fn new() -> io::Result<Self> {
        let words = SharedMemory::new(1 + 2 * COPY)?;
        Ok(Self { words })
    }

    /// Whether rules were ever set.
    pub(crate) fn are_set(&self) -> bool {
        self.version().load(Acquire) != 0
    }

    /// Puts rules in force, which have been checked.
    pub(super) fn set(&self, lock: &Lock, access: &Access) {
        let _locked = lock.take();
        let version = self.version().load(Acquire) + 1;
        // A reader that sees one of the stores below sees this version too, and reads again.
        fence(Release);
        let copy = self.copy(version);
        let boundaries = changes(access);
        let restricts = access.users.is_some() || access.groups.is_some();
        let users = sorted(access.users.as_deref());
        let groups = sorted(access.groups.as_deref());
        let head = [
            boundaries.len(),
            restricts.into(),
            users.len(),
            groups.len(),
        ]
        .map(|n| n as u64);
        let halves = |boundary: &u128| [(boundary >> 64) as u64, *boundary as u64];
        let lists = boundaries
            .iter()
            .flat_map(halves)
            .chain(users)
            .chain(groups);
        for (word, value) in copy.iter().zip(head.into_iter().chain(lists)) {
            word.store(value, Relaxed);
        }
        self.version().store(version, Release);
    }

    /// Whether the networks admit an address.
    pub(crate) fn admit_address(&self, ip: IpAddr) -> bool {
        let position = position(ip);
        self.read(|copy| {
            let not_beyond = |index: usize| copy.boundary(index) <= position;
            partition_point(copy.count(BOUNDARIES), not_beyond) % 2 == 1
        })
    }

    /// Whether only some users are admitted.
    pub(crate) fn restrict_users(&self) -> bool {
        // Rules that cannot be read admit nobody.
        !self.read(|copy| copy.word(RESTRICTS) == 0)
    }

    /// Whether the rules admit a user, whose groups are those that `groups` returns.
    pub(crate) fn admit_user(&self, uid: u32, groups: impl Fn() -> Vec<u32>) -> bool {
        self.read(|copy| {
            let (users, members) = (copy.count(USERS), copy.count(GROUPS));
            let first = HEAD + 2 * copy.count(BOUNDARIES);
            copy.has(first, users, uid)
                || members > 0
                    && groups()
                        .into_iter()
                        .any(|gid| copy.has(first + users, members, gid))
        })
    }

    /// Asks the rules in force; before any are set, the answer is yes.
    fn read(&self, ask: impl Fn(Copy<'_>) -> bool) -> bool {
        for _ in 0..READS {
            let version = self.version().load(Acquire);
            if version == 0 {
                return true;
            }
            let answer = ask(Copy(self.copy(version)));
            fence(Acquire);
            if self.version().load(Relaxed) == version {
                return answer;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn version(&self) -> &AtomicU64 {
        &self.words[0]
    }

    fn copy(&self, version: u64) -> &[AtomicU64] {
        let start = 1 + (version % 2) as usize * COPY;
        &self.words[start..start + COPY]
    }
}

/// One copy of the rules. Another process may change it meanwhile, so any number may be wrong.
#[derive(Clone, Copy)]
struct Copy<'a>(&'a [AtomicU64]);

impl Copy<'_> {
    fn word(self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Relaxed))
    }

    fn count(self, index: usize) -> usize {
        (self.word(index) as usize).min(self.0.len())
    }

    fn boundary(self, index: usize) -> u128 {
        let at = HEAD + 2 * index;
        u128::from(self.word(at)) << 64 | u128::from(self.word(at + 1))
    }

    /// Whether a sorted list of ids has this one.
    fn has(self, first: usize, len: usize, id: u32) -> bool {
        let index = partition_point(len, |index| self.word(first + index) < u64::from(id));
        index < len && self.word(first + index) == u64::from(id)
    }
}

/// How many of the first `len` indexes `is_before` holds for, which are the lowest.
fn partition_point(len: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn sorted(ids: Option<&[u32]>) -> Vec<u64> {
    let mut ids: Vec<_> = ids
        .unwrap_or_default()
        .iter()
        .copied()
        .map(u64::from)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The boundaries, from denied before the first.
fn changes(access: &Access) -> Vec<u128> {
    let others = access.allowed.is_none();
    let allowed = access
        .allowed
        .iter()
        .flatten()
        .map(|network| (network, true));
    let denied = access.denied.iter().map(|network| (network, false));
    // The ranges either contain each other or have nothing in common. A range comes after those that
    // contain it, and of two that are the same the one that wins comes last: a network after the rule
    // for all others, a denied network after an allowed one.
    let mut ranges: Vec<_> = allowed
        .chain(denied)
        .map(|(network, answer)| (network.range(), 1 + u8::from(!answer), answer))
        .chain([((0, u128::MAX), 0, others), (mapped(), 0, others)])
        .map(|((first, last), rank, answer)| (first, std::cmp::Reverse(last), rank, answer))
        .collect();
    ranges.sort_unstable();
    let mut boundaries = Boundaries::default();
    // The ranges that contain the current one, the shortest last.
    let mut around: Vec<(u128, bool)> = Vec::new();
    for (first, std::cmp::Reverse(last), _, answer) in ranges {
        boundaries.leave(&mut around, |end| end < first);
        boundaries.set(first, answer);
        around.push((last, answer));
    }
    boundaries.leave(&mut around, |_| true);
    boundaries.0
}

/// See the module's documentation.
#[derive(Debug, Default)]
struct Boundaries(Vec<u128>);

impl Boundaries {
    /// Sets the answer for `first` and all beyond. Calls come in ascending order.
    fn set(&mut self, first: u128, answer: bool) {
        if self.0.last() == Some(&first) {
            self.0.pop();
        }
        let before = self.0.len() % 2 == 1;
        if before != answer {
            self.0.push(first);
        }
    }

    /// Ends the ranges `around` whose last address `is_left`: the range around each decides again.
    fn leave(&mut self, around: &mut Vec<(u128, bool)>, is_left: impl Fn(u128) -> bool) {
        while let Some(&(last, _)) = around.last().filter(|(last, _)| is_left(*last)) {
            around.pop();
            // Nothing is beyond the last address, and nothing around the first range.
            if let (Some(next), Some((_, answer))) = (last.checked_add(1), around.last()) {
                self.set(next, *answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::access::Network;

    fn networks(text: &str) -> Vec<Network> {
        text.split_whitespace()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn rules(access: &Access) -> Rules {
        let rules = Rules::new().unwrap();
        rules.set(&Lock::default(), access);
        rules
    }

    #[track_caller]
    fn admits(access: &Access, admitted: &str, denied: &str) {
        let rules = rules(access);
        for (ips, expected) in [(admitted, true), (denied, false)] {
            for ip in ips.split_whitespace() {
                assert_eq!(rules.admit_address(ip.parse().unwrap()), expected, "{ip}");
            }
        }
    }

    #[test]
    fn the_longest_match_wins() {
        let access = Access::new()
            .allow(networks("10.0.0.0/8 10.1.2.0/24 2001:db8::/32 ::1"))
            .deny(networks("10.1.0.0/16 10.1.2.3 2001:db8:1::/48"));
        let (admitted, denied) = (
            "10.0.0.0 10.0.255.255 10.1.2.0 10.1.2.2 10.1.2.4 10.1.2.255 10.2.0.0 10.255.255.255 \
             ::ffff:10.0.0.1 2001:db8:: 2001:db8:2:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff ::1",
            "9.255.255.255 10.1.0.0 10.1.1.255 10.1.2.3 10.1.3.0 10.1.255.255 11.0.0.0 0.0.0.0 \
             255.255.255.255 ::ffff:10.1.2.3 2001:db7:ffff:: 2001:db8:1:: 2001:db8:1:ffff:: :: ::2",
        );
        admits(&access, admitted, denied);
    }

    #[test]
    fn without_a_match_the_address_is_denied_if_anything_is_allowed() {
        let all = "127.0.0.1 192.0.2.1 ::1 2001:db8::1 :: 0.0.0.0 255.255.255.255";
        admits(&Access::new(), all, "");
        admits(&Access::new().allow([]), "", all);
        let denied = Access::new().deny(networks("192.0.2.0/24 2001:db8::/32"));
        admits(
            &denied,
            "127.0.0.1 ::1 :: 192.0.3.0 255.255.255.255",
            "192.0.2.1 2001:db8::1",
        );
        let allowed = Access::new().allow(networks("192.0.2.0/24"));
        admits(
            &allowed,
            "192.0.2.1 ::ffff:192.0.2.1",
            "127.0.0.1 ::1 192.0.3.0",
        );
    }

    #[test]
    fn what_is_allowed_and_denied_is_denied() {
        for text in ["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0"] {
            let (allowed, denied) = (networks(text), networks(text));
            admits(&Access::new().allow(allowed).deny(denied), "", "10.0.0.1");
        }
    }

    #[test]
    fn each_family_has_its_networks() {
        admits(
            &Access::new().deny(networks("::/0")),
            "10.0.0.1 ::ffff:10.0.0.1",
            "::1 :: ffff::",
        );
        admits(
            &Access::new().deny(networks("0.0.0.0/0")),
            "::1 :: ffff::",
            "10.0.0.1 0.0.0.0",
        );
        admits(
            &Access::new().allow(networks("::/0")),
            "::1 ::",
            "10.0.0.1 ::ffff:10.0.0.1",
        );
        // The networks of IPv6 around the IPv4 addresses.
        let access = Access::new()
            .allow(networks("::/80"))
            .deny(networks("::/64 0.0.0.0/0"));
        admits(&access, "::1 ::fffe:ffff:ffff", "10.0.0.1 0:0:0:0:1::");
    }

    /// The boundaries against a search through all networks.
    #[test]
    fn many_networks_answer_as_each_of_them_says() {
        // A linear congruential generator (Knuth).
        let mut state = 7_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for round in 0..20 {
            // Few bits, so that networks contain each other.
            let mut lists = [Vec::new(), Vec::new()];
            for _ in 0..200 {
                let prefix = 20 + random() % 13;
                let bits = ((10 << 24) | (random() % 4096)) & (u32::MAX << (32 - prefix));
                let network = Network::new(IpAddr::V4(bits.into()), prefix as u8).unwrap();
                lists[(random() % 2) as usize].push(network);
            }
            let [allowed, denied] = &lists;
            let access = Access::new().allow(allowed.clone()).deny(denied.clone());
            let rules = rules(&access);
            for bits in 0..4200_u32 {
                let ip = IpAddr::V4(((10 << 24) | bits).into());
                let longest = |list: &[Network]| {
                    let around = list.iter().filter(|network| network.contains(ip));
                    around.map(|network| network.prefix()).max()
                };
                let expected = longest(allowed) > longest(denied);
                assert_eq!(rules.admit_address(ip), expected, "round {round}: {ip}");
            }
        }
    }

    #[test]
    fn ten_thousand_networks_take_fifteen_comparisons() {
        let network = |number: u32| Network::new(IpAddr::V4((number << 12).into()), 24).unwrap();
        let access = Access::new().deny((0..10_000).map(network));
        let boundaries = changes(&access);
        assert_eq!(boundaries.len(), 20_001);
        let compared = Cell::new(0);
        let position = position("9.9.9.9".parse().unwrap());
        let found = partition_point(boundaries.len(), |index| {
            compared.set(compared.get() + 1);
            boundaries[index] <= position
        });
        assert_eq!(found, boundaries.partition_point(|at| *at <= position));
        assert!(compared.get() <= 15, "{}", compared.get());
    }

    #[test]
    fn users_and_groups() {
        let all = |rules: &Rules, uid, groups: &[u32]| rules.admit_user(uid, || groups.to_vec());
        let users = rules(&Access::new().allow_users([1000, 7, 1000]));
        assert!(users.restrict_users());
        assert!(all(&users, 7, &[]) && all(&users, 1000, &[]));
        assert!(!all(&users, 0, &[0]) && !all(&users, 8, &[7]) && !all(&users, u32::MAX, &[]));
        let both = rules(&Access::new().allow_users([0]).allow_groups([50, 20]));
        assert!(all(&both, 0, &[]) && all(&both, 1, &[3, 50]) && all(&both, 1, &[20]));
        assert!(!all(&both, 1, &[0, 1]) && !all(&both, 50, &[]));
        let none = rules(&Access::new().allow_groups([]));
        assert!(none.restrict_users() && !all(&none, 0, &[0]));
        assert!(none.admit_address("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_rules_that_were_set_last_are_in_force() {
        let rules = Rules::new().unwrap();
        let ip = "10.0.0.1".parse().unwrap();
        assert!(!rules.are_set() && rules.admit_address(ip) && !rules.restrict_users());
        for change in 0..5 {
            let denied = networks(if change % 2 == 0 {
                "10.0.0.0/8"
            } else {
                "11.0.0.0/8"
            });
            rules.set(&Lock::default(), &Access::new().deny(denied));
            assert!(rules.are_set());
            assert_eq!(rules.admit_address(ip), change % 2 == 1);
        }
    }

    #[test]
    fn the_most_rules_fit() {
        let network =
            |number: usize| Network::from(IpAddr::V6((u128::MAX - 2 * number as u128).into()));
        let count = Access::NETWORKS_MAX;
        let ids = 0..Access::USERS_MAX as u32;
        let access = Access::new()
            .allow((0..count).map(network))
            .allow_users(ids.clone())
            .allow_groups(ids.clone());
        access.check().unwrap();
        let rules = rules(&access);
        assert!(rules.admit_address(network(0).address()));
        assert!(rules.admit_address(network(count - 1).address()));
        assert!(!rules.admit_address(network(count).address()));
        assert!(rules.admit_user(u32::MAX, || vec![ids.end - 1]));
        assert!(!rules.admit_user(u32::MAX, || vec![ids.end]));
    }

    /// The copy that a reader has begun to search may be written by a second change.
    #[test]
    fn a_reader_searches_again_after_a_change() {
        let rules = Rules::new().unwrap();
        rules.set(&Lock::default(), &Access::new().allow_users([1]));
        let searches = Cell::new(0);
        let users = rules.read(|copy| {
            searches.set(searches.get() + 1);
            if searches.get() == 1 {
                rules.set(&Lock::default(), &Access::new());
                rules.set(&Lock::default(), &Access::new().allow_users([1, 2]));
            }
            copy.count(USERS) == 2
        });
        assert_eq!((users, searches.get()), (true, 2));
    }
}
