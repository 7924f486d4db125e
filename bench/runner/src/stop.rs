//! How long a server takes to end once it is asked to: with nothing to do, with idle connections, and with a request that
//! is being served and must still be answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::measure::{Bench, Row};
use crate::scenarios::{Metric, Stop, Subject};
use crate::server::Server;
use crate::verdict::Spread;

/// How often each server is stopped.
const TIMES: usize = 5;

/// How long a request has been served, or a connection been idle, when the signal comes.
const AHEAD: Duration = Duration::from_millis(50);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// 64 bytes that are a line for an echo server and a whole request for one of HTTP.
const REQUEST: &[u8; 64] =
    b"GET / HTTP/1.1\r\nHost: bench\r\nX-Padding: 0123456789abcdefghij\r\n\r\n";

/// One stop.
struct Stopped {
    /// From the signal to the end of the process.
    total: Duration,
    /// From when nothing was left to wait for.
    late: Duration,
}

pub(crate) fn measure(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    stop: Stop,
) -> Result<()> {
    let mut stops = Vec::new();
    for _ in 0..TIMES {
        let server = bench.start(subject)?;
        stops.push(match stop {
            Stop::Idle { connections } => idle(server, subject, connections)?,
            Stop::Busy => busy(server)?,
        });
    }
    let spread = |of: fn(&Stopped) -> Duration| {
        let millis = stops.iter().map(|stop| of(stop).as_secs_f64() * 1e3);
        Spread::of(millis).context("no stop")
    };
    let (total, late) = (spread(|stop| stop.total)?, spread(|stop| stop.late)?);
    row.figures.push((Metric::Stop, total.median));
    row.figures.push((Metric::StopWorst, late.max));
    row.notes.push(format!(
        "ends {:.1} ms after the signal, {:.1} ms ({:.1} to {:.1}) after it may",
        total.median, late.median, late.min, late.max
    ));
    Ok(())
}

/// A server that waits for idle connections may do so until its deadline.
fn idle(server: Server, subject: &Subject, connections: u32) -> Result<Stopped> {
    let count = connections.min(subject.connections_max);
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = connect(&server)?;
        exchange(&mut client).with_context(|| format!("connection {number}"))?;
        clients.push(client);
    }
    // A handler that has just answered would see the stop before it waits again.
    thread::sleep(AHEAD);
    let drain = if count > 0 {
        subject.drain
    } else {
        Duration::ZERO
    };
    let asked = Instant::now();
    server.ask_to_stop()?;
    let total = server.wait_for_end()? - asked;
    Ok(Stopped {
        total,
        late: total.saturating_sub(drain),
    })
}

/// The request that is being served must be answered, and nothing is left to wait for when it is.
fn busy(server: Server) -> Result<Stopped> {
    let mut client = connect(&server)?;
    client.write_all(REQUEST)?;
    thread::sleep(AHEAD);
    let asked = Instant::now();
    server.ask_to_stop()?;
    answer(&mut client).context("the request that was being served")?;
    let answered = Instant::now();
    ensure!(answered - asked > AHEAD, "answered too soon to tell");
    let ended = server.wait_for_end()?;
    Ok(Stopped {
        total: ended - asked,
        late: ended - answered,
    })
}

fn connect(server: &Server) -> Result<TcpStream> {
    let addr = server.url.strip_prefix("tcp://").context("no TCP server")?;
    let client = TcpStream::connect(addr)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

fn exchange(client: &mut TcpStream) -> Result<()> {
    client.write_all(REQUEST)?;
    answer(client)
}

/// The same bytes, or a page.
fn answer(client: &mut TcpStream) -> Result<()> {
    let mut buf = [0; 1024];
    // An answer of this size is not split on its way over loopback.
    let count = client.read(&mut buf).context("read an answer")?;
    ensure!(count > 0, "no answer, but the end of the connection");
    let answer = &buf[..count];
    ensure!(
        answer == REQUEST || answer.starts_with(b"HTTP/1.1 200 "),
        "no answer, but {:?}",
        String::from_utf8_lossy(answer)
    );
    Ok(())
}
