//! Medians, ratios, and whether promises hold.

use std::fmt;

use serde::Serialize;

use crate::measure::{Round, Row};
use crate::report::Outcome;
use crate::scenarios::{Bound, Metric, Promise, Versus};

/// The median of some rounds, and how far they were apart.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
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
    pub(crate) fn median(&self, value: impl Fn(&Round) -> f64) -> Option<f64> {
        self.median_of(|round| Some(value(round)))
    }

    /// The median of the rounds that have a value.
    pub(crate) fn median_of(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        Some(Spread::of(self.rounds.iter().filter_map(value))?.median)
    }

    /// What was measured, once or in each round.
    fn values(&self, metric: Metric) -> Vec<f64> {
        let figures = self.figures.iter();
        let figures = figures.filter_map(|&(known, value)| (known == metric).then_some(value));
        let rounds = self.rounds.iter();
        let rounds = rounds.filter_map(|round| round.value(metric));
        figures.chain(rounds).collect()
    }

    pub(crate) fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.values(metric))
    }

    /// The ratio of a metric to that of another row.
    pub(crate) fn ratio(&self, other: &Self, metric: Metric) -> Option<Spread> {
        Spread::of(self.ratios(other, metric))
    }

    /// Round by round.
    fn ratios(&self, other: &Self, metric: Metric) -> Vec<f64> {
        let pairs = self.values(metric).into_iter().zip(other.values(metric));
        pairs.map(|(this, other)| this / other).collect()
    }
}

impl Round {
    fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Throughput => Some(self.throughput()),
            Metric::Cpu => Some(self.cpu_us_per_op),
            Metric::P50 => Some(self.load.p50_us),
            Metric::P99 => Some(self.load.p99_us),
            _ => None,
        }
    }
}

/// Whether a promise holds.
#[derive(Serialize)]
pub(crate) struct Verdict {
    #[serde(skip)]
    pub(crate) subject: &'static str,
    /// The promise in words.
    promise: String,
    measured: Option<Spread>,
    verdict: &'static str,
}

impl Verdict {
    /// Looks at the median over scenarios, if there are several: first over the scenarios in each round, then over the
    /// rounds.
    pub(crate) fn of(promise: &Promise, outcomes: &[&Outcome]) -> Self {
        let (subject, metric) = (promise.subject, promise.metric);
        let others: Vec<_> = outcomes
            .iter()
            .map(|outcome| versus(outcome, promise))
            .collect();
        let measured = match promise.versus {
            Versus::Nothing => {
                let rows = outcomes.iter().filter_map(|outcome| outcome.row(subject));
                Spread::of(rows.flat_map(|row| row.values(metric)))
            }
            Versus::Subject(_) | Versus::Best(_) => medians(promise, outcomes, &others),
        };
        let relative = match (promise.versus, others.first()) {
            (Versus::Nothing, _) => String::new(),
            (Versus::Subject(name), _) => format!(" relative to {name}"),
            (Versus::Best(_), Some(Some(row))) => {
                format!(
                    " relative to {}, which was the best of its kind",
                    row.subject
                )
            }
            (Versus::Best(names), _) => format!(" relative to the best of {}", names.join(", ")),
        };
        let (limit, word) = match promise.bound {
            Bound::AtLeast(limit) => (limit, "at least"),
            Bound::AtMost(limit) => (limit, "at most"),
            Bound::Below(limit) => (limit, "below"),
        };
        Self {
            subject,
            promise: format!("{subject}: {}{relative}, {word} {limit}", metric.title()),
            verdict: measured.map_or("not measured", |measured| judge(measured, promise.bound)),
            measured,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:12}  {}", self.verdict, self.promise)?;
        match self.measured {
            Some(Spread { median, min, max }) => write!(f, ": {median:.3} ({min:.3} to {max:.3})"),
            None => Ok(()),
        }
    }
}

/// Where the rounds disagree, more of them are needed to say which it is.
fn judge(Spread { median, min, max }: Spread, bound: Bound) -> &'static str {
    let holds = |value: f64| match bound {
        Bound::AtLeast(limit) => value >= limit,
        Bound::AtMost(limit) => value <= limit,
        Bound::Below(limit) => value < limit,
    };
    match (holds(median), holds(min) || holds(max)) {
        (true, _) => "holds",
        (false, true) => "unclear",
        (false, false) => "MISSES",
    }
}

/// The row that a promise compares with, if it was measured.
fn versus<'a>(outcome: &'a Outcome, promise: &Promise) -> Option<&'a Row> {
    match promise.versus {
        Versus::Nothing => None,
        Versus::Subject(name) => outcome.row(name),
        Versus::Best(names) => {
            let value = |row: &&Row| {
                let median = row.median_of(|round| round.value(promise.metric));
                match promise.metric {
                    Metric::Throughput => median.map(|value| -value),
                    _ => median,
                }
            };
            let rows = names.iter().filter_map(|name| outcome.row(name));
            rows.filter(|row| value(row).is_some())
                .min_by(|a, b| value(a).partial_cmp(&value(b)).expect("both are numbers"))
        }
    }
}

/// The ratios of the rounds: in each the median over the scenarios.
fn medians(promise: &Promise, outcomes: &[&Outcome], others: &[Option<&Row>]) -> Option<Spread> {
    let mut scenarios = Vec::new();
    for (outcome, other) in outcomes.iter().zip(others) {
        let ratios = outcome
            .row(promise.subject)?
            .ratios((*other)?, promise.metric);
        scenarios.push(ratios);
    }
    let rounds = scenarios.iter().map(Vec::len).min()?;
    let median = |round: usize| {
        let ratios = scenarios.iter().map(|ratios| ratios[round]);
        Spread::of(ratios).map_or(f64::NAN, |spread| spread.median)
    };
    Spread::of((0..rounds).map(median))
}

#[cfg(test)]
mod tests {
    use bench_load::Summary;

    use super::{Spread, Verdict, judge};
    use crate::measure::{Round, Row};
    use crate::report::Outcome;
    use crate::scenarios::{Bound, Load, Metric, Promise, Scenario, Versus};

    fn row(subject: &'static str, cpus: &[f64]) -> Row {
        let round = |cpu: &f64| Round {
            load: Summary {
                measured: 1,
                seconds: 1.0,
                total: 1,
                total_seconds: 1.0,
                lost: 0,
                p50_us: 0.0,
                p99_us: 0.0,
                p999_us: None,
                cpu_share: 0.0,
                user_share: 0.0,
                delay_share: 0.0,
                offered: None,
            },
            cpu_us_per_op: *cpu,
            rss_bytes_per_conn: None,
            server_share: 0.0,
            others_share: 0.0,
        };
        Row {
            subject,
            missing: None,
            failure: None,
            rounds: cpus.iter().map(round).collect(),
            figures: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn outcome(rows: Vec<Row>) -> Outcome {
        Outcome {
            scenario: Scenario::new("test", "a test", Load::Requests(1)),
            rows,
        }
    }

    fn promise(versus: Versus) -> Promise {
        Promise {
            subject: "ours",
            metric: Metric::Cpu,
            versus,
            bound: Bound::AtMost(1.0),
        }
    }

    #[test]
    fn a_promise_is_unclear_when_only_some_rounds_hold() {
        let spread = |median, min, max| Spread { median, min, max };
        assert_eq!(judge(spread(1.0, 0.9, 1.1), Bound::AtMost(1.0)), "holds");
        assert_eq!(judge(spread(1.0, 0.9, 1.1), Bound::Below(1.0)), "unclear");
        assert_eq!(judge(spread(1.2, 1.1, 1.3), Bound::Below(1.0)), "MISSES");
        assert_eq!(
            judge(spread(0.8, 0.7, 0.95), Bound::AtLeast(0.9)),
            "unclear"
        );
    }

    #[test]
    fn the_better_of_several_is_compared_with_and_named() {
        let rows = [("ours", [3.0]), ("slow", [4.0]), ("fast", [2.0])];
        let test = outcome(rows.map(|(name, cpus)| row(name, &cpus)).into());
        let verdict = Verdict::of(&promise(Versus::Best(&["slow", "fast"])), &[&test]);
        assert_eq!(verdict.measured.map(|measured| measured.median), Some(1.5));
        assert!(verdict.promise.contains("relative to fast"));
    }

    #[test]
    fn the_median_over_scenarios_is_taken_in_each_round() {
        let scenario = |ours: [f64; 2]| outcome(vec![row("ours", &ours), row("theirs", &[1.0; 2])]);
        let all = [
            scenario([1.0, 5.0]),
            scenario([2.0, 4.0]),
            scenario([9.0, 3.0]),
        ];
        let verdict = Verdict::of(&promise(Versus::Subject("theirs")), &all.each_ref());
        let measured = verdict.measured.unwrap();
        assert_eq!((measured.min, measured.max), (2.0, 4.0));
        assert_eq!(measured.median, 3.0);
    }

    #[test]
    fn a_rival_that_was_not_measured_decides_nothing() {
        let test = outcome(vec![row("ours", &[1.0]), row("theirs", &[])]);
        let verdict = Verdict::of(&promise(Versus::Subject("theirs")), &[&test]);
        assert_eq!(verdict.verdict, "not measured");
    }

    #[test]
    fn a_promise_about_a_figure_is_about_the_rounds_if_there_are_some() {
        let test = outcome(vec![row("ours", &[0.5, 0.7, 3.0])]);
        let verdict = Verdict::of(&promise(Versus::Nothing), &[&test]);
        assert_eq!(verdict.measured.map(|measured| measured.median), Some(0.7));
        assert_eq!(verdict.verdict, "holds");
    }
}
