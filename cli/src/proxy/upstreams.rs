//! The upstreams of a proxy: which one is next, and which are set aside.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use socketserver::net::Context;

use crate::log::say;
use crate::proxy::to::To;
use crate::shared::{Words, now};
use crate::throttle::Trouble;

/// How connections are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Balance {
    /// One after the other
    #[default]
    RoundRobin,
    /// The one with the fewest live connections
    LeastConnections,
}

/// All upstreams. What is known of them lies in memory that all processes of the server share.
pub(crate) struct Upstreams {
    all: Vec<To>,
    balance: Balance,
    retry_after: Duration,
    words: Words,
    /// The lines about each upstream.
    troubles: Vec<Trouble>,
}

/// The words of one upstream.
struct State<'a>(&'a [AtomicU64]);

/// How many words an upstream has; the first word of all is the turn.
const WORDS: usize = 4;

impl State<'_> {
    const fn live(&self) -> &AtomicU64 {
        &self.0[0]
    }

    /// Until when it is set aside, on the clock of [`now`]; zero if it has not failed.
    const fn aside(&self) -> &AtomicU64 {
        &self.0[1]
    }

    /// When it has failed last.
    const fn failed(&self) -> &AtomicU64 {
        &self.0[2]
    }

    /// When it is to be checked next.
    const fn check(&self) -> &AtomicU64 {
        &self.0[3]
    }
}

/// An upstream that a connection goes to; it counts the connection until it is dropped.
pub(crate) struct Taken {
    upstreams: Arc<Upstreams>,
    index: usize,
}

impl Taken {
    pub(crate) const fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn to(&self) -> &To {
        &self.upstreams.all[self.index]
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.upstreams
            .state(self.index)
            .live()
            .fetch_sub(1, Relaxed);
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Upstreams {
    pub(crate) fn new(
        all: Vec<To>,
        balance: Balance,
        retry_after: Duration,
    ) -> anyhow::Result<Arc<Self>> {
        let what = "map memory for the upstreams";
        let words = Words::new(1 + all.len() * WORDS).context(what)?;
        let troubles = all.iter().map(|_| Trouble::new());
        let troubles = troubles.collect::<Result<_, _>>().context(what)?;
        Ok(Arc::new(Self {
            all,
            balance,
            retry_after,
            words,
            troubles,
        }))
    }

    fn state(&self, index: usize) -> State<'_> {
        let first = 1 + index * WORDS;
        State(&self.words[first..first + WORDS])
    }

    /// Connects to the upstream whose turn it is, and if that fails, to the others, each at most once.
    /// `is_proof`: whether that shows that the upstream can be reached.
    pub(crate) fn connect<C>(
        self: &Arc<Self>,
        client: &Context,
        is_proof: bool,
        dial: impl Fn(&To) -> anyhow::Result<C>,
    ) -> anyhow::Result<(Taken, C)> {
        let mut tried = vec![false; self.all.len()];
        let mut failures = String::new();
        let turn = self.words[0].fetch_add(1, Relaxed) as usize;
        while let Some(index) = self.next(turn, &tried) {
            tried[index] = true;
            let taken = self.take(index);
            match dial(taken.to()) {
                Ok(connection) => {
                    if is_proof {
                        self.note_success(index);
                    }
                    return Ok((taken, connection));
                }
                // The upstream is not at fault, and the others could not be tried either.
                Err(err) if client.abort_reason().is_some() || is_shortage(&err) => {
                    bail!("reach {}: {err:#}", taken.to());
                }
                Err(err) => {
                    let separator = if failures.is_empty() { "" } else { ", and " };
                    let _ = write!(failures, "{separator}{}: {err:#}", taken.to());
                    self.note_failure(index, &err);
                }
            }
        }
        bail!("no upstream could be reached: {failures}")
    }

    fn take(self: &Arc<Self>, index: usize) -> Taken {
        self.state(index).live().fetch_add(1, Relaxed);
        Taken {
            upstreams: Arc::clone(self),
            index,
        }
    }

    /// The next upstream to try. Those that are set aside come last, the one that has failed first before the others.
    fn next(&self, turn: usize, tried: &[bool]) -> Option<usize> {
        let now = now();
        let count = self.all.len();
        let rank = |index: usize| {
            let state = self.state(index);
            if state.aside().load(Relaxed) > now {
                return (1, state.failed().load(Relaxed), 0);
            }
            let live = match self.balance {
                Balance::RoundRobin => 0,
                Balance::LeastConnections => state.live().load(Relaxed),
            };
            (0, live, (index + count - turn % count) % count)
        };
        (0..count)
            .filter(|index| !tried[*index])
            .min_by_key(|index| rank(*index))
    }

    /// Stores that an upstream could be reached.
    pub(crate) fn note_success(&self, index: usize) {
        let state = self.state(index);
        if state.aside().load(Relaxed) != 0 {
            state.aside().store(0, Relaxed);
        }
        if self.troubles[index].has_gone() {
            say(format_args!(
                "socketserver: upstream {} can be reached again",
                self.all[index]
            ));
        }
    }

    /// Sets aside an upstream that could not be reached.
    pub(crate) fn note_failure(&self, index: usize, err: &anyhow::Error) {
        self.set_aside(index, err, self.retry_after);
    }

    /// Sets aside an upstream that has not passed a check, until it passes one, or is reached by a client.
    pub(crate) fn note_failed_check(&self, index: usize, err: &anyhow::Error) {
        if !is_shortage(err) {
            self.set_aside(index, err, Duration::MAX);
        }
    }

    fn set_aside(&self, index: usize, err: &anyhow::Error, time: Duration) {
        let (state, now) = (self.state(index), now());
        state.failed().store(now, Relaxed);
        let until = now.saturating_add(millis(time)).max(1);
        // A failed check has set it aside for longer.
        state.aside().fetch_max(until, Relaxed);
        self.troubles[index].has_come(format_args!(
            "socketserver: upstream {} cannot be reached, and is set aside: {err:#}",
            self.all[index],
        ));
    }

    pub(crate) fn all(&self) -> &[To] {
        &self.all
    }

    pub(crate) fn to(&self, index: usize) -> &To {
        &self.all[index]
    }

    /// Claims the upstreams whose check is due, and returns how long it is until the next one is.
    pub(crate) fn claim_checks(&self, interval: Duration) -> (Vec<usize>, Duration) {
        let now = now();
        let next = now.saturating_add(millis(interval));
        let mut due = Vec::new();
        let mut first = next;
        for index in 0..self.all.len() {
            let state = self.state(index);
            let check = state.check();
            let at = check.load(Relaxed);
            if at <= now && check.compare_exchange(at, next, Relaxed, Relaxed).is_ok() {
                due.push(index);
            } else {
                first = first.min(at.max(now + 1));
            }
        }
        (due, Duration::from_millis(first - now))
    }
}

/// Whether this process lacks what a connection needs.
fn is_shortage(err: &anyhow::Error) -> bool {
    let of_io = err.downcast_ref::<io::Error>();
    let of_library = || {
        err.downcast_ref::<socketserver::Error>()
            .map(socketserver::Error::io_error)
    };
    let errno = of_io.or_else(of_library).and_then(io::Error::raw_os_error);
    matches!(
        errno,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports are short for one address of an upstream, and another one may be reached.
    #[test]
    fn only_what_every_connection_needs_is_a_shortage() {
        let is_shortage = |errno| is_shortage(&io::Error::from_raw_os_error(errno).into());
        assert!(is_shortage(libc::EMFILE));
        assert!(!is_shortage(libc::EADDRNOTAVAIL));
    }

    /// Checks take their turns, so the next one may come late.
    #[test]
    fn an_upstream_that_fails_a_check_is_set_aside_until_it_passes_one() {
        let all = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"].map(|url| url.parse().unwrap());
        let upstreams = Upstreams::new(all.to_vec(), Balance::default(), Duration::ZERO).unwrap();
        upstreams.note_failed_check(0, &io::Error::from_raw_os_error(libc::ECONNREFUSED).into());
        assert_eq!(upstreams.state(0).aside().load(Relaxed), u64::MAX);
        assert_eq!(upstreams.next(0, &[false; 2]), Some(1));
        upstreams.note_success(0);
        assert_eq!(upstreams.next(0, &[false; 2]), Some(0));
    }
}
