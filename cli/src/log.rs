//! All that a running server says on standard error, which must never keep it waiting.
//!
//! A line is one write, short enough to be whole (pipe(7), PIPE_BUF), that does not block. A line for
//! which there is no room is dropped and counted; the next one that can be written follows a line
//! that tells how many were dropped.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, read, write};
use rustix::net::{SendFlags, send};

/// The longest line, with its end: what Linux writes to a pipe in one piece (`PIPE_BUF`).
const LINE_MAX: usize = 4096;
const CUT_MARK: &str = " [cut]";

static LOG: OnceLock<Log> = OnceLock::new();

/// Writes a line, or drops it where standard error is closed, full or not read. Control characters
/// are escaped.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    log().say(&line.to_string());
}

/// Writes lines as they are, in a signal handler: without an allocation or a lock. What there is no room
/// for is dropped.
pub(crate) fn say_in_handler(lines: &[u8]) {
    if let Some(log) = LOG.get() {
        // Nobody is left to tell.
        let _ = log.output.write(lines);
    }
}

/// Opens standard error. Without this the first line does, in whatever process that is: a process
/// that was forked before would not share the count of dropped lines.
pub(crate) fn start() {
    log();
}

/// Tells of lines that were dropped, if there is room now.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.confess();
    }
}

/// A line for each panic, and one for each line of a backtrace that was asked for.
pub(crate) fn panicked(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("(not a string)");
    match info.location() {
        Some(place) => say(format_args!("socketserver: panicked at {place}: {message}")),
        None => say(format_args!("socketserver: panicked: {message}")),
    }
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        for line in trace.to_string().lines() {
            say(format_args!("{line}"));
        }
    }
}

fn log() -> &'static Log {
    LOG.get_or_init(|| Log {
        output: Output::open(),
        // Without a descriptor each process counts for itself.
        dropped: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).ok(),
        dropped_here: AtomicU64::new(0),
        is_torn: AtomicBool::new(false),
    })
}

/// Standard error, and what it had no room for.
#[derive(Debug)]
struct Log {
    output: Output,
    /// An eventfd(2) that counts the dropped lines of all processes.
    dropped: Option<OwnedFd>,
    dropped_here: AtomicU64,
    /// Whether the last write was cut short, as a terminal does.
    is_torn: AtomicBool,
}

impl Log {
    fn say(&self, text: &str) {
        if !self.confess() || !self.write_line(text) {
            self.count_dropped(1);
        }
    }

    /// Says how many lines were dropped, if any were. Says whether there is room for more.
    fn confess(&self) -> bool {
        let dropped = self.take_dropped();
        if dropped == 0 {
            return true;
        }
        let lines = if dropped == 1 {
            "line was"
        } else {
            "lines were"
        };
        let notice =
            format!("socketserver: {dropped} {lines} dropped: standard error was not read");
        let written = self.write_line(&notice);
        if !written {
            self.count_dropped(dropped);
        }
        written
    }

    fn count_dropped(&self, lines: u64) {
        let shared = self.dropped.as_ref();
        if shared.is_none_or(|fd| write(fd, &lines.to_ne_bytes()).is_err()) {
            self.dropped_here.fetch_add(lines, Relaxed);
        }
    }

    fn take_dropped(&self) -> u64 {
        let mut count = [0; 8];
        let shared = self.dropped.as_ref();
        // It fails where nothing was counted.
        let shared = shared.filter(|fd| read(fd, &mut count).is_ok());
        self.dropped_here.swap(0, Relaxed) + shared.map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// Writes a line. Says whether all of it was written.
    fn write_line(&self, text: &str) -> bool {
        let torn = self.is_torn.load(Relaxed);
        let line = line(text, torn);
        let written = loop {
            match self.output.write(line.as_bytes()) {
                Err(Errno::INTR) => {}
                written => break written,
            }
        };
        let written = written.unwrap_or(0);
        if written > 0 {
            self.is_torn.store(written < line.len(), Relaxed);
        }
        written == line.len()
    }
}

/// A line as it is written; one that follows the beginning of another ends that first.
fn line(text: &str, after_torn: bool) -> String {
    let mut line = String::with_capacity(text.len() + 2);
    if after_torn {
        line.push('\n');
    }
    for char in text.chars() {
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    if line.len() >= LINE_MAX {
        let mut end = LINE_MAX - CUT_MARK.len() - 1;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str(CUT_MARK);
    }
    line.push('\n');
    line
}

/// How standard error is written to without waiting.
#[derive(Debug)]
enum Output {
    /// A pipe or a terminal that was opened once more, with `O_NONBLOCK`: the flag is one of the open
    /// file description (open(2)), and others have that of descriptor 2 too.
    Opened(OwnedFd),
    /// A pipe or a terminal that may not be opened: another user's, often, or a pipe without a reader.
    Inherited,
    Socket,
    /// A file: writing it waits for the disk at most.
    File,
}

impl Output {
    fn open() -> Self {
        let stderr = io::stderr();
        let Ok(stat) = fstat(&stderr) else {
            return Self::File;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Self::Socket,
            FileType::Fifo | FileType::CharacterDevice => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                open("/proc/self/fd/2", flags, Mode::empty()).map_or(Self::Inherited, Self::Opened)
            }
            _ => Self::File,
        }
    }

    fn write(&self, line: &[u8]) -> Result<usize, Errno> {
        let stderr = io::stderr();
        match self {
            Self::Opened(fd) => write(fd, line),
            Self::Socket => send(&stderr, line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Self::File => write(&stderr, line),
            Self::Inherited => {
                // -1: at the file's own position (preadv(2)).
                match pwritev2(
                    &stderr,
                    &[IoSlice::new(line)],
                    u64::MAX,
                    ReadWriteFlags::NOWAIT,
                ) {
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                        write_if_ready(stderr, line)
                    }
                    result => result,
                }
            }
        }
    }
}

/// For kernels that cannot be told not to wait: another process may take the room in between.
fn write_if_ready(fd: impl AsFd, line: &[u8]) -> Result<usize, Errno> {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec::default()))? {
        0 => Err(Errno::AGAIN),
        _ => write(&fd, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_characters_and_fits_into_a_pipe() {
        assert_eq!(line("a b", false), "a b\n");
        assert_eq!(line("a\nb\x1b[0m", false), "a\\nb\\u{1b}[0m\n");
        assert_eq!(line("next", true), "\nnext\n");
        assert_eq!(line(&"x".repeat(4095), false), "x".repeat(4095) + "\n");
        let cut = line(&"ä".repeat(3000), false);
        assert!(
            cut.len() <= LINE_MAX && cut.ends_with("ä [cut]\n"),
            "{}",
            cut.len()
        );
    }
}
