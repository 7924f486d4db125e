//! What a request knows of its server, and how the server reaches it to cut it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use crate::address::Address;
use crate::state::Shared;
use crate::state::table::{Activity, CutReason, Slot};
use crate::sys::clock::Millis;

/// Something that ends a request's input and output from another thread.
pub trait Cut: Send + Sync {
    /// Makes the blocked and all later reads and writes of the request fail or end. Called at the
    /// drain deadline, and when the connection has missed another.
    fn cut(&self);

    /// Who sent the request.
    fn peer(&self) -> Address;

    /// Whether the peer has sent what was not received yet: it is not to blame then for the time that
    /// its handler has waited. Default: no.
    fn has_input(&self) -> bool {
        false
    }

    /// How many bytes were sent that the peer has not taken, as the system knows it: a write deadline
    /// runs from the last moment at which that became less. Default: unknown, and it runs from the
    /// last write that the system has taken in.
    fn unsent(&self) -> Option<u64> {
        None
    }

    /// The socket that shutdown(2) cuts, so that it can be cut from another process that serves it
    /// ([`Forking`](crate::Forking)). Default: none, and that process is killed.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The requests of a process that can be cut.
#[derive(Default)]
pub(super) struct Cuttable {
    /// With who sent them, by their numbers.
    requests: HashMap<u64, Weak<dyn Cut>>,
    /// The deadline has come: what is registered now is cut at once.
    over: bool,
}

/// What a request knows of its server. A transport puts one into each request that it makes.
#[derive(Debug)]
pub struct Context {
    id: u64,
    /// Absent for a connection that was not accepted.
    shared: Option<Arc<Shared>>,
    /// Its slot in the table of connections, plus one; zero without one.
    slot: AtomicU32,
    /// Whether it is among those that can be cut.
    cuttable: bool,
}

impl Context {
    /// What a connection out knows: nothing.
    pub(crate) const fn detached() -> Self {
        Self {
            id: 0,
            shared: None,
            slot: AtomicU32::new(0),
            cuttable: false,
        }
    }

    /// The number of the request: unique and ascending within its server, over all of its
    /// processes, from 1. 0 for a connection that was made, not accepted.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether the server has been asked to stop.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.stopping())
    }

    /// Makes this request a connection of its server's: it is listed, its deadlines are kept, and
    /// it is cut when one has passed, when it is asked for, or when the drain is over.
    pub fn on_cut(&mut self, cut: Weak<dyn Cut>) {
        let Some(shared) = &self.shared else { return };
        let late = cut.upgrade();
        if let Some(request) = &late {
            self.list(&request.peer());
        }
        self.cuttable = true;
        let over = {
            let mut cuttable = shared.cuttable();
            cuttable.requests.insert(self.id, cut);
            cuttable.over
        };
        if let Some(late) = late.filter(|_| over) {
            shared.count_cut(1);
            late.cut();
        }
    }

    /// Lists the request among the connections, unless it is there.
    pub(crate) fn list(&self, peer: &Address) {
        let Some(shared) = self.shared.as_ref().filter(|_| self.slot().is_none()) else {
            return;
        };
        let claimed = shared
            .table
            .claim(self.id, shared.worker_number(), peer, Millis::now());
        if let Some(index) = claimed {
            // SeqCst, as the load: see `Cutter`.
            shared.listed.fetch_add(1, Ordering::SeqCst);
            self.slot.store(index + 1, Ordering::Relaxed);
        }
    }

    /// Says that the connection shakes hands from now on, for a transport that wraps another: the
    /// handshake timeout applies until [`end_handshake`](Self::end_handshake), and no other but
    /// those of the request and of the connection's lifetime.
    pub fn begin_handshake(&self) {
        self.enter(Activity::Handshake);
    }

    /// Says that the handshake is over.
    pub fn end_handshake(&self) {
        self.leave(Activity::Handshake, 0);
    }

    /// What the server's processes know of this connection.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        let index = self.slot.load(Ordering::Relaxed).checked_sub(1)?;
        let slot = self.shared.as_ref()?.table.slot(index);
        // A child whose parent was killed has lost it to another connection.
        (slot.id() == self.id).then_some(slot)
    }

    /// Notes what the connection does from now on.
    pub(crate) fn enter(&self, activity: Activity) {
        if let Some(slot) = self.slot() {
            // What goes on within a handshake is a part of it.
            if slot.activity().0 != Activity::Handshake {
                slot.enter(activity, Millis::now());
            }
        }
    }

    /// Notes that `activity` is over, and how many bytes it has moved.
    pub(crate) fn leave(&self, activity: Activity, bytes: usize) {
        let Some(slot) = self.slot() else { return };
        let ((current, since), now) = (slot.activity(), Millis::now());
        if activity == Activity::Reading {
            slot.add_received(bytes);
            slot.add_waited(now.since(since));
        } else {
            slot.add_sent(bytes);
        }
        if current == activity {
            slot.enter(Activity::Running, now);
        }
    }

    /// Notes bytes of a request that were received while the connection was parked.
    pub(crate) fn gathered(&self, bytes: usize) {
        let Some(slot) = self.slot().filter(|_| bytes > 0) else {
            return;
        };
        let ((activity, since), now) = (slot.activity(), Millis::now());
        slot.add_received(bytes);
        if activity == Activity::Parked && slot.began().is_some() {
            slot.add_waited(now.since(since));
        }
        slot.begin_request(now);
    }

    /// Notes that a request of the connection begins, unless one has.
    pub(crate) fn begin_request(&self) {
        if let Some(slot) = self.slot() {
            let now = Millis::now();
            slot.begin_request(now);
            slot.enter(Activity::Running, now);
        }
    }

    pub(crate) fn end_request(&self) {
        if let Some(slot) = self.slot() {
            slot.end_request();
        }
    }

    pub(crate) fn cut_reason(&self) -> Option<CutReason> {
        self.slot()?.cut_reason()
    }

    /// Leaves the listed connection to another process, which has a copy of it: this one's is about
    /// to be dropped.
    pub(crate) fn hand_over(&self) -> Option<Listed> {
        let index = self.slot.swap(0, Ordering::Relaxed).checked_sub(1)?;
        let shared = Arc::clone(self.shared.as_ref()?);
        shared.cuttable().requests.remove(&self.id);
        Some(Listed { shared, index })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        if self.cuttable {
            shared.cuttable().requests.remove(&self.id);
        }
        if let Some(index) = self.slot.get_mut().checked_sub(1) {
            shared.unlist(index);
        }
    }
}

/// A connection that is listed here and served elsewhere. Taken off the list on drop.
#[derive(Debug)]
pub(crate) struct Listed {
    shared: Arc<Shared>,
    index: u32,
}

impl Listed {
    pub(crate) fn slot(&self) -> &Slot {
        self.shared.table.slot(self.index)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.unlist(self.index);
    }
}

impl Shared {
    /// A context for a new request.
    pub(crate) fn context(self: &Arc<Self>) -> Context {
        let id = self.page().last_id.fetch_add(1, Ordering::Relaxed) + 1;
        Context {
            id,
            shared: Some(Arc::clone(self)),
            slot: AtomicU32::new(0),
            cuttable: false,
        }
    }

    /// Counts a connection among those of its address; says whether that may have another.
    pub(crate) fn count_address(&self, context: &Context, ip: IpAddr, limit: u64) -> bool {
        let Some(slot) = context.slot() else {
            return true;
        };
        // Noted first: a worker that is killed in between leaves one too few, until the address has no
        // connection left, rather than one too many for good.
        slot.counted.store(1, Ordering::Relaxed);
        let entered = self.counted.enter(ip, limit);
        if !entered {
            slot.counted.store(0, Ordering::Relaxed);
        }
        entered
    }

    fn unlist(&self, index: u32) {
        self.uncount_address(index);
        let (slot, counts) = (self.table.slot(index), self.counts());
        counts
            .received
            .fetch_add(slot.received(), Ordering::Relaxed);
        counts.sent.fetch_add(slot.sent(), Ordering::Relaxed);
        self.table.release(index);
        self.listed.fetch_sub(1, Ordering::Relaxed);
    }

    fn uncount_address(&self, index: u32) {
        let slot = self.table.slot(index);
        if slot.counted.swap(0, Ordering::Relaxed) != 0 {
            slot.peer()
                .ip()
                .into_iter()
                .for_each(|ip| self.counted.leave(ip));
        }
    }

    pub(super) fn unlist_worker(&self, index: usize) {
        let dead = index as u16 + 1;
        for (index, slot) in self.table.used() {
            if slot.id() != 0 && slot.worker() == dead {
                self.uncount_address(index);
                self.table.release(index);
            }
        }
    }

    /// How many connections this process has listed.
    pub(crate) fn listed(&self) -> u64 {
        self.listed.load(Ordering::SeqCst)
    }

    /// The number of the socket of a connection of this process, where it has one.
    pub(crate) fn socket(&self, id: u64) -> Option<RawFd> {
        let request = self.cuttable_of(id)?.upgrade()?;
        request.socket().map(|socket| socket.as_raw_fd())
    }

    /// How a connection of this process is cut.
    pub(super) fn cuttable_of(&self, id: u64) -> Option<Weak<dyn Cut>> {
        self.cuttable().requests.get(&id).cloned()
    }

    /// Who sent a request of this process that can be cut.
    #[cfg(feature = "coroutines")]
    pub(crate) fn peer(&self, id: u64) -> Option<Address> {
        self.cuttable()
            .requests
            .get(&id)
            .and_then(Weak::upgrade)
            .map(|request| request.peer())
    }

    /// Cuts every live request of this process that can be cut, and counts them.
    pub(crate) fn cut_all(&self) -> u64 {
        let mine = self.worker_number();
        let slots = self.table.used().map(|(_, slot)| slot);
        for slot in slots.filter(|slot| slot.id() != 0 && slot.worker() == mine) {
            slot.cut(CutReason::Drain);
        }
        let cuttable: Vec<_> = {
            let mut cuttable = self.cuttable();
            cuttable.over = true;
            cuttable
                .requests
                .values()
                .filter_map(Weak::upgrade)
                .collect()
        };
        // Noted and counted first: what is cut may end, and its server report, before this thread goes on.
        self.count_cut(cuttable.len() as u64);
        for request in &cuttable {
            request.cut();
        }
        cuttable.len() as u64
    }

    fn cuttable(&self) -> MutexGuard<'_, Cuttable> {
        // A map is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.cuttable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
