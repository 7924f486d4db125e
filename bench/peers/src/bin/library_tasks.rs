//! What the library's coroutines do among themselves: messages over channels, and scopes.
//!
//! `library_tasks channel|workers|scope SECONDS`: between two coroutines of one worker, between two workers with a processor
//! each, or scopes of two closures in a coroutine.
#![expect(
    unsafe_code,
    reason = "a caller of `Coroutines::new` promises something"
)]

use std::env;
use std::net::TcpStream;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use bench_peers::{BATCH, End, Trips, ends, stay_on};
use socketserver::net::TcpConnection;
use socketserver::{Coroutines, HandlerError, Server, Tcp, task};

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("channel") => in_coroutine(|| {
            let (here, there) = ends();
            task::scope(|scope| {
                let answers = scope.spawn(|| answer(there))?;
                ask(here)?;
                answers.join().map_err(|_| anyhow!("a panic"))?
            })
        }),
        Some("workers") => {
            let (here, there) = ends();
            let answers = std::thread::spawn(|| {
                in_coroutine(move || {
                    stay_on(1)?;
                    answer(there)
                })
            });
            in_coroutine(move || {
                stay_on(0)?;
                ask(here)
            })?;
            answers.join().map_err(|_| anyhow!("a panic"))?
        }
        Some("scope") => in_coroutine(scopes),
        _ => bail!("the first argument is what is done: channel, workers or scope"),
    }
}

/// Runs `work` in the handler of a connection, on a server of one worker.
fn in_coroutine(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let work = Mutex::new(Some(work));
    let (done, result) = async_channel::bounded(1);
    let handler = move |_: &mut TcpConnection| -> Result<(), HandlerError> {
        let work = work.lock().expect("no panic").take();
        let work = work.ok_or("a second connection")?;
        Ok(done.try_send(work())?)
    };
    // SAFETY: the handler leaves thread-locals alone.
    let model = unsafe { Coroutines::new() }.workers(1);
    let server = Server::<Tcp>::builder().model(model).bind("127.0.0.1:0")?;
    let addr = server.local_addrs()[0].socket_addr();
    let guard = server.spawn(handler)?;
    let client = TcpStream::connect(addr.context("a TCP address")?)?;
    result.recv_blocking()??;
    drop((client, guard));
    Ok(())
}

fn ask(here: End) -> Result<()> {
    let mut trips = Trips::start()?;
    loop {
        for number in 0..u64::from(BATCH) {
            task::block_on(here.to.send(number))??;
            task::block_on(here.from.recv())??;
        }
        if !trips.end_batch() {
            return trips.report();
        }
    }
}

/// Until the asking end is dropped.
fn answer(there: End) -> Result<()> {
    while let Ok(number) = task::block_on(there.from.recv())? {
        task::block_on(there.to.send(number))??;
    }
    Ok(())
}

fn scopes() -> Result<()> {
    let mut trips = Trips::start()?;
    loop {
        for number in 0..u64::from(BATCH) {
            let sum = task::scope(|scope| {
                let (one, two) = (scope.spawn(|| number)?, scope.spawn(|| number)?);
                Ok::<_, std::io::Error>(one.join().ok().zip(two.join().ok()))
            })?;
            anyhow::ensure!(sum == Some((number, number)), "a closure has been lost");
        }
        if !trips.end_batch() {
            return trips.report();
        }
    }
}
