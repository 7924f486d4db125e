//! What a program writes to its standard error: lines of the server's log, within bounds.
//!
//! A program that writes more lines a second than the log takes loses the rest, which are counted; one that writes even
//! more waits until the second is over.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::say;
use crate::throttle::Throttle;

/// How many lines a second go to the log.
const LINES: u64 = 100;

/// How many bytes are read in a second.
const BYTES: usize = 1 << 20;

/// The longest line; the log has no room for a longer one.
const LINE_MAX: usize = 4000;

const SECOND: Duration = Duration::from_secs(1);

/// Bounds the lines of all programs together, over all processes. Made before the server forks.
#[derive(Debug)]
pub(crate) struct Bound {
    lines: Throttle,
    dropped: Throttle,
}

impl Bound {
    /// # Errors
    ///
    /// As mmap(2).
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            lines: Throttle::of(LINES)?,
            dropped: Throttle::new()?,
        })
    }
}

/// The standard error of one program.
#[derive(Debug)]
pub(crate) struct Lines {
    /// `None` at the end of the pipe.
    pipe: Option<OwnedFd>,
    /// What the lines begin with.
    prefix: String,
    /// Without it, the program has a bound of its own.
    bound: Option<Arc<Bound>>,
    line: Vec<u8>,
    /// The rest of a line that was too long is dropped.
    is_cut: bool,
    second: Instant,
    lines: u64,
    bytes: usize,
    dropped: u64,
}

/// What to do after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Wait until the pipe is readable.
    Wait,
    /// Read no more before then.
    Pause(Instant),
    /// The program and its children have closed the pipe.
    End,
}

/// Makes a pipe whose end for reading does not block.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // The flag holds for this end alone: each end has a file description.
    fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

impl Lines {
    /// Makes a pipe, and returns the end for the program.
    pub(crate) fn new(prefix: String, bound: Option<Arc<Bound>>) -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = pipe()?;
        let lines = Self {
            pipe: Some(pipe),
            prefix,
            bound,
            line: Vec::new(),
            is_cut: false,
            second: Instant::now(),
            lines: 0,
            bytes: 0,
            dropped: 0,
        };
        Ok((lines, writer))
    }

    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what there is, and logs the lines. Never blocks.
    pub(crate) fn read(&mut self) -> Then {
        let mut buf = [MaybeUninit::uninit(); 8 * 1024];
        let size = buf.len();
        loop {
            self.begin_second();
            if self.bytes >= BYTES {
                return Then::Pause(self.second + SECOND);
            }
            let Some(pipe) = &self.pipe else {
                return Then::End;
            };
            match read(pipe, &mut buf) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Then::Wait,
                Ok(([], _)) | Err(_) => {
                    self.pipe = None;
                    self.end_line();
                    return Then::End;
                }
                Ok((bytes, _)) => {
                    self.bytes += bytes.len();
                    self.take(bytes);
                    if bytes.len() < size {
                        return Then::Wait;
                    }
                }
            }
        }
    }

    /// Logs what is left, once the program has ended.
    pub(crate) fn finish(&mut self) {
        // The pipe holds no more than may be read in a second.
        self.bytes = 0;
        self.read();
        self.end_line();
        self.report_dropped();
    }

    fn begin_second(&mut self) {
        if self.second.elapsed() >= SECOND {
            self.report_dropped();
            self.second = Instant::now();
            self.lines = 0;
            self.bytes = 0;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part
                .strip_suffix(b"\n")
                .map_or((part, false), |text| (text, true));
            let room = LINE_MAX - self.line.len();
            self.is_cut |= text.len() > room;
            self.line.extend(&text[..text.len().min(room)]);
            if ends {
                self.log();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.log();
        }
    }

    fn log(&mut self) {
        let passes = match &self.bound {
            Some(bound) => bound.lines.passes(),
            None => self.lines < LINES,
        };
        if passes {
            let text = String::from_utf8_lossy(&self.line);
            let cut = if self.is_cut { " [cut]" } else { "" };
            say(format_args!("{}: {text}{cut}", self.prefix));
            self.lines += 1;
        } else {
            self.dropped += 1;
        }
        self.line.clear();
        self.is_cut = false;
    }

    fn report_dropped(&mut self) {
        let mut dropped = std::mem::take(&mut self.dropped);
        let mut whose = self.prefix.as_str();
        if let Some(bound) = &self.bound {
            bound.dropped.hold(dropped);
            dropped = bound.dropped.take().unwrap_or(0);
            whose = "socketserver: standard error of programs";
        }
        if dropped > 0 {
            let lines = if dropped == 1 {
                "line was"
            } else {
                "lines were"
            };
            say(format_args!("{whose}: {dropped} {lines} dropped"));
        }
    }
}
