//! HTTP/2: the requests of a connection, side by side.
//!
//! One task moves the bytes of the connection and the state of HTTP/2; each request has a task of its own, which the
//! [scope](socketserver::task::scope()) of the first runs. While no request is left, the state lies in the session of
//! the connection, which is parked.

pub(crate) mod meter;
mod pipe;
pub(crate) mod shares;
mod stream;
mod taking;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection as State, Handshake, SendResponse};
use http::Request;
use socketserver::net::Managed;
use socketserver::task::{self, Scope};
use socketserver::{Connection, HandlerError, Next};

use crate::Http;
use crate::config::{LINGER, Limits};
use crate::h2::pipe::Pipe;
use crate::h2::stream::Peer;
use crate::h2::taking::Taking;
use crate::handler::Handler;
use crate::session::Session;

/// How many bytes a client may send of a request's body before the handler reads, and of all together.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How many requests that the client has cancelled may wait at once to be forgotten.
const RESETS_MAX: usize = 20;

/// How often bytes are moved in a row.
const ROUNDS: usize = 64;

/// How many bytes of a response may wait until the client gives room for them.
const SEND_BUFFER: usize = 64 * 1024;

/// How long the last frames of a connection may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// The state of a connection of HTTP/2, which outlives each call of its handler.
#[derive(Debug)]
pub(crate) struct H2 {
    pipe: Pipe,
    phase: Phase,
    /// The client has been told that no further request is served.
    leaves: bool,
    /// The last turn has found a request, and there may be others in what was received.
    has_more: bool,
}

enum Phase {
    Handshake(Handshake<Pipe, Bytes>),
    Open(State<Pipe, Bytes>),
    Over,
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Handshake(_) => "Handshake",
            Self::Open(_) => "Open",
            Self::Over => "Over",
        })
    }
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// What has come of a wait.
enum Turn {
    Request(Box<Accepted>),
    /// The last request has ended.
    Quiet,
    /// The connection is over.
    Over,
}

/// The requests that run.
#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    /// A request wants to know whether the client goes on taking output.
    asks: AtomicBool,
    taking: Mutex<Taking>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn register(&self, waker: &Waker) {
        lock(&self.waker).replace(waker.clone());
    }

    /// Returns what the task of the connection has seen, and asks it to look anew.
    fn ask(&self) -> Taking {
        let seen = *lock(&self.taking);
        self.asks.store(true, Ordering::SeqCst);
        let waker = lock(&self.waker).clone();
        waker.into_iter().for_each(Waker::wake);
        seen
    }

    /// Looks at the output of the connection, if a request has asked.
    fn look<C: Connection>(&self, conn: &C, pipe: &Pipe) {
        if self.asks.swap(false, Ordering::SeqCst) {
            // Unknown: only what the kernel takes counts.
            let unsent = conn.unsent().unwrap_or_default();
            let now = Instant::now();
            lock(&self.taking).note(pipe.total(), unsent, pipe.has_output(), now);
        }
    }

    /// Counts a request, unless `max` run.
    fn begin(&self, max: u32) -> Option<RunningOne<'_>> {
        let one = RunningOne(self);
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        (before < max as usize).then_some(one)
    }
}

/// Counts one request that runs.
struct RunningOne<'a>(&'a Running);

impl Drop for RunningOne<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            let waker = lock(&self.0.waker).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl H2 {
    pub(crate) fn new(limits: &Limits) -> Self {
        let pipe = Pipe::default();
        let head = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
        let handshake = Builder::new()
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(head)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .handshake(pipe.clone());
        Self {
            pipe,
            phase: Phase::Handshake(handshake),
            leaves: false,
            has_more: false,
        }
    }

    /// Tells the client, once, that no further request is served.
    fn leave(&mut self) {
        if let Phase::Open(state) = &mut self.phase
            && !std::mem::replace(&mut self.leaves, true)
        {
            state.graceful_shutdown();
        }
    }

    /// Moves bytes and frames until a request has come, or `running` has become empty.
    fn turn<C: Connection>(
        &mut self,
        conn: &mut C,
        running: Option<&Running>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Turn>> {
        if let Some(running) = running {
            running.register(cx.waker());
            running.look(conn, &self.pipe);
        }
        for _ in 0..ROUNDS {
            let skips = std::mem::take(&mut self.has_more);
            let mut received = !skips && self.pipe.receive(conn, cx)?;
            let step = match self.step(cx) {
                // What is to be sent goes together, once there is no other.
                Poll::Ready(Ok(Some(request @ Turn::Request(_)))) => {
                    self.has_more = true;
                    return Poll::Ready(Ok(request));
                }
                step => step,
            };
            received |= skips && self.pipe.receive(conn, cx)?;
            let sent = self.pipe.send(conn, cx)?;
            match step {
                // The client has not taken everything yet.
                Poll::Ready(Ok(Some(Turn::Over))) if self.pipe.has_output() => {
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Some(turn))) => return Poll::Ready(Ok(turn)),
                // The handshake is over.
                Poll::Ready(Ok(None)) => continue,
                // The last frames, such as the one with the reason, are sent first.
                Poll::Ready(Err(_)) | Poll::Pending if sent => continue,
                Poll::Ready(Err(err)) => {
                    self.phase = Phase::Over;
                    return Poll::Ready(Err(err));
                }
                Poll::Pending if received => continue,
                Poll::Pending => {}
            }
            return match running {
                Some(running) if running.is_empty() => Poll::Ready(Ok(Turn::Quiet)),
                _ => Poll::Pending,
            };
        }
        // A client that sends as fast as this runs does not keep it from its time limits.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Advances the state of HTTP/2.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Turn>>> {
        match &mut self.phase {
            Phase::Handshake(handshake) => match Pin::new(handshake).poll(cx) {
                Poll::Ready(Ok(state)) => {
                    self.phase = Phase::Open(state);
                    Poll::Ready(Ok(None))
                }
                Poll::Ready(Err(err)) => Poll::Ready(Err(io_error(err))),
                Poll::Pending => Poll::Pending,
            },
            Phase::Open(state) => match state.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => {
                    Poll::Ready(Ok(Some(Turn::Request(Box::new(accepted)))))
                }
                Poll::Ready(Some(Err(err))) => Poll::Ready(Err(io_error(err))),
                Poll::Ready(None) => Poll::Ready(Ok(Some(Turn::Over))),
                Poll::Pending => Poll::Pending,
            },
            Phase::Over => Poll::Ready(Ok(Some(Turn::Over))),
        }
    }
}

fn io_error(err: h2::Error) -> io::Error {
    match err.is_io() {
        true => err
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::InvalidData, err),
    }
}

/// Serves the requests of a connection until it ends, or waits for one without a thread.
pub(crate) fn serve<C: Connection + Managed, H: Handler>(
    http: &Http<H>,
    conn: &mut C,
    session: &mut Session<H::Session>,
    h2: &mut H2,
) -> Result<Next, HandlerError> {
    let peer = Peer::of(conn);
    let running = &peer.running;
    let served = task::scope(|scope| {
        loop {
            conn.context().set_busy(!running.is_empty());
            if conn.stopping() || session.requests >= http.limits.requests {
                h2.leave();
            }
            match next_turn(conn, h2, running, &http.limits) {
                Ok(Some(Turn::Request(mut request))) => {
                    session.requests = session.requests.saturating_add(1);
                    // A request that the client has reset is none for HTTP/2, and may still run here.
                    let Some(one) = running.begin(http.limits.streams) else {
                        request.1.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    };
                    session.since = None;
                    // Each request begins the time that a request may take anew.
                    conn.context().end_request();
                    conn.context().begin_request();
                    begin(scope, http, &peer, one, request);
                }
                Ok(Some(Turn::Quiet)) => conn.context().end_request(),
                Ok(None) => return Ok(false),
                over => {
                    // Requests that run find the end of the connection.
                    h2.phase = Phase::Over;
                    return over.map(|_| true);
                }
            }
        }
    });
    match served {
        Ok(true) => Ok(Next::Close),
        Ok(false) => {
            let left = session.left(http.limits.idle_timeout);
            if left.is_zero() || h2.leaves || h2.pipe.has_ended() {
                farewell(conn, h2);
                return Ok(Next::Close);
            }
            h2.pipe.release();
            Ok(Next::ParkFor(left))
        }
        Err(err) if err.kind() == io::ErrorKind::ConnectionReset => Ok(Next::Close),
        Err(err) => Err(err.into()),
    }
}

/// Waits for what comes next. Returns `None` if no request runs, and none has come for a moment.
fn next_turn<C: Connection + Managed>(
    conn: &mut C,
    h2: &mut H2,
    running: &Running,
    limits: &Limits,
) -> io::Result<Option<Turn>> {
    if !running.is_empty() {
        let turn = task::block_on(poll_fn(|cx| h2.turn(conn, Some(running), cx)))?;
        return turn.map(Some);
    }
    // A parked connection waits for input: it would never send what the client has not taken.
    let (has_output, total) = (h2.pipe.has_output(), h2.pipe.total());
    let unsent = if has_output { conn.unsent() } else { None };
    let patience = if has_output {
        limits.body_timeout
    } else if conn.context().waits_hold_others() {
        Duration::ZERO
    } else {
        LINGER
    };
    let wait = || {
        task::block_on(poll_fn(|cx| match h2.turn(conn, None, cx) {
            Poll::Pending if has_output && h2.pipe.total() > total => Poll::Ready(Ok(Turn::Quiet)),
            turn => turn,
        }))
    };
    match task::timeout(patience, wait) {
        Ok(turn) => turn.map(Some),
        Err(err) if err.kind() != io::ErrorKind::TimedOut => Err(err),
        // The client takes something, if less than the kernel reports.
        Err(_) if unsent.is_some_and(|before| conn.unsent().is_some_and(|left| left < before)) => {
            Ok(Some(Turn::Quiet))
        }
        Err(err) if has_output => Err(err),
        Err(_) if h2.pipe.has_output() => Ok(Some(Turn::Quiet)),
        Err(_) => Ok(None),
    }
}

/// Starts the task of a request, if there is room.
fn begin<'scope, H: Handler>(
    scope: &'scope Scope<'scope, '_>,
    http: &'scope Http<H>,
    peer: &'scope Peer,
    one: RunningOne<'scope>,
    accepted: Box<Accepted>,
) {
    let origin = peer.origin(http, accepted.0.headers());
    let client = origin.client;
    let mut waiting = Waiting(Some(accepted));
    let work = move || {
        let _share = http.shares.share(client);
        let _one = one;
        if let Some((request, respond)) = waiting.0.take().map(|accepted| *accepted) {
            stream::serve(http, peer, origin, request, respond);
        }
    };
    let spawn = || scope.spawn(work).is_ok();
    http.shares.begin(client, || scope.room(), spawn);
}

/// A request whose task has not begun. Its client learns that it may try again, if this is dropped before.
struct Waiting(Option<Box<Accepted>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(accepted) = &mut self.0 {
            accepted.1.send_reset(h2::Reason::REFUSED_STREAM);
        }
    }
}

/// Tells the client that the connection ends now, and up to which request it was served.
pub(crate) fn farewell<C: Connection>(conn: &mut C, h2: &mut H2) {
    if let Phase::Open(state) = &mut h2.phase {
        state.abrupt_shutdown(h2::Reason::NO_ERROR);
    }
    // The client may be gone.
    let _ = task::timeout(FAREWELL, || {
        task::block_on(poll_fn(|cx| {
            let turn = h2.turn(conn, None, cx);
            if turn.is_ready() || !h2.pipe.has_output() {
                return Poll::Ready(());
            }
            Poll::Pending
        }))
    });
}
