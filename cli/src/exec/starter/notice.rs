//! What the starter reports of a program: lines of text over the program's control socket.

use std::fmt;
use std::io::Write;
use std::time::Duration;

/// A report of the starter about a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The process exists; it becomes the program, or a [`Failed`](Self::Failed) follows.
    Started { pid: i32 },
    /// The program could not be started. The text says why.
    Failed(String),
    /// The program has ended, and was reaped.
    Exited(Exit),
}

/// How a program ended, and what it used, its children that it has waited for included (getrusage(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) ended: Ended,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// The largest resident memory of one process.
    pub(crate) memory_kib: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Status(i32),
    Signal(i32),
}

impl Notice {
    /// The longest one, in bytes.
    pub(super) const MAX: usize = 4096;

    /// Writes it to the beginning of a buffer, and returns that; a text that is too long is cut. Allocates nothing.
    pub(super) fn encode<'a>(&self, buffer: &'a mut [u8; Self::MAX]) -> &'a [u8] {
        let mut rest = &mut buffer[..];
        // The only error is that there is no room.
        let _ = match self {
            Self::Started { pid } => write!(rest, "started {pid}"),
            Self::Failed(why) => write!(rest, "failed {why}"),
            Self::Exited(exit) => {
                let (how, number) = match exit.ended {
                    Ended::Status(status) => ("status", status),
                    Ended::Signal(signal) => ("signal", signal),
                };
                let [user, system] = [exit.user, exit.system].map(|time| time.as_micros());
                let memory = exit.memory_kib;
                write!(rest, "exited {how} {number} {user} {system} {memory}")
            }
        };
        let room = rest.len();
        &buffer[..Self::MAX - room]
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ')?;
        match kind {
            "started" => rest.parse().ok().map(|pid| Self::Started { pid }),
            "failed" => Some(Self::Failed(rest.to_owned())),
            "exited" => {
                let mut words = rest.split(' ');
                let how = words.next()?;
                let number = words.next()?.parse().ok()?;
                let ended = match how {
                    "status" => Ended::Status(number),
                    "signal" => Ended::Signal(number),
                    _ => return None,
                };
                let mut number = || words.next()?.parse().ok();
                Some(Self::Exited(Exit {
                    ended,
                    user: Duration::from_micros(number()?),
                    system: Duration::from_micros(number()?),
                    memory_kib: number()?,
                }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [user, system] = [self.user, self.system].map(|time| time.as_secs_f64());
        write!(
            f,
            "{}, user {user:.3} s, system {system:.3} s, memory {} KiB",
            self.ended, self.memory_kib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_decoded_as_they_were_encoded() {
        let exit = |ended| {
            Notice::Exited(Exit {
                ended,
                user: Duration::from_micros(1_500_000),
                system: Duration::ZERO,
                memory_kib: 1234,
            })
        };
        for notice in [
            Notice::Started { pid: 17 },
            Notice::Failed("execve(2): no such file".to_owned()),
            exit(Ended::Status(3)),
            exit(Ended::Signal(9)),
        ] {
            let mut buffer = [0; Notice::MAX];
            let text = std::str::from_utf8(notice.encode(&mut buffer)).unwrap();
            assert_eq!(Notice::decode(text), Some(notice));
        }
        let long = Notice::Failed("x".repeat(Notice::MAX));
        assert_eq!(long.encode(&mut [0; Notice::MAX]).len(), Notice::MAX);
        for wrong in [
            "",
            "started",
            "started x",
            "exited status 1 2 3",
            "exited x 1 2 3 4",
        ] {
            assert_eq!(Notice::decode(wrong), None, "{wrong}");
        }
    }
}
