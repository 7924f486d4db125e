//! Programs that make operations within themselves, and time them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

use crate::measure::{Bench, Driven, Round};
use crate::os;
use crate::scenarios::Subject;

/// Runs a program on one processor, or on all of them, and takes what it says.
pub(crate) fn round(bench: &Bench<'_>, subject: &Subject, processors: u32) -> Result<Round> {
    let mut command = bench.programs.command(&subject.program)?;
    command.arg(bench.effort.seconds.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut start = || Ok(command.spawn()?);
    let process = match processors {
        1 => os::on_cpu(os::SERVER_CPU, start),
        _ => start(),
    };
    let output = process.context("start the program")?.wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    let load: Summary = serde_json::from_slice(&output.stdout).context("what the program said")?;
    let cpu = Duration::from_secs_f64(load.cpu_share * load.total_seconds);
    Ok(Driven::new(load, cpu).round(cpu))
}
