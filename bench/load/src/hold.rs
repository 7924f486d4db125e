//! Idle connections: each makes one exchange, and another one at the end, to show that it is still served.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use crate::target::Target;
use crate::tls::Stream;
use crate::{SIZE, end_in_any_case};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Holds connections `first` and following, for at most that long.
pub(crate) fn run(target: &Target, count: usize, first: u64, at_most: Duration) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    // Threads inherit it, so this comes before there are any.
    signals.thread_block()?;
    end_in_any_case(at_most);
    let end = SignalFd::new(&signals)?;

    let mut streams = Vec::with_capacity(count);
    for number in (first..).take(count) {
        let mut stream = target.open(number)?;
        stream.socket().set_read_timeout(Some(PATIENCE))?;
        exchange(&mut stream, number).with_context(|| format!("connection {number}"))?;
        streams.push((number, stream));
    }
    println!("ready");
    wait_for_end(&end)?;
    for (number, stream) in &mut streams {
        exchange(stream, *number).with_context(|| format!("connection {number}, at the end"))?;
    }
    println!("{count} still answer");
    Ok(())
}

/// Waits until standard input ends or SIGTERM comes.
fn wait_for_end(signal: &SignalFd) -> Result<()> {
    let mut input = std::io::stdin();
    loop {
        let stdin = std::io::stdin();
        let mut both = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(signal.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut both, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.context("wait for the end")?,
        };
        let [said, ended] = both.map(|fd| fd.any().unwrap_or(true));
        if ended || (said && input.read(&mut [0; SIZE])? == 0) {
            return Ok(());
        }
    }
}

/// Sends one line and gets it back.
fn exchange(stream: &mut Stream, number: u64) -> Result<()> {
    let line = format!("{number:063}\n");
    stream.write_all(line.as_bytes()).context("send a line")?;
    let mut answer = [0; SIZE];
    stream.read_exact(&mut answer).context("read an answer")?;
    ensure!(answer == line.as_bytes(), "wrong answer");
    Ok(())
}
