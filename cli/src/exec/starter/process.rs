//! A starter's process: a loop that starts programs, and ends what belongs to each.
//!
//! A program ends when its server asks for that, or has closed the program's control socket: SIGTERM for its process
//! group, SIGKILL later. What a program leaves behind becomes a child of the starter, which is a subreaper
//! (prctl(2), `PR_SET_CHILD_SUBREAPER`). When children have ended, the starter looks through its other children: a child
//! that is no program, and belongs to no live program, is a stray, and is ended too. Such a search takes time for each live
//! child, so one search serves many ends; everything else takes the same time however many programs live.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpgid, getpid, getppid, getsid, kill_process,
    kill_process_group, pidfd_open, waitpid,
};

use super::STARTERS_MAX;
use super::child::{self, Base, Start};
use super::notice::Notice;
use super::request::{DESCRIPTORS_MAX, MESSAGE_MAX, Request};
use super::sys::{self, Stack};
use crate::log;

/// The epoll data of the socket for requests, of ended children, and of the server's main process. That of a control
/// socket is the process id of its program, which is not 1: that process is no child of the starter. That of the pidfd has
/// this bit too.
const REQUESTS: u64 = 0;
const CHILDREN: u64 = 1;
const SERVER: u64 = u64::MAX;
const PIDFD: u64 = 1 << 32;

/// How many requests are taken before other events are looked at.
const BATCH: usize = 16;

/// How long the starter does not look for strays after it has done so: at least, and in relation to the time that it took.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_FACTOR: u32 = 50;

/// How long the starter takes no requests after a shortage: the first time, and at most.
const SHORTAGE_PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// How long the starter says nothing of further shortages: all starters together say one line a second.
const SILENCE: Duration = Duration::from_secs(STARTERS_MAX as u64);

/// How long the starter outlives its server at most, beyond twice the time until SIGKILL, and beyond the end of the last
/// process that it ends: one that the kernel does not end keeps it no longer.
const LAST: Duration = Duration::from_secs(5);

pub(super) struct Starter {
    base: Base,
    kill_timeout: Duration,
    pid: Pid,
    requests: OwnedFd,
    signals: OwnedFd,
    /// The pidfd of the server's main process.
    server: OwnedFd,
    epoll: OwnedFd,
    stack: Stack,
    /// The programs that live, by their process.
    programs: HashMap<Pid, Program>,
    /// When the programs that have got SIGTERM get SIGKILL.
    kills: BTreeSet<(Instant, i32)>,
    /// Other children that belong to a program that lives, with its mark.
    adopted: HashMap<Pid, u64>,
    /// Processes that belong to no program, and are being ended.
    strays: HashMap<Pid, Ending>,
    /// When the strays get SIGKILL: all that appear until none is left have one time.
    kill_strays: Option<Instant>,
    /// A request that is tried again after a pause. Those behind it stay in the socket.
    held: Option<Held>,
    /// The end of a pause after a shortage. No request is taken before that.
    resume: Option<Instant>,
    /// How long the last pause was; zero once a program was started.
    pause: Duration,
    /// When a shortage is reported again at the earliest.
    next_line: Instant,
    /// How many programs were started.
    count: u64,
    /// Makes a program's mark from its number: another program cannot guess it.
    marks: RandomState,
    /// When strays are looked for, if children have ended.
    sweep: Option<Instant>,
    /// When they are looked for again at the earliest.
    next_sweep: Instant,
    /// When the process exits at the latest, once its server is gone.
    last: Option<Instant>,
    buffer: Vec<u8>,
}

/// A request for whose process there was no memory, or no room under a limit on processes.
struct Held {
    message: Vec<u8>,
    /// The first one is the program's control socket.
    fds: Vec<OwnedFd>,
    why: String,
}

struct Program {
    mark: u64,
    control: OwnedFd,
    pidfd: OwnedFd,
    /// Its standard error, whose end the server sees with the last notice.
    _errors: Option<OwnedFd>,
    /// What has been done to end it.
    ending: Option<Ending>,
}

/// What has been done to end a process or a group.
enum Ending {
    /// It got SIGTERM, and gets SIGKILL then.
    Terminated(Instant),
    Killed,
}

/// The longest time until SIGKILL, so that every deadline exists.
const KILL_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long the starter outlives its server, unless it still finds processes to end.
pub(super) fn longest_end(kill_timeout: Duration) -> Duration {
    kill_timeout.min(KILL_TIMEOUT_MAX) * 2 + LAST
}

impl Starter {
    pub(super) fn new(base: Base, kill_timeout: Duration, requests: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let signals = sys::child_signals()?;
        let server = getppid().ok_or(io::ErrorKind::NotFound)?;
        let server = pidfd_open(server, PidfdFlags::empty())?;
        // Signals are read when strays are looked for: until then no further one is an event.
        let edge = EventFlags::IN | EventFlags::ET;
        for (fd, token, flags) in [
            (&requests, REQUESTS, EventFlags::IN),
            (&signals, CHILDREN, edge),
            (&server, SERVER, EventFlags::IN),
        ] {
            epoll::add(&epoll, fd, EventData::new_u64(token), flags)?;
        }
        // Strays are found there.
        child::children()?;
        Ok(Self {
            base,
            kill_timeout: kill_timeout.min(KILL_TIMEOUT_MAX),
            pid: getpid(),
            requests,
            signals,
            server,
            epoll,
            stack: Stack::new()?,
            programs: HashMap::new(),
            kills: BTreeSet::new(),
            adopted: HashMap::new(),
            strays: HashMap::new(),
            kill_strays: None,
            held: None,
            resume: None,
            pause: Duration::ZERO,
            next_line: Instant::now(),
            count: 0,
            marks: RandomState::new(),
            sweep: None,
            next_sweep: Instant::now(),
            last: None,
            buffer: vec![0; MESSAGE_MAX],
        })
    }

    /// Starts programs until the server is gone and all of them have ended.
    ///
    /// # Errors
    ///
    /// As epoll_wait(2).
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.kill_late(now);
            if self.resume.is_some_and(|at| now >= at) {
                self.resume();
            }
            if self.sweep.is_some_and(|at| now >= at) {
                self.sweep = None;
                self.sweep();
                let end = Instant::now();
                self.next_sweep = end + PAUSE.max((end - now) * PAUSE_FACTOR);
                if self.sweep.take().is_some() {
                    self.sweep_soon();
                }
            }
            let is_any = !(self.programs.is_empty() && self.strays.is_empty());
            let is_done = !is_any && self.sweep.is_none();
            if self.last.is_some_and(|last| is_done || now >= last) {
                return Ok(());
            }
            let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
            let timeout = self.next_deadline().map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                rustix::event::Timespec::try_from(left).unwrap_or_default()
            });
            let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((events, _)) => &*events,
                Err(Errno::INTR) => &[],
                Err(err) => return Err(err.into()),
            };
            let tokens: Vec<_> = events.iter().map(|event| event.data.u64()).collect();
            for token in tokens {
                match token {
                    // In a pause the event is the end of requests.
                    REQUESTS if self.resume.is_some() => self.close(),
                    REQUESTS => self.take_requests(),
                    CHILDREN => self.sweep_soon(),
                    SERVER => self.close(),
                    token => match program_of(token & !PIDFD) {
                        Some(pid) if token & PIDFD != 0 => self.ended(pid),
                        Some(pid) => self.hear(pid),
                        None => {}
                    },
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let strays = self.strays.values().filter_map(|ending| match ending {
            Ending::Terminated(kill) => Some(*kill),
            Ending::Killed => None,
        });
        let kill = self.kills.first().map(|(kill, _)| *kill);
        let all = strays.chain(kill).chain(self.last).chain(self.sweep);
        all.chain(self.resume).min()
    }

    fn take_requests(&mut self) {
        for _ in 0..BATCH {
            match self.receive() {
                Ok(Some((length, fds))) => {
                    let buffer = mem::take(&mut self.buffer);
                    self.start(&buffer[..length], fds);
                    self.buffer = buffer;
                    if self.resume.is_some() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(err) if is_shortage(&err) => return self.pause(&format!("recvmsg(2): {err}")),
                Err(_) => return self.close(),
            }
        }
    }

    /// The server is gone, or ends: ends all programs. Worker processes may be left, which drain.
    fn close(&mut self) {
        for fd in [&self.requests, &self.server] {
            let _ = epoll::delete(&self.epoll, fd);
        }
        (self.held, self.resume) = (None, None);
        if self.last.is_some() {
            return;
        }
        self.last = Some(Instant::now() + longest_end(self.kill_timeout));
        if self.sweep.is_some() {
            self.sweep_soon();
        }
        let programs: Vec<_> = self.programs.keys().copied().collect();
        for pid in programs {
            self.end(pid);
        }
    }

    /// Takes a request into the buffer, if there is one, and returns its length and its descriptors.
    ///
    /// # Errors
    ///
    /// The server is gone, or there is a shortage.
    fn receive(&mut self) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [io::IoSliceMut::new(&mut self.buffer)];
        let received = match recvmsg(&self.requests, &mut parts, &mut control, flags) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            received => received?,
        };
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        Ok(Some((received.bytes, fds)))
    }

    /// Starts a process for a request.
    fn start(&mut self, message: &[u8], mut fds: Vec<OwnedFd>) {
        if fds.is_empty() {
            // No descriptor was left for the control socket; the server finds it closed.
            return;
        }
        let control = fds.remove(0);
        let fail = |what: &str, err: io::Error| {
            notify(&control, &Notice::Failed(format!("{what}: {err}")));
        };
        let Some(request) = Request::decode(message) else {
            return fail("start a program", io::ErrorKind::InvalidData.into());
        };
        if fds.len() < request.descriptors() {
            let err = io::Error::from(Errno::MFILE);
            return fail(
                "pass the descriptors to a process that starts programs",
                err,
            );
        }
        // Many may have been given up behind one that was tried again.
        if !is_wanted(&control) {
            return fail("start a program", io::ErrorKind::ConnectionAborted.into());
        }
        self.count += 1;
        let mark = self.marks.hash_one(self.count);
        let start = Start {
            base: &self.base,
            request: &request,
            mark,
            starter: self.pid,
            control: &control,
            fds: &fds,
        };
        let (pid, pidfd) = match start.run(&mut self.stack) {
            Ok(started) => started,
            Err(err) => {
                let why = format!("{err:#}");
                if !err.downcast_ref().is_some_and(is_shortage) {
                    return notify(&control, &Notice::Failed(why));
                }
                self.pause(&why);
                fds.insert(0, control);
                let message = message.to_vec();
                self.held = Some(Held { message, fds, why });
                return;
            }
        };
        self.pause = Duration::ZERO;
        let errors = request.layout.get(2);
        let program = Program {
            mark,
            control,
            pidfd,
            _errors: errors.map(|index| fds.swap_remove(usize::from(*index))),
            ending: None,
        };
        if let Err(err) = self.watch(pid, &program) {
            // Nothing would tell of its end, and the server could not ask for that.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            return notify(
                &program.control,
                &Notice::Failed(format!("epoll_ctl(2): {err}")),
            );
        }
        self.programs.insert(pid, program);
    }

    /// Takes no requests for a while.
    fn pause(&mut self, why: &str) {
        let [first, most] = SHORTAGE_PAUSES;
        self.pause = (self.pause * 2).clamp(first, most);
        let now = Instant::now();
        if now >= self.next_line {
            self.next_line = now + SILENCE;
            let pause = self.pause.as_millis();
            log::say_apart(&format!(
                "socketserver: start a program: {why}; trying again within {pause} ms"
            ));
        }
        self.resume = Some(now + self.pause);
        self.watch_requests(EventFlags::RDHUP);
    }

    /// Ends the pause, unless the request that is tried again meets a shortage too.
    fn resume(&mut self) {
        self.resume = None;
        match self.held.take() {
            Some(held) if is_wanted(&held.fds[0]) => self.start(&held.message, held.fds),
            Some(held) => notify(&held.fds[0], &Notice::Failed(held.why)),
            None => {}
        }
        if self.resume.is_none() {
            self.watch_requests(EventFlags::IN);
        }
    }

    fn watch_requests(&self, flags: EventFlags) {
        // ENOENT: they have ended.
        let _ = epoll::modify(
            &self.epoll,
            &self.requests,
            EventData::new_u64(REQUESTS),
            flags,
        );
    }

    fn watch(&self, pid: Pid, program: &Program) -> rustix::io::Result<()> {
        let token = u64::from(number(pid).unsigned_abs());
        for (fd, token) in [(&program.control, token), (&program.pidfd, token | PIDFD)] {
            epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        Ok(())
    }

    /// The server has said that a program is to end, or has closed its control socket.
    fn hear(&mut self, pid: Pid) {
        let Some(program) = self.programs.get(&pid) else {
            return;
        };
        if is_wanted(&program.control) {
            return;
        }
        let _ = epoll::delete(&self.epoll, &program.control);
        self.end(pid);
    }

    /// Ends a program with its process group, unless that has begun; a stopped one too.
    fn end(&mut self, pid: Pid) {
        let kill = self.kill_at();
        let Some(program) = self.programs.get_mut(&pid) else {
            return;
        };
        if program.ending.is_none() {
            let _ = kill_process_group(pid, Signal::TERM);
            let _ = kill_process_group(pid, Signal::CONT);
            program.ending = Some(Ending::Terminated(kill));
            self.kills.insert((kill, number(pid)));
        }
    }

    fn kill_at(&self) -> Instant {
        Instant::now() + self.kill_timeout
    }

    /// Kills what has outlived its SIGTERM for too long.
    fn kill_late(&mut self, now: Instant) {
        while let Some(&(kill, number)) = self.kills.first()
            && kill <= now
        {
            self.kills.pop_first();
            let Some(pid) = Pid::from_raw(number) else {
                continue;
            };
            let _ = kill_process_group(pid, Signal::KILL);
            if let Some(program) = self.programs.get_mut(&pid) {
                program.ending = Some(Ending::Killed);
            }
        }
        let is_late = |ending: &Ending| matches!(ending, Ending::Terminated(kill) if now >= *kill);
        self.strays.retain(|pid, ending| {
            if !is_late(ending) {
                return true;
            }
            *ending = Ending::Killed;
            // EPERM: another user's process, which a program with the set-user-ID bit was.
            kill_process(*pid, Signal::KILL).is_ok()
        });
    }

    /// A program has ended.
    fn ended(&mut self, pid: Pid) {
        let Some(program) = self.programs.remove(&pid) else {
            return;
        };
        // Until the program is reaped, no other group has its number.
        let _ = kill_process_group(pid, Signal::TERM);
        let _ = kill_process_group(pid, Signal::CONT);
        if let Some(exit) = sys::reap(pid) {
            notify(&program.control, &Notice::Exited(exit));
        }
        if let Some(Ending::Terminated(kill)) = program.ending {
            self.kills.remove(&(kill, number(pid)));
        }
        if let Some(at) = &mut self.resume {
            *at = Instant::now();
        }
        self.expect_more();
    }

    /// A process that has ended may have left others, which have become children.
    fn expect_more(&mut self) {
        if let Some(last) = &mut self.last {
            *last = (*last).max(Instant::now() + LAST);
        }
        self.sweep_soon();
    }

    /// Looks for strays after the pause, or at once if the server is gone.
    fn sweep_soon(&mut self) {
        let now = Instant::now();
        self.sweep = Some(match self.last {
            Some(_) => now,
            None => self.sweep.unwrap_or(self.next_sweep),
        });
    }

    /// Reaps children that were no programs, and ends processes that belong to no program any more.
    fn sweep(&mut self) {
        let _ = read(&self.signals, &mut [0; 1024]);
        if self.strays.is_empty() {
            self.kill_strays = None;
        }
        let marks: HashSet<_> = self.programs.values().map(|program| program.mark).collect();
        self.adopted.retain(|_, mark| marks.contains(mark));
        // An error here, after a success at the start, is a lack of memory or descriptors: the next end of a child
        // repeats this.
        for pid in child::children().unwrap_or_default() {
            if self.programs.contains_key(&pid) {
                continue;
            }
            if sys::reap(pid).is_some() {
                self.adopted.remove(&pid);
                self.strays.remove(&pid);
                self.expect_more();
                continue;
            }
            if self.strays.contains_key(&pid) || self.adopted.contains_key(&pid) {
                continue;
            }
            let leader = |id: rustix::io::Result<Pid>| Some(self.programs.get(&id.ok()?)?.mark);
            let mark = leader(getpgid(Some(pid))).or_else(|| leader(getsid(Some(pid))));
            let mark = mark.or_else(|| child::mark_of(pid).filter(|mark| marks.contains(mark)));
            if let Some(mark) = mark {
                self.adopted.insert(pid, mark);
            } else {
                let _ = kill_process(pid, Signal::TERM);
                let _ = kill_process(pid, Signal::CONT);
                let kill = self.kill_strays.unwrap_or_else(|| self.kill_at());
                self.kill_strays = Some(kill);
                self.strays.insert(pid, Ending::Terminated(kill));
            }
        }
    }
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn program_of(token: u64) -> Option<Pid> {
    Pid::from_raw(i32::try_from(token).ok()?)
}

/// Whether what has failed may be possible a little later.
fn is_shortage(err: &io::Error) -> bool {
    let errno = Errno::from_io_error(err);
    matches!(errno, Some(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS))
}

/// Whether the server has neither said that a program is to end, nor closed its control socket.
fn is_wanted(control: &OwnedFd) -> bool {
    matches!(
        recv(control, &mut [0; 8], RecvFlags::DONTWAIT),
        Err(Errno::AGAIN | Errno::INTR)
    )
}

/// Reports to the server. A server that is gone, or does not read, gets no report.
pub(super) fn notify(control: &OwnedFd, notice: &Notice) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = send(control, notice.encode(&mut [0; Notice::MAX]), flags);
}
