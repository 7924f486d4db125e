//! A child of this process that applies what each program will have to.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use crate::exec::starter::DESCRIPTORS_MAX;
use crate::exec::starter::sys::{self, Fork, Strings};

/// Runs `work` in a child of this process, which has one thread, and returns its error as text.
pub(super) fn in_child(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (mut reader, writer) = io::pipe().context("make a pipe")?;
    let pid = match sys::fork().context("fork(2)")? {
        Fork::Parent(pid) => pid,
        Fork::Child => sys::exit(report(work, writer)),
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
    let status = status.map(|(_, status)| status);
    let code = status.and_then(|status| status.exit_status());
    match status.and_then(|status| status.terminating_signal()) {
        Some(signal) => bail!("signal {signal} ended the process that tried"),
        None => ensure!(code == Some(0), "the process that tried has failed"),
    }
    Ok(())
}

/// Gives a child the number of descriptors that a program has. What it prints goes nowhere.
pub(super) fn take_null() -> anyhow::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("open /dev/null")?;
    for target in 0..DESCRIPTORS_MAX as i32 {
        sys::place(null.as_fd(), target).context("dup2(2)")?;
    }
    Ok(())
}

/// Replaces a child by a command without variables.
pub(super) fn execute(command: &[PathBuf]) -> anyhow::Result<()> {
    let args = command
        .iter()
        .map(|arg| CString::new(arg.as_os_str().as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let path = args.first().context("a command has a name")?;
    let list = args.iter().map(CString::as_c_str).collect();
    let Err(err) = sys::execute(path, &list, &Strings::from_iter([]));
    Err(err).with_context(|| format!("execute {}", path.to_string_lossy()))
}

/// The life of the child. Returns its exit status.
fn report(work: impl FnOnce() -> anyhow::Result<()>, mut writer: PipeWriter) -> i32 {
    let worked = catch_unwind(AssertUnwindSafe(work));
    let text = match worked {
        Ok(Ok(())) => String::new(),
        Ok(Err(err)) => format!("{err:#}"),
        Err(_) => "the process that tried panicked".to_owned(),
    };
    // The parent sees a status in place of a text that cannot be written.
    i32::from(writer.write_all(text.as_bytes()).is_err())
}
