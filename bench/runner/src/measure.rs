//! Rounds: each starts every server of a scenario in turn, puts the load on it, and stops it.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench_load::Summary;

use crate::os;
use crate::programs::Programs;
use crate::scenarios::{Load, Scenario, Subject};
use crate::server::Server;

const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long a server is left alone before its silence counts.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// For how long the processors must have nothing to do before a disturbed measurement is repeated, and how long that is
/// waited for.
const CALM: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// From how many connections on the memory of a server is divided by them.
const MANY: u32 = 64;

pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// How often a measurement that others have disturbed is repeated.
    pub(crate) repeats: usize,
}

/// What was measured of one subject.
pub(crate) struct Row {
    pub(crate) subject: &'static str,
    /// The tool that this machine lacks to run it.
    pub(crate) missing: Option<&'static str>,
    /// Why it was given up.
    pub(crate) failure: Option<String>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) wakeups_per_s: Option<f64>,
}

/// What was measured of one subject in one round.
pub(crate) struct Round {
    pub(crate) load: Summary,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) rss_bytes_per_conn: Option<f64>,
    /// The share of its processor that the server has used.
    pub(crate) server_share: f64,
    /// The share of the time that others ran on one of the two processors: on that of the server only what they did
    /// outside of the kernel, which is what can be told apart.
    pub(crate) others_share: f64,
}

impl Round {
    pub(crate) fn throughput(&self) -> f64 {
        self.load.measured as f64 / self.load.seconds
    }

    /// Whether the load, and not the server, has set the pace.
    pub(crate) fn is_bound_by_load(&self) -> bool {
        self.load.cpu_share > 0.95 && self.server_share < 0.9
    }

    /// Whether others have taken a noticeable part of a processor.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.others_share > 0.05
    }
}

pub(crate) fn scenario(
    scenario: &Scenario,
    programs: &Programs,
    effort: &Effort,
) -> Result<Vec<Row>> {
    let row = |subject: &Subject| Row {
        subject: subject.name,
        missing: programs.missing(subject.program),
        failure: None,
        rounds: Vec::new(),
        wakeups_per_s: None,
    };
    let mut rows: Vec<_> = scenario.subjects.iter().map(row).collect();
    let mut present: Vec<_> = rows
        .iter_mut()
        .zip(scenario.subjects)
        .filter(|(row, _)| row.missing.is_none())
        .collect();
    if scenario.load == Load::Idle {
        eprintln!("{}", scenario.name);
        idle(&mut present, programs).context("idle")?;
        return Ok(rows);
    }
    for number in 1..=effort.rounds {
        eprintln!("{}: round {number} of {}", scenario.name, effort.rounds);
        for (row, subject) in &mut present {
            if row.failure.is_some() {
                continue;
            }
            match undisturbed(subject, scenario.load, programs, effort) {
                Ok(round) => row.rounds.push(round),
                Err(err) => row.failure = Some(format!("{err:#}")),
            }
        }
    }
    Ok(rows)
}

/// Measures one subject, again when others have disturbed it.
fn undisturbed(
    subject: &Subject,
    load: Load,
    programs: &Programs,
    effort: &Effort,
) -> Result<Round> {
    let measure = || {
        let server = Server::start(programs.command(subject.program))?;
        round(server, load, programs, effort.seconds)
    };
    let mut best = measure()?;
    for _ in 0..effort.repeats {
        if !best.is_disturbed() {
            break;
        }
        eprintln!("{}: disturbed, once more", subject.name);
        os::wait_for_calm(CALM, PATIENCE)?;
        let next = measure()?;
        if next.others_share < best.others_share {
            best = next;
        }
    }
    Ok(best)
}

fn round(server: Server, load: Load, programs: &Programs, seconds: f64) -> Result<Round> {
    let (kind, in_flight) = match load {
        Load::Requests(count) => ("requests", count),
        Load::Echo(count) => ("echo", count),
        Load::Packets(count) => ("packets", count),
        Load::Idle => ("idle", 0),
    };
    let many = matches!(load, Load::Echo(MANY..));
    let warm_up = seconds / 10.0;
    let mut command = programs.load();
    command.args([kind, &server.url]);
    command.args(["--in-flight", &in_flight.to_string()]);
    command.args(["--warm-up", &warm_up.to_string()]);
    command.args(["--seconds", &seconds.to_string()]);
    command.stdout(Stdio::piped());

    let empty = os::resident(server.pid())?;
    let cpus = [os::SERVER_CPU, os::LOAD_CPU];
    let before = cpus.map(os::user_ticks);
    let running = os::on_cpu(os::LOAD_CPU, || Ok(command.spawn()?)).context("start the load")?;
    thread::sleep(Duration::from_secs_f64(warm_up + seconds / 2.0));
    let full = os::resident(server.pid())?;
    let output = running.wait_with_output()?;
    let after = cpus.map(os::user_ticks);
    ensure!(output.status.success(), "the load: {}", output.status);
    let load: Summary = serde_json::from_slice(&output.stdout).context("what the load said")?;

    let used = server.stop()?;
    let ours = [
        used.user.as_secs_f64() / load.total_seconds,
        load.user_share,
    ];
    let mut others_share = load.delay_share;
    for ((before, after), ours) in before.into_iter().zip(after).zip(ours) {
        // Each end is off by up to a tick.
        let all = (after? - before?).saturating_sub(2) as f64 / 100.0 / load.total_seconds;
        others_share = others_share.max(all - ours);
    }
    let cpu = used.total.as_secs_f64();
    Ok(Round {
        cpu_us_per_op: cpu * 1e6 / load.total.max(1) as f64,
        rss_bytes_per_conn: many.then(|| full.saturating_sub(empty) as f64 / f64::from(in_flight)),
        server_share: cpu / load.total_seconds,
        others_share,
        load,
    })
}

/// Lets all servers sleep at the same time, and counts how often they wake up.
fn idle(present: &mut [(&mut Row, &Subject)], programs: &Programs) -> Result<()> {
    let mut servers = Vec::new();
    for (_, subject) in &*present {
        servers.push(Server::start(programs.command(subject.program))?);
    }
    let count = || {
        servers
            .iter()
            .map(|server| os::context_switches(server.pid()))
            .collect::<Result<Vec<_>>>()
    };
    thread::sleep(SETTLE_TIME);
    let before = count()?;
    thread::sleep(IDLE_TIME);
    let after = count()?;
    for (((row, _), before), after) in present.iter_mut().zip(before).zip(after) {
        row.wakeups_per_s = Some((after - before) as f64 / IDLE_TIME.as_secs_f64());
    }
    for server in servers {
        server.stop()?;
    }
    Ok(())
}
