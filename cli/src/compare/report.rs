//! What a comparison prints: a table and an answer, or JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};

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
    format!(
        "{connections}; {} bytes, {} of CPU and {} of waiting per request",
        workload.request_size,
        time(workload.cpu.as_secs_f64() * 1e6),
        time(workload.wait.as_secs_f64() * 1e6),
    )
}

/// A time in microseconds, for people: three digits at least, as far as there are any.
pub(super) fn time(micros: f64) -> String {
    match micros {
        0.0 => "none".to_owned(),
        ..10.0 => format!("{micros:.1} us"),
        ..1e3 => format!("{micros:.0} us"),
        ..1e4 => format!("{:.2} ms", micros / 1e3),
        ..1e5 => format!("{:.1} ms", micros / 1e3),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
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
        if index > 0 && (digits.len() - index) % 3 == 0 {
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
    let complete: Vec<_> = rows.iter().filter(|row| row.is_complete()).collect();
    if rows.len() == 1 {
        return String::new();
    }
    let mut text = String::new();
    let ranked: Vec<_> = if complete.is_empty() {
        text.push_str("No model has served every client without an error.\n");
        rows.iter().filter(|row| row.latency.is_some()).collect()
    } else {
        complete
    };
    let most = best(&ranked, |row| Some(-row.throughput));
    let least_cpu = best(&most, |row| row.cpu_per_request);
    let choice = best(&least_cpu, |row| row.latency.map(|latency| latency.p99));
    let Some(choice) = choice.first() else {
        return text;
    };
    let _ = writeln!(
        text,
        "Use {} for this workload. Most requests a second: {}; least CPU time: {}; lowest p99: {}.",
        choice.model,
        names(&most),
        names(&best(&ranked, |row| row.cpu_per_request)),
        names(&best(&ranked, |row| row.latency.map(|latency| latency.p99))),
    );
    let rest = rows
        .iter()
        .filter(|row| !ranked.iter().any(|other| std::ptr::eq(*other, *row)));
    let rest: Vec<_> = rest.collect();
    if !rest.is_empty() {
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

/// The names of rows; those after the first are as good but for noise.
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
