//! fork(2), made safe by one precondition: the process has a single thread.
#![expect(unsafe_code, reason = "fork(2) and _exit(2) have no safe binding")]

use std::io::{self, Write};
use std::os::linux::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The side of a fork.
#[derive(Debug)]
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks the process.
///
/// # Errors
///
/// - `Unsupported`: the process has several threads, so the child may call only async-signal-safe
///   functions (fork(2), "NOTES"), and handlers call others.
/// - else as fork(2): `EAGAIN` (process limit), `ENOMEM`.
pub(crate) fn fork() -> io::Result<Fork> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("fork needs a process with a single thread, this one has {threads}"),
        ));
    }
    // The child would print the parent's buffered output again.
    let _ = io::stdout().flush();
    // SAFETY: the process has only this thread, so no lock is held by a thread that the child
    // lacks, and the child may do whatever the parent may.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// Makes the kernel kill this child when `parent`, which has forked it, ends (prctl(2),
/// `PR_SET_PDEATHSIG`). If the parent has ended already, the child exits.
///
/// # Errors
///
/// As prctl(2): a filter of system calls may forbid it.
pub(crate) fn end_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        exit(1);
    }
    Ok(())
}

/// Counts the threads of this process in one system call.
pub(crate) fn thread_count() -> io::Result<u64> {
    // The link count of this directory is the number of threads plus two (proc_task_getattr in
    // fs/proc/base.c).
    let directory = std::fs::metadata("/proc/self/task").map_err(|err| {
        io::Error::new(
            err.kind(),
            format!("count threads in /proc/self/task: {err}"),
        )
    })?;
    Ok(directory.st_nlink().saturating_sub(2))
}

/// Runs `life` in a child. Returns `None` if it panicked: a panic must not unwind into the parent's
/// frames.
pub(crate) fn guard<R>(life: impl FnOnce() -> R) -> Option<R> {
    // The payload is leaked: its drop could panic again.
    catch_unwind(AssertUnwindSafe(life))
        .map_err(std::mem::forget)
        .ok()
}

/// Ends a child process: flushes standard output; runs no destructors and no atexit handlers.
pub(crate) fn exit(status: i32) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_threads_and_refuses_to_fork_with_two() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let before = thread_count().unwrap();
        let other = std::thread::spawn(move || wait.recv());
        assert!(thread_count().unwrap() > before.min(1));
        let err = fork().unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::Unsupported);
        drop(done);
        let _ = other.join().unwrap();
    }
}
