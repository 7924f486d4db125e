//! The link between a connection or datagram and its server: what it knows of the server, and how
//! the server aborts it.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::address::Address;
use crate::lifecycle::Idle;
use crate::registry::info::Subject;
use crate::registry::session::SessionSlot;
use crate::registry::table::{AbortReason, Activity, Slot};
use crate::registry::{Registry, SETTLE};
use crate::sys::clock::Millis;
use crate::sys::poll::Interest;
use crate::task::abort::{HandlerId, Host};
use crate::task::local::Entered;
use crate::task::wait::Task;

/// The part of a connection that the server can reach from another thread, to end its input and
/// output.
///
/// A transport registers one for each connection: [`Context::register`].
///
/// # Examples
///
/// A connection whose socket is shared with the server:
///
/// ```
/// use std::net::{Shutdown, TcpStream};
/// use std::sync::Arc;
/// use socketserver::net::{Abort, Address, Context};
///
/// struct Socket(TcpStream, Address);
///
/// impl Abort for Socket {
///     fn abort(&self) {
///         let _ = self.0.shutdown(Shutdown::Both);
///     }
///     fn peer(&self) -> Address {
///         self.1.clone()
///     }
/// }
///
/// /// Called by the transport for each connection that it accepts.
/// fn register(socket: &Arc<Socket>, context: &mut Context) {
///     let socket: Arc<dyn Abort> = socket.clone();
///     context.register(Arc::downgrade(&socket));
/// }
/// ```
pub trait Abort: Send + Sync {
    /// Makes blocked and later reads and writes of the connection fail or end. The server calls it
    /// when a deadline of the connection has passed, at the drain deadline, and for
    /// [`ServerHandle::abort`](crate::ServerHandle::abort).
    fn abort(&self);

    /// Returns the address of the peer.
    fn peer(&self) -> Address;

    /// Returns whether the peer has sent bytes that were not received yet. If so, no deadline
    /// blames the peer for the time that the handler has waited. Default: no.
    fn has_input(&self) -> bool {
        false
    }

    /// Ends a wait for input, because the connection is idle and its server stops. Later reads
    /// return the input that has come before, then the end of the stream. Default: nothing, and the
    /// connection stays until the drain deadline.
    fn end_input(&self) {}

    /// Returns how many sent bytes the peer has not taken yet, as the kernel knows. A write
    /// deadline counts from the last moment at which the number fell. Default: unknown, and the
    /// deadline counts from the last write that the kernel has taken.
    fn unsent(&self) -> Option<u64> {
        None
    }

    /// Returns the socket, so that the parent can shut it down when a child serves the connection
    /// ([`Forking`](crate::Forking)). Default: none, and an abort kills the child.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Tells whether a server has been asked to stop: [`Context::stop_flag`].
///
/// # Examples
///
/// ```
/// use socketserver::{Connection, task};
///
/// fn serve(conn: &mut impl Connection) -> std::io::Result<()> {
///     let stop = conn.context().stop_flag();
///     let (mut input, mut output) = conn.halves()?;
///     task::scope(|scope| {
///         scope.spawn(move || std::io::copy(&mut input, &mut std::io::sink()))?;
///         while !stop.is_set() {
///             std::io::Write::write_all(&mut output, b"tick\n")?;
///             task::sleep(std::time::Duration::from_secs(1));
///         }
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone, Debug)]
pub struct StopFlag(Option<Arc<Registry>>);

impl StopFlag {
    /// Returns whether the server has been asked to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        let registry = self.0.as_ref();
        registry.is_some_and(|registry| registry.lifecycle().stopping())
    }
}

/// What a connection or datagram knows of its server. A transport stores one in each that it
/// accepts.
///
/// # Examples
///
/// ```
/// use socketserver::net::{Accepted, Address, Context, Managed};
///
/// struct Line(String, Context);
///
/// impl Accepted for Line {
///     fn context(&self) -> &Context {
///         &self.1
///     }
///     fn peer(&self) -> Address {
///         Address::Named("pipe".to_owned())
///     }
/// }
///
/// impl Managed for Line {}
/// ```
#[derive(Debug)]
pub struct Context {
    id: u64,
    /// Absent for an outgoing connection.
    registry: Option<Arc<Registry>>,
    /// The index of the slot in the registry, plus one; zero without a slot.
    slot: AtomicU32,
    /// Whether it is registered to be aborted.
    abortable: bool,
    /// Whether its client is to be judged once a PROXY header has come, and whether that has come.
    unjudged: AtomicBool,
    has_header: AtomicBool,
    /// Requests are served beside the wait for input.
    is_busy: AtomicBool,
    session: SessionSlot,
}

impl Context {
    /// The context of a new connection or datagram, whose number is `id`.
    pub(super) const fn new(id: u64, registry: Arc<Registry>) -> Self {
        Self::with(id, Some(registry))
    }

    /// The context of an outgoing connection, which has no server.
    pub(crate) const fn detached() -> Self {
        Self::with(0, None)
    }

    const fn with(id: u64, registry: Option<Arc<Registry>>) -> Self {
        Self {
            id,
            registry,
            slot: AtomicU32::new(0),
            abortable: false,
            unjudged: AtomicBool::new(false),
            has_header: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            session: SessionSlot::new(),
        }
    }

    /// Whether it is that of a connection out.
    pub(crate) const fn is_detached(&self) -> bool {
        self.registry.is_none()
    }

    /// Returns the number of the connection or datagram: unique and ascending within its server,
    /// over all processes, from 1. Outgoing connections have 0.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) const fn subject(&self) -> Subject {
        if self.abortable {
            Subject::Connection
        } else {
            Subject::Datagram
        }
    }

    /// Returns whether the server has been asked to stop.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.registry
            .as_ref()
            .is_some_and(|registry| registry.lifecycle().stopping())
    }

    /// Returns a value that tells whether the server has been asked to stop, for closures and threads that do not
    /// have the connection.
    #[must_use]
    pub fn stop_flag(&self) -> StopFlag {
        StopFlag(self.registry.clone())
    }

    /// Registers this connection with its server.
    ///
    /// From then on [`ServerHandle::connections`](crate::ServerHandle::connections) lists it, the
    /// server keeps its deadlines, and calls [`Abort::abort`] when one has passed, when a handle
    /// aborts the connection, and at the drain deadline.
    pub fn register(&mut self, abort: Weak<dyn Abort>) {
        let Some(registry) = &self.registry else {
            return;
        };
        if let Some(request) = abort.upgrade() {
            self.claim_slot(&request.peer());
        }
        self.abortable = true;
        registry.register(self.id, abort);
    }

    /// Claims a slot of the registry, unless the connection has one.
    pub(crate) fn claim_slot(&self, peer: &Address) {
        let Some(registry) = self.registry.as_ref().filter(|_| self.slot().is_none()) else {
            return;
        };
        if let Some(index) = registry.claim_slot(self.id, peer) {
            self.slot.store(index + 1, Ordering::Relaxed);
        }
    }

    /// Defers the judgement of its client until a PROXY header names that.
    pub(crate) fn await_header(&self) {
        self.unjudged.store(true, Ordering::Relaxed);
    }

    /// Whether its client is not judged yet.
    pub(crate) fn is_unjudged(&self) -> bool {
        self.unjudged.load(Ordering::Relaxed)
    }

    /// Whether its header has come, so that its client is to be judged.
    pub(crate) fn is_to_be_judged(&self) -> bool {
        self.is_unjudged() && self.has_header.load(Ordering::Relaxed)
    }

    /// Stores that its client has been judged.
    pub(crate) fn note_judged(&self) {
        self.unjudged.store(false, Ordering::Relaxed);
    }

    /// Stores that its PROXY header has come. From now on the registry shows the client that the header names.
    pub(crate) fn note_header(&self, client: Option<&Address>) {
        self.has_header.store(true, Ordering::Relaxed);
        if let (Some(slot), Some(client)) = (self.slot(), client) {
            slot.set_peer(client);
        }
    }

    /// Says that its handler runs from now on, until this is dropped: an abort ends all of its waits.
    pub(crate) fn enter_handler(&self) -> Option<Entered> {
        let registry = Arc::clone(self.registry.as_ref()?);
        Some(Entered::handler(registry, self.handler_id()))
    }

    /// Returns whether a handler that waits may keep other connections waiting: under
    /// [`Sequential`](crate::Sequential) and [`ThreadPool`](crate::ThreadPool), also below
    /// [`Prefork`](crate::Prefork). There a protocol layer parks between messages at once; elsewhere it may wait for
    /// a moment, which costs less than to park.
    #[must_use]
    pub fn waits_hold_others(&self) -> bool {
        self.registry
            .as_ref()
            .is_some_and(|registry| registry.waits_hold_others())
    }

    /// The slot of the handler's session.
    pub(crate) const fn session(&self) -> &SessionSlot {
        &self.session
    }

    /// Begins the handshake of the connection, for a transport that wraps another one.
    ///
    /// Until [`end_handshake`](Self::end_handshake) the handshake timeout applies in place of the
    /// first-byte, idle and write timeouts. The request timeout and the lifetime apply as ever.
    pub fn begin_handshake(&self) {
        self.enter(Activity::Handshake);
    }

    /// Whether the handshake of the connection has begun and not ended.
    pub(crate) fn is_in_handshake(&self) -> bool {
        let activity = self.slot().map(|slot| slot.activity().0);
        activity == Some(Activity::Handshake)
    }

    /// Ends the handshake of the connection.
    pub fn end_handshake(&self) {
        self.leave(Activity::Handshake, 0);
    }

    /// The slot of this connection in the registry.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        let index = self.slot.load(Ordering::Relaxed).checked_sub(1)?;
        let slot = self.registry.as_ref()?.slot(index);
        // When the parent of a child was killed, the slot may belong to another connection.
        (slot.id() == self.id).then_some(slot)
    }

    /// Stores the activity that the connection enters.
    pub(crate) fn enter(&self, activity: Activity) {
        if let Some(slot) = self.slot() {
            // Reads and writes within a handshake are a part of it.
            if slot.activity().0 != Activity::Handshake {
                slot.enter(activity, Millis::now());
            }
        }
    }

    /// Stores that `activity` is over, and adds the bytes that were received.
    pub(crate) fn leave(&self, activity: Activity, received: usize) {
        let Some(slot) = self.slot() else { return };
        let ((current, since), now) = (slot.activity(), Millis::now());
        slot.add_received(received);
        // A read within a handshake does not end the handshake.
        if current == activity {
            if activity == Activity::Reading {
                slot.add_waited(now.since(since));
            }
            slot.enter(Activity::Running, now);
        }
    }

    /// Stores that a write waits, unless one does. One within a handshake is a part of it.
    pub(crate) fn begin_write(&self) {
        let begins =
            |slot: &&Slot| slot.activity().0 != Activity::Handshake && slot.writing().is_none();
        if let Some(slot) = self.slot().filter(begins) {
            slot.begin_write(Millis::now());
        }
    }

    /// Stores that no write waits any more, and adds the bytes that were sent.
    pub(crate) fn end_write(&self, sent: usize) {
        if let Some(slot) = self.slot() {
            slot.add_sent(sent);
            slot.end_write((sent > 0).then(Millis::now));
        }
    }

    /// Stores that a future waits for input.
    pub(crate) fn begin_poll_read(&self) {
        let slot = self.slot();
        let is_busy = self.is_busy.load(Ordering::Relaxed);
        let slot = slot.filter(|slot| !is_busy && slot.activity().0 == Activity::Running);
        if let Some(slot) = slot {
            slot.enter(Activity::Reading, Millis::now());
        }
        self.note_poll(Interest::Read);
    }

    /// Stores that the wait of a future for input is over, and adds the bytes that were received.
    pub(crate) fn end_poll_read(&self, received: usize) {
        self.leave(Activity::Reading, received);
        self.forget_poll(Interest::Read);
    }

    /// Stores that a future waits until the peer takes output.
    pub(crate) fn begin_poll_write(&self) {
        self.begin_write();
        self.note_poll(Interest::Write);
    }

    /// Stores that the wait of a future for room is over, and adds the bytes that were sent.
    pub(crate) fn end_poll_write(&self, sent: usize) {
        self.end_write(sent);
        self.forget_poll(Interest::Write);
    }

    /// Lets the wait around a poll tell the registry when it ends: the future may be dropped half-way.
    fn note_poll(&self, interest: Interest) {
        let Some(registry) = &self.registry else {
            return;
        };
        let host = || -> Arc<dyn Host> { Arc::clone(registry) as _ };
        let handler = self.handler_id();
        Task::here().local().note_poll(host, handler, interest);
    }

    fn forget_poll(&self, interest: Interest) {
        if self.registry.is_some() {
            Task::here().local().forget_poll(interest);
        }
    }

    pub(super) fn handler_id(&self) -> HandlerId {
        HandlerId {
            id: self.id,
            slot: self.slot.load(Ordering::Relaxed),
        }
    }

    /// What a writer of this connection knows of its server.
    pub(crate) fn for_writer(&self) -> Option<WriterContext> {
        Some(WriterContext {
            registry: Arc::clone(self.registry.as_ref()?),
            connection: self.handler_id(),
        })
    }

    /// Adds bytes of a request that were received while the connection was parked, and begins the
    /// request.
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

    /// Says whether the handler serves requests beside its wait for input, as one of a protocol with several requests at
    /// once does. While it does, a [poll for input](crate::Connection::poll_read) does not make the connection idle.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// Begins a request of the connection, unless one has begun: from now on the request timeout and the minimum
    /// rate apply, and a stop waits for its end.
    ///
    /// For a protocol layer whose requests are not the messages of
    /// [`Connection::next_message`](crate::Connection::next_message), which calls it by itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// fn serve(conn: &mut impl Connection) -> std::io::Result<()> {
    ///     while !conn.fill_buf()?.is_empty() {
    ///         conn.context().begin_request();
    ///         let mut line = String::new();
    ///         conn.read_line_max(&mut line, 1024)?;
    ///         conn.write_all(line.as_bytes())?;
    ///         conn.context().end_request();
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn begin_request(&self) {
        if let Some(slot) = self.slot() {
            let now = Millis::now();
            slot.begin_request(now);
            slot.enter(Activity::Running, now);
        }
    }

    /// Stores that the connection is idle. Returns how long it may be, if the server stops.
    pub(crate) fn begin_idle(&self) -> Option<Duration> {
        self.enter(Activity::Idle);
        // Pairs with the fence of `Registry::end_idle`, which runs after the stop: either that pass
        // finds this connection idle, or this connection sees the stop.
        fence(Ordering::SeqCst);
        let left = self.registry.as_ref()?.lifecycle().grace_left(Idle::Held)?;
        Some(left.max(SETTLE))
    }

    /// Stores that the connection is no longer idle. Bytes of a message, if there are any, begin a request.
    pub(crate) fn end_idle(&self, bytes: usize) {
        if let Some(slot) = self.slot() {
            let now = Millis::now();
            if bytes > 0 {
                slot.add_received(bytes);
                slot.begin_request(now);
            }
            slot.enter(Activity::Running, now);
        }
    }

    /// Counts the wait for the first byte from `since` on, which is set when it begins, if none has come.
    pub(crate) fn await_first_byte(&self, since: &mut Option<Millis>) {
        if let Some(slot) = self.slot().filter(|slot| slot.received() == 0) {
            let (activity, entered) = slot.activity();
            slot.enter(activity, *since.get_or_insert(entered));
        }
    }

    /// Marks the idle connection as ended by the server. Called before it enters another activity.
    pub(crate) fn end(&self) {
        let _ = self.slot().map(Slot::end);
    }

    /// Whether the server has ended the connection while it was idle.
    pub(crate) fn is_ended(&self) -> bool {
        self.slot().is_some_and(Slot::is_ended)
    }

    /// Counts that the client has sent something over a connection that the server was ending.
    pub(crate) fn note_crossing(&self) {
        if let Some(registry) = self.registry.as_ref().filter(|_| self.stopping()) {
            registry.count_crossing();
        }
    }

    /// Ends the request of the connection, if one has [begun](Self::begin_request).
    pub fn end_request(&self) {
        if let Some(slot) = self.slot() {
            slot.end_request();
        }
    }

    /// Returns why the server has aborted the connection, if it has. Reads and writes fail then.
    #[must_use]
    pub fn abort_reason(&self) -> Option<AbortReason> {
        self.slot()?.abort_reason()
    }

    /// Takes the slot out of this context, which is about to be dropped: a child has a copy of the
    /// connection and serves it.
    pub(crate) fn hand_over(&self) -> Option<Registered> {
        let index = self.slot.swap(0, Ordering::Relaxed).checked_sub(1)?;
        let registry = Arc::clone(self.registry.as_ref()?);
        registry.unregister(self.id);
        Some(Registered { registry, index })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(registry) = &self.registry else {
            return;
        };
        if self.abortable {
            registry.unregister(self.id);
        }
        if let Some(index) = self.slot.get_mut().checked_sub(1) {
            registry.release_slot(index);
        }
    }
}

/// The link between a writer, which may outlive its connection, and the server of the connection.
#[derive(Clone, Debug)]
pub(crate) struct WriterContext {
    registry: Arc<Registry>,
    connection: HandlerId,
}

impl WriterContext {
    /// How long the peer may take nothing.
    pub(crate) fn write_timeout(&self) -> Option<Duration> {
        self.registry.deadlines().write
    }

    /// Stores that the writer has moved bytes: the connection is not idle. If the connection has just ended and
    /// another has its slot, that one counts as active once more, which does no harm.
    pub(crate) fn push(&self) {
        let HandlerId { id, slot } = self.connection;
        let slot = slot.checked_sub(1).map(|index| self.registry.slot(index));
        if let Some(slot) = slot.filter(|slot| slot.id() == id) {
            slot.push(Millis::now());
        }
    }

    /// Aborts the connection, whose peer takes nothing.
    pub(crate) fn abort(&self) {
        self.registry.abort_writer(self.connection.id);
    }
}

/// The slot of a connection that is registered here and served in a child. Released on drop.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    index: u32,
}

impl Registered {
    pub(crate) fn slot(&self) -> &Slot {
        self.registry.slot(self.index)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.release_slot(self.index);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::admission::access::Access;
    use crate::admission::peers::Peer;
    use crate::admission::policy::{AtLimit, Limits};
    use crate::lifecycle::Times;
    use crate::registry::deadlines::Deadlines;
    use crate::shared::{Options, Shared, share};

    /// A registered connection of a server with default options.
    pub(in crate::registry) fn registered() -> (Shared, Context) {
        let options = Options {
            limits: Limits {
                max_connections: 1,
                per_address: None,
                per_user: None,
                rate: None,
                at_limit: AtLimit::Wait,
            },
            access: Access::new(),
            raise_descriptors: false,
            times: Times::default(),
            deadlines: Deadlines::default(),
        };
        let shared = share(&options).unwrap();
        let context = shared.registry.context();
        context.claim_slot(&Address::from(SocketAddr::from(([127, 0, 0, 1], 9))));
        (shared, context)
    }

    #[test]
    fn a_handler_that_has_just_begun_to_wait_is_not_shed() {
        let (shared, context) = registered();
        let slot = context.slot().unwrap();
        let shed = |waiting| {
            shared
                .registry
                .oldest_idle(waiting)
                .map(|(_, activity)| activity)
        };
        for activity in [Activity::Idle, Activity::Reading] {
            slot.enter(activity, Millis::now());
            assert_eq!(shed(u64::MAX), None);
            assert_eq!(shed(0), Some(activity));
        }
        slot.enter(Activity::Parked, Millis::now());
        assert_eq!(shed(u64::MAX), Some(Activity::Parked));
    }

    #[test]
    fn a_connection_counts_for_the_peer_that_was_judged_last() {
        let (shared, context) = registered();
        let (registry, admission) = (&shared.registry, &shared.admission);
        let [proxy, client] = [Peer::user(1), Peer::user(2)];
        let counts = |peer| {
            let mark = AtomicU32::new(0);
            let is_free = admission.enter(peer, 1, &mark);
            admission.leave(&mark);
            !is_free
        };
        assert!(registry.count_peer(&context, proxy, 1));
        assert!(registry.count_peer(&context, client, 1));
        assert_eq!((counts(proxy), counts(client)), (false, true));
        assert!(registry.count_peer(&context, client, 1), "it counts once");
        drop(context);
        assert!(!counts(client));
    }

    #[test]
    fn reads_of_a_handshake_do_not_count_as_waiting() {
        let (_shared, context) = registered();
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
