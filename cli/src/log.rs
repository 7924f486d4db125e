//! Lines on standard error, which never block a server.
//!
//! A line is one write that does not block, short enough not to be split (pipe(7), PIPE_BUF). A line for
//! which there is no room is dropped and counted; a line with the count precedes the next line that
//! can be written.

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

/// The longest line, with its line feed: what Linux writes to a pipe in one piece (`PIPE_BUF`).
const LINE_MAX: usize = 4096;
const CUT_MARK: &str = " [cut]";

static LOG: OnceLock<Log> = OnceLock::new();

/// Writes a line, with control characters escaped. Drops it where standard error is closed, full or
/// not read.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    log().say(&line.to_string());
}

/// Writes a line in a process that has closed what this module has open. Drops it uncounted where there is no room.
pub(crate) fn say_apart(text: &str) {
    let _ = Output::open().write(line(text, false).as_bytes());
}

/// Writes lines as they are, without an allocation or a lock, for a signal handler. Drops lines for
/// which there is no room.
pub(crate) fn say_in_handler(lines: &[u8]) {
    if let Some(log) = LOG.get() {
        // An error has nowhere else to go.
        let _ = log.output.write(lines);
    }
}

/// Opens standard error, which the first line would do otherwise: worker processes that were forked
/// before it would not share the count of dropped lines.
pub(crate) fn start() {
    log();
}

/// Reports lines that were dropped, if there is room now.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.report_dropped();
    }
}

/// Writes a line for a panic, and one for each line of its backtrace if backtraces are on.
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
        // Without an eventfd each process has a count of its own.
        dropped: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).ok(),
        dropped_here: AtomicU64::new(0),
        is_partial: AtomicBool::new(false),
    })
}

/// Standard error, and the count of dropped lines.
#[derive(Debug)]
struct Log {
    output: Output,
    /// An eventfd(2) that counts the dropped lines of all processes.
    dropped: Option<OwnedFd>,
    dropped_here: AtomicU64,
    /// Whether only a part of the last line was written, as to a terminal.
    is_partial: AtomicBool,
}

impl Log {
    fn say(&self, text: &str) {
        if !self.report_dropped() || !self.write_line(text) {
            self.count_dropped(1);
        }
    }

    /// Writes how many lines were dropped, if any were. Returns whether there is room for more.
    fn report_dropped(&self) -> bool {
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
        // An error means a count of zero.
        let shared = shared.filter(|fd| read(fd, &mut count).is_ok());
        self.dropped_here.swap(0, Relaxed) + shared.map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// Writes a line. Returns whether all of it was written.
    fn write_line(&self, text: &str) -> bool {
        let line = line(text, self.is_partial.load(Relaxed));
        let written = loop {
            match self.output.write(line.as_bytes()) {
                Err(Errno::INTR) => {}
                written => break written,
            }
        };
        let written = written.unwrap_or(0);
        if written > 0 {
            self.is_partial.store(written < line.len(), Relaxed);
        }
        written == line.len()
    }
}

/// A line as it is written; after a partial line it begins with a line feed.
pub(crate) fn line(text: &str, after_partial: bool) -> String {
    let mut line = String::with_capacity(text.len() + 2);
    if after_partial {
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
    /// A pipe or a terminal, opened once more with `O_NONBLOCK`: the flag belongs to the open file
    /// description (open(2)), and other processes share that of descriptor 2.
    Opened(OwnedFd),
    /// A pipe or a terminal that cannot be opened: another user's, or a pipe without a reader.
    Inherited,
    Socket,
    /// A file: a write waits for the disk at most.
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
                // An offset of -1 is the file's own position (preadv(2)).
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

/// For files that have no RWF_NOWAIT: another process may fill the room in between, and the write waits.
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
