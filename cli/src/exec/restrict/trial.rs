//! A child of this process that applies what each program will have to.

use std::io::{self, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, ensure};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use crate::exec::starter::sys::{self, Fork};

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
    let ended = status.and_then(|(_, status)| status.exit_status());
    ensure!(ended == Some(0), "a signal ended the process that tried");
    Ok(())
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
