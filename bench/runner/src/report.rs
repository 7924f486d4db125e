//! Medians, ratios and verdicts: as tables and as JSON.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use crate::measure::{Round, Row};
use crate::scenarios::{Bound, Metric, Promise, Scenario};

pub(crate) struct Outcome {
    pub(crate) scenario: &'static Scenario,
    pub(crate) rows: Vec<Row>,
}

/// One object of the JSON output.
#[derive(Serialize)]
struct Record {
    scenario: &'static str,
    subject: &'static str,
    baseline: &'static str,
    /// The tool that was not there to run the subject.
    missing: Option<&'static str>,
    /// Why it was given up.
    failure: Option<String>,
    rounds: usize,
    throughput_per_s: Option<f64>,
    cpu_us_per_op: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    rss_bytes_per_conn: Option<f64>,
    wakeups_per_s: Option<f64>,
    /// Relative to the baseline, round by round.
    throughput_ratio: Option<Spread>,
    cpu_ratio: Option<Spread>,
    server_cpu_share: Option<f64>,
    load_cpu_share: Option<f64>,
    packets_lost: u64,
    /// Every round.
    throughputs_per_s: Vec<f64>,
    cpus_us_per_op: Vec<f64>,
    notes: Vec<String>,
}

/// The median of some rounds, and how far they were apart.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len().checked_sub(1)? / 2;
        Some(Self {
            median: f64::midpoint(values[middle], values[values.len() / 2]),
            min: values[0],
            max: values[values.len() - 1],
        })
    }
}

impl Row {
    fn median(&self, value: impl Fn(&Round) -> f64) -> Option<f64> {
        Some(Spread::of(self.rounds.iter().map(value))?.median)
    }

    /// The ratio of a metric to that of another row, round by round.
    fn ratio(&self, other: &Self, metric: Metric) -> Option<Spread> {
        let value = |round: &Round| match metric {
            Metric::Throughput => round.throughput(),
            Metric::Cpu | Metric::WakeUps => round.cpu_us_per_op,
        };
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(this, other)| value(this) / value(other)))
    }

    /// What should be known when the figures are read.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(tool) = self.missing {
            notes.push(format!("missing: this machine has no {tool}"));
        }
        if let Some(failure) = &self.failure {
            notes.push(format!("failed: {failure}"));
        }
        let rounds = self.rounds.len();
        let count = |is: fn(&Round) -> bool| self.rounds.iter().filter(|round| is(round)).count();
        match count(Round::is_bound_by_load) {
            0 => {}
            bound => notes.push(format!("load is the bottleneck in {bound} of {rounds}")),
        }
        match count(Round::is_disturbed) {
            0 => {}
            disturbed => notes.push(format!("disturbed in {disturbed} of {rounds}")),
        }
        match self.lost() {
            0 => {}
            lost => notes.push(format!("{lost} packets lost")),
        }
        notes
    }

    fn lost(&self) -> u64 {
        self.rounds.iter().map(|round| round.load.lost).sum()
    }
}

impl Outcome {
    fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }

    fn record(&self, row: &Row) -> Record {
        let baseline = self.row(self.scenario.baseline);
        Record {
            scenario: self.scenario.name,
            subject: row.subject,
            baseline: self.scenario.baseline,
            missing: row.missing,
            failure: row.failure.clone(),
            rounds: row.rounds.len(),
            throughput_per_s: row.median(Round::throughput),
            cpu_us_per_op: row.median(|round| round.cpu_us_per_op),
            p50_us: row.median(|round| round.load.p50_us),
            p99_us: row.median(|round| round.load.p99_us),
            rss_bytes_per_conn: Spread::of(
                row.rounds
                    .iter()
                    .filter_map(|round| round.rss_bytes_per_conn),
            )
            .map(|spread| spread.median),
            wakeups_per_s: row.wakeups_per_s,
            throughput_ratio: baseline.and_then(|base| row.ratio(base, Metric::Throughput)),
            cpu_ratio: baseline.and_then(|base| row.ratio(base, Metric::Cpu)),
            server_cpu_share: row.median(|round| round.server_share),
            load_cpu_share: row.median(|round| round.load.cpu_share),
            packets_lost: row.lost(),
            throughputs_per_s: row.rounds.iter().map(Round::throughput).collect(),
            cpus_us_per_op: row.rounds.iter().map(|round| round.cpu_us_per_op).collect(),
            notes: row.notes(),
        }
    }

    /// A line that says whether a promise holds.
    fn verdict(&self, promise: &Promise) -> String {
        let Promise {
            subject,
            metric,
            versus,
            bound,
        } = promise;
        let what = match metric {
            Metric::Throughput => "throughput",
            Metric::Cpu => "CPU per operation",
            Metric::WakeUps => "wake-ups per second",
        };
        let row = self.row(subject);
        let other = versus.and_then(|name| self.row(name));
        let value = match (row, other) {
            (Some(row), Some(other)) => row.ratio(other, *metric),
            (Some(row), None) => Spread::of(row.wakeups_per_s),
            (None, _) => None,
        };
        let versus = versus.map_or(String::new(), |name| format!(" relative to {name}"));
        let (limit, word) = match *bound {
            Bound::AtLeast(limit) => (limit, "at least"),
            Bound::AtMost(limit) => (limit, "at most"),
        };
        let promised = format!("{subject}: {what}{versus} {word} {limit}");
        let Some(Spread { median, min, max }) = value else {
            return format!("  unknown  {promised}: not measured");
        };
        let holds = |value: f64| match *bound {
            Bound::AtLeast(limit) => value >= limit,
            Bound::AtMost(limit) => value <= limit,
        };
        // Where the rounds disagree, more of them are needed to say which it is.
        let verdict = match (holds(median), holds(min) || holds(max)) {
            (true, _) => "holds",
            (false, true) => "unclear",
            (false, false) => "MISSES",
        };
        format!("  {verdict:7}  {promised}: {median:.3} ({min:.3} to {max:.3})")
    }
}

pub(crate) fn json(outcomes: &[Outcome]) -> Result<String> {
    let records = outcomes
        .iter()
        .flat_map(|outcome| outcome.rows.iter().map(|row| outcome.record(row)));
    Ok(serde_json::to_string_pretty(&records.collect::<Vec<_>>())?)
}

pub(crate) fn text(outcomes: &[Outcome]) -> Result<String> {
    let mut out = String::new();
    for outcome in outcomes {
        let scenario = outcome.scenario;
        writeln!(out, "\n{}: {}", scenario.name, scenario.about)?;
        writeln!(
            out,
            "  {:26} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7}  {:20} {:20} {:>6} {:>5}",
            "",
            "per s",
            "CPU us",
            "p50 us",
            "p99 us",
            "B/conn",
            "wake/s",
            "x per s",
            "x CPU",
            "server",
            "load"
        )?;
        for row in &outcome.rows {
            let record = outcome.record(row);
            writeln!(
                out,
                "  {:26} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7}  {:20} {:20} {:>6} {:>5}  {}",
                record.subject,
                number(record.throughput_per_s, 0),
                number(record.cpu_us_per_op, 2),
                number(record.p50_us, 1),
                number(record.p99_us, 1),
                number(record.rss_bytes_per_conn, 0),
                number(record.wakeups_per_s, 1),
                spread(record.throughput_ratio),
                spread(record.cpu_ratio),
                percent(record.server_cpu_share),
                percent(record.load_cpu_share),
                record.notes.join("; ")
            )?;
        }
        for promise in scenario.promises {
            writeln!(out, "{}", outcome.verdict(promise))?;
        }
    }
    Ok(out)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, min, max }| format!("{median:.2} ({min:.2}-{max:.2})"),
    )
}
