//! System calls of the starter and of the processes that it forks.
#![expect(
    unsafe_code,
    reason = "fork(2), unshare(2), execve(2), wait4(2) and what comes before them have no safe binding"
)]

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::notice::{Ended, Exit};

/// The side of a fork.
pub(in crate::exec) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks this process, which must have one thread. The child must end by [`exit`] or [`execute`].
///
/// # Errors
///
/// - `Unsupported`: the process has several threads.
/// - else as fork(2): `EAGAIN` (process limit), `ENOMEM`.
pub(in crate::exec) fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        let what = "a process with several threads starts no programs";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    fork_single()
}

/// As [`fork`], in the starter, which starts no threads.
pub(super) fn fork_single() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// Ends this process: runs no destructors and no atexit handlers.
pub(in crate::exec) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Moves this process, which has one thread, into new namespaces.
pub(in crate::exec) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no other thread can lose sight of a descriptor.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Closes all descriptors from `first` on but `kept`, by their numbers: the process of a fork owns none of its
/// parent's values.
pub(super) fn close_from(first: RawFd, kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd();
    close_range(first, kept - 1, 0)?;
    close_range(kept + 1, RawFd::MAX, 0)
}

/// Makes all descriptors from `first` on close at execve(2).
pub(super) fn keep_below(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: RawFd, flags: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the process owns no value that uses one of these descriptors afterwards: it has just been forked, and
    // keeps to its own descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `target` refer to what `fd` does, also across execve(2).
pub(in crate::exec) fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: nothing in this process owns `target`, which is below all descriptors of the starter's values.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Blocks every signal, and gives each its default action.
pub(super) fn reset_signals() {
    set_mask(true);
    // Zero is the default action, without flags; the kernel's structure is no longer on any architecture. The C library
    // would refuse the two signals that it reserves, which may be ignored too.
    let default = [0_u64; 8];
    for signal in 1..=libc::SIGRTMAX() {
        let none = ptr::null_mut::<u64>();
        // SAFETY: the pointer is valid, and the default action runs no code. It fails for the signals whose action is
        // fixed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                none,
                SIGSET,
            )
        };
    }
}

/// The size of the kernel's signal set.
const SIGSET: usize = 8;

/// Unblocks every signal.
pub(super) fn unblock_signals() {
    set_mask(false);
}

fn set_mask(block: bool) {
    let mut set = MaybeUninit::uninit();
    let fill = if block {
        libc::sigfillset
    } else {
        libc::sigemptyset
    };
    // SAFETY: the pointer is valid.
    unsafe { fill(set.as_mut_ptr()) };
    // SAFETY: the first pointer is to an initialised set, and the other is null.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) };
}

/// Returns a descriptor that is readable when a child has ended; SIGCHLD must be blocked.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised, and the signal exists.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is initialised.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), flags) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reaps a child that has ended.
pub(super) fn reap(pid: Pid) -> Option<Exit> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let number = pid.as_raw_nonzero().get();
    // SAFETY: both pointers are valid.
    let reaped = unsafe { libc::wait4(number, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if reaped != number {
        return None;
    }
    // SAFETY: integers, for which zero is a value, and which the call has filled in.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Status(libc::WEXITSTATUS(status))
    };
    Some(Exit {
        ended,
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        memory_kib: usage.ru_maxrss as u64,
    })
}

/// Replaces this process by a program.
///
/// # Errors
///
/// As execve(2).
pub(in crate::exec) fn execute(
    path: &CStr,
    args: &[CString],
    env: &[CString],
) -> io::Result<Infallible> {
    let list = |strings: &[CString]| -> Vec<*const c_char> {
        let pointers = strings.iter().map(|string| string.as_ptr());
        pointers.chain([ptr::null()]).collect()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: both lists end with a null pointer, and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}
