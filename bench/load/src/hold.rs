//! Idle connections: each makes one exchange, and another one at the end, to show that it is still served.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use socket2::Socket;

use crate::target::Target;
use crate::{SIZE, end_in_any_case};

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Holds connections `first` and following, for at most that long.
pub(crate) fn run(target: &Target, count: usize, first: u64, at_most: Duration) -> Result<()> {
    let end = Until::blocked()?;
    end_in_any_case(at_most);
    let mut sockets = Vec::with_capacity(count);
    for number in (first..).take(count) {
        let socket = target.connect(number)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        exchange(&socket, number).with_context(|| format!("connection {number}"))?;
        sockets.push((number, socket));
    }
    println!("ready");
    end.wait(None)?;
    for (number, socket) in &sockets {
        exchange(socket, *number).with_context(|| format!("connection {number}, at the end"))?;
    }
    println!("{count} still answer");
    Ok(())
}

/// The end: of standard input, or SIGTERM.
pub(crate) struct Until(SignalFd);

impl Until {
    /// Blocks the signal. Threads inherit that, so this comes before there are any.
    pub(crate) fn blocked() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self(SignalFd::new(&signals)?))
    }

    /// Waits for it, or for some time. Returns whether it has come.
    pub(crate) fn wait(&self, time: Option<Duration>) -> Result<bool> {
        let time = time.map(PollTimeout::try_from).transpose()?;
        let mut input = std::io::stdin();
        loop {
            let stdin = std::io::stdin();
            let mut both = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut both, time.unwrap_or(PollTimeout::NONE)) {
                Err(Errno::EINTR) => continue,
                Ok(0) => return Ok(false),
                result => result.context("wait for the end")?,
            };
            let [said, ended] = both.map(|fd| fd.any().unwrap_or(true));
            if ended || (said && input.read(&mut [0; SIZE])? == 0) {
                return Ok(true);
            }
        }
    }
}

/// Sends one line and gets it back.
fn exchange(mut socket: &Socket, number: u64) -> Result<()> {
    let line = format!("{number:063}\n");
    socket.write_all(line.as_bytes()).context("send a line")?;
    let mut answer = [0; SIZE];
    socket.read_exact(&mut answer).context("read an answer")?;
    ensure!(answer == line.as_bytes(), "wrong answer");
    Ok(())
}
