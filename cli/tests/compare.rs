//! `socketserver compare` from outside: what it prints, what it writes, and what it leaves behind.

#[allow(dead_code, reason = "what only servers need is not used here")]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, getpgid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use support::{DEADLINE, Exit, Process, command, poll_until, unique_name};

const MODELS: [&str; 7] = [
    "sequential",
    "threading",
    "pool",
    "forking",
    "prefork",
    "coroutines",
    "prefork:coroutines",
];

/// A comparison, and how to find its processes: their environment has a name of its own.
struct Comparison {
    process: Process,
    name: String,
    directory: TempDir,
}

impl Comparison {
    fn start(words: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = unique_name();
        let mut command = compare(words);
        command
            .arg("--chart")
            .arg(directory.path().join("chart.svg"))
            .env("COMPARISON", &name);
        Self {
            process: Process::start(command),
            name,
            directory,
        }
    }

    /// Its processes whose command line has the word; servers have `workload`.
    fn processes(&self, word: &str) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").expect("list processes");
        let has = |path: PathBuf, text: &str| {
            // A process that has just ended has neither.
            let content = fs::read(path).unwrap_or_default();
            content
                .split(|byte| *byte == 0)
                .any(|part| part == text.as_bytes())
        };
        let variable = format!("COMPARISON={}", self.name);
        entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let path = entry.path();
                let is_one =
                    has(path.join("environ"), &variable) && has(path.join("cmdline"), word);
                Pid::from_raw(pid).filter(|_| is_one)
            })
            .collect()
    }

    /// Waits until the clients have begun: the server forks for each of them, and has a process
    /// itself and for its first request before.
    #[track_caller]
    fn wait_for_clients(&self) -> Vec<Pid> {
        self.wait_until(|servers| servers > 3)
    }

    #[track_caller]
    fn wait_until(&self, enough: impl Fn(usize) -> bool) -> Vec<Pid> {
        poll_until("as many servers as are wanted", DEADLINE, || {
            let servers = self.processes("workload");
            enough(servers.len()).then_some(servers)
        })
    }

    fn chart(&self) -> PathBuf {
        self.directory.path().join("chart.svg")
    }

    /// Waits for its end, with a deadline for each model.
    #[track_caller]
    fn exit(&mut self, models: &[&str]) -> Exit {
        for (index, model) in models.iter().enumerate() {
            let expected = format!("measuring {model} ({} of {})", index + 1, models.len());
            assert_eq!(self.process.next_line(), expected);
        }
        let exit = self.process.exit();
        let left = self.processes("workload");
        assert!(left.is_empty(), "{left:?} are left after {exit:?}");
        exit
    }

    /// Waits for its end, which must be a failure while its first model was measured.
    #[track_caller]
    fn fails(&mut self, model: &str, how: &str) {
        let exit = self.exit(&[model]);
        let line = format!("socketserver: compare {model}: {how}");
        assert_eq!((exit.code, exit.stderr), (Some(1), vec![line]));
        assert_eq!(exit.stdout.len(), 0);
        assert!(!self.chart().exists(), "a chart of nothing");
    }
}

fn compare(words: &str) -> Command {
    command(&format!("compare {words}"), &[])
}

/// The rows of a comparison that must succeed, as JSON.
#[track_caller]
fn rows(words: &str, models: &[&str]) -> Vec<Value> {
    let words = format!("{words} --json --models {}", models.join(","));
    let mut comparison = Comparison::start(&words);
    let exit = comparison.exit(models);
    assert_eq!((exit.code, &exit.stderr), (Some(0), &Vec::new()), "{words}");
    let rows: Vec<Value> = serde_json::from_str(&exit.stdout.join("\n")).expect("JSON");
    let names: Vec<_> = rows.iter().map(|row| row["model"].as_str()).collect();
    let expected: Vec<_> = models.iter().map(|model| Some(*model)).collect();
    assert_eq!(names, expected);
    for row in &rows {
        assert!(number(row, "throughput_per_s") > 0.0, "{row}");
        assert_eq!(number(row, "errors"), 0.0, "{row}");
    }
    let chart = fs::read_to_string(comparison.chart()).expect("a chart");
    assert!(
        chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>"),
        "{chart}"
    );
    for model in models {
        let count = chart.lines().filter(|line| line.trim() == *model).count();
        assert_eq!(count, 2, "{model} has a line in both parts of {chart}");
    }
    rows
}

#[track_caller]
fn number(row: &Value, key: &str) -> f64 {
    row[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {row}"))
}

#[test]
fn every_model_has_a_row_and_a_place_in_the_chart() {
    let rows = rows("--seconds 1 --connections 4 --workers 2", &MODELS);
    for row in &rows {
        let model = row["model"].as_str().expect("a name");
        // One thread, two threads, and as many as it takes.
        let served = match model {
            "sequential" => 1.0,
            "pool" => 2.0,
            _ => 4.0,
        };
        assert_eq!(number(row, "served_connections"), served, "{row}");
        assert_eq!(number(row, "connections"), 4.0, "{row}");
        let latencies = ["p50_us", "p99_us", "p999_us"].map(|key| number(row, key));
        assert!(latencies.is_sorted(), "{row}");
        // It waits for 1 ms and computes for 50 us.
        assert!(latencies[0] > 1050.0, "{row}");
        assert!(number(row, "cpu_us_per_op") >= 0.0, "{row}");
        assert!(number(row, "rss_bytes_per_conn") >= 0.0, "{row}");
    }
    // A process for each connection takes pages of its own, a few at least.
    assert!(
        number(&rows[3], "rss_bytes_per_conn") > 8192.0,
        "{}",
        rows[3]
    );
}

#[test]
fn a_connection_for_each_request_lets_every_model_serve_everyone() {
    let models = ["sequential", "pool", "forking", "coroutines"];
    for row in rows("--seconds 1 --connections 4 --new-connections", &models) {
        assert_eq!(number(&row, "served_connections"), 4.0, "{row}");
    }
}

#[test]
fn the_workload_is_what_it_is_said_to_be() {
    let words = "--seconds 1 --connections 2 --cpu 3000 --wait 4000 --request-size 200000";
    for row in rows(words, &["threading", "forking", "coroutines"]) {
        assert!(number(&row, "p50_us") > 7000.0, "{row}");
        // The kernel tells the time to 10 ms, of more than a hundred requests.
        assert!(number(&row, "cpu_us_per_op") > 2700.0, "{row}");
    }
}

#[test]
fn the_table_has_an_answer() {
    let models = ["sequential", "threading", "coroutines"];
    let words = format!(
        "--seconds 0.5 --connections 2 --models {}",
        models.join(",")
    );
    let mut comparison = Comparison::start(&words);
    let exit = comparison.exit(&models);
    assert_eq!((exit.code, &exit.stderr), (Some(0), &Vec::new()));
    let [
        title,
        empty,
        header,
        sequential,
        threading,
        coroutines,
        answer @ ..,
    ] = &exit.stdout[..]
    else {
        panic!("{exit:?}");
    };
    assert_eq!(
        title,
        "2 connections; 128 bytes, 50 us of CPU time and 1 ms of waiting per request"
    );
    assert_eq!(empty, "");
    let columns = [
        "model", "req/s", "p50", "p99", "p99.9", "CPU/req", "mem/conn", "served",
    ];
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), columns);
    let lines = [header, sequential, threading, coroutines];
    assert!(
        lines.iter().all(|line| line.len() == header.len()),
        "{exit:?}"
    );
    assert!(sequential.starts_with("sequential ") && sequential.ends_with(" 1 of 2"));
    assert!(threading.starts_with("threading ") && threading.ends_with(" 2 of 2"));
    assert!(coroutines.starts_with("coroutines ") && coroutines.ends_with(" 2 of 2"));
    let has = |start: &str| answer.iter().any(|line| line.starts_with(start));
    assert!(
        has("Use threading ") || has("Use coroutines "),
        "{answer:?}"
    );
    assert!(has("Not ranked, ") && has("The chart is in "), "{answer:?}");
}

/// A comparison that takes long, and has a process for each of five clients.
const LONG: &str = "--seconds 60 --connections 5 --workers 1 --models prefork:forking";

#[test]
fn a_signal_stops_it_and_its_servers() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut comparison = Comparison::start(LONG);
        comparison.wait_for_clients();
        comparison.process.signal(signal);
        comparison.fails("prefork:forking", "stopped by a signal");
    }
}

#[test]
fn a_server_that_dies_is_an_error() {
    let mut comparison = Comparison::start(LONG);
    let servers = comparison.wait_for_clients();
    let is_leader = |pid: &&Pid| getpgid(Some(**pid)) == Ok(**pid);
    let leader = servers.iter().find(is_leader).expect("a process group");
    kill_process(*leader, Signal::KILL).expect("kill the server");
    comparison.fails(
        "prefork:forking",
        "the server of prefork:forking ended early with signal 9",
    );
}

#[test]
fn servers_do_not_outlive_it_when_it_is_killed() {
    let mut comparison = Comparison::start(LONG);
    comparison.wait_for_clients();
    comparison.process.signal(Signal::KILL);
    assert_eq!(comparison.process.exit().code, None);
    comparison.wait_until(|servers| servers == 0);
}

#[track_caller]
fn fails(words: &str, code: i32, part: &str) {
    let exit = Process::start(compare(words)).exit();
    let [line] = exit.stderr.as_slice() else {
        panic!("not one line: {exit:?}");
    };
    assert_eq!((exit.code, exit.stdout.len()), (Some(code), 0), "{line}");
    assert!(line.starts_with("socketserver: "), "{line}");
    assert!(line.contains(part), "{part:?} is missing in: {line}");
}

#[test]
fn wrong_values_are_wrong_usage() {
    for (words, part) in [
        ("--connections 0", "--connections"),
        ("--connections 20001", "--connections"),
        ("--request-size 0", "--request-size"),
        ("--cpu much", "--cpu"),
        ("--wait 1.5", "--wait"),
        ("--seconds 0", "--seconds"),
        ("--seconds 1e19", "--seconds"),
        ("--seconds 1 --wait 1000000", "--seconds is too short"),
        ("--models pool,nothing", "a model is one of"),
        ("--workers 0", "--workers"),
        ("echo", "unexpected argument"),
    ] {
        fails(words, 2, part);
    }
}

#[test]
fn a_chart_that_cannot_be_written_is_known_before_anything_is_measured() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("missing/chart.svg");
    let words = format!("--chart {}", path.display());
    let line = format!("write the chart to {}: No such file", path.display());
    fails(&words, 1, &line);
    fails("--chart /", 1, "write the chart to /: Is a directory");
}

#[test]
fn more_connections_than_descriptors_are_an_error() {
    let mut command = support::command_after("ulimit -n 500", "compare --connections 400", &[]);
    command.args(["--chart", "/dev/null"]);
    let exit = Process::start(command).exit();
    let line = "socketserver: open 400 connections: that takes 656 descriptors, and the hard limit is 500 (ulimit -Hn)";
    assert_eq!((exit.code, exit.stderr), (Some(1), vec![line.to_owned()]));
}
