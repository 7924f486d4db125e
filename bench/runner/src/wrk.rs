//! A load that is not ours: wrk, for HTTP. It counts answers by their status only, so a page is verified before.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

use crate::os::{self, CpuTime};

const PAGE: &str = "hello world\n";

const PATIENCE: Duration = Duration::from_secs(5);

/// Asks a server for its page.
pub(crate) fn verify(url: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address(url)?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buf = [0; 1024];
    // The connection stays open: what has been read so far says whether that was all.
    while !answer.ends_with(PAGE.as_bytes()) {
        let count = stream.read(&mut buf).context("read a page")?;
        ensure!(count > 0, "no page, but the end of the connection");
        answer.extend_from_slice(&buf[..count]);
        ensure!(answer.len() < 8192, "a page that is too long");
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    ensure!(head.starts_with("http/1.1 200 "), "no page: {head}");
    let length = format!("\r\ncontent-length: {}\r\n", PAGE.len());
    ensure!(head.contains(&length), "a page of another length: {head}");
    Ok(())
}

/// Runs wrk for some seconds, which must be whole ones. No other child of this process may be waited for meanwhile.
pub(crate) fn run(url: &str, connections: u32, seconds: u32) -> Result<Summary> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--latency"]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{seconds}s")]);
    command.arg(format!("http://{}/", address(url)?));
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (before, start) = (CpuTime::of_children()?, Instant::now());
    let wrk = os::on_cpu(os::LOAD_CPU, || Ok(command.spawn()?)).context("start wrk")?;
    let output = wrk.wait_with_output()?;
    let took = start.elapsed().as_secs_f64();
    let after = CpuTime::of_children()?;
    ensure!(output.status.success(), "wrk: {}", output.status);
    let share = |after: Duration, before: Duration| (after - before).as_secs_f64() / took;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(Summary {
        cpu_share: share(after.total, before.total),
        user_share: share(after.user, before.user),
        ..parse(&said).with_context(|| format!("what wrk said: {said}"))?
    })
}

fn address(url: &str) -> Result<&str> {
    url.strip_prefix("tcp://").context("no TCP address")
}

/// Reads the report. Answers that were not well are a failure.
fn parse(said: &str) -> Result<Summary> {
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
fn micros(text: &str) -> Result<f64> {
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
