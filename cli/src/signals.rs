//! Signals. SIGTERM and SIGINT stop the server: the first one drains, the second one cuts; before
//! anything is bound they end the program. And what `init` needs, which waits for signals.
#![expect(unsafe_code, reason = "signal handlers, masks and waits")]

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

/// The signals that a program may have been started with blocked, and that this one relies on.
pub(crate) const USED: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGCHLD];

/// How often the program was asked to stop.
static PRESSES: AtomicU32 = AtomicU32::new(0);
/// Whether there may be sockets, and files of sockets, to leave in order.
static MAY_BE_BOUND: AtomicBool = AtomicBool::new(false);
static SERVER: OnceLock<ServerHandle> = OnceLock::new();

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
pub(crate) fn stop(server: ServerHandle) {
    let server = SERVER.get_or_init(|| server);
    // The handler counts first and looks for the server then.
    stop_for(server, PRESSES.load(SeqCst));
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
        Some(server) if in_main => stop_for(server, presses),
        // One worker or child was picked, by a guard of memory perhaps.
        Some(server) => server.retire(),
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
