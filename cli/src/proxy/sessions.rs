//! Sessions of datagrams: each client has a socket of its own to an upstream, so that the replies are told apart. One
//! thread receives the replies of all sessions.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use socketserver::net::{Address, Replier};
use socketserver::proxied::Version;
use socketserver::{Datagram, ServerHandle};

use crate::log::say;
use crate::proxy::background::Background;
use crate::proxy::header::Headers;
use crate::proxy::to::{Dial, To};
use crate::proxy::upstreams::{Taken, Upstreams, millis};
use crate::shared::now;
use crate::throttle::Throttle;

/// What happens to a new client beyond `--max-sessions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AtMax {
    /// Its datagrams are dropped
    #[default]
    Drop,
    /// It takes the place of the session that is idle for longest
    Replace,
}

/// The options of sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    pub(crate) max: usize,
    pub(crate) at_max: AtMax,
}

/// All sessions.
pub(crate) struct Sessions {
    limits: Limits,
    upstreams: Arc<Upstreams>,
    sends_headers: bool,
    logs: bool,
    /// The lines about replies that are too long.
    too_long: Throttle,
    table: Mutex<Table>,
    /// How many there are, for the signal handler of `idle`.
    count: Arc<AtomicU64>,
    /// The sockets of all sessions, and `wake`.
    events: OwnedFd,
    /// Wakes the thread at the first session.
    wake: OwnedFd,
    /// The thread that receives replies.
    receiver: Background,
    /// Signalled when a reply comes, once the server has ended.
    settled: Condvar,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Table {
    by_client: HashMap<Client, Arc<Session>>,
    by_number: HashMap<u64, Arc<Session>>,
    last: u64,
}

/// Whose session it is. Clients without an address, which get no replies, share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    replier: Option<Replier>,
    /// Behind a proxy, the client that its header names.
    peer: Address,
}

struct Session {
    number: u64,
    client: Client,
    socket: OwnedFd,
    upstream: Taken,
    /// What the upstream gets in front of each datagram.
    header: Vec<u8>,
    /// When a datagram was last passed on, on the clock of [`now`].
    last: AtomicU64,
    there: AtomicU64,
    back: AtomicU64,
    /// The client was the last to send.
    asked: AtomicBool,
}

/// The epoll data of `wake`; sessions have numbers from 1.
const WAKE: u64 = 0;

/// How often a stop that waits for replies checks for a second signal.
const SECOND_SIGNAL: Duration = Duration::from_millis(100);

/// How many replies of one session are passed on before the others go on.
const TURN: usize = 32;

/// The longest reply, as long as the longest datagram of a client: a Unix socket could send more.
const LONGEST: usize = 65_535;

impl Sessions {
    pub(crate) fn new(
        limits: Limits,
        upstreams: &Arc<Upstreams>,
        sends_headers: bool,
        logs: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let events =
            epoll::create(epoll::CreateFlags::CLOEXEC).context("create an epoll instance")?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("create an eventfd")?;
        let data = epoll::EventData::new_u64(WAKE);
        epoll::add(&events, &wake, data, epoll::EventFlags::IN).context("watch an eventfd")?;
        Ok(Arc::new(Self {
            limits,
            upstreams: Arc::clone(upstreams),
            sends_headers,
            logs,
            too_long: Throttle::new().context("mmap(2)")?,
            table: Mutex::default(),
            count: Arc::default(),
            events,
            wake,
            receiver: Background::default(),
            settled: Condvar::new(),
            is_over: AtomicBool::new(false),
        }))
    }

    /// How many sessions there are.
    pub(crate) const fn count(&self) -> &Arc<AtomicU64> {
        &self.count
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The maps are whole after a panic: only their own methods run under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a datagram on to the upstream of its client's session.
    pub(crate) fn forward(
        self: &Arc<Self>,
        datagram: &impl Datagram,
        dial: &Dial,
    ) -> anyhow::Result<()> {
        let client = Client {
            replier: datagram.replier().ok(),
            peer: datagram.peer(),
        };
        let known = self.table().by_client.get(&client).cloned();
        let session = match known {
            Some(session) => session,
            None => self.open(client.clone(), datagram, dial)?,
        };
        match session.send(datagram.packet()) {
            // The upstream was not there for an earlier datagram: another one may be.
            Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET) => {
                self.fail(&session, Errno::CONNREFUSED);
                let session = self.open(client, datagram, dial)?;
                sent(&session, session.send(datagram.packet()))
            }
            result => sent(&session, result),
        }
    }

    /// Opens a session.
    fn open(
        self: &Arc<Self>,
        client: Client,
        datagram: &impl Datagram,
        dial: &Dial,
    ) -> anyhow::Result<Arc<Session>> {
        self.make_room()?;
        let of = |to: &To| dial.datagrams(to);
        let (upstream, socket) = self.upstreams.connect(datagram.context(), false, of)?;
        let header = match &client.replier {
            Some(replier) if self.sends_headers => {
                Headers::of_datagram(datagram, &replier.local_addr()?)?
            }
            _ if self.sends_headers => Headers(Version::V2).of_proxy()?,
            _ => Vec::new(),
        };
        self.start_receiver()?;
        let mut table = self.table();
        // Another datagram of the client may have opened one meanwhile.
        if let Some(session) = table.by_client.get(&client) {
            return Ok(Arc::clone(session));
        }
        if table.by_number.len() >= self.limits.max {
            // Another client has taken the room.
            return Err(self.full());
        }
        table.last += 1;
        let session = Arc::new(Session {
            number: table.last,
            client,
            socket,
            upstream,
            header,
            last: AtomicU64::new(now()),
            there: AtomicU64::new(0),
            back: AtomicU64::new(0),
            asked: AtomicBool::new(false),
        });
        let data = epoll::EventData::new_u64(session.number);
        epoll::add(&self.events, &session.socket, data, epoll::EventFlags::IN)?;
        let is_first = table.by_number.is_empty();
        table
            .by_client
            .insert(session.client.clone(), Arc::clone(&session));
        table.by_number.insert(session.number, Arc::clone(&session));
        self.count.store(table.by_number.len() as u64, Relaxed);
        if is_first {
            // The counter is far from its maximum.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
        Ok(session)
    }

    /// Applies `--max-sessions` to a new client.
    fn make_room(&self) -> anyhow::Result<()> {
        let table = self.table();
        if table.by_number.len() < self.limits.max {
            return Ok(());
        }
        if self.limits.at_max == AtMax::Drop {
            return Err(self.full());
        }
        let all = table.by_number.values();
        let oldest = all
            .min_by_key(|session| session.last.load(Relaxed))
            .cloned();
        drop(table);
        if let Some(oldest) = oldest {
            self.end(&oldest, "a new client has taken its place");
        }
        Ok(())
    }

    fn full(&self) -> anyhow::Error {
        anyhow!(
            "a datagram of a new client was dropped: there are {} sessions, the limit of --max-sessions",
            self.limits.max
        )
    }

    /// Starts the thread that receives replies, unless it runs.
    fn start_receiver(self: &Arc<Self>) -> io::Result<()> {
        let sessions = Arc::clone(self);
        self.receiver
            .start("replies", move || sessions.receive_replies())
    }

    /// Ends a session whose upstream is not there.
    fn fail(&self, session: &Session, err: Errno) {
        let index = session.upstream.index();
        let err = anyhow::Error::from(io::Error::from(err));
        // First, so that no datagram goes to it once the failure is reported.
        self.end(session, "its upstream cannot be reached");
        self.upstreams.note_failure(index, &err);
    }

    fn end(&self, session: &Session, why: &str) {
        let mut table = self.table();
        if table.by_number.remove(&session.number).is_none() {
            return;
        }
        table.by_client.remove(&session.client);
        self.count.store(table.by_number.len() as u64, Relaxed);
        drop(table);
        // A handler may hold the socket for a moment.
        let _ = epoll::delete(&self.events, &session.socket);
        if self.logs {
            say(format_args!(
                "socketserver: the session of {} with {} has ended, {} bytes there, {} bytes back: {why}",
                session.client.peer,
                session.upstream.to(),
                session.there.load(Relaxed),
                session.back.load(Relaxed),
            ));
        }
    }

    /// Passes on replies, and ends idle sessions, for as long as the process lives.
    fn receive_replies(&self) {
        let mut buffer = vec![0; LONGEST];
        let mut check = None;
        loop {
            let left = check.map(|at: u64| Duration::from_millis(at.saturating_sub(now())));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut events = [const { MaybeUninit::uninit() }; 64];
            let ready = match epoll::wait(&self.events, &mut events, left.as_ref()) {
                Ok((ready, _)) => &*ready,
                Err(_) => &[],
            };
            for event in ready {
                match event.data.u64() {
                    WAKE => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                    number => {
                        let session = self.table().by_number.get(&number).cloned();
                        if let Some(session) = session {
                            self.pass_replies(&session, &mut buffer);
                        }
                    }
                }
            }
            if check.is_none_or(|at| at <= now()) {
                check = self.end_idle();
            }
        }
    }

    fn pass_replies(&self, session: &Session, buffer: &mut [u8]) {
        for _ in 0..TURN {
            // The kernel returns the length of a reply that is longer than the buffer, too (recv(2), `MSG_TRUNC`).
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match recv(&session.socket, &mut *buffer, flags) {
                Ok((_, length)) if length > buffer.len() => {
                    self.too_long.say(format_args!(
                        "socketserver: a reply of {length} bytes from {} was dropped: the longest that is passed on has \
                         {LONGEST}",
                        session.upstream.to()
                    ));
                }
                Ok((count, _)) => {
                    if session.back.fetch_add(count as u64, Relaxed) == 0 {
                        self.upstreams.note_success(session.upstream.index());
                    }
                    session.asked.store(false, Relaxed);
                    session.last.store(now(), Relaxed);
                    // A client that is gone gets nothing, as without a proxy.
                    if let Some(replier) = &session.client.replier {
                        let _ = replier.send(&buffer[..count]);
                    }
                    if self.is_over.load(Relaxed) {
                        self.settled.notify_all();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(err) => return self.fail(session, err),
            }
        }
    }

    /// Ends the sessions that are idle for too long. Returns when the next one may be.
    fn end_idle(&self) -> Option<u64> {
        let limit = millis(self.limits.timeout);
        let due = |session: &Session| session.last.load(Relaxed).saturating_add(limit);
        let now = now();
        let all: Vec<_> = self.table().by_number.values().cloned().collect();
        let (idle, live): (Vec<_>, Vec<_>) = all.iter().partition(|session| due(session) <= now);
        for session in idle {
            self.end(session, "it was idle for the session timeout");
        }
        live.into_iter().map(|session| due(session)).min()
    }

    /// Waits until each client that has sent has got a reply, for `grace` at most, and until the drain deadline of
    /// the server, which has ended. Returns how many clients wait at the drain deadline.
    pub(crate) fn settle(&self, grace: Duration, server: &ServerHandle) -> u64 {
        let end = Instant::now().checked_add(grace);
        self.is_over.store(true, Relaxed);
        let mut table = self.table();
        loop {
            let sessions = table.by_number.values();
            let waiting = sessions.filter(|session| session.asked.load(Relaxed));
            let count = waiting.count() as u64;
            let drain = server.drain_left().unwrap_or(grace);
            let left = end.map_or(grace, |end| end.saturating_duration_since(Instant::now()));
            if count == 0 || drain.is_zero() {
                return count;
            }
            if left.is_zero() {
                return 0;
            }
            // A second signal brings the drain deadline forward.
            let wait = drain.min(left).min(SECOND_SIGNAL);
            let waited = self.settled.wait_timeout(table, wait);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn sent(session: &Session, result: rustix::io::Result<()>) -> anyhow::Result<()> {
    result.map_err(|err| anyhow!("send a datagram to {}: {err}", session.upstream.to()))
}

impl Session {
    /// Sends a datagram of the client. It is dropped where the upstream has no room.
    fn send(&self, data: &[u8]) -> rustix::io::Result<()> {
        self.asked.store(true, Relaxed);
        let parts = [IoSlice::new(&self.header), IoSlice::new(data)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut control = SendAncillaryBuffer::default();
        // Before it is sent: the answer may come, and the session end, before this thread runs again.
        let length = data.len() as u64;
        self.there.fetch_add(length, Relaxed);
        let sent = sendmsg(&self.socket, &parts, &mut control, flags);
        match sent {
            Ok(_) => self.last.store(now(), Relaxed),
            Err(_) => drop(self.there.fetch_sub(length, Relaxed)),
        }
        sent.map(drop)
    }
}
