//! What many short connections leave behind in a server: descriptors, threads, processes, memory.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::Load as Client;
use crate::measure::{Bench, Row};
use crate::os;
use crate::scenarios::{Metric, Subject};
use crate::server::Server;

/// After how many connections a server has all that it keeps.
const FIRST: u32 = 1000;

/// How many connections there are at a time.
const AT_ONCE: u32 = 32;

/// By how many bytes the private memory may grow: less than 11 for each of 99,000 connections.
pub(crate) const GROWTH_MAX: u32 = 1 << 20;

/// How long a server may take to let go what it keeps for a while: longer than threads wait for their next task.
const PATIENCE: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long all connections may take.
const SECONDS: u32 = 300;

/// What a server and its children have.
struct Has {
    descriptors: u64,
    threads: u64,
    processes: u64,
    private: u64,
}

/// Opens and closes `total` connections with a request each, and compares what there is after the last with what there was
/// after the first 1,000. Both times threads that have nothing to do are given the time to end: among them a few that are
/// left would not be seen.
pub(crate) fn growth(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    total: u32,
) -> Result<()> {
    let server = bench.start(subject)?;
    let start = Has::now(&server)?;
    requests(bench, &server, FIRST)?;
    let before = settled(&server, |has| has.threads <= start.threads)?;
    let begun = Instant::now();
    requests(bench, &server, total - FIRST)?;
    let took = begun.elapsed().as_secs_f64();
    let after = settled(&server, |has| {
        has.threads <= start.threads && has.is_as_good_as(&before)
    })?;
    server.stop()?;
    let grown = |after: u64, before: u64| after as f64 - before as f64;
    let [descriptors, threads, processes, private] = [
        grown(after.descriptors, before.descriptors),
        grown(after.threads, before.threads),
        grown(after.processes, before.processes),
        grown(after.private, before.private),
    ];
    row.figures.extend([
        (Metric::Descriptors, descriptors),
        (Metric::Threads, threads),
        (Metric::Processes, processes),
        (Metric::Grown, private),
    ]);
    row.notes.push(format!(
        "{total} connections, {took:.1} s: {descriptors:+} descriptors to {}, {threads:+} threads to {}, \
         {processes:+} processes to {}, {:+.0} KiB private to {:.0} KiB",
        after.descriptors,
        after.threads,
        after.processes,
        private / 1024.0,
        after.private as f64 / 1024.0
    ));
    Ok(())
}

/// What a server has as soon as it `is_settled`, or what it has kept for longer than idle threads live.
fn settled(server: &Server, is_settled: impl Fn(&Has) -> bool) -> Result<Has> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        thread::sleep(LOOK_EVERY);
        let has = Has::now(server)?;
        if is_settled(&has) || Instant::now() > deadline {
            return Ok(has);
        }
    }
}

/// Makes so many connections, each with a request whose answer is verified.
fn requests(bench: &Bench<'_>, server: &Server, count: u32) -> Result<()> {
    let mut command = bench.programs.load();
    command.args(["requests", &server.url, "--count", &count.to_string()]);
    command.args(["--in-flight", &AT_ONCE.to_string()]);
    command.args(["--seconds", &SECONDS.to_string()]);
    let mut client = Client::start(command)?;
    client.wait_until_ready()?;
    client.begin()?;
    client
        .summary()
        .with_context(|| format!("{count} requests"))?;
    client.end()
}

impl Has {
    fn now(server: &Server) -> Result<Self> {
        let pid = server.pid();
        Ok(Self {
            descriptors: os::descriptors(pid)?,
            threads: os::threads(pid)?,
            processes: os::processes(pid)?,
            private: os::private(pid)?,
        })
    }

    fn is_as_good_as(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.processes <= before.processes
            && self.private <= before.private + u64::from(GROWTH_MAX)
    }
}
