//! A load that is not ours: wrk, for HTTP/1.1. It counts answers by their status only, so a page is verified before.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

/// Has wrk ask for whole seconds.
pub(crate) fn command(url: &str, connections: u32, seconds: u32) -> Command {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--latency"]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{seconds}s")]);
    command.arg(url);
    command
}

/// Reads the report. Answers that were not well are a failure.
pub(crate) fn parse(said: &str) -> Result<Summary> {
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(!said.contains(bad), "{bad}");
    }
    let line = |name: &str| {
        let mut lines = said.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(name))
    };
    let (requests, rest) = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("no number of requests")?;
    let total: u64 = requests.parse()?;
    let seconds = micros(rest.split(',').next().unwrap_or_default())? / 1e6;
    Ok(Summary {
        measured: total,
        seconds,
        total,
        total_seconds: seconds,
        lost: 0,
        p50_us: micros(line("50%").context("no median")?)?,
        p99_us: micros(line("99%").context("no 99th percentile")?)?,
        p999_us: None,
        cpu_share: 0.0,
        user_share: 0.0,
        delay_share: 0.0,
        offered: None,
    })
}

/// A time with its unit, in microseconds.
pub(crate) fn micros(text: &str) -> Result<f64> {
    let text = text.trim();
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)];
    let known = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = known.with_context(|| format!("no time: {text}"))?;
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::{micros, parse};

    const SAID: &str = "\
Running 1s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   420.87us   35.14us   1.63ms   91.44%
    Req/Sec   152.33k     2.34k  155.04k    70.00%
  Latency Distribution
     50%  415.00us
     75%  429.00us
     90%  446.00us
     99%    1.50ms
  151521 requests in 1.02s, 13.87MB read
Requests/sec: 148549.02
";

    #[test]
    fn reads_a_report() {
        let summary = parse(SAID).unwrap();
        assert_eq!((summary.total, summary.measured), (151_521, 151_521));
        assert_eq!((summary.seconds, summary.p50_us), (1.02, 415.0));
        assert_eq!(summary.p99_us, 1500.0);
    }

    #[test]
    fn takes_no_report_of_failures() {
        assert!(parse(&format!("{SAID}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn reads_times() {
        assert_eq!(micros(" 2.00m").unwrap(), 1.2e8);
        assert!(micros("5").is_err());
    }
}
