//! A server and all its descendants, as /proc shows them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::DEADLINE;

/// A process and its descendants, the parents first (proc_tid_children(5)).
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for child in children(pid) {
        all.extend(descendants(child));
    }
    all
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in entries(&format!("/proc/{pid}/task")) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
        let children = children.unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    // A zombie is no worker any more.
    all.retain(|&pid| is_alive(pid));
    all
}

/// Whether a process is there, and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// When a process has started: tells it from a later one with its number.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

fn entries(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

pub(crate) fn descriptors(pid: u32) -> BTreeSet<u64> {
    let numbers = entries(&format!("/proc/{pid}/fd"));
    numbers
        .iter()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// A server's processes that were seen, by their numbers and when they had started. What is left of
/// them is killed when this is dropped.
pub(crate) struct Family {
    parent: u32,
    seen: Vec<(u32, String)>,
    /// The parent was waited for: its number may be another's.
    ended: bool,
}

impl Family {
    pub(crate) const fn of(parent: u32) -> Self {
        Self {
            parent,
            seen: Vec::new(),
            ended: false,
        }
    }

    /// Notes who is there.
    pub(crate) fn see(&mut self) {
        if self.ended {
            return;
        }
        for pid in descendants(self.parent) {
            let process = started(pid).map(|start| (pid, start));
            let new = process.filter(|process| !self.seen.contains(process));
            self.seen.extend(new);
        }
    }

    pub(crate) fn has(&self, pid: &str) -> bool {
        self.seen.iter().any(|(seen, _)| seen.to_string() == pid)
    }

    /// Notes that the parent was waited for.
    pub(crate) const fn parent_ended(&mut self) {
        self.ended = true;
    }

    /// Those who were seen and are still there.
    pub(crate) fn left(&self) -> Vec<u32> {
        let is_there =
            |(pid, start): &&(u32, String)| is_alive(*pid) && started(*pid).as_ref() == Some(start);
        let left = self.seen.iter().filter(is_there);
        left.map(|(pid, _)| *pid).collect()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.see();
        self.left().into_iter().for_each(kill);
    }
}

/// How many descriptors they all have.
pub(crate) fn open_descriptors(pid: u32) -> usize {
    descendants(pid)
        .into_iter()
        .map(|pid| descriptors(pid).len())
        .sum()
}

/// The processor time of each thread, and of what has been waited for, and how often each thread has
/// begun to wait.
#[derive(Debug, Default)]
pub(crate) struct Work {
    threads: HashMap<String, (Duration, u64)>,
    reaped: HashMap<u32, Duration>,
}

impl Work {
    pub(crate) fn of(pid: u32) -> Self {
        let mut work = Self::default();
        let ticks = rustix::param::clock_ticks_per_second();
        for pid in descendants(pid) {
            for task in entries(&format!("/proc/{pid}/task")) {
                let stat = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat"));
                let nanos = stat
                    .ok()
                    .and_then(|stat| stat.split(' ').next()?.parse().ok());
                let nanos = nanos.map_or(Duration::ZERO, Duration::from_nanos);
                let waits = waits(pid, &task).unwrap_or(0);
                work.threads.insert(task, (nanos, waits));
            }
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            // Fields 16 and 17 of proc_pid_stat(5).
            let reaped = fields.split_whitespace().skip(13).take(2);
            let reaped: u64 = reaped.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
            work.reaped
                .insert(pid, Duration::from_millis(reaped * 1000 / ticks));
        }
        work
    }

    /// How much processor time was used since `before`.
    pub(crate) fn cpu_since(&self, before: &Self) -> Duration {
        let threads = self.threads.iter().map(|(task, (time, _))| {
            let before = before.threads.get(task).copied().unwrap_or_default();
            time.saturating_sub(before.0)
        });
        let reaped = self.reaped.iter().map(|(pid, time)| {
            let before = before.reaped.get(pid).copied().unwrap_or_default();
            time.saturating_sub(before)
        });
        threads.chain(reaped).sum()
    }

    /// How often the thread has begun to wait since `before` that did so most often.
    pub(crate) fn waits_since(&self, before: &Self) -> u64 {
        let waits = self.threads.iter().map(|(task, (_, waits))| {
            let before = before.threads.get(task).copied().unwrap_or_default();
            waits.saturating_sub(before.1)
        });
        waits.max().unwrap_or(0)
    }
}

/// How often a thread has given up its processor to wait (proc_pid_status(5)).
fn waits(pid: u32, task: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// Sets a soft limit of a process of `user`; `None` is the hard one.
#[track_caller]
pub(crate) fn limit(pid: u32, resource: Resource, soft: Option<u64>, user: Option<u32>) {
    let hard = rlimit(pid, resource).maximum;
    let limit = Rlimit {
        current: soft.or(hard),
        maximum: hard,
    };
    match user {
        None => {
            // A child of forking may have ended.
            let _ = prlimit(Pid::from_raw(pid.cast_signed()), resource, limit);
        }
        Some(user) => {
            // Of another user's process, only those with CAP_SYS_RESOURCE may.
            let current = limit
                .current
                .map_or_else(|| "unlimited".to_owned(), |soft| soft.to_string());
            let mut prlimit = Command::new("prlimit");
            prlimit
                .arg(format!("--pid={pid}"))
                .arg(format!("--nproc={current}:"));
            let _ = prlimit.uid(user).output().expect("run prlimit(1)");
        }
    }
    let now = rlimit(pid, resource).current;
    assert!(
        now == limit.current || !is_alive(pid),
        "{now:?} is not {limit:?}"
    );
}

fn rlimit(pid: u32, resource: Resource) -> Rlimit {
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::As => "Max address space",
        _ => "Max processes",
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let mut values = line
        .unwrap_or_default()
        .split_whitespace()
        .map(|value| value.parse().ok());
    Rlimit {
        current: values.next().flatten(),
        maximum: values.next().flatten(),
    }
}

pub(crate) fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// Stops a process and its descendants. None of their threads is in a system call then that strace has changed.
pub(crate) fn stop(pid: u32) {
    let stopped = within_deadline(|| {
        let all = descendants(pid);
        all.iter().for_each(|&pid| send(pid, Signal::STOP));
        all.into_iter().all(is_stopped) && descendants(pid).into_iter().all(is_stopped)
    });
    assert!(stopped, "a server that is to be stopped runs on");
}

/// Continues them.
pub(crate) fn go_on(pid: u32) {
    let all = descendants(pid);
    all.into_iter().for_each(|pid| send(pid, Signal::CONT));
}

fn is_stopped(pid: u32) -> bool {
    let tasks = entries(&format!("/proc/{pid}/task"));
    tasks.into_iter().all(|task| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{task}/stat"));
        let stat = stat.unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}

/// Waits until something is so. Says whether it has become so within the deadline.
pub(crate) fn within_deadline(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    true
}
