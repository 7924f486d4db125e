//! The starter's process: a loop that forks programs, and ends what belongs to each.
//!
//! A program ends when its server asks for that, or has closed the program's control socket: SIGTERM for its process
//! group, SIGKILL later. What a program leaves behind becomes a child of the starter, which is a subreaper
//! (prctl(2), `PR_SET_CHILD_SUBREAPER`). Whenever a child has ended, the starter looks at its other children: one
//! that is no program, and belongs to none that lives, is a stray, and is ended too.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, getpid, getppid, getsid, kill_process, kill_process_group,
    pidfd_open,
};

use super::child::{self, Base};
use super::notice::Notice;
use super::request::{DESCRIPTORS_MAX, MESSAGE_MAX, Request};
use super::sys::{self, Fork};
use crate::signals;

/// The epoll data of the socket for requests, of ended children, and of the server's main process. That of a control
/// socket is the process id of its program: process 1 is no child of the starter.
const REQUESTS: u64 = 0;
const CHILDREN: u64 = 1;
const SERVER: u64 = u64::MAX;

/// How many requests are taken before other events are looked at.
const BATCH: usize = 16;

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
    /// The programs that live, by their process.
    programs: HashMap<Pid, Program>,
    /// Other children that belong to a program that lives, with its mark.
    adopted: HashMap<Pid, u64>,
    /// Processes that belong to no program, and are being ended.
    strays: HashMap<Pid, Ending>,
    /// When the strays get SIGKILL: all that appear until none is left have one time.
    kill_strays: Option<Instant>,
    /// How many programs were started.
    count: u64,
    /// Makes a program's mark from its number: another program cannot guess it.
    marks: RandomState,
    /// When children are reaped, if some have ended.
    reap: Option<Instant>,
    /// When they can be reaped again. The kernel takes time for each child that lives, so a pause of the same time
    /// follows.
    reapable: Instant,
    /// When the process exits at the latest, once its server is gone.
    last: Option<Instant>,
    buffer: Vec<u8>,
}

struct Program {
    mark: u64,
    control: OwnedFd,
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

impl Starter {
    pub(super) fn new(base: Base, kill_timeout: Duration, requests: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let signals = sys::child_signals()?;
        let server = getppid().ok_or(io::ErrorKind::NotFound)?;
        let server = pidfd_open(server, PidfdFlags::empty())?;
        for (fd, token) in [
            (&requests, REQUESTS),
            (&signals, CHILDREN),
            (&server, SERVER),
        ] {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
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
            programs: HashMap::new(),
            adopted: HashMap::new(),
            strays: HashMap::new(),
            kill_strays: None,
            count: 0,
            marks: RandomState::new(),
            reap: None,
            reapable: Instant::now(),
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
            if self.reap.is_some_and(|at| now >= at) {
                self.reap = None;
                self.reap();
                let end = Instant::now();
                self.reapable = end + (end - now);
            }
            let is_done = self.programs.is_empty() && self.strays.is_empty();
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
                    REQUESTS => self.take_requests(),
                    CHILDREN => {
                        // What it reads says which children ended, but not of all of them.
                        let _ = read(&self.signals, &mut [0; 1024]);
                        self.reap.get_or_insert(self.reapable);
                    }
                    SERVER => self.close(),
                    pid => self.hear(pid),
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let programs = self.programs.values();
        let endings = programs.filter_map(|program| program.ending.as_ref());
        let endings = endings.chain(self.strays.values());
        let kills = endings.filter_map(|ending| match ending {
            Ending::Terminated(kill) => Some(*kill),
            Ending::Killed => None,
        });
        kills.chain(self.last).chain(self.reap).min()
    }

    fn take_requests(&mut self) {
        for _ in 0..BATCH {
            match self.receive() {
                Ok(Some((message, fds))) => self.start(&message, fds),
                Ok(None) => return,
                Err(_) => return self.close(),
            }
        }
    }

    /// The server is gone, or ends: ends all programs. Worker processes may be left, which drain.
    fn close(&mut self) {
        for fd in [&self.requests, &self.server] {
            let _ = epoll::delete(&self.epoll, fd);
        }
        if self.last.is_some() {
            return;
        }
        self.last = Some(Instant::now() + self.kill_timeout * 2 + LAST);
        let programs: Vec<_> = self.programs.keys().copied().collect();
        for pid in programs {
            self.end(pid);
        }
    }

    /// Takes a request and its descriptors, if there is one.
    ///
    /// # Errors
    ///
    /// The server is gone.
    fn receive(&mut self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
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
        Ok(Some((self.buffer[..received.bytes].to_vec(), fds)))
    }

    /// Forks a process for a request.
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
                "pass the descriptors to the process that starts programs",
                err,
            );
        }
        self.count += 1;
        let mark = self.marks.hash_one(self.count);
        let pid = match sys::fork_single() {
            Ok(Fork::Parent(pid)) => pid,
            Ok(Fork::Child) => child::run(&self.base, &request, mark, self.pid, &control, &fds),
            Err(err) => return fail("fork(2)", err),
        };
        let number = pid.as_raw_nonzero().get();
        let data = EventData::new_u64(number.unsigned_abs().into());
        let flags = EventFlags::IN;
        let ending = match epoll::add(&self.epoll, &control, data, flags) {
            Ok(()) => None,
            // The server could not ask for the program's end, so it ends now.
            Err(_) => Some(self.terminate_group(pid)),
        };
        let program = Program {
            mark,
            control,
            ending,
        };
        self.programs.insert(pid, program);
    }

    /// The server has said that a program is to end, or has closed its control socket.
    fn hear(&mut self, pid: u64) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(program) = pid.and_then(|pid| self.programs.get(&pid)) else {
            return;
        };
        if matches!(
            recv(&program.control, &mut [0; 8], RecvFlags::DONTWAIT),
            Err(Errno::AGAIN | Errno::INTR)
        ) {
            return;
        }
        let _ = epoll::delete(&self.epoll, &program.control);
        pid.into_iter().for_each(|pid| self.end(pid));
    }

    /// Ends a program, unless that has begun.
    fn end(&mut self, pid: Pid) {
        let ending = self
            .programs
            .get(&pid)
            .is_some_and(|program| program.ending.is_none());
        let ending = ending.then(|| self.terminate_group(pid));
        if let (Some(ending), Some(program)) = (ending, self.programs.get_mut(&pid)) {
            program.ending = Some(ending);
        }
    }

    fn kill_at(&self) -> Instant {
        Instant::now() + self.kill_timeout
    }

    /// Ends a program with its process group; a stopped one too.
    fn terminate_group(&self, pid: Pid) -> Ending {
        // Between fork(2) and setsid(2) there is no group of this number.
        if kill_process_group(pid, Signal::TERM).is_err() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = kill_process_group(pid, Signal::CONT);
        Ending::Terminated(self.kill_at())
    }

    /// Kills what has outlived its SIGTERM for too long.
    fn kill_late(&mut self, now: Instant) {
        let is_late = |ending: &Ending| matches!(ending, Ending::Terminated(kill) if now >= *kill);
        for (pid, program) in &mut self.programs {
            if let Some(ending) = program.ending.as_mut().filter(|ending| is_late(ending)) {
                if kill_process_group(*pid, Signal::KILL).is_err() {
                    let _ = kill_process(*pid, Signal::KILL);
                }
                *ending = Ending::Killed;
            }
        }
        self.strays.retain(|pid, ending| {
            if !is_late(ending) {
                return true;
            }
            *ending = Ending::Killed;
            // EPERM: another user's process, which a program with the set-user-ID bit was.
            kill_process(*pid, Signal::KILL).is_ok()
        });
    }

    /// Reaps children that have ended, and ends processes that belong to no program any more.
    fn reap(&mut self) {
        if self.strays.is_empty() {
            self.kill_strays = None;
        }
        while let Some(pid) = signals::ended_child() {
            let program = self.programs.remove(&pid);
            if program.is_some() {
                // Until the program is reaped, no other group has its number.
                let _ = kill_process_group(pid, Signal::TERM);
                let _ = kill_process_group(pid, Signal::CONT);
            }
            self.adopted.remove(&pid);
            let is_stray = self.strays.remove(&pid).is_some();
            if let Some(last) = self.last.as_mut().filter(|_| is_stray || program.is_some()) {
                // Others may become children by that.
                *last = (*last).max(Instant::now() + LAST);
            }
            let exit = sys::reap(pid);
            if let (Some(program), Some(exit)) = (program, exit) {
                let _ = epoll::delete(&self.epoll, &program.control);
                notify(&program.control, &Notice::Exited(exit));
            }
        }
        let marks: HashSet<_> = self.programs.values().map(|program| program.mark).collect();
        self.adopted.retain(|_, mark| marks.contains(mark));
        // An error here, after a success at the start, is a lack of memory or descriptors: the next end of a child
        // repeats this.
        for pid in child::children().unwrap_or_default() {
            let is_known = self.programs.contains_key(&pid) || self.strays.contains_key(&pid);
            if is_known || self.adopted.contains_key(&pid) {
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

/// Reports to the server. A server that is gone, or does not read, gets no report.
pub(super) fn notify(control: &OwnedFd, notice: &Notice) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = send(control, notice.encode().as_bytes(), flags);
}
