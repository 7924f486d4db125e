//! A load: one thread and one epoll loop that keeps a number of operations in flight, verifies each answer and measures
//! how long it took.
//!
//! `bench-load requests|echo|packets URL --in-flight N [--warm-up SECONDS] [--seconds SECONDS]`

mod meter;
mod packets;
mod requests;
mod streams;
mod target;

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::{Arg, Parser, ValueExt};

use crate::meter::Meter;
use crate::target::Target;

/// The size of every request and of every answer.
const SIZE: usize = 64;

fn main() -> Result<()> {
    let mut words = Vec::new();
    let (mut in_flight, mut warm_up, mut seconds) = (1_usize, 0.1, 1.0);
    let mut args = Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Value(word) => words.push(word.string()?),
            Arg::Long("in-flight") => in_flight = args.value()?.parse()?,
            Arg::Long("warm-up") => warm_up = args.value()?.parse()?,
            Arg::Long("seconds") => seconds = args.value()?.parse()?,
            _ => return Err(arg.unexpected().into()),
        }
    }
    let [load, url] = &*words else {
        bail!("two arguments are needed: the load and the URL");
    };
    let target = Target::parse(url)?;
    let (warm_up, seconds) = (
        Duration::try_from_secs_f64(warm_up)?,
        Duration::try_from_secs_f64(seconds)?,
    );
    end_in_any_case(warm_up + seconds + Duration::from_secs(10));

    let mut meter = Meter::start(warm_up, seconds)?;
    match load.as_str() {
        "requests" => requests::run(&target, in_flight, &mut meter),
        "echo" => streams::run(&target, in_flight, &mut meter),
        "packets" => packets::run(&target, in_flight, &mut meter),
        other => bail!("no such load: {other}"),
    }
    .with_context(|| format!("{load} load on {url}"))?;
    println!("{}", serde_json::to_string(&meter.finish()?)?);
    Ok(())
}

/// A server that stops answering must not keep the load for ever.
fn end_in_any_case(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("bench-load: no end after {limit:?}");
        std::process::exit(1);
    });
}

/// The bytes that operation `number` sends and must get back.
fn payload(number: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (index, chunk) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&(number + (index << 56)).to_be_bytes());
    }
    bytes
}
