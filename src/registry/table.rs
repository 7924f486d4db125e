//! The table of connection slots, in memory that the processes of a server share. A slot has the
//! peer of a connection, its activity, and since when. Checks for deadlines scan the table, so
//! setting a deadline costs a connection no more than a store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

use crate::address::{Address, UnixAddress};
use crate::sys::clock::Millis;
use crate::sys::memory::{SharedMemory, shareable};

/// What a connection does. `Display` prints it in one or two words.
///
/// # Examples
///
/// ```
/// use socketserver::ServerHandle;
/// use socketserver::observe::Activity;
///
/// /// How many clients are slow to read their answers.
/// fn slow_readers(handle: &ServerHandle) -> usize {
///     let connections = handle.connections();
///     connections.iter().filter(|connection| connection.activity == Activity::Writing).count()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// The handler runs, or waits for something other than the peer.
    Running,
    /// The handler waits for input.
    Reading,
    /// The handler waits until the peer takes output.
    Writing,
    /// The handler waits for the next message
    /// ([`Connection::next_message`](crate::Connection::next_message)).
    Idle,
    /// The connection waits for its peer without a handler.
    Parked,
    /// The connection was accepted, and waits for a thread, a process or a coroutine.
    Queued,
    /// The handshake of the connection is in progress; see
    /// [`Context::begin_handshake`](crate::net::Context::begin_handshake).
    Handshake,
}

const ACTIVITIES: [Activity; 7] = [
    Activity::Queued,
    Activity::Running,
    Activity::Reading,
    Activity::Writing,
    Activity::Parked,
    Activity::Handshake,
    Activity::Idle,
];

/// Why the server has aborted a connection.
///
/// # Examples
///
/// ```
/// use socketserver::observe::AbortReason;
/// use socketserver::{Server, Tcp};
///
/// let builder = Server::<Tcp>::builder().on_error(|failure| {
///     if failure.abort_reason() == Some(AbortReason::Request) {
///         eprintln!("a request took too long: {failure}");
///     }
/// });
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbortReason {
    /// The connection was live at the drain deadline of a stop.
    Drain,
    /// The client did not send its first byte within the [first-byte
    /// timeout](crate::Builder::first_byte_timeout).
    FirstByte,
    /// The handshake did not end within the [handshake timeout](crate::Builder::handshake_timeout).
    Handshake,
    /// The client was silent for the [idle timeout](crate::Builder::idle_timeout).
    Idle,
    /// A request did not end within the [request timeout](crate::Builder::request_timeout).
    Request,
    /// The peer took no output for the [write timeout](crate::Builder::write_timeout).
    Write,
    /// The connection was open for its [lifetime](crate::Builder::lifetime).
    Lifetime,
    /// The client sent more slowly than the [minimum rate](crate::Builder::min_rate).
    MinRate,
    /// The connection was idle for longest when a full server needed room:
    /// [`AtLimit::ShedOldestIdle`](crate::limits::AtLimit::ShedOldestIdle).
    Shed,
    /// [`ServerHandle::abort`](crate::ServerHandle::abort) has aborted the connection.
    Asked,
    /// The worker that served the connection has failed.
    Worker,
}

const REASONS: [AbortReason; 11] = [
    AbortReason::Drain,
    AbortReason::FirstByte,
    AbortReason::Handshake,
    AbortReason::Idle,
    AbortReason::Request,
    AbortReason::Write,
    AbortReason::Lifetime,
    AbortReason::MinRate,
    AbortReason::Shed,
    AbortReason::Asked,
    AbortReason::Worker,
];

impl AbortReason {
    /// The text of the error that the handler's reads and writes return.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Drain => "the connection was aborted at the drain deadline of the server's stop",
            Self::FirstByte => "no first byte came within the first-byte timeout",
            Self::Handshake => "the handshake took longer than the handshake timeout",
            Self::Idle => "no input came within the idle timeout",
            Self::Request => "the request took longer than the request timeout",
            Self::Write => "the peer took no output within the write timeout",
            Self::Lifetime => "the connection was open for its whole lifetime",
            Self::MinRate => "input came more slowly than the minimum rate",
            Self::Shed => "the server is full, and this connection was idle for longest",
            Self::Asked => "the connection was aborted through the server's handle",
            Self::Worker => "the worker that served this connection has failed",
        }
    }
}

/// The slot of one connection. All zero at first.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The activity (an index of `ACTIVITIES`, 3 bits), and since when.
    activity: AtomicU64,
    /// When output last moved, or a waiting write began; the lowest two bits: whether one waits, and whether the wait
    /// was left although nothing has moved.
    output: AtomicU64,
    /// When a [`Writer`](crate::net::Writer) last moved bytes, in seconds, rounded up.
    pushed: AtomicU32,
    received: AtomicU64,
    sent: AtomicU64,
    /// When the current request began, plus one; zero between requests.
    began: AtomicU64,
    /// How many bytes were received before the current request, and how long the request has waited
    /// for input, in milliseconds.
    received_before: AtomicU64,
    waited: AtomicU32,
    /// The number of the connection; zero while the slot is free.
    id: AtomicU64,
    accepted: AtomicU64,
    address: [AtomicU64; 2],
    port: AtomicU16,
    family: AtomicU8,
    /// Why the connection was aborted (an index of `REASONS`, plus one); zero if it was not.
    abort: AtomicU8,
    /// How many bytes of a waiting write the peer had not taken at the last check, plus one; zero
    /// before the first check.
    unsent: AtomicU32,
    /// The process that serves the connection: the index of a worker's slot plus one, or zero.
    worker: AtomicU16,
    /// While the slot is free, the next free one, plus one; while it is in use, the mark of the
    /// connection in the counts of peers.
    link: AtomicU32,
    /// How the server has ended the connection: zero, `IDLE` or `REFUSED`.
    ended: AtomicU8,
}

/// The connection was idle.
const IDLE: u8 = 1;
/// Its client was refused after its accept.
const REFUSED: u8 = 2;

/// A write waits.
const WAITS: u64 = 1;
/// A write has waited, and may go on.
const LEFT: u64 = 2;

/// The state of the output, in one word.
const fn output(since: Millis, waits: u64) -> u64 {
    since.0 << 2 | waits
}

/// An activity, and since when, in one word.
fn packed(activity: Activity, since: Millis) -> u64 {
    let index = ACTIVITIES.iter().position(|other| *other == activity);
    since.0 << 3 | index.unwrap_or_default() as u64
}

const INET4: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
/// An IPv6 address with a zone, which lies where a link-local address has zeros (RFC 4291, section
/// 2.5.6): in the lower half of its upper half.
const INET6_ZONE: u8 = 4;
const ZONE: u32 = 64;

/// The free slots of a table.
#[derive(Debug, Default)]
pub(crate) struct Free {
    /// The index of the first free slot, plus one, in the lower half; a count of changes in the
    /// upper half.
    first: AtomicU64,
    /// How many slots were ever used.
    fresh: AtomicU32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Table {
    slots: SharedMemory<Slot>,
    free: SharedMemory<Free>,
}

shareable!(Slot {
    activity,
    output,
    pushed,
    received,
    sent,
    began,
    received_before,
    waited,
    id,
    accepted,
    address,
    port,
    family,
    abort,
    unsent,
    worker,
    link,
    ended
});
shareable!(Free { first, fresh });

impl Table {
    pub(crate) fn new(capacity: usize) -> std::io::Result<Self> {
        Ok(Self {
            slots: SharedMemory::new(capacity)?,
            free: SharedMemory::new(1)?,
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    /// The slots that are or were in use, with their indexes.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let fresh = self.free[0].fresh.load(Acquire).min(self.capacity() as u32);
        (0..fresh).zip(self.slots.iter())
    }

    /// Claims a slot for a connection; `None` if all are taken.
    pub(crate) fn claim(&self, id: u64, worker: u16, peer: &Address, now: Millis) -> Option<u32> {
        let index = self.pop().or_else(|| self.take_fresh())?;
        let slot = self.slot(index);
        slot.received.store(0, Relaxed);
        slot.sent.store(0, Relaxed);
        slot.output.store(0, Relaxed);
        slot.pushed.store(0, Relaxed);
        slot.end_request();
        slot.abort.store(0, Relaxed);
        slot.link.store(0, Relaxed);
        slot.ended.store(0, Relaxed);
        slot.accepted.store(now.0, Relaxed);
        slot.worker.store(worker, Relaxed);
        slot.enter(Activity::Queued, now);
        slot.set_peer(peer);
        // Release: a reader that sees the number sees the other fields.
        slot.id.store(id, Release);
        Some(index)
    }

    /// Releases a slot.
    pub(crate) fn release(&self, index: u32) {
        self.slot(index).id.store(0, Release);
        let first = &self.free[0].first;
        let mut current = first.load(Acquire);
        loop {
            self.slot(index).link.store(current as u32, Relaxed);
            let changed = (current >> 32).wrapping_add(1) << 32 | u64::from(index + 1);
            match first.compare_exchange_weak(current, changed, Release, Acquire) {
                Ok(_) => return,
                Err(now) => current = now,
            }
        }
    }

    fn pop(&self) -> Option<u32> {
        let first = &self.free[0].first;
        let mut current = first.load(Acquire);
        loop {
            let index = (current as u32).checked_sub(1)?;
            let next = self.slot(index).link.load(Relaxed);
            let changed = (current >> 32).wrapping_add(1) << 32 | u64::from(next);
            match first.compare_exchange_weak(current, changed, Acquire, Acquire) {
                Ok(_) => return Some(index),
                Err(now) => current = now,
            }
        }
    }

    fn take_fresh(&self) -> Option<u32> {
        let grow = |fresh: u32| (u64::from(fresh) < self.capacity() as u64).then_some(fresh + 1);
        self.free[0].fresh.fetch_update(Release, Relaxed, grow).ok()
    }
}

impl Slot {
    pub(crate) fn id(&self) -> u64 {
        self.id.load(Acquire)
    }

    /// The mark of the connection in the counts of peers; zero if it was not counted.
    pub(crate) const fn counted(&self) -> &AtomicU32 {
        &self.link
    }

    pub(crate) fn worker(&self) -> u16 {
        self.worker.load(Relaxed)
    }

    /// Stores the activity that the connection enters.
    pub(crate) fn enter(&self, activity: Activity, now: Millis) {
        self.activity.store(packed(activity, now), Relaxed);
    }

    /// Stores that a write waits from now on; or again, if its wait was left and nothing has moved since.
    pub(crate) fn begin_write(&self, now: Millis) {
        let left = self.output.load(Relaxed);
        if left & LEFT != 0 {
            let since = Millis((left >> 2).max(self.pushed()));
            return self.output.store(output(since, WAITS), Relaxed);
        }
        self.unsent.store(0, Relaxed);
        self.output.store(output(now, WAITS), Relaxed);
    }

    /// Stores that a write that waits does so no longer, although nothing has moved.
    pub(crate) fn leave_write(&self) {
        if let Some(since) = self.writing() {
            self.output.store(output(since, LEFT), Relaxed);
        }
    }

    /// Stores that no write waits any more, and that output has moved at `moved`.
    pub(crate) fn end_write(&self, moved: Option<Millis>) {
        let output = output(moved.unwrap_or_default(), 0);
        self.output.store(output, Relaxed);
    }

    /// Since when a write has waited without progress, if one waits.
    pub(crate) fn writing(&self) -> Option<Millis> {
        let output = self.output.load(Relaxed);
        (output & WAITS != 0).then_some(Millis(output >> 2))
    }

    /// Stores that a writer has moved bytes.
    pub(crate) fn push(&self, now: Millis) {
        self.pushed.store((now.0 / 1000 + 1) as u32, Relaxed);
    }

    /// When a writer last moved bytes, in milliseconds.
    fn pushed(&self) -> u64 {
        u64::from(self.pushed.load(Relaxed)) * 1000
    }

    /// Since when nothing has moved in either direction, for a connection that has waited for input since `since`.
    pub(crate) fn silent_since(&self, since: Millis) -> Millis {
        let output = self.output.load(Relaxed) >> 2;
        Millis(since.0.max(output).max(self.pushed()))
    }

    /// How many bytes of a waiting write the peer had not taken at the last check.
    pub(crate) fn unsent(&self) -> Option<u32> {
        self.unsent.load(Relaxed).checked_sub(1)
    }

    /// Stores how many bytes the peer has not taken at `now`, for a write that waits since `since`.
    /// If the peer has taken some since the last check, or this is the first check, the write
    /// counts as begun now.
    pub(crate) fn note_unsent(&self, left: u64, since: Millis, now: Millis) {
        let left = u32::try_from(left)
            .unwrap_or(u32::MAX - 1)
            .min(u32::MAX - 1);
        let before = self.unsent();
        self.unsent.store(left + 1, Relaxed);
        // With nothing left the write is about to be woken, or its future was dropped.
        if left == 0 || before.is_none_or(|before| left < before) {
            let (old, new) = (output(since, WAITS), output(now, WAITS));
            // A write that has ended meanwhile has stored another state.
            let _ = self.output.compare_exchange(old, new, Relaxed, Relaxed);
        }
    }

    /// The activity as users see it, and since when: a write that waits counts as the activity.
    pub(crate) fn shown(&self) -> (Activity, Millis) {
        let writing = self.writing().map(|since| (Activity::Writing, since));
        writing.unwrap_or_else(|| self.activity())
    }

    /// The activity, and since when; never [`Activity::Writing`], because the two directions of a connection may
    /// be in use at the same time.
    pub(crate) fn activity(&self) -> (Activity, Millis) {
        let packed = self.activity.load(Relaxed);
        let activity = ACTIVITIES.get((packed & 7) as usize);
        (
            activity.copied().unwrap_or(Activity::Running),
            Millis(packed >> 3),
        )
    }

    /// Marks the connection as ended by the server, because it is idle and the grace of a stop is
    /// over.
    pub(crate) fn end(&self) {
        self.ended.store(IDLE, Release);
        // Orders the mark before the next activity: see `is_leaving`.
        fence(Release);
    }

    /// Whether the connection is idle, or was idle when the server has ended it.
    pub(crate) fn is_leaving(&self) -> bool {
        let idle = matches!(self.activity().0, Activity::Parked | Activity::Idle);
        fence(Acquire);
        idle || self.is_ended()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Acquire) == IDLE
    }

    /// Marks the connection as refused and counted.
    pub(crate) fn refuse(&self) {
        self.ended.store(REFUSED, Release);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.ended.load(Acquire) == REFUSED
    }

    /// Adds to the received bytes. Only the process that serves the connection calls this, from one
    /// thread at a time.
    pub(crate) fn add_received(&self, bytes: usize) {
        let received = self.received.load(Relaxed);
        self.received
            .store(received.wrapping_add(bytes as u64), Relaxed);
    }

    /// Adds to the sent bytes; called like [`add_received`](Self::add_received).
    pub(crate) fn add_sent(&self, bytes: usize) {
        let sent = self.sent.load(Relaxed);
        self.sent.store(sent.wrapping_add(bytes as u64), Relaxed);
    }

    /// Adds to the time that the request has waited for input, in milliseconds; called like
    /// [`add_received`](Self::add_received).
    pub(crate) fn add_waited(&self, time: u64) {
        let waited = self.waited.load(Relaxed);
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        self.waited.store(waited.saturating_add(time), Relaxed);
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn accepted(&self) -> Millis {
        Millis(self.accepted.load(Relaxed))
    }

    /// Begins a request, unless one has begun.
    pub(crate) fn begin_request(&self, now: Millis) {
        if self.began.load(Relaxed) == 0 {
            self.began.store(now.0 + 1, Relaxed);
        }
    }

    pub(crate) fn end_request(&self) {
        self.began.store(0, Relaxed);
        self.waited.store(0, Relaxed);
        self.received_before.store(self.received(), Relaxed);
    }

    pub(crate) fn began(&self) -> Option<Millis> {
        self.began.load(Relaxed).checked_sub(1).map(Millis)
    }

    /// How many bytes this request has received, and how long it has waited for them, in
    /// milliseconds.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let received = self.received();
        let before = self.received_before.load(Relaxed);
        (
            received.wrapping_sub(before),
            u64::from(self.waited.load(Relaxed)),
        )
    }

    /// Stores why the connection is aborted, unless a reason is stored. Returns whether this is the
    /// first reason.
    pub(crate) fn abort(&self, reason: AbortReason) -> bool {
        let index = REASONS.iter().position(|other| *other == reason);
        let code = index.map_or(0, |index| index as u8 + 1);
        let first = self.abort.compare_exchange(0, code, Release, Acquire);
        first.is_ok()
    }

    pub(crate) fn abort_reason(&self) -> Option<AbortReason> {
        let code = self.abort.load(Acquire);
        REASONS.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Stores the peer, or the client that a proxy names in its place: a reader may see a part of either meanwhile.
    pub(super) fn set_peer(&self, peer: &Address) {
        let (family, bits, port) = match peer {
            Address::Inet(SocketAddr::V4(v4)) => {
                (INET4, u128::from(u32::from(*v4.ip())), v4.port())
            }
            Address::Inet(SocketAddr::V6(v6)) => {
                let bits = u128::from(*v6.ip());
                let has_room = (bits >> ZONE) as u32 == 0;
                if v6.scope_id() != 0 && has_room {
                    let zone = u128::from(v6.scope_id()) << ZONE;
                    (INET6_ZONE, bits | zone, v6.port())
                } else {
                    (INET6, bits, v6.port())
                }
            }
            Address::Unix(_) => (UNIX, 0, 0),
            Address::Named(_) => (0, 0, 0),
        };
        self.family.store(family, Relaxed);
        self.port.store(port, Relaxed);
        self.address[0].store((bits >> 64) as u64, Relaxed);
        self.address[1].store(bits as u64, Relaxed);
    }

    /// The peer. The slot does not store names: a Unix socket is `Unnamed`, a custom address an
    /// empty `Named`.
    pub(crate) fn peer(&self) -> Address {
        let bits = u128::from(self.address[0].load(Relaxed)) << 64
            | u128::from(self.address[1].load(Relaxed));
        let port = self.port.load(Relaxed);
        let ip = match self.family.load(Relaxed) {
            INET4 => IpAddr::V4(Ipv4Addr::from(bits as u32)),
            INET6 => IpAddr::V6(Ipv6Addr::from(bits)),
            INET6_ZONE => {
                let zone = (bits >> ZONE) as u32;
                let ip = Ipv6Addr::from(bits & !(u128::from(u32::MAX) << ZONE));
                return Address::Inet(SocketAddrV6::new(ip, port, 0, zone).into());
            }
            UNIX => return Address::Unix(UnixAddress::Unnamed),
            _ => return Address::Named(String::new()),
        };
        Address::Inet(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Address {
        Address::from(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn slots_are_used_again_and_never_twice() {
        let table = Table::new(2).unwrap();
        let claim = |id| table.claim(id, 0, &peer(7), Millis(5));
        assert_eq!(
            (claim(1), claim(2), claim(3)),
            (Some(0), Some(1), None),
            "a full table has no slot"
        );
        table.release(0);
        assert_eq!((claim(4), claim(5)), (Some(0), None));
        let ids: Vec<_> = table.used().map(|(_, slot)| slot.id()).collect();
        assert_eq!(ids, [4, 2]);
    }

    #[test]
    fn a_slot_returns_what_was_stored() {
        let table = Table::new(1).unwrap();
        let v6 = Address::from(SocketAddr::from(([1, 2, 3, 4, 5, 6, 7, 8], 9)));
        let slot = table.slot(table.claim(1, 3, &v6, Millis(5)).unwrap());
        assert_eq!((slot.peer(), slot.worker()), (v6, 3));
        assert_eq!(slot.activity(), (Activity::Queued, Millis(5)));
        slot.enter(Activity::Writing, Millis(1 << 40));
        assert_eq!(slot.activity(), (Activity::Writing, Millis(1 << 40)));
        assert_eq!((slot.abort_reason(), slot.began()), (None, None));
        assert!(slot.abort(AbortReason::Asked) && !slot.abort(AbortReason::Drain));
        assert_eq!(slot.abort_reason(), Some(AbortReason::Asked));
        slot.begin_request(Millis(0));
        slot.begin_request(Millis(8));
        slot.add_received(3);
        assert_eq!((slot.began(), slot.progress()), (Some(Millis(0)), (3, 0)));
        slot.end_request();
        assert_eq!((slot.began(), slot.progress()), (None, (0, 0)));
    }

    #[test]
    fn a_link_local_peer_keeps_its_zone() {
        let table = Table::new(2).unwrap();
        for addr in ["[fe80::77%3]:9", "[fe80::77]:9", "[fe80:0:1:2::77]:9"] {
            let peer = Address::from(addr.parse::<SocketAddr>().unwrap());
            let index = table.claim(1, 0, &peer, Millis(5)).unwrap();
            assert_eq!(table.slot(index).peer(), peer);
            table.release(index);
        }
    }

    #[test]
    fn every_reason_and_every_activity_comes_back() {
        for reason in REASONS {
            let slot = Slot::default();
            slot.abort(reason);
            assert_eq!(slot.abort_reason(), Some(reason));
        }
        for activity in ACTIVITIES {
            let slot = Slot::default();
            slot.enter(activity, Millis(1));
            assert_eq!(slot.activity().0, activity);
        }
        assert!(size_of::<Slot>() <= 104, "{} bytes", size_of::<Slot>());
    }
}
