//! One connection and its program, from the start of the program to its end.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socketserver::task::{self, Descriptor};

use super::lines::{Lines, Then};
use super::movement;
use super::relay::{Change, Relay};
use super::starter::{Exit, Notice, Running};
use crate::log::say;

/// The epoll data of what a connection waits for.
const CONTROL: u64 = 0;
const CLIENT: u64 = 1;
const LINES: u64 = 2;
const STOP: u64 = 3;

/// When a program is ended before it ends by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// After the client's end of stream.
    pub(super) half_close: Option<Duration>,
    /// While nothing moves on a TCP connection.
    pub(super) idle: Option<Duration>,
    /// After the end of both directions of a TCP connection.
    pub(super) over: Duration,
}

/// Why a program was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The connection has failed, as by a reset.
    Reset,
    /// The client ended its stream that long ago.
    HalfClosed(Duration),
    /// Both directions ended that long ago, by a reset whose error the program has taken, or in order.
    Over(Duration),
    /// Nothing has moved for that long.
    Idle(Duration),
    /// The server stops.
    Stop,
}

/// What is beside the program.
pub(super) enum Around<'a> {
    /// Its client, to which it is connected itself.
    Client(BorrowedFd<'a>),
    /// Its client, behind a relay, and a duplicate of the client's descriptor: a relay that waits for the program does
    /// not see a reset.
    Relay(Relay<'a>, OwnedFd),
    /// All clients of a socket; the descriptor is readable once the program is to end.
    Stop(BorrowedFd<'a>),
}

/// How a program's part in a connection ended.
#[derive(Debug)]
pub(super) enum Over {
    /// It could not be started.
    Failed(String),
    Exited {
        exit: Exit,
        cause: Option<Cause>,
    },
    /// The starter has ended, or had no descriptors for the program.
    Lost {
        pid: Option<i32>,
    },
}

/// What has woken a wait.
enum Woken {
    Events(Vec<(u64, EventFlags)>),
    Relay(io::Result<Change>),
    Late,
}

/// A program that runs for a connection.
pub(super) struct Session<'a> {
    running: Running,
    /// An epoll instance: the program's control socket, its standard error, and hang-ups of the client.
    watch: Descriptor<OwnedFd>,
    lines: Lines,
    limits: Limits,
    /// The connection, whose hang-ups and movement count.
    client: Option<Box<dyn AsFd + 'a>>,
    relay: Option<Relay<'a>>,
    pid: Option<i32>,
    failure: Option<String>,
    cause: Option<Cause>,
    /// When the program is asked to end, after the client's end of stream.
    half_close: Option<Instant>,
    /// When the program is asked to end, after the end of both directions.
    over: Option<Instant>,
    is_tcp: bool,
    /// When the connection is checked for movement.
    idle: Option<Instant>,
    /// When the standard error is read again.
    paused: Option<Instant>,
    /// The number of the connection, if the start of its program is logged.
    logged: Option<u64>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        running: Running,
        lines: Lines,
        limits: Limits,
        around: Around<'a>,
        logged: Option<u64>,
    ) -> io::Result<Self> {
        let watch = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(CONTROL);
        // The starter closes its end after the last notice. Only the log needs the notices before the last one.
        let flags = match logged {
            Some(_) => EventFlags::IN,
            None => EventFlags::RDHUP,
        };
        epoll::add(&watch, &running, data, flags)?;
        if let Some(pipe) = lines.pipe() {
            epoll::add(&watch, pipe, EventData::new_u64(LINES), EventFlags::IN)?;
        }
        let mut relay = None;
        let client: Option<Box<dyn AsFd + 'a>> = match around {
            Around::Client(fd) => Some(Box::new(fd)),
            Around::Relay(between, fd) => {
                relay = Some(between);
                Some(Box::new(fd))
            }
            Around::Stop(fd) => {
                let flags = EventFlags::IN | EventFlags::ONESHOT;
                epoll::add(&watch, fd, EventData::new_u64(STOP), flags)?;
                None
            }
        };
        let mut is_tcp = false;
        if let Some(client) = &client {
            // An edge for each change: the program reads the input, and a hang-up stays.
            let flags = EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&watch, client, EventData::new_u64(CLIENT), flags)?;
            is_tcp = movement::idle_time(client.as_fd()).is_some();
        }
        Ok(Self {
            running,
            watch: Descriptor::new(watch),
            lines,
            limits,
            client,
            relay,
            pid: None,
            failure: None,
            cause: None,
            half_close: None,
            over: None,
            is_tcp,
            idle: limits.idle.filter(|_| is_tcp).and_then(after),
            paused: None,
            logged,
        })
    }

    /// Waits until the program has ended. Dropping the session ends the program.
    ///
    /// # Errors
    ///
    /// As [`task::block_on`]: the connection was aborted.
    pub(super) fn run(mut self) -> io::Result<Over> {
        let over = self.run_to_end();
        if let (Err(_), Some(id), Some(pid)) = (&over, self.logged, self.pid) {
            say(format_args!(
                "socketserver: connection {id}: program {pid} gets SIGTERM: the server has ended its connection"
            ));
        }
        self.lines.finish();
        over
    }

    fn run_to_end(&mut self) -> io::Result<Over> {
        let mut over = loop {
            match self.wait()? {
                Woken::Late => {}
                Woken::Relay(Ok(Change::ClientEnded)) => self.begin_half_close(),
                Woken::Relay(Ok(Change::ProgramEnded)) => {}
                Woken::Relay(Err(err)) => {
                    self.relay = None;
                    // The server has aborted the connection.
                    let aborts = [io::ErrorKind::ConnectionAborted, io::ErrorKind::TimedOut];
                    if aborts.contains(&err.kind()) {
                        return Err(err);
                    }
                    self.end(Cause::Reset);
                }
                Woken::Events(events) => {
                    if let Some(over) = self.handle(&events)? {
                        break over;
                    }
                }
            }
            self.check_deadlines();
        };
        if let Some(relay) = &mut self.relay {
            // A client that is gone gets nothing more.
            let rest = task::block_on(poll_fn(|cx| relay.poll_rest(cx)))?;
            if rest.is_err() {
                self.cause.get_or_insert(Cause::Reset);
            }
        }
        if let Over::Exited { cause, .. } = &mut over {
            *cause = self.cause;
        }
        Ok(over)
    }

    fn wait(&mut self) -> io::Result<Woken> {
        let deadlines = [self.half_close, self.over, self.idle, self.paused];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return self.wait_for_events();
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match task::timeout(left, || self.wait_for_events()) {
            Err(err) if err.kind() == io::ErrorKind::TimedOut => Ok(Woken::Late),
            woken => woken,
        }
    }

    fn wait_for_events(&mut self) -> io::Result<Woken> {
        let Some(relay) = &mut self.relay else {
            return self.watch.read_with(events).map(Woken::Events);
        };
        let watch = &self.watch;
        task::block_on(poll_fn(|cx| {
            // First what happens seldom: the relay may always have something to move.
            if let Poll::Ready(events) = watch.poll_read_with(cx, events) {
                return Poll::Ready(events.map(Woken::Events));
            }
            relay.poll(cx).map(|change| Ok(Woken::Relay(change)))
        }))?
    }

    fn handle(&mut self, events: &[(u64, EventFlags)]) -> io::Result<Option<Over>> {
        for (token, flags) in events {
            match *token {
                CONTROL => {
                    if let Some(over) = self.take_notices()? {
                        return Ok(Some(over));
                    }
                }
                CLIENT if flags.contains(EventFlags::ERR) => self.end(Cause::Reset),
                // A close of a Unix socket is what an end of stream is on TCP.
                CLIENT if self.is_tcp && flags.contains(EventFlags::HUP) => self.begin_over(),
                CLIENT => self.begin_half_close(),
                STOP => self.end(Cause::Stop),
                _ => self.read_lines(),
            }
        }
        Ok(None)
    }

    fn take_notices(&mut self) -> io::Result<Option<Over>> {
        loop {
            let notice = match self.running.next() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                notice => notice?,
            };
            match notice {
                Some(Notice::Started { pid }) => {
                    self.pid = Some(pid);
                    if let Some(id) = self.logged {
                        say(format_args!(
                            "socketserver: connection {id}: program {pid} starts"
                        ));
                    }
                }
                Some(Notice::Failed(why)) => self.failure = Some(why),
                Some(Notice::Exited(exit)) => {
                    if let (Some(id), None) = (self.logged.take(), &self.failure) {
                        // The program's lines come before its end.
                        self.lines.finish();
                        say(format_args!(
                            "socketserver: connection {id}: program ended: {exit}"
                        ));
                    }
                    let failed = self.failure.take().map(Over::Failed);
                    let exited = Over::Exited { exit, cause: None };
                    return Ok(Some(failed.unwrap_or(exited)));
                }
                None => {
                    let lost = Over::Lost { pid: self.pid };
                    return Ok(Some(self.failure.take().map_or(lost, Over::Failed)));
                }
            }
        }
    }

    fn read_lines(&mut self) {
        if let Then::Pause(until) = self.lines.read() {
            self.paused = Some(until);
            if let Some(pipe) = self.lines.pipe() {
                let _ = epoll::delete(self.watch.get_ref(), pipe);
            }
        }
    }

    fn watch_lines(&self) {
        if let Some(pipe) = self.lines.pipe() {
            // The program is not worth an error: without its lines it goes on, and is ended with the connection.
            let (data, flags) = (EventData::new_u64(LINES), EventFlags::IN);
            let _ = epoll::add(self.watch.get_ref(), pipe, data, flags);
        }
    }

    fn begin_half_close(&mut self) {
        if self.half_close.is_none() && self.cause.is_none() {
            self.half_close = self.limits.half_close.and_then(after);
        }
    }

    fn begin_over(&mut self) {
        if self.over.is_none() && self.cause.is_none() {
            self.over = after(self.limits.over);
        }
    }

    /// Asks the program to end, and ignores the client from now on.
    fn end(&mut self, cause: Cause) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.running.end();
        }
        (self.half_close, self.over, self.idle) = (None, None, None);
        if let Some(client) = self.client.take() {
            let _ = epoll::delete(self.watch.get_ref(), &client);
        }
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        if self.paused.is_some_and(|at| now >= at) {
            self.paused = None;
            self.watch_lines();
        }
        if let Some(limit) = self
            .limits
            .half_close
            .filter(|_| is_past(self.half_close, now))
        {
            self.end(Cause::HalfClosed(limit));
        }
        if is_past(self.over, now) {
            self.end(Cause::Over(self.limits.over));
        }
        if let (Some(limit), Some(client), true) =
            (self.limits.idle, &self.client, is_past(self.idle, now))
        {
            let idle = movement::idle_time(client.as_fd()).unwrap_or_default();
            match limit.checked_sub(idle).filter(|left| !left.is_zero()) {
                Some(left) => self.idle = after(left),
                None => self.end(Cause::Idle(limit)),
            }
        }
    }
}

fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

fn is_past(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|at| now >= at)
}

/// Takes the events that there are.
fn events(epoll: &OwnedFd) -> io::Result<Vec<(u64, EventFlags)>> {
    let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 3];
    let (events, _) = epoll::wait(epoll.as_fd(), &mut events, Some(&Timespec::default()))?;
    if events.is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let events = events.iter().map(|event| (event.data.u64(), event.flags));
    Ok(events.collect())
}
