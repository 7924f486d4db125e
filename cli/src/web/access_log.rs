//! The access log: a line for each request.
//!
//! A line is one write that does not wait for a reader: standard error is that of [`log`](crate::log), and a FIFO or a
//! device is opened with `O_NONBLOCK`. A write to a file waits for the disk at most. Lines that cannot be written are
//! dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use anyhow::Context;
use rustix::fs::OFlags;
use socketserver_http::Access;

use super::generation::Generation;
use crate::log::{self, say};
use crate::shared::Words;
use crate::throttle::Trouble;

#[derive(Debug)]
pub(super) enum AccessLog {
    StandardError,
    File(LogFile),
}

/// A log in a file, to which all processes of the server append.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: RwLock<File>,
    /// Lines that could not be written, by any process.
    dropped: Words,
    trouble: Trouble,
    /// Only a part of the last line was written, as to a full disk.
    is_partial: AtomicBool,
    generation: Generation,
}

impl AccessLog {
    /// # Errors
    ///
    /// As open(2).
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == "-" {
            return Ok(Self::StandardError);
        }
        let what = || format!("open the access log {}", path.display());
        // Absolute, so that it means the same later.
        let path = std::path::absolute(path).with_context(what)?;
        Ok(Self::File(LogFile {
            file: RwLock::new(append(&path).with_context(what)?),
            path,
            dropped: Words::new(1).context("mmap(2)")?,
            trouble: Trouble::new().context("mmap(2)")?,
            is_partial: AtomicBool::new(false),
            generation: Generation::new().context("mmap(2)")?,
        }))
    }

    /// Writes a line for a request.
    pub(super) fn write(&self, access: &Access<'_>) {
        match self {
            Self::StandardError => say(format_args!("{access}")),
            Self::File(file) => file.write(&access.to_string()),
        }
    }

    /// Opens the file again, which may have been renamed, in all processes. Returns what has come of it.
    pub(super) fn reopen(&self) -> String {
        let Self::File(log) = self else {
            return "the access log is standard error, which stays open".to_owned();
        };
        match log.generation.renew(|| log.open_again()) {
            Ok(()) => format!("the access log {} was opened again", log.path.display()),
            Err(err) => log.kept(&err),
        }
    }
}

impl LogFile {
    fn open_again(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    fn kept(&self, err: &io::Error) -> String {
        format!(
            "open the access log {}: {err}; the old file stays in use",
            self.path.display()
        )
    }

    fn write(&self, text: &str) {
        if let Err(err) = self.generation.follow(|| self.open_again()) {
            say(format_args!("socketserver: {}", self.kept(&err)));
        }
        let line = log::line(text, self.is_partial.load(Relaxed));
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let written = loop {
            match (&*file).write(line.as_bytes()) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        let path = self.path.display();
        if let Ok(count @ 1..) = written {
            self.is_partial.store(count < line.len(), Relaxed);
        }
        match written {
            Ok(count) if count == line.len() => {
                if self.trouble.has_gone() {
                    let dropped = self.dropped[0].swap(0, Relaxed);
                    say(format_args!(
                        "socketserver: the access log {path} can be written again; lines dropped: {dropped}"
                    ));
                }
            }
            failed => {
                self.dropped[0].fetch_add(1, Relaxed);
                let why = failed.map_or_else(|err| err.to_string(), |_| "no room".to_owned());
                self.trouble.has_come(format_args!(
                    "socketserver: write the access log {path}: {why}; lines are dropped"
                ));
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path)
}
