//! The registry of a server's live connections: the table of their slots, how each is aborted, and
//! the check of their deadlines.

pub(crate) mod context;
pub(crate) mod deadlines;
mod host;
pub(crate) mod info;
pub(crate) mod keeper;
pub(crate) mod session;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::address::Address;
use crate::admission::Admission;
use crate::admission::peers::Peer;
use crate::counters::{Counters, count};
use crate::lifecycle::Lifecycle;
use crate::registry::context::{Abort, Context};
use crate::registry::deadlines::{Deadlines, Expired, check_step, millis};
use crate::registry::host::Waits;
use crate::registry::info::ConnectionInfo;
use crate::registry::table::{AbortReason, Activity, Slot, Table};
use crate::sys::clock::{Millis, TICK};
use crate::sys::memory::{SharedMemory, shareable};

/// The state of the registry that all processes of a server share, beside the table. All zero at
/// first.
#[derive(Debug, Default)]
struct Page {
    last_id: AtomicU64,
    /// How many times an abort was requested.
    aborts_requested: AtomicU64,
    /// The number of the connection that was shed last.
    shed: AtomicU64,
}

shareable!(Page {
    last_id,
    aborts_requested,
    shed
});

/// The idle connections that a pass over the registry could not end.
#[derive(Debug, Default)]
pub(crate) struct StillIdle {
    /// The numbers of connections whose sockets are in a child.
    pub(crate) in_children: Vec<u64>,
    /// The time until the next pass: some connections have only just become idle.
    pub(crate) next_check: Option<Duration>,
}

/// How long a connection stays after it became idle, even if the grace is over: its client may be
/// about to send.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// How long the abort at the drain deadline waits for idle connections, which end by themselves
/// then.
const ABORT_DELAY: Duration = Duration::from_millis(750);

/// The connections and datagrams of a process that can be aborted.
#[derive(Default)]
struct Abortable {
    /// The connections and datagrams, by their numbers.
    requests: BTreeMap<u64, Weak<dyn Abort>>,
    /// The drain deadline has come: connections that are registered now are aborted at once.
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
    /// How many slots of the table this process has.
    registered: AtomicU64,
    /// The live connections and datagrams of this process that can be aborted. Weak: a connection
    /// owns its socket, and closes it when it ends.
    abortable: Mutex<Abortable>,
    /// What the handlers of this process wait for beside their connections.
    waits: Waits,
    /// A handler that waits may keep other connections waiting.
    waits_hold_others: AtomicBool,
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
            registered: AtomicU64::new(0),
            abortable: Mutex::default(),
            waits: Waits::default(),
            waits_hold_others: AtomicBool::new(false),
        })
    }

    fn page(&self) -> &Page {
        &self.page[0]
    }

    pub(super) const fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    /// Stores that a handler that waits may keep other connections waiting.
    pub(crate) fn set_waits_hold_others(&self) {
        self.waits_hold_others.store(true, Relaxed);
    }

    pub(super) fn waits_hold_others(&self) -> bool {
        self.waits_hold_others.load(Relaxed)
    }

    pub(super) fn count_crossing(&self) {
        count(&self.counters.counts().crossed);
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        self.table.slot(index)
    }

    /// Claims a slot for a connection of this process; `None` if the table is full.
    pub(super) fn claim_slot(&self, id: u64, peer: &Address) -> Option<u32> {
        let number = self.lifecycle.processes().number();
        let index = self.table.claim(id, number, peer, Millis::now())?;
        // SeqCst, like the load in `registered`: the deadline keeper goes to sleep, then checks
        // again.
        self.registered.fetch_add(1, SeqCst);
        Some(index)
    }

    /// Registers how a connection is aborted. Aborts it at once if the drain deadline has come.
    pub(super) fn register(&self, id: u64, abort: Weak<dyn Abort>) {
        let over = {
            let mut abortable = self.abortable();
            abortable.requests.insert(id, abort);
            abortable.over
        };
        if let Some(late) = over.then(|| self.abortable_of(id)).flatten() {
            self.counters.count_aborted(1);
            late.abort();
        }
    }

    pub(super) fn unregister(&self, id: u64) {
        self.abortable().requests.remove(&id);
    }

    /// Creates the context of a new connection or datagram.
    pub(crate) fn context(self: &Arc<Self>) -> Context {
        let id = self.page().last_id.fetch_add(1, Relaxed) + 1;
        Context::new(id, Arc::clone(self))
    }

    /// Counts a connection for its peer, and for no other from now on. Returns whether the peer is
    /// within its limit.
    pub(crate) fn count_peer(&self, context: &Context, peer: Peer, limit: u64) -> bool {
        let Some(slot) = context.slot() else {
            return true;
        };
        self.admission.leave(slot.counted());
        self.admission.enter(peer, limit, slot.counted())
    }

    /// Releases a slot, and adds its traffic to the counts of the server.
    pub(super) fn release_slot(&self, index: u32) {
        let (slot, counts) = (self.table.slot(index), self.counters.counts());
        self.admission.leave(slot.counted());
        counts.received.fetch_add(slot.received(), Relaxed);
        counts.sent.fetch_add(slot.sent(), Relaxed);
        self.table.release(index);
        self.registered.fetch_sub(1, Relaxed);
    }

    /// Releases the slots of a dead worker's connections; `index` is the slot of the worker.
    pub(crate) fn forget_worker(&self, index: usize) {
        for (index, slot) in self.slots_of(index as u16 + 1) {
            self.admission.leave(slot.counted());
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

    /// How many slots of the table this process has.
    pub(crate) fn registered(&self) -> u64 {
        self.registered.load(SeqCst)
    }

    /// The descriptor of a connection of this process, if the connection has a socket.
    pub(crate) fn socket(&self, id: u64) -> Option<RawFd> {
        let request = self.abortable_of(id)?;
        request.socket().map(|socket| socket.as_raw_fd())
    }

    /// A copy of that descriptor.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn copy_of_socket(&self, id: u64) -> Option<io::Result<OwnedFd>> {
        let request = self.abortable_of(id)?;
        request.socket().map(|socket| socket.try_clone_to_owned())
    }

    /// The connection of this process with number `id`, if it can be aborted.
    fn abortable_of(&self, id: u64) -> Option<Arc<dyn Abort>> {
        self.abortable().requests.get(&id)?.upgrade()
    }

    /// The peer of a connection of this process that can be aborted.
    #[cfg(feature = "coroutines")]
    pub(crate) fn peer(&self, id: u64) -> Option<Address> {
        let request = self.abortable_of(id)?;
        // The slot has the client that a proxy has named, if that has an IP address.
        let named = self.slot_of(id).map(Slot::peer);
        let named = named.filter(|peer| peer.ip().is_some());
        Some(named.unwrap_or_else(|| request.peer()))
    }

    /// Aborts every live connection and datagram of this process that can be aborted. Returns how
    /// many, and counts them.
    pub(crate) fn abort_all(&self) -> u64 {
        for (_, slot) in self.slots_here() {
            slot.abort(AbortReason::Drain);
        }
        let abortable: Vec<_> = {
            let mut abortable = self.abortable();
            abortable.over = true;
            abortable
                .requests
                .values()
                .filter_map(Weak::upgrade)
                .collect()
        };
        // Counted first: the aborted connections may end, and the server may return its report,
        // before this thread goes on.
        self.counters.count_aborted(abortable.len() as u64);
        for request in &abortable {
            request.abort();
        }
        self.waits.abort_all(AbortReason::Drain);
        abortable.len() as u64
    }

    /// How many live connections of all processes the drain deadline has aborted: their process has
    /// counted them.
    pub(crate) fn aborted_by_drain(&self) -> u64 {
        let slots = self.table.used().map(|(_, slot)| slot);
        let live = slots.filter(|slot| slot.id() != 0);
        live.filter(|slot| slot.abort_reason() == Some(AbortReason::Drain))
            .count() as u64
    }

    /// From now on aborts each connection as it is registered.
    pub(crate) fn close(&self) {
        self.abortable().over = true;
    }

    /// Ends the connections of this process whose handlers wait in `next_message`, once the grace
    /// of a stop is over; except those whose clients have sent a message.
    pub(crate) fn end_idle(&self) -> StillIdle {
        // Pairs with the fence of `Context::begin_idle`: a connection that this pass does not find
        // idle sees the stop when it becomes idle.
        fence(SeqCst);
        let now = Millis::now();
        let mut still = StillIdle::default();
        for (_, slot) in self.slots_here() {
            let (activity, since) = slot.activity();
            if activity != Activity::Idle || slot.is_ended() {
                continue;
            }
            let settled = since.0 + millis(SETTLE) + TICK;
            if now.0 < settled {
                let left = Duration::from_millis(settled - now.0);
                still.next_check = Some(still.next_check.map_or(left, |next| next.min(left)));
                continue;
            }
            match self.abortable_of(slot.id()) {
                Some(request) if request.has_input() => {}
                Some(request) => {
                    slot.end();
                    request.end_input();
                }
                None => still.in_children.push(slot.id()),
            }
        }
        still
    }

    /// Marks an idle connection, which a child serves, as ended by the server.
    pub(crate) fn note_end(&self, id: u64) {
        let _ = self.slot_of(id).map(Slot::end);
    }

    /// How long after the drain deadline live connections are aborted: later if some are idle,
    /// because those end by themselves at the deadline.
    pub(crate) fn abort_delay(&self) -> Duration {
        if self.slots_here().any(|(_, slot)| slot.is_leaving()) {
            ABORT_DELAY
        } else {
            Duration::ZERO
        }
    }

    fn abortable(&self) -> MutexGuard<'_, Abortable> {
        // A panic leaves the map whole: only its own methods run under this lock.
        self.abortable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// The time from the first connection until the first check of deadlines.
    pub(crate) fn first_check(&self) -> Option<Duration> {
        self.deadlines()
            .longest_interval()
            .map(Duration::from_millis)
    }

    /// Aborts the connections of this process whose deadlines have passed, and those for which an
    /// abort was requested. `unsent` returns how many bytes the peer of a connection in a child has
    /// not taken.
    pub(crate) fn check(&self, unsent: &dyn Fn(u64) -> Option<u64>) -> Expired {
        let now = Millis::now();
        let mut expired = Expired::default();
        let mut next: Option<u64> = None;
        for (_, slot) in self.slots_here() {
            let id = slot.id();
            let reason = match slot.abort_reason() {
                // Another process may have requested the abort, which only this process can carry
                // out.
                Some(reason @ (AbortReason::Asked | AbortReason::Shed)) => reason,
                Some(_) => continue,
                None => {
                    let keeps_checking = self.check_write(slot, id, now, unsent);
                    match self.deadlines().check(slot, now) {
                        Ok(due) => {
                            let due = due
                                .into_iter()
                                .chain(keeps_checking)
                                .min()
                                .unwrap_or(u64::MAX);
                            next = Some(next.map_or(due, |next: u64| next.min(due)));
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
            };
            // Checked again soon: a connection that is being dispatched cannot be aborted yet.
            next = Some(next.map_or(now.0, |next| next.min(now.0)));
            self.abort_one(slot, id, reason, &mut expired);
        }
        expired.next_check = next.and_then(|due| self.next_check(due.saturating_sub(now.0)));
        expired
    }

    /// The time until the next check, if the next deadline is due in `left` milliseconds.
    fn next_check(&self, left: u64) -> Option<Duration> {
        let step = check_step(self.deadlines().shortest()?);
        let longest = self.deadlines().longest_interval()?;
        Some(Duration::from_millis(left.clamp(step, longest.max(step))))
    }

    /// Checks whether the peer of a waiting write has taken bytes since the last check, from which
    /// the write's deadline counts then. Returns when to check again.
    fn check_write(
        &self,
        slot: &Slot,
        id: u64,
        now: Millis,
        unsent: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let step = check_step(millis(self.deadlines().write?));
        let since = slot.writing()?;
        // Most writes end soon, and need no system call.
        if slot.unsent().is_none() && now.since(since) < step {
            return Some(since.0 + step);
        }
        let own = self.abortable_of(id);
        let left = own.map_or_else(|| unsent(id), |request| request.unsent());
        if let Some(left) = left {
            slot.note_unsent(left, since, now);
        }
        Some(now.0 + step)
    }

    /// Aborts a connection, or adds it to `expired` if its socket is in a child or it is parked.
    fn abort_one(&self, slot: &Slot, id: u64, reason: AbortReason, expired: &mut Expired) {
        let request = self.abortable_of(id);
        let waits_for_peer = matches!(
            reason,
            AbortReason::FirstByte | AbortReason::Idle | AbortReason::MinRate
        );
        // The client has sent its part; a busy worker has not read it yet.
        if waits_for_peer && request.as_ref().is_some_and(|request| request.has_input()) {
            return;
        }
        if slot.activity().0 == Activity::Parked {
            expired.parked.push((id, reason));
            return;
        }
        let is_first = slot.abort(reason);
        if is_first {
            count(&self.counters.counts().timed_out);
        }
        match request {
            Some(request) => {
                request.abort();
                self.waits.abort(id, reason);
            }
            None => {
                expired.in_children.push(id);
                // The child looks for the reason when it is woken.
                if is_first {
                    self.lifecycle.wakeup_event().wake();
                }
            }
        }
    }

    /// The connection of the server that has been idle for longest: a parked one, or else one whose
    /// handler has waited in `next_message` or in a read for at least `waiting` milliseconds. The
    /// bound spares a handler that has only begun to wait, and is about to find a message.
    pub(crate) fn oldest_idle(&self, waiting: u64) -> Option<(u64, Activity)> {
        let now = Millis::now();
        let slots = self.table.used().map(|(_, slot)| slot);
        let live = slots.filter(|slot| slot.id() != 0);
        let idle = live.filter_map(|slot| {
            let (activity, since) = slot.activity();
            let parked = activity == Activity::Parked;
            let waits = matches!(activity, Activity::Idle | Activity::Reading);
            let since = slot.silent_since(since);
            let is_idle = parked || waits && now.since(since) >= waiting;
            (is_idle && slot.writing().is_none() && slot.abort_reason().is_none())
                .then(|| (!parked, since, slot.id(), activity))
        });
        // The clock is coarse: of two connections that are idle since the same tick, the older one
        // is chosen.
        idle.min_by_key(|(waits, since, id, _)| (*waits, *since, *id))
            .map(|(.., id, activity)| (id, activity))
    }

    /// Stores why a connection is aborted, for the process that serves it. Returns whether this is
    /// the first reason.
    pub(crate) fn note_abort(&self, id: u64, reason: AbortReason) -> bool {
        self.slot_of(id).is_some_and(|slot| slot.abort(reason))
    }

    /// Aborts a connection of this process. Returns whether it could be aborted, and was not
    /// before.
    pub(crate) fn abort_here(&self, id: u64, reason: AbortReason) -> bool {
        let Some(request) = self.abortable_of(id) else {
            return false;
        };
        self.note_abort(id, reason) && {
            request.abort();
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

    /// Requests the abort of a connection from the process that serves it. Returns whether the
    /// connection exists.
    pub(crate) fn request_abort(&self, id: u64) -> bool {
        let Some(slot) = self.slot_of(id) else {
            return false;
        };
        slot.abort(AbortReason::Asked);
        self.request_aborts();
        true
    }

    /// Aborts a connection of this process to which a writer writes, and whose peer takes nothing.
    fn abort_writer(&self, id: u64) {
        if self.abort_here(id, AbortReason::Write) {
            count(&self.counters.counts().timed_out);
        }
    }

    /// Makes all processes check for connections with a stored abort reason.
    pub(crate) fn request_aborts(&self) {
        self.page().aborts_requested.fetch_add(1, SeqCst);
        self.lifecycle.wakeup_event().wake();
    }

    /// Whether this process, or a child of it, serves a connection.
    pub(crate) fn is_here(&self, id: u64) -> bool {
        let mine = self.lifecycle.processes().number();
        self.slot_of(id).is_some_and(|slot| slot.worker() == mine)
    }

    /// Whether the connection that was shed last has not ended yet.
    pub(crate) fn sheds(&self) -> bool {
        self.slot_of(self.page().shed.load(SeqCst)).is_some()
    }

    /// Chooses a connection to shed, unless a shed connection is still ending: several processes
    /// see the same client wait.
    pub(crate) fn begin_to_shed(&self, id: u64) -> bool {
        let before = self.page().shed.load(SeqCst);
        let chosen = || {
            self.page()
                .shed
                .compare_exchange(before, id, SeqCst, SeqCst)
        };
        !self.sheds() && chosen().is_ok()
    }

    /// Whether an abort was requested since the count was `seen`, which is updated.
    pub(crate) fn abort_was_requested(&self, seen: &mut u64) -> bool {
        let requested = self.page().aborts_requested.load(SeqCst);
        std::mem::replace(seen, requested) != requested
    }

    /// The connections of all processes, in the order in which they were accepted.
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = Millis::now();
        let registered = self.table.used();
        let mut connections: Vec<_> = registered
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
            .field("registered", &self.registered())
            .finish_non_exhaustive()
    }
}
