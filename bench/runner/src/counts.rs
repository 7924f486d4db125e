//! What an operation costs, however busy the machine is: the instructions that a server runs outside of the kernel, as
//! valgrind(1) counts them, its system calls, as strace(1) does, and its page faults, as the kernel does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::Load as Client;
use crate::measure::{Bench, Row};
use crate::os;
use crate::scenarios::{Metric, Operation, Subject};
use crate::server::Server;

/// How many operations are counted under strace, whose counts are nearly exact, and under valgrind, where starts differ by some
/// ten thousand instructions.
const FEW: u32 = 500;
const MANY: u32 = 4000;

/// Of so many datagrams one may be answered too late, and be sent again.
const LOST: u32 = 500;

/// Keeps the C library from `rep stosb` and `rep movsb`, which valgrind counts once for each byte.
const NO_REPETITION: &str =
    "glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// The name of the page faults among the counts of system calls.
const FAULTS: &str = "page faults";

/// How long all operations may take.
const SECONDS: u32 = 120;

/// How long strace may take to write its counts once the server has ended.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Counts `n` operations and twice as many. What the second had more is the cost of `n`: start and stop are in both.
pub(crate) fn measure(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    operation: Operation,
) -> Result<()> {
    let mut calls = per_operation(FEW, |count| calls(bench, subject, operation, count))?;
    let faults = calls.remove_entry(FAULTS);
    let is_first = row.figures.is_empty();
    row.figures.push((Metric::Calls, calls.values().sum()));
    if is_first {
        let each = calls.into_iter().chain(faults);
        let each: Vec<_> = each
            .filter(|(_, count)| *count >= 0.005)
            .map(|(name, count)| format!("{name} {count:.2}"))
            .collect();
        row.notes.push(each.join(", "));
    }
    match subject.not_under_valgrind {
        None => {
            let total = per_operation(MANY, |count| {
                let total = instructions(bench, subject, operation, count)?;
                Ok(BTreeMap::from([(String::new(), total)]))
            })?;
            let total = total.into_values().sum();
            row.figures.push((Metric::Instructions, total));
        }
        Some(why) if is_first => row.notes.push(format!("no instructions: {why}")),
        Some(_) => {}
    }
    Ok(())
}

impl Operation {
    /// The load that makes such operations.
    const fn load(self) -> &'static str {
        match self {
            Self::Message => "echo",
            Self::Connection => "requests",
            Self::Datagram => "packets",
        }
    }
}

/// What `n` operations add, by name, to what a server counts for `n`, divided by `n`.
fn per_operation(
    n: u32,
    counts: impl Fn(u32) -> Result<BTreeMap<String, u64>>,
) -> Result<BTreeMap<String, f64>> {
    let (once, twice) = (counts(n)?, counts(2 * n)?);
    let added = |(name, count): (String, u64)| {
        let before = once.get(&name).copied().unwrap_or_default();
        (name, (count as f64 - before as f64) / f64::from(n))
    };
    Ok(twice.into_iter().map(added).collect())
}

/// All instructions of a server, by callgrind.
fn instructions(
    bench: &Bench<'_>,
    subject: &Subject,
    operation: Operation,
    count: u32,
) -> Result<u64> {
    let output = Output::new();
    let mut valgrind = Command::new("valgrind");
    valgrind.env("GLIBC_TUNABLES", NO_REPETITION);
    valgrind.args(["--quiet", "--tool=callgrind"]);
    valgrind.arg(format!("--callgrind-out-file={}", output.0.display()));
    run(bench, subject, operation, count, valgrind)?;
    let text = fs::read_to_string(&output.0).context("read what callgrind has counted")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.context("callgrind has counted nothing")?;
    total.trim().parse().context("the total of callgrind")
}

/// All system calls of a server, its threads and its children, by name, and their page faults.
fn calls(
    bench: &Bench<'_>,
    subject: &Subject,
    operation: Operation,
    count: u32,
) -> Result<BTreeMap<String, u64>> {
    let output = Output::new();
    let mut strace = Command::new("strace");
    // With -D the server is the child of this process, and strace is its grandchild.
    strace.args(["-D", "-f", "-q", "-c", "-U", "calls,name", "-o"]);
    strace.arg(&output.0);
    let faults = run(bench, subject, operation, count, strace)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(&output.0).unwrap_or_default();
        if let Some(mut calls) = summary(&text) {
            calls.insert(FAULTS.to_owned(), faults);
            return Ok(calls);
        }
        ensure!(
            Instant::now() < deadline,
            "strace has counted nothing (in a container it may need --cap-add=SYS_PTRACE)"
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// The counts of strace, once they are whole: the last row is the total.
fn summary(text: &str) -> Option<BTreeMap<String, u64>> {
    let rows = text.lines().filter_map(|line| {
        let (count, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), count.parse().ok()?))
    });
    let mut calls: BTreeMap<String, u64> = rows.collect();
    calls.remove("total")?;
    Some(calls)
}

/// Starts a server under `tool`, puts so many operations on it, one after the other, and stops it. Returns the page faults
/// of the server and of the children that it reaped.
fn run(
    bench: &Bench<'_>,
    subject: &Subject,
    operation: Operation,
    count: u32,
    mut tool: Command,
) -> Result<u64> {
    let program = bench.programs.command(&subject.program)?;
    tool.arg(program.get_program()).args(program.get_args());
    let server = Server::start(tool, bench.progress)?;
    let mut load = bench.programs.load();
    load.args([operation.load(), &server.url, "--in-flight", "1"]);
    load.args(["--count", &count.to_string()]);
    load.args(["--asleep", &server.pid().to_string()]);
    load.args(server.demands_header.then_some("--proxied"));
    load.args(["--warm-up", "0", "--seconds", &SECONDS.to_string()]);
    let mut client = Client::start(load)?;
    client.wait_until_ready()?;
    client.begin()?;
    let summary = client.summary()?;
    client.end()?;
    let before = os::faults_of_children()?;
    server.stop()?;
    let faults = os::faults_of_children()? - before;
    // One that came late was answered twice.
    ensure!(
        summary.lost <= u64::from(count / LOST),
        "{} packets lost",
        summary.lost
    );
    Ok(faults)
}

/// A file that a tool writes.
struct Output(PathBuf);

impl Output {
    fn new() -> Self {
        let name = format!("bench-counts-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // The next one must not find it; and after an error it need not be there.
        let _ = fs::remove_file(Path::new(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{per_operation, summary};

    #[test]
    fn start_and_stop_are_left_out() {
        let count = |n| {
            Ok(BTreeMap::from([(
                "read".to_owned(),
                1000 + 3 * u64::from(n),
            )]))
        };
        let each = per_operation(10, count).unwrap();
        assert_eq!(each, BTreeMap::from([("read".to_owned(), 3.0)]));
    }

    #[test]
    fn the_counts_of_strace_are_read_once_they_are_whole() {
        let part =
            "    calls syscall\n--------- ----------------\n       12 read\n        1 write\n";
        assert_eq!(summary(part), None);
        let whole = format!("{part}--------- ----------------\n       13 total\n");
        let calls = [("read".to_owned(), 12), ("write".to_owned(), 1)];
        assert_eq!(summary(&whole), Some(calls.into()));
    }
}
