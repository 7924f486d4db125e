//! What a comparison prints: a table and an answer, or JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::Compare;
use crate::compare::Row;

/// Results that differ by less than this are the same: runs on one machine differ by as much.
const NOISE: f64 = 0.05;

/// Prints the rows on standard output.
pub(super) fn print(rows: &[Row], args: &Compare) -> Result<()> {
    let text = if args.json {
        json(rows)
    } else {
        format!(
            "{}\n\n{}\n{}The chart is in {}.\n",
            title(args),
            table(rows),
            answer(rows),
            args.chart.display()
        )
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever has read enough has closed the pipe.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("print the results"),
    }
}

/// The workload in a line.
pub(super) fn title(args: &Compare) -> String {
    let workload = args.workload;
    let connections = match (args.connections, workload.new_connections) {
        (1, false) => "1 connection".to_owned(),
        (count, false) => format!("{count} connections"),
        (count, true) => format!("{count} clients, a connection for each request"),
    };
    let part = |time: Duration, what: &str| match time {
        Duration::ZERO => format!("no {what}"),
        time => format!("{} of {what}", round_time(time.as_secs_f64() * 1e6)),
    };
    format!(
        "{connections}; {} bytes, {} and {} per request",
        workload.request_size,
        part(workload.cpu, "CPU time"),
        part(workload.wait, "waiting"),
    )
}

/// A time in microseconds, for people: three digits at least, as far as there are any.
pub(super) fn time(micros: f64) -> String {
    match micros {
        ..10.0 => format!("{micros:.1} us"),
        ..1e3 => format!("{micros:.0} us"),
        ..1e4 => format!("{:.2} ms", micros / 1e3),
        ..1e5 => format!("{:.1} ms", micros / 1e3),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// As [`time`], without zeros at its end: for times that people have chosen.
pub(super) fn round_time(micros: f64) -> String {
    let text = time(micros);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {unit}")
        }
        _ => text,
    }
}

/// A number of bytes, for people.
fn bytes(count: f64) -> String {
    match count {
        ..1024.0 => format!("{count:.0} B"),
        ..10_240.0 => format!("{:.1} KiB", count / 1024.0),
        ..1_048_576.0 => format!("{:.0} KiB", count / 1024.0),
        _ => format!("{:.1} MiB", count / 1_048_576.0),
    }
}

/// A count with its thousands apart.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn or_dash(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

const HEADER: [&str; 8] = [
    "model", "req/s", "p50", "p99", "p99.9", "CPU/req", "mem/conn", "served",
];

fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    let mut notes = String::new();
    for row in rows {
        let latency =
            |pick: fn(&super::Latency) -> f64| or_dash(row.latency.as_ref().map(pick), time);
        lines.push([
            row.model.to_string(),
            count(row.throughput),
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
            or_dash(row.cpu_per_request, time),
            or_dash(row.memory_per_connection, bytes),
            format!("{} of {}", row.served, row.connections),
        ]);
        for note in &row.notes {
            let _ = writeln!(notes, "{}: {note}", row.model);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<_> = (0..HEADER.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text
}

/// Which model to use, by plain rules.
fn answer(rows: &[Row]) -> String {
    let (ranked, rest): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_complete());
    let most = best(&ranked, |row| Some(-row.throughput));
    let p99 = |row: &Row| row.latency.map(|latency| latency.p99);
    let choice = best(&best(&most, |row| row.cpu_per_request), p99);
    let mut text = match (choice.as_slice(), ranked.len()) {
        _ if rows.len() == 1 => return String::new(),
        ([], _) => {
            "No model has served every client without an error: none is recommended.\n".to_owned()
        }
        ([choice, ..], 1) => format!(
            "Use {} for this workload: no other has served every client without an error.\n",
            choice.model
        ),
        ([choice, ..], _) => format!(
            "Use {} for this workload. Most requests a second: {}; least CPU time: {}; lowest p99: {}.\n",
            choice.model,
            with_equals(&most),
            with_equals(&best(&ranked, |row| row.cpu_per_request)),
            with_equals(&best(&ranked, p99)),
        ),
    };
    if ranked.len() > 1 && !rest.is_empty() {
        let _ = writeln!(
            text,
            "Not ranked, because they left clients waiting or failed them: {}.",
            names(&rest)
        );
    }
    text
}

/// The rows with the lowest cost and those that are as good but for noise, the best first.
fn best<'a>(rows: &[&'a Row], cost: impl Fn(&Row) -> Option<f64>) -> Vec<&'a Row> {
    let mut costs: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((cost(row)?, *row)))
        .collect();
    costs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let Some(&(lowest, _)) = costs.first() else {
        return Vec::new();
    };
    let limit = lowest + lowest.abs() * NOISE;
    costs.retain(|(cost, _)| *cost <= limit);
    costs.into_iter().map(|(_, row)| row).collect()
}

/// The names of rows, the best first: the others are as good but for noise.
fn with_equals(rows: &[&Row]) -> String {
    match rows {
        [] => "-".to_owned(),
        [best] => best.model.to_string(),
        [best, equals @ ..] => format!("{} (within 5 %: {})", best.model, names(equals)),
    }
}

fn names(rows: &[&Row]) -> String {
    let names: Vec<_> = rows.iter().map(|row| row.model.to_string()).collect();
    names.join(", ")
}

fn json(rows: &[Row]) -> String {
    let number =
        |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |value| format!("{value:.1}"));
    let objects = rows.iter().map(|row| {
        let latency = |pick: fn(&super::Latency) -> f64| number(row.latency.as_ref().map(pick));
        format!(
            "  {{\"model\": \"{}\", \"throughput_per_s\": {}, \"p50_us\": {}, \"p99_us\": {}, \"p999_us\": {}, \
             \"cpu_us_per_op\": {}, \"rss_bytes_per_conn\": {}, \"served_connections\": {}, \"connections\": {}, \"errors\": {}}}",
            row.model,
            number(Some(row.throughput)),
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
            number(row.cpu_per_request),
            row.memory_per_connection.map_or_else(|| "null".to_owned(), |bytes| format!("{bytes:.0}")),
            row.served,
            row.connections,
            row.errors,
        )
    });
    format!("[\n{}\n]\n", objects.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Inner, Model};
    use crate::compare::Latency;

    fn row(inner: Inner, throughput: f64, cpu: f64, p99: f64) -> Row {
        Row {
            model: Model::One(inner),
            connections: 8,
            served: 8,
            errors: 0,
            throughput,
            latency: Some(Latency {
                p50: p99 / 2.0,
                p99,
                p999: p99,
            }),
            cpu_per_request: Some(cpu),
            memory_per_connection: Some(0.0),
            notes: Vec::new(),
        }
    }

    #[track_caller]
    fn answers(rows: &[Row], expected: &str) {
        assert_eq!(answer(rows), expected);
    }

    #[test]
    fn of_equals_the_one_that_takes_less_is_recommended() {
        answers(
            &[
                row(Inner::Threading, 1000.0, 20.0, 300.0),
                row(Inner::Coroutines, 970.0, 10.0, 200.0),
                row(Inner::Pool, 500.0, 5.0, 100.0),
            ],
            "Use coroutines for this workload. Most requests a second: threading (within 5 %: coroutines); \
             least CPU time: pool; lowest p99: pool.\n",
        );
    }

    #[test]
    fn who_leaves_clients_waiting_is_not_recommended() {
        let mut forking = row(Inner::Forking, 2000.0, 1.0, 10.0);
        forking.served = 7;
        let mut pool = row(Inner::Pool, 2000.0, 1.0, 10.0);
        pool.errors = 1;
        let threading = row(Inner::Threading, 1000.0, 20.0, 300.0);
        answers(
            &[forking, pool],
            "No model has served every client without an error: none is recommended.\n",
        );
        let mut waiting = row(Inner::Sequential, 9000.0, 1.0, 1.0);
        waiting.served = 1;
        let rows = [
            waiting,
            threading,
            row(Inner::Coroutines, 100.0, 30.0, 400.0),
        ];
        answers(
            &rows,
            "Use threading for this workload. Most requests a second: threading; least CPU time: threading; \
             lowest p99: threading.\n\
             Not ranked, because they left clients waiting or failed them: sequential.\n",
        );
        answers(
            &rows[..2],
            "Use threading for this workload: no other has served every client without an error.\n",
        );
        answers(&rows[1..2], "");
    }

    #[test]
    fn quantities_for_people() {
        assert_eq!(
            [999.0, 1e3, 1_234_567.0].map(count),
            ["999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [1.25, 999.4, 1500.0, 2e6].map(time),
            ["1.2 us", "999 us", "1.50 ms", "2.00 s"]
        );
        assert_eq!(
            [50.0, 1500.0, 1e4].map(round_time),
            ["50 us", "1.5 ms", "10 ms"]
        );
        assert_eq!(
            [12.0, 2048.0, 3e6].map(bytes),
            ["12 B", "2.0 KiB", "2.9 MiB"]
        );
    }
}
