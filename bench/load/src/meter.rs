//! Counting and timing operations.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench_load::Summary;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) struct Meter {
    start: Instant,
    measure: Instant,
    end: Instant,
    /// In nanoseconds.
    latencies: Histogram<u64>,
    total: u64,
    lost: u64,
}

impl Meter {
    pub(crate) fn start(warm_up: Duration, seconds: Duration) -> Result<Self> {
        let start = Instant::now();
        Ok(Self {
            start,
            measure: start + warm_up,
            end: start + warm_up + seconds,
            latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            total: 0,
            lost: 0,
        })
    }

    /// Counts an operation that began at `began` and has just ended. Says whether the time is over.
    pub(crate) fn ended(&mut self, began: Instant) -> bool {
        let now = Instant::now();
        self.total += 1;
        if now >= self.measure && now < self.end {
            let took = u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(took);
        }
        now >= self.end
    }

    pub(crate) fn lost(&mut self) {
        self.lost += 1;
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    pub(crate) fn finish(self) -> Result<Summary> {
        let total = self.start.elapsed();
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let share = |time: TimeVal| time.num_microseconds() as f64 / 1e6 / total.as_secs_f64();
        let percentile = |share| self.latencies.value_at_quantile(share) as f64 / 1e3;
        Ok(Summary {
            measured: self.latencies.len(),
            seconds: (self.end - self.measure).as_secs_f64(),
            total: self.total,
            total_seconds: total.as_secs_f64(),
            lost: self.lost,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            cpu_share: share(usage.user_time() + usage.system_time()),
            user_share: share(usage.user_time()),
            delay_share: run_delay()?.as_secs_f64() / total.as_secs_f64(),
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
