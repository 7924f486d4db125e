//! Signals. SIGTERM and SIGINT stop the server: the first one drains, the second one aborts; before
//! anything is bound they end the program. And what `init` needs, which waits for signals.
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

use crate::log;

/// The signals that a program may have been started with blocked, and that this one relies on.
pub(crate) const USED: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGCHLD];

/// How often the program was asked to stop.
static PRESSES: AtomicU32 = AtomicU32::new(0);
/// Whether there may be sockets, and files of sockets, to leave in order.
static MAY_BE_BOUND: AtomicBool = AtomicBool::new(false);
static SERVER: OnceLock<Stopping> = OnceLock::new();

/// What a signal stops.
#[derive(Debug)]
struct Stopping {
    server: ServerHandle,
    /// How long it then waits. On a terminal, where somebody can read it.
    patience: Option<Patience>,
}

/// How long a stop waits for connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For any of them.
    pub(crate) most: Duration,
    /// For idle ones.
    pub(crate) idle: Option<Duration>,
}

/// Handlers that are in place.
#[derive(Debug)]
pub(crate) struct Handlers(Vec<SigId>);

/// Sets up all signals, whatever the program was started with.
pub(crate) fn install() -> anyhow::Result<Handlers> {
    default_child_signal();
    let main = process::id();
    let mut handlers = Vec::new();
    for signal in [SIGTERM, SIGINT] {
        // SAFETY: the action uses atomics, getpid(2), _exit(2), and methods that are documented as
        // async-signal-safe.
        let handler = unsafe { register(signal, move || on_stop_signal(signal, main)) };
        handlers.push(handler.with_context(|| format!("handle signal {signal}"))?);
    }
    set_mask(libc::SIG_UNBLOCK);
    Ok(Handlers(handlers))
}

impl Handlers {
    /// Leaves the signals to others.
    pub(crate) fn remove(self) {
        for id in self.0 {
            unregister(id);
        }
    }
}

/// From now on a signal lets the program come to its end in order.
pub(crate) fn before_binding() {
    MAY_BE_BOUND.store(true, SeqCst);
}

/// From now on signals stop `server`; those that came before do so now.
pub(crate) fn stop(server: ServerHandle, patience: Patience) {
    let on_terminal = io::stderr().is_terminal();
    let patience = Some(patience).filter(|_| on_terminal);
    let stopping = SERVER.get_or_init(|| Stopping { server, patience });
    // The handler counts first and looks for the server then.
    stop_for(&stopping.server, PRESSES.load(SeqCst));
}

/// The action of the handler, in whatever process.
fn on_stop_signal(signal: i32, main: u32) {
    let in_main = process::id() == main;
    if signal == SIGINT && !in_main {
        // A terminal sends it to all processes of the group: the main process stops the others.
        return;
    }
    let presses = PRESSES.fetch_add(1, SeqCst) + 1;
    match SERVER.get() {
        Some(stopping) if in_main => {
            if signal == SIGINT && presses == 1 {
                stopping.say();
            }
            stop_for(&stopping.server, presses);
        }
        // One worker or child was picked, by a guard of memory perhaps.
        Some(stopping) => stopping.server.retire(),
        None if MAY_BE_BOUND.load(SeqCst) => {}
        None => exit(0),
    }
}

fn stop_for(server: &ServerHandle, presses: u32) {
    match presses {
        0 => {}
        1 => server.shutdown(),
        _ => server.shutdown_within(Duration::ZERO),
    }
}

impl Stopping {
    /// Says what is waited for, to whoever has pressed Ctrl-C. Async-signal-safe.
    fn say(&self) {
        let live = self.server.live();
        if let Some(patience) = self.patience.filter(|_| live > 0) {
            // The terminal has shown the key on the last line.
            let mut text = Cursor::new([0; 256]);
            // It is long enough.
            let _ = write!(text, "\n{}\n", Waits { live, patience });
            let length = text.position() as usize;
            log::say_in_handler(&text.get_ref()[..length]);
        }
    }
}

/// The line that says what is waited for.
struct Waits {
    live: u64,
    patience: Patience,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Patience { most, idle } = self.patience;
        let s = if self.live == 1 { "" } else { "s" };
        write!(f, "socketserver: waiting for {} connection{s}", self.live)?;
        write!(f, ", for {} s at most", most.as_secs_f64())?;
        if let Some(idle) = idle.filter(|idle| *idle < most) {
            write!(f, ", for idle ones {} s", idle.as_secs_f64())?;
        }
        f.write_str("; Ctrl-C again ends them now")
    }
}

/// Lets children be waited for: where SIGCHLD is ignored the kernel forgets them (wait(2)).
pub(crate) fn default_child_signal() {
    // SAFETY: no handler is set.
    let before = unsafe { libc::signal(SIGCHLD, libc::SIG_DFL) };
    debug_assert_ne!(before, libc::SIG_ERR, "the signal exists");
}

/// Blocks or unblocks the signals that are used, in a process of one thread.
fn set_mask(how: i32) {
    let set = used();
    // SAFETY: both pointers are valid or null.
    let result = unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
    debug_assert_eq!(result, 0, "the arguments are right");
}

fn used() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in USED {
        // SAFETY: the set was initialised, and the signal exists.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: `sigemptyset` has initialised it.
    unsafe { set.assume_init() }
}

/// Keeps the signals that are used for [`next`].
pub(crate) fn block() {
    set_mask(libc::SIG_BLOCK);
}

/// Waits for one of the signals that were blocked.
pub(crate) fn next() -> i32 {
    let set = used();
    let mut signal = 0;
    loop {
        // SAFETY: both pointers are valid.
        let result = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        if result == 0 {
            return signal;
        }
    }
}

/// A child that has ended and was not waited for, whoever started it. It stays one until it is.
pub(crate) fn ended_child() -> Option<Pid> {
    // SAFETY: a C struct of integers and pointers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is valid.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    if result != 0 {
        return None;
    }
    // SAFETY: waitid(2) fills it in, or leaves the zero that says that no child has ended.
    Pid::from_raw(unsafe { info.si_pid() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_waited_for() {
        let line = |live, most, idle| {
            let [most, idle] = [most, idle].map(Duration::from_secs_f64);
            let idle = Some(idle);
            let patience = Patience { most, idle };
            Waits { live, patience }.to_string()
        };
        assert_eq!(
            line(1, 25.0, 25.0),
            "socketserver: waiting for 1 connection, for 25 s at most; Ctrl-C again ends them now"
        );
        assert_eq!(
            line(3, 25.5, 1.0),
            "socketserver: waiting for 3 connections, for 25.5 s at most, for idle ones 1 s; \
             Ctrl-C again ends them now"
        );
        let longest = line(u64::MAX, f64::from(u32::MAX) + 0.123_456_789, 0.123_456_789);
        assert!(longest.len() < 250, "{longest}");
    }
}
