//! How long a connection may take, and finding those that took longer.
//!
//! No connection has a timer. Each notes what it does in its [`Slot`], and the accept loop looks
//! through the slots of its process: as often as the shortest limit asks for, and when the first
//! deadline comes.

use std::sync::Weak;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use crate::state::table::{Activity, CutReason, Slot};
use crate::state::{Context, Shared};
use crate::sys::clock::{Millis, TICK};

/// How long a connection may take for what. `None`: for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) first_byte: Option<Duration>,
    pub(crate) handshake: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) request: Option<Duration>,
    pub(crate) write: Option<Duration>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) min_rate: Option<MinRate>,
}

/// How fast a request must come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MinRate {
    pub(crate) bytes_per_second: u64,
    /// How long a request may wait for input before this is looked at.
    pub(crate) grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Some(Duration::from_secs(10)),
            handshake: Some(Duration::from_secs(5)),
            idle: Some(Duration::from_secs(60)),
            request: None,
            write: Some(Duration::from_secs(30)),
            lifetime: None,
            min_rate: None,
        }
    }
}

/// What a look through the connections has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The numbers of parked connections whose time is over, and why.
    pub(crate) parked: Vec<(u64, CutReason)>,
    /// The numbers of others that this process cannot cut itself: their sockets are in a child.
    pub(crate) elsewhere: Vec<u64>,
    /// After how long to look again; `None` without connections.
    pub(crate) again: Option<Duration>,
}

/// How often one looks at most, and how seldom the shortest limit is divided into looks.
const LOOK_MIN: u64 = 2;
const LOOK_MAX: u64 = 1000;
const LOOKS: u64 = 64;

impl Deadlines {
    /// The shortest of them, in milliseconds. A deadline that begins now is not due before.
    fn shortest(&self) -> Option<u64> {
        let limits = [
            self.first_byte,
            self.handshake,
            self.idle,
            self.request,
            self.write,
            self.lifetime,
            self.min_rate.map(|rate| rate.grace),
        ];
        limits.into_iter().flatten().map(millis).min()
    }

    /// How long a connection that has nothing else to wait for may wait for its peer.
    pub(crate) fn parked(&self, context: &Context) -> Option<Duration> {
        let spoke = context.slot().is_some_and(|slot| slot.received() > 0);
        if spoke { self.idle } else { self.first_byte }
    }

    /// Which deadline has passed, or when the next one will.
    fn check(&self, slot: &Slot, now: Millis) -> Result<Option<u64>, CutReason> {
        let (activity, since) = slot.activity();
        let waiting = match activity {
            Activity::Reading | Activity::Parked if slot.received() == 0 => {
                (self.first_byte, CutReason::FirstByte)
            }
            Activity::Reading | Activity::Parked => (self.idle, CutReason::Idle),
            Activity::Writing => (self.write, CutReason::Write),
            Activity::Handshake => (self.handshake, CutReason::Handshake),
            Activity::Running | Activity::Queued => (None, CutReason::Idle),
        };
        let began = slot.began();
        let limits = [
            (waiting.0, since, waiting.1),
            (
                self.request.filter(|_| began.is_some()),
                began.unwrap_or_default(),
                CutReason::Request,
            ),
            (self.lifetime, slot.accepted(), CutReason::Lifetime),
        ];
        let mut next: Option<u64> = None;
        for (limit, start, reason) in limits {
            let Some(limit) = limit else { continue };
            // A tick more: neither clock reading is early.
            let due = start.0.saturating_add(millis(limit)).saturating_add(TICK);
            if now.0 >= due {
                return Err(reason);
            }
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        let waits = matches!(activity, Activity::Reading | Activity::Parked);
        if let Some(rate) = self.min_rate.filter(|_| waits && began.is_some()) {
            let due = rate.due(slot, now.since(since), now)?;
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        Ok(next)
    }
}

impl MinRate {
    /// When the connection will have been too slow, if it sends nothing more.
    fn due(self, slot: &Slot, waits: u64, now: Millis) -> Result<u64, CutReason> {
        let (received, waited) = slot.progress();
        let waited = waited + waits;
        // What has come is enough for this long.
        let paid = received.saturating_mul(1000) / self.bytes_per_second.max(1);
        let enough = paid.max(millis(self.grace));
        if waited > enough + TICK {
            return Err(CutReason::MinRate);
        }
        Ok(now.0 + enough + TICK + 1 - waited)
    }
}

/// How often one looks where a limit is the shortest.
fn look_step(limit: u64) -> u64 {
    (limit / LOOKS).clamp(LOOK_MIN, LOOK_MAX)
}

fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(crate) const fn deadlines(&self) -> &Deadlines {
        &self.options.deadlines
    }

    /// How long a first connection can be left alone.
    pub(crate) fn first_look(&self) -> Option<Duration> {
        self.deadlines().shortest().map(Duration::from_millis)
    }

    /// Cuts the connections of this process whose time is over, and those that were asked to be.
    /// `unsent` says of one that is served in another process what its peer has not taken.
    pub(crate) fn look(&self, unsent: &dyn Fn(u64) -> Option<u64>) -> Found {
        let now = Millis::now();
        let mine = self.worker_number();
        let mut found = Found::default();
        let mut next: Option<u64> = None;
        for (_, slot) in self.table.used() {
            let id = slot.id();
            if id == 0 || slot.worker() != mine {
                continue;
            }
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
        let own = self.cuttable_of(id).as_ref().and_then(Weak::upgrade);
        let left = own.map_or_else(|| unsent(id), |request| request.unsent());
        if let Some(left) = left {
            slot.note_unsent(left, since, now);
        }
        Some(now.0 + step)
    }

    /// Cuts a connection, or says who has to.
    fn cut_one(&self, slot: &Slot, id: u64, reason: CutReason, found: &mut Found) {
        let request = self.cuttable_of(id).as_ref().and_then(Weak::upgrade);
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
        if slot.cut(reason) {
            self.counts().timed_out.fetch_add(1, Relaxed);
        }
        match request {
            Some(request) => request.cut(),
            None => found.elsewhere.push(id),
        }
    }

    /// The connection of the server that has been idle for longest: one that is parked, or else one
    /// whose handler has read for `reading` milliseconds at least.
    pub(crate) fn oldest_idle(&self, reading: u64) -> Option<(u64, Activity)> {
        let now = Millis::now();
        let slots = self.table.used().map(|(_, slot)| slot);
        let live = slots.filter(|slot| slot.id() != 0);
        let idle = live.filter_map(|slot| {
            let (activity, since) = slot.activity();
            let parked = activity == Activity::Parked;
            let reads = activity == Activity::Reading && now.since(since) >= reading;
            ((parked || reads) && slot.cut_reason().is_none())
                .then(|| (!parked, since, slot.id(), activity))
        });
        idle.min_by_key(|(reads, since, ..)| (*reads, *since))
            .map(|(.., id, activity)| (id, activity))
    }

    /// Notes why a connection is cut, for whoever serves it. Says whether it was not cut before.
    pub(crate) fn note_cut(&self, id: u64, reason: CutReason) -> bool {
        self.slot_of(id).is_some_and(|slot| slot.cut(reason))
    }

    /// Cuts a connection of this process, if it can be.
    pub(crate) fn cut_for(&self, id: u64, reason: CutReason) -> bool {
        let Some(request) = self.cuttable_of(id).as_ref().and_then(Weak::upgrade) else {
            return false;
        };
        self.note_cut(id, reason) && {
            request.cut();
            true
        }
    }

    fn slot_of(&self, id: u64) -> Option<&Slot> {
        let mut used = self.table.used().map(|(_, slot)| slot);
        used.find(|slot| slot.id() == id && id != 0)
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
        self.bell.ring();
    }

    /// Whether this process has a connection, or a child of it.
    pub(crate) fn is_here(&self, id: u64) -> bool {
        let mine = self.worker_number();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadlines() -> Deadlines {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Deadlines {
            first_byte: seconds(10),
            handshake: seconds(5),
            idle: seconds(60),
            request: seconds(100),
            write: seconds(30),
            lifetime: seconds(1000),
            min_rate: Some(MinRate {
                bytes_per_second: 500,
                grace: Duration::from_secs(20),
            }),
        }
    }

    /// When a connection that was accepted at 0 and does `activity` from 1 s on is cut, and why.
    #[track_caller]
    fn cut_at(slot: &Slot, activity: Activity, due: u64, reason: CutReason) {
        slot.enter(activity, Millis(1000));
        let check = |now| deadlines().check(slot, Millis(now));
        assert_eq!(
            check(due + TICK - 1).map(|_| ()),
            Ok(()),
            "{activity:?} at {due}"
        );
        assert_eq!(check(due + TICK), Err(reason), "{activity:?} at {due}");
    }

    #[test]
    fn each_deadline_comes_when_it_should() {
        let slot = Slot::default();
        cut_at(&slot, Activity::Reading, 11_000, CutReason::FirstByte);
        cut_at(&slot, Activity::Parked, 11_000, CutReason::FirstByte);
        cut_at(&slot, Activity::Handshake, 6_000, CutReason::Handshake);
        cut_at(&slot, Activity::Writing, 31_000, CutReason::Write);
        cut_at(&slot, Activity::Queued, 1_000_000, CutReason::Lifetime);
        slot.add_received(1);
        cut_at(&slot, Activity::Reading, 61_000, CutReason::Idle);
        cut_at(&slot, Activity::Parked, 61_000, CutReason::Idle);
        slot.begin_request(Millis(500));
        cut_at(&slot, Activity::Running, 100_500, CutReason::Request);
    }

    #[test]
    fn a_write_deadline_runs_from_the_last_byte_that_the_peer_took() {
        let slot = Slot::default();
        slot.enter(Activity::Writing, Millis(1000));
        let due = |slot: &Slot| deadlines().check(slot, Millis(31_000 + TICK)).is_err();
        assert!(due(&slot));
        slot.note_unsent(500, Millis(1000), Millis(1500));
        assert!(!due(&slot), "what came before the first look is not known");
        let since = || slot.activity().1;
        slot.note_unsent(500, since(), Millis(2000));
        slot.note_unsent(600, since(), Millis(2500));
        assert_eq!(since(), Millis(1500), "it has taken nothing");
        slot.note_unsent(599, since(), Millis(3000));
        assert_eq!(since(), Millis(3000));
        // The writer was faster.
        slot.enter(Activity::Running, Millis(3500));
        slot.note_unsent(0, Millis(3000), Millis(4000));
        assert_eq!(slot.activity(), (Activity::Running, Millis(3500)));
        slot.enter(Activity::Writing, Millis(5000));
        assert_eq!(slot.unsent(), None, "another write");
    }

    #[test]
    fn a_slow_request_is_cut_and_a_slow_handler_is_not() {
        let slot = Slot::default();
        slot.begin_request(Millis(0));
        slot.add_received(1);
        // Nothing more comes: too slow once the grace is over.
        cut_at(&slot, Activity::Reading, 21_001, CutReason::MinRate);
        // What came pays for 40 s, of which it has waited 10 s before.
        slot.add_received(19_999);
        slot.add_waited(10_000);
        cut_at(&slot, Activity::Reading, 31_001, CutReason::MinRate);
        cut_at(&slot, Activity::Running, 100_000, CutReason::Request);
    }
}
