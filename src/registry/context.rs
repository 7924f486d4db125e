//! What a request knows of its server, and how the server reaches it to cut it.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::Idle;
use crate::registry::session::SessionSlot;
use crate::registry::table::{Activity, CutReason, Slot};
use crate::registry::{Registry, SETTLE};
use crate::sys::clock::Millis;
use crate::task::abort::Request as Handled;
use crate::task::local::Entered;

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

    /// Makes a wait for input end, because the connection is idle and its server stops: later reads find
    /// what has come before, and then the end. Default: nothing, and the connection stays until the
    /// drain deadline.
    fn end_input(&self) {}

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

/// What a request knows of its server. A transport puts one into each request that it makes.
#[derive(Debug)]
pub struct Context {
    id: u64,
    /// Absent for a connection that was not accepted.
    registry: Option<Arc<Registry>>,
    /// Its slot in the table of connections, plus one; zero without one.
    slot: AtomicU32,
    /// Whether it is among those that can be cut.
    cuttable: bool,
    session: SessionSlot,
}

impl Context {
    /// What a new request knows, whose number is `id`.
    pub(super) const fn new(id: u64, registry: Arc<Registry>) -> Self {
        Self {
            id,
            registry: Some(registry),
            slot: AtomicU32::new(0),
            cuttable: false,
            session: SessionSlot::new(),
        }
    }

    /// What a connection out knows: nothing.
    pub(crate) const fn detached() -> Self {
        Self {
            id: 0,
            registry: None,
            slot: AtomicU32::new(0),
            cuttable: false,
            session: SessionSlot::new(),
        }
    }

    /// Whether it is that of a connection out.
    pub(crate) const fn is_detached(&self) -> bool {
        self.registry.is_none()
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
        self.registry
            .as_ref()
            .is_some_and(|registry| registry.lifecycle().stopping())
    }

    /// Makes this request a connection of its server's: it is listed, its deadlines are kept, and
    /// it is cut when one has passed, when it is asked for, or when the drain is over.
    pub fn on_cut(&mut self, cut: Weak<dyn Cut>) {
        let Some(registry) = &self.registry else {
            return;
        };
        if let Some(request) = cut.upgrade() {
            self.list(&request.peer());
        }
        self.cuttable = true;
        registry.register(self.id, cut);
    }

    /// Lists the request among the connections, unless it is there.
    pub(crate) fn list(&self, peer: &Address) {
        let Some(registry) = self.registry.as_ref().filter(|_| self.slot().is_none()) else {
            return;
        };
        if let Some(index) = registry.list(self.id, peer) {
            self.slot.store(index + 1, Ordering::Relaxed);
        }
    }

    /// Says that its handler runs from now on, until this is dropped: an abort ends all of its waits.
    pub(crate) fn enter_handler(&self) -> Option<Entered> {
        let registry = Arc::clone(self.registry.as_ref()?);
        let slot = self.slot.load(Ordering::Relaxed);
        let request = Handled { id: self.id, slot };
        Some(Entered::handler(registry, request))
    }

    /// What its handler keeps from one call to the next.
    pub(crate) const fn session(&self) -> &SessionSlot {
        &self.session
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
        let slot = self.registry.as_ref()?.slot(index);
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
        } else {
            slot.add_sent(bytes);
        }
        // A handshake goes on.
        if current == activity {
            if activity == Activity::Reading {
                slot.add_waited(now.since(since));
            }
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

    /// Notes that the connection is between messages. Says how long it may be, if the server stops.
    pub(crate) fn begin_idle(&self) -> Option<Duration> {
        self.enter(Activity::Idle);
        // Who ends idle connections has seen the stop before it looks for them: either it finds this
        // one, or this one sees the stop.
        fence(Ordering::SeqCst);
        let left = self.registry.as_ref()?.lifecycle().grace_left(Idle::Held)?;
        Some(left.max(SETTLE))
    }

    /// Notes that a message has come, or the end of the stream.
    pub(crate) fn end_idle(&self, bytes: usize) {
        if let Some(slot) = self.slot() {
            let now = Millis::now();
            slot.add_received(bytes);
            slot.enter(Activity::Running, now);
        }
    }

    /// Notes that the server ends the connection, which is idle. Before it is anything else.
    pub(crate) fn end(&self) {
        let _ = self.slot().map(Slot::end);
    }

    /// Whether the server has ended the connection while it was idle.
    pub(crate) fn is_ended(&self) -> bool {
        self.slot().is_some_and(Slot::is_ended)
    }

    /// Notes that the client has sent something over a connection that the server was ending.
    pub(crate) fn note_crossing(&self) {
        if let Some(registry) = self.registry.as_ref().filter(|_| self.stopping()) {
            registry.count_crossing();
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
        let registry = Arc::clone(self.registry.as_ref()?);
        registry.unregister(self.id);
        Some(Listed { registry, index })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(registry) = &self.registry else {
            return;
        };
        if self.cuttable {
            registry.unregister(self.id);
        }
        if let Some(index) = self.slot.get_mut().checked_sub(1) {
            registry.unlist(index);
        }
    }
}

/// A connection that is listed here and served elsewhere. Taken off the list on drop.
#[derive(Debug)]
pub(crate) struct Listed {
    registry: Arc<Registry>,
    index: u32,
}

impl Listed {
    pub(crate) fn slot(&self) -> &Slot {
        self.registry.slot(self.index)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.unlist(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::admission::policy::{AtLimit, Limits};
    use crate::lifecycle::Times;
    use crate::registry::deadlines::Deadlines;
    use crate::shared::{Options, share};

    /// A connection that is listed, of a server with nothing but defaults.
    fn listed() -> (Arc<Registry>, Context) {
        let options = Options {
            limits: Limits {
                max_connections: 1,
                per_address: None,
                rate: None,
                at_limit: AtLimit::Wait,
            },
            raise_descriptors: false,
            times: Times::default(),
            deadlines: Deadlines::default(),
        };
        let registry = share(&options).unwrap().registry;
        let context = registry.context();
        context.list(&Address::from(SocketAddr::from(([127, 0, 0, 1], 9))));
        (registry, context)
    }

    #[test]
    fn a_handler_that_has_just_begun_to_wait_is_not_shed() {
        let (registry, context) = listed();
        let slot = context.slot().unwrap();
        let shed = |waiting| registry.oldest_idle(waiting).map(|(_, activity)| activity);
        for activity in [Activity::Idle, Activity::Reading] {
            slot.enter(activity, Millis::now());
            assert_eq!(shed(u64::MAX), None);
            assert_eq!(shed(0), Some(activity));
        }
        slot.enter(Activity::Parked, Millis::now());
        assert_eq!(shed(u64::MAX), Some(Activity::Parked));
    }

    #[test]
    fn what_a_handshake_reads_is_no_waiting_of_a_request() {
        let (_registry, context) = listed();
        let slot = context.slot().unwrap();
        let long_ago = Millis(Millis::now().0.saturating_sub(1000));
        slot.enter(Activity::Handshake, long_ago);
        for _ in 0..3 {
            context.enter(Activity::Reading);
            context.leave(Activity::Reading, 1);
        }
        assert_eq!(slot.progress(), (3, 0));
        assert_eq!(slot.activity(), (Activity::Handshake, long_ago));
        context.end_handshake();
        assert_eq!(slot.activity().0, Activity::Running);
        slot.enter(Activity::Reading, long_ago);
        context.leave(Activity::Reading, 0);
        let waited = slot.progress().1;
        assert!(
            waited >= Duration::from_secs(1).as_millis() as u64,
            "{waited} ms"
        );
    }
}
