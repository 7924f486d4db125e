//! Measures socketserver against what one would write by hand: real processes, the server on one processor and its load
//! on another, in interleaved rounds.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml -- --help`

mod certificate;
mod charts;
mod counts;
mod endurance;
mod h2load;
mod http;
mod idle;
mod load;
mod machine;
mod measure;
mod os;
mod programs;
mod progress;
mod report;
mod scenarios;
mod server;
mod stop;
mod tasks;
mod verdict;
mod wrk;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lexopt::{Arg, Parser, ValueExt};

use crate::machine::Machine;
use crate::measure::{Bench, Effort};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::report::Outcome;
use crate::scenarios::{Scenario, When};

const HELP: &str = "\
Measures socketserver against what one would write by hand.

Usage: bench-runner [OPTIONS]

  --scenario NAME     measure only this scenario, or group of scenarios; repeatable
  --rounds N          how often each server is measured [default: 3]
  --seconds S         how long each time [default: 1]
  --quick             some scenarios, 1 round of 0.25 s, unless they are given otherwise
  --server PATH       the socketserver binary [default: build it]
  --json              print an array of JSON objects on standard output, and the tables on standard error
  --charts DIR        write charts as SVG files
  --record DIR        measure everything, idle-100k too, and write report.txt and charts
  --idle N            how many idle connections idle-100k holds [default: 100000]
  --hold-seconds S    for how long [default: 60]
  --list              print the names of the scenarios";

struct Options {
    names: Vec<String>,
    quick: bool,
    rounds: Option<usize>,
    seconds: Option<f64>,
    idle: u32,
    hold_seconds: f64,
    server: Option<PathBuf>,
    json: bool,
    charts: Option<PathBuf>,
    record: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Some(options) = parse()? else {
        return Ok(());
    };
    let (chosen, left_out) = options.choose()?;
    let effort = options.effort();
    let programs = Programs::build(&chosen, options.server)?;
    let machine = Machine::look(&programs.server().display().to_string());
    let mut bench = Bench {
        programs: &programs,
        effort: &effort,
        progress: &Progress::new(0)?,
    };
    let steps = chosen.iter().map(|scenario| bench.steps(scenario)).sum();
    let progress = Progress::new(steps)?;
    bench.progress = &progress;
    let measure = |scenario: Scenario| Outcome {
        rows: bench.scenario(&scenario),
        scenario,
    };
    let outcomes: Vec<_> = chosen.into_iter().map(measure).collect();
    progress.end();
    let mut text = report::text(&outcomes, &scenarios::overall(), &machine)?;
    if !left_out.is_empty() {
        text += &format!("\nleft out: {}\n", left_out.join(", "));
    }
    if options.json {
        eprint!("{text}");
        println!("{}", report::json(&outcomes, &machine)?);
    } else {
        print!("{text}");
    }
    if let Some(dir) = &options.record {
        record(dir, &text)?;
    }
    for dir in options.charts.iter().chain(&options.record) {
        charts::write(&outcomes, dir)?;
    }
    Ok(())
}

/// Keeps a run.
fn record(dir: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join("report.txt");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

impl Options {
    /// The scenarios to measure, and the names of those that are left out though nobody has chosen.
    fn choose(&self) -> Result<(Vec<Scenario>, Vec<String>)> {
        let all = scenarios::all();
        let mut named = Vec::new();
        for name in &self.names {
            let is_name = all.iter().any(|known| known.name == *name);
            let is_meant = |known: &&Scenario| match is_name {
                true => known.name == *name,
                false => known.group == *name,
            };
            let before = named.len();
            named.extend(all.iter().filter(is_meant).map(|known| known.name.clone()));
            if named.len() == before {
                bail!("no such scenario, or group: {name} (--list prints them)");
            }
        }
        let is_chosen = |scenario: &Scenario| match scenario.when {
            _ if !self.names.is_empty() => named.contains(&scenario.name),
            When::Always => true,
            When::Unhurried => !self.quick,
            When::Named => self.record.is_some(),
        };
        let (chosen, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_chosen);
        let left_out = match self.names.is_empty() {
            true => others.into_iter().map(|scenario| scenario.name).collect(),
            false => Vec::new(),
        };
        Ok((chosen, left_out))
    }

    fn effort(&self) -> Effort {
        let (rounds, seconds, repeats) = if self.quick {
            (1, 0.25, 0)
        } else {
            (3, 1.0, 4)
        };
        Effort {
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.unwrap_or(seconds),
            repeats,
            idle: self.idle,
            hold_seconds: self.hold_seconds,
        }
    }
}

/// The options, unless there is nothing left to do.
fn parse() -> Result<Option<Options>> {
    let mut options = Options {
        names: Vec::new(),
        quick: false,
        rounds: None,
        seconds: None,
        idle: 100_000,
        hold_seconds: 60.0,
        server: None,
        json: false,
        charts: None,
        record: None,
    };
    let mut args = Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("scenario") => options.names.push(args.value()?.string()?),
            Arg::Long("rounds") => options.rounds = Some(args.value()?.parse()?),
            Arg::Long("seconds") => options.seconds = Some(args.value()?.parse()?),
            Arg::Long("quick") => options.quick = true,
            Arg::Long("server") => options.server = Some(args.value()?.into()),
            Arg::Long("json") => options.json = true,
            Arg::Long("charts") => options.charts = Some(args.value()?.into()),
            Arg::Long("record") => options.record = Some(args.value()?.into()),
            Arg::Long("idle") => options.idle = args.value()?.parse()?,
            Arg::Long("hold-seconds") => options.hold_seconds = args.value()?.parse()?,
            Arg::Long("list") => {
                list();
                return Ok(None);
            }
            Arg::Long("help") | Arg::Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn list() {
    for scenario in scenarios::all() {
        let when = match scenario.when {
            When::Always => "quick",
            When::Unhurried => "",
            When::Named => "by name only",
        };
        println!("{:20} {when:12} {}", scenario.name, scenario.about);
    }
}
