//! Counting and timing operations.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench_load::Summary;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

#[derive(Clone)]
pub(crate) struct Meter {
    warm_up: Duration,
    seconds: Duration,
    /// How many operations end it, if the time does not before.
    most: Option<u64>,
    start: Instant,
    /// What this process had used until then.
    used: Used,
    /// In nanoseconds.
    latencies: Histogram<u64>,
    total: u64,
    lost: u64,
    /// When the last measured operation of a timetable was answered.
    last: Option<Instant>,
}

/// What the operating system counts of this process.
#[derive(Clone, Copy)]
struct Used {
    total: Duration,
    user: Duration,
    /// How long this thread has waited for its processor.
    delay: Duration,
}

impl Meter {
    pub(crate) fn new(warm_up: Duration, seconds: Duration, most: Option<u64>) -> Result<Self> {
        Ok(Self {
            warm_up,
            seconds,
            most,
            start: Instant::now(),
            used: Used::until_now()?,
            latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            total: 0,
            lost: 0,
            last: None,
        })
    }

    /// Begins with the warm-up.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.used = Used::until_now()?;
        self.start = Instant::now();
        Ok(())
    }

    /// How many operations there are, if that is known.
    pub(crate) fn most(&self) -> Option<u64> {
        self.most
    }

    /// Counts an operation that began at `began` and has just ended. Says whether it was the last, or the time is over.
    pub(crate) fn ended(&mut self, began: Instant) -> bool {
        let now = Instant::now();
        self.total += 1;
        let passed = now - self.start;
        if passed >= self.warm_up && !self.is_end(passed) {
            let took = u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(took);
        }
        self.is_end(passed)
    }

    /// Counts an operation that was due at `due` and has just been answered. It is measured if it was due in the measured
    /// time, however long the answer took.
    pub(crate) fn answered(&mut self, due: Instant) {
        let now = Instant::now();
        self.total += 1;
        if due - self.start >= self.warm_up {
            let took = u64::try_from((now - due).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(took);
            self.last = Some(now);
        }
    }

    /// When it has begun, and how long it lasts with the warm-up.
    pub(crate) fn times(&self) -> (Instant, Duration) {
        (self.start, self.warm_up + self.seconds)
    }

    pub(crate) fn lost(&mut self) {
        self.lost += 1;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_end(self.start.elapsed())
    }

    fn is_end(&self, passed: Duration) -> bool {
        passed >= self.warm_up + self.seconds || self.most.is_some_and(|most| self.total >= most)
    }

    pub(crate) fn summary(&self) -> Result<Summary> {
        if let Some(most) = self.most {
            ensure!(
                self.total >= most,
                "{} of {most} have ended in time",
                self.total
            );
        }
        let total = self.start.elapsed().as_secs_f64();
        let (before, after) = (self.used, Used::until_now()?);
        let share = |used: fn(Used) -> Duration| (used(after) - used(before)).as_secs_f64() / total;
        let percentile = |share| self.latencies.value_at_quantile(share) as f64 / 1e3;
        let until = |last: Instant| last - self.start - self.warm_up;
        let seconds = self.last.map_or(self.seconds, until).max(self.seconds);
        Ok(Summary {
            measured: self.latencies.len(),
            seconds: seconds.as_secs_f64(),
            total: self.total,
            total_seconds: total,
            lost: self.lost,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: Some(percentile(0.999)),
            cpu_share: share(|used| used.total),
            user_share: share(|used| used.user),
            delay_share: share(|used| used.delay),
            offered: None,
        })
    }
}

impl Used {
    fn until_now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let time = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
        Ok(Self {
            total: time(usage.user_time() + usage.system_time()),
            user: time(usage.user_time()),
            delay: run_delay()?,
        })
    }
}

/// How long this thread has waited for its processor (the second number of /proc/PID/schedstat).
fn run_delay() -> Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let nanos = text
        .split_whitespace()
        .nth(1)
        .and_then(|delay| delay.parse().ok());
    Ok(Duration::from_nanos(
        nanos.with_context(|| format!("{path} has no run delay"))?,
    ))
}
