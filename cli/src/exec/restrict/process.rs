//! What the standard library has no safe call for: a child of this process, and namespaces.
#![expect(unsafe_code, reason = "fork(2), _exit(2) and unshare(2)")]

use std::io::{self, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, bail, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves this process, which has one thread, into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "threads share files");
    // SAFETY: every thread keeps its descriptors.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Runs `work` in a child of this process, which has one thread, and returns its error as text.
pub(super) fn in_child(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (mut reader, writer) = io::pipe().context("make a pipe")?;
    let threads = std::fs::read_dir("/proc/self/task").context("count the threads in /proc")?;
    ensure!(threads.count() == 1, "the process has several threads");
    // SAFETY: the process has one thread, so no other thread holds a lock that the child lacks.
    let pid = match unsafe { libc::fork() } {
        -1 => bail!("fork(2): {}", io::Error::last_os_error()),
        0 => report(work, writer),
        pid => Pid::from_raw(pid).context("a child without a number")?,
    };
    drop(writer);
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    let status = loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            status => break status.context("wait for a child")?,
        }
    };
    read.context("read from a child")?;
    ensure!(text.is_empty(), "{text}");
    let ended = status.and_then(|(_, status)| status.exit_status());
    ensure!(ended == Some(0), "a signal ended the process that tried");
    Ok(())
}

/// The life of the child.
fn report(work: impl FnOnce() -> anyhow::Result<()>, mut writer: PipeWriter) -> ! {
    let worked = catch_unwind(AssertUnwindSafe(work));
    let text = match worked {
        Ok(Ok(())) => String::new(),
        Ok(Err(err)) => format!("{err:#}"),
        Err(_) => "the process that tried panicked".to_owned(),
    };
    // The parent sees a status in place of a text that cannot be written.
    let status = i32::from(writer.write_all(text.as_bytes()).is_err());
    // SAFETY: destructors of the parent's values must not run in its child.
    unsafe { libc::_exit(status) }
}
