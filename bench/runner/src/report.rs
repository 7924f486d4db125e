//! Medians, ratios and verdicts: as tables and as JSON.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::{Round, Row};
use crate::scenarios::{self, Load, Metric, Overall, Scenario};
use crate::verdict::{Spread, Verdict};

pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) rows: Vec<Row>,
}

/// One object of the JSON output.
#[derive(Serialize)]
struct Record<'a> {
    scenario: &'a str,
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
    p999_us: Option<f64>,
    /// How late a load with a timetable was by itself.
    late_p99_us: Option<f64>,
    /// Of heavy requests beside those that are told above.
    heavy_p50_us: Option<f64>,
    heavy_p99_us: Option<f64>,
    rss_bytes_per_conn: Option<f64>,
    private_bytes_per_conn: Option<f64>,
    wakeups_per_s: Option<f64>,
    /// Connections that were idle meanwhile, the rate without them, and the rate relative to that.
    idle_connections: Option<f64>,
    alone_throughput_per_s: Option<f64>,
    beside_ratio: Option<Spread>,
    /// The same where the server has 1 GiB of memory more.
    laden_ratio: Option<Spread>,
    p99_beside_ratio: Option<Spread>,
    /// From the signal to the end of the process, and from when it may end; the former the median, the latter the worst.
    stop_ms: Option<f64>,
    stop_worst_ms: Option<f64>,
    /// What many connections have left.
    descriptors_grown: Option<f64>,
    threads_grown: Option<f64>,
    processes_grown: Option<f64>,
    private_bytes_grown: Option<f64>,
    /// What an operation takes: instructions outside of the kernel, and system calls.
    instructions_per_op: Option<Spread>,
    calls_per_op: Option<Spread>,
    instructions_ratio: Option<Spread>,
    calls_ratio: Option<Spread>,
    instructions_ratio_to_tokio: Option<Spread>,
    calls_ratio_to_tokio: Option<Spread>,
    /// Relative to the baseline, round by round.
    throughput_ratio: Option<Spread>,
    cpu_ratio: Option<Spread>,
    server_cpu_share: Option<f64>,
    load_cpu_share: Option<f64>,
    packets_lost: u64,
    /// Every round.
    throughputs_per_s: Vec<f64>,
    cpus_us_per_op: Vec<f64>,
    /// What is promised of the subject.
    promises: Vec<Verdict>,
    notes: Vec<String>,
    machine: &'a Machine,
}

impl Row {
    /// What should be known when the figures are read.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(tool) = self.missing {
            notes.push(format!("missing: {tool}"));
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
        notes.extend(self.timetable());
        notes.extend_from_slice(&self.notes);
        match self.lost() {
            0 => {}
            lost => notes.push(format!("{lost} packets lost")),
        }
        notes
    }

    /// How a load with a timetable has kept to it, and what the heavy requests took.
    fn timetable(&self) -> Vec<String> {
        let offered = |round: &Round| round.load.offered.clone();
        let Some(late) = self.median_of(|round| Some(offered(round)?.late_p99_us)) else {
            return Vec::new();
        };
        let mut notes = vec![format!("load late by {late:.1} us (p99)")];
        let held: u64 = self.rounds.iter().filter_map(offered).map(|o| o.held).sum();
        if held > 0 {
            notes.push(format!("{held} times held back until answers came"));
        }
        let lacking = self
            .rounds
            .iter()
            .filter(|round| round.load.p999_us.is_none());
        match lacking.count() {
            0 => {}
            count => notes.push(format!("load too late for p99.9 in {count}")),
        }
        if let Some(heavy) = self.median_of(|round| Some(round.heavy()?.p50_us)) {
            notes.push(format!("heavy ones take {:.1} ms (p50)", heavy / 1e3));
        }
        notes
    }

    /// A figure that is measured once.
    pub(crate) fn figure(&self, metric: Metric) -> Option<f64> {
        let mut figures = self.figures.iter();
        let (_, value) = figures.find(|(known, _)| *known == metric)?;
        Some(*value)
    }

    fn lost(&self) -> u64 {
        self.rounds.iter().map(|round| round.load.lost).sum()
    }
}

impl Outcome {
    pub(crate) fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let promises = self.scenario.promises.iter();
        promises
            .map(|promise| Verdict::of(promise, &[self]))
            .collect()
    }

    fn record<'a>(&'a self, row: &Row, machine: &'a Machine) -> Record<'a> {
        let baseline = self.row(self.scenario.baseline);
        let tokio = self.row(scenarios::TOKIO);
        let mut promises = self.verdicts();
        promises.retain(|verdict| verdict.subject == row.subject);
        let resident = row.figure(Metric::Resident);
        Record {
            scenario: &self.scenario.name,
            subject: row.subject,
            baseline: self.scenario.baseline,
            missing: row.missing,
            failure: row.failure.clone(),
            rounds: row.rounds.len(),
            throughput_per_s: row.median(Round::throughput),
            cpu_us_per_op: row.median(|round| round.cpu_us_per_op),
            p50_us: row.median(|round| round.load.p50_us),
            p99_us: row.median(|round| round.load.p99_us),
            p999_us: row.median_of(|round| round.load.p999_us),
            late_p99_us: row.median_of(|round| Some(round.load.offered.as_ref()?.late_p99_us)),
            heavy_p50_us: row.median_of(|round| Some(round.heavy()?.p50_us)),
            heavy_p99_us: row.median_of(|round| Some(round.heavy()?.p99_us)),
            rss_bytes_per_conn: resident
                .or_else(|| row.median_of(|round| round.rss_bytes_per_conn)),
            private_bytes_per_conn: row.figure(Metric::Memory),
            wakeups_per_s: row.figure(Metric::WakeUps),
            idle_connections: row.figure(Metric::Idle),
            alone_throughput_per_s: row.figure(Metric::Alone),
            beside_ratio: row.spread(Metric::Beside),
            laden_ratio: row.spread(Metric::Laden),
            p99_beside_ratio: row.spread(Metric::P99Beside),
            stop_ms: row.figure(Metric::Stop),
            stop_worst_ms: row.figure(Metric::StopWorst),
            descriptors_grown: row.figure(Metric::Descriptors),
            threads_grown: row.figure(Metric::Threads),
            processes_grown: row.figure(Metric::Processes),
            private_bytes_grown: row.figure(Metric::Grown),
            instructions_per_op: row.spread(Metric::Instructions),
            calls_per_op: row.spread(Metric::Calls),
            instructions_ratio: baseline.and_then(|base| row.ratio(base, Metric::Instructions)),
            calls_ratio: baseline.and_then(|base| row.ratio(base, Metric::Calls)),
            instructions_ratio_to_tokio: tokio
                .and_then(|tokio| row.ratio(tokio, Metric::Instructions)),
            calls_ratio_to_tokio: tokio.and_then(|tokio| row.ratio(tokio, Metric::Calls)),
            throughput_ratio: baseline.and_then(|base| row.ratio(base, Metric::Throughput)),
            cpu_ratio: baseline.and_then(|base| row.ratio(base, Metric::Cpu)),
            server_cpu_share: row.median(|round| round.server_share),
            load_cpu_share: row.median(|round| round.load.cpu_share),
            packets_lost: row.lost(),
            throughputs_per_s: row.rounds.iter().map(Round::throughput).collect(),
            cpus_us_per_op: row.rounds.iter().map(|round| round.cpu_us_per_op).collect(),
            promises,
            notes: row.notes(),
            machine,
        }
    }
}

pub(crate) fn json(outcomes: &[Outcome], machine: &Machine) -> Result<String> {
    let records = outcomes.iter().flat_map(|outcome| {
        let rows = outcome.rows.iter();
        rows.map(|row| outcome.record(row, machine))
    });
    Ok(serde_json::to_string_pretty(&records.collect::<Vec<_>>())?)
}

/// Tables, verdicts, and what is promised of several scenarios if one of them was measured.
pub(crate) fn text(outcomes: &[Outcome], overall: &[Overall], machine: &Machine) -> Result<String> {
    let mut out = machine.text();
    for outcome in outcomes {
        match outcome.scenario.load {
            Load::Counts(_) => counts(&mut out, outcome, machine)?,
            _ => table(&mut out, outcome, machine)?,
        }
        for verdict in outcome.verdicts() {
            writeln!(out, "  {verdict}")?;
        }
    }
    for Overall { scenarios, promise } in overall {
        let is_part = |outcome: &&Outcome| scenarios.contains(&outcome.scenario.name);
        let measured: Vec<_> = outcomes.iter().filter(is_part).collect();
        if measured.is_empty() {
            continue;
        }
        writeln!(out, "\nmedian over {}", scenarios.join(", "))?;
        if measured.len() < scenarios.len() {
            writeln!(out, "  not told: not all of them were measured")?;
        } else {
            writeln!(out, "  {}", Verdict::of(promise, &measured))?;
        }
    }
    Ok(out)
}

fn table(out: &mut String, outcome: &Outcome, machine: &Machine) -> Result<()> {
    let scenario = &outcome.scenario;
    writeln!(out, "\n{}: {}", scenario.name, scenario.about)?;
    writeln!(
        out,
        "  {:34} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}  {:20} {:20} {:>6} {:>5}",
        "",
        "per s",
        "CPU us",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "B/conn",
        "private",
        "wake/s",
        "x per s",
        "x CPU",
        "server",
        "load"
    )?;
    for row in &outcome.rows {
        let record = outcome.record(row, machine);
        writeln!(
            out,
            "  {:34} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}  {:20} {:20} {:>6} {:>5}  {}",
            record.subject,
            number(record.throughput_per_s, 0),
            number(record.cpu_us_per_op, 2),
            number(record.p50_us, 1),
            number(record.p99_us, 1),
            number(record.p999_us, 1),
            number(record.rss_bytes_per_conn, 0),
            number(record.private_bytes_per_conn, 0),
            number(record.wakeups_per_s, 1),
            spread(record.throughput_ratio),
            spread(record.cpu_ratio),
            percent(record.server_cpu_share),
            percent(record.load_cpu_share),
            record.notes.join("; ")
        )?;
    }
    Ok(())
}

/// What is counted is compared with the baseline, and with tokio.
fn counts(out: &mut String, outcome: &Outcome, machine: &Machine) -> Result<()> {
    let scenario = &outcome.scenario;
    writeln!(out, "\n{}: {}", scenario.name, scenario.about)?;
    let heads = ["", "instructions", "x", "x tokio", "calls", "x", "x tokio"];
    let [
        name,
        instructions,
        ratio,
        to_tokio,
        calls,
        calls_ratio,
        calls_to_tokio,
    ] = heads;
    writeln!(
        out,
        "  {name:34} {instructions:22} {ratio:>7} {to_tokio:>7} {calls:>7} {calls_ratio:>7} {calls_to_tokio:>7}"
    )?;
    let median = |spread: Option<Spread>| number(spread.map(|spread| spread.median), 2);
    for row in &outcome.rows {
        let record = outcome.record(row, machine);
        let instructions = record.instructions_per_op.map_or_else(
            || "-".to_owned(),
            |Spread { median, min, max }| format!("{median:.0} ({min:.0}-{max:.0})"),
        );
        writeln!(
            out,
            "  {:34} {instructions:22} {:>7} {:>7} {:>7} {:>7} {:>7}  {}",
            record.subject,
            median(record.instructions_ratio),
            median(record.instructions_ratio_to_tokio),
            median(record.calls_per_op),
            median(record.calls_ratio),
            median(record.calls_ratio_to_tokio),
            record.notes.join("; ")
        )?;
    }
    Ok(())
}

fn number(value: Option<f64>, digits: usize) -> String {
    let value = value.filter(|value| !value.is_nan());
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
