//! Signals. SIGTERM and SIGINT stop the server: the first one drains, the second one aborts. Before
//! anything is bound they end the program. SIGHUP ends no server: it makes one read its certificates, access lists and
//! passwords again, once it is there. SIGXFSZ ends none: a write beyond the limit on the size of files fails. `init`
//! waits for signals by the functions at the end.
#![expect(unsafe_code, reason = "signal handlers, masks and waits")]

use std::fmt;
use std::io::{self, Cursor, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::process;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;
use signal_hook::SigId;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{exit, register, unregister};
use socketserver::ServerHandle;
use socketserver::tls::TlsConfig;

use crate::log;

/// The signals that this program handles, which may be blocked when it is started.
pub(crate) const USED: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGCHLD];

/// How many signals have asked the program to stop.
static STOP_SIGNALS: AtomicU32 = AtomicU32::new(0);
/// Whether there may be socket files, which the program removes when it ends in order.
static MAY_BE_BOUND: AtomicBool = AtomicBool::new(false);
static SERVER: OnceLock<Stopping> = OnceLock::new();
/// Whether a signal has asked for a reload.
static RELOAD_SIGNAL: AtomicBool = AtomicBool::new(false);
static RELOADS: OnceLock<Reload> = OnceLock::new();

/// The server that a signal stops.
#[derive(Debug)]
struct Stopping {
    server: ServerHandle,
    /// How long the stop may take; `None` unless standard error is a terminal.
    times: Option<StopTimes>,
}

/// The server and the certificates that a signal reloads.
#[derive(Debug)]
struct Reload {
    server: ServerHandle,
    tls: Option<TlsConfig>,
}

/// How long a stop waits for connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopTimes {
    /// For all connections.
    pub(crate) all: Duration,
    /// For idle connections.
    pub(crate) idle: Option<Duration>,
}

/// The installed handlers.
#[derive(Debug)]
pub(crate) struct Handlers {
    installed: Vec<SigId>,
    /// The actions before of signals that are ignored.
    ignored: [(i32, libc::sighandler_t); 2],
}

/// Installs the handlers, and unblocks the signals that this program handles.
pub(crate) fn install() -> anyhow::Result<Handlers> {
    default_child_signal();
    let main = process::id();
    let mut installed = Vec::new();
    for signal in [SIGTERM, SIGINT] {
        // SAFETY: the handler uses atomics, getpid(2), _exit(2), and methods that are documented as
        // async-signal-safe.
        let handler = unsafe { register(signal, move || on_stop_signal(signal, main)) };
        installed.push(handler.with_context(|| format!("handle signal {signal}"))?);
    }
    let ignored = [SIGHUP, libc::SIGXFSZ].map(|signal| {
        // SAFETY: no handler is set.
        (signal, unsafe { libc::signal(signal, libc::SIG_IGN) })
    });
    // SAFETY: the handler uses atomics, and methods that are documented as async-signal-safe.
    let handler = unsafe { register(SIGHUP, on_reload_signal) };
    installed.push(handler.context("handle SIGHUP")?);
    set_mask(libc::SIG_UNBLOCK, &USED);
    Ok(Handlers { installed, ignored })
}

impl Handlers {
    /// Removes the handlers, for a program that has its own for SIGTERM and SIGINT.
    pub(crate) fn remove(self) {
        for id in self.installed {
            unregister(id);
        }
        for (signal, before) in self.ignored {
            // SAFETY: what was there before.
            let ours = unsafe { libc::signal(signal, before) };
            debug_assert_ne!(ours, libc::SIG_ERR, "the signal exists");
        }
    }
}

/// From now on SIGHUP makes `server` reload, in all its processes; one that came before makes it reload now. The reload
/// is carried out by an accept loop, at its next turn.
pub(crate) fn reload(server: ServerHandle, tls: Option<TlsConfig>) {
    let reload = RELOADS.get_or_init(|| Reload { server, tls });
    // The handler stores the signal, and reads the server after that: one of the two asks for the reload.
    if RELOAD_SIGNAL.load(SeqCst) {
        reload.request();
    }
}

/// The handler, in every process of the server.
fn on_reload_signal() {
    RELOAD_SIGNAL.store(true, SeqCst);
    let _ = RELOADS.get().map(Reload::request);
}

impl Reload {
    /// Async-signal-safe.
    fn request(&self) {
        // First, so that the server's reload finds it.
        let _ = self.tls.as_ref().map(TlsConfig::request_reload);
        self.server.request_reload();
    }
}

/// From now on the server stops once `has_ended`, which must be async-signal-safe, returns true after the end of a
/// child.
pub(crate) fn stop_when_child_ends(
    has_ended: impl Fn() -> bool + Send + Sync + Clone + 'static,
    server: ServerHandle,
) -> anyhow::Result<()> {
    let main = process::id();
    let check = move || {
        // In a worker process the child is another one's, and the main process stops the server.
        if process::id() == main && has_ended() {
            server.shutdown();
        }
    };
    let on_signal = check.clone();
    // SAFETY: the handler calls getpid(2), `has_ended`, and a method that is documented as async-signal-safe.
    let handler = unsafe { register(SIGCHLD, on_signal) };
    handler.context("handle SIGCHLD")?;
    // It may have ended before.
    check();
    Ok(())
}

/// From now on a signal does not end the program at once: the server stops in order.
pub(crate) fn before_binding() {
    MAY_BE_BOUND.store(true, SeqCst);
}

/// From now on signals stop `server`; signals that came before stop it now.
pub(crate) fn stop(server: ServerHandle, times: StopTimes) {
    let on_terminal = io::stderr().is_terminal();
    let times = Some(times).filter(|_| on_terminal);
    let stopping = SERVER.get_or_init(|| Stopping { server, times });
    // The handler counts the signal, and reads the server after that: one of the two stops the server.
    stop_for(&stopping.server, STOP_SIGNALS.load(SeqCst));
}

/// The handler, in every process of the server.
fn on_stop_signal(signal: i32, main: u32) {
    let in_main = process::id() == main;
    if signal == SIGINT && !in_main {
        // A terminal signals all processes of the group: the main process stops the other ones.
        return;
    }
    let signals = STOP_SIGNALS.fetch_add(1, SeqCst) + 1;
    match SERVER.get() {
        Some(stopping) if in_main => {
            if signal == SIGINT && signals == 1 {
                stopping.report();
            }
            stop_for(&stopping.server, signals);
        }
        // The signal is for this worker or child alone, as from a memory guard.
        Some(stopping) => stopping.server.retire(),
        None if MAY_BE_BOUND.load(SeqCst) => {}
        None => exit(0),
    }
}

fn stop_for(server: &ServerHandle, signals: u32) {
    match signals {
        0 => {}
        1 => server.shutdown(),
        _ => server.shutdown_within(Duration::ZERO),
    }
}

impl Stopping {
    /// Reports what the stop waits for, after Ctrl-C on a terminal. Async-signal-safe.
    fn report(&self) {
        let live = self.server.live();
        if let Some(times) = self.times.filter(|_| live > 0) {
            // The terminal shows ^C on the current line.
            let mut text = Cursor::new([0; 256]);
            // The buffer is long enough.
            let _ = write!(text, "\n{}\n", Waits { live, times });
            let length = text.position() as usize;
            log::say_in_handler(&text.get_ref()[..length]);
        }
    }
}

/// What a stop waits for, as a line.
struct Waits {
    live: u64,
    times: StopTimes,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StopTimes { all, idle } = self.times;
        let s = if self.live == 1 { "" } else { "s" };
        write!(f, "socketserver: waiting for {} connection{s}", self.live)?;
        write!(f, ", for {} s at most", all.as_secs_f64())?;
        if let Some(idle) = idle.filter(|idle| *idle < all) {
            write!(f, ", for idle ones {} s", idle.as_secs_f64())?;
        }
        f.write_str("; Ctrl-C again aborts them now")
    }
}

/// Makes children waitable: where SIGCHLD is ignored, the kernel reaps them itself (wait(2)).
pub(crate) fn default_child_signal() {
    // SAFETY: no handler is set.
    let before = unsafe { libc::signal(SIGCHLD, libc::SIG_DFL) };
    debug_assert_ne!(before, libc::SIG_ERR, "the signal exists");
}

/// Unblocks another signal, in this thread.
pub(crate) fn unblock(signal: i32) {
    set_mask(libc::SIG_UNBLOCK, &[signal]);
}

fn set_mask(how: i32, signals: &[i32]) {
    let set = set_of(signals);
    // SAFETY: both pointers are valid or null.
    let result = unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
    debug_assert_eq!(result, 0, "the arguments are right");
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set was initialised, and the signal exists.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: `sigemptyset` has initialised it.
    unsafe { set.assume_init() }
}

/// Blocks the signals that this program handles, for [`next`].
pub(crate) fn block() {
    set_mask(libc::SIG_BLOCK, &USED);
}

/// Waits for a blocked signal.
pub(crate) fn next() -> i32 {
    let set = set_of(&USED);
    let mut signal = 0;
    loop {
        // SAFETY: both pointers are valid.
        let result = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        if result == 0 {
            return signal;
        }
    }
}

/// A child that has ended and is not reaped yet, whichever process started it. It is not reaped here.
pub(crate) fn ended_child() -> Option<Pid> {
    // SAFETY: a C struct of integers and pointers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is valid.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    if result != 0 {
        return None;
    }
    // SAFETY: waitid(2) fills it in, or leaves the zero, which means that no child has ended.
    Pid::from_raw(unsafe { info.si_pid() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_stop_waits_for() {
        let line = |live, all, idle| {
            let [all, idle] = [all, idle].map(Duration::from_secs_f64);
            let idle = Some(idle);
            let times = StopTimes { all, idle };
            Waits { live, times }.to_string()
        };
        assert_eq!(
            line(1, 25.0, 25.0),
            "socketserver: waiting for 1 connection, for 25 s at most; Ctrl-C again aborts them now"
        );
        assert_eq!(
            line(3, 25.5, 1.0),
            "socketserver: waiting for 3 connections, for 25.5 s at most, for idle ones 1 s; \
             Ctrl-C again aborts them now"
        );
        let longest = line(u64::MAX, f64::from(u32::MAX) + 0.123_456_789, 0.123_456_789);
        assert!(longest.len() < 250, "{longest}");
    }
}
