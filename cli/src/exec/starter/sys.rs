//! System calls of the starter and of the processes that it starts.
#![expect(
    unsafe_code,
    reason = "fork(2), clone(2), unshare(2), execve(2), wait4(2) and what comes before them have no safe binding"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::notice::{Ended, Exit};

/// The side of a fork.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks this process, which must have one thread. The child must end by [`exit`] or execve(2).
///
/// # Errors
///
/// - `Unsupported`: the process has several threads.
/// - else as fork(2): `EAGAIN` (process limit), `ENOMEM`.
pub(crate) fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        let what = "a process with several threads starts no programs";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// The stack of a process that shares this one's memory until it has become a program.
#[derive(Debug)]
pub(super) struct Stack {
    /// The end with the lowest address, where an overflow meets a page that cannot be written.
    low: *mut c_void,
}

impl Stack {
    const SIZE: usize = 256 * 1024;

    /// No page is smaller than this and larger than [`SIZE`](Self::SIZE).
    const GUARD: usize = 64 * 1024;

    /// # Errors
    ///
    /// As mmap(2).
    pub(super) fn new() -> io::Result<Self> {
        let length = Self::GUARD + Self::SIZE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping, where nothing is.
        let low = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if low == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { low };
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let above_guard = stack.low.wrapping_byte_add(Self::GUARD);
        // SAFETY: the range is a part of the mapping, which nothing uses yet.
        match unsafe { libc::mprotect(above_guard, Self::SIZE, writable) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn high(&self) -> *mut c_void {
        self.low.wrapping_byte_add(Self::GUARD + Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no process runs on it: `spawn` borrows the value for as long.
        unsafe { libc::munmap(self.low, Self::GUARD + Self::SIZE) };
    }
}

/// Runs `child` in a new process, and returns that process and its pidfd once it has executed a program or has exited;
/// when `child` returns, it exits with status 127. This process must have one thread.
///
/// Until then the two have the same memory and the same descriptors: what `child` writes, this process finds, and what
/// `child` has allocated and not freed before execve(2), nobody frees.
///
/// # Errors
///
/// As clone(2): `EAGAIN` (process limit), `ENOMEM`.
pub(super) fn spawn(stack: &mut Stack, mut child: &mut dyn FnMut()) -> io::Result<(Pid, OwnedFd)> {
    extern "C" fn enter(child: *mut c_void) -> c_int {
        // SAFETY: `spawn` has passed a pointer to this type, and waits meanwhile.
        let child = unsafe { &mut *child.cast::<&mut dyn FnMut()>() };
        child();
        127
    }
    let mut pidfd: RawFd = -1;
    let shared = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    let flags = shared | libc::CLONE_PIDFD | libc::SIGCHLD;
    let child = (&raw mut child).cast::<c_void>();
    // SAFETY: the stack is nobody else's. This thread, which is the only one, does not run before the child has left the
    // shared memory, so that the two are never in the C library or in `child` at the same time.
    match unsafe { libc::clone(enter, stack.high(), flags, child, &raw mut pidfd) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just made the descriptor.
        pid => Pid::from_raw(pid)
            .map(|pid| (pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
            .ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Ends this process: runs no destructors and no atexit handlers.
pub(crate) fn exit(status: i32) -> ! {
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

/// Gives this process, which shares its descriptors with another one, its own: those below `first`.
pub(super) fn leave_descriptors(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_UNSHARE)
}

/// Makes all descriptors from `first` on close at execve(2).
pub(super) fn keep_below(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: RawFd, flags: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the process uses no value of one of these descriptors afterwards: it has just been forked or cloned, and
    // keeps to its own descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The highest number of a descriptor of this process, or one more.
pub(super) fn highest_descriptor() -> io::Result<RawFd> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    numbers.max().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Makes `target` refer to what `fd` does, also across execve(2).
pub(in crate::exec) fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: nothing in this process owns `target`, which is below all descriptors of the starter's values.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes `target` refer to what `fd` does, until execve(2).
pub(super) fn place_until_exec(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: as in `place`.
    match unsafe { libc::dup3(fd.as_raw_fd(), target, libc::O_CLOEXEC) } {
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

/// Blocks every signal.
pub(super) fn block_signals() {
    set_mask(true);
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

/// Strings for execve(2).
#[derive(Debug)]
pub(in crate::exec) struct Strings<'a> {
    /// The last one is null.
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a CStr>,
}

impl<'a> FromIterator<&'a CStr> for Strings<'a> {
    fn from_iter<I: IntoIterator<Item = &'a CStr>>(strings: I) -> Self {
        let pointers = strings.into_iter().map(CStr::as_ptr);
        Self {
            pointers: pointers.chain([ptr::null()]).collect(),
            strings: PhantomData,
        }
    }
}

impl<'a> Strings<'a> {
    /// Adds a variable, which must be set before the strings are used.
    pub(super) fn push(&mut self, number: &'a Number) {
        let end = self.pointers.len() - 1;
        self.pointers.insert(end, number.0.as_ptr().cast());
    }
}

/// A variable whose value is a number that is not known yet.
#[derive(Debug)]
pub(super) struct Number([Cell<u8>; Self::SIZE]);

impl Number {
    const SIZE: usize = 48;

    pub(super) fn new() -> Self {
        Self([const { Cell::new(0) }; Self::SIZE])
    }

    /// Sets the variable, whose name has at most 36 bytes. Allocates nothing.
    pub(super) fn set(&self, name: &str, value: i32) {
        let mut text = [0; Self::SIZE];
        // The last byte stays zero.
        let _ = write!(&mut text[..Self::SIZE - 1], "{name}={value}");
        self.0
            .iter()
            .zip(text)
            .for_each(|(byte, new)| byte.set(new));
    }
}

/// Replaces this process by a program. Allocates nothing.
///
/// # Errors
///
/// As execve(2).
pub(in crate::exec) fn execute(
    path: &CStr,
    args: &Strings<'_>,
    env: &Strings<'_>,
) -> io::Result<Infallible> {
    let (args, env) = (args.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: both lists end with a null pointer, and their strings, which end with a zero byte, outlive them.
    unsafe { libc::execve(path.as_ptr(), args, env) };
    Err(io::Error::last_os_error())
}
