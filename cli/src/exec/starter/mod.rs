//! Processes that start programs.
//!
//! The starters are forked once, before the server has threads, connections and memory, and start the programs in turn from
//! then on: a start costs the same whatever the server's size, and however many programs live. A request names a program, its arguments and
//! variables, and carries the descriptors that become 0, 1, 2 and so on, and a *control* socket of its own: over that
//! the starter reports what becomes of the program, and its end ends the program, with all processes that the program
//! has started. So programs end with the server too, however that ends. Starters know nothing of each other.

mod child;
mod notice;
mod process;
mod request;
pub(crate) mod sys;

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketFlags, SocketType, recv, send, sendmsg, shutdown, socketpair,
};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, set_child_subreaper,
    setsid, waitid,
};
use socketserver::task::Descriptor;

pub(crate) use notice::{Ended, Exit, Notice};
pub(crate) use request::Command;
pub(super) use request::DESCRIPTORS_MAX;
use sys::Fork;

use crate::limits;
use crate::shared::Words;

/// The variable by which the starter finds what belongs to a program.
pub(crate) const MARK: &str = "SOCKETSERVER_PROGRAM";

/// Why a program has no further notices.
pub(crate) const LOST: &str =
    "a process that starts programs has ended, or has no descriptors left";

/// What runs in the process of each program, last before execve(2).
pub(crate) type Prepare = Box<dyn Fn() -> anyhow::Result<()>>;

/// The most starters of a server, so that a small server on a large machine has few.
const STARTERS_MAX: usize = 4;

/// How long a starter has beyond the time in which it ends by itself on a quiet machine, before it gets SIGKILL.
const SLACK: Duration = Duration::from_secs(10);

/// How long a starter that got SIGKILL has to end.
const MOMENT: Duration = Duration::from_secs(1);

/// What holds for all programs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How many starters there are.
    pub(crate) starters: usize,
    /// The variables, as `NAME=VALUE`; those of a start replace those of the same name.
    pub(crate) env: Vec<CString>,
    /// How long after SIGTERM a process gets SIGKILL.
    pub(crate) kill_timeout: Duration,
}

/// How many starters a server has: one for each processor, or for each of `--workers` if those are more, but at most four.
/// A starter starts one program at a time, and has descriptors for as many programs as two processes of the server have.
pub(crate) fn number(workers: Option<u32>) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = workers.map_or(0, |workers| workers as usize);
    processors.max(workers).min(STARTERS_MAX)
}

/// The server's side of its starters.
#[derive(Debug)]
pub(crate) struct Starters {
    all: Vec<Starter>,
    /// One word: how many programs all processes of the server have asked for.
    turn: Words,
    /// How long the starters may take to end.
    patience: Duration,
}

/// The server's side of one starter.
#[derive(Debug)]
struct Starter {
    requests: Descriptor<OwnedFd>,
    pidfd: OwnedFd,
}

/// A program that was asked for. When it is dropped, the program ends, and every process that belongs to it.
#[derive(Debug)]
pub(crate) struct Running {
    control: OwnedFd,
}

impl Starters {
    /// Forks the starters; this process must have one thread. In each starter `set_up` is called first, once.
    ///
    /// # Errors
    ///
    /// As mmap(2), fork(2) and pidfd_open(2), or what `set_up` returns. The starters before it have ended.
    pub(crate) fn fork(
        settings: &Settings,
        set_up: impl Fn() -> anyhow::Result<Prepare>,
    ) -> anyhow::Result<Self> {
        let mut starters = Self {
            all: Vec::with_capacity(settings.starters),
            turn: Words::new(1).context("map memory for all processes")?,
            patience: process::longest_end(settings.kill_timeout) + SLACK,
        };
        for _ in 0..settings.starters {
            match Starter::fork(settings, &set_up) {
                Ok(starter) => starters.all.push(starter),
                Err(err) => {
                    let _ = starters.finish();
                    return Err(err);
                }
            }
        }
        Ok(starters)
    }

    /// Asks the next starter for a program. For each of its descriptors from 0 on, `layout` has the index in `fds` of what
    /// it refers to; one more in `fds` is its working directory. A program with the variable `LISTEN_FDS` gets
    /// `LISTEN_PID` too.
    ///
    /// # Errors
    ///
    /// - `BrokenPipe` or `ConnectionReset`: the starter has ended.
    /// - else as socketpair(2) and sendmsg(2).
    pub(crate) fn start(
        &self,
        command: &Command,
        env: &[CString],
        fds: &[BorrowedFd<'_>],
        layout: &[u8],
    ) -> io::Result<Running> {
        let turn = self.turn[0].fetch_add(1, Relaxed) as usize;
        let starter = &self.all[turn % self.all.len()];
        starter.start(command, env, fds, layout)
    }

    /// Returns whether a starter has ended; it is not reaped. Async-signal-safe.
    pub(crate) fn one_has_ended(&self) -> bool {
        self.all.iter().any(Starter::has_ended)
    }

    /// Ends the programs that are left, and waits until they and the starters have ended. A starter that takes too long, as one
    /// that is stopped, or whose program is on a file system that does not answer, gets SIGKILL.
    ///
    /// # Errors
    ///
    /// A starter has ended before, failed, or got SIGKILL: the first one.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        // All of them, before the first one is waited for.
        let had_ended: Vec<_> = self.all.iter().map(Starter::end).collect();
        let deadline = Instant::now() + self.patience;
        let mut first = Ok(());
        for (starter, had_ended) in self.all.iter().zip(had_ended) {
            let ended = starter.wait(had_ended, deadline);
            first = first.and(ended);
        }
        first
    }
}

impl Starter {
    fn fork(
        settings: &Settings,
        set_up: impl Fn() -> anyhow::Result<Prepare>,
    ) -> anyhow::Result<Self> {
        let (ours, theirs) =
            sockets().context("make a socket for a process that starts programs")?;
        let pid = match sys::fork().context("fork a process that starts programs")? {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                // A panic must not unwind into the frames of the server.
                let run = AssertUnwindSafe(|| serve(settings, set_up, theirs));
                sys::exit(catch_unwind(run).unwrap_or(101))
            }
        };
        drop(theirs);
        let starter = Self {
            requests: Descriptor::new(ours),
            pidfd: pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open(2)")?,
        };
        let mut text = vec![0; 4096];
        let answer = recv(starter.requests.get_ref(), &mut *text, RecvFlags::empty());
        let (count, _) = answer.context("start a process that starts programs")?;
        match std::str::from_utf8(&text[..count]) {
            Ok(READY) => Ok(starter),
            Ok("") => bail!("start a process that starts programs: it has ended"),
            Ok(why) => Err(anyhow!("{why}")),
            Err(err) => Err(err).context("start a process that starts programs"),
        }
    }

    fn start(
        &self,
        command: &Command,
        env: &[CString],
        fds: &[BorrowedFd<'_>],
        layout: &[u8],
    ) -> io::Result<Running> {
        debug_assert!(layout.len() <= DESCRIPTORS_MAX, "the starter takes no more");
        let message = command.request(layout, env)?;
        let (ours, theirs) = sockets()?;
        let mut passed = vec![theirs.as_fd()];
        passed.extend(fds);
        self.requests.write_with(|requests| {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&passed)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            Ok(sendmsg(
                requests,
                &[IoSlice::new(&message)],
                &mut control,
                flags,
            )?)
        })?;
        Ok(Running { control: ours })
    }

    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(
            waitid(WaitId::PidFd(self.pidfd.as_fd()), options),
            Ok(None) | Err(Errno::INTR)
        )
    }

    /// Asks the starter to end, with the programs that are left, and returns whether it had ended before.
    fn end(&self) -> bool {
        let had_ended = self.has_ended();
        // Its end in other processes of the server is closed by now.
        let _ = shutdown(self.requests.get_ref(), Shutdown::Write);
        had_ended
    }

    /// Waits until the starter has ended, and returns whether it has.
    fn ends_by(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                ended => return ended == Ok(1),
            }
        }
    }

    /// Waits until the starter has ended; it has failed if it `had_ended` before it was asked to.
    fn wait(&self, had_ended: bool, deadline: Instant) -> anyhow::Result<()> {
        if !self.ends_by(deadline) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            // One that the kernel does not end is left behind.
            self.ends_by(Instant::now() + MOMENT);
            bail!(
                "a process that starts programs did not end, and got SIGKILL; its programs ended with it, what they have \
                 started may be left"
            );
        }
        let pidfd = WaitId::PidFd(self.pidfd.as_fd());
        let status = waitid(pidfd, WaitIdOptions::EXITED);
        let status = status.context("wait for a process that starts programs")?;
        let signal = status
            .as_ref()
            .and_then(|status| status.terminating_signal());
        let code = status.as_ref().and_then(|status| status.exit_status());
        let how = match (code, signal) {
            (Some(0), _) if !had_ended => return Ok(()),
            (_, Some(signal)) => format!("by signal {signal}"),
            (code, _) => format!("with exit status {}", code.unwrap_or_default()),
        };
        bail!(
            "a process that starts programs ended {how}, so the server has stopped; start it again"
        )
    }
}

impl Running {
    /// Takes the next notice; `None` once the starter has ended, or has dropped the request for want of descriptors.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: there is none yet.
    pub(crate) fn next(&self) -> io::Result<Option<Notice>> {
        let mut text = [MaybeUninit::uninit(); Notice::MAX];
        match recv(&self.control, &mut text, RecvFlags::DONTWAIT) {
            Ok((([], _), _)) | Err(Errno::CONNRESET) => Ok(None),
            Ok(((text, _), _)) => {
                let text = String::from_utf8_lossy(text);
                let notice = Notice::decode(&text);
                notice
                    .map(Some)
                    .ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Asks the program to end: SIGTERM, and later SIGKILL. Notices still come.
    pub(crate) fn end(&self) {
        // ENOTCONN: the program has ended.
        let _ = shutdown(&self.control, Shutdown::Write);
    }
}

impl AsFd for Running {
    /// A descriptor that is readable when there is a notice.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Two sockets that carry messages to each other.
fn sockets() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// What the starter sends when it is ready; another text is an error.
const READY: &str = "ready";

/// The life of the starter's process. Returns its exit status.
fn serve(
    settings: &Settings,
    set_up: impl Fn() -> anyhow::Result<Prepare>,
    requests: OwnedFd,
) -> i32 {
    // That of the server uses descriptors that are closed here.
    drop(panic::take_hook());
    sys::reset_signals();
    // The name in lists of processes is all that tells it from the server.
    let _ = rustix::thread::set_name(c"starter");
    // A signal to the server's group does not concern it.
    let _ = setsid();
    // Above the numbers that the program's descriptors get.
    let Ok(requests) = fcntl_dupfd_cloexec(requests, DESCRIPTORS_MAX as RawFd) else {
        return 1;
    };
    let answer = |text: &str| send(&requests, text.as_bytes(), SendFlags::NOSIGNAL).is_ok();
    match begin(settings, set_up, &requests) {
        Ok(mut starter) if answer(READY) => i32::from(starter.run().is_err()),
        Ok(_) => 0,
        Err(err) => {
            answer(&format!("{err:#}"));
            1
        }
    }
}

fn begin(
    settings: &Settings,
    set_up: impl Fn() -> anyhow::Result<Prepare>,
    requests: &OwnedFd,
) -> anyhow::Result<process::Starter> {
    sys::close_from(3, requests.as_fd()).context("close_range(2)")?;
    set_child_subreaper(Some(rustix::process::getpid())).context("prctl(2)")?;
    let idle = fcntl_dupfd_cloexec(io::stderr(), DESCRIPTORS_MAX as RawFd)
        .context("duplicate a descriptor")?;
    // The numbers of a program's descriptors stay taken: descriptors that are opened or received get other numbers.
    for target in 3..DESCRIPTORS_MAX as RawFd {
        sys::place_until_exec(idle.as_fd(), target).context("dup3(2)")?;
    }
    let prepare = set_up()?;
    // A library that looks up users may have opened a descriptor that stays open on exec.
    sys::keep_below(3).context("close_range(2)")?;
    let first = sys::highest_descriptor().context("list descriptors")? + 1;
    // Three descriptors for each program that lives.
    let nofile = limits::raise_descriptors()?;
    let env = settings.env.iter().cloned();
    let base = child::Base {
        env: env.map(child::Variable::new).collect(),
        nofile,
        prepare,
        idle,
        first,
    };
    let requests = requests.try_clone().context("duplicate a socket")?;
    let starter = process::Starter::new(base, settings.kill_timeout, requests);
    starter.context("set up a process that starts programs; it needs /proc")
}
