//! What the one who compares looks at while it waits: signals, and the progress that it shows.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::args::Model;
use crate::log::say;

/// How often the progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// SIGINT and SIGTERM, as a descriptor that becomes readable.
#[derive(Debug)]
pub(super) struct Interrupts(UnixStream);

impl Interrupts {
    pub(super) fn install() -> Result<Self> {
        let (read, write) = UnixStream::pair().context("make a pipe for signals")?;
        for signal in [SIGINT, SIGTERM] {
            let write = write.try_clone().context("make a pipe for signals")?;
            pipe::register(signal, write).with_context(|| format!("handle signal {signal}"))?;
        }
        Ok(Self(read))
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells people how far the comparison is: a bar on a terminal, else a line for each model.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    models: usize,
    begun: usize,
    /// How long one model takes, but for its start and its stop.
    each: Duration,
    since: Instant,
}

impl Progress {
    pub(super) fn new(models: usize, each: Duration) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(millis(each) * models as u64);
            let style = ProgressStyle::with_template("[{bar:40}] {percent:>3} %  {msg}");
            bar.with_style(
                style
                    .expect("the template is well-formed")
                    .progress_chars("=> "),
            )
        });
        Self {
            bar,
            models,
            begun: 0,
            each,
            since: Instant::now(),
        }
    }

    /// The next model is being measured.
    pub(super) fn begin(&mut self, model: Model) {
        self.begun += 1;
        self.since = Instant::now();
        let (number, models) = (self.begun, self.models);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{model} ({number} of {models})")),
            None => say(format_args!("measuring {model} ({number} of {models})")),
        }
        self.draw();
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            let before = millis(self.each) * (self.begun as u64).saturating_sub(1);
            bar.set_position(before + millis(self.since.elapsed().min(self.each)));
        }
    }

    /// Waits until one of the descriptors is readable, and says which are; or until `until`.
    pub(super) fn wait<const N: usize>(
        &self,
        fds: [BorrowedFd<'_>; N],
        until: Instant,
    ) -> Result<[bool; N]> {
        loop {
            self.draw();
            let left = until.saturating_duration_since(Instant::now());
            let turn = match self.bar {
                Some(_) => left.min(DRAW_EVERY),
                None => left,
            };
            let ready = readable(fds, turn)?;
            if ready.contains(&true) || left.is_zero() {
                return Ok(ready);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for at most `time` until one of the descriptors is readable, and says which are.
pub(super) fn readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    time: Duration,
) -> Result<[bool; N]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let time = Timespec::try_from(time).ok();
    match poll(&mut fds, time.as_ref()) {
        // Interrupted: the caller looks at its clock, and waits on.
        Ok(_) | Err(Errno::INTR) => {}
        Err(err) => return Err(err).context("wait"),
    }
    Ok(fds.map(|fd| !fd.revents().is_empty()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
