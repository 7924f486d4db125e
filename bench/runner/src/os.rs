//! What the operating system says of processes and processors, and where it is told to run them.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The processor of the servers, and that of the load.
pub(crate) const SERVER_CPU: usize = 0;
pub(crate) const LOAD_CPU: usize = 1;

/// Runs `start` on a processor, so that the process which it starts stays there.
pub(crate) fn on_cpu<R>(cpu: usize, start: impl FnOnce() -> Result<R>) -> Result<R> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context("read the processor affinity")?;
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(this, &only).with_context(|| format!("move to processor {cpu}"))?;
    let result = start();
    sched_setaffinity(this, &before).context("restore the processor affinity")?;
    result
}

/// The processor time of a running process and its descendants: of all threads, also of those that have ended; not of
/// processes that have.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let nanos = sum(pid, |pid| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid as i32))
            .with_context(|| format!("find the processor clock of process {pid}"))?;
        Ok(Duration::from(clock.now()?).as_nanos() as u64)
    })?;
    Ok(Duration::from_nanos(nanos))
}

/// The same, and that of the processes which they have waited for, in ticks of 10 ms.
pub(crate) fn cpu_time_with_ended(pid: u32) -> Result<Duration> {
    let ticks = sum(pid, |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read a stat file")?;
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("a stat file without a name")?;
        // utime stime cutime cstime
        let fields = fields.split_whitespace().skip(11).take(4);
        Ok(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
    })?;
    Ok(Duration::from_millis(10 * ticks))
}

/// Processor time.
#[derive(Clone, Copy)]
pub(crate) struct CpuTime {
    /// The kernel derives it from the scheduler's nanoseconds, not from ticks.
    pub(crate) total: Duration,
    /// The part that was not spent in the kernel; by ticks.
    pub(crate) user: Duration,
}

impl CpuTime {
    /// The time of all children that were waited for, and of those that they waited for.
    pub(crate) fn of_children() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the usage of children")?;
        let time = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
        Ok(Self {
            total: time(usage.user_time() + usage.system_time()),
            user: time(usage.user_time()),
        })
    }
}

/// The page faults of all children that were waited for, and of those that they waited for.
pub(crate) fn faults_of_children() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the usage of children")?;
    Ok((usage.minor_page_faults() + usage.major_page_faults()).unsigned_abs())
}

/// How long a processor has run programs outside of the kernel, or was taken away by the hypervisor, in ticks of 10 ms.
pub(crate) fn user_ticks(cpu: usize) -> Result<u64> {
    let [user, nice, .., steal] = ticks(cpu)?;
    Ok(user + nice + steal)
}

/// Waits until both processors have been idle for `calm`, but for at most `patience`.
pub(crate) fn wait_for_calm(calm: Duration, patience: Duration) -> Result<()> {
    let idle = || Ok::<_, Error>((ticks(SERVER_CPU)?[3], ticks(LOAD_CPU)?[3]));
    let enough = calm.as_millis() as u64 * 9 / 10 / 10;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let before = idle()?;
        thread::sleep(calm);
        let after = idle()?;
        if after.0 - before.0 >= enough && after.1 - before.1 >= enough {
            break;
        }
    }
    Ok(())
}

/// user nice system idle iowait irq softirq steal (proc_stat(5)).
fn ticks(cpu: usize) -> Result<[u64; 8]> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let name = format!("cpu{cpu}");
    let fields = stat
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut fields| (fields.next() == Some(name.as_str())).then_some(fields))
        .with_context(|| format!("/proc/stat knows no {name}"))?;
    let ticks: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>()?;
    ticks
        .try_into()
        .ok()
        .context("/proc/stat has no steal time")
}

/// The resident memory of a process and its descendants, in bytes. What they share counts for each.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    sum(pid, |pid| field(&format!("/proc/{pid}/status"), "VmRSS:")).map(|size| size * 1024)
}

/// The memory that a process and its descendants have written to and share with nobody, in bytes.
pub(crate) fn private(pid: u32) -> Result<u64> {
    let dirty = |pid| field(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:");
    sum(pid, dirty).map(|size| size * 1024)
}

/// The open descriptors of a process and its descendants.
pub(crate) fn descriptors(pid: u32) -> Result<u64> {
    sum(pid, |pid| entries(&format!("/proc/{pid}/fd")))
}

/// The threads of a process and its descendants.
pub(crate) fn threads(pid: u32) -> Result<u64> {
    sum(pid, |pid| entries(&format!("/proc/{pid}/task")))
}

/// A process and its descendants, those included that have ended and were not waited for.
pub(crate) fn processes(pid: u32) -> Result<u64> {
    sum(pid, |_| Ok(1))
}

fn entries(path: &str) -> Result<u64> {
    let entries = fs::read_dir(path).with_context(|| format!("list {path}"))?;
    Ok(entries.count() as u64)
}

/// How often the threads of a process and of its descendants have been switched from.
pub(crate) fn context_switches(pid: u32) -> Result<u64> {
    sum(pid, |pid| {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
            let status = format!("{}/status", task?.path().display());
            total += field(&status, "voluntary_ctxt_switches:")?
                + field(&status, "nonvoluntary_ctxt_switches:")?;
        }
        Ok(total)
    })
}

/// The sum over a process and its descendants. One of those may end meanwhile, and counts no more.
fn sum(pid: u32, value: impl Fn(u32) -> Result<u64>) -> Result<u64> {
    let mut descendants = Vec::new();
    add_children(pid, &mut descendants).context("list threads")?;
    let values = descendants.into_iter().filter_map(|pid| value(pid).ok());
    let of_all = values.sum::<u64>();
    Ok(value(pid)? + of_all)
}

fn add_children(pid: u32, all: &mut Vec<u32>) -> io::Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // So may a thread.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            all.push(child);
            let _ = add_children(child, all);
        }
    }
    Ok(())
}

/// A number in a status file of proc(5).
fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("{path} has no {name}"))
}
