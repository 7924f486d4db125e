//! Operations that a peer makes within itself, and times.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_channel::{Receiver, Sender, bounded};
use bench_load::Summary;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// How many operations are timed together: a look at the clock takes as long as a part of one.
pub const BATCH: u32 = 64;

/// Operations in batches, for as many seconds as the last argument says.
#[derive(Debug)]
pub struct Trips {
    warm_up: Duration,
    until: Duration,
    start: Instant,
    used: Used,
    last: Instant,
    batches: u64,
    /// How long each batch after the warm-up took.
    measured: Vec<Duration>,
}

/// What this process has used.
#[derive(Clone, Copy, Debug)]
struct Used {
    cpu: Duration,
    /// How long its threads have waited for a processor.
    delay: Duration,
}

impl Trips {
    pub fn start() -> Result<Self> {
        let seconds = env::args().next_back().context("no number of seconds")?;
        let seconds: f64 = seconds.parse().context("the number of seconds")?;
        let (used, start) = (Used::until_now()?, Instant::now());
        Ok(Self {
            warm_up: Duration::from_secs_f64(seconds / 10.0),
            until: Duration::from_secs_f64(seconds * 1.1),
            start,
            used,
            last: start,
            batches: 0,
            measured: Vec::new(),
        })
    }

    /// Ends a batch. Returns whether there is time for another.
    pub fn end_batch(&mut self) -> bool {
        let now = Instant::now();
        if self.last - self.start >= self.warm_up {
            self.measured.push(now - self.last);
        }
        self.batches += 1;
        self.last = now;
        now - self.start < self.until
    }

    /// Tells the runner how it went.
    pub fn report(mut self) -> Result<()> {
        let used = Used::until_now()?;
        let total_seconds = (self.last - self.start).as_secs_f64();
        self.measured.sort_unstable();
        let percentile = |share: f64| {
            let at = (self.measured.len() as f64 * share) as usize;
            let batch = self.measured.get(at).copied().unwrap_or_default();
            batch.as_secs_f64() * 1e6 / f64::from(BATCH)
        };
        let summary = Summary {
            measured: self.measured.len() as u64 * u64::from(BATCH),
            seconds: self.measured.iter().sum::<Duration>().as_secs_f64(),
            total: self.batches * u64::from(BATCH),
            total_seconds,
            lost: 0,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: None,
            cpu_share: (used.cpu - self.used.cpu).as_secs_f64() / total_seconds,
            user_share: 0.0,
            delay_share: (used.delay - self.used.delay).as_secs_f64() / total_seconds,
            offered: None,
        };
        println!("{}", serde_json::to_string(&summary)?);
        Ok(())
    }
}

impl Used {
    fn until_now() -> Result<Self> {
        let mut delay = 0;
        for task in fs::read_dir("/proc/self/task").context("list threads")? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            let field = stat.split_whitespace().nth(1);
            delay += field.context("no delay")?.parse::<u64>()?;
        }
        Ok(Self {
            cpu: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into(),
            delay: Duration::from_nanos(delay),
        })
    }
}

/// One end of a pair of channels, for one message each way.
#[derive(Debug)]
pub struct End {
    pub to: Sender<u64>,
    pub from: Receiver<u64>,
}

/// Both ends.
pub fn ends() -> (End, End) {
    let ((to_there, from_here), (to_here, from_there)) = (bounded(1), bounded(1));
    let here = End {
        to: to_there,
        from: from_there,
    };
    let there = End {
        to: to_here,
        from: from_here,
    };
    (here, there)
}

/// Keeps this thread on a processor.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("move to processor {cpu}"))
}
