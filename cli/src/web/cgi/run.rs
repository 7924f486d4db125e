//! One program, from its start to its end.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read};
use socketserver::task::{self, Descriptor};

use super::Permit;
use crate::exec::lines::{self, Bound, Lines, Then};
use crate::exec::starter::{Ended, LOST, Notice, Running};
use crate::log::say;
use crate::throttle::Throttle;

/// The epoll data of what a program's request waits for.
const CONTROL: u64 = 0;
const OUTPUT: u64 = 1;
const ERRORS: u64 = 2;
const CLIENT: u64 = 3;

/// How long a program may run once it has closed its output, or has written all that it has announced.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Settings {
    /// How long the program may produce nothing.
    pub(super) timeout: Duration,
    /// What its lines in the log begin with.
    pub(super) prefix: String,
    /// Whether its start and its end are logged.
    pub(super) log: bool,
    /// Else the lines about programs that fail.
    pub(super) exits: Arc<Throttle>,
    /// The lines that programs write.
    pub(super) lines: Arc<Bound>,
}

/// A program that runs for a request. Dropping it ends the program.
pub(super) struct Run {
    settings: Settings,
    running: Running,
    output: OwnedFd,
    errors: Lines,
    /// An epoll instance: the program's control socket, its output, its standard error, and failures of the client.
    watch: Descriptor<OwnedFd>,
    /// When the program must have produced something.
    deadline: Instant,
    /// When its standard error is read again.
    paused: Option<Instant>,
    /// The program was reaped. Processes that it has left may live a little longer.
    has_exited: bool,
    _permit: Permit,
}

impl Run {
    /// Starts a program by `start`, which gets its standard output and its standard error.
    pub(super) fn start(
        settings: Settings,
        client: BorrowedFd<'_>,
        permit: Permit,
        start: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<Running>,
    ) -> io::Result<Self> {
        let prefix = format!("{}, standard error", settings.prefix);
        let (errors, program_errors) = Lines::new(prefix, Some(Arc::clone(&settings.lines)))?;
        let (output, program_output) = lines::pipe()?;
        let running = start(program_output.as_fd(), program_errors.as_fd())?;
        let watch = epoll::create(CreateFlags::CLOEXEC)?;
        let add = |fd: BorrowedFd<'_>, data, flags| {
            epoll::add(&watch, fd, EventData::new_u64(data), flags)
        };
        add(running.as_fd(), CONTROL, EventFlags::IN)?;
        add(output.as_fd(), OUTPUT, EventFlags::IN)?;
        // A failure is always reported; the end of the client's stream is none.
        add(client, CLIENT, EventFlags::empty())?;
        if let Some(pipe) = errors.pipe() {
            add(pipe, ERRORS, EventFlags::IN)?;
        }
        Ok(Self {
            deadline: after(settings.timeout),
            settings,
            running,
            output,
            errors,
            watch: Descriptor::new(watch),
            paused: None,
            has_exited: false,
            _permit: permit,
        })
    }

    /// Waits until something has happened.
    ///
    /// # Errors
    ///
    /// - `TimedOut`: the program has produced nothing for too long.
    /// - `ConnectionReset`: the client is gone.
    /// - `Other`: the program could not be started, or its starter has ended.
    /// - else as [`task::block_on`]: the connection was aborted.
    fn wait(&mut self) -> io::Result<()> {
        let until = self
            .paused
            .map_or(self.deadline, |paused| paused.min(self.deadline));
        let left = until.saturating_duration_since(Instant::now());
        let events = match task::timeout(left, || self.watch.read_with(events)) {
            Err(err) if err.kind() == io::ErrorKind::TimedOut && Instant::now() >= until => {
                Vec::new()
            }
            events => events?,
        };
        for event in events {
            match event {
                CONTROL => self.take_notices()?,
                ERRORS => self.read_errors(),
                CLIENT => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => {}
            }
        }
        let now = Instant::now();
        if self.paused.is_some_and(|paused| now >= paused) {
            self.paused = None;
            self.watch_errors();
        }
        if now >= self.deadline {
            let limit = self.settings.timeout.as_secs_f64();
            let text = format!("the program has produced nothing for {limit} s, and is ended");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Waits until the program has ended, which is not to hold up its client for long. What it still writes is dropped.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let mut dropped = vec![0; 8 * 1024];
        let mut is_open = true;
        self.deadline = after(LAST);
        while !self.has_exited && Instant::now() < self.deadline {
            match read(&self.output, &mut *dropped) {
                Ok(0) if is_open => {
                    // Its end would wake each wait.
                    epoll::delete(self.watch.get_ref(), &self.output)?;
                    is_open = false;
                }
                Ok(1..) | Err(Errno::INTR) => {}
                _ => match self.wait() {
                    Err(err)
                        if err.kind() == io::ErrorKind::TimedOut
                            && Instant::now() >= self.deadline => {}
                    waited => waited?,
                },
            }
        }
        Ok(())
    }

    fn take_notices(&mut self) -> io::Result<()> {
        loop {
            let notice = match self.running.next() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                notice => notice?,
            };
            let prefix = &self.settings.prefix;
            match notice {
                Some(Notice::Started { pid }) if self.settings.log => {
                    say(format_args!("{prefix}: program {pid} starts"));
                }
                Some(Notice::Started { .. }) => {}
                Some(Notice::Failed(why)) => {
                    return Err(io::Error::other(format!("start the program: {why}")));
                }
                Some(Notice::Exited(exit)) => {
                    // The program's lines come before its end.
                    self.read_errors();
                    let prefix = &self.settings.prefix;
                    if self.settings.log {
                        say(format_args!("{prefix}: program ended: {exit}"));
                    } else if exit.ended != Ended::Status(0) {
                        let exits = &self.settings.exits;
                        exits.say(format_args!("{prefix}: program ended: {exit}"));
                    }
                    self.has_exited = true;
                    return Ok(epoll::delete(self.watch.get_ref(), &self.running)?);
                }
                None => {
                    return Err(io::Error::other(LOST));
                }
            }
        }
    }

    fn read_errors(&mut self) {
        if let Then::Pause(until) = self.errors.read() {
            self.paused = Some(until);
            if let Some(pipe) = self.errors.pipe() {
                let _ = epoll::delete(self.watch.get_ref(), pipe);
            }
        }
    }

    fn watch_errors(&self) {
        if let Some(pipe) = self.errors.pipe() {
            // The program is not worth an error: without its lines it goes on, and is ended with the request.
            let _ = epoll::add(
                self.watch.get_ref(),
                pipe,
                EventData::new_u64(ERRORS),
                EventFlags::IN,
            );
        }
    }
}

impl Read for Run {
    /// Reads what the program writes, up to the end of its output or of the program.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // The client has taken what came before.
        self.deadline = after(self.settings.timeout);
        loop {
            match read(&self.output, &mut *buf) {
                Ok(0) if !buf.is_empty() => return self.finish().map(|()| 0),
                Ok(count) => return Ok(count),
                // Processes that the program has left may hold its output open: their end is not waited for.
                Err(Errno::AGAIN) if self.has_exited => return Ok(0),
                Err(Errno::AGAIN) => self.wait()?,
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.errors.finish();
    }
}

/// The output of a program behind its head.
pub(super) struct Output {
    run: Run,
    /// What was read of it with the head.
    held: io::Cursor<Vec<u8>>,
    /// How many bytes are left of what the program has announced.
    left: Option<u64>,
}

impl Output {
    pub(super) fn new(run: Run) -> Self {
        Self {
            run,
            held: io::Cursor::default(),
            left: None,
        }
    }

    /// Puts back what was read last.
    pub(super) fn unread(&mut self, bytes: Vec<u8>) {
        self.held = io::Cursor::new(bytes);
    }

    /// Sets how many bytes are to be read.
    pub(super) const fn announce(&mut self, length: u64) {
        self.left = Some(length);
    }

    /// Waits for the end of a program whose output is not needed.
    ///
    /// # Errors
    ///
    /// The client is gone, or was aborted.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.run.finish()
    }
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let most = most.min(buf.len());
        let buf = &mut buf[..most];
        let count = match self.held.read(buf)? {
            0 if !buf.is_empty() => self.run.read(buf)?,
            count => count,
        };
        if let Some(left) = &mut self.left {
            *left -= count as u64;
            if *left == 0 && count > 0 {
                // These bytes are the last ones that are asked for.
                self.run.finish()?;
            }
        }
        Ok(count)
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    // Beyond the clock: each read sets it anew.
    now.checked_add(time)
        .unwrap_or(now + Duration::from_secs(86_400))
}

/// Takes the events that there are.
fn events(epoll: &OwnedFd) -> io::Result<Vec<u64>> {
    let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 4];
    let (events, _) = epoll::wait(epoll.as_fd(), &mut events, Some(&Timespec::default()))?;
    if events.is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(events.iter().map(|event| event.data.u64()).collect())
}
