//! A load that is not ours: h2load, for HTTP/2. It verifies neither the bytes of an answer nor their number, so a page is
//! verified before, and the bytes of all are counted after.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

use crate::wrk::micros;

/// Has h2load ask for whole seconds, by prior knowledge.
pub(crate) fn command(url: &str, connections: u32, streams: u32, seconds: u32) -> Command {
    let mut command = Command::new("h2load");
    command.args(["--threads", "1"]);
    command.args(["--clients", &connections.to_string()]);
    command.args(["--max-concurrent-streams", &streams.to_string()]);
    command.args(["--duration", &seconds.to_string()]);
    command.arg(url);
    command
}

/// Reads the report. A request that was not answered well is a failure, and so is a page of another size.
pub(crate) fn parse(said: &str, size: usize) -> Result<Summary> {
    let line = |name: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(name));
        found.with_context(|| format!("no {name}"))
    };
    let requests = line("requests: ")?;
    let done = count(requests, "done")?;
    for (bad, line) in [
        ("failed", requests),
        ("errored", requests),
        ("timeout", requests),
        ("3xx", line("status codes: ")?),
        ("4xx", line("status codes: ")?),
        ("5xx", line("status codes: ")?),
    ] {
        let bad_ones = count(line, bad)?;
        ensure!(bad_ones == 0, "{bad_ones} requests are {bad}");
    }
    // Some streams may have begun an answer, and not ended it.
    let bytes = bytes(line("traffic: ")?, "data")?;
    let least = done * size as u64;
    ensure!(bytes >= least, "{bytes} bytes of {done} pages, not {least}");
    let seconds = line("finished in ")?.split(',').next().unwrap_or_default();
    let seconds = micros(seconds)? / 1e6;
    Ok(Summary {
        measured: done,
        seconds,
        total: done,
        total_seconds: seconds,
        lost: 0,
        // It tells the mean and the extremes only.
        p50_us: f64::NAN,
        p99_us: f64::NAN,
        p999_us: None,
        cpu_share: 0.0,
        user_share: 0.0,
        delay_share: 0.0,
        offered: None,
    })
}

/// The number before a word.
fn count(line: &str, word: &str) -> Result<u64> {
    let mut parts = line.split(", ").map(|part| part.split_once(' '));
    let found = parts.find_map(|part| part.filter(|(_, name)| *name == word));
    let (number, _) = found.with_context(|| format!("no number of {word}: {line}"))?;
    Ok(number.parse()?)
}

/// The bytes that a word stands behind: `1.13MB (1184040) data`.
fn bytes(line: &str, word: &str) -> Result<u64> {
    let mut parts = line.split(", ").filter_map(|part| part.split_once(") "));
    let (size, _) = parts
        .find(|(_, name)| *name == word)
        .with_context(|| format!("no bytes of {word}: {line}"))?;
    let (_, number) = size.split_once('(').context("no number of bytes")?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    const SAID: &str = "\
starting benchmark...
spawning thread #0: 8 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration for measurements.
Main benchmark duration is started for thread #0.

finished in 1.00s, 98670.00 req/s, 3.86MB/s
requests: 98670 total, 98926 started, 98670 done, 98670 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 98670 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.86MB (4046054) total, 1.04MB (1085534) headers (space savings 91.30%), 1.13MB (1184040) data
";

    #[test]
    fn reads_a_report() {
        let summary = parse(SAID, 12).unwrap();
        assert_eq!((summary.total, summary.measured), (98_670, 98_670));
        assert_eq!(summary.seconds, 1.0);
    }

    #[test]
    fn takes_no_report_of_failures() {
        assert!(parse(&SAID.replace(" 0 failed", " 1 failed"), 12).is_err());
        assert!(parse(&SAID.replace(" 0 4xx", " 2 4xx"), 12).is_err());
        assert!(parse(SAID, 13).is_err());
        assert!(parse("", 12).is_err());
    }
}
