//! Measures socketserver against what one would write by hand: real processes, the server on one processor and its load
//! on another, in interleaved rounds.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml -- --help`

mod measure;
mod os;
mod programs;
mod report;
mod scenarios;
mod server;

use std::path::PathBuf;

use anyhow::{Result, bail};
use lexopt::{Arg, Parser, ValueExt};

use crate::measure::Effort;
use crate::programs::Programs;
use crate::report::Outcome;
use crate::scenarios::{SCENARIOS, Scenario};

const HELP: &str = "\
Measures socketserver against what one would write by hand.

Usage: bench-runner [OPTIONS]

  --scenario NAME   measure only this scenario; may be given several times
  --rounds N        how often each server is measured [default: 5]
  --seconds S       how long each time [default: 2]
  --quick           2 rounds of 0.3 s
  --server PATH     the socketserver binary [default: build it]
  --json            print an array of JSON objects on standard output, and the tables on standard error
  --list            print the names of the scenarios";

struct Options {
    effort: Effort,
    scenarios: Vec<&'static Scenario>,
    server: Option<PathBuf>,
    json: bool,
}

fn main() -> Result<()> {
    let Some(options) = parse()? else {
        return Ok(());
    };
    let programs = Programs::build(&options.scenarios, options.server)?;
    let mut outcomes = Vec::new();
    for scenario in options.scenarios {
        let rows = measure::scenario(scenario, &programs, &options.effort)?;
        outcomes.push(Outcome { scenario, rows });
    }
    let text = report::text(&outcomes)?;
    if options.json {
        eprint!("{text}");
        println!("{}", report::json(&outcomes)?);
    } else {
        print!("{text}");
    }
    Ok(())
}

/// The options, unless there is nothing left to do.
fn parse() -> Result<Option<Options>> {
    let mut names = Vec::new();
    let mut options = Options {
        effort: Effort {
            rounds: 5,
            seconds: 2.0,
            repeats: 4,
        },
        scenarios: Vec::new(),
        server: None,
        json: false,
    };
    let mut args = Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("scenario") => names.push(args.value()?.string()?),
            Arg::Long("rounds") => options.effort.rounds = args.value()?.parse()?,
            Arg::Long("seconds") => options.effort.seconds = args.value()?.parse()?,
            Arg::Long("quick") => {
                options.effort = Effort {
                    rounds: 2,
                    seconds: 0.3,
                    repeats: 0,
                }
            }
            Arg::Long("server") => options.server = Some(args.value()?.into()),
            Arg::Long("json") => options.json = true,
            Arg::Long("list") => {
                for scenario in SCENARIOS {
                    println!("{:22} {}", scenario.name, scenario.about);
                }
                return Ok(None);
            }
            Arg::Long("help") | Arg::Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    if let Some(name) = names
        .iter()
        .find(|name| SCENARIOS.iter().all(|known| known.name != **name))
    {
        bail!("no such scenario: {name} (--list prints them)");
    }
    let chosen =
        |known: &&Scenario| names.is_empty() || names.iter().any(|name| name == known.name);
    options.scenarios = SCENARIOS.iter().filter(chosen).collect();
    Ok(Some(options))
}
