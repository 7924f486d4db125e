//! Servers with nothing to do: how often they wake up, what an idle connection takes, and what idle connections leave to
//! active ones.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::Load as Client;
use crate::measure::{Bench, CALM, PATIENCE, Row};
use crate::os;
use crate::scenarios::{Load, Metric, Subject};
use crate::server::Server;

const IDLE_TIME: Duration = Duration::from_secs(5);

/// How long a server is left alone before its silence, or its memory, counts.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// How long connecting, and the exchanges at the end, may take beside the time for which connections are held.
const HOLD_SLACK: f64 = 120.0;

/// Lets all servers sleep at the same time, and counts how often they wake up.
pub(crate) fn wake_ups(bench: &Bench<'_>, present: &mut [(&mut Row, &Subject)]) {
    let mut servers: Vec<_> = present
        .iter()
        .map(|(_, subject)| bench.start(subject))
        .collect();
    let count = |server: &Result<Server>| match server {
        Ok(server) => os::context_switches(server.pid()),
        Err(_) => Ok(0),
    };
    thread::sleep(SETTLE_TIME);
    let before: Vec<_> = servers.iter().map(count).collect();
    thread::sleep(IDLE_TIME);
    let after: Vec<_> = servers.iter().map(count).collect();
    let counts = before.into_iter().zip(after);
    for (((row, _), server), (before, after)) in
        present.iter_mut().zip(servers.drain(..)).zip(counts)
    {
        let woken = || -> Result<f64> {
            let server = server?;
            let woken = after?.saturating_sub(before?) as f64 / IDLE_TIME.as_secs_f64();
            server.stop()?;
            Ok(woken)
        };
        match woken() {
            Ok(woken) => row.figures.push((Metric::WakeUps, woken)),
            Err(err) => row.failure = Some(format!("{err:#}")),
        }
        bench.progress.done();
    }
}

/// What a server's memory grows by for each of `count` idle connections, or of as many as the subject is tried with.
pub(crate) fn memory(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    count: u32,
) -> Result<()> {
    memory_of(bench, row, subject, bench.start(subject)?, count)
}

/// The same of a server that runs.
pub(crate) fn memory_of(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    server: Server,
    count: u32,
) -> Result<()> {
    let count = count.min(subject.connections_max);
    thread::sleep(SETTLE_TIME);
    let before = Sizes::of(&server)?;
    let held = Held::open(bench, &server, count, 1, HOLD_SLACK)?;
    thread::sleep(SETTLE_TIME);
    let after = Sizes::of(&server)?;
    held.end()?;
    server.stop()?;
    row.figures.extend(after.grown(&before, count));
    Ok(())
}

/// A load on a server that holds nothing else, and on the same one while it holds idle connections.
pub(crate) fn beside(
    bench: &Bench<'_>,
    row: &mut Row,
    subject: &Subject,
    busy: Load,
    processes: u32,
) -> Result<()> {
    let (idle, seconds) = (bench.effort.idle, bench.effort.hold_seconds);
    let idle = idle.min(subject.connections_max);
    ensure!(idle >= processes, "fewer idle connections than processes");
    let server = bench.start(subject)?;
    let rate = || -> Result<_> {
        os::wait_for_calm(CALM, PATIENCE)?;
        let driven = bench.drive(&server, busy, seconds)?;
        let cpu = driven.cpu;
        Ok(driven.round(cpu))
    };
    let alone = rate().context("alone")?;
    thread::sleep(SETTLE_TIME);
    let before = Sizes::of(&server)?;
    let held = Held::open(bench, &server, idle, processes, seconds * 1.2 + HOLD_SLACK)?;
    thread::sleep(SETTLE_TIME);
    let after = Sizes::of(&server)?;
    let count = held.connections;
    let with_idle = rate().with_context(|| format!("beside {count} idle connections"))?;
    held.end()?;
    server.stop()?;
    let (rate, base) = (with_idle.throughput(), alone.throughput());
    row.notes.push(format!(
        "{rate:.0} per s beside {count} idle connections, {base:.0} without them"
    ));
    if alone.is_disturbed() {
        row.notes.push("disturbed while without them".to_owned());
    }
    row.figures.extend(after.grown(&before, count));
    row.figures.extend([
        (Metric::Idle, f64::from(count)),
        (Metric::Alone, base),
        (Metric::Beside, rate / base),
    ]);
    row.rounds.push(with_idle);
    Ok(())
}

/// The memory of a server and its workers.
struct Sizes {
    private: u64,
    resident: u64,
}

impl Sizes {
    fn of(server: &Server) -> Result<Self> {
        Ok(Self {
            private: os::private(server.pid())?,
            resident: os::resident(server.pid())?,
        })
    }

    /// By how much it has grown for each connection.
    fn grown(&self, before: &Self, connections: u32) -> [(Metric, f64); 2] {
        let each =
            |after: u64, before: u64| after.saturating_sub(before) as f64 / f64::from(connections);
        [
            (Metric::Memory, each(self.private, before.private)),
            (Metric::Resident, each(self.resident, before.resident)),
        ]
    }
}

/// Idle connections, each of which has made an exchange.
struct Held {
    clients: Vec<Client>,
    connections: u32,
}

impl Held {
    /// Opens connections from several processes at the same time, the same number from each.
    fn open(
        bench: &Bench<'_>,
        server: &Server,
        count: u32,
        processes: u32,
        at_most: f64,
    ) -> Result<Self> {
        let each = count / processes;
        let mut clients = Vec::new();
        for process in 0..processes {
            let mut command = bench.programs.load();
            command.args(["hold", &server.url]);
            command.args(["--in-flight", &each.to_string()]);
            command.args(["--first", &(process * each).to_string()]);
            command.args(["--at-most", &at_most.to_string()]);
            clients.push(Client::start(command)?);
        }
        for client in &mut clients {
            client.wait_until_ready().context("open idle connections")?;
        }
        Ok(Self {
            clients,
            connections: each * processes,
        })
    }

    /// Every connection must still answer.
    fn end(mut self) -> Result<()> {
        for client in &mut self.clients {
            client.ask_to_end();
        }
        for client in self.clients {
            client.end().context("end idle connections")?;
        }
        Ok(())
    }
}
