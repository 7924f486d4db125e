//! Deadlines of connections, and the check for those that have passed.
//!
//! No connection has a timer. Each stores its activity in its [`Slot`]. The accept loop checks the
//! slots of its process when the next deadline may have come, but no more often than the shortest
//! limit requires. While the accept loop runs a handler itself, the deadline keeper checks instead.

use std::time::Duration;

use crate::registry::context::Context;
use crate::registry::table::{AbortReason, Activity, Slot};
use crate::sys::clock::{Millis, TICK};

/// The time limits of a connection. `None`: no limit.
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

/// The minimum rate at which a request must arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MinRate {
    pub(crate) bytes_per_second: u64,
    /// How long a request may wait for input before the rate is enforced.
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

/// The expired connections that a check has left to the accept loop.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// The numbers of parked connections, and why they are to be aborted.
    pub(crate) parked: Vec<(u64, AbortReason)>,
    /// The numbers of connections whose sockets are in a child.
    pub(crate) in_children: Vec<u64>,
    /// The time until the next check; `None` without connections.
    pub(crate) next_check: Option<Duration>,
}

/// The interval of checks, in milliseconds: a 64th of the shortest limit, within these bounds.
const CHECK_MIN: u64 = 2;
const CHECK_MAX: u64 = 1000;
const CHECKS_PER_LIMIT: u64 = 64;

/// A write that begins to wait is found within this part of the write deadline.
const CHECKS_PER_WRITE: u64 = 16;

impl Deadlines {
    /// The shortest limit, in milliseconds. A deadline that begins now is not due before.
    pub(super) fn shortest(&self) -> Option<u64> {
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

    /// The longest time between two checks, in milliseconds.
    pub(super) fn longest_interval(&self) -> Option<u64> {
        let write = self.write.map(|limit| millis(limit) / CHECKS_PER_WRITE);
        let longest = self.shortest().into_iter().chain(write).min();
        longest.map(|longest| longest.max(CHECK_MIN))
    }

    /// How long a parked connection may wait for its peer.
    pub(crate) fn parked(&self, context: &Context) -> Option<Duration> {
        let spoke = context.slot().is_some_and(|slot| slot.received() > 0);
        if spoke { self.idle } else { self.first_byte }
    }

    /// Returns when the next deadline is due; an error if one has passed.
    pub(super) fn check(&self, slot: &Slot, now: Millis) -> Result<Option<u64>, AbortReason> {
        let (activity, since) = slot.activity();
        let waiting = match activity {
            Activity::Reading | Activity::Idle | Activity::Parked if slot.received() == 0 => {
                (self.first_byte, AbortReason::FirstByte)
            }
            Activity::Reading | Activity::Idle | Activity::Parked => (self.idle, AbortReason::Idle),
            Activity::Handshake => (self.handshake, AbortReason::Handshake),
            Activity::Running | Activity::Queued | Activity::Writing => (None, AbortReason::Idle),
        };
        let silent = match waiting.1 {
            AbortReason::Idle => slot.silent_since(since),
            _ => since,
        };
        let (began, writing) = (slot.began(), slot.writing());
        let limits = [
            (waiting.0, silent, waiting.1),
            (
                self.write.filter(|_| writing.is_some()),
                writing.unwrap_or_default(),
                AbortReason::Write,
            ),
            (
                self.request.filter(|_| began.is_some()),
                began.unwrap_or_default(),
                AbortReason::Request,
            ),
            (self.lifetime, slot.accepted(), AbortReason::Lifetime),
        ];
        let mut next: Option<u64> = None;
        for (limit, start, reason) in limits {
            let Some(limit) = limit else { continue };
            // The clock is behind by up to a tick, so that the difference of two readings may be a
            // tick too long.
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
    /// Returns when the connection will be too slow if it sends nothing more; an error if it is.
    fn due(self, slot: &Slot, waits: u64, now: Millis) -> Result<u64, AbortReason> {
        let (received, waited) = slot.progress();
        let waited = waited + waits;
        // The received bytes pay for this many milliseconds.
        let paid = received.saturating_mul(1000) / self.bytes_per_second.max(1);
        let enough = paid.max(millis(self.grace));
        if waited > enough + TICK {
            return Err(AbortReason::MinRate);
        }
        Ok(now.0 + enough + TICK + 1 - waited)
    }
}

/// The interval of checks for a limit, in milliseconds.
pub(super) fn check_step(limit: u64) -> u64 {
    (limit / CHECKS_PER_LIMIT).clamp(CHECK_MIN, CHECK_MAX)
}

pub(super) fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::context::tests::registered;

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

    /// Asserts when and why a connection is aborted that was accepted at 0 and enters `activity` at
    /// 1 s.
    #[track_caller]
    fn abort_at(slot: &Slot, activity: Activity, due: u64, reason: AbortReason) {
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
        abort_at(&slot, Activity::Reading, 11_000, AbortReason::FirstByte);
        abort_at(&slot, Activity::Parked, 11_000, AbortReason::FirstByte);
        abort_at(&slot, Activity::Idle, 11_000, AbortReason::FirstByte);
        abort_at(&slot, Activity::Handshake, 6_000, AbortReason::Handshake);
        abort_at(&slot, Activity::Queued, 1_000_000, AbortReason::Lifetime);
        slot.add_received(1);
        abort_at(&slot, Activity::Reading, 61_000, AbortReason::Idle);
        abort_at(&slot, Activity::Parked, 61_000, AbortReason::Idle);
        slot.begin_request(Millis(500));
        abort_at(&slot, Activity::Running, 100_500, AbortReason::Request);
    }

    #[test]
    fn what_moves_in_one_direction_keeps_the_connection_from_being_idle() {
        let slot = Slot::default();
        // Nothing but input ends the wait for the first byte.
        slot.push(Millis(3000));
        abort_at(&slot, Activity::Reading, 11_000, AbortReason::FirstByte);
        slot.add_received(1);
        slot.end_write(Some(Millis(5000)));
        abort_at(&slot, Activity::Reading, 65_000, AbortReason::Idle);
        slot.push(Millis(7000));
        abort_at(&slot, Activity::Parked, 68_000, AbortReason::Idle);
        // A write that waits has its own deadline, also while the connection reads.
        slot.begin_write(Millis(9000));
        abort_at(&slot, Activity::Reading, 39_000, AbortReason::Write);
    }

    #[test]
    fn a_write_deadline_runs_from_the_last_byte_that_the_peer_took() {
        let slot = Slot::default();
        slot.begin_write(Millis(1000));
        let due = |slot: &Slot| deadlines().check(slot, Millis(31_000 + TICK)).is_err();
        assert!(due(&slot));
        slot.note_unsent(500, Millis(1000), Millis(1500));
        assert!(!due(&slot), "the first check begins the deadline");
        let since = || slot.writing().unwrap();
        slot.note_unsent(500, since(), Millis(2000));
        slot.note_unsent(600, since(), Millis(2500));
        assert_eq!(since(), Millis(1500), "the peer has taken nothing");
        slot.note_unsent(599, since(), Millis(3000));
        assert_eq!(since(), Millis(3000));
        // The write has ended before the check.
        slot.end_write(Some(Millis(3500)));
        slot.note_unsent(0, Millis(3000), Millis(4000));
        assert_eq!(slot.writing(), None);
        slot.begin_write(Millis(5000));
        // A future that was dropped while it waited: the peer has taken everything.
        slot.note_unsent(0, Millis(5000), Millis(5500));
        slot.note_unsent(0, Millis(5500), Millis(40_000));
        assert_eq!(slot.writing(), Some(Millis(40_000)));
        slot.begin_write(Millis(41_000));
        assert_eq!(slot.unsent(), None, "another write");
    }

    #[test]
    fn a_write_that_waits_is_found_soon() {
        let (shared, _context) = registered();
        let registry = &shared.registry;
        let soon = registry.deadlines().write.unwrap() / 16;
        assert!(registry.first_check().unwrap() <= soon);
        assert!(registry.check(&|_| None).next_check.unwrap() <= soon);
    }

    #[test]
    fn a_slow_request_is_aborted_and_a_slow_handler_is_not() {
        let slot = Slot::default();
        slot.begin_request(Millis(0));
        slot.add_received(1);
        // A client that sends nothing more is too slow once the grace is over.
        abort_at(&slot, Activity::Reading, 21_001, AbortReason::MinRate);
        // The received bytes pay for 40 s, of which 10 s have been spent.
        slot.add_received(19_999);
        slot.add_waited(10_000);
        abort_at(&slot, Activity::Reading, 31_001, AbortReason::MinRate);
        abort_at(&slot, Activity::Running, 100_000, AbortReason::Request);
    }
}
