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

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::Timetable;
    use crate::meter::Meter;

    const PAUSE: Duration = Duration::from_millis(20);

    /// A meter that has just begun, and its timetable of two operations.
    fn begun() -> (Meter, Timetable) {
        let mut meter = Meter::new(Duration::ZERO, Duration::from_millis(2), None).unwrap();
        meter.start().unwrap();
        let timetable = Timetable::new(1000.0, &meter).unwrap();
        (meter, timetable)
    }

    #[test]
    fn what_is_sent_late_counts_from_when_it_was_due() {
        let (mut meter, mut timetable) = begun();
        sleep(PAUSE);
        let due = timetable.due().unwrap();
        timetable.send(due);
        meter.answered(due);
        assert!(meter.summary().unwrap().p50_us >= 20_000.0);
        assert!(timetable.summary().late_p50_us >= 20_000.0);
    }

    #[test]
    fn waiting_for_answers_is_not_the_load_being_late() {
        let (_, mut timetable) = begun();
        let due = timetable.due().unwrap();
        timetable.hold();
        sleep(PAUSE);
        timetable.hold();
        timetable.send(due);
        // It became due meanwhile, and was kept by the one before it.
        timetable.send(timetable.due().unwrap());
        let summary = timetable.summary();
        assert_eq!(summary.held, 1);
        assert!(summary.late_p99_us < 20_000.0);
    }

    #[test]
    fn it_is_over_when_all_are_answered_and_not_when_all_are_sent() {
        let (_, mut timetable) = begun();
        sleep(PAUSE);
        for _ in 0..2 {
            timetable.send(timetable.due().unwrap());
        }
        assert!(timetable.due().is_none());
        assert!(!timetable.is_over().unwrap());
        timetable.answered();
        timetable.answered();
        assert!(timetable.is_over().unwrap());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        timetable.start = long_ago;
        timetable.total = 3;
        assert!(timetable.is_over().is_err());
    }
}
