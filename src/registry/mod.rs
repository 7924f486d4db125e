//! The table of a server's live connections: who they are, how one is aborted, and which have taken
//! too long.

pub(crate) mod context;
pub(crate) mod deadlines;
mod host;
pub(crate) mod info;
pub(crate) mod keeper;
pub(crate) mod session;
pub(crate) mod table;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::address::Address;
use crate::admission::Admission;
use crate::counters::{Counters, count};
use crate::lifecycle::Lifecycle;
use crate::registry::context::{Context, Cut};
use crate::registry::deadlines::{Deadlines, Found, look_step, millis};
use crate::registry::host::Waits;
use crate::registry::info::ConnectionInfo;
use crate::registry::table::{Activity, CutReason, Slot, Table};
use crate::sys::clock::{Millis, TICK};
use crate::sys::memory::{SharedMemory, shareable};

/// What all processes of a server share, beside the table. All zero when made.
#[derive(Debug, Default)]
struct Page {
    last_id: AtomicU64,
    /// How often a connection was asked to be cut.
    cuts_asked: AtomicU64,
    /// The number of the connection that was chosen last to make room for another.
    shed: AtomicU64,
}

shareable!(Page {
    last_id,
    cuts_asked,
    shed
});

/// What ending idle connections has left.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// The numbers of those whose sockets are in a child.
    pub(crate) elsewhere: Vec<u64>,
    /// After how long to look again: some have only just become idle.
    pub(crate) again: Option<Duration>,
}

/// How long a connection that has just been answered, or accepted, is left alone when the grace is
/// over: its client may be about to send.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// How long idle connections that end at the drain deadline have for it.
const NOTICE: Duration = Duration::from_millis(250);

/// The requests of a process that can be cut.
#[derive(Default)]
struct Cuttable {
    /// With who sent them, by their numbers.
    requests: HashMap<u64, Weak<dyn Cut>>,
    /// The deadline has come: what is registered now is cut at once.
    over: bool,
}

/// Owns the live connections of a server.
pub(crate) struct Registry {
    lifecycle: Arc<Lifecycle>,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    page: SharedMemory<Page>,
    table: Table,
    deadlines: Deadlines,
    /// How many connections this process has in the table.
    listed: AtomicU64,
    /// The live requests of this process that can be cut. Weak: a request owns its socket, and
    /// closes it when it ends.
    cuttable: Mutex<Cuttable>,
    /// What the handlers of this process wait for beside their connections.
    waits: Waits,
}

impl Registry {
    pub(crate) fn new(
        lifecycle: Arc<Lifecycle>,
        admission: Arc<Admission>,
        counters: Arc<Counters>,
        deadlines: Deadlines,
        capacity: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            lifecycle,
            admission,
            counters,
            page: SharedMemory::new(1)?,
            table: Table::new(capacity)?,
            deadlines,
            listed: AtomicU64::new(0),
            cuttable: Mutex::default(),
            waits: Waits::default(),
        })
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }

    pub(super) const fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    pub(super) fn count_crossing(&self) {
        count(&self.counters.counts().crossed);
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        self.table.slot(index)
    }

    /// Puts a connection of this process into the table, if there is a slot.
    pub(super) fn list(&self, id: u64, peer: &Address) -> Option<u32> {
        let number = self.lifecycle.processes().number();
        let index = self.table.claim(id, number, peer, Millis::now())?;
        // SeqCst, as the load: see `Cutter`.
        self.listed.fetch_add(1, SeqCst);
        Some(index)
    }

    /// Has a request be cut by `cut` from now on: at once, if the drain deadline has come.
    pub(super) fn register(&self, id: u64, cut: Weak<dyn Cut>) {
        let over = {
            let mut cuttable = self.cuttable();
            cuttable.requests.insert(id, cut);
            cuttable.over
        };
        if let Some(late) = over.then(|| self.cuttable_of(id)).flatten() {
            self.counters.count_cut(1);
            late.cut();
        }
    }

    pub(super) fn unregister(&self, id: u64) {
        self.cuttable().requests.remove(&id);
    }

    /// A context for a new request.
    pub(crate) fn context(self: &Arc<Self>) -> Context {
        let id = self.page().last_id.fetch_add(1, Relaxed) + 1;
        Context::new(id, Arc::clone(self))
    }

    /// Counts a connection among those of its address; says whether that may have another.
    pub(crate) fn count_address(&self, context: &Context, ip: IpAddr, limit: u64) -> bool {
        let Some(slot) = context.slot() else {
            return true;
        };
        // Noted first: a worker that is killed in between leaves one too few, until the address has no
        // connection left, rather than one too many for good.
        slot.counted.store(1, Relaxed);
        let entered = self.admission.addresses().enter(ip, limit);
        if !entered {
            slot.counted.store(0, Relaxed);
        }
        entered
    }

    pub(super) fn unlist(&self, index: u32) {
        self.uncount_address(index);
        let (slot, counts) = (self.table.slot(index), self.counters.counts());
        counts.received.fetch_add(slot.received(), Relaxed);
        counts.sent.fetch_add(slot.sent(), Relaxed);
        self.table.release(index);
        self.listed.fetch_sub(1, Relaxed);
    }

    fn uncount_address(&self, index: u32) {
        let slot = self.table.slot(index);
        if slot.counted.swap(0, Relaxed) != 0 {
            slot.peer()
                .ip()
                .into_iter()
                .for_each(|ip| self.admission.addresses().leave(ip));
        }
    }

    /// Forgets the connections of the worker whose slot is `index`, which is dead.
    pub(crate) fn forget_worker(&self, index: usize) {
        for (index, _) in self.slots_of(index as u16 + 1) {
            self.uncount_address(index);
            self.table.release(index);
        }
    }

    /// The slots of the live connections of this process.
    fn slots_here(&self) -> impl Iterator<Item = (u32, &Slot)> {
        self.slots_of(self.lifecycle.processes().number())
    }

    fn slots_of(&self, process: u16) -> impl Iterator<Item = (u32, &Slot)> {
        let is_of = move |slot: &Slot| slot.id() != 0 && slot.worker() == process;
        self.table.used().filter(move |(_, slot)| is_of(slot))
    }

    /// How many connections this process has listed.
    pub(crate) fn listed(&self) -> u64 {
        self.listed.load(SeqCst)
    }

    /// The number of the socket of a connection of this process, where it has one.
    pub(crate) fn socket(&self, id: u64) -> Option<RawFd> {
        let request = self.cuttable_of(id)?;
        request.socket().map(|socket| socket.as_raw_fd())
    }

    /// How a connection of this process is cut.
    fn cuttable_of(&self, id: u64) -> Option<Arc<dyn Cut>> {
        self.cuttable().requests.get(&id)?.upgrade()
    }

    /// Who sent a request of this process that can be cut.
    #[cfg(feature = "coroutines")]
    pub(crate) fn peer(&self, id: u64) -> Option<Address> {
        let request = self.cuttable_of(id)?;
        Some(request.peer())
    }

    /// Cuts every live request of this process that can be cut, and counts them.
    pub(crate) fn cut_all(&self) -> u64 {
        for (_, slot) in self.slots_here() {
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
        self.counters.count_cut(cuttable.len() as u64);
        for request in &cuttable {
            request.cut();
        }
        self.waits.abort_all(CutReason::Drain);
        cuttable.len() as u64
    }

    /// Has requests that are registered from now on be cut at once.
    pub(crate) fn close(&self) {
        self.cuttable().over = true;
    }

    /// Ends the connections of this process whose handlers wait for a next message, once the grace of
    /// a stop is over: but for those that have sent one.
    pub(crate) fn end_idle(&self) -> Ended {
        // Seen after the stop: who is not idle yet sees the stop when it is.
        fence(SeqCst);
        let now = Millis::now();
        let mut found = Ended::default();
        for (_, slot) in self.slots_here() {
            let (activity, since) = slot.activity();
            if activity != Activity::Idle || slot.is_ended() {
                continue;
            }
            let settled = since.0 + millis(SETTLE) + TICK;
            if now.0 < settled {
                let left = Duration::from_millis(settled - now.0);
                found.again = Some(found.again.map_or(left, |again| again.min(left)));
                continue;
            }
            match self.cuttable_of(slot.id()) {
                Some(request) if request.has_input() => {}
                Some(request) => {
                    slot.end();
                    request.end_input();
                }
                None => found.elsewhere.push(slot.id()),
            }
        }
        found
    }

    /// Notes that the server ends an idle connection, which another process of it serves.
    pub(crate) fn note_end(&self, id: u64) {
        let _ = self.slot_of(id).map(Slot::end);
    }

    /// How long what is live is left alone at the drain deadline: idle connections that end with it
    /// are given a while to notice.
    pub(crate) fn notice(&self) -> Duration {
        if self.slots_here().any(|(_, slot)| slot.is_leaving()) {
            NOTICE
        } else {
            Duration::ZERO
        }
    }

    fn cuttable(&self) -> MutexGuard<'_, Cuttable> {
        // A map is whole after any panic of its own methods, and no other code runs under this
        // lock.
        self.cuttable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// How long a first connection can be left alone.
    pub(crate) fn first_look(&self) -> Option<Duration> {
        self.deadlines().shortest().map(Duration::from_millis)
    }

    /// Cuts the connections of this process whose time is over, and those that were asked to be.
    /// `unsent` says of one that is served in another process what its peer has not taken.
    pub(crate) fn look(&self, unsent: &dyn Fn(u64) -> Option<u64>) -> Found {
        let now = Millis::now();
        let mut found = Found::default();
        let mut next: Option<u64> = None;
        for (_, slot) in self.slots_here() {
            let id = slot.id();
            let reason = match slot.cut_reason() {
                // Another process may have noted that, and only this one can do it.
                Some(reason @ (CutReason::Asked | CutReason::Shed)) => reason,
                Some(_) => continue,
                None => {
                    let looks_on = self.look_at_write(slot, id, now, unsent);
                    match self.deadlines().check(slot, now) {
                        Ok(due) => {
                            let due = due.into_iter().chain(looks_on).min().unwrap_or(u64::MAX);
                            next = Some(next.map_or(due, |next: u64| next.min(due)));
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
            };
            // It is looked at again: it may have been on its way to where it can be cut.
            next = Some(next.map_or(now.0, |next| next.min(now.0)));
            self.cut_one(slot, id, reason, &mut found);
        }
        found.again = next.and_then(|due| self.look_again(due.saturating_sub(now.0)));
        found
    }

    fn look_again(&self, left: u64) -> Option<Duration> {
        let shortest = self.deadlines().shortest()?;
        let step = look_step(shortest);
        Some(Duration::from_millis(left.clamp(step, shortest.max(step))))
    }

    /// Notes whether the peer of a connection that waits to write has taken anything since the last
    /// look: its deadline runs from then on. Says when to look again.
    fn look_at_write(
        &self,
        slot: &Slot,
        id: u64,
        now: Millis,
        unsent: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let step = look_step(millis(self.deadlines().write?));
        let (activity, since) = slot.activity();
        if activity != Activity::Writing {
            return None;
        }
        // Most have room soon, and need no look.
        if slot.unsent().is_none() && now.since(since) < step {
            return Some(since.0 + step);
        }
        let own = self.cuttable_of(id);
        let left = own.map_or_else(|| unsent(id), |request| request.unsent());
        if let Some(left) = left {
            slot.note_unsent(left, since, now);
        }
        Some(now.0 + step)
    }

    /// Cuts a connection, or says who has to.
    fn cut_one(&self, slot: &Slot, id: u64, reason: CutReason, found: &mut Found) {
        let request = self.cuttable_of(id);
        let waits_for_peer = matches!(
            reason,
            CutReason::FirstByte | CutReason::Idle | CutReason::MinRate
        );
        // A busy worker has not come to it yet.
        if waits_for_peer && request.as_ref().is_some_and(|request| request.has_input()) {
            return;
        }
        if slot.activity().0 == Activity::Parked {
            found.parked.push((id, reason));
            return;
        }
        let is_first = slot.cut(reason);
        if is_first {
            count(&self.counters.counts().timed_out);
        }
        match request {
            Some(request) => {
                request.cut();
                self.waits.abort(id, reason);
            }
            None => {
                found.elsewhere.push(id);
                // It looks for the reason when it is woken.
                if is_first {
                    self.lifecycle.bell().ring();
                }
            }
        }
    }

    /// The connection of the server that has been idle for longest: one that is parked, or else one
    /// whose handler has waited for a message, or read, for `waiting` milliseconds at least. A
    /// handler that has just begun to wait may not have come to a message that is there.
    pub(crate) fn oldest_idle(&self, waiting: u64) -> Option<(u64, Activity)> {
        let now = Millis::now();
        let slots = self.table.used().map(|(_, slot)| slot);
        let live = slots.filter(|slot| slot.id() != 0);
        let idle = live.filter_map(|slot| {
            let (activity, since) = slot.activity();
            let parked = activity == Activity::Parked;
            let waits = matches!(activity, Activity::Idle | Activity::Reading);
            let is_idle = parked || waits && now.since(since) >= waiting;
            (is_idle && slot.cut_reason().is_none()).then(|| (!parked, since, slot.id(), activity))
        });
        // The clock is coarse: of two that are idle since the same tick, the first one came first.
        idle.min_by_key(|(waits, since, id, _)| (*waits, *since, *id))
            .map(|(.., id, activity)| (id, activity))
    }

    /// Notes why a connection is cut, for whoever serves it. Says whether it was not cut before.
    pub(crate) fn note_cut(&self, id: u64, reason: CutReason) -> bool {
        self.slot_of(id).is_some_and(|slot| slot.cut(reason))
    }

    /// Cuts a connection of this process, if it can be.
    pub(crate) fn cut_for(&self, id: u64, reason: CutReason) -> bool {
        let Some(request) = self.cuttable_of(id) else {
            return false;
        };
        self.note_cut(id, reason) && {
            request.cut();
            self.waits.abort(id, reason);
            true
        }
    }

    fn slot_of(&self, id: u64) -> Option<&Slot> {
        if id == 0 {
            return None;
        }
        let mut used = self.table.used().map(|(_, slot)| slot);
        used.find(|slot| slot.id() == id)
    }

    /// Asks whoever has the connection to cut it. Says whether there is such a connection.
    pub(crate) fn ask_to_cut(&self, id: u64) -> bool {
        let Some(slot) = self.slot_of(id) else {
            return false;
        };
        slot.cut(CutReason::Asked);
        self.ask_for_cuts();
        true
    }

    /// Has all processes look for connections that are noted to be cut.
    pub(crate) fn ask_for_cuts(&self) {
        self.page().cuts_asked.fetch_add(1, SeqCst);
        self.lifecycle.bell().ring();
    }

    /// Whether this process has a connection, or a child of it.
    pub(crate) fn is_here(&self, id: u64) -> bool {
        let mine = self.lifecycle.processes().number();
        self.slot_of(id).is_some_and(|slot| slot.worker() == mine)
    }

    /// Whether the connection that was chosen last to make room has not ended yet.
    pub(crate) fn sheds(&self) -> bool {
        self.slot_of(self.page().shed.load(SeqCst)).is_some()
    }

    /// Chooses a connection to make room, unless another one is about to: several processes see the
    /// same client wait.
    pub(crate) fn begin_to_shed(&self, id: u64) -> bool {
        let before = self.page().shed.load(SeqCst);
        let chosen = || {
            self.page()
                .shed
                .compare_exchange(before, id, SeqCst, SeqCst)
        };
        !self.sheds() && chosen().is_ok()
    }

    /// Whether a connection was asked to be cut since `seen`, which is brought up to date.
    pub(crate) fn was_asked_to_cut(&self, seen: &mut u64) -> bool {
        let asked = self.page().cuts_asked.load(SeqCst);
        std::mem::replace(seen, asked) != asked
    }

    /// The connections of all processes, in the order in which they were accepted.
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = Millis::now();
        let listed = self.table.used();
        let mut connections: Vec<_> = listed
            .filter_map(|(_, slot)| ConnectionInfo::of(slot, now))
            .collect();
        connections.sort_unstable_by_key(|connection| connection.id);
        connections
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("page", self.page())
            .field("listed", &self.listed())
            .finish_non_exhaustive()
    }
}
