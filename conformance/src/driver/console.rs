//! The runner's commands, and the answers.
//!
//! Where the process may have a second thread, it reads them and obeys those at once that do not
//! wait for their turn. A process that forks reads for itself: between two commands, and, while it
//! serves, whenever its service actions look.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};

use super::at_once;

/// What do not wait for their turn.
const AT_ONCE: [&str; 5] = ["shutdown", "nofile", "close_now", "interrupt", "fds"];

#[derive(Debug)]
pub(super) struct Console {
    /// From the thread that reads.
    commands: Option<Receiver<String>>,
}

impl Console {
    pub(super) fn start(is_polled: bool) -> Self {
        if is_polled {
            return Self { commands: None };
        }
        let (sender, commands) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line == "exit" {
                    break;
                }
                if !is_at_once(&line) {
                    let _ = sender.send(line);
                } else {
                    obey(&line);
                }
            }
            // The scenario is over, whatever is still being served.
            std::process::exit(0);
        });
        Self {
            commands: Some(commands),
        }
    }

    /// Whether somebody has to [`look`] while the process serves.
    pub(super) const fn is_polled(&self) -> bool {
        self.commands.is_none()
    }

    /// The next command that waits for its turn.
    pub(super) fn next(&self) -> Option<String> {
        if let Some(commands) = &self.commands {
            return commands.recv().ok();
        }
        loop {
            let line = next_line(None, |_| true)?;
            if !is_at_once(&line) {
                return Some(line);
            }
            obey(&line);
        }
    }
}

fn is_at_once(line: &str) -> bool {
    AT_ONCE.contains(&line.split(' ').next().unwrap_or_default())
}

fn obey(line: &str) {
    let start = Instant::now();
    let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
    let result = at_once(command, argument);
    say(&format!(
        "done {command} {} {result}",
        start.elapsed().as_millis()
    ));
}

/// Obeys a command that does not wait for its turn, if it is the next one and there already. Another
/// one is left for whoever serves next, in whatever process that is.
pub(super) fn look() {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if let Some(line) = next_line(Some(&now), is_at_once) {
        obey(&line);
    }
}

/// Takes the next line, if it is one of these; nothing at the end of the input or of the time.
fn next_line(limit: Option<&Timespec>, is_wanted: fn(&str) -> bool) -> Option<String> {
    let input = rustix::stdio::stdin();
    let mut buf = [0; 512];
    loop {
        if poll(&mut [PollFd::new(&input, PollFlags::IN)], limit) != Ok(1) {
            return None;
        }
        let (count, _) = recv(input, &mut buf, RecvFlags::PEEK).ok()?;
        if count == 0 && limit.is_some() {
            std::process::exit(0);
        }
        match buf[..count].iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                let line = String::from_utf8_lossy(&buf[..end]).into_owned();
                if !is_wanted(&line) {
                    return None;
                }
                recv(input, &mut buf[..=end], RecvFlags::empty()).ok()?;
                return Some(line);
            }
            // The runner writes a line at a time: the rest is on its way.
            None if count > 0 => std::thread::yield_now(),
            None => return None,
        }
    }
}

/// Prints a line whole and at once, also when several threads or processes print.
pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}
