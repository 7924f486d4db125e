//! What /proc says of a process and all its descendants.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::Pid;

/// The processor time of a process, its descendants included: those that live, and those that were
/// waited for (utime, stime, cutime and cstime of proc_pid_stat(5)).
pub(super) fn cpu_time(pid: Pid) -> Result<Duration> {
    let mut ticks = 0;
    visit(pid, &mut |pid| {
        let Some(stat) = read(pid, "stat")? else {
            return Ok(());
        };
        let times = cpu_ticks(&stat).with_context(|| format!("{stat:?} is no stat"))?;
        ticks += times;
        Ok(())
    })?;
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(seconds))
}

/// The resident memory in bytes of a process and its descendants that is no file's. A page that
/// several share is divided among them.
pub(super) fn memory(pid: Pid) -> Result<u64> {
    let mut kib = 0;
    visit(pid, &mut |pid| {
        if let Some(rollup) = read(pid, "smaps_rollup")? {
            // One that is ending has no memory left to list.
            kib += anonymous_kib(&rollup).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok(kib * 1024)
}

/// Visits a process and its descendants. Processes are forked by main threads here.
fn visit(pid: Pid, each: &mut impl FnMut(Pid) -> Result<()>) -> Result<()> {
    each(pid)?;
    let number = pid.as_raw_pid();
    let children = read(pid, &format!("task/{number}/children"))?.unwrap_or_default();
    for child in children.split_whitespace() {
        if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
            visit(child, each)?;
        }
    }
    Ok(())
}

/// Reads a file of a process; nothing where the process has just ended.
fn read(pid: Pid, name: &str) -> Result<Option<String>> {
    let path = format!("/proc/{}/{name}", pid.as_raw_pid());
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) if Errno::from_io_error(&err) == Some(Errno::SRCH) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("read {path}")),
    }
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name of the program is in parentheses, and may have any character. The state after it is
    // field 3, the times are fields 14 to 17.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let times: Vec<u64> = fields
        .skip(11)
        .take(4)
        .map_while(|field| field.parse().ok())
        .collect();
    (times.len() == 4).then(|| times.iter().sum())
}

fn anonymous_kib(rollup: &str) -> Option<u64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss_Anon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 20 3 400 1 20 0 1 0 5 1 1";
        assert_eq!(cpu_ticks(stat), Some(424));
        assert_eq!(cpu_ticks("7 (a) S 1 7"), None);
    }

    #[test]
    fn the_lines_of_smaps_rollup() {
        let rollup = "1-2 ---p 0 00:00 0 [rollup]\nPss:  90 kB\nPss_Anon:              84 kB\n";
        assert_eq!(anonymous_kib(rollup), Some(84));
        assert_eq!(anonymous_kib(""), None);
    }
}
