//! A timetable: operations are due at a fixed rate, whether answers have come or not, and their latency counts from when
//! they were due. So a server that stalls is charged for all that it has kept waiting.
//!
//! Whether the load has kept to it is told apart from what the server does: how late it was by itself.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bench_load::Offered;
use hdrhistogram::Histogram;

use crate::meter::Meter;

/// How long answers may take after the last operation was sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How many events a wait may bring. Whatever is due is sent after each.
pub(crate) const EVENTS: usize = 32;

pub(crate) struct Timetable {
    rate: f64,
    start: Instant,
    total: u64,
    sent: u64,
    answered: u64,
    /// How late operations were, in nanoseconds.
    late: Histogram<u64>,
    held: u64,
    /// The next operation waits for answers.
    is_held: bool,
    /// When the last one that did was let go.
    released: Instant,
}

impl Timetable {
    /// Of as many operations as fit into the time of a meter that has just been started.
    pub(crate) fn new(rate: f64, meter: &Meter) -> Result<Self> {
        ensure!(rate > 0.0, "the rate is not above 0");
        let (start, time) = meter.times();
        Ok(Self {
            rate,
            start,
            total: (rate * time.as_secs_f64()) as u64,
            sent: 0,
            answered: 0,
            late: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            held: 0,
            is_held: false,
            released: start,
        })
    }

    /// How many were sent: the number of the next one.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// When the next operation was due, if that is not still to come.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = self.start + Duration::from_secs_f64(self.sent as f64 / self.rate);
        (self.sent < self.total && due <= Instant::now()).then_some(due)
    }

    /// Notes that the operation which is due cannot be sent before an answer has come.
    pub(crate) fn hold(&mut self) {
        if !self.is_held {
            self.held += 1;
            self.is_held = true;
        }
    }

    /// Notes that an operation is being sent. What it has waited for answers, or one before it, is not the load's doing.
    pub(crate) fn send(&mut self, due: Instant) {
        let now = Instant::now();
        if std::mem::take(&mut self.is_held) {
            self.released = now;
        }
        let late = now.saturating_duration_since(due.max(self.released));
        self.late
            .saturating_record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        self.sent += 1;
    }

    pub(crate) fn answered(&mut self) {
        self.answered += 1;
    }

    /// Whether all answers have come. That they do not come is an error.
    pub(crate) fn is_over(&self) -> Result<bool> {
        if self.answered == self.total {
            return Ok(true);
        }
        let last = Duration::from_secs_f64(self.total as f64 / self.rate);
        let waited = self.start.elapsed().saturating_sub(last);
        let missing = self.total - self.answered;
        ensure!(
            waited < PATIENCE,
            "{missing} of {} operations are not answered {PATIENCE:?} after the last was due",
            self.total
        );
        Ok(false)
    }

    pub(crate) fn summary(&self) -> Offered {
        let late = |share| self.late.value_at_quantile(share) as f64 / 1e3;
        Offered {
            rate: self.rate,
            late_p50_us: late(0.5),
            late_p99_us: late(0.99),
            late_p999_us: late(0.999),
            held: self.held,
            heavy: None,
        }
    }
}
