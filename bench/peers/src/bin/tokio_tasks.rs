//! What tasks of tokio's current-thread runtime do among themselves: messages over channels, and joins.
//!
//! `tokio_tasks channel|workers|scope SECONDS`: between two tasks of one runtime, between two runtimes with a thread and a
//! processor each, or two tasks that are spawned and joined by a third.

use std::env;
use std::thread;

use anyhow::{Result, anyhow, bail, ensure};
use bench_peers::{BATCH, End, Trips, ends, stay_on};
use tokio::runtime::{Builder, Runtime};

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("channel") => {
            let (here, there) = ends();
            runtime()?.block_on(async {
                let answers = tokio::spawn(answer(there));
                tokio::spawn(ask(here)).await??;
                answers.await?
            })
        }
        Some("workers") => {
            let (here, there) = ends();
            let answers = thread::spawn(|| {
                stay_on(1)?;
                runtime()?.block_on(async { tokio::spawn(answer(there)).await? })
            });
            stay_on(0)?;
            runtime()?.block_on(async { tokio::spawn(ask(here)).await? })?;
            answers.join().map_err(|_| anyhow!("a panic"))?
        }
        Some("scope") => runtime()?.block_on(async { tokio::spawn(joins()).await? }),
        _ => bail!("the first argument is what is done: channel, workers or scope"),
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

async fn ask(here: End) -> Result<()> {
    let mut trips = Trips::start()?;
    loop {
        for number in 0..u64::from(BATCH) {
            here.to.send(number).await?;
            here.from.recv().await?;
        }
        if !trips.end_batch() {
            return trips.report();
        }
    }
}

/// Until the asking end is dropped.
async fn answer(there: End) -> Result<()> {
    while let Ok(number) = there.from.recv().await {
        there.to.send(number).await?;
    }
    Ok(())
}

async fn joins() -> Result<()> {
    let mut trips = Trips::start()?;
    loop {
        for number in 0..u64::from(BATCH) {
            let one = tokio::spawn(async move { number });
            let two = tokio::spawn(async move { number });
            ensure!((one.await?, two.await?) == (number, number));
        }
        if !trips.end_batch() {
            return trips.report();
        }
    }
}
