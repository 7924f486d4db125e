//! `socketserver compare`: the same workload under one model after the other.
//!
//! Data flows one way: `args` → for each model a `server` (watched through `watch` and `proc`) with
//! a `load` on it → a [`Row`] → `report` and `chart`, which know only rows.

mod chart;
mod load;
mod proc;
mod report;
mod server;
mod watch;

use std::num::NonZero;
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::{Compare, Model};
use chart::ChartFile;
use load::{Halt, Plan, Probe, Tally};
use server::Server;
use watch::{Interrupts, Progress};

/// How long a server may take for its first answer, beside what the workload takes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors that are no connections, of this process and of a server.
const OTHER_DESCRIPTORS: u64 = 256;
/// From which share of its time on a thread of clients may have been too slow for the server.
const BUSY: f64 = 0.9;

/// What was measured of a model.
#[derive(Debug)]
struct Row {
    model: Model,
    connections: u32,
    /// How many of them were ever answered.
    served: u64,
    /// How many of them an error has ended.
    errors: u64,
    throughput: f64,
    /// In microseconds; `None` where nothing was answered while it was measured.
    latency: Option<Latency>,
    /// In microseconds.
    cpu_per_request: Option<f64>,
    /// In bytes.
    memory_per_connection: Option<f64>,
    /// What else one should know.
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Row {
    /// Whether every client was served, and to its end.
    fn is_complete(&self) -> bool {
        self.errors == 0 && self.served == u64::from(self.connections) && self.latency.is_some()
    }
}

/// Runs the comparison, and prints what came of it.
pub(crate) fn run(args: &Compare) -> Result<()> {
    raise_descriptor_limit(args.connections)?;
    let interrupts = Interrupts::install()?;
    // What could fail at the end is tried first.
    let chart = ChartFile::open(&args.chart)?;
    let rows = measure_all(args, &interrupts)?;
    chart.write(&chart::draw(&rows, args)?)?;
    report::print(&rows, args)
}

fn measure_all(args: &Compare, interrupts: &Interrupts) -> Result<Vec<Row>> {
    let mut progress = Progress::new(args.models.len(), warm_up(args) + args.seconds);
    let mut rows = Vec::new();
    for &model in &args.models {
        progress.begin(model);
        let row = measure(args, model, &progress, interrupts);
        rows.push(row.with_context(|| format!("compare {model}"))?);
    }
    Ok(rows)
}

/// What is not recorded: threads are started, stacks touched, processes forked.
fn warm_up(args: &Compare) -> Duration {
    let quarter = args.seconds / 4;
    let shortest = args.workload.cpu + args.workload.wait;
    quarter
        .clamp(Duration::from_millis(100), Duration::from_secs(1))
        .max(shortest)
}

fn measure(
    args: &Compare,
    model: Model,
    progress: &Progress,
    interrupts: &Interrupts,
) -> Result<Row> {
    let (mut server, addr) = Server::start(args, model, progress, interrupts)?;
    let mut plan = Plan {
        server: addr,
        body: body(args.workload.request_size),
        new_connections: args.workload.new_connections,
        from: Instant::now(),
        until: Instant::now(),
    };

    // What a server allocates once is no connection's.
    let patience = args.workload.cpu + args.workload.wait + PROBE_TIMEOUT;
    let failed = || format!("send a request to {addr}");
    let probe = Probe::send(&plan, patience).with_context(failed)?;
    let deadline = Instant::now() + patience;
    server.wait_for(probe.as_fd(), deadline, progress, interrupts)?;
    probe.receive().with_context(failed)?;
    let (idle_memory, idle_cpu) = (server.memory()?, server.cpu_time()?);

    plan.from = Instant::now() + warm_up(args);
    plan.until = plan.from + args.seconds;
    let (tally, memory) = load(&plan, args.connections, || {
        server.wait(plan.until, progress, interrupts)?;
        server.memory()
    })?;
    let mut notes: Vec<_> = server.complaints().map(str::to_owned).collect();
    let cpu = server.stop()?.saturating_sub(idle_cpu);

    if tally.busy > BUSY {
        notes.push(format!(
            "the clients were busy for {:.0} % of the time: they may have been the limit",
            tally.busy * 100.0
        ));
    }
    if let Some(err) = &tally.first_error {
        notes.push(format!("{} clients failed, the first: {err}", tally.errors));
    }
    let quantile = |share| tally.latencies.value_at_quantile(share) as f64 / 1e3;
    let ratio = |part: f64, whole: u64| (whole > 0).then(|| part / whole as f64);
    Ok(Row {
        model,
        connections: args.connections,
        served: tally.served,
        errors: tally.errors,
        throughput: tally.latencies.len() as f64 / args.seconds.as_secs_f64(),
        latency: (!tally.latencies.is_empty()).then(|| Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
        }),
        cpu_per_request: ratio(cpu.as_secs_f64() * 1e6, tally.answers),
        memory_per_connection: ratio(memory.saturating_sub(idle_memory) as f64, tally.served),
        notes,
    })
}

/// Runs all clients on a few threads, until `watch` returns on this one.
fn load<R>(plan: &Plan, connections: u32, watch: impl FnOnce() -> Result<R>) -> Result<(Tally, R)> {
    let halt = Halt::new()?;
    thread::scope(|scope| {
        let threads: Vec<_> = shares(connections)
            .map(|share| {
                thread::Builder::new().spawn_scoped(scope, || load::run(plan, share, &halt))
            })
            .collect();
        let watched = watch();
        halt.ring();
        let mut all = Tally::new()?;
        for thread in threads {
            let tally = thread.context("start a thread of clients")?.join();
            all.add(tally.map_err(|_| anyhow!("a thread of clients panicked"))??)?;
        }
        Ok((all, watched?))
    })
}

/// The numbers of the clients that each thread has. Half of the processors are the server's.
fn shares(connections: u32) -> impl Iterator<Item = Range<u32>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = u32::try_from(processors / 2).unwrap_or(u32::MAX);
    let each = connections.div_ceil(threads.clamp(1, connections));
    (0..connections)
        .step_by(each as usize)
        .map(move |first| first..connections.min(first + each))
}

/// Bytes that differ from place to place.
fn body(size: u32) -> Vec<u8> {
    (0..size)
        .map(|place| (place * 7 + (place >> 8)) as u8)
        .collect()
}

/// Sees to it that this process and the servers, which inherit the limit, may have a descriptor for
/// each connection.
fn raise_descriptor_limit(connections: u32) -> Result<()> {
    let need = u64::from(connections) + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let within = |limit: Option<u64>| limit.is_none_or(|limit| need <= limit);
    if within(limit.current) {
        return Ok(());
    }
    if !within(limit.maximum) {
        bail!(
            "open {connections} connections: that takes {need} descriptors, and the hard limit is {} (ulimit -Hn)",
            limit.maximum.unwrap_or(need)
        );
    }
    let raised = Rlimit {
        current: Some(need),
        ..limit
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("raise the limit of descriptors to {need}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_in_one_share() {
        for connections in [1, 2, 3, 64, 1001] {
            let numbers: Vec<_> = shares(connections).flatten().collect();
            assert_eq!(numbers, (0..connections).collect::<Vec<_>>());
        }
    }
}
